"""The notebooks' tables: stated beside computed, and each value where it belongs."""

import pytest

from workbench import privacy
from workbench.analysis.tables import accountants, stated_and_computed, tuning_costs
from workbench.presets import presets

RUN = (0.8, 512 / 18_792, 300, 1e-5)


def test_stated_and_computed_stand_apart() -> None:
    table = stated_and_computed(presets())
    assert len(table) == len(presets()) - 1  # the laptop run states nothing
    published = table.loc["De et al. 2022, ImageNet"]
    assert published["ε stated"] == 8
    assert published["ε (preview, ± 1 % or 0.01)"] == pytest.approx(7.44, abs=0.01)
    assert published["δ"] == "8e-07"
    article = table.loc["Article’s table: 7B, ε 8"]
    assert article["ε stated"] == 8
    assert article["ε (preview, ± 1 % or 0.01)"] == pytest.approx(0.015, abs=0.001)


def test_the_central_limit_stands_below_the_accountants_and_says_so() -> None:
    table = accountants(*RUN)
    assert 0 <= table.loc["PLD (default)", "ε"] - privacy.epsilon(*RUN) <= 1e-3
    assert table["ε"].loc["RDP"] > table["ε"].loc["PRV"] > table["ε"].loc["PLD (default)"]
    assert table["ε"].loc["central limit"] < table["ε"].loc["PLD (default)"]
    assert "not a bound" in str(table.loc["central limit", "what it is"])


def test_the_central_limit_of_a_published_run() -> None:
    """6.5998 for σ 1.5, q 0.04, T 2250 at δ 1e-5; its PLD is 6.7688.

    Ours is read off a discretised distribution, which adds up to 0.005 of ε.
    """
    table = accountants(1.5, 0.04, 2250, 1e-5)
    assert table.loc["central limit", "ε"] == pytest.approx(6.5998, abs=0.005)


def test_tuning_costs_more_with_every_trial_and_one_trial_is_the_run() -> None:
    table = tuning_costs(*RUN, trials=(1, 3, 10))
    assert table["every trial published (PLD)"].loc[1] == pytest.approx(
        privacy.epsilon(*RUN), abs=0.005
    )
    assert all(table[column].is_monotonic_increasing for column in table)
    composed, best = "every trial published (RDP)", "best of Poisson-many (RDP)"
    assert table[best].loc[10] < table[composed].loc[10]
