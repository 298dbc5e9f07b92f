"""What must be true of every private run, each as one check that can fail.

`test_planted_bugs` runs every check on the code as it is, where it must hold, and with bugs
planted, where it must not.
"""

import math
import threading
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from workbench import corpora, privacy, training
from workbench.config import RunConfig
from workbench.runs.ledger import read
from workbench.training import replay, step
from workbench.training.plan import plan
from workbench.training.prepare import prepare
from workbench.training.step import Stepper

from .witness import clipped_sum, record_gradients, released, watch

NEARLY_SILENT = {"privacy.noise_multiplier": 0.011, "training.learning_rate": 1e-3}
BOUND = 0.5  # below the norms of the tiny model's records, so that clipping shows


def the_sum_is_the_definition(config: RunConfig, folder: Path) -> None:
    """The released gradient is the clipped sum over the expected batch size.

    Under noise of 0.011 C: five deviations in the mean over all coordinates are far below what one
    record not clipped, or another divisor, would do. Tied weights and rotary positions in one
    model, learnt positions in the other.
    """
    for source in ("tiny-llama", "tiny-gpt2"):
        changes = {**NEARLY_SILENT, "privacy.max_grad_norm": BOUND, "model.source": source}
        witness = watch(config.with_changes(changes), folder / source)
        for seen in witness.steps:
            expected = clipped_sum(witness, seen, BOUND)
            difference = released(seen) * config.training.expected_batch_size - expected
            noise = 0.011 * BOUND * math.sqrt(len(expected))
            assert float(difference.norm()) < 1.3 * noise + 1e-4 * float(expected.norm())


def the_noise_is_as_loud_as_claimed(config: RunConfig, folder: Path) -> None:
    """Of each step, C scheduled: Σ noise² / (σC)² is χ² with as many degrees as coordinates.

    An interval that holds for all but one run in 10⁶.
    """
    ramp = {"schedule.max_grad_norm": {"kind": "step", "end_factor": 0.25}}
    witness = watch(config.with_changes(ramp), folder / "run")
    for number, seen in enumerate(witness.steps):
        bound = witness.prepared.plan.at(number).max_grad_norm
        noise = released(seen) * config.training.expected_batch_size
        noise -= clipped_sum(witness, seen, bound)
        low, high = stats.chi2.interval(1 - 1e-6 / len(witness.steps), len(noise))
        assert low < float((noise / (0.8 * bound)).square().sum()) < high


def the_noise_is_fine_grained(config: RunConfig, folder: Path) -> None:
    """Numbers rounded to bf16 would survive a second rounding to it."""
    witness = watch(config, folder / "run")
    for seen in witness.steps:
        values = released(seen).float() * config.training.expected_batch_size
        assert float((values.bfloat16().float() == values).float().mean()) < 0.02


def each_step_draws_new_noise(config: RunConfig, folder: Path) -> None:
    """Noise of neighbouring steps is uncorrelated: five standard errors of n coordinates."""
    witness = watch(config, folder / "run")
    noises = [
        released(seen) * config.training.expected_batch_size - clipped_sum(witness, seen, 1.0)
        for seen in witness.steps
    ]
    for one, other in pairwise(noises):
        correlation = float(torch.corrcoef(torch.stack([one, other]))[0, 1])
        assert abs(correlation) < 5 / math.sqrt(len(one))


def batches_are_poisson(config: RunConfig, folder: Path) -> None:
    """Sizes vary as a binomial's do, and empty batches are steps: 60 steps of one in sixty.

    The variance of 60 sizes is known to a fifth; empty batches are 37 % of all.
    """
    rare = {"training.expected_batch_size": 1, "training.steps": 60, "training.evaluate_every": 60}
    witness = watch(config.with_changes(rare), folder / "run")
    sizes = np.array([len(seen.indices) for seen in witness.steps])
    assert len(sizes) == 60 == read(folder / "run" / "ledger.jsonl").steps
    assert 0.4 < sizes.var() < 2.0
    assert 10 < (sizes == 0).sum() < 35


def the_ledger_is_ahead_of_the_weights(config: RunConfig, folder: Path) -> None:
    """A step is on disk before it moves a weight, and no other is."""
    witness = watch(config, folder / "run")
    assert [seen.recorded for seen in witness.steps] == [1, 2, 3, 4]


