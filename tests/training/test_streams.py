"""Any two releases that can exist have independent streams, or are one release to the last bit.

Every step of every kind of run, continuation, copy and calibration is seen as it is made: where
its generators stood, the weights it saw, and what it released. Two of them may have begun with the
same state of a generator only if all else is the same, too.
"""

import hashlib
import itertools
import platform
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from workbench import training
from workbench.config import RunConfig
from workbench.runs.ledger import read
from workbench.training import calibrate, randomness, replay, start, step
from workbench.training import run as run_module
from workbench.training.prepare import Prepared, prepare
from workbench.training.randomness import Randomness

Change = dict[str, Any]


@dataclass(frozen=True)
class Release:
    """One step, or one noisy count: the states it drew from, what it saw, what it let out."""

    batch_state: str
    noise_state: str
    saw: str
    released: str


class Releases(list[Release]):
    """All of a test; ``noises`` are the steps' own, for correlations."""

    def __init__(self) -> None:
        self.noises: list[torch.Tensor] = []

    def are_independent_or_the_same(self) -> bool:
        return all(
            one == other
            for one, other in combinations(self, 2)
            if one.batch_state == other.batch_state or one.noise_state == other.noise_state
        )


def _hash(*values: Any) -> str:
    digest = hashlib.sha256()
    for value in values:
        tensor = value.detach() if isinstance(value, torch.Tensor) else None
        digest.update(repr(value).encode() if tensor is None else tensor.numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Releases:
    releases, now = Releases(), {"batch": "", "noise": ""}
    noise, move = step.gaussian_noise, step.take_step

    def watch_batches(module: Any) -> None:
        draw = module.poisson_batch

        def drawing(*args: Any, generator: np.random.Generator, **more: Any) -> np.ndarray:
            now["batch"] = _hash(generator.bit_generator.state)
            return draw(*args, generator=generator, **more)

        monkeypatch.setattr(module, "poisson_batch", drawing)

    def noising(*args: Any, generator: torch.Generator, **more: Any) -> Any:
        now["noise"] = _hash(generator.get_state())
        drawn = noise(*args, generator=generator, **more)
        releases.noises.append(torch.cat([value.flatten() for value in drawn.values()]))
        return drawn

    def moving(model: Any, chosen: Any, gradients: Any, **more: Any) -> None:
        weights, released = _hash(*model.parameters()), _hash(*gradients.values())
        releases.append(Release(now["batch"], now["noise"], weights, released))
        move(model, chosen, gradients, **more)

    def watch_counts(module: Any) -> None:
        count = module.noisy_share_below

        def counting(below: int, *args: Any, generator: torch.Generator, **more: Any) -> float:
            state, batch = _hash(generator.get_state()), f"count {now['batch']}"
            share = count(below, *args, generator=generator, **more)
            releases.append(Release(batch, state, str(below), repr(share)))
            return share

        monkeypatch.setattr(module, "noisy_share_below", counting)

    for module in (step, calibrate):
        watch_batches(module)
        watch_counts(module)
    monkeypatch.setattr(step, "gaussian_noise", noising)
    monkeypatch.setattr(step, "take_step", moving)
    return releases


@pytest.fixture
def long(config: RunConfig) -> RunConfig:
    """Six steps, saved after each, and an accountant that answers at once."""
    changes = {"training.steps": 6, "training.evaluate_every": 1, "privacy.accountant": "rdp"}
    return config.with_changes(changes)


def _stopped(config: RunConfig, path: Path, after: int) -> Path:
    stop = threading.Event()

    def on_step(report: training.StepReport) -> None:
        if report.step == after:
            stop.set()

    training.train(config, run_dir=path, stop=stop, on_step=on_step)
    return path


def _copy(run: Path, name: str) -> Path:
    return Path(shutil.copytree(run, run.with_name(name)))


def _edit(run: Path, changes: Change) -> None:
    config = training.read_run(run).config.with_changes(changes)
    (run / "config.yaml").write_text(config.to_yaml(), "utf-8")


@pytest.fixture
def ready(config: RunConfig) -> Prepared:
    return prepare(config)


# Where a run may be started or gone on with, as a patch that lasts for one session.
def _more_threads(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch, "get_num_threads", lambda: 7)
    patch.setattr(run_module, "_threads", lambda _: nullcontext())  # else there would be seven


def _another_host(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(platform, "node", lambda: "elsewhere")


def _another_processor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(replay, "_processor", lambda: "model: 7")


def _other_instructions(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "NONE")


def _other_versions(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(replay, "version", lambda name: f"{name} 99")


def _another_python(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(platform, "python_version", lambda: "3.99")


def _an_edited_package(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(replay, "own_source", lambda: "edited")


def _other_settings_of_a_library(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("MKL_CBWR", "COMPATIBLE")


def _another_precision(patch: pytest.MonkeyPatch) -> None:
    narrow = SimpleNamespace(enabled=True, matmul=SimpleNamespace(fp32_precision="bf16"))
    patch.setattr(torch.backends, "mkldnn", narrow)


def _less_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(replay, "physical_batch_size", lambda *_: 3)


def _a_gpu(patch: pytest.MonkeyPatch) -> None:
    """Which repeats nothing; the arithmetic stays here."""
    patch.setattr(start, "fingerprint", lambda *_: None)
    patch.setattr(calibrate, "fingerprint", lambda *_: None)


def _two_processes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(start.World, "joint", lambda _, value: f"{value} {value}")


SURROUNDINGS = [
    _more_threads,
    _another_host,
    _another_processor,
    _other_instructions,
    _other_versions,
    _another_python,
    _an_edited_package,
    _other_settings_of_a_library,
    _another_precision,
    _less_memory,
]
elsewhere = pytest.mark.parametrize("there", [_more_threads, _a_gpu, _two_processes])


@contextmanager
def _there(move: Callable[[pytest.MonkeyPatch], None]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        move(patch)
        yield


@pytest.mark.parametrize("there", SURROUNDINGS)
def test_whatever_may_move_a_last_bit_is_in_the_fingerprint(
    config: RunConfig, ready: Prepared, there: Any
) -> None:
    here = replay.fingerprint(config, ready)
    assert here == replay.fingerprint(config, ready)
    with _there(there):
        assert replay.fingerprint(config, ready) not in (here, None)
    assert replay.fingerprint(config, ready) == here


@elsewhere
def test_copies_that_go_on_elsewhere_share_nothing(
    long: RunConfig, tmp_path: Path, seen: Releases, there: Any
) -> None:
    """Two copies from other steps, one of them twice, and a run begun there.

    Their sums differ in the last bits, and after some steps in more.
    """
    early, late = (_stopped(long, tmp_path / str(n), after=n) for n in (2, 4))
    again = _copy(early, "again")
    assert len(seen) == 6
    with _there(there):
        for run in (early, late, again):
            training.resume(run)
        training.train(long, run_dir=tmp_path / "new")
    assert len(seen) == 6 + 4 + 2 + 4 + 6
    assert len({release.noise_state for release in seen}) == 4 + 4 + 2 + 4 + 6
    assert seen.are_independent_or_the_same()
    first = [seen.noises[n] for n in (6, 10, 12, 16)]
    # Independent noises of n numbers correlate by 1/√n; five of them.
    bound = 5 / len(first[0]) ** 0.5
    assert all(abs(np.corrcoef(a, b)[0, 1]) < bound for a, b in combinations(first, 2))


@pytest.mark.parametrize("there", [_more_threads, _a_gpu])
def test_the_same_calibration_elsewhere_is_another_release(
    config: RunConfig, seen: Releases, there: Any
) -> None:
    training.calibrated_norm(config, source="noisy_counts")
    training.calibrated_norm(config, source="noisy_counts")
    assert len(seen) == 80
    assert len(set(seen)) == 40  # here it is the same twice
    with _there(there):
        training.calibrated_norm(config, source="noisy_counts")
    assert seen.are_independent_or_the_same()
    assert len({release.noise_state for release in seen}) == 80


def test_the_same_run_twice_on_one_machine_is_one_release(
    long: RunConfig, tmp_path: Path, seen: Releases
) -> None:
    """As a panel and a terminal may start it; a copy that goes on here, too."""
    training.train(long, run_dir=tmp_path / "panel")
    run = _stopped(long, tmp_path / "terminal", after=3)
    copy = _copy(run, "copy")
    for each in (run, copy):
        training.resume(each)
    assert len(seen) == 6 + 3 + 3 + 3
    assert len(set(seen)) == 6


VARIANTS: dict[str, Change] = {
    "rate": {"training.learning_rate": 0.01},
    "seed": {"seed": 1},
    "noise": {"privacy.noise_multiplier": 0.9},
    "longer": {"training.steps": 7},
    "physical batch": {"runtime.physical_batch_size": 5},
    "engine": {"runtime.engine": "hooks"},
    "secure": {"randomness": "secure"},
    "adaptive": {"privacy.clipping": "adaptive"},
    "adaptive, another quantile": {"privacy.clipping": "adaptive", "privacy.clip_quantile": 0.4},
    "the twin without privacy": {"privacy.private": False},
    "shorter records": {"corpus.record_tokens": 11},
}


def test_cells_twins_and_calibrations_share_nothing(
    config: RunConfig, tmp_path: Path, seen: Releases
) -> None:
    """Every configuration from the same seed, all in one pool, and each one's calibrations."""
    config = config.with_changes({"privacy.accountant": "rdp"})
    runs = {"plain": {}, **VARIANTS}
    for name, changes in runs.items():
        training.train(config.with_changes(changes), run_dir=tmp_path / name)
    for changes in ({}, VARIANTS["rate"]):
        for quantile in (0.5, 0.75):
            training.calibrated_norm(
                config.with_changes(changes), quantile=quantile, source="noisy_counts"
            )
    assert len(seen) == sum(7 if name == "longer" else 4 for name in runs) + 2 * 4 + 4 * 40
    states = [release.noise_state for release in seen]
    assert len(set(states)) == len(states)
    assert len({release.batch_state for release in seen}) == len(states)


@pytest.mark.parametrize("edit", ["rate", "engine"])
def test_an_edited_run_goes_on_with_noise_of_its_own(
    long: RunConfig,
    tmp_path: Path,
    seen: Releases,
    edit: str,
) -> None:
    """And put back as it was, it does not return."""
    run = _stopped(long, tmp_path / "run", after=2)
    copy = _copy(run, "copy")
    _edit(copy, VARIANTS[edit])
    for each in (run, copy):
        training.resume(each)
    put_back = _stopped(long, tmp_path / "back", after=2)
    _edit(put_back, VARIANTS[edit])
    stop = threading.Event()
    training.resume(put_back, stop=stop, on_step=lambda r: stop.set() if r.step == 3 else None)
    _edit(put_back, {**long.model_dump(), "corpus": long.corpus.model_dump()})
    training.resume(put_back)
    assert seen.are_independent_or_the_same()


def test_a_run_resumed_before_it_drew_is_as_if_new(
    long: RunConfig, tmp_path: Path, seen: Releases
) -> None:
    stop = threading.Event()
    stop.set()
    training.train(long, run_dir=tmp_path / "run", stop=stop)
    copy = _copy(tmp_path / "run", "copy")
    training.resume(tmp_path / "run")
    with _there(_more_threads):
        training.resume(copy)
    training.train(long, run_dir=tmp_path / "whole")
    assert seen.are_independent_or_the_same()
    assert len(set(seen)) == 12


@pytest.mark.parametrize("changes", [{}, {"randomness": "secure"}], ids=["seeded", "secure"])
def test_a_checkpoint_put_back_from_an_older_step(
    long: RunConfig, tmp_path: Path, seen: Releases, changes: Change
) -> None:
    """Kept aside at step 2; the run goes on elsewhere to step 4; then the old one is put back."""
    run = _stopped(long.with_changes(changes), tmp_path / "run", after=2)
    kept = shutil.copytree(run / "checkpoints", tmp_path / "kept")
    stop = threading.Event()
    with _there(_more_threads):
        training.resume(run, stop=stop, on_step=lambda r: stop.set() if r.step == 4 else None)
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(kept, run / "checkpoints")
    result = training.resume(run)
    assert seen.are_independent_or_the_same()
    assert result.steps == 6
    assert read(run / "ledger.jsonl").steps == 8 == len({r.noise_state for r in seen})
    assert training.verify(run) == result.guarantee


def test_a_run_that_went_on_elsewhere_repeats_there_and_pays_here(
    long: RunConfig, tmp_path: Path, seen: Releases
) -> None:
    """Renewed at step 2; saved at 3; the steps after that are lost."""
    run = _stopped(long, tmp_path / "run", after=2)
    with _there(_more_threads):
        stop = threading.Event()
        training.resume(run, stop=stop, on_step=lambda r: stop.set() if r.step == 3 else None)
        kept = shutil.copytree(run, tmp_path / "kept")
        training.resume(run)  # the steps that a crash would have lost
        ledger = (run / "ledger.jsonl").read_bytes()
        summary = (run / "summary.json").read_bytes()
        for name in ("there", "here"):
            lost = Path(shutil.copytree(kept, tmp_path / name))
            (lost / "ledger.jsonl").write_bytes(ledger)
            (lost / "summary.json").write_bytes(summary)
        training.resume(tmp_path / "there")
    assert read(tmp_path / "there" / "ledger.jsonl").steps == 6
    assert seen.are_independent_or_the_same()
    before = len(set(seen))
    training.resume(tmp_path / "here")
    assert read(tmp_path / "here" / "ledger.jsonl").steps == 9
    assert seen.are_independent_or_the_same()
    assert len(set(seen)) == before + 3


def test_a_checkpoint_without_its_generators_repeats_nothing(
    long: RunConfig, tmp_path: Path, seen: Releases
) -> None:
    """From their beginning they would draw the first step's noise at the third one's weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Randomness, "state", lambda _: None)
        run = _stopped(long, tmp_path / "run", after=2)
    training.resume(run)
    assert len({release.noise_state for release in seen}) == 6 == len(seen)


class _Drawing(torch.nn.Module):
    """Adds nothing, but draws from the generator that everybody uses."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + 0 * torch.rand(())


def test_a_model_that_draws_chance_of_its_own_is_never_one_release(
    long: RunConfig, tmp_path: Path, seen: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with layers left out at random: two sums under the same noise would differ."""
    fresh = start.Start.fresh

    def with_chance(config: RunConfig, ready: Any, world: Any) -> start.Start:
        ready.model.model.norm = torch.nn.Sequential(ready.model.model.norm, _Drawing())
        return fresh(config, ready, world)

    monkeypatch.setattr(start.Start, "fresh", with_chance)
    for name in "ab":
        training.train(long.with_changes({"training.steps": 2}), run_dir=tmp_path / name)
    assert len({release.noise_state for release in seen}) == 4


def test_what_other_threads_draw_is_not_the_models(
    long: RunConfig, tmp_path: Path, seen: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook's server and a cluster's worker draw from the same generators at any moment."""
    summed, calls = step.batch_gradient_sum, itertools.count()

    def beside_others(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 0:
            random.random()
        return summed(*args, **kwargs)

    monkeypatch.setattr(step, "batch_gradient_sum", beside_others)
    for name in "ab":
        training.train(long.with_changes({"training.steps": 2}), run_dir=tmp_path / name)
    assert len({release.noise_state for release in seen}) == 2


def test_a_prepared_run_draws_anew_until_its_fingerprint_is_known(config: RunConfig) -> None:
    one, other = (prepare(config).randomness for _ in range(2))
    assert one.root == other.root
    assert one.sampling.random() != other.sampling.random()
    assert not torch.equal(one.noise.get_state(), other.noise.get_state())


def test_other_layers_around_the_same_numbers_have_another_fingerprint(
    config: RunConfig, ready: Prepared
) -> None:
    """A model folder keeps its weights while somebody edits its activation, or a buffer."""
    one = replay.fingerprint(config, ready)
    ready.model.config.rope_parameters = {"rope_type": "default", "rope_theta": 77.0}
    two = replay.fingerprint(config, ready)
    ready.model.model.register_buffer("scale", torch.ones(()))
    three = replay.fingerprint(config, ready)
    next(ready.model.parameters()).requires_grad_(False)
    assert len({one, two, three, replay.fingerprint(config, ready)}) == 4


def test_coins_of_canaries_are_a_stream_of_their_own(
    config: RunConfig, tmp_path: Path, seen: Releases
) -> None:
    """Fair, independent between seeds, the same for twins, and without effect on noise drawn."""
    many = config.with_changes({"canaries.count": 4000, "privacy.accountant": "rdp"})
    coins = [
        randomness.coins(many.with_changes(changes))
        for changes in ({}, {"seed": 1}, {"canaries.seed": 1}, {"seed": 1, "canaries.seed": 1})
    ]
    bound = 5 / 4000**0.5  # five deviations of a correlation, or of twice a share
    assert all(abs(2 * one.mean() - 1) < bound for one in coins)
    assert all(abs(np.corrcoef(a, b)[0, 1]) < bound for a, b in combinations(coins, 2))
    for twin in ({"privacy.private": False}, {"privacy.noise_multiplier": 2.0}, {}):
        assert (randomness.coins(many.with_changes(twin)) == coins[0]).all()
    choice = randomness.canary_choice(many).integers(2, size=4000)
    assert abs(np.corrcoef(choice, coins[0])[0, 1]) < bound
    secure = [randomness.coins(many.with_changes({"randomness": "secure"})) for _ in range(2)]
    assert abs(np.corrcoef(secure[0], secure[1])[0, 1]) < bound

    few = config.with_changes({"canaries.count": 6, "privacy.accountant": "rdp"})
    for number, changes in enumerate(({}, {"canaries.seed": 1}, {"canaries.repeats": 2})):
        training.train(few.with_changes(changes), run_dir=tmp_path / str(number))
    assert len({release.noise_state for release in seen}) == len(seen) == 12
