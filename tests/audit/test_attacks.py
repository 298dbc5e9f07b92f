"""Every signal of a record is that of a plain computation from its own logits."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.audit.conftest import Learnt
from workbench import audit
from workbench.audit.attacks import ATTACKS, Passes, scored, tidy
from workbench.audit.records import AuditRecords, text_records
from workbench.audit.shadows import Shadows
from workbench.audit.subjects import subject
from workbench.errors import InputError


@pytest.fixture(scope="module")
def records(learnt: Learnt) -> AuditRecords:
    return text_records(learnt.members, learnt.others)


@torch.no_grad()
def log_p(model, row: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Log p of each predicted token, and whether it was the first guess."""
    logits = model.eval()(input_ids=torch.tensor([row[:-1]])).logits[0].double()
    targets = torch.tensor(row[1:])
    told = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    return told.numpy(), (logits.argmax(-1) == targets).numpy()


def test_every_signal_by_hand(learnt: Learnt, records: AuditRecords):
    target, start = subject(learnt.folder), subject(learnt.fresh)
    found = scored(target, records, reference=start)
    assert set(found.signals) == set(ATTACKS) - {"lira_online", "lira_offline"}
    assert set(found.left_out) == {"lira_online", "lira_offline"}
    rows = [list(row) for row in target.tokenizer(list(records.texts))["input_ids"]]
    own = [log_p(target.model, row) for row in rows]
    ref = [log_p(start.model, row)[0] for row in rows]
    prefix = [t for text in records.others for t in target.tokenizer(text)["input_ids"][1:]]
    shots = [rows[0][0], *prefix][:16]  # a quarter of the context of 64
    z = [target.tokenizer(text)["input_ids"] for text in records.others]
    z_ratio = [
        np.exp(log_p(target.model, row)[0].mean())
        / (0.5 * (1.3 * np.exp(log_p(start.model, row)[0].mean()) + 0.7))
        for row in z
    ]
    for i in (0, 7, 31, len(rows) - 1):
        (mine, hit), theirs = own[i], ref[i]
        behind = log_p(target.model, [*shots, *rows[i][1:]][:64])[0][len(shots) - 1 :]
        ratio = np.exp(mine.mean()) / (0.5 * (1.3 * np.exp(theirs.mean()) + 0.7))
        gain = (mine - theirs)[~hit]
        lost = -gain[gain < 0].sum()
        expected = {
            "loss": mine.mean(),
            "reference": mine.mean() - theirs.mean(),
            "recall": behind.sum() / mine[: len(behind)].sum(),
            "rmia": np.mean([ratio > other for other in z_ratio]),
            "ez": gain[gain > 0].sum() / lost if lost > 0 else math.inf,
            "window": audit.window_score(mine, theirs),
        }
        for name, value in expected.items():
            assert found.signals[name][i] == pytest.approx(value, rel=2e-4), name


def test_what_was_learnt_by_heart_is_told(learnt: Learnt, records: AuditRecords):
    found = scored(subject(learnt.folder), records, reference=subject(learnt.fresh))
    for name, values in found.signals.items():
        curve = audit.roc(values[records.member], values[~records.member])
        if name != "window":  # against random weights every window gains
            assert curve.auc_interval(0.999)[0] > 0.5, name


def test_a_model_that_has_not_learnt_tells_nobody(learnt: Learnt, records: AuditRecords):
    found = scored(subject(learnt.fresh), records)
    for name, values in found.signals.items():
        curve = audit.roc(values[records.member], values[~records.member])
        assert curve.auc_interval(0.999)[0] < 0.5, name


def test_one_row_a_record_a_signal(learnt: Learnt, records: AuditRecords):
    one = scored(subject(learnt.folder), records, wanted=["loss", "zlib"])
    frame = tidy([one], records)
    assert len(frame) == 2 * len(records)
    loss = frame[frame["signal"] == "loss"].set_index("record")["score"]
    np.testing.assert_array_equal(loss, one.signals["loss"])


def test_lira_by_hand_and_without_enough_models(learnt: Learnt, records: AuditRecords):
    rng = np.random.default_rng(0)
    phi = rng.normal(-3, 1, (6, len(records)))
    inside = rng.random(phi.shape) < 0.5
    inside[:, 0] = False  # no model had the first record
    found = scored(
        subject(learnt.folder),
        records,
        wanted=["lira_online", "lira_offline"],
        shadows=Shadows(phi, inside),
    )
    target = found.told.mean_log_p()
    assert np.isnan(found.signals["lira_online"][0])
    expected = (target[0] - phi[:, 0].mean()) / phi[:, 0].std()
    assert found.signals["lira_offline"][0] == pytest.approx(expected)
    for i in range(1, len(records)):
        had, without = phi[inside[:, i], i], phi[~inside[:, i], i]
        if min(len(had), len(without)) >= 2:
            told = float(audit.lira_online(target[i], had, without))
            assert found.signals["lira_online"][i] == pytest.approx(told)


def test_the_second_audit_runs_no_model(
    learnt: Learnt, records: AuditRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from workbench.audit import forward

    wanted = ["loss", "reference", "recall", "rmia", "neighbourhood"]
    told = {"wanted": wanted, "reference": subject(learnt.fresh), "passes": Passes(tmp_path)}
    first = scored(subject(learnt.folder), records, **told)
    monkeypatch.setattr(forward, "_of_batch", None)
    again = scored(subject(learnt.folder), records, **told)
    for name in wanted:
        np.testing.assert_array_equal(again.signals[name], first.signals[name], err_msg=name)


def test_what_cannot_be_scored(learnt: Learnt, records: AuditRecords, tmp_path: Path):
    target = subject(learnt.folder)
    with pytest.raises(InputError, match="signal perplexity is not one of loss"):
        scored(target, records, wanted=["perplexity"])
    from workbench import corpora
    from workbench.audit.subjects import Subject

    other = corpora.train_tokenizer(["quite another text " * 5], 270)
    with pytest.raises(InputError, match="cuts the records into other tokens"):
        scored(target, records, reference=Subject("other", target.model, other))


def test_a_model_that_memory_does_not_hold(learnt: Learnt, monkeypatch: pytest.MonkeyPatch):
    from workbench.audit import subjects

    monkeypatch.setattr(subjects, "free_memory", lambda: 1000.0)
    with pytest.raises(InputError, match="of memory are free; audit it on a machine with more"):
        subject(learnt.folder)
    monkeypatch.undo()
    assert subjects.free_memory() > 1e6
    with pytest.raises(InputError, match="is no folder"):
        subject("nowhere/at/all")
