"""The previews answer the question that the certified accountant answers."""

import numpy as np
import pytest

from workbench import privacy
from workbench.analysis import previews
from workbench.analysis.previews import previewed_epsilon, previewed_sigma
from workbench.privacy.surface import epsilon_surface

# VaultGemma's: rounding takes a tenth of this δ, so certified and exact ε differ by 1.6 %.
VAULTGEMMA = (0.614, 518_000 / (13e12 / 1024), 100_000, 1.1e-10)


def near_the_certified_value() -> None:
    certified = privacy.epsilon(*VAULTGEMMA)
    assert float(previewed_epsilon(*VAULTGEMMA)) == pytest.approx(certified, rel=0.01)


def test_rounding_that_the_certified_value_pays_for_is_in_the_preview() -> None:
    near_the_certified_value()


def test_leaving_it_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "rounding", lambda history: 0.0)
    with pytest.raises(AssertionError):
        near_the_certified_value()


def test_at_usual_deltas_it_is_the_surface() -> None:
    steps = np.array([10, 100, 1000])
    np.testing.assert_allclose(
        previewed_epsilon(0.8, 0.01, steps, 1e-5),
        epsilon_surface(0.8, 0.01, steps, 1e-5),
        rtol=1e-6,
    )


def test_where_rounding_takes_most_of_delta_there_is_no_preview() -> None:
    values = previewed_epsilon(1.0, 0.01, [10, 10_000], 1e-12)
    assert np.isfinite(values[0])
    assert np.isnan(values[1])
    solved = previewed_sigma(1.0, 0.01, 10_000, 1e-12)
    assert np.isnan(solved.values)
    assert "rounding" in solved.reasons[()]


def test_the_smallest_delta_of_the_domain_has_a_preview() -> None:
    certified = privacy.epsilon(1.0, 0.01, 300, 1e-12)
    assert float(previewed_epsilon(1.0, 0.01, 300, 1e-12)) == pytest.approx(certified, rel=0.01)


def test_sigma_spends_the_target() -> None:
    sigma = float(previewed_sigma(2.0, 0.02, 500, 1e-6).values)
    assert float(previewed_epsilon(sigma, 0.02, 500, 1e-6)) == pytest.approx(2.0, rel=0.003)
