"""What moving σ and batch gains over a constant run, with its uncertainty, from measured runs."""

import pandas as pd
from scipy import stats

from workbench import presets

MEASURED = "measured/policies.csv"


def measured_policies() -> pd.DataFrame:
    """Our own runs, a row each: policy, learning rate, seed, perplexity on held-out records, ε …"""
    frame = pd.DataFrame(presets.rows(MEASURED))
    numbers = [name for name in frame.columns if name != "policy"]
    return frame.astype(dict.fromkeys(numbers, float))


def by_rate(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean held-out perplexity over seeds: a row a policy, a column a learning rate."""
    means = runs.groupby(["policy", "learning_rate"], sort=False)["perplexity"].mean()
    return means.unstack("learning_rate").sort_index(axis=1)


def policy_gains(runs: pd.DataFrame, *, confidence: float = 0.95) -> pd.DataFrame:
    """How much lower each policy's held-out perplexity is than the constant run's, in per cent.

    Every policy has the learning rate that was best for it. Runs are paired by seed, which decides
    split and initial weights; the interval is Student's t over the pairs, and knows nothing of the
    choice of rates. Columns: learning_rate, perplexity (mean), gain, low, high (NaN for one pair).
    """
    best = by_rate(runs).idxmin(axis=1)
    at_best = runs[runs["learning_rate"] == runs["policy"].map(best)]
    perplexities = at_best.pivot(index="seed", columns="policy", values="perplexity")
    pairs = 100 * (1 - perplexities.div(perplexities["constant"], axis=0))
    spread = pairs.sem() * stats.t.ppf((1 + confidence) / 2, pairs.count() - 1)
    gains = pd.DataFrame(
        {
            "learning_rate": best,
            "perplexity": perplexities.mean(),
            "gain": pairs.mean(),
            "low": pairs.mean() - spread,
            "high": pairs.mean() + spread,
        }
    )
    return gains.loc[best.index].rename_axis("policy")


def article_gain() -> float:
    """The improvement that the article states for its adaptive framework, in per cent."""
    return presets.article_claims()["adaptive_gain"]
