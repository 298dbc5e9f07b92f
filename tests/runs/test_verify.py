"""What `verify` vouches for: a real run, of which one thing after another is changed.

Who can write everything can forge everything; each change here leaves one witness as it was.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from workbench import privacy, training
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.runs import ledger
from workbench.runs.folder import checkpoints, read_run
from workbench.runs.verify import verify

from .made import lines, rewrite


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps on the tiny corpus."""
    path = tmp_path_factory.mktemp("verify") / "run"
    config = RunConfig.parse(
        {
            "corpus": {
                "source": str(corpus),
                "record": "line",
                "min_words": 1,
                "record_tokens": 12,
                "public_fraction": 0.2,
                "heldout_fraction": 0.2,
            },
            "model": {"width": 8, "layers": 1, "heads": 2, "vocabulary": 270},
            # All records in every step: Rényi accounting is then a closed form, and quick.
            "training": {"expected_batch_size": 61, "steps": 4, "evaluate_every": 4},
            "privacy": {"accountant": "rdp"},
            "runtime": {"device": "cpu", "threads": 1},
        }
    )
    training.train(config, run_dir=path)
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def summary_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text("utf-8"))


def put_summary(run: Path, **changes: Any) -> None:
    (run / "summary.json").write_text(json.dumps({**summary_of(run), **changes}), "utf-8")


def put_ledger(run: Path, contents: list[dict[str, Any]], **changes: Any) -> None:
    """A ledger whose own hashes fit, with a summary that names its end and states no ε."""
    head = rewrite(run / "ledger.jsonl", contents)
    put_summary(run, **{"ledger_head": head, "guarantee": None, **changes})


def test_it_is_the_epsilon_of_the_ledgers_lines(run: Path) -> None:
    steps = [line for line in lines(run / "ledger.jsonl") if "step" in line]
    history = [(line["noise_multiplier"], line["sample_rate"], 1) for line in steps]
    guarantee = verify(run)
    assert len(steps) == 4
    assert guarantee.epsilon == privacy.compose(history, 1e-5, accountant="rdp")
    assert guarantee.as_dict() == summary_of(run)["guarantee"]
    assert (guarantee.delta, guarantee.accountant, guarantee.unit) == (1e-5, "rdp", "record")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epsilon", 0.5),
        ("epsilon", None),
        ("epsilon", "small"),
        ("delta", 1e-6),
        ("accountant", "pld"),
        ("sampling", "shuffle"),
        ("neighbouring_relation", "replace_one"),
        ("unit", "user"),
        ("more", 1),
    ],
)
def test_every_word_of_the_stated_guarantee_is_held_against_it(
    run: Path, name: str, value: object
) -> None:
    put_summary(run, guarantee={**summary_of(run)["guarantee"], name: value})
    with pytest.raises(InputError, match="states another guarantee"):
        verify(run)


@pytest.mark.parametrize("name", ["epsilon", "delta", "unit"])
def test_a_guarantee_that_leaves_a_word_out_is_another(run: Path, name: str) -> None:
    stated = summary_of(run)["guarantee"]
    del stated[name]
    put_summary(run, guarantee=stated)
    with pytest.raises(InputError, match="states another guarantee"):
        verify(run)


def test_another_version_may_differ_in_the_fifth_digit_and_no_more(run: Path) -> None:
    stated = summary_of(run)["guarantee"]
    for factor in (1 - 9e-5, 1 + 9e-5):
        put_summary(run, guarantee={**stated, "epsilon": stated["epsilon"] * factor})
        assert verify(run).epsilon == stated["epsilon"]
    for factor in (1 - 2e-4, 1 + 2e-4):
        put_summary(run, guarantee={**stated, "epsilon": stated["epsilon"] * factor})
        with pytest.raises(InputError, match="states another guarantee"):
            verify(run)


def test_another_end_than_the_summary_names_is_refused(run: Path) -> None:
    put_summary(run, ledger_head="f" * 64)
    with pytest.raises(InputError, match="does not end where"):
        verify(run)


@pytest.mark.parametrize("kept", [1, 2, 4])
def test_a_ledger_made_anew_with_fewer_steps_does_not_fit_the_weights(run: Path, kept: int) -> None:
    put_ledger(run, lines(run / "ledger.jsonl")[:kept])
    with pytest.raises(InputError, match="does not belong to the ledger beside it"):
        verify(run)


