"""Every run that could be planned: sizes × batches × steps, with noise, compute and loss."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from workbench.errors import InputError
from workbench.scaling.fitted import FAR
from workbench.scaling.plan_noise import noise_table
from workbench.scaling.plan_sources import LawSource

BEYOND = 4.0  # times the sizes and steps of the points that a plan may reach, marked as such
_SIZES, _BATCHES, _STEPS = 20, 24, 28
_LEAST_BATCH = 8.0
_MOST_RECORDS = 1e12
_LEAST_RATE = 1e-6  # below it nothing is known of σ


@dataclass(frozen=True)
class Question:
    """What a plan is made for; ``target_epsilon`` is infinite where noise is not asked for."""

    records: float
    record_tokens: int
    target_epsilon: float
    delta: float
    compute: float | None


@dataclass(frozen=True, eq=False)
class Cells:
    """Runs side by side, (cells,) each; ``frame`` holds what laws read."""

    frame: pd.DataFrame
    noise_multiplier: np.ndarray
    rho: np.ndarray
    compute: np.ndarray
    loss: np.ndarray

    def within(self, compute: float) -> np.ndarray:
        """Which cells cost at most so many FLOPs."""
        return self.compute <= compute * (1 + 1e-9)


def cells(question: Question, source: LawSource) -> Cells:
    """The runs of the question that the source can tell of, up to `BEYOND` times its points."""
    n, s = question.records, question.record_tokens
    least_size, most_size = source.range_of("n_params")
    least_steps, most_steps = source.range_of("steps")
    sizes = _axis(least_size / BEYOND, most_size * BEYOND, _SIZES)
    batches = _axis(max(min(_LEAST_BATCH, n), n * _LEAST_RATE), n, _BATCHES)
    steps = np.unique(np.round(_axis(max(least_steps, 1), most_steps * BEYOND, _STEPS)))
    m, b, t = (axis.ravel() for axis in np.meshgrid(sizes, batches, steps, indexing="ij"))
    if question.compute is not None:  # steps that use up the compute
        size, batch = (axis.ravel() for axis in np.meshgrid(sizes, batches, indexing="ij"))
        all_of_it = np.floor(question.compute / (6 * size * batch * s))
        useful = (all_of_it >= steps[0]) & (all_of_it <= steps[-1])
        m, b = np.concatenate([m, size[useful]]), np.concatenate([b, batch[useful]])
        t = np.concatenate([t, all_of_it[useful]])
    table = noise_table(question.target_epsilon, question.delta, batches[0] / n, steps[-1])
    sigma = table.noise_multiplier(b / n, t)
    near = _near(source, frame_of(question, m, b, t, sigma))
    if not near.any():
        raise InputError(
            f"Every run with {n:g} records at ε = {question.target_epsilon:g} lies more than "
            f"{FAR:g} times beyond the source's points; measure nearer to it, or ask for less."
        )
    m, b, t, sigma = m[near], b[near], t[near], sigma[near]
    frame = frame_of(question, m, b, t, sigma)
    return Cells(
        frame,
        sigma,
        table.rho(sigma, b / n, t),
        6 * m * b * s * t,
        np.exp(source.log_loss(frame)),
    )


def frame_of(
    question: Question,
    n_params: np.ndarray,
    batch: np.ndarray,
    steps: np.ndarray,
    sigma: np.ndarray,
) -> pd.DataFrame:
    """The covariates of runs."""
    tokens = steps * batch * question.record_tokens
    return pd.DataFrame(
        {
            "n_params": n_params,
            "steps": steps,
            "expected_batch_size": batch,
            "noise_batch_ratio": sigma / batch,
            "tokens": tokens,
            "unique_tokens": np.minimum(tokens, question.records * question.record_tokens),
        }
    )


def most_records(question: Question, source: LawSource) -> float:
    """The most records that are worth asking about.

    Beyond, δ is above one over them, or every batch that the points tell of is a sample so thin
    that nothing is known of its σ.
    """
    most = min(_MOST_RECORDS, 1 / question.delta)
    if "tokens" in source.law.ranges:
        least_steps, most_tokens = source.range_of("steps")[0], source.range_of("tokens")[1]
        batch = FAR * most_tokens / (max(least_steps, 1) * question.record_tokens)
        most = min(most, batch / _LEAST_RATE)
    return most


def _near(source: LawSource, frame: pd.DataFrame) -> np.ndarray:
    """Which runs lie at most `FAR` times beyond the points; less noise than theirs is near."""
    near = np.ones(len(frame), dtype=bool)
    for name in ("n_params", "steps", "tokens", "noise_batch_ratio"):
        if name in source.law.ranges:
            low, high = source.range_of(name)
            values = np.asarray(frame[name])
            near &= values <= FAR * high
            near &= (values >= low / FAR) | (name == "noise_batch_ratio")
    return near


def _axis(low: float, high: float, count: int) -> np.ndarray:
    return np.geomspace(low, high, count) if high > low else np.array([high])
