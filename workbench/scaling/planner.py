"""From a budget to a run, and from a target back to the data and compute that it takes.

Forward: records, ε, δ and compute → size, batch, steps, σ and the loss to expect. Two answers are
told apart: *compute-optimal*, the lowest loss for the compute given, and *saturating*, the least
compute within 1 % of the lowest loss at any compute. Backward: a target perplexity → the cheapest
run that reaches it, or how far the data fall short.

Plans are searched with previewed σ; `Plan.certified` has an accountant confirm the one chosen.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from workbench.errors import InputError, positive, probability, whole
from workbench.privacy import Guarantee
from workbench.scaling import published_plan
from workbench.scaling.fitted import FittedLaw
from workbench.scaling.plan_cells import Cells, Question, cells, frame_of, most_records
from workbench.scaling.plan_noise import certified, gaussian_sigma
from workbench.scaling.plan_sources import LawSource, source_of
from workbench.scaling.units import to_nats

SATURATED = 1.01  # times the lowest loss
LARGEST_RHO = 1.25
_ONLY_LOUD = (
    "No batch of ρ ≤ 1.25 reaches the target for this compute, so that this one bears more noise "
    "than its ε asks for."
)
_BISECTIONS = 12
Kind = Literal["compute_optimal", "saturating", "target"]


@dataclass(frozen=True)
class Plan:
    """One run to be made.

    Attributes:
        kind: which question it answers.
        source: what its loss is read from.
        loss_kind: ``causal_lm`` or ``masked_lm``; only the first has a perplexity.
        n_params, expected_batch_size, steps, noise_multiplier: the run.
        records, record_tokens, target_epsilon, delta: what it was planned for.
        loss, loss_interval: nats a token, with a 95 % prediction interval.
        rho: noise over that of batches of all records (Räisä et al. 2024).
        outside: covariates beyond the source's points, and how many times.
        notes: what else to know, a sentence each.
        guarantee: what the accountant certifies; None while σ is a preview.
    """

    kind: Kind
    source: str
    loss_kind: str
    records: float
    record_tokens: int
    target_epsilon: float
    delta: float
    n_params: float
    expected_batch_size: int
    steps: int
    noise_multiplier: float
    rho: float
    loss: float
    loss_interval: tuple[float, float]
    outside: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    guarantee: Guarantee | None = None

    @property
    def tokens(self) -> float:
        """Tokens seen in training."""
        return float(self.steps) * self.expected_batch_size * self.record_tokens

    @property
    def compute(self) -> float:
        """FLOPs, 6 a parameter and token."""
        return 6 * self.n_params * self.tokens

    @property
    def epochs(self) -> float:
        """Passes over the records."""
        return self.steps * self.expected_batch_size / self.records

    @property
    def noise_batch_ratio(self) -> float:
        """σ̄ = σ/B."""
        return self.noise_multiplier / self.expected_batch_size

    @property
    def perplexity(self) -> float | None:
        """Of a token; None where the loss is not of a causal model."""
        return float(np.exp(self.loss)) if self.loss_kind == "causal_lm" else None

    def certified(self) -> "Plan":
        """The same run with σ by the PLD accountant, and what it guarantees."""
        if np.isinf(self.target_epsilon):
            return self
        rate = self.expected_batch_size / self.records
        sigma, guarantee = certified(self.target_epsilon, rate, self.steps, self.delta)
        rho = sigma / (rate * np.sqrt(self.steps) * gaussian_sigma(self.target_epsilon, self.delta))
        return replace(self, noise_multiplier=sigma, rho=float(rho), guarantee=guarantee)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON; an infinite ε is null."""
        told = asdict(self)
        for name in ("tokens", "compute", "epochs", "noise_batch_ratio", "perplexity"):
            told[name] = getattr(self, name)
        if np.isinf(self.target_epsilon):
            told["target_epsilon"] = None
        told["guarantee"] = self.guarantee.as_dict() if self.guarantee else None
        return told


