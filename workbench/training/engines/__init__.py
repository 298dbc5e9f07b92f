"""Ways to compute a clipped gradient sum, one module each, all with the same function.

Each module here has ``clipped_gradient_sum(model, record_losses, *, max_grad_norm)`` and is chosen
by its name through `workbench.training.clipped_gradient_sum`. They differ in speed and memory, not
in what they return.
"""

ENGINES = ("bookkeeping", "hooks", "reference")
