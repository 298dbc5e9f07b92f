"""Canaries: in by a fair coin, learnable, counted, on record, and held fast when a run goes on."""

import json
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench import corpora, training
from workbench.config import RunConfig
from workbench.corpora.tokens import IGNORED
from workbench.errors import InputError
from workbench.runs.planted import CANARIES, Planted, read_planted
from workbench.training import models
from workbench.training.planting import canary_log_likelihoods
from workbench.training.prepare import Examples, prepare
from workbench.training.same_run import corpus_hash

KINDS = ["in_distribution", "surprising_suffix", "new_token"]


@pytest.fixture
def planting(config: RunConfig) -> RunConfig:
    """Ten canaries among some fifty records."""
    return config.with_changes({"canaries.count": 10, "privacy.accountant": "rdp"})


def _with(config: RunConfig, **changes: object) -> RunConfig:
    return config.with_changes({name.replace("__", "."): v for name, v in changes.items()})


def _planted(config: RunConfig) -> Planted:
    planted = prepare(config).planted
    assert planted is not None
    return planted


def test_without_canaries_nothing_changes(config: RunConfig):
    prepared = prepare(config)
    assert prepared.planted is None
    assert len(prepared.training) == prepared.terms.training_records == prepared.counts.training


@pytest.mark.parametrize(("kind", "repeats"), [*zip(KINDS, (1, 3, 2), strict=True)])
def test_those_that_are_in_are_trained_on_and_all_count(
    planting: RunConfig, kind: str, repeats: int
):
    """N and the sample rate tell nobody how the coins fell."""
    config = _with(planting, canaries__kind=kind, canaries__repeats=repeats)
    prepared, plain = prepare(config), prepare(_with(config, canaries__count=0))
    planted = prepared.planted
    assert planted is not None
    own = len(plain.training)
    assert prepared.training.tokens[:own].equal(plain.training.tokens)
    assert len(prepared.training) == own + repeats * int(planted.included.sum())
    assert prepared.plan.dataset_size == own + 10 * repeats
    assert prepared.terms.training_records == own + 10 * repeats
    assert prepared.plan.at(0).sample_rate == 30 / (own + 10 * repeats)
    assert prepared.counts.canaries == 10 * repeats
    planted_rows = prepared.training[own:]
    for row, index in zip(
        range(0, len(planted_rows), repeats), np.flatnonzero(planted.included), strict=True
    ):
        tokens, labels = planted_rows.tokens[row], planted_rows.labels[row]
        said = planted.rows[index]
        assert tuple(tokens[: len(said)].tolist()) == said
        learnt = (labels != IGNORED).nonzero().ravel()
        assert learnt.tolist() == list(range(planted.learnt_from[index], len(said)))


def test_a_new_token_is_in_one_canary_and_has_all_of_its_loss(planting: RunConfig):
    prepared = prepare(planting)
    planted = prepared.planted
    assert planted is not None
    new = [row[-1] for row in planted.rows]
    assert len(set(new)) == 10
    assert prepared.tokenizer.convert_ids_to_tokens(new[0]) == "<|canary 0|>"
    assert models.vocabulary(prepared.model) == max(new) + 1 == len(prepared.tokenizer)
    others = prepared.training.tokens[prepared.training.tokens >= min(new)]
    assert len(others) == planted.included.sum()
    logits = prepared.model(torch.tensor([planted.rows[3][:-1]])).logits[0, -1]
    expected = float(logits.log_softmax(-1)[new[3]].detach())
    assert planted.before[3] == pytest.approx(expected, rel=1e-5)


def test_a_batch_of_one_canary_keeps_its_only_label():
    """Labels need not begin where the record does."""
    tokens = torch.arange(10)[None]
    labels = torch.full((1, 10), IGNORED)
    labels[0, 6] = 6
    cut = Examples(tokens, labels).without_common_padding()
    assert cut.labels.tolist()[0][6] == 6
    assert cut.tokens.shape == (1, 7)


def test_a_surprising_suffix_surprises(planting: RunConfig):
    planted = _planted(_with(planting, canaries__kind="surprising_suffix"))
    natural = _planted(_with(planting, canaries__kind="in_distribution"))
    for row, own, start in zip(planted.rows, natural.rows, planted.scored_from, strict=True):
        assert row[:start] == own[:start]
        assert row[start:] != own[start:]
        assert start == len(row) // 2


def test_twins_share_canaries_and_coins_and_other_seeds_do_not(planting: RunConfig):
    first, twin = _planted(planting), _planted(_with(planting, privacy__private=False))
    assert twin.rows == first.rows
    assert (twin.included == first.included).all()
    assert _planted(_with(planting, canaries__seed=1)).rows != first.rows


def test_too_few_public_records_are_refused(planting: RunConfig):
    with pytest.raises(InputError, match=r"only \d+ of \d+ public records .*lower canaries.count"):
        prepare(_with(planting, canaries__count=200))


def test_copies_of_training_records_become_no_canary(tmp_path: Path, planting: RunConfig):
    """Cut at three tokens, few different ones are left."""
    config = _with(planting, corpus__record_tokens=4, canaries__kind="in_distribution")
    with pytest.raises(InputError, match=r"canaries.count is 10 but only"):
        prepare(config)
    prepare(_with(config, canaries__kind="new_token"))


def test_a_model_with_canaries_of_an_earlier_audit_is_refused(planting: RunConfig, tmp_path: Path):
    training.train(planting, run_dir=tmp_path / "run")
    folder = next((tmp_path / "run" / "checkpoints").iterdir())
    with pytest.raises(InputError, match="has tokens of canaries already"):
        prepare(_with(planting, model__source=str(folder)))


