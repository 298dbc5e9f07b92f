"""How each kind of layer turns its input and output gradient into uses of its parameters.

A rule takes the layer, its input and the gradient of its output, both (batch, …, features), and the
names of the parameters wanted; it yields (name, use). Kinds are told apart by their ``forward``: a
subclass that computes something else does not pass for its parent.
"""

import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap
from torch.nn.functional import layer_norm, rms_norm
from transformers.pytorch_utils import Conv1D

from workbench.clipping.bookkeeping.contributions import Dense, Rows, Use, outer, wide
from workbench.clipping.bookkeeping.rounding import widest

Uses = Iterator[tuple[str, Use]]
Rule = Callable[[Any, Tensor, Tensor, Collection[str]], Uses]


def linear(_: nn.Linear, x: Tensor, gradient: Tensor, wanted: Collection[str]) -> Uses:
    """Linear layer: x Wᵀ + b."""
    if "weight" in wanted:
        yield "weight", outer(gradient.flatten(1, -2), x.flatten(1, -2))
    if "bias" in wanted:
        yield "bias", Dense(over_positions(gradient, 1))


def conv1d(_: Conv1D, x: Tensor, gradient: Tensor, wanted: Collection[str]) -> Uses:
    """GPT-2's linear layer: x W + b."""
    if "weight" in wanted:
        yield "weight", outer(x.flatten(1, -2), gradient.flatten(1, -2))
    if "bias" in wanted:
        yield "bias", Dense(over_positions(gradient, 1))


def embedding(layer: nn.Embedding, x: Tensor, gradient: Tensor, wanted: Collection[str]) -> Uses:
    """Rows W[x]; the padding row gets no gradient."""
    return look_up(layer.padding_idx)(layer, x, gradient, wanted)


def look_up(padding_idx: int | None) -> Rule:
    """The rule of rows W[x] that are looked up with this padding row, maybe counted from below."""

    def rule(layer: nn.Embedding, x: Tensor, gradient: Tensor, _: Collection[str]) -> Uses:
        height = len(layer.weight)  # which may be another weight than the layer began with
        indices, values = x.flatten(1), wide(gradient.flatten(1, -2))
        if padding_idx is not None:
            values = values * (indices != padding_idx % height)[:, :, None]
        yield "weight", Rows(indices, values, height)

    return rule


def normalisation(
    layer: nn.LayerNorm | nn.RMSNorm, x: Tensor, gradient: Tensor, wanted: Collection[str]
) -> Uses:
    """Scale and shift: w ⊙ normalised(x) + b."""
    shape = list(layer.normalized_shape)
    if "weight" in wanted:
        normalise = layer_norm if isinstance(layer, nn.LayerNorm) else rms_norm
        normalised = normalise(wide(x), shape, eps=layer.eps)  # type: ignore[arg-type]
        yield "weight", Dense(over_positions(gradient * normalised, len(shape)))
    if "bias" in wanted:
        yield "bias", Dense(over_positions(gradient, len(shape)))


RULES: dict[Callable[..., Any], Rule] = {
    nn.Linear.forward: linear,
    Conv1D.forward: conv1d,
    nn.Embedding.forward: embedding,
    nn.LayerNorm.forward: normalisation,
    nn.RMSNorm.forward: normalisation,
}


class RowsMixError(Exception):
    """What a layer makes of one row depends on others."""


def over_positions(tensor: Tensor, features: int) -> Tensor:
    """(batch, …) summed to (batch, and its last ``features`` dimensions), float32 or wider."""
    between = tuple(range(1, tensor.ndim - features))
    return wide(tensor).sum(between) if between else wide(tensor)


def row_gradients(
    run: Callable[[dict[str, Tensor], dict[Any, Any]], Tensor],
    parameters: dict[str, Tensor],
    inputs: dict[Any, Any],
    gradient: Tensor,
) -> dict[str, Tensor]:
    """Gradients (rows, *shape) of any layer, by running it on each row alone.

    Args:
        run: the layer's output (rows, …) from its parameters and its inputs.
        parameters: by name.
        inputs: by position or name; the tensors with as many rows as the output are divided.
        gradient: of the output, (rows, …).

    Raises `RowsMixError` if the rows do not add up to the layer's ordinary gradient, because what
    it makes of one row then depends on others.
    """
    rows, wholes = _rows_and_wholes(run, parameters, inputs, gradient)
    apart = {}
    for name, whole in wholes.items():
        if not (whole.isfinite().all() and rows[name].isfinite().all()):
            continue  # nothing to compare; whoever takes the norms refuses it
        rounding = 1e-4 * float(rows[name].abs().sum(0).max())
        if not _add_up(rows[name], whole, rounding):
            apart[name] = rounding
    if apart:
        # Where the terms of a gradient cancel, rounding is all there is. In float64 it all but
        # vanishes, and what mixed records make of the sum stays.
        exact, exact_wholes = _rows_and_wholes(
            run, _widest(parameters), _widest(inputs), gradient.to(widest(gradient.device))
        )
        if not all(_add_up(exact[name], exact_wholes[name], apart[name]) for name in apart):
            raise RowsMixError("it mixes the records of a batch, or its gradient is but rounding")
    return rows


def _rows_and_wholes(
    run: Callable[[dict[str, Tensor], dict[Any, Any]], Tensor],
    parameters: dict[str, Tensor],
    inputs: dict[Any, Any],
    gradient: Tensor,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of each row alone, (rows, *shape), and of all rows at once."""
    divided = {
        key: v
        for key, v in inputs.items()
        if isinstance(v, Tensor) and v.shape[:1] == gradient.shape[:1]
    }

    def pull_back(divided: dict[Any, Tensor], gradient: Tensor) -> dict[str, Tensor]:
        return vjp(lambda p: run(p, {**inputs, **divided}), parameters)[1](gradient)[0]

    def of_one_row(divided: dict[Any, Tensor], gradient: Tensor) -> dict[str, Tensor]:
        return pull_back({key: v[None] for key, v in divided.items()}, gradient[None])

    with warnings.catch_warnings():
        # Torch tells for what it maps slowly; what it maps wrongly does not add up.
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        return vmap(of_one_row)(divided, gradient), pull_back(divided, gradient)


def _add_up(rows: Tensor, whole: Tensor, rounding: float) -> bool:
    return torch.allclose(rows.sum(0), whole, rtol=1e-3, atol=rounding)


def _widest(values: dict[Any, Any]) -> dict[Any, Any]:
    return {
        key: v.to(widest(v.device)) if isinstance(v, Tensor) and v.is_floating_point() else v
        for key, v in values.items()
    }
