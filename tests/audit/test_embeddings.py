"""Attacks on hidden states: found where there is something, and chance where there is nothing."""

import math

import numpy as np
import pytest

from workbench.audit.embeddings import embedding_attack
from workbench.errors import InputError


def states(rng: np.random.Generator, n: int, *, width: int = 6) -> np.ndarray:
    return rng.normal(size=(n, 2, width))


def test_the_layer_that_leaks_is_found_and_no_other():
    rng = np.random.default_rng(0)
    member = rng.integers(2, size=400).astype(bool)
    values = states(rng, 400)
    values[member, 1, 2] += 1.0
    quiet, loud = embedding_attack(values, member).layers
    assert quiet.low < 0.5 < quiet.high
    # Two Gaussians a deviation apart: Φ(1/√2).
    assert loud.low < 0.76 < loud.high
    assert loud.high - loud.low < 0.2
    assert (quiet.layer, loud.layer) == (0, 1)


def test_nothing_is_found_where_nothing_is_and_intervals_cover_it():
    """Cross-fitting must not pull chance below one half either."""
    rng, tries = np.random.default_rng(1), 60
    aucs, covered = [], 0
    for number in range(tries):
        member = rng.integers(2, size=120).astype(bool)
        for layer in embedding_attack(states(rng, 120), member, seed=number).layers:
            aucs.append(layer.auc)
            covered += layer.low < 0.5 < layer.high
    assert abs(np.mean(aucs) - 0.5) < 4 * np.std(aucs) / math.sqrt(len(aucs))
    assert covered / len(aucs) > 0.9  # three in twenty are missed at DeLong's own width


def test_copies_of_a_record_stay_together():
    """Else the classifier has seen each record it scores, and finds what is not there."""
    rng = np.random.default_rng(2)
    member = rng.integers(2, size=100).astype(bool)
    values = states(rng, 100, width=80)
    twice, truth = np.concatenate([values, values]), np.concatenate([member, member])
    copies = np.concatenate([np.arange(100)] * 2)
    apart = embedding_attack(twice, truth).layers[0].auc
    together = embedding_attack(twice, truth, groups=copies).layers[0].auc
    assert apart > 0.75
    assert together < 0.65


def test_scale_and_shift_of_features_do_not_matter():
    rng = np.random.default_rng(3)
    member = rng.integers(2, size=200).astype(bool)
    values = states(rng, 200)
    values[member, 0, 0] += 1.0
    moved = values * np.array([1, 100, 1e-3, 5, 7, 9]) + 3.0
    one, other = (embedding_attack(of, member).scores for of in (values, moved))
    assert np.allclose(one, other, atol=1e-6)


def test_more_features_than_records_and_constant_ones_are_no_obstacle():
    rng = np.random.default_rng(4)
    member = rng.integers(2, size=80).astype(bool)
    values = states(rng, 80, width=300)
    values[:, :, 1] = 2.0
    values[member, 0, 0] += 4.0
    attack = embedding_attack(values, member)
    assert np.isfinite(attack.scores).all()
    assert attack.layers[0].auc > attack.layers[1].high - 0.2


def test_what_cannot_be_attacked_is_refused():
    rng = np.random.default_rng(5)
    member = np.arange(60) % 2 == 0
    values = states(rng, 60)
    for arguments, says in (
        ((values[:, 0], member), "must be .records, layers, width."),
        ((values, member[:50]), "one truth value and one number for each of 60"),
        ((values, member.astype(int)), "one truth value"),
        ((np.where(values > 2, np.nan, values), member), "not finite"),
        ((values, np.arange(60) < 5), "at least 20 of each"),
    ):
        with pytest.raises(InputError, match=says):
            embedding_attack(*arguments)
    with pytest.raises(InputError, match="3 groups of duplicates but 10 folds"):
        embedding_attack(values, member, groups=np.arange(60) % 3)
