"""How each kind of layer is run so that its parameters' gradients can be told apart by record.

A way to run takes the recorder, the layer and the call's arguments, returns the layer's output, and
leaves the recorder something to watch. `way_to_run` chooses by what the layer's forward computes.
"""

import inspect
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import embedding as look_up
from torch.overrides import TorchFunctionMode

from workbench.clipping.bookkeeping import layer_rules as layers
from workbench.clipping.bookkeeping.contributions import Dense, wide
from workbench.clipping.bookkeeping.habits import Habits
from workbench.clipping.bookkeeping.isolation import NOT_RECORDS, Uses, first_tensor, signature_of
from workbench.clipping.bookkeeping.layer import Layer, NoRuleError, why_not_look_up
from workbench.clipping.bookkeeping.recorder import Recorder, Way

_CHANGED = ("its input was changed in place after it was used", "have the model change a copy")


def way_to_run(layer: Layer, habits: Habits) -> Way:
    """The way for this layer: by a rule, row by row, or else as it is."""
    if layer.name in habits.without_rule or isinstance(layer.module, nn.RNNBase):
        return _as_it_is
    if rule := layers.RULES.get(getattr(layer.forward, "__func__", layer.forward)):
        return partial(_with_rule, rule)
    if isinstance(layer.module, nn.Embedding) and layer.parameters.keys() == {"weight"}:
        return _around_look_up
    if any(True for part in layer.module.children() for _ in part.parameters()):
        return _as_it_is
    vectors = all(p.ndim == 1 for p in layer.parameters.values())
    if vectors and "Norm" in type(layer.module).__name__:
        return _with_copies
    return _row_by_row


def _as_it_is(recorder: Recorder, layer: Layer, /, *args: Any, **kwargs: Any) -> Any:
    """A layer whose parameters' gradients are taken from autograd, record by record.

    That its records stay apart is seen from its first input and output, if these are tensors.
    """
    recorder.keeps_graph = True
    for x in first_tensor(args):
        args = (recorder.look_at(layer, x, "input"), *args[1:])
    for name, value in [] if args else list(kwargs.items())[:1]:
        for x in first_tensor((value,)):
            kwargs[name] = recorder.look_at(layer, x, "input")
    output = layer.forward(*args, **kwargs)
    for x in first_tensor(output):
        seen = recorder.look_at(layer, x, "output")
        if type(output) in (tuple, list):
            return type(output)((seen, *output[1:]))
        return seen if isinstance(output, Tensor) else output
    return output


def _with_rule(
    rule: layers.Rule, recorder: Recorder, layer: Layer, /, *args: Any, **kwargs: Any
) -> Tensor:
    """A layer whose rule makes uses of its input and its output's gradient."""
    if recorder.leaves_alone(layer, _first(args, kwargs)):
        return layer.forward(*args, **kwargs)
    output = layer.run_unfollowed(*args, **kwargs)
    if output._is_view():  # Conv1D's: the same numbers, but free to be changed in place
        output = torch.ops.aten._unsafe_view(output, output.shape)
    return _watched(rule, recorder, layer, _first(args, kwargs), output)


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A layer's input, also where it is given by its name."""
    return args[0] if args else next(iter(kwargs.values()), None)


def _around_look_up(recorder: Recorder, layer: Layer, /, *args: Any, **kwargs: Any) -> Any:
    """An embedding that scales or shifts: what it looks up inside is watched, not its output."""
    if recorder.leaves_alone(layer, _first(args, kwargs)):
        return layer.forward(*args, **kwargs)
    stand_in = layer.parameters["weight"].detach()
    with _LookUps(recorder, layer, stand_in):
        return layer.run({"weight": stand_in}, *args, **kwargs)


class _LookUps(TorchFunctionMode):
    """Watches `torch.nn.functional.embedding` while a single layer runs on ``weight``."""

    def __init__(self, recorder: Recorder, layer: Layer, weight: Tensor) -> None:
        super().__init__()
        self.recorder, self.layer, self.weight = recorder, layer, weight

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        used = any(value is self.weight for value in (*args, *kwargs.values()))
        if not used or func in _ASKING:
            return func(*args, **kwargs)
        if func is not look_up:
            raise NoRuleError(self.layer)  # it uses its weight for more than looking up rows
        call = _LOOK_UP.bind(*args, **kwargs)
        call.apply_defaults()
        asked = call.arguments
        by_frequency = asked["scale_grad_by_freq"]
        if found := why_not_look_up(asked["max_norm"], by_frequency=by_frequency):
            raise self.layer.refusal(*found)
        rule = layers.look_up(asked["padding_idx"])
        return _watched(rule, self.recorder, self.layer, asked["input"], func(*args, **kwargs))


_LOOK_UP = inspect.signature(look_up)
# What may be asked of a weight without using its numbers.
_ASKING = {getattr(Tensor, name).__get__ for name in ("device", "dtype", "shape", "requires_grad")}


def _watched(
    rule: layers.Rule, recorder: Recorder, layer: Layer, x: Tensor, output: Tensor
) -> Tensor:
    """``output`` (rows, …), watched; repeated for each record if all records share it."""
    if output.ndim < 2:
        raise NoRuleError(layer)  # it was called on a single vector instead of a batch
    signature = signature_of(layer, x)
    if signature not in recorder.habits.shared:
        recorder.batch = recorder.batch or len(x)
    elif recorder.batch:
        recorder.repeats(layer, x)
        x, output = (_repeated(t, recorder.batch) for t in (x, output))
    source = x
    x = x.detach()  # keeps the numbers, not the graph behind them
    version = x._version

    def uses(gradient: Tensor) -> Uses:
        if x._version != version:
            raise layer.refusal(*_CHANGED)
        inputs = x.reshape(*gradient.shape[:2], *x.shape[1:])
        for name, use in rule(layer.module, inputs, gradient, layer.parameters):
            yield layer.parameters[name], use

    # A table asked for rows 0, 1, 2 … is asked for all records at once.
    can_be_shared = x.ndim == 1 or len(x) == 1
    return recorder.watch(
        layer, output, signature, uses, can_be_shared=can_be_shared, source=source
    )


