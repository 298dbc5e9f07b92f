"""Audits: scoring records, and what scores say of ε.

Times are of this process's processors (CPU seconds), so that a busy machine changes them little;
where two cores work at once, seconds of the clock stand beside them.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from workbench import audit, corpora
from workbench.audit import evidence
from workbench.audit.measures import RATES, rates_at
from workbench.audit.scoring import FROM_ONE_PASS, signal_of
from workbench.config import RunConfig
from workbench.training import models
from workbench.training.randomness import initial_weights

RECORDS = 2000
TERMS = {"delta": 1e-5, "significance": 0.05}
SCORING = f"{RECORDS} records, every forward-only signal and hidden states"
LOOP = "a loop over records, the loss alone, as the article writes it"


def main() -> dict[str, float]:
    """All figures, in seconds; the peer of scoring is the article's loop."""
    return {**_scoring(), **_bounds(10_000), **_bounds(1_000_000)}


def _scoring() -> dict[str, float]:
    config = RunConfig()
    records = corpora.load(config.corpus)
    tokenizer = corpora.train_tokenizer(records.public, config.model.vocabulary)
    model = models.tiny(
        config.model,
        vocabulary=len(tokenizer),
        context=config.corpus.record_tokens,
        generator=initial_weights(0),
    ).eval()
    texts = list(records.training[:RECORDS])
    most = config.corpus.record_tokens

    def ours() -> None:
        told = audit.token_scores(model, tokenizer, texts, most_tokens=most, hidden=True)
        for signal in FROM_ONE_PASS:
            signal_of(told, texts, signal)

    def theirs() -> None:
        for text in texts:
            inputs = tokenizer(text, return_tensors="pt", max_length=most, truncation=True)
            with torch.no_grad():
                model(**inputs, labels=inputs["input_ids"]).loss.item()

    one, other = _timed(ours), _timed(theirs)
    return {
        f"{SCORING}, CPU s": one[0],
        f"{SCORING}, CPU s | {LOOP}": other[0],
        f"{SCORING}, s": one[1],
        f"{SCORING}, s | {LOOP}": other[1],
    }


def _bounds(records: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(0.5, 1, records), rng.normal(0, 1, records)
    scores = np.concatenate([inside, outside])
    member = np.arange(2 * records) < records

    def everything() -> None:
        curve = audit.roc(inside, outside)
        curve.band()
        curve.auc_interval()
        rates_at(curve, RATES)
        curve.bootstrap_band(np.geomspace(1 / records, 1, 50))
        shared = {**TERMS, "order": evidence.ranked(scores)}
        evidence.certificate(scores, member, **shared)
        evidence.rejected_gaussian(scores, member, **shared)
        quarter = evidence.Rule("fixed", len(scores) // 4)
        evidence.order_estimate(scores, member, **shared, rule=quarter)
        evidence.rate_estimates(scores, member, **shared)

    evidence.one_run_epsilon.cache_clear()
    evidence.one_run_fdp_epsilon.cache_clear()
    evidence.one_run_order_epsilon.cache_clear()
    name = f"curve, bands of 1 000 bootstraps, all bounds, {records:,} + {records:,} scores"
    first, again = _timed(everything), _timed(everything)
    return {f"{name}, CPU s": first[0], f"{name}, the same counts again, CPU s": again[0]}


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    """CPU seconds and seconds by the clock."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall
