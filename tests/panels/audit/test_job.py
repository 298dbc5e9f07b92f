"""Work in the background: what is told of it, how it is cancelled, what is trained again."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.panels.audit.made import made_run
from tests.panels.waiting import PATIENCE
from workbench import audit
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.panels.audit import job


def test_what_is_found_is_told_and_labels_are_told_apart(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(job, "read_run", lambda path: _Read())
    made = iter(replace(made_run(label="same"), path=Path(name)) for name in ("one", "two"))
    monkeypatch.setattr(job, "audited_run", lambda path, **_: next(made))
    state = job.start_audit([Path("a"), Path("b")]).wait(PATIENCE)
    assert state.phase == "done"
    assert [run.label for run in state.runs] == ["same (one)", "same (two)"]


def test_only_one_audit_goes_at_a_time_and_it_can_be_cancelled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(job, "read_run", lambda path: _Read())
    began = threading.Event()

    def endless(path: Path, *, passes: audit.Passes, **_: object) -> None:
        began.set()
        assert passes.stop is not None
        passes.stop.wait(PATIENCE)
        raise audit.CancelledError("stopped")

    monkeypatch.setattr(job, "audited_run", endless)
    going = job.start_audit([Path("a")])
    assert began.wait(PATIENCE)
    with pytest.raises(InputError, match="already going"):
        job.start_audit([Path("b")])
    going.cancel()
    assert going.wait(PATIENCE).phase == "cancelled"


def test_an_error_ends_the_work_with_a_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(job, "read_run", lambda path: _Read())

    def failing(path: Path, **_: object) -> None:
        raise InputError("The run a has no checkpoint yet; let it finish.")

    monkeypatch.setattr(job, "audited_run", failing)
    state = job.start_audit([Path("a")]).wait(PATIENCE)
    assert (state.phase, state.error) == (
        "failed",
        "The run a has no checkpoint yet; let it finish.",
    )


def test_nothing_to_audit_is_refused():
    with pytest.raises(InputError, match="No run is chosen"):
        job.start_audit([])
    with pytest.raises(InputError, match="No signal is chosen"):
        job.start_audit([Path("a")], signals=())


def test_the_demo_is_a_pair_that_differs_in_privacy_alone(tmp_path: Path):
    plain, private = job.demo_runs(tmp_path, source="patients", epsilons=[2.0], canaries=30)
    assert not plain.config.privacy.private
    assert private.config.privacy.target_epsilon == 2.0
    assert plain.config.canaries == private.config.canaries
    assert (plain.config.corpus, plain.config.seed) == (private.config.corpus, private.config.seed)
    assert plain.path != private.path


@pytest.mark.slow
def test_what_is_trained_already_is_not_trained_again(tmp_path: Path, config: RunConfig):
    path = tmp_path / "run"
    wanted = job.Wanted(path, config)
    first = job._started(wanted)
    assert first is not None
    assert first.wait(PATIENCE).phase == "done"
    assert job._started(wanted) is None
    other = job.Wanted(path, config.with_changes({"seed": config.seed + 1}))
    with pytest.raises(InputError, match="other settings"):
        job._started(other)


class _Read:
    config = RunConfig()
