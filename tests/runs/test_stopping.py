"""A run ends early for a reason that it can name."""

from workbench.config import TrainingConfig
from workbench.runs.stopping import Watch, reason_to_stop


def _after(*losses: float) -> Watch:
    watch = Watch()
    for loss in losses:
        watch = watch.after(loss)
    return watch


def test_patience_counts_evaluations_since_the_best() -> None:
    assert _after(3.0, 2.0, 2.5, 2.5) == Watch(2.0, 2)
    assert _after(3.0, 2.0, 2.5, 1.9) == Watch(1.9, 0)
    config = TrainingConfig(patience=2)
    assert reason_to_stop(config, _after(3.0, 2.0, 2.5), 0) is None
    assert reason_to_stop(config, _after(3.0, 2.0, 2.5, 2.1), 0) == "patience"


def test_time_is_up_after_its_minutes() -> None:
    config = TrainingConfig(max_minutes=2)
    assert reason_to_stop(config, Watch(), 119.9) is None
    assert reason_to_stop(config, Watch(), 120) == "time"


def test_by_default_nothing_ends_a_run() -> None:
    assert reason_to_stop(TrainingConfig(), Watch(1.0, 10**6), 1e9) is None
