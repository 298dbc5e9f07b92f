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
from torch.linalg import vector_norm

from workbench.clipping.bookkeeping.contributions import Use, widest
from workbench.clipping.bookkeeping.layer_calls import Way, way_to_run, why_not
from workbench.clipping.clipped_sum import now_and_then
from workbench.errors import InputError

Uses = Iterable[tuple[nn.Parameter, Use]]
Receive = Callable[[nn.Parameter, Use], None]
# A layer's name, its input's number of dimensions, and whether the input has a single row.
Signature = tuple[str, int, bool]
# The same with the number of rows a record.
Call = tuple[Signature, int]

NOT_RECORDS = "its rows are not one record's each, or a record's loss depends on other records"
_TINY = 1e-30  # what is smaller may vanish once it is weighted


@dataclass
class Habits:
    """What earlier passes taught of a model.

    Calls that were tried out, and those of them whose rows were seen to be records; calls whose
    rows all records share; and of normalisations, whether they multiply or add their weights
    element by element and do no more with them.
    """

    tried: set[Call] = field(default_factory=set)
    by_record: set[Call] = field(default_factory=set)
    shared: set[Signature] = field(default_factory=set)
    elementwise: dict[Signature, bool] = field(default_factory=dict)
    passes: int = 0
    most_records_tried: int = 1

    def trial_is_due(self, batch: int) -> bool:
        """At passes 1, 4, 16, 64 … and for far larger batches: records may decide what layers do.

        By chance a few records can pass where more would not.
        """
        is_due = now_and_then(self.passes + 1)
        return batch > 1 and (is_due or batch > 2 * self.most_records_tried)


@dataclass(frozen=True)
class Layer:
    """A module with trainable parameters of its own, and its forward as it was."""

    name: str
    module: nn.Module
    parameters: Mapping[str, nn.Parameter]
    forward: Callable[..., Any]
    forward_is_its_own: bool

    def run(self, stand_ins: Mapping[str, Tensor], /, *args: Any, **kwargs: Any) -> Any:
        """The layer's output with ``stand_ins`` in the place of parameters."""
        own: dict[str, Any] = self.module._parameters
        if any(own[name] is not self.parameters[name] for name in stand_ins):
            raise self.refusal("it calls itself")
        own.update(stand_ins)
        try:
            return self.forward(*args, **kwargs)
        finally:
            own.update(self.parameters)

    def run_unfollowed(self, /, *args: Any, **kwargs: Any) -> Any:
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
    """A watched tensor (rows, …); ``uses`` makes uses of its gradient (batch, rows/batch, …).

    ``positions`` is the length of its second dimension, if it has one before the features.
    """

    layer: Layer
    signature: Signature
    rows: int
    positions: int
    uses: Callable[[Tensor], Uses] | None
    can_be_shared: bool

    def call(self, batch: int) -> Call:
        """What tells calls of one kind from others; refused where rows and records do not fit."""
        if self.rows % batch:
            raise self.layer.refusal(NOT_RECORDS)
        return self.signature, self.rows // batch


@dataclass(frozen=True)
class Trial:
    """What arrived, in order, from a backward pass with each loss multiplied by its own weight.

    Where rows are records, a record's rows arrive multiplied by its weight, and else they do not.
    Weights are powers of two, so that rounding is the same with and without them. Of what arrives
    two sums a record are kept, which a stranger's share changes.
    """

    weights: Tensor
    arrivals: list[Tensor]

    def agrees(self, gradient: Tensor, weighted: Tensor) -> bool:
        """Whether ``weighted`` sums are those of ``gradient`` (rows, …) times the weights."""
        expected = self.weights * two_sums(gradient, len(self.weights))
        if not (weighted.isfinite().all() and expected.isfinite().all()):
            return True  # infinity reaches everywhere; the norms will tell
        sizes, off = expected[1], (weighted - expected).abs()
        return bool((off <= 1e-5 * sizes + _TINY).all())


def two_sums(gradient: Tensor, batch: int) -> Tensor:
    """The sum of a record's numbers and of their sizes, (2, batch), float64 where there is any."""
    dtype = widest(gradient.device)
    sums = gradient.new_empty(2, batch, dtype=dtype)
    # One by one, because in float64 all records together would take twice the gradient's memory.
    for place, record in enumerate(gradient.unflatten(0, (batch, -1))):
        sums[0, place] = record.sum(dtype=dtype)
        sums[1, place] = vector_norm(record, 1, dtype=dtype)
    return sums


