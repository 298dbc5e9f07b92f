"""What a plan takes of machines: GPU-hours, and how many records fit into a card at once.

Hours are FLOPs over the card's peak, times the share of it that training reaches and what private
gradients cost beside plain ones. Both are assumptions to be replaced by a measured run. Memory is
predicted by a dry run of the step that trains.
"""

from dataclasses import dataclass

from workbench import presets
from workbench.config import ModelConfig, RunConfig
from workbench.errors import InputError, positive, probability, shown
from workbench.scaling.plans import Plan

UTILISATION = 0.3  # of the peak; large models reach more, small ones far less
ENGINE_FACTORS = {"bookkeeping": 1.3, "hooks": 2.2, "ghost": 2.9}
"""A private step over a plain one: the upper ends of what was measured on two CPU cores."""

_VOCABULARIES = ((2e7, 32_768), (1e6, 4096), (0, 512))  # from so many parameters on
_DEPTH = 64  # width over layers, as in GPT-2 and Llama of these sizes
_SHARE = 0.9  # of a card's memory
_TRIED = (1, 4)  # records of the two dry runs


@dataclass(frozen=True)
class Hardware:
    """The machines of a plan.

    ``physical_batch_size`` is how many records one card takes at once, 0 where not even one fits,
    and ``memory_gb`` is predicted for it; both are None where they were not asked for. ``cards``
    finish within ``days``, data-parallel.
    """

    card: str
    engine: str
    width: int
    layers: int
    vocabulary: int
    physical_batch_size: int | None
    memory_gb: float | None
    gpu_hours: float
    cards: int
    days: float
    note: str


def hardware(
    plan: Plan,
    *,
    card: str = "A100 80GB",
    engine: str = "bookkeeping",
    utilisation: float = UTILISATION,
    days: float = 7.0,
    memory: bool = True,
) -> Hardware:
    """What the plan takes of cards of one kind.

    Args:
        plan: the run.
        card: a name in `data/published/accelerators.csv`.
        engine: ``bookkeeping``, ``hooks`` or ``ghost``.
        utilisation: the share of the peak that a plain step reaches.
        days: in which it is to be done, which settles how many cards.
        memory: predict how many records fit, by dry runs of some seconds each.

    Raises: InputError for another card or engine, or a share that is none.
    """
    cards = {row["name"]: row for row in presets.rows("published/accelerators.csv")}
    if card not in cards:
        raise InputError(
            f"card is {shown(card)} but must be one of {', '.join(cards)}; choose one."
        )
    if engine not in ENGINE_FACTORS:
        raise InputError(
            f"engine is {shown(engine)} but must be one of {', '.join(ENGINE_FACTORS)}; choose one."
        )
    utilisation = probability("utilisation", utilisation, one=True, remedy="give a share of 1")
    days = positive("days", days, remedy="give days, such as 7")
    row = cards[card]
    speed = float(row["peak_tflops"]) * 1e12 * utilisation / ENGINE_FACTORS[engine]
    hours = plan.compute / speed / 3600
    count = max(1, -int(-hours // (24 * days)))
    shape = model_shape(plan.n_params)
    size, gigabytes = None, None
    if memory:
        size, gigabytes = _physical_batch(plan, shape, engine, float(row["memory_gb"]))
    note = (
        "Not even one record fits into the card's memory: shard the model, or take a larger card."
        if size == 0
        else f"Hours assume {utilisation:.0%} of the peak and a private step "
        f"{ENGINE_FACTORS[engine]:g} times a plain one; measure a run to know."
    )
    return Hardware(
        card, engine, shape.width, shape.layers, shape.vocabulary, size, gigabytes, hours, count,
        hours / 24 / count, note,
    )  # fmt: skip


def model_shape(n_params: float) -> ModelConfig:
    """A decoder of about so many parameters, embeddings among them."""
    vocabulary = next(size for least, size in _VOCABULARIES if n_params >= least)
    best, off = None, float("inf")
    for layers in range(1, 129):
        for heads in range(1, 257):
            width = 64 * heads if n_params >= 2e7 else 8 * heads
            # Attention has 4 matrices of width², the feed-forward part 3 of 3·width².
            count = 13 * layers * width**2 + vocabulary * width
            wanted = abs(count / n_params - 1) + 0.1 * abs(width / (_DEPTH * layers) - 1)
            if wanted < off:
                best, off = (layers, width, heads), wanted
            if count > 2 * n_params:
                break
    assert best is not None
    layers, width, heads = best
    # Heads of 64 where the width allows it, else as few as there can be.
    return ModelConfig(
        width=width, layers=layers, heads=heads if width >= 128 else 1, vocabulary=vocabulary
    )


def _physical_batch(
    plan: Plan, shape: ModelConfig, engine: str, memory_gb: float
) -> tuple[int, float]:
    """Records at once on one card, and the memory predicted for them in GB.

    Memory is nearly a straight line of the records, so that two dry runs tell it.
    """
    from workbench.training import predict_memory

    config = RunConfig().with_changes(
        {
            "model": shape.model_dump(),
            "corpus.record_tokens": plan.record_tokens,
            "training.expected_batch_size": min(plan.expected_batch_size, _TRIED[1]),
            "runtime.device": "cpu",  # as good as a card for a dry run, which holds no numbers
            "runtime.precision": "bf16",
            "runtime.engine": engine,
        }
    )
    one, more = (predict_memory(config, physical_batch_size=n).total / 1e9 for n in _TRIED)
    slope = max((more - one) / (_TRIED[1] - _TRIED[0]), 1e-9)
    room = _SHARE * memory_gb
    if one > room:
        return 0, one
    size = int(min(1 + (room - one) / slope, plan.expected_batch_size))
    return size, one + slope * (size - 1)