def a_schedule_costs_what_it_uses(config: RunConfig, folder: Path) -> None:
    """ε is that of the σ and q which every single step used, composed one by one."""
    ramps = {
        "schedule.noise": {"kind": "linear", "end_factor": 0.5, "stages": 4},
        "schedule.batch": {"kind": "step", "end_factor": 2.0},
    }
    witness = watch(config.with_changes(ramps), folder / "run")
    assert witness.result is not None
    n, steps = len(witness.prepared.training), [witness.prepared.plan.at(i) for i in range(4)]
    history = [(s.gradient_noise_multiplier, s.expected_batch_size / n, 1) for s in steps]
    expected = privacy.compose(history, 1e-5, accountant="rdp")
    found = privacy.compose(witness.prepared.plan.history(), 1e-5, accountant="rdp")
    assert math.isclose(found, expected, rel_tol=1e-9)
    assert training.verify(folder / "run") == witness.result.guarantee
    assert [seen.recorded for seen in witness.steps] == [1, 2, 3, 4]


def a_resumed_run_remembers_what_it_spent(config: RunConfig, folder: Path) -> None:
    """Its ε is at least that of all its steps, recomputed from the ledger."""
    stop = threading.Event()
    training.train(
        config,
        run_dir=folder / "run",
        stop=stop,
        on_step=lambda report: stop.set() if report.step == 2 else None,
    )
    result = training.resume(folder / "run")
    ledger = read(folder / "run" / "ledger.jsonl")
    assert ledger.steps >= 4
    assert result.guarantee.epsilon >= privacy.compose(ledger.history, 1e-5)


def steps_taken_again_with_new_noise_are_paid_again(config: RunConfig, folder: Path) -> None:
    """Secure noise cannot be drawn again: a crash after step 3 costs step 3 twice."""
    secure = config.with_changes({"randomness": "secure"})
    stepped = Stepper.take

    def crashing(self: Stepper, number: int, ledger: Any) -> Any:
        outcome = stepped(self, number, ledger)
        if number == 2:
            raise RuntimeError("power cut")
        return outcome

    Stepper.take = crashing  # type: ignore[method-assign]
    try:
        training.train(secure, run_dir=folder / "run")
    except RuntimeError:
        pass
    finally:
        Stepper.take = stepped  # type: ignore[method-assign]
    result = training.resume(folder / "run")
    assert read(folder / "run" / "ledger.jsonl").steps == 5
    assert result.guarantee.epsilon >= privacy.epsilon(0.8, result.sample_rate, 5, 1e-5)


def secure_runs_share_no_chance(config: RunConfig, folder: Path) -> None:
    """Two of them draw different batches."""
    secure = config.with_changes({"randomness": "secure", "training.steps": 2})
    one, other = (watch(secure, folder / name) for name in "ab")
    pairs = zip(one.steps, other.steps, strict=True)
    assert not any(np.array_equal(a.indices, b.indices) for a, b in pairs)


def runs_that_differ_share_no_noise(config: RunConfig, folder: Path) -> None:
    """Two learning rates, one seed: the first gradients, from the same weights, are unrelated.

    Their noise is louder than their sum; five standard errors of n coordinates.
    """
    loud = config.with_changes({"privacy.noise_multiplier": 5.0, "training.steps": 1})
    runs = [
        watch(loud.with_changes({"training.learning_rate": rate}), folder / str(rate))
        for rate in (0.01, 0.02)
    ]
    one, other = (released(seen.steps[0]) for seen in runs)
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 5 / math.sqrt(len(one))


def runs_elsewhere_share_no_noise(config: RunConfig, folder: Path) -> None:
    """Two copies of a run that go on on another machine, and the run begun there anew.

    Their sums differ, if only in the last bits: the first noise of each is unrelated.
    """
    noises: list[torch.Tensor] = []
    draw = step.gaussian_noise

    def drawing(*args: Any, **kwargs: Any) -> Any:
        noise = draw(*args, **kwargs)
        noises.append(torch.cat([value.flatten() for value in noise.values()]))
        return noise

    def first_noise(session: Callable[[], object]) -> torch.Tensor:
        noises.clear()
        session()
        return noises[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "gaussian_noise", drawing)
        begun = first_noise(lambda: training.train(config, run_dir=folder / "here"))
        for after in (1, 2):
            stop = threading.Event()
            training.train(
                config,
                run_dir=folder / str(after),
                stop=stop,
                on_step=lambda report, stop=stop, after=after: (
                    stop.set() if report.step == after else None
                ),
            )
        patch.setattr(replay, "_processor", lambda: "another")
        firsts = [
            begun,
            *(first_noise(lambda n=n: training.resume(folder / n)) for n in ("1", "2")),
            first_noise(lambda: training.train(config, run_dir=folder / "there")),
        ]
    for one, other in combinations(firsts, 2):
        correlation = float(torch.corrcoef(torch.stack([one, other]))[0, 1])
        assert abs(correlation) < 5 / math.sqrt(len(one))


