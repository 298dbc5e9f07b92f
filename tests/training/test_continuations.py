"""A run that goes on elsewhere draws anew each time, and every step that may have been seen counts.

Told from outside, by the batches, the noise and the ledger. The run has four steps and is saved
after the second; a session is cut off between the ledger and the weights.
"""

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from workbench import corpora, training
from workbench.config import RunConfig
from workbench.corpora import Records
from workbench.errors import InputError
from workbench.runs.ledger import read
from workbench.training import step


@dataclass
class Sessions:
    """Runs sessions at ``path`` and keeps the noise of each one's steps, flat."""

    path: Path
    noises: list[list[torch.Tensor]] = field(default_factory=list)

    def cut_off(self, session: Callable[[], object], *, at: int) -> None:
        """Until ``at`` steps were taken: the next is in the ledger and never moves a weight."""
        move, left = step.take_step, iter(range(at, -1, -1))

        def moving(*args: Any, **kwargs: Any) -> None:
            if next(left) == 0:
                raise RuntimeError("power cut")
            move(*args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step, "take_step", moving)
            with pytest.raises(RuntimeError, match="power cut"):
                self.watched(session)

    def watched(self, session: Callable[[], object]) -> None:
        make, noises = step.gaussian_noise, []
        self.noises.append(noises)

        def making(*args: Any, **kwargs: Any) -> Any:
            noise = make(*args, **kwargs)
            noises.append(torch.cat([value.flatten() for value in noise.values()]).double())
            return noise

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step, "gaussian_noise", making)
            session()

    def resume(self) -> object:
        return training.resume(self.path)

    @property
    def recorded(self) -> int:
        return read(self.path / "ledger.jsonl").steps


@pytest.fixture
def sessions(config: RunConfig, tmp_path: Path) -> Iterator[Sessions]:
    """A run that was saved after two of four steps and cut off in its third."""
    config = config.with_changes({"runtime.threads": None})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sessions = Sessions(tmp_path / "run")
    sessions.cut_off(lambda: training.train(config, run_dir=sessions.path), at=2)
    yield sessions
    torch.set_num_threads(threads)


def elsewhere(patch: pytest.MonkeyPatch, name: str = "elsewhere") -> None:
    patch.setattr(platform, "node", lambda: name)


def unrelated(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Five standard errors of as many coordinates."""
    return abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 5 / len(one) ** 0.5


def test_at_home_the_lost_step_is_the_same_release(sessions: Sessions) -> None:
    sessions.watched(sessions.resume)
    assert sessions.recorded == 4
    assert torch.equal(sessions.noises[0][2], sessions.noises[1][0])


def test_every_session_with_new_noise_has_noise_of_its_own(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of them from one checkpoint: their first steps stand at the same weights."""
    for name in "abc":
        elsewhere(monkeypatch, name)
        sessions.cut_off(sessions.resume, at=0)
    firsts = [sessions.noises[0][2], *(noises[0] for noises in sessions.noises[1:])]
    for number, one in enumerate(firsts):
        assert all(unrelated(one, other) for other in firsts[:number])
    assert sessions.recorded == 6


def test_back_home_the_steps_of_a_session_elsewhere_are_not_repeated(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were drawn anew from the very step that was saved, so the ledger's are not at hand."""
    with monkeypatch.context() as patch:
        elsewhere(patch)
        sessions.cut_off(sessions.resume, at=1)
    assert sessions.recorded == 5  # 1, 2, 3 at home; 3, 4 elsewhere
    sessions.watched(sessions.resume)
    assert sessions.recorded == 7
    assert unrelated(sessions.noises[0][2], sessions.noises[2][0])
    assert unrelated(sessions.noises[1][0], sessions.noises[2][0])


def test_a_session_elsewhere_from_a_run_that_lost_nothing_is_not_repeated_either(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped right where it was saved: the session elsewhere begins at as many recorded steps."""
    sessions = Sessions(tmp_path / "run")

    def stopping(report: training.StepReport) -> None:
        if report.step == 2:
            raise RuntimeError("no power")

    with pytest.raises(RuntimeError, match="no power"):
        sessions.watched(lambda: training.train(config, run_dir=sessions.path, on_step=stopping))
    assert sessions.recorded == 2
    with monkeypatch.context() as patch:
        elsewhere(patch)
        sessions.cut_off(sessions.resume, at=0)
    assert sessions.recorded == 3
    sessions.watched(sessions.resume)
    assert sessions.recorded == 5


def other_threads(patch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)


def another_capability(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ANOTHER")


def another_processor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(platform, "machine", lambda: "another")


def another_numpy(patch: pytest.MonkeyPatch) -> None:
    from workbench.training import replay

    real = replay.version
    patch.setattr(replay, "version", lambda name: "0" if name == "numpy" else real(name))


@pytest.mark.parametrize(
    "surroundings",
    [elsewhere, other_threads, another_capability, another_processor, another_numpy],
    ids=lambda change: change.__name__,
)
def test_whatever_may_change_a_bit_makes_the_noise_new(
    sessions: Sessions,
    monkeypatch: pytest.MonkeyPatch,
    surroundings: Callable[[pytest.MonkeyPatch], None],
) -> None:
    surroundings(monkeypatch)
    sessions.watched(sessions.resume)
    assert sessions.recorded == 5
    assert unrelated(sessions.noises[0][2], sessions.noises[1][0])


@pytest.mark.parametrize("count", [-1, 1])
def test_a_run_does_not_go_on_over_more_or_fewer_records(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Public and held-out records, tokenizer and weights are all as they were."""
    load = corpora.load

    def changed(*args: Any, **kwargs: Any) -> Records:
        records = load(*args, **kwargs)
        more = (*records.training, "line 4 counts another words")
        return replace(records, training=more if count > 0 else records.training[:-1])

    monkeypatch.setattr(corpora, "load", changed)
    before = (sessions.path / "ledger.jsonl").read_bytes()
    with pytest.raises(InputError):
        sessions.resume()
    assert (sessions.path / "ledger.jsonl").read_bytes() == before


def test_the_newest_of_several_checkpoints_is_taken(sessions: Sessions) -> None:
    """By number and not by name or time: a kill may leave two, and step 10 follows step 9."""
    saved = sessions.path / "checkpoints" / "step-000002"
    for name in ("step-1000000", "step-999999", "step-000009", "notes", "step-x"):
        (saved.parent / name).mkdir()
    assert training.read_run(sessions.path).checkpoint == saved.parent / "step-1000000"


def test_batches_of_a_session_elsewhere_are_new_too(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, batches = step.poisson_batch, []

    def drawing(*args: Any, **kwargs: Any) -> np.ndarray:
        batches.append(draw(*args, **kwargs))
        return batches[-1]

    monkeypatch.setattr(step, "poisson_batch", drawing)
    for name in "ab":
        elsewhere(monkeypatch, name)
        sessions.cut_off(sessions.resume, at=0)
    assert not np.array_equal(batches[0], batches[1])
