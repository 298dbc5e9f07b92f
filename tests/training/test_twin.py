"""Two twins that are not private: the algorithm at σ = 0, and one that does not clip either."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench import training
from workbench.clipping.clipped_sum import ClippedSum
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.training.prepare import prepare
from workbench.training.step import batch_gradient_sum

_BOUND = 0.05  # far below the norms of a model that was not trained


def _sum(config: RunConfig) -> ClippedSum:
    prepared = prepare(config)
    total, _ = batch_gradient_sum(
        prepared.model,
        prepared.training[:9],
        config,
        max_grad_norm=_BOUND,
        physical_batch_size=4,
    )
    return total


def _norm(total: ClippedSum) -> float:
    return math.sqrt(sum(float(g.square().sum()) for g in total.gradients.values()))


def test_the_clipped_twin_sums_what_the_private_run_does(config: RunConfig) -> None:
    twin = config.with_changes({"privacy.private": False})
    clipped = _sum(twin.with_changes({"privacy.twin": "clipped"}))
    private, unclipped = _sum(config), _sum(twin)
    assert clipped.gradients.keys() == private.gradients.keys()
    for name, gradient in private.gradients.items():
        assert torch.equal(clipped.gradients[name], gradient)
    assert clipped.max_grad_norm == _BOUND
    assert _norm(clipped) <= 9 * _BOUND * (1 + 1e-6) < _norm(unclipped)
    assert math.isinf(unclipped.max_grad_norm)


def test_the_clipped_twin_is_never_called_private(config: RunConfig, tmp_path: Path) -> None:
    twin = config.with_changes({"privacy.private": False, "privacy.twin": "clipped"})
    result = training.train(twin, run_dir=tmp_path / "run")
    assert result.noise_multiplier == 0
    for guarantee in (result.guarantee, training.verify(tmp_path / "run")):
        assert math.isinf(guarantee.epsilon)
        assert "ε = ∞" in str(guarantee)
    metrics = training.read_run(tmp_path / "run").metrics
    assert set(metrics["noise_to_signal"].dropna()) == {0}
    assert np.max(metrics["clipped_fraction"].to_numpy()) > 0


def test_the_private_run_does_not_mind_what_its_twin_would_do(config: RunConfig) -> None:
    one, other = (_sum(config.with_changes({"privacy.twin": t})) for t in ("clipped", "unclipped"))
    assert all(torch.equal(one.gradients[name], other.gradients[name]) for name in one.gradients)


def test_without_noise_no_c_adapts() -> None:
    with pytest.raises(InputError, match=r"^privacy has twin 'clipped' .* set clipping to 'flat'"):
        RunConfig.parse({"privacy": {"private": False, "twin": "clipped", "clipping": "adaptive"}})