@dataclass(frozen=True)
class Planned:
    """The answers to one question; None where the source has none, with ``status`` saying why."""

    source: str
    compute_optimal: Plan | None
    saturating: Plan | None
    target: Plan | None
    status: str = ""

    def certified(self) -> "Planned":
        """All plans with σ by the accountant."""
        return replace(
            self,
            **{
                kind: found.certified()
                for kind in ("compute_optimal", "saturating", "target")
                if (found := getattr(self, kind)) is not None
            },
        )


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
        return _published(records, target_epsilon, delta, compute, target)
    if records is None:
        assert target is not None
        question = Question(1.0, record_tokens, target_epsilon, delta, compute)
        fewest = _fewest_records(question, law, target)
        if fewest is None:
            return Planned(law.words, None, None, None, _never(law, question, target))
        records = fewest
    question = Question(records, record_tokens, target_epsilon, delta, compute)
    return _by_law(question, law, target)


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


def _by_law(question: Question, law: LawSource, target: float | None) -> Planned:
    found = cells(question, law)
    optimal = None
    if question.compute is not None:
        affordable = found.within(question.compute)
        if not affordable.any():
            raise InputError(
                f"compute is {question.compute:g} but even the smallest run that the source knows "
                f"takes {found.compute.min():.3g} FLOPs; give more."
            )
        optimal = _best(question, law, found, affordable)
    return Planned(
        law.words,
        optimal,
        _saturating(question, law, found),
        *_towards(question, law, found, target),
    )


def _best(question: Question, law: LawSource, found: Cells, allowed: np.ndarray) -> Plan:
    """The lowest loss; a batch whose ρ is too large only with the reason."""
    loss = np.where(allowed, found.loss, np.inf)
    at, notes = int(np.argmin(loss)), ()
    if found.rho[at] > LARGEST_RHO:
        quiet = np.where(found.rho <= LARGEST_RHO, loss, np.inf)
        other = int(np.argmin(quiet))
        if quiet[other] <= 1.001 * loss[at]:
            at = other
        else:
            notes = (_why_loud(found, at, other, float(quiet[other]), question),)
    return _plan("compute_optimal", question, law, found, at, notes)


def _saturating(question: Question, law: LawSource, found: Cells) -> Plan:
    """The least compute within 1 % of the lowest loss at any compute."""
    lowest = float(found.loss.min())
    enough = found.loss <= SATURATED * lowest
    quiet = enough & (found.rho <= LARGEST_RHO)
    allowed, notes = (quiet, ()) if quiet.any() else (enough, ("No batch has ρ ≤ 1.25 here.",))
    at = int(np.argmin(np.where(allowed, found.compute, np.inf)))
    best = int(np.argmin(found.loss))
    for name in ("n_params", "steps"):
        values = np.asarray(found.frame[name])
        if values[best] >= values.max() * 0.999:
            notes += (
                f"The lowest loss is at the largest {name} that the source lets plan, so that more "
                "compute may still help.",
            )
    return _plan("saturating", question, law, found, at, notes)


def _towards(
    question: Question, law: LawSource, found: Cells, target: float | None
) -> tuple[Plan | None, str]:
    """The cheapest run that reaches the target loss, or why none does."""
    if target is None:
        return None, ""
    reached = found.loss <= target
    if question.compute is not None:
        reached &= found.within(question.compute)
    if reached.any():
        quiet = reached & (found.rho <= LARGEST_RHO)
        allowed = quiet if quiet.any() else reached
        at = int(np.argmin(np.where(allowed, found.compute, np.inf)))
        notes = () if quiet.any() else (_ONLY_LOUD,)
        return _plan("target", question, law, found, at, notes), ""
    if question.compute is not None and (found.loss <= target).any():
        least = float(found.compute[found.loss <= target].min())
        return None, (
            f"Perplexity {np.exp(target):.4g} takes {least:.3g} FLOPs but compute is "
            f"{question.compute:.3g}; give more."
        )
    floor = float(found.loss.min())
    more = _fewest_records(question, law, target)
    remedy = (
        f"about {more:.2g} records would reach it"
        if more is not None
        else "no number of records does, so that ε or the model has to change"
    )
    return None, (
        f"Perplexity {np.exp(target):.4g} cannot be reached with this data at ε = "
        f"{question.target_epsilon:g}: the floor is {np.exp(floor):.4g} ({floor:.3g} nats); "
        f"{remedy}."
    )


def _fewest_records(question: Question, law: LawSource, target: float) -> float | None:
    """The fewest records with which some run reaches the target; None if none do."""
    low, high = np.log(max(question.records, 100.0)), np.log(most_records(question, law))
    if low >= high:
        return None

    def reached(log_records: float) -> bool:
        asked = replace(question, records=float(np.exp(log_records)), compute=None)
        return bool((cells(asked, law).loss <= target).any())

    if not reached(high):
        return None
    if reached(low):
        return float(np.exp(low))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return float(np.exp(high))


