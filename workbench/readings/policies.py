"""What moving σ and batch gains over a constant run, with its uncertainty, from measured runs."""

import numpy as np
import pandas as pd
from scipy import stats

from workbench import presets

MEASURED = "measured/policies.csv"


def measured_policies() -> pd.DataFrame:
    """Our own runs, a row each: policy, seed, perplexity on held-out records, ε, minutes."""
    frame = pd.DataFrame(presets.rows(MEASURED))
    numbers = [name for name in frame.columns if name != "policy"]
    return frame.astype(dict.fromkeys(numbers, float))


def policy_gains(runs: pd.DataFrame, *, confidence: float = 0.95) -> pd.DataFrame:
    """How much lower each policy's held-out perplexity is than the constant run's, in per cent.

    Runs are paired by seed, which decides split, initial weights and chance; the interval is
    Student's t over the pairs. Columns: perplexity (mean), gain, low, high (NaN for one pair).
    """
    by_policy = {str(policy): rows.set_index("seed") for policy, rows in runs.groupby("policy")}
    constant = by_policy["constant"]["perplexity"]
    gains = {}
    for policy, rows in by_policy.items():
        perplexity = rows["perplexity"]
        pairs = (100 * (1 - perplexity / constant)).dropna().to_numpy(float)
        spread = stats.sem(pairs) * stats.t.ppf((1 + confidence) / 2, len(pairs) - 1)
        mean = float(np.mean(pairs))
        gains[policy] = {
            "perplexity": float(perplexity.to_numpy(float).mean()),
            "gain": mean,
            "low": mean - spread,
            "high": mean + spread,
        }
    return pd.DataFrame(gains).T.rename_axis("policy")


def article_gain() -> float:
    """The improvement that the article states for its adaptive framework, in per cent."""
    return presets.article_claims()["adaptive_gain"]
