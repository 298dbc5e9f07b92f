"""Plans that are read from the published table."""

import numpy as np

from workbench import privacy
from workbench.errors import InputError
from workbench.scaling.plan_noise import certified, gaussian_sigma
from workbench.scaling.plan_search import LARGEST_RHO
from workbench.scaling.plans import Plan, Planned, large_delta
from workbench.scaling.published_plan import RECORD_TOKENS, WORDS, saturating


def plan_published(
    records: float | None,
    target_epsilon: float,
    delta: float,
    compute: float | None,
    target: float | None,
) -> Planned:
    """The saturating answer; `InputError` for what the table cannot tell."""
    if target is not None:
        raise InputError(
            "target_perplexity cannot be planned from the published table, whose losses are of "
            "masked language models; fit 'private' or 'noise_batch' to runs of your own."
        )
    assert records is not None
    found = saturating(records, target_epsilon, delta)
    status = ""
    if compute is not None:
        status = (
            "The published table holds saturating configurations only, so that the best run for a "
            "given compute is not known from it; plan on a fit."
        )
    batch, steps = max(1, round(found.expected_batch_size)), max(1, round(found.steps))
    sigma_gaussian = gaussian_sigma(target_epsilon, delta)
    sigma = _previewed(target_epsilon, batch / records, steps, delta)
    rho = sigma / (batch / records * np.sqrt(steps) * sigma_gaussian)
    notes = () if delta == 1e-8 else (f"The rows are for δ = 1e-8; δ = {delta:g} enters by σ.",)
    notes += large_delta(records, delta)
    if rho > LARGEST_RHO:
        notes += (f"ρ is {rho:.3g}: the batch follows the rows, and a larger one has less noise.",)
    found_plan = Plan(
        kind="saturating",
        source=WORDS,
        loss_kind="masked_lm",
        records=records,
        record_tokens=RECORD_TOKENS,
        target_epsilon=target_epsilon,
        delta=delta,
        n_params=found.n_params,
        expected_batch_size=batch,
        steps=steps,
        noise_multiplier=sigma,
        rho=float(rho),
        loss=found.loss,
        loss_interval=found.loss_interval,
        notes=notes,
    )
    return Planned(WORDS, None, found_plan, None, status)


def _previewed(target_epsilon: float, rate: float, steps: int, delta: float) -> float:
    sigma = float(privacy.noise_multiplier_surface(target_epsilon, rate, steps, delta))
    return sigma if np.isfinite(sigma) else certified(target_epsilon, rate, steps, delta)[0]
