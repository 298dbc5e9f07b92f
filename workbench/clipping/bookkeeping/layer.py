"""The modules that are watched, and how they run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from workbench.errors import InputError

Refusal = tuple[str, str]  # why, and what to do


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
            raise NoRuleError(self)  # it calls itself
        own.update(stand_ins)
        try:
            return self.forward(*args, **kwargs)
        finally:
            own.update(self.parameters)

    def run_unfollowed(self, /, *args: Any, **kwargs: Any) -> Any:
        """The layer's output, through which autograd reaches the input alone."""
        return self.run({name: p.detach() for name, p in self.parameters.items()}, *args, **kwargs)

    def refusal(self, reason: str, remedy: str) -> InputError:
        """The error that names this layer."""
        kind = type(self.module).__name__
        return InputError(
            f"The book-keeping engine cannot clip {self.name!r} ({kind}): {reason}; {remedy}."
        )


class NoRuleError(Exception):
    """A layer cannot be watched, so its parameters' gradients are taken record by record."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer.name)
        self.layer = layer


def why_not(module: nn.Module) -> Refusal | None:
    """Why a module, trainable or not, stands in the way of clipping by record, if it does."""
    if isinstance(module, _BatchNorm) and module.training:
        return "it mixes the records of a batch", "replace it by a group or layer normalisation"
    if getattr(module, "track_running_stats", False) and module.training:
        return (
            "it keeps statistics of the records, to which no noise is added",
            "build it with track_running_stats=False",
        )
    if hasattr(module, "to_standard_module") and type(module).__module__.startswith("opacus."):
        return "Opacus has wrapped it", "give what its to_standard_module() returns"
    compiled = (
        module._compiled_call_impl is not None
        or "_orig_mod" in module._modules
        or isinstance(module, torch.jit.ScriptModule)
    )
    if compiled and any(p.requires_grad for p in module.parameters()):
        return "it is compiled, and its layers cannot be watched", "give the model uncompiled"
    if isinstance(module, nn.Embedding) and module.weight.requires_grad:
        return why_not_look_up(module.max_norm, by_frequency=module.scale_grad_by_freq)
    return None


def why_not_look_up(max_norm: float | None, *, by_frequency: bool) -> Refusal | None:
    """Why a table cannot be looked up with these options, if it cannot."""
    if max_norm is not None:
        return (
            "max_norm changes its weights by what the records look up, without noise",
            "set max_norm to None",
        )
    if by_frequency:
        return (
            "scale_grad_by_freq mixes the records of a batch",
            "set scale_grad_by_freq to False",
        )
    return None


def layers_of(model: nn.Module) -> list[Layer]:
    """The layers to watch; raises `InputError` for modules that no way of watching suits."""
    layers = []
    for name, module in model.named_modules():
        own = {n: p for n, p in module._parameters.items() if p is not None and p.requires_grad}
        layer = Layer(name, module, own, module.forward, "forward" in vars(module))
        if found := why_not(module):
            raise layer.refusal(*found)
        if own:
            layers.append(layer)
    return layers
