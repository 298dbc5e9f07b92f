"""Runs a model with its layers watched, so that their gradients can be told apart by record.

A layer with trainable parameters runs with stand-ins for them: copies that autograd does not
follow, or, in a normalisation, one copy for each row. Only the stand-ins and the layer's output are
watched, so a parameter that is used past its layer's back still gets an ordinary gradient, and that
is how the engine notices.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from workbench.errors import InputError
from workbench.training.engines.uses import Use
from workbench.training.engines.watching import Way, way_to_run

Uses = Iterable[tuple[nn.Parameter, Use]]
Receive = Callable[[nn.Parameter, Use], None]
# A layer's name, its input's number of dimensions, and whether the input has a single row.
Signature = tuple[str, int, bool]


@dataclass
class Habits:
    """What earlier passes taught of a model.

    Calls whose rows are records, calls whose rows all records share, and the names of
    normalisations that do more with their weights than multiply or add them element by element.
    """

    by_record: set[Signature] = field(default_factory=set)
    shared: set[Signature] = field(default_factory=set)
    not_elementwise: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Layer:
    """A module with trainable parameters of its own, and its forward as it was."""

    name: str
    module: nn.Module
    parameters: Mapping[str, nn.Parameter]
    forward: Callable[..., Any]

    def run(self, stand_ins: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """The layer's output with ``stand_ins`` in the place of parameters."""
        own: dict[str, Any] = self.module._parameters
        kept = {name: own[name] for name in stand_ins}
        own.update(stand_ins)
        try:
            return self.forward(*args, **kwargs)
        finally:
            own.update(kept)

    def run_unfollowed(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's output, through which autograd reaches the input alone."""
        return self.run({name: p.detach() for name, p in self.parameters.items()}, *args, **kwargs)

    def refusal(self, reason: str) -> InputError:
        """The error that names this layer."""
        return InputError(
            f"The book-keeping engine cannot clip {self.name!r} ({type(self.module).__name__}): "
            f"{reason}; freeze that layer or choose engine='reference'."
        )


@dataclass
class Tap:
    """A watched tensor (rows, …); ``uses`` makes uses of its gradient (batch, rows/batch, …)."""

    layer: Layer
    signature: Signature
    rows: int
    uses: Callable[[Tensor], Uses] | None
    can_be_shared: bool


class Recorder:
    """While entered, the layers of ``model`` are watched; ``receive`` gets what they yield.

    ``batch`` is how many records the losses will have, if known; else the first layer's rows count.
    """

    def __init__(self, model: nn.Module, habits: Habits, batch: int | None = None) -> None:
        self.habits, self.batch, self.taps = habits, batch, list[Tap]()
        self._receive: Receive | None = None
        self._probe: list[tuple[Tap, Tensor]] | None = None
        self._layers = [
            Layer(name, module, own, module.forward)
            for name, module in model.named_modules()
            if (own := _trainable(module))
        ]

    def __enter__(self) -> Self:
        ways = [way_to_run(layer) for layer in self._layers]
        for layer, way in zip(self._layers, ways, strict=True):
            layer.module.forward = partial(self._call, way, layer)
        return self

    def __exit__(self, *_: object) -> None:
        for layer in self._layers:
            del layer.module.forward

    def strangers(self, losses: Tensor) -> list[Tap]:
        """The taps whose rows are not the records of ``losses`` (batch,), if there are any.

        New kinds of call are tried out: half of the losses must not reach the other half's rows.
        """
        self.batch = len(losses)
        uneven = [tap for tap in self.taps if tap.rows % self.batch]
        new = {tap.signature for tap in self.taps} - self.habits.by_record
        if uneven or self.batch == 1 or not new:
            return uneven
        self._probe = []
        losses[::2].sum().backward(retain_graph=True)
        probe, self._probe = self._probe, None
        if not all(gradient.isfinite().all() for _, gradient in probe):
            return []  # infinity reaches everywhere; the norms will tell
        reached = [(tap, *_reach(gradient, self.batch)) for tap, gradient in probe]
        strangers = [tap for tap, _, others in reached if others]
        if not strangers:
            self.habits.by_record |= {tap.signature for tap, own, _ in reached if own}
        return strangers

    def backward(self, losses: Tensor, receive: Receive) -> None:
        """One backward pass of the sum of ``losses``; ``receive`` gets the uses as they arise."""
        self._receive = receive
        # Under autocast, products of the norms and sums would be rounded to its narrow type.
        with torch.autocast(losses.device.type, enabled=False):
            losses.sum().backward()

    def watch(
        self,
        layer: Layer,
        tensor: Tensor,
        signature: Signature,
        uses: Callable[[Tensor], Uses],
        *,
        can_be_shared: bool = False,
    ) -> None:
        """Have ``uses`` called with the gradient of ``tensor`` (rows, …) when it arrives."""
        if not tensor.requires_grad:
            tensor.requires_grad_()
        tap = Tap(layer, signature, len(tensor), uses, can_be_shared)
        self.taps.append(tap)
        tensor.register_hook(partial(self._arrived, tap))

    def _arrived(self, tap: Tap, gradient: Tensor) -> None:
        if self._probe is not None:
            self._probe.append((tap, gradient))
        elif self._receive and self.batch and tap.uses:
            uses, tap.uses = tap.uses, None  # lets go of the layer's input
            for parameter, use in uses(gradient.unflatten(0, (self.batch, -1))):
                self._receive(parameter, use)

    def _call(self, way: Way, layer: Layer, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return layer.forward(*args, **kwargs)
        return way(self, layer, *args, **kwargs)


def _trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module._parameters.items() if p is not None and p.requires_grad}


def _reach(gradient: Tensor, batch: int) -> tuple[bool, bool]:
    """Whether losses 0, 2, 4 … reach rows of their own records, and rows of others."""
    records = gradient.reshape(batch, -1)
    return bool(records[::2].any()), bool(records[1::2].any())