def no_record_is_in_two_parts(config: RunConfig, folder: Path) -> None:
    """Neither as a text nor, once encoded, among what the run trains on."""
    records = corpora.load(config.corpus, seed=config.seed)
    public, heldout, training_set = map(set, (records.public, records.heldout, records.training))
    assert not (public | heldout) & training_set
    assert not public & heldout
    prepared = prepare(config)
    trained = {tuple(row) for row in prepared.training.tokens.tolist()}
    assert not trained & {tuple(row) for row in prepared.heldout.tokens.tolist()}
    assert len(prepared.training) == len(records.training)


def the_tokenizer_saw_public_records_only(config: RunConfig, folder: Path) -> None:
    """Other private records leave it as it is."""
    source = folder / "lines.txt"
    words = [f"unheard{chr(97 + i % 26)} " * 3 + f"number {i}" for i in range(300)]
    source.write_text("\n".join(words), encoding="utf-8")
    config = config.with_changes({"corpus.source": str(source), "model.vocabulary": 500})
    public = corpora.load(config.corpus, seed=config.seed).public
    expected = corpora.train_tokenizer(public, config.model.vocabulary)
    assert prepare(config).tokenizer.get_vocab() == expected.get_vocab()


def the_count_is_paid_for(config: RunConfig, folder: Path) -> None:
    """Adaptive clipping: gradient and count together are one Gaussian release of σ."""
    adaptive = config.with_changes({"privacy.clipping": "adaptive"})
    terms = plan(adaptive, 1000).at(0)
    assert terms.count_noise_multiplier is not None
    together = (
        terms.gradient_noise_multiplier**-2 + (2 * terms.count_noise_multiplier) ** -2
    ) ** -0.5
    assert math.isclose(together, terms.noise_multiplier, rel_tol=1e-12)


def both_releases_of_an_adaptive_step_are_noisy(config: RunConfig, folder: Path) -> None:
    """σ⁻² = 0.8⁻² − (2·0.6)⁻² in the gradient, 0.6 in the count that C is seen to follow.

    Intervals that hold for all but one run in 10⁶.
    """
    changes = {
        "privacy.clipping": "adaptive",
        "privacy.count_noise_multiplier": 0.6,
        "training.steps": 12,
        "training.learning_rate": 1e-3,
    }
    witness = watch(config.with_changes(changes), folder / "run")
    assert witness.stepper is not None
    bounds = [bound for *_, bound in read(folder / "run" / "ledger.jsonl").every_step]
    expected, owed = config.training.expected_batch_size, (0.8**-2 - 1.2**-2) ** -0.5
    counts, coordinates = [], []
    assert witness.stepper.max_grad_norm is not None
    afterwards = [*bounds[1:], witness.stepper.max_grad_norm]
    for seen, bound, moved in zip(witness.steps, bounds, afterwards, strict=True):
        rows = record_gradients(witness, seen)
        noise = released(seen) * expected - clipped_sum(witness, seen, bound)
        coordinates.append(noise / (owed * bound))
        told = -math.log(moved / bound) / config.privacy.clip_learning_rate * expected
        counts.append((told - float((rows.norm(dim=1) <= bound).double().sub(0.5).sum())) / 0.6)
    for drawn in (torch.cat(coordinates), torch.tensor(counts)):
        low, high = stats.chi2.interval(1 - 1e-6, len(drawn))
        assert low < float(drawn.square().sum()) < high


def calibration_keeps_within_its_target(config: RunConfig, folder: Path) -> None:
    """By another accountant's lower opinion too: RDP is above PLD, so only PLD is asked."""
    target = {"privacy.noise_multiplier": None, "privacy.target_epsilon": 2.0}
    settled = plan(config.with_changes(target), 1000)
    assert privacy.compose(settled.history(), 1e-5) <= 2.0
