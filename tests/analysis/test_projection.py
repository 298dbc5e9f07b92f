"""What a run would spend is what it then spends, and is refused for the same reasons."""

import math
from pathlib import Path
from typing import Any

import pytest

from workbench import training
from workbench.analysis.projection import Projection, project
from workbench.config import RunConfig
from workbench.errors import InputError


def projected(config: RunConfig, **changes: Any) -> Projection:
    (answer,) = project(config.with_changes(changes))
    return answer


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"privacy.noise_multiplier": None, "privacy.target_epsilon": 6.0},
        {"schedule.noise": {"kind": "step", "end_factor": 0.5}},
        {"privacy.max_epsilon": 9.0},
        {"privacy.clipping": "adaptive", "privacy.count_noise_multiplier": 5.0},
        {"privacy.private": False},
    ],
    ids=lambda changes: ", ".join(changes) or "default",
)
def test_a_run_spends_what_was_projected(config: RunConfig, tmp_path: Path, changes: Any):
    answer = projected(config, **changes)
    result = training.train(config.with_changes(changes), run_dir=tmp_path / "run")
    assert answer.guarantee == result.guarantee
    assert answer.plan.steps == result.steps
    assert answer.plan.dataset_size == 61


def test_a_target_becomes_a_noise_that_keeps_it(config: RunConfig):
    changes = {"privacy.noise_multiplier": None, "privacy.target_epsilon": 6.0}
    assert 5.9 < projected(config, **changes).guarantee.epsilon <= 6.0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"corpus.source": "gone.txt"}, "Cannot read corpus.source"),
        ({"training.expected_batch_size": 62}, "there are 61 training records"),
        ({"privacy.max_epsilon": 0.01}, "the first step already exceeds it"),
    ],
)
def test_it_is_refused_as_training_would(config: RunConfig, changes: Any, complaint: str):
    with pytest.raises(InputError, match=complaint):
        projected(config, **changes)
    with pytest.raises(InputError, match=complaint):
        training.train(config.with_changes(changes))


def test_a_delta_as_large_as_one_record_is_warned_of(config: RunConfig):
    assert projected(config).warning == ""
    assert "δ is 0.02 but 1/N is 0.016" in projected(config, **{"privacy.delta": 0.02}).warning
    twin = projected(config, **{"privacy.delta": 0.02, "privacy.private": False})
    assert (twin.guarantee.epsilon, twin.warning) == (math.inf, "")


@pytest.mark.parametrize("source", ["", "tiny-lama", "/gone"])
def test_a_model_that_is_not_there_is_refused_before_start(config: RunConfig, source: str):
    with pytest.raises(InputError, match="is neither a preset"):
        projected(config, **{"model.source": source})