def test_a_ledger_made_anew_with_more_noise_does_not_fit_the_weights(run: Path) -> None:
    louder = [
        {**line, "noise_multiplier": 50.0} if "step" in line else line
        for line in lines(run / "ledger.jsonl")
    ]
    put_ledger(run, louder)
    with pytest.raises(InputError, match="does not belong to the ledger beside it"):
        verify(run)


def test_weights_with_one_other_byte_are_not_those_that_were_saved(run: Path) -> None:
    (saved,) = checkpoints(run / "checkpoints")
    (weights,) = saved.glob("model*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match="is not what was saved there"):
        verify(run)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"position": {}}', '{"position": 3}', "\udcff"])
def test_a_checkpoint_that_says_nothing_is_refused(run: Path, text: str) -> None:
    (saved,) = checkpoints(run / "checkpoints")
    (saved / "state.json").write_text(text, "utf-8", errors="surrogateescape")
    with pytest.raises(InputError, match="is damaged"):
        verify(run)


def test_the_newest_checkpoint_is_the_one_that_counts(run: Path) -> None:
    (saved,) = checkpoints(run / "checkpoints")
    for name in ("step-000000", "step-2", "notes", "step-x"):
        (saved.parent / name).mkdir()
    assert read_run(run).checkpoint == saved
    assert verify(run).as_dict() == summary_of(run)["guarantee"]
    (saved.parent / "step-1000000").mkdir()
    with pytest.raises(InputError, match=r"step-1000000 is damaged"):
        verify(run)


def test_without_weights_the_ledger_speaks_for_itself(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    assert verify(run).as_dict() == summary_of(run)["guarantee"]
    assert read_run(run).checkpoint is None


def test_steps_without_noise_have_no_epsilon(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    contents = lines(run / "ledger.jsonl")
    last = max(place for place, line in enumerate(contents) if "step" in line)
    contents[last]["noise_multiplier"] = 0.0
    put_ledger(run, contents)
    assert math.isinf(verify(run).epsilon)


def test_terms_are_those_of_the_ledger_and_known_by_name(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    first, steps = terms_and_steps(run)
    put_ledger(run, [{"terms": {**first["terms"], "delta": 1e-3}}, *steps])
    history = [(line["noise_multiplier"], line["sample_rate"], 1) for line in steps]
    assert verify(run).epsilon == privacy.compose(history, 1e-3, accountant="rdp")
    fewer = {name: value for name, value in first["terms"].items() if name != "delta"}
    for terms in (fewer, {**first["terms"], "bounded_by": 3}):
        put_ledger(run, [{"terms": terms}, *steps])
        with pytest.raises(InputError, match="words this version does not know"):
            verify(run)


def terms_and_steps(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The first line of a ledger, and its steps alone."""
    first, *others = lines(run / "ledger.jsonl")
    return first, [line for line in others if "step" in line]


def test_terms_are_stated_once_and_first(run: Path) -> None:
    first, *steps = lines(run / "ledger.jsonl")
    put_ledger(run, steps)
    with pytest.raises(InputError, match="no first line with its terms"):
        ledger.read(run / "ledger.jsonl")
    put_ledger(run, [first, steps[0], {"terms": {**first["terms"], "delta": 0.1}}, *steps[1:]])
    with pytest.raises(InputError, match="Line 3"):
        ledger.read(run / "ledger.jsonl")


def test_sessions_with_new_noise_are_told_from_others(run: Path) -> None:
    first, steps = terms_and_steps(run)
    went_on = [
        first,
        {"resumed_at": 0, "same_noise": False},
        steps[0],
        steps[1],
        {"resumed_at": 2, "same_noise": True},
        steps[2],
        {"resumed_at": 2, "same_noise": False},
        steps[3],
        {"resumed_at": 4},
    ]
    put_ledger(run, went_on)
    record = ledger.read(run / "ledger.jsonl")
    assert record.steps == 4
    assert record.resumed_at == (0, 2, 2, 4)
    assert record.renewed_at == (0, 3, 4)
    assert len(record.heads) == len(went_on)
    assert record.first(3)[0][2] == 3
    assert sum(count for _, _, count in record.history) == 4
