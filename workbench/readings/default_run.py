"""What privacy cost the default run: our own runs beside their twins without privacy."""

import pandas as pd

from workbench import presets
from workbench.privacy.accountant import rounded_up

MEASURED = "measured/default_run.csv"
CORRECTED = "private, AdamW-BC"  # whose second moment holds no noise


def measured_runs() -> pd.DataFrame:
    """Every run, tuning included: arm, learning rate, seed, held-out perplexity, ε …"""
    frame = pd.DataFrame(presets.rows(MEASURED))
    numbers = [name for name in frame.columns if name != "arm"]
    return frame.astype(dict.fromkeys(numbers, float))


def arms(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation of perplexity over seeds, a row an arm, tuning left out.

    "rate along the signal" is η/√(1 + r²), r the median noise-to-signal ratio: Adam divides by the
    root of a second moment of which the noise makes up r² of 1 + r² parts, as in every coordinate
    if they were alike.
    """
    rows = {}
    for arm, of_arm in runs.groupby("arm", sort=False):
        if str(arm).endswith(", tuning"):
            continue
        rate, ratio = of_arm["learning_rate"].iloc[0], of_arm["noise_to_signal"].median()
        in_moment = 0.0 if arm == CORRECTED else ratio
        rows[arm] = {
            "ε": rounded_up(of_arm["epsilon"].max(), 4),
            "learning rate": rate,
            "perplexity": of_arm["perplexity"].mean(),
            "± s.d.": of_arm["perplexity"].std(),
            "noise to signal": ratio,
            "rate along the signal": rate / (1 + in_moment**2) ** 0.5,
        }
    return pd.DataFrame(rows).T.rename_axis("arm")
