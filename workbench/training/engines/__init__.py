"""Ways to compute a clipped gradient sum, one module each, all with the same function.

Each module here has ``clipped_gradient_sum(model, record_losses, *, factors)``, where ``factors``
turns the records' norms (batch,) into what their gradients are multiplied by, and is chosen by its
name through `workbench.training.clipped_gradient_sum`. They differ in speed and memory, not in what
they return.
"""

ENGINES = ("bookkeeping", "ghost", "hooks", "reference")
