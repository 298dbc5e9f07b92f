"""What moving σ and batch gains over a constant run, with its uncertainty, from measured runs."""

import pandas as pd
from scipy import stats

from workbench.analysis.measured import measured_runs
from workbench.config import RunConfig
from workbench.presets import article_claims
from workbench.privacy.schedule import History
from workbench.training.plan import plan
from workbench.training.policies import Policy, with_policy


def policy_phases(config: RunConfig, policy: Policy, *, dataset_size: int) -> History:
    """The phases of ``config`` under ``policy``: noise multiplier, sample rate, steps of each."""
    return plan(with_policy(config, policy), dataset_size).history()


def measured_policies() -> pd.DataFrame:
    """Our own runs, a row each: policy, learning rate, seed, perplexity on held-out records …"""
    return measured_runs("policies").rename(columns={"arm": "policy"})


def policy_gains(runs: pd.DataFrame, *, confidence: float = 0.95) -> pd.DataFrame:
    """How much lower each policy's held-out perplexity is than the constant run's, in per cent.

    Runs are paired by seed, which decides split and initial weights; the interval is Student's t
    over the pairs. Columns: learning_rate, perplexity (mean), gain, low, high (NaN for one pair).
    """
    perplexities = runs.pivot(index="seed", columns="policy", values="perplexity")
    pairs = 100 * (1 - perplexities.div(perplexities["constant"], axis=0))
    spread = pairs.sem() * stats.t.ppf((1 + confidence) / 2, pairs.count() - 1)
    policies = runs.groupby("policy", sort=False)
    gains = pd.DataFrame(
        {
            "learning_rate": policies["learning_rate"].first(),
            "perplexity": policies["perplexity"].mean(),
            "gain": pairs.mean(),
            "low": pairs.mean() - spread,
            "high": pairs.mean() + spread,
        }
    )
    return gains.loc[runs["policy"].unique()].rename_axis("policy")


def article_gain() -> float:
    """The improvement that the article states for its adaptive framework, in per cent."""
    return article_claims()["adaptive_gain"]
