"""A sweep as one file: a run configuration, and which of its fields take which values.

>>> sweep = SweepConfig.from_yaml('''
... base: {training: {steps: 100}}
... grid:
...   privacy.noise_multiplier: [0.6, 0.8]
...   seed: [0, 1, 2]
... ''')
>>> len(sweep.cells())
6
>>> sweep.cells()[0].values
{'privacy.noise_multiplier': 0.6, 'seed': 0}
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import prod
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from workbench.config import ALTERNATIVES, Document, RunConfig, spelling_remedy
from workbench.config import field_names as fields_of
from workbench.errors import InputError, shown

_ID_LENGTH = 12  # hexadecimal digits: two of a million cells share one with a chance of 0.2 %
_MOST_CELLS = 100_000
_OTHER = {**ALTERNATIVES, **{second: first for first, second in ALTERNATIVES.items()}}


@dataclass(frozen=True)
class Cell:
    """One run of a sweep; ``values`` has the swept fields as this run uses them.

    ``id`` is a hash of the complete configuration: cells of equal configuration are one cell,
    whichever sweep asks for them.
    """

    id: str
    config: RunConfig
    values: Mapping[str, Any]


class SweepConfig(Document):
    """Runs that differ from ``base`` in some fields, named with dots: ``training.learning_rate``.

    ``grid`` gives each field its values and stands for all their combinations; ``list`` gives
    combinations one by one; with both, every entry of the list goes through the whole grid. A value
    for one of two alternatives, such as ``privacy.target_epsilon``, empties the other. Several
    seeds are a grid over ``seed``, which also decides which records are private.
    """

    base: RunConfig = RunConfig()
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    list: tuple[dict[str, Any], ...] = ()

    @field_validator("grid", mode="before")
    @classmethod
    def _grid_of_fields(cls, grid: Any) -> Any:
        if not isinstance(grid, Mapping):
            raise InputError("grid is no mapping; write fields with lists, such as seed: [0, 1].")
        for field, values in grid.items():
            _check_field("grid", field)
            if not isinstance(values, list | tuple) or not values:
                raise InputError(
                    f"grid.{field} is {shown(values)} but must be a list of values; write it as "
                    "[first, second]."
                )
        return grid

    @field_validator("list", mode="before")
    @classmethod
    def _list_of_mappings(cls, entries: Any) -> Any:
        if not isinstance(entries, list | tuple):
            raise InputError("list is no list; write entries such as - {training.steps: 100}.")
        for entry in entries:
            if not isinstance(entry, Mapping) or not entry:
                raise InputError(
                    f"list has the entry {shown(entry)}, which is no mapping of fields to values; "
                    "write it as {training.steps: 100}."
                )
            for field in entry:
                _check_field("list", field)
        return entries

    @model_validator(mode="after")
    def _cells_can_be(self) -> Self:
        if not self.fields:
            raise InputError(
                "The sweep has neither grid nor list; name a field to vary, such as "
                "grid: {privacy.noise_multiplier: [0.6, 0.8]}."
            )
        for field in self.grid:
            if any(field in entry for entry in self.list):
                raise InputError(f"{field} is both in grid and in list; keep it in one of them.")
        count = prod(map(len, self.grid.values())) * max(1, len(self.list))
        if count > _MOST_CELLS:
            raise InputError(
                f"The sweep's grid and list make {count:,} cells but there may be "
                f"{_MOST_CELLS:,}; shorten one of its lists."
            )
        self.cells()
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        """The swept fields, in the order in which the file names them."""
        return tuple(dict.fromkeys([*(f for entry in self.list for f in entry), *self.grid]))

    def cells(self) -> tuple[Cell, ...]:
        """Every run of the sweep once; `InputError` if one of them cannot be."""
        found = {}
        for changes in self._combinations():
            config = self.base.with_changes(_without_alternatives(changes))
            values = {field: _value(config, field) for field in self.fields}
            cell = Cell(cell_id(config), config, values)
            found[cell.id] = cell
        return tuple(found.values())

    def _combinations(self) -> Iterator[dict[str, Any]]:
        for entry in self.list or ({},):
            for values in product(*self.grid.values()):
                yield {**entry, **dict(zip(self.grid, values, strict=True))}


def cell_id(config: RunConfig) -> str:
    """A short hash of the whole configuration, the same on every machine."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_ID_LENGTH]


@cache
def field_names() -> tuple[str, ...]:
    """Every field that a sweep can vary, with dots."""
    return fields_of(RunConfig)


def _check_field(where: str, field: Any) -> None:
    known = field_names()
    if field in known:
        return
    within = [name for name in known if name.startswith(f"{field}.")]
    if within:
        raise InputError(
            f"{where} names the section {field!r}; name one of its fields, such as {within[0]}."
        )
    remedy = spelling_remedy(str(field), known)
    raise InputError(f"{where} names {shown(field)}, which is not a field of a run; {remedy}")


def _without_alternatives(changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes``, and None for the other of two alternatives where one is given."""
    given = (field for field, value in changes.items() if field in _OTHER and value is not None)
    return {**{_OTHER[field]: None for field in given}, **changes}


def _value(config: RunConfig, field: str) -> Any:
    value: Any = config
    for name in field.split("."):
        value = getattr(value, name)
    return value
