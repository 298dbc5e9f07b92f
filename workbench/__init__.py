"""DP-SGD Workbench: see, measure and plan what differential privacy costs a language model.

The rooms load when first used, so that ``import workbench`` stays fast; torch, transformers and
opacus are imported only by the functions that need them.
"""

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

_ROOMS = (
    "analysis",
    "audit",
    "clipping",
    "config",
    "corpora",
    "figures",
    "panels",
    "privacy",
    "runs",
    "scaling",
    "sweeps",
    "training",
)


def __getattr__(name: str) -> ModuleType:
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
