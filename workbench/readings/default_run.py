"""What privacy cost the default run: our own runs beside their twins without privacy."""

import math

import pandas as pd

from workbench import presets
from workbench.privacy.accountant import rounded_up

MEASURED = "measured/default_run.csv"
CORRECTED = "private, AdamW-BC"  # whose second moment holds no noise, and whose floor is its own


def measured_runs() -> pd.DataFrame:
    """Every run, tuning included: arm, learning rate, seed, held-out perplexity, ε …"""
    frame = pd.DataFrame(presets.rows(MEASURED))
    numbers = [name for name in frame.columns if name != "arm"]
    return frame.astype(dict.fromkeys(numbers, float))


def arms(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation of perplexity over seeds, a row an arm, tuning left out.

    ε is that of the dearest seed. "rate along the signal" is η/√(1 + r²), r the median
    noise-to-signal ratio: Adam divides by the root of a second moment of which the noise makes up
    r² of 1 + r² parts, as in every coordinate if they were alike.
    """
    rows = {}
    for arm, of_arm in runs.groupby("arm", sort=False):
        if str(arm).endswith(", tuning"):
            continue
        found = {name: of_arm[name].to_numpy(float) for name in runs.columns if name != "arm"}
        rate, ratio = float(found["learning_rate"][0]), float(found["noise_to_signal"].mean())
        rows[arm] = {
            "ε": rounded_up(float(found["epsilon"].max()), 4),
            "learning rate": rate,
            "perplexity": found["perplexity"].mean(),
            "± s.d.": found["perplexity"].std(ddof=1) if len(of_arm) > 1 else math.nan,
            "noise to signal": ratio,
            "rate along the signal": math.nan if arm == CORRECTED else rate / math.hypot(1, ratio),
        }
    return pd.DataFrame(rows).T.rename_axis("arm")
