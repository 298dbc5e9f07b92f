"""Which records are audited: fair coins, no duplicates, and one sentence for what cannot be."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from workbench import corpora
from workbench.audit.duplicates import find_duplicates
from workbench.audit.records import file_records, run_records, text_records
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.training.prepare import load_records


def texts(count: int, *, start: int = 0, words: int = 12) -> list[str]:
    rng = np.random.default_rng(start)
    return [" ".join(f"w{w}" for w in rng.integers(0, 500, words)) for _ in range(count)]


@pytest.fixture
def many(tmp_path: Path, config: RunConfig) -> RunConfig:
    path = tmp_path / "many.txt"
    path.write_text("\n".join(texts(3000)), encoding="utf-8")
    fractions = {"corpus.public_fraction": 0.1, "corpus.heldout_fraction": 0.2}
    return config.with_changes({"corpus.source": str(path), **fractions})


def test_a_runs_records_are_its_own_and_fair_coins(many: RunConfig):
    records = run_records(many)
    split = corpora.load(many.corpus, seed=many.seed)
    inside, outside = set(split.training), set(split.heldout)
    for text, member in zip(records.texts, records.member, strict=True):
        assert text in (inside if member else outside)
    assert set(records.others) <= set(split.public)
    assert records.fair_coins
    # 600 held out of 2700; as many of the 2100 stay on the other side, each by its own coin.
    assert len(records) > 1000
    assert binomtest(int(records.member.sum()), len(records)).pvalue > 1e-3
    assert records.member[: len(records) // 2].mean() == pytest.approx(0.5, abs=0.1)


def test_a_subset_and_a_corpus_seed_of_its_own_are_the_runs(many: RunConfig):
    """Who was in neither part is not in question, and the coins stay fair."""
    config = many.with_changes({"corpus.seed": 7, "corpus.training_subset": 0.5})
    records, run = run_records(config), load_records(config)
    inside, outside = set(run.training), set(run.heldout)
    for text, member in zip(records.texts, records.member, strict=True):
        assert text in (inside if member else outside)
    assert len(records) > 1000
    assert binomtest(int(records.member.sum()), len(records)).pvalue > 1e-3


def test_chunks_of_one_paragraph_share_its_coin(many: RunConfig):
    Path(many.corpus.source).write_text("\n\n".join(texts(1000)), encoding="utf-8")
    chunks = {"corpus.record": "chunk", "privacy.unit": "chunk"}
    assert not run_records(many.with_changes(chunks)).fair_coins


def test_fewer_records_are_chosen_without_a_look_at_the_side(many: RunConfig):
    few, all_ = run_records(many, most=200), run_records(many)
    assert few.texts == all_.texts[:200]
    with pytest.raises(InputError, match="most is 3 but must be a whole number of at least 20"):
        run_records(many, most=3)


def test_patience_takes_the_coins_away(many: RunConfig):
    """Held-out losses then decide when the run ends: those records were not out of it."""
    assert not run_records(many.with_changes({"training.patience": 2})).fair_coins


def test_near_copies_of_fair_coins_leave_in_whole(many: RunConfig):
    source = Path(many.corpus.source)
    lines = source.read_text(encoding="utf-8").splitlines()
    near = [f"{line} extra" for line in lines[:300]]
    source.write_text("\n".join([*lines, *near]), encoding="utf-8")
    kept = run_records(many)
    assert len(np.unique(kept.group)) == len(kept)
    stems = {text.removesuffix(" extra") for text in kept.texts}
    assert len(stems) == len(kept)  # of no pair are both left
    assert sum(kept.removed.values()) > 10


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("a b c d e f g", "A  b, c d e f g.", True),
        ("a b c", "a b d", False),
        (" ".join(map(str, range(60))), " ".join(map(str, [*range(59), 99])), True),
        (" ".join(map(str, range(60))), " ".join(map(str, range(30, 90))), False),
        ("!!", "??", False),
    ],
)
def test_what_counts_as_a_duplicate(one: str, other: str, alike: bool):
    found = find_duplicates([one, "something else", other])
    assert (found.group[0] == found.group[2]) == alike
    assert (found.exact + found.near == 1) == alike


def test_every_planted_near_copy_is_found():
    """Five words of sixty replaced at one end leave 51 of 61 shingles shared: above 0.8."""
    own = texts(200, words=60)
    copies = [" ".join([*text.split()[:-3], "x", "y", "z"]) for text in own[:100]]
    found = find_duplicates([*own, *copies])
    assert found.near == 100
    np.testing.assert_array_equal(found.group[200:], np.arange(100))


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv", ".parquet"])
def test_files_of_every_kind(tmp_path: Path, ending: str):
    paths = []
    for number, name in enumerate(("members", "others")):
        frame = pd.DataFrame({"body": texts(60, start=number)})
        path = tmp_path / f"{name}{ending}"
        match ending:
            case ".txt":
                path.write_text("\n".join(frame["body"]), encoding="utf-8")
            case ".jsonl":
                frame.to_json(path, orient="records", lines=True)
            case ".csv":
                frame.to_csv(path, index=False)
            case _:
                frame.to_parquet(path)
        paths.append(path)
    records = file_records(*paths, text_field="body")
    assert 95 <= len(records) + len(records.others) <= 120
    assert {t for t, m in zip(records.texts, records.member, strict=True) if m} <= set(texts(60))
    assert not records.fair_coins
    assert not set(records.others) & (set(records.texts) | set(texts(60)))


def test_copies_across_the_split_are_removed_and_reported():
    members, others = texts(50), texts(50, start=1)
    shared = texts(20, start=2)
    found = text_records([*members, *shared], [*others, *(text.upper() + "!" for text in shared)])
    left = {text.lower().removesuffix("!") for text in found.texts}
    # One of a pair may have stood aside, and with that is no longer across the split.
    across = found.removed["duplicates across the split"]
    assert 20 <= across <= 40
    assert across // 2 + len(left & set(shared)) <= 20


@pytest.mark.parametrize(
    ("members", "others", "words"),
    [
        (texts(3), texts(50, start=1), "members but an audit needs at least 10"),
        (texts(50), [], "0 non-members but an audit needs"),
        ([], [], "There are no records to audit"),
        ([*texts(50), "x y"], [*texts(50, start=1), "x y"], "1 texts are among both"),
    ],
)
def test_sets_that_cannot_be_audited(members: list[str], others: list[str], words: str):
    with pytest.raises(InputError, match=words):
        text_records(members, others)


def test_empty_texts_are_left_out_and_counted():
    found = text_records([*texts(50), " ", ""], texts(50, start=1))
    assert found.removed["empty"] == 2


def test_a_claim_of_fair_coins_is_checked():
    with pytest.raises(InputError, match="independent fair coins hardly give"):
        text_records(texts(300), texts(30, start=1), fair_coins=True)
    assert text_records(texts(100), texts(110, start=1), fair_coins=True).fair_coins


def test_a_file_without_text_is_refused(tmp_path: Path):
    (tmp_path / "a.txt").write_text("\n\n", encoding="utf-8")
    with pytest.raises(InputError, match="holds no text"):
        file_records(tmp_path / "a.txt", tmp_path / "a.txt")
