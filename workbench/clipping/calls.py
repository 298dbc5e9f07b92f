"""How often an engine was called on a model, and what is looked at at some of these calls."""

from collections import Counter
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from workbench.clipping.clipped_sum import now_and_then
from workbench.clipping.isolation_probe import probe_is_due

_CALLS: WeakKeyDictionary[nn.Module, Counter[str]] = WeakKeyDictionary()  # by engine


def number_of(model: nn.Module, engine: str) -> int:
    """The number of the call at hand: 1 for the first."""
    return _CALLS.get(model, Counter[str]())[engine] + 1


def count(model: nn.Module, engine: str) -> None:
    """Count the call at hand. One that is refused does not count: the next is looked at again."""
    _CALLS.setdefault(model, Counter())[engine] += 1


def rows_are_due(model: nn.Module, engine: str, losses: Tensor) -> bool:
    """Whether an engine is to see that the rows of layers are the records."""
    return probe_is_due(model, len(losses), call=number_of(model, engine))


def costly_checks_are_due(model: nn.Module, engine: str) -> bool:
    """At an engine's calls 1, 4, 16, 64 … on a model, so that they cost little in the long run."""
    return now_and_then(number_of(model, engine))