def test_frozen_embeddings_are_refused(planting: RunConfig, monkeypatch: pytest.MonkeyPatch):
    grow = models.grow_vocabulary

    def frozen(model, *args, **more):
        grow(model, *args, **more)
        model.get_input_embeddings().requires_grad_(False)

    monkeypatch.setattr(models, "grow_vocabulary", frozen)
    with pytest.raises(InputError, match="embeddings are frozen"):
        prepare(planting)


def _run(config: RunConfig, path: Path, *, stop_after: int | None = None) -> training.RunRecord:
    stop = threading.Event()
    training.train(
        config,
        run_dir=path,
        stop=stop,
        on_step=lambda r: stop.set() if r.step == stop_after else None,
    )
    return training.read_run(path)


def test_the_ledger_holds_the_canaries_from_before_the_first_step(
    planting: RunConfig, tmp_path: Path
):
    record = _run(planting, tmp_path / "run")
    line = json.loads((record.path / "ledger.jsonl").read_text("utf-8").splitlines()[1])
    assert (line["canaries"], line["kind"], line["repeats"]) == (10, "new_token", 1)
    planted = read_planted(record.path, record.ledger.planted)
    assert planted is not None
    assert record.summary["records"]["canaries"] == 10
    assert record.ledger.terms.training_records == record.summary["records"]["training"] + 10
    assert training.verify(record.path) == record.ledger.guarantee()
    again = Planted.from_json(planted.to_json())
    assert again.rows == planted.rows
    for name in ("learnt_from", "scored_from", "before", "included"):
        assert (getattr(again, name) == getattr(planted, name)).all()
    assert planted.to_json() != planted.to_json()  # a salt of its own


def test_other_coins_are_found(planting: RunConfig, tmp_path: Path):
    record = _run(planting, tmp_path / "run")
    path = record.path / CANARIES
    text = path.read_text("utf-8")
    values = json.loads(text)
    values["included"][0] = 1 - values["included"][0]
    path.write_text(json.dumps(values), "utf-8")
    for look in (training.verify, training.resume):
        with pytest.raises(InputError, match="is not what was written before the first step"):
            look(record.path)
    path.unlink()
    with pytest.raises(InputError, match=r"cannot be read, in which the ledger's 10 canaries"):
        training.verify(record.path)
    path.write_text(text, "utf-8")
    training.verify(record.path)
    lines = (record.path / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (record.path / "ledger.jsonl").write_bytes(b"".join([lines[0], *lines[2:]]))
    with pytest.raises(InputError, match="does not fit the chain"):
        training.verify(record.path)


@pytest.mark.parametrize("randomness", ["seeded", "secure"])
def test_a_run_goes_on_with_the_coins_it_began_with(
    planting: RunConfig, tmp_path: Path, randomness: str
):
    """Secure coins can be drawn again by nobody, so the folder has them."""
    config = _with(planting, randomness=randomness)
    record = _run(config, tmp_path / "run", stop_after=2)
    before = (record.path / CANARIES).read_bytes()
    assert training.resume(record.path).steps == 4
    assert (record.path / CANARIES).read_bytes() == before
    training.verify(record.path)


def test_secure_coins_differ_from_run_to_run(planting: RunConfig):
    config = _with(planting, randomness="secure", canaries__count=20)
    assert len({_planted(config).included.tobytes() for _ in range(5)}) > 1


def test_canaries_cannot_be_edited_on_the_way(planting: RunConfig, tmp_path: Path):
    record = _run(planting, tmp_path / "run", stop_after=1)
    edits = {"count": 9, "kind": "in_distribution", "repeats": 2, "seed": 1}
    for field, value in edits.items():
        edited = planting.with_changes({f"canaries.{field}": value})
        (record.path / "config.yaml").write_text(edited.to_yaml(), "utf-8")
        with pytest.raises(InputError, match=f"canaries.{field} is .* but the run .* was begun"):
            training.resume(record.path)


def test_coins_have_a_share_in_the_hash_of_the_corpus(planting: RunConfig):
    """And so in what seeded noise follows from."""
    one = np.array([True, False] * 5)
    first, second, again = (prepare(planting, coins=c) for c in (one, ~one, one))
    assert first.corpus == again.corpus != second.corpus
    assert first.randomness.root == again.randomness.root != second.randomness.root
    assert first.training.tokens.shape == second.training.tokens.shape


def test_settings_of_canaries_have_a_share_even_where_no_row_differs(planting: RunConfig):
    records = corpora.load(planting.corpus)
    tokenizer = corpora.train_tokenizer(records.public, 270)
    rows = corpora.encode(tokenizer, records.training, record_tokens=12)
    configs: Iterable[RunConfig] = (planting, _with(planting, canaries__count=0))
    assert len({corpus_hash(config, records, tokenizer, rows) for config in configs}) == 2


def test_scores_rise_where_a_canary_is_learnt(planting: RunConfig):
    """By gradient descent on one canary's own loss."""
    prepared = prepare(planting)
    planted = prepared.planted
    assert planted is not None
    optimizer = torch.optim.Adam(prepared.model.parameters(), lr=0.05)
    row = torch.tensor([planted.rows[4]])
    labels = torch.full_like(row, IGNORED)
    labels[0, -1] = row[0, -1]
    for _ in range(20):
        optimizer.zero_grad()
        models.record_losses(prepared.model, row, labels).sum().backward()
        optimizer.step()
    gained = canary_log_likelihoods(prepared.model, planted) - planted.before
    assert gained[4] > 2
    assert gained.argmax() == 4