def _repeated(tensor: Tensor, batch: int) -> Tensor:
    """What all records share, (1, …) or (…) without a batch, as (batch, …), not copied."""
    return tensor.expand(batch, *tensor.shape[1 if len(tensor) == 1 else 0 :])


def _with_copies(recorder: Recorder, layer: Layer, /, *args: Any, **kwargs: Any) -> Tensor:
    """A normalisation whose vectors multiply or add by broadcasting: each row gets its own copy.

    Autograd then sums each copy's gradient over its row alone, whatever the formula (Gemma's is
    1 + weight). The first call checks that the copies change nothing else.
    """
    x = _first(args, kwargs)
    if not isinstance(x, Tensor) or not x.ndim:
        raise NoRuleError(layer)
    if recorder.leaves_alone(layer, x):
        return layer.forward(*args, **kwargs)
    rows, between = len(x), [1] * (x.ndim - 2)
    copies = {
        name: p.detach().expand(rows, *between, *p.shape).requires_grad_()
        for name, p in layer.parameters.items()
    }
    habits, signature = recorder.habits, signature_of(layer, x)
    if signature not in habits.elementwise:
        habits.elementwise[signature] = _same(layer, copies, *args, **kwargs)
    if not habits.elementwise[signature]:
        return _row_by_row(recorder, layer, *args, **kwargs)
    if args and not x.requires_grad:  # no layer before it would show that records mix in it
        args = (recorder.look_at(layer, x, "input"), *args[1:])
    output = layer.run(copies, *args, **kwargs)
    for name, copy in copies.items():
        uses = partial(_summed, layer.parameters[name])
        recorder.watch(layer, copy, signature, uses, is_copy=True)
    return output


def _same(layer: Layer, copies: dict[str, Tensor], /, *args: Any, **kwargs: Any) -> bool:
    # A layer inside a checkpoint is run again later, without this check: what the check saves for
    # its own backward pass must not be counted there. Detached, or an output would hold itself.
    with saved_tensors_hooks(lambda saved: saved.detach(), lambda saved: saved):
        plain = layer.run_unfollowed(*args, **kwargs)
        if not isinstance(plain, Tensor):
            return False
        try:
            copied = layer.run(copies, *args, **kwargs)
            if isinstance(copied.grad_fn, BackwardCFunction):  # a backward pass by hand
                torch.autograd.grad(copied.sum(), list(copies.values()), allow_unused=True)
        except RuntimeError:  # a kernel that takes, or gives back, one vector only
            return False
    # Copies of a weight that is not the last to be lined up give an output of another shape, which
    # would pass by broadcasting. NaN in the same places is the same: that a value is not finite
    # says nothing of the formula.
    return plain.shape == copied.shape and torch.allclose(
        plain, copied, rtol=0, atol=0, equal_nan=True
    )


def _summed(parameter: nn.Parameter, gradient: Tensor) -> Uses:
    yield parameter, Dense(layers.over_positions(gradient, parameter.ndim))


def _row_by_row(recorder: Recorder, layer: Layer, /, *args: Any, **kwargs: Any) -> Tensor:
    """A layer without a rule: each row's gradient from the layer's own forward on that row."""
    x = _first(args, kwargs)
    if not isinstance(x, Tensor) or not x.ndim:
        raise NoRuleError(layer)
    if recorder.leaves_alone(layer, x):
        return layer.forward(*args, **kwargs)
    inputs = {**dict(enumerate(args)), **kwargs}
    if any(isinstance(value, nn.Module) for value in inputs.values()):
        raise NoRuleError(layer)  # it runs layers of others
    output = layer.run_unfollowed(*args, **kwargs)
    if not isinstance(output, Tensor) or output.ndim == 0:
        raise NoRuleError(layer)
    versions = {key: v._version for key, v in inputs.items() if isinstance(v, Tensor)}
    floats = {key for key in versions if inputs[key].is_floating_point()}

    def run(parameters: dict[str, Tensor], inputs: dict[Any, Any]) -> Tensor:
        positional = [inputs[i] for i in range(len(args))]
        return layer.run(parameters, *positional, **{name: inputs[name] for name in kwargs})

    def uses(gradient: Tensor) -> Uses:
        if any(inputs[key]._version != version for key, version in versions.items()):
            raise layer.refusal(*_CHANGED)
        parameters = {name: wide(p.detach()) for name, p in layer.parameters.items()}
        widened = {key: wide(v) if key in floats else v for key, v in inputs.items()}
        try:
            rows = layers.row_gradients(run, parameters, widened, wide(gradient.flatten(0, 1)))
        except layers.RowsMixError as error:
            raise layer.refusal(str(error), NOT_RECORDS[1]) from None
        except (RuntimeError, ValueError, TypeError):
            raise NoRuleError(layer) from None  # it does not run row by row
        for name, parameter in layer.parameters.items():
            gradients = rows[name].unflatten(0, gradient.shape[:2])
            yield parameter, Dense(layers.over_positions(gradients, parameter.ndim))

    return recorder.watch(layer, output, signature_of(layer, x), uses, source=x)