class Recorder:
    """While entered, the layers are watched; ``backward`` hands on what they yield.

    ``batch`` is how many records the losses will have, if known; else the first layer's rows count.
    """

    def __init__(self, layers: list[Layer], habits: Habits, batch: int | None = None) -> None:
        self.habits, self.batch, self.taps = habits, batch, list[Tap]()
        self.repeated: Layer | None = None  # the last whose rows were repeated for each record
        self._layers = layers
        self._arrived: Callable[[Tap, Tensor], None] | None = None

    def __enter__(self) -> Self:
        ways = [way_to_run(layer) for layer in self._layers]
        for layer, way in zip(self._layers, ways, strict=True):
            vars(layer.module)["forward"] = partial(self._call, way, layer)
        return self

    def __exit__(self, *_: object) -> None:
        for layer in self._layers:
            if layer.forward_is_its_own:
                vars(layer.module)["forward"] = layer.forward
            else:
                del vars(layer.module)["forward"]

    def uneven(self) -> list[Tap]:
        """The taps whose rows cannot be the records."""
        return [tap for tap in self.taps if self.batch and tap.rows % self.batch]

    def untried(self) -> bool:
        """Whether there is a kind of call of which no earlier trial tells.

        Rows that are some positions of each record, but not all, may be others in every pass.
        """
        batch, tried = self.batch or 1, self.habits.tried
        whole = {1, *(tap.positions for tap in self.taps if tap.rows == batch)}
        calls = {tap.call(batch) for tap in self.taps}
        return any(call not in tried or call[1] not in whole for call in calls)

    def trial(self, losses: Tensor) -> Trial:
        """Try out which rows each loss reaches; the graph is kept for `backward`."""
        generator = torch.Generator().manual_seed(self.habits.passes)
        powers = torch.randperm(len(losses), generator=generator) % 16 - 8
        weights = torch.exp2(powers.to(widest(losses.device)))
        trial = Trial(weights.to(losses.device), [])
        self._arrived = lambda _, gradient: trial.arrivals.append(two_sums(gradient, len(losses)))
        (losses * trial.weights.to(losses.dtype)).sum().backward(retain_graph=True)
        return trial

    def backward(self, losses: Tensor, receive: Receive, trial: Trial | None) -> list[Tap]:
        """One backward pass of the sum of ``losses``; ``receive`` gets the uses as they arise.

        Returns the taps that disagree with the trial or, without one, were never seen to agree.
        """
        batch, known = len(losses), self.habits.by_record
        arrivals = iter(trial.arrivals if trial else ())
        strangers = []

        def arrived(tap: Tap, gradient: Tensor) -> None:
            call = tap.call(batch)
            if trial:
                self.habits.tried.add(call)
                if not trial.agrees(gradient, next(arrivals)):
                    strangers.append(tap)
                elif gradient.any():
                    known.add(call)
            elif batch > 1 and call not in known and gradient.any():
                strangers.append(tap)
            uses, tap.uses = tap.uses, None  # lets go of the layer's input
            if uses and not strangers:
                for parameter, use in uses(by_record(gradient, batch)):
                    receive(parameter, use)

        self._arrived = arrived
        # Under autocast, products of the norms and sums would be rounded to its narrow type.
        with torch.autocast(losses.device.type, enabled=False):
            losses.sum().backward()
        if trial:
            self.habits.tried.update(tap.call(batch) for tap in self.taps)
            self.habits.most_records_tried = max(batch, self.habits.most_records_tried)
        return strangers

    def watch(
        self,
        layer: Layer,
        tensor: Tensor,
        signature: Signature,
        uses: Callable[[Tensor], Uses],
        *,
        can_be_shared: bool = False,
    ) -> Tensor:
        """Have ``uses`` called with the gradient of ``tensor`` (rows, …), which is to be used on.

        A layer that runs again within the backward pass, because activations were not kept, is
        watched like any other, and forgotten with its output.
        """
        if not tensor.requires_grad or (tensor._is_view() and tensor.grad_fn is not None):
            # A tensor that may be changed in place without its hook being lost.
            tensor = tensor.requires_grad_().clone()
        positions = tensor.shape[1] if tensor.ndim > 2 else 1
        tap = Tap(layer, signature, len(tensor), positions, uses, can_be_shared)
        if self._arrived is None:
            self.taps.append(tap)
        if tensor.grad_fn is None:
            tensor.register_hook(lambda gradient: self._arrives(tap, gradient))
        else:
            place = tensor.output_nr
            tensor.grad_fn.register_prehook(lambda found: self._arrives(tap, found[place]))
        return tensor

    def _arrives(self, tap: Tap, gradient: Tensor | None) -> None:
        if self._arrived is not None and gradient is not None:
            self._arrived(tap, gradient)
        elif self._arrived is None and torch.is_grad_enabled():
            # What the losses owe to the weights through such a gradient would be left out.
            raise tap.layer.refusal("a gradient of its output is taken within the forward pass")

    def _call(self, way: Way, layer: Layer, /, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return layer.forward(*args, **kwargs)
        if torch._C._functorch.peek_interpreter_stack() is not None:  # type: ignore[attr-defined]
            raise layer.refusal("it is called within a transform of torch.func")
        return way(self, layer, *args, **kwargs)


def layers_of(model: nn.Module) -> list[Layer]:
    """The layers to watch; raises `InputError` for modules that no way of watching suits."""
    layers = []
    for name, module in model.named_modules():
        own = {n: p for n, p in module._parameters.items() if p is not None and p.requires_grad}
        layer = Layer(name, module, own, module.forward, "forward" in vars(module))
        if reason := why_not(module):
            raise layer.refusal(reason)
        if own:
            layers.append(layer)
    return layers


def by_record(tensor: Tensor, batch: int) -> Tensor:
    """(rows, …) as (batch, rows/batch, …)."""
    rows = len(tensor)
    if rows == batch:
        return tensor.unsqueeze(1)
    return tensor.reshape(batch, rows // batch, *tensor.shape[1:])
