"""One call that trains what an audit needs."""

from pathlib import Path

import pytest

from workbench import audit, training


@pytest.mark.slow
def test_a_pair_is_trained_that_differs_in_privacy_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WORKBENCH_FAST", "1")
    told: list[tuple[str, int]] = []
    runs = audit.train_demo(
        tmp_path / "demo",
        source="patients",
        count=30,
        on_step=lambda arm, report: told.append((arm, report.step)),
    )
    configs = [training.read_run(path).config for path in (runs.private, runs.non_private)]
    assert configs[0] == configs[1].with_changes({"privacy.private": True})
    assert {arm for arm, _ in told} == {"private", "non-private"}
    private, bare = (audit.canary_audit(path) for path in (runs.private, runs.non_private))
    assert private.planted.rows == bare.planted.rows
    assert (private.planted.included == bare.planted.included).all()
    assert private.guarantee.epsilon <= 8 < bare.guarantee.epsilon
