"""From a budget to a run, and from a target back to the data and compute that it takes.

Forward: records, ε, δ and compute → size, batch, steps, σ and the loss to expect. Two answers are
told apart: *compute-optimal*, the lowest loss for the compute given, and *saturating*, the least
compute within 1 % of the lowest loss at any compute. Backward: a target perplexity → the cheapest
run that reaches it, or how far the data fall short.

Plans are searched with previewed σ; `Plan.certified` has an accountant confirm the one chosen.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from workbench.errors import InputError, positive, probability, whole
from workbench.scaling.fitted import FittedLaw
from workbench.scaling.plan_cells import Question
from workbench.scaling.plan_search import by_law, fewest_records, never
from workbench.scaling.plan_sources import source_of
from workbench.scaling.plans import Planned
from workbench.scaling.published_answers import plan_published
from workbench.scaling.units import to_nats


def plan(
    source: FittedLaw | str | None = None,
    *,
    target_epsilon: float,
    records: float | None = None,
    delta: float = 1e-8,
    compute: float | None = None,
    target_perplexity: float | None = None,
    record_tokens: int = 512,
) -> Planned:
    """Plan a run within (ε, δ).

    Args:
        source: a fit of ``private`` or ``noise_batch``, ``measured``, ``published``, or None for
            our measured grid where there is one and else the published table.
        target_epsilon: ε, or infinity for a run without noise.
        records: how many there are; with a target they may be left out, and the fewest that reach
            it are sought.
        delta: δ, below one over the records.
        compute: FLOPs that may be spent, 6·M·D; without it only the saturating answer is given.
        target_perplexity: of a token, to be reached.
        record_tokens: tokens of one record.

    Raises: InputError for values out of bounds and questions that the source cannot answer.
    """
    if target_epsilon != np.inf:
        target_epsilon = positive("target_epsilon", target_epsilon, remedy="choose one such as 8")
    delta = probability("delta", delta, remedy="choose one below one over the records")
    record_tokens = whole("record_tokens", record_tokens, least=1, remedy="count its tokens")
    if compute is not None:
        compute = positive("compute", compute, remedy="give FLOPs, such as 1e18")
    if records is not None:
        records = positive("records", records, remedy="count them")
        if records < 2:
            raise InputError(f"records is {records:g} but must be at least 2; count them.")
    elif target_perplexity is None:
        raise InputError("records is missing; say how many there are, or give target_perplexity.")
    target = None if target_perplexity is None else _target_loss(target_perplexity)
    law = source_of(source)
    if law is None:
        return plan_published(records, target_epsilon, delta, compute, target)
    if records is None:
        assert target is not None
        question = Question(1.0, record_tokens, target_epsilon, delta, compute)
        fewest = fewest_records(question, law, target)
        if fewest is None:
            return Planned(law.words, None, None, None, never(law, question, target))
        records = fewest
    question = Question(records, record_tokens, target_epsilon, delta, compute)
    return by_law(question, law, target)


def what_next(
    source: FittedLaw | str | None = None, *, times: float = 2.0, **question: Any
) -> pd.DataFrame:
    """What more of each would gain: a row for data, ε and compute, the largest gain first.

    Args:
        source: as for `plan`.
        times: how much more.
        **question: the other arguments of `plan`, with ``records`` and ``compute``.

    Columns: ``more_of``, ``loss``, ``gain`` (nats a token, above 0 is better), ``n_params``,
    ``expected_batch_size``, ``steps``.
    """
    if question.get("compute") is None or question.get("records") is None:
        raise InputError("What to increase next needs records and compute; give both.")
    before = plan(source, **question).compute_optimal
    if before is None:
        raise InputError("The published table tells no losses at a given compute; plan on a fit.")
    rows = []
    for name in ("records", "target_epsilon", "compute"):
        after = plan(source, **{**question, name: question[name] * times}).compute_optimal
        assert after is not None
        run = {n: getattr(after, n) for n in ("n_params", "expected_batch_size", "steps")}
        rows.append({"more_of": name, "loss": after.loss, "gain": before.loss - after.loss, **run})
    return pd.DataFrame(sorted(rows, key=lambda row: -row["gain"]))


def frontier(
    source: FittedLaw | str | None = None,
    *,
    over: Literal["target_epsilon", "records", "compute"],
    values: Sequence[float],
    **question: Any,
) -> pd.DataFrame:
    """The best plan at each of some values of ε, records or compute, a row each.

    Compute-optimal where there is a compute, else saturating. Columns are the value, ``kind``,
    ``loss``, ``low``, ``high``, ``n_params``, ``expected_batch_size``, ``steps``,
    ``noise_multiplier`` (previewed), ``rho``, ``compute``, ``epochs`` and ``outside``, how many
    times beyond the source's points the plan lies.
    """
    rows = []
    for value in values:
        planned = plan(source, **{**question, over: value})
        best = planned.compute_optimal or planned.saturating
        assert best is not None
        names = ("kind", "loss", "n_params", "expected_batch_size", "steps")
        more = ("noise_multiplier", "rho", "compute", "epochs")
        low, high = best.loss_interval
        rows.append(
            {over: value, **{n: getattr(best, n) for n in names}, "low": low, "high": high}
            | {n: getattr(best, n) for n in more}
            | {"outside": max(best.outside.values(), default=1.0)}
        )
    return pd.DataFrame(rows)


def _target_loss(perplexity: float) -> float:
    perplexity = positive("target_perplexity", perplexity, remedy="give one such as 20")
    return float(to_nats(perplexity, "perplexity"))
