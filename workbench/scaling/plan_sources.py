"""What a plan reads its losses from, and what each of them can answer."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from workbench import presets
from workbench.errors import InputError
from workbench.scaling.fitted import FittedLaw
from workbench.scaling.fitting import fit
from workbench.scaling.study_rows import StudyData
from workbench.scaling.units import with_loss

_PLANNED_BY = ("private", "noise_batch")


@dataclass(frozen=True, eq=False)
class LawSource:
    """A fitted law that knows noise, with the words for where it comes from."""

    law: FittedLaw
    words: str

    def log_loss(self, cells: pd.DataFrame) -> np.ndarray:
        """Log of the predicted loss of each cell, (cells,)."""
        return np.log(self.law.predict(self._complete(cells)))

    def interval(self, cells: pd.DataFrame) -> np.ndarray:
        """Where a run's loss lies, (cells, 2)."""
        return self.law.predict_interval(self._complete(cells))

    def outside(self, cells: pd.DataFrame) -> dict[str, float]:
        """The covariates of one cell that lie beyond the points, and how many times."""
        found = {}
        for name, (low, high) in self.law.ranges.items():
            value = float(self._complete(cells)[name].iloc[0])
            if value > 0 and low > 0:
                times = max(value / high, low / value)
                if times > 1 + 1e-6:
                    found[name] = times
        return found

    def range_of(self, name: str) -> tuple[float, float]:
        """Least and greatest value among the points."""
        return self.law.ranges[name]

    def _complete(self, cells: pd.DataFrame) -> pd.DataFrame:
        known = self.law.ranges.get("unigram_loss")
        if known is None:
            return cells
        if known[1] > known[0] * 1.001:
            raise InputError(
                "The law was fitted to texts of different unigram_loss; fit it to one text to plan "
                "on it."
            )
        return cells.assign(unigram_loss=known[0])


def source_of(source: FittedLaw | str | None) -> "LawSource | None":
    """A law to plan on, or None for the published table.

    Args:
        source: a fitted law, ``measured`` (block A of the study), ``published``, or None for the
            measured surface where there is one and else the published table.

    Raises: InputError if the law knows no noise or should not be relied on.
    """
    if isinstance(source, FittedLaw):
        if source.name not in _PLANNED_BY:
            raise InputError(
                f"The law {source.name} does not know what noise costs; plan on a fit of "
                f"{' or '.join(_PLANNED_BY)}."
            )
        if source.reason in ("noise_follows_steps", "units_mixed", "too_few_points"):
            raise InputError(f"The law cannot be planned on: {source.status}")
        return LawSource(source, f"your fit of the law {source.name}")
    if source == "published" or (source is None and measured_surface().empty):
        return None
    if source in ("measured", None):
        return _measured()
    raise InputError(
        f"source is {source!r} but must be a fitted law, 'measured' or 'published'; choose one."
    )


@cache
def measured_surface() -> pd.DataFrame:
    """The surface of our own study, empty before it is measured."""
    return StudyData(presets.data_file("measured/study")).surface()


@cache
def _measured() -> LawSource:
    frame = measured_surface()
    if frame.empty:
        raise InputError(
            "source is 'measured' but block A of the study is not measured yet; run workbench "
            "study --block D --block A, or choose 'published'."
        )
    return LawSource(fit(with_loss(frame), "noise_batch"), "the surface that our study measured")


_TABLE = "published/private_saturating.csv"


@cache
def published_rows() -> pd.DataFrame:
    """The published saturating configurations; text columns as text, the others as floats."""
    frame = pd.DataFrame(presets.rows(_TABLE))
    text = ("loss_kind", "configuration", "censored", "source")
    return frame.astype({name: float for name in frame.columns if name not in text})
