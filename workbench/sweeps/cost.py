"""What a whole sweep costs in privacy, if all its runs saw private data and all are published.

Every run releases weights, so all their steps compose (plain composition; Dwork & Roth 2014,
section 3.5), accounted together as one history. That holds because every cell draws its own batches
and noise (`workbench.training.randomness`). Choosing the best run and publishing that alone is not
cheaper by this account, because the choice depends on the private records too; for a number of runs
drawn at random see `privacy.random_trials`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from workbench import privacy
from workbench.config import PrivacyConfig, RunConfig
from workbench.privacy import Guarantee, PrivacyTerms
from workbench.privacy.schedule import History
from workbench.runs.folder import LEDGER
from workbench.runs.ledger import read
from workbench.sweeps.config import SweepConfig
from workbench.sweeps.folder import SWEEP

_COUNTS = ("runs", "steps", "splits")


@dataclass(frozen=True)
class SweepCost:
    """The certified guarantee of ``runs`` runs together; infinite if one of them had no noise.

    With ``splits`` above 1 the runs divide the records differently into public, held-out and
    private ones: then it covers only the records that were private in every run.
    """

    guarantee: Guarantee
    runs: int
    steps: int
    splits: int

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The cost that `as_dict` wrote, as in the "privacy" of `read_sweep`."""
        counts = {name: values[name] for name in _COUNTS}
        spent = {name: value for name, value in values.items() if name not in _COUNTS}
        return cls(Guarantee.from_dict(spent), **counts)

    def as_dict(self) -> dict[str, Any]:
        """Its fields, and those of the guarantee beside them."""
        return {**self.guarantee.as_dict(), **{name: getattr(self, name) for name in _COUNTS}}

    def __str__(self) -> str:
        what = f"{self.guarantee} for all {self.runs} runs together"
        return f"{what}; {self.caveat}" if self.caveat else what

    @property
    def caveat(self) -> str:
        """Whom the guarantee leaves out; empty if nobody."""
        if self.splits < 2:
            return ""
        return (
            f"the runs split the records in {self.splits} ways, and this covers only those that "
            "are private in every one"
        )


def sweep_cost(folder: Path) -> SweepCost:
    """Compose every ledger in a sweep folder, also of cells that failed or are swept no longer.

    δ and accountant are those of the sweep's base. Raises `InputError` if a ledger does not hold.
    """
    base = SweepConfig.load(folder / SWEEP).base.privacy
    ledgers = sorted(folder.glob(f"cells/*/run/{LEDGER}"))
    configs = [RunConfig.load(path.with_name("config.yaml")) for path in ledgers]
    return composed(base, configs, [read(path).history for path in ledgers])


def composed(
    terms: PrivacyConfig, configs: Iterable[RunConfig], histories: Iterable[History]
) -> SweepCost:
    """The cost of runs of ``configs`` with these histories, at the δ of ``terms``."""
    splits = {_split(config) for config in configs}
    histories = list(histories)
    steps = [part for history in histories for part in history]
    return SweepCost(
        guarantee=privacy.guarantee(steps, PrivacyTerms.of(terms)),
        runs=len(histories),
        steps=sum(count for _, _, count in steps),
        splits=len(splits),
    )


def _split(config: RunConfig) -> str:
    """What decides which records are public, held out and private."""
    shape_only = {"record_tokens", "long_records", "seed"}
    return f"{config.corpus_seed} {config.corpus.model_dump_json(exclude=shape_only)}"
