"""What privacy cost the default run: our own runs beside their twins without privacy."""

import math

import pandas as pd

from workbench.privacy.accountant import rounded_up

CORRECTED = "private, AdamW-BC"  # whose second moment holds no noise, and whose floor is its own


def arms(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation of perplexity over seeds, a row an arm, from `measured_runs`.

    ε is that of the dearest seed. "noise to signal" is the mean of each run's median. "rate along
    the signal" is η/√(1 + r²), r that ratio: Adam divides by the root of a second moment of which
    the noise makes up r² of 1 + r² parts, if the coordinates are alike.
    """
    rows = {}
    for arm, of_arm in runs.groupby("arm", sort=False):
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
