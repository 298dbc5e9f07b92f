"""Small tables for the notebooks: what a source states beside what is computed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from workbench import privacy
from workbench.analysis.point_metrics import preview
from workbench.analysis.settings import Point
from workbench.presets import Preset
from workbench.privacy.accountant import rounded_up


def stated_and_computed(presets: Sequence[Preset]) -> pd.DataFrame:
    """One row per preset that states an ε: σ, B, T, the stated ε, and the previewed one."""
    rows = []
    for preset in presets:
        if preset.claimed_epsilon is None:
            continue
        readings = preview(Point.from_preset(preset))
        rows.append(
            {
                "configuration": preset.title,
                "σ": preset.noise_multiplier,
                "B": preset.expected_batch_size,
                "T": preset.steps,
                "δ": f"{preset.delta:g}",
                "ε stated": preset.claimed_epsilon,
                "ε (preview, ± 1 % or 0.01)": round(readings.epsilon, 3),
                "noise to signal": round(readings.update_noise_to_signal, 2),
                "article’s NSR": round(readings.article_nsr, 3),
            }
        )
    return pd.DataFrame(rows).set_index("configuration").rename_axis(None)


def accountants(
    noise_multiplier: float, sample_rate: float, steps: int, delta: float
) -> pd.DataFrame:
    """ε of one run by each accountant, and by the central limit, which is not a bound.

    The central limit takes the run for one Gaussian mechanism with
    μ = q·√(T(e^{1/σ²} − 1)) (Dong, Roth & Su 2022; Bu et al. 2020).
    """
    run = (noise_multiplier, sample_rate, steps, delta)
    mu = sample_rate * np.sqrt(steps * np.expm1(noise_multiplier**-2))
    rows = {
        "PLD (default)": (rounded_up(privacy.epsilon(*run), 4), "upper bound, tight"),
        "PRV": (rounded_up(privacy.epsilon(*run, accountant="prv"), 4), "upper bound, tight"),
        "RDP": (rounded_up(privacy.epsilon(*run, accountant="rdp"), 4), "upper bound, looser"),
        "central limit": (
            round(privacy.epsilon(1 / mu, 1.0, 1, delta), 3),
            "approximation, not a bound",
        ),
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["ε", "what it is"])


def tuning_costs(
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    delta: float,
    *,
    trials: Sequence[int],
) -> pd.DataFrame:
    """ε of tuning with so many trials: all of them composed, or a random number of them."""
    run = [(noise_multiplier, sample_rate, steps)]
    rows = {
        count: {
            "every trial published (PLD)": privacy.composed_trials(run, delta, trials=count),
            "every trial published (RDP)": privacy.composed_trials(
                run, delta, trials=count, accountant="rdp"
            ),
            "best of Poisson-many (RDP)": privacy.random_trials(run, delta, mean_trials=count),
        }
        for count in trials
    }
    return (
        pd.DataFrame.from_dict(rows, orient="index")
        .rename_axis("trials")
        .map(lambda value: rounded_up(value, 3))
    )
