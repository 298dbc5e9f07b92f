"""What an audit as a whole lets one say, in words; controls come first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from workbench.audit.controls import Control
from workbench.audit.measures import SignalResult

Outcome = Literal[
    "the split is separable",
    "leak found",
    "attack too weak to conclude",
    "no leak found, no positive control",
    "no leak found",
]
_NOTICEABLE = 0.55  # a blind AUC below it can explain little


@dataclass(frozen=True)
class Verdict:
    """An outcome and the sentence that says what it does and does not show."""

    outcome: Outcome
    words: str

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"outcome": self.outcome, "words": self.words}


def verdict(
    results: Sequence[SignalResult],
    blind: Control,
    positive: Sequence[SignalResult] = (),
    *,
    private: bool = True,
) -> Verdict:
    """What the results show, given the controls.

    Args:
        results: of the model under test, a signal each.
        blind: the blind baseline on the same records.
        positive: the same signals on the non-private twin; empty if there is none.
        private: whether the model under test claims privacy; one that does not needs no twin.

    A signal counts where its AUC's interval is above one half, at 95 % shared among the signals.
    """
    found, twin = _telling(results), _telling(positive)
    if blind.succeeds and blind.auc > _NOTICEABLE:
        return Verdict(
            "the split is separable",
            f"Members and non-members differ without any model ({blind}), so no attack's success "
            "here shows memorisation; audit with sides that were split at random.",
        )
    if found:
        best = found[0]
        told = "; ".join(str(epsilon) for epsilon in best.epsilons[:2])
        return Verdict(
            "leak found",
            f"{best.signal} tells members from others: AUC {best.curve.auc:.3f} (95 %: "
            f"{best.auc_low:.3f}–{best.auc_high:.3f}). {told}. How much more an attacker with "
            "other means would find, this does not bound.",
        )
    if positive and not twin:
        return Verdict(
            "attack too weak to conclude",
            "Attack too weak to conclude: no signal tells members of the non-private twin either, "
            "so that finding none here says nothing.",
        )
    if not positive:
        twins = "its non-private twin" if private else "a model that surely remembers"
        return Verdict(
            "no leak found, no positive control",
            "No signal tells members from others, but whether this attack could have is not "
            f"known: give {twins} as a positive control.",
        )
    return Verdict(
        "no leak found",
        f"No signal tells members from others, while {twin[0].signal} tells those of the "
        f"non-private twin (AUC {twin[0].curve.auc:.3f}). That bounds these attacks on these "
        "records, not ε.",
    )


def _telling(results: Sequence[SignalResult]) -> list[SignalResult]:
    """The results whose AUC is above one half at 95 % shared among all, the surest first."""
    shared = 1 - 0.05 / max(1, len(results))
    sure = [(r.curve.auc_interval(shared)[0], r) for r in results]
    return [r for low, r in sorted(sure, key=lambda pair: -pair[0]) if low > 0.5]
