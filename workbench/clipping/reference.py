"""One record at a time: the definition of the clipped gradient sum, slow and plain.

Nothing here is clever, so that it can be the measure of every other engine in tests.
"""

import torch
from torch import Tensor, nn

from workbench.clipping.bookkeeping.contributions import wide
from workbench.clipping.clipped_sum import (
    ClippedSum,
    Factors,
    RecordLosses,
    gradients_kept,
    norm_of,
    trainable,
    warn_of_unused,
    zeros,
)


def clipped_gradient_sum(
    model: nn.Module, record_losses: RecordLosses, *, factors: Factors
) -> ClippedSum:
    """See `workbench.training.clipped_gradient_sum`; one backward pass for each record."""
    parameters = trainable(model)
    gradients = zeros(parameters)
    losses = record_losses()
    norms = torch.zeros_like(wide(losses.detach()))
    unused = set(parameters)
    for index, loss in enumerate(losses):
        own = _record_gradients(loss, parameters)
        norms[index] = norm_of(own.values(), norms.dtype)
        (weight,) = factors(norms[index : index + 1])
        for name, gradient in own.items():
            gradients[name] += weight * gradient
        unused -= own.keys()
    if len(losses):
        warn_of_unused(name for name in parameters if name in unused)
    return ClippedSum(gradients, norms, factors.max_grad_norm)


def _record_gradients(loss: Tensor, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """One record's gradients, without the parameters that its loss does not depend on."""
    if not loss.requires_grad:
        return {}
    # By way of .grad, which checkpointing of the reentrant kind needs.
    with gradients_kept(parameters.values()):
        loss.backward(retain_graph=True)
        found = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    return {name: wide(g.to_dense() if g.is_sparse else g) for name, g in found.items()}
