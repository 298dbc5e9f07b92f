"""The study as data: what its blocks hold, and by which rule they get their learning rates."""

import hashlib
import json
import math
from dataclasses import asdict
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import privacy
from workbench.errors import InputError
from workbench.scaling.study_blocks import BASE, BLOCKS, RATES, RECORDS, WIDTHS, StudyRun
from workbench.scaling.study_plans import planned_runs, register
from workbench.scaling.study_rates import Rates, best_rate

# As the pilot might have found them.
PILOT = {(WIDTHS[w], r): 0.01 for w, r in product((24, 96), (0.0, 2.0**-8, 2.0**-5))}
FOUND = Rates(PILOT, {24: 0.005, 48: 0.005, 96: 0.005})
NOTHING = Rates({}, {})


def runs(block: str) -> list[StudyRun]:
    return list(BLOCKS[block](FOUND))


@pytest.mark.parametrize(
    ("block", "count"),
    [
        ("D", 30),
        ("A", 72),
        ("F", 14),
        ("C1", 72),
        ("C2", 36),
        ("B", 36),
        ("B2", 18),
        ("E", 12),
        ("A2", 8),
    ],
)
def test_every_block_has_the_runs_that_were_planned_each_once(block: str, count: int) -> None:
    found = runs(block)
    assert len({run.id for run in found}) == len(found) == count
    for run in found:
        config = BASE.with_changes(run.changes())
        assert config.corpus.record == config.privacy.unit == "chunk"
        assert config.corpus.seed == 0
        assert config.privacy.private == (run.arm == "private")


def test_no_run_is_in_two_blocks() -> None:
    ids = [run.id for block in BLOCKS for run in runs(block)]
    assert len(set(ids)) == len(ids)


def test_the_pilot_is_what_was_measured() -> None:
    """Its rows bear these names: whoever changes a definition measures a block anew."""
    ids = "".join(run.id for run in BLOCKS["D"](NOTHING)) + "".join(
        run.id for run in BLOCKS["F"](NOTHING)
    )
    assert hashlib.sha256(ids.encode()).hexdigest()[:16] == "ffc5785073147666"


def test_zero_noise_clips_and_is_not_private() -> None:
    for run in runs("A"):
        terms = BASE.with_changes(run.changes()).privacy
        assert terms.clips
        assert terms.private == (run.noise_batch_ratio != 0)
    assert not any(BASE.with_changes(run.changes()).privacy.clips for run in runs("F"))


def test_ratios_are_those_of_the_runs() -> None:
    for run in (*runs("D"), *runs("B2")):
        terms = BASE.with_changes(run.changes()).privacy
        if run.arm == "private":
            assert terms.noise_multiplier == run.batch * (run.noise_batch_ratio or math.nan)


def test_arms_of_c1_differ_in_nothing_but_noise_clipping_and_rate() -> None:
    apart = {"arm", "learning_rate", "noise_batch_ratio", "target_epsilon", "seed"}
    cells = {
        json.dumps({name: v for name, v in asdict(run).items() if name not in apart})
        for run in runs("C1")
    }
    assert len(cells) == 6
    for seed in range(3):
        arms = [(r.arm, r.target_epsilon) for r in runs("C1") if (r.seed, r.subset) == (seed, 1.0)]
        assert arms == [("private", 2.0), ("private", 8.0), ("clipped", None), ("twin", None)]


def test_fixed_epsilon_asks_for_the_rate_of_its_own_ratio() -> None:
    steep = Rates({key: 0.01 * (1 + 8 * key[1]) for key in PILOT}, {48: 0.005})
    for run in BLOCKS["B"](steep):
        sample_rate = run.batch / (run.subset * RECORDS)
        sigma = privacy.noise_multiplier(run.target_epsilon or 0, sample_rate, 150, 1e-5)
        assert run.learning_rate == steep.clipped(WIDTHS[48], sigma / run.batch)


@pytest.mark.parametrize(("block", "before"), [("A", "D"), ("C1", "D"), ("B", "D"), ("E", "D")])
def test_a_block_says_which_one_has_to_come_before(block: str, before: str) -> None:
    with pytest.raises(InputError, match=f"run --block {before} first"):
        list(BLOCKS[block](NOTHING))
    with pytest.raises(InputError, match="run --block F first"):
        list(BLOCKS["C2"](Rates(PILOT, {})))


@settings(derandomize=True, max_examples=50)
@given(st.floats(0.003, 0.035), st.floats(0.01, 2.0), st.floats(1.0, 6.0))
def test_a_parabola_gives_its_lowest_point(rate: float, bend: float, floor: float) -> None:
    losses = [floor + bend * math.log(tried / rate) ** 2 for tried in RATES]
    lowest = losses.index(min(losses))
    found = best_rate(RATES, losses)
    if lowest in (0, len(RATES) - 1):
        assert found == RATES[lowest]
    else:
        assert found == pytest.approx(rate, rel=6e-3)  # three digits


def test_diverged_runs_are_never_the_best_and_bend_nothing() -> None:
    assert best_rate([0.01, 0.02, 0.04], [3.0, 2.9, math.inf]) == 0.02
    assert best_rate([0.01, 0.02], [math.inf, 3.0]) == 0.02


@settings(derandomize=True, max_examples=50)
@given(
    st.floats(1e4, 1e7),
    st.floats(0.0, 1.0),
    st.lists(st.floats(2e-3, 5e-2), min_size=6, max_size=6),
)
def test_rates_stay_near_those_tried(n_params: float, ratio: float, found: list[float]) -> None:
    rates = Rates(dict(zip(PILOT, found, strict=True)), {}, lowest=RATES[0], highest=RATES[-1])
    chosen = rates.clipped(int(n_params), ratio)
    assert 0.5 * RATES[0] * 0.99 <= chosen <= 2 * RATES[-1] * 1.01
    for (size, at), rate in rates.pilot.items():
        assert rates.clipped(size, at) == pytest.approx(rate, rel=6e-3)


def test_planned_runs_stand_as_they_were_predicted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="register some"):
        planned_runs(tmp_path)
    run, predicted = runs("A")[0], {"predicted_loss": 4.0, "low": 3.9, "high": 4.1}
    with pytest.raises(InputError, match=r"predicted_loss is 4 .* low = 4\.1"):
        register(tmp_path, [(run, {**predicted, "low": 4.1})], predicted_from="chinchilla, A")
    path = register(tmp_path, [(run, predicted)], predicted_from="chinchilla, A")
    (planned,) = planned_runs(tmp_path)
    assert planned.block == "G"
    assert planned.changes() == run.changes()
    content = json.loads(path.read_text(encoding="utf-8"))
    content["runs"][0]["predicted_loss"] = 4.05
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match="was changed after it was registered"):
        planned_runs(tmp_path)
    register(tmp_path, [(run, predicted)], predicted_from="chinchilla, A")
    (tmp_path / "G.csv").touch()
    with pytest.raises(InputError, match="a prediction stands"):
        register(tmp_path, [(run, predicted)], predicted_from="chinchilla, A")
