"""The ledger: what was spent can be recomputed, and no line changed, dropped or moved unnoticed."""

import hashlib
import json
from pathlib import Path

import pytest

from workbench import privacy
from workbench.errors import InputError
from workbench.runs import ledger
from workbench.runs.ledger import Ledger, Terms
from workbench.runs.verify import verify

TERMS = Terms(1e-5, "pld", "poisson", "add_or_remove_one", "record", 1000, 20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A run folder's ledger of three steps, with the summary that closes it."""
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, TERMS) as book:
        for noise_multiplier in (1.0, 1.0, 2.0):
            book.record_step(noise_multiplier=noise_multiplier, sample_rate=0.02, max_grad_norm=1.0)
        summary = {"ledger_head": book.head}
    (tmp_path / "summary.json").write_text(json.dumps(summary), "utf-8")
    return path


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


def _rewrite(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", "utf-8")


def test_epsilon_is_recomputed_from_the_steps(path: Path) -> None:
    expected = privacy.compose([(1.0, 0.02, 2), (2.0, 0.02, 1)], 1e-5)
    record = ledger.read(path)
    assert record.history == [(1.0, 0.02, 2), (2.0, 0.02, 1)]
    assert record.steps == 3
    assert verify(path.parent).epsilon == pytest.approx(expected, rel=1e-12)


def test_the_chain_is_sha_256_of_each_line_and_the_one_before(path: Path) -> None:
    """Recomputed here from the format's description alone."""
    previous = "0" * 64
    for text in _lines(path):
        line = json.loads(text)
        own = line.pop("hash")
        assert line["previous"] == previous
        previous = hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()
        assert own == previous


def test_each_step_is_on_disk_when_record_step_returns(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, TERMS) as book:
        for step in range(1, 4):
            book.record_step(noise_multiplier=1.0, sample_rate=0.02, max_grad_norm=1.0)
            assert ledger.read(path).steps == step


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("field", ["noise_multiplier", "hash", "previous", "delta"])
def test_any_changed_value_is_found(path: Path, number: int, field: str) -> None:
    lines = _lines(path)
    line = json.loads(lines[number])
    where = line["terms"] if field == "delta" and "terms" in line else line
    where[field] = 1e-9 if field in ("noise_multiplier", "delta") else "f" * 64
    _rewrite(path, [*lines[:number], json.dumps(line), *lines[number + 1 :]])
    with pytest.raises(InputError, match="does not fit the chain"):
        ledger.read(path)


@pytest.mark.parametrize("number", range(1, 3))
def test_a_dropped_a_doubled_or_a_moved_line_is_found(path: Path, number: int) -> None:
    lines = _lines(path)
    dropped = lines[:number] + lines[number + 1 :]
    doubled = [*lines[: number + 1], *lines[number:]]
    moved = [*lines[:number], lines[number + 1], lines[number], *lines[number + 2 :]]
    for changed in (dropped, doubled, moved):
        _rewrite(path, changed)
        with pytest.raises(InputError, match="does not fit the chain"):
            ledger.read(path)


def test_lines_cut_from_the_end_are_found_against_the_summary(path: Path) -> None:
    _rewrite(path, _lines(path)[:-1])
    assert ledger.read(path).steps == 2
    with pytest.raises(InputError, match=r"does not end where summary\.json says"):
        verify(path.parent)


def test_a_forged_number_of_a_step_is_found_though_its_hashes_fit(path: Path) -> None:
    lines = [json.loads(text) for text in _lines(path)]
    del lines[2]
    previous, forged = "0" * 64, []
    for line in lines:
        content = {k: v for k, v in line.items() if k not in ("hash", "previous")}
        chained = {**content, "previous": previous}
        previous = hashlib.sha256(json.dumps(chained, sort_keys=True).encode()).hexdigest()
        forged.append(json.dumps({**chained, "hash": previous}))
    _rewrite(path, forged)
    with pytest.raises(InputError, match="Line 3"):
        ledger.read(path)


def test_a_line_that_a_crash_cut_short_is_left_out(path: Path) -> None:
    """Its weights had not moved: a step is whole in the ledger before they do."""
    text = path.read_text("utf-8")
    for cut in (1, 10, 100):
        path.write_text(text[:-cut], "utf-8")
        assert ledger.read(path).steps == 2


def test_a_ledger_is_never_written_over(path: Path) -> None:
    with pytest.raises(FileExistsError):
        Ledger(path, TERMS)


def test_what_is_no_ledger_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with pytest.raises(InputError, match="Cannot read the ledger"):
        ledger.read(path)
    for text, reason in {"": "first line", "nonsense\n": "Line 1", "[]\n": "Line 1"}.items():
        path.write_text(text, "utf-8")
        with pytest.raises(InputError, match=reason):
            ledger.read(path)


def test_no_line_tells_how_many_records_a_batch_had(path: Path) -> None:
    """Under Poisson sampling the realised size is private; nothing else about a batch is here."""
    assert set(json.loads(_lines(path)[1])) == {
        "step",
        "noise_multiplier",
        "sample_rate",
        "max_grad_norm",
        "previous",
        "hash",
    }