def _never(law: LawSource, question: Question, target: float) -> str:
    most = replace(question, records=most_records(question, law), compute=None)
    floor = float(cells(most, law).loss.min())
    return (
        f"Perplexity {np.exp(target):.4g} cannot be reached with any data at ε = "
        f"{question.target_epsilon:g}: the floor is {np.exp(floor):.4g} ({floor:.3g} nats)."
    )


def _plan(
    kind: Kind,
    question: Question,
    law: LawSource,
    found: Cells,
    at: int,
    notes: tuple[str, ...],
) -> Plan:
    """A cell as a plan, with a whole batch and whole steps."""
    row = found.frame.iloc[at]
    batch = int(min(max(1, round(row["expected_batch_size"])), question.records))
    one = frame_of(
        question,
        np.array([row["n_params"]]),
        np.array([float(batch)]),
        np.array([row["steps"]]),
        found.noise_multiplier[[at]],
    )
    low, high = law.interval(one)[0].tolist()
    outside = law.outside(one)
    if outside:
        far = ", ".join(f"{name} {times:.3g}×" for name, times in outside.items())
        notes += (f"Extrapolated beyond the source's points: {far}.",)
    if law.law.status:
        notes += (law.law.status,)
    notes += _large_delta(question.records, question.delta)
    return Plan(
        kind=kind,
        source=law.words,
        loss_kind="causal_lm",
        records=question.records,
        record_tokens=question.record_tokens,
        target_epsilon=question.target_epsilon,
        delta=question.delta,
        n_params=float(row["n_params"]),
        expected_batch_size=batch,
        steps=int(row["steps"]),
        noise_multiplier=float(found.noise_multiplier[at]),
        rho=float(found.rho[at]),
        loss=float(np.exp(law.log_loss(one)[0])),
        loss_interval=(low, high),
        outside=outside,
        notes=notes,
    )


def _why_loud(found: Cells, at: int, other: int, quiet: float, question: Question) -> str:
    lost = (
        f"the best batch of ρ ≤ {LARGEST_RHO:g} here, "
        f"{found.frame['expected_batch_size'].iloc[other]:.0f}, loses "
        f"{quiet - found.loss[at]:.2g} nats"
        if np.isfinite(quiet)
        else f"no batch of ρ ≤ {LARGEST_RHO:g} is affordable"
    )
    return (
        f"ρ is {found.rho[at]:.3g}, so that a larger batch would lower the noise, but with compute "
        f"{question.compute:.3g} {lost}, because fewer steps are left."
    )


def _published(
    records: float | None,
    target_epsilon: float,
    delta: float,
    compute: float | None,
    target: float | None,
) -> Planned:
    if target is not None:
        raise InputError(
            "target_perplexity cannot be planned from the published table, whose losses are of "
            "masked language models; fit 'private' or 'noise_batch' to runs of your own."
        )
    assert records is not None
    found = published_plan.saturating(records, target_epsilon, delta)
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
    notes += _large_delta(records, delta)
    if rho > LARGEST_RHO:
        notes += (f"ρ is {rho:.3g}: the batch follows the rows, and a larger one has less noise.",)
    saturating = Plan(
        kind="saturating",
        source=published_plan.WORDS,
        loss_kind="masked_lm",
        records=records,
        record_tokens=published_plan.RECORD_TOKENS,
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
    return Planned(published_plan.WORDS, None, saturating, None, status)


def _previewed(target_epsilon: float, rate: float, steps: int, delta: float) -> float:
    from workbench.privacy import noise_multiplier_surface

    sigma = float(noise_multiplier_surface(target_epsilon, rate, steps, delta))
    return sigma if np.isfinite(sigma) else certified(target_epsilon, rate, steps, delta)[0]


def _large_delta(records: float, delta: float) -> tuple[str, ...]:
    if records * delta < 1:
        return ()
    return (
        f"δ = {delta:g} is not below one over the {records:g} records, so that its guarantee "
        "allows some of them to be given away whole; lower it.",
    )


def _target_loss(perplexity: float) -> float:
    perplexity = positive("target_perplexity", perplexity, remedy="give one such as 20")
    return float(to_nats(perplexity, "perplexity"))
