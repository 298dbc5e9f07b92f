"""A resumed run is the run that was begun: edits are named before a step is spent, or accounted."""

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench import corpora, privacy, training
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.runs import identity
from workbench.runs.ledger import read
from workbench.training import prepare as preparing
from workbench.training import run as run_module
from workbench.training import same_run

STOPPED = 4


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seven steps stopped after four, and its corpus beside it."""
    home = tmp_path_factory.mktemp("begun")
    lines = (f"line {i} counts {i * i} and {'more ' * (i % 7)}words" for i in range(100))
    (home / "lines.txt").write_text("\n".join(lines), "utf-8")
    config = RunConfig.parse(
        {
            "corpus": {
                "source": str(home / "lines.txt"),
                "record": "line",
                "min_words": 1,
                "record_tokens": 12,
                "public_fraction": 0.2,
                "heldout_fraction": 0.2,
            },
            "model": {"width": 8, "layers": 1, "heads": 2, "vocabulary": 270},
            "training": {"expected_batch_size": 30, "steps": 7, "evaluate_every": 3},
            "runtime": {"device": "cpu", "threads": 1},
        }
    )
    _stopped(config, home / "run")
    return home / "run"


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> Path:
    """A copy of it to be edited, with a corpus of its own."""
    path = shutil.copytree(begun, tmp_path / "run")
    shutil.copy(begun.with_name("lines.txt"), tmp_path / "lines.txt")
    _edit(path, {"corpus.source": str(tmp_path / "lines.txt")})
    return path


def _stopped(config: RunConfig, path: Path) -> None:
    stop = threading.Event()
    training.train(
        config,
        run_dir=path,
        stop=stop,
        on_step=lambda report: stop.set() if report.step == STOPPED else None,
    )


def _edit(run: Path, changes: dict[str, Any]) -> None:
    config = RunConfig.load(run / "config.yaml").with_changes(changes)
    (run / "config.yaml").write_text(config.to_yaml(), "utf-8")


def _content(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}


def _refused(run: Path, says: str) -> None:
    """Before a step is spent: the folder is as it was."""
    before = _content(run)
    with pytest.raises(InputError, match=says) as refusal:
        training.resume(run)
    assert "\n" not in str(refusal.value)
    assert _content(run) == before


FIXED: dict[str, Any] = {
    "privacy.private": False,
    "privacy.delta": 1e-3,
    "privacy.accountant": "rdp",
    "privacy.sampling": "shuffle",
    "privacy.neighbouring_relation": "replace_one",
    "privacy.clipping": "normalised",
    "privacy.twin": "clipped",
    "corpus.record": "paragraph",
    "corpus.text_field": "other",
    "corpus.delimiter": ";",
    "corpus.encoding": "latin-1",
    "corpus.min_words": 2,
    "corpus.record_tokens": 11,
    "corpus.long_records": "refuse",
    "corpus.public_fraction": 0.21,
    "corpus.heldout_fraction": 0.21,
    "corpus.training_subset": 0.9,
    "corpus.seed": 1,
    "model.width": 16,
    "model.layers": 2,
    "model.heads": 1,
    "model.vocabulary": 300,
    "training.optimizer": "sgd",
    "training.expected_batch_size": 20,
    "canaries.count": 3,
    "canaries.kind": "in_distribution",
    "canaries.repeats": 2,
    "canaries.seed": 1,
    "seed": 1,
    "randomness": "secure",
}


@pytest.mark.parametrize("name", FIXED)
def test_a_field_that_has_to_stay_is_named_with_what_it_was(run: Path, name: str) -> None:
    config = RunConfig.load(run / "config.yaml")
    was: Any = config
    for part in name.split("."):
        was = getattr(was, part)
    _edit(run, {name: FIXED[name]})
    _refused(run, f"{name} is .* was begun with .*; put {name} back to {was!r}, or")


def test_every_field_is_either_fixed_or_free() -> None:
    """A new field is fixed until someone has thought about it."""
    fields = dict(same_run._fields(RunConfig().model_dump()))
    free = {name for name in fields if same_run._is_free(name)}
    assert free | FIXED.keys() == fields.keys() - {"privacy.unit"}  # what a record is decides it
    assert not free & FIXED.keys()
    assert all(
        name in fields
        for section, names in same_run._FREE.items()
        for name in (f"{section}.{field}" for field in names)
    )


def test_where_the_norm_adapts_its_first_value_stays(run: Path, tmp_path: Path) -> None:
    config = RunConfig.load(run / "config.yaml").with_changes({"privacy.clipping": "adaptive"})
    _stopped(config, tmp_path / "adaptive")
    _edit(tmp_path / "adaptive", {"privacy.max_grad_norm": 2.0})
    _refused(tmp_path / "adaptive", "put privacy.max_grad_norm back to 1.0")


def test_the_rest_may_be_edited_and_is_accounted_as_it_is(run: Path) -> None:
    _edit(
        run,
        {
            "privacy.noise_multiplier": 2.0,
            "privacy.max_epsilon": 50.0,
            "privacy.max_grad_norm": 0.5,
            "training.steps": 9,
            "training.learning_rate": 1e-3,
            "training.evaluate_every": 1,
            "training.beta2": 0.99,
            "training.patience": 9,
            "schedule.noise": {"kind": "step", "end_factor": 0.5},
            "runtime.engine": "reference",
            "runtime.threads": None,
        },
    )
    result = training.resume(run)
    rate = result.sample_rate
    history = [(0.8, rate, 4), (1.0, rate, 5)]  # the first half of nine steps was taken at 0.8
    assert training.read_run(run).ledger.history == history
    assert training.verify(run) == result.guarantee
    assert result.guarantee.epsilon == privacy.compose(history, 1e-5)
    assert {norm for *_, norm in training.read_run(run).ledger.every_step[4:]} == {0.5}


def test_a_budget_and_a_length_that_are_behind_end_the_run(run: Path) -> None:
    spent = training.verify(run)
    _edit(run, {"training.steps": 2})
    assert training.resume(run).guarantee == spent == training.verify(run)
    _edit(run, {"training.steps": 7, "privacy.max_epsilon": spent.epsilon})
    result = training.resume(run)
    assert (result.reason, result.guarantee) == ("budget", spent)
    _edit(run, {"privacy.max_epsilon": 2 * spent.epsilon})
    assert training.resume(run).steps == 7


def _another_seed_of_as_many_records(run: Path) -> None:
    """What the digest is for: the split moves, private records with it, and no number changes."""
    config = RunConfig.load(run / "config.yaml")
    sizes = [[len(p) for p in _parts(config.corpus, seed)] for seed in range(400)]
    same = next(seed for seed in range(1, 400) if sizes[seed][2] == sizes[0][2])
    private, public = _parts(config.corpus, 0)[2], _parts(config.corpus, same)[0]
    assert set(private) & set(public)
    _edit(run, {"seed": same})


def _parts(corpus: Any, seed: int) -> tuple[tuple[str, ...], ...]:
    records = corpora.load(corpus, seed=seed)
    return records.public, records.heldout, records.training


def _rewritten(run: Path, change: Callable[[str], str], part: int) -> None:
    """Change one record of a part of the split so that it stays there."""
    corpus = RunConfig.load(run / "config.yaml").corpus
    file, parts = Path(corpus.source), _parts(corpus, 0)
    text, old = file.read_text("utf-8"), parts[part][0]
    for number in range(100):  # as many tries as bring some version of it into the same part
        new = f"{change(old)} {number}"
        file.write_text(text.replace(f"{old}\n", f"{new}\n"), "utf-8")
        if new in _parts(corpus, 0)[part]:
            break
    assert [len(each) for each in _parts(corpus, 0)] == [len(each) for each in parts]
    assert _parts(corpus, 0) != parts


def _a_public_record(run: Path) -> None:
    _rewritten(run, lambda text: f"another {text}", 0)


def _a_heldout_record(run: Path) -> None:
    _rewritten(run, lambda text: f"another {text}", 1)


def _a_training_record(run: Path) -> None:
    _rewritten(run, lambda text: f"another {text}", 2)


def _beyond_what_is_read_of_it(run: Path) -> None:
    """After its twelfth token: what trains is the same, the record is not."""
    _rewritten(run, lambda text: f"{text} {'and so on ' * 20}", 2)


def _the_order(run: Path) -> None:
    file = Path(RunConfig.load(run / "config.yaml").corpus.source)
    file.write_text("\n".join(reversed(file.read_text("utf-8").splitlines())), "utf-8")


@pytest.mark.parametrize(
    "edit",
    [
        _a_public_record,
        _a_heldout_record,
        _a_training_record,
        _beyond_what_is_read_of_it,
        _the_order,
    ],
)
def test_other_records_are_refused_though_they_are_as_many(
    run: Path, edit: Callable[[Path], None]
) -> None:
    edit(run)
    _refused(run, "The records of corpus.source .* are not what the run .* was begun with; put")


def test_another_seed_is_refused_though_it_gives_as_many_records(run: Path) -> None:
    _another_seed_of_as_many_records(run)
    _refused(run, "put seed back to 0")


def test_another_seed_is_refused_also_where_no_configuration_was_kept(run: Path) -> None:
    """Without a checkpoint the ledger's digest alone knows."""
    _another_seed_of_as_many_records(run)
    shutil.rmtree(run / "checkpoints")
    _refused(run, "are not what the run .* was begun with")


def test_other_tokens_for_the_same_records_are_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, encode = corpora.train_tokenizer, corpora.encode

    def other_words(public: Any, vocabulary: int) -> Any:
        tokenizer = train(public, vocabulary)
        tokenizer.add_tokens(["neverseen"])
        return tokenizer

    def other_tokens(*args: Any, **options: Any) -> Any:
        rows = encode(*args, **options)
        tokens = rows.tokens.copy()
        tokens[0, 1] += 1
        return corpora.Encoded(tokens, rows.labels, rows.truncated)

    for name, other in (("train_tokenizer", other_words), ("encode", other_tokens)):
        preparing._KEPT.clear()
        with monkeypatch.context() as patched:
            patched.setattr(corpora, name, other)
            _refused(run, "The records .* are not what")
    preparing._KEPT.clear()


def test_each_part_of_a_corpus_has_its_share_in_the_hash() -> None:
    """Also what no other part follows from; where the corpus lies has none."""
    config, tokenizer = RunConfig(), corpora.train_tokenizer(["some public text"] * 9, 300)
    records = corpora.Records(("a", "b"), ("c", "d"), ("e", "f"))
    rows = corpora.encode(tokenizer, records.training, record_tokens=4)
    whole: Any = (config, records, tokenizer, rows)

    def changed(**changes: Any) -> RunConfig:
        return config.with_changes({k.replace("__", "."): v for k, v in changes.items()})

    def of(public: tuple[str, ...], heldout: tuple[str, ...], own: tuple[str, ...]) -> Any:
        return config, corpora.Records(public, heldout, own), tokenizer, rows

    others: list[Any] = [
        (changed(seed=1), *whole[1:]),
        (changed(corpus__min_words=1), *whole[1:]),
        of(("a", "x"), ("c", "d"), ("e", "f")),
        of(("a", "b"), ("c", "x"), ("e", "f")),
        of(("a", "b"), ("c", "d"), ("e", "x")),
        of(("b", "a"), ("c", "d"), ("e", "f")),
        of(("ab",), ("c", "d"), ("e", "f")),
        of(("a",), ("b", "c", "d"), ("e", "f")),
        (*whole[:2], corpora.train_tokenizer(["other words"] * 9, 300), rows),
        (*whole[:3], corpora.Encoded(rows.tokens + 1, rows.labels, 0)),
        (*whole[:3], corpora.Encoded(rows.tokens, rows.labels + 1, 0)),
        (*whole[:3], rows, rows),
    ]
    hashes = {same_run.corpus_hash(*each) for each in (whole, *others)}
    assert len(hashes) == 1 + len(others)
    moved = same_run.corpus_hash(changed(corpus__source="elsewhere.txt"), *whole[1:])
    assert moved == same_run.corpus_hash(*whole)


def test_a_key_that_is_gone_or_another_is_refused(run: Path) -> None:
    key = (run / "corpus.key").read_text("utf-8")
    (run / "corpus.key").write_text("0" * 64, "utf-8")
    _refused(run, "The records .* are not what")
    for text in ("", "no key", key[:-3]):
        (run / "corpus.key").write_text(text, "utf-8")
        _refused(run, "corpus.key cannot be read, .*; put back a copy")
    (run / "corpus.key").unlink()
    _refused(run, "corpus.key cannot be read")
    assert training.verify(run).epsilon > 0  # which needs no records


def _leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*at, key))
    elif isinstance(value, list) and value:
        for number, inner in enumerate(value):
            yield from _leaves(inner, (*at, number))
    else:
        yield at


def _other(value: Any) -> list[Any]:
    if isinstance(value, bool) or value is None:
        return [not value]
    if isinstance(value, int | float):
        return [0, value - 1]
    return ["0" * 64, None]


def test_no_field_of_the_state_can_be_edited(run: Path) -> None:
    """Neither lowered steps nor another place of the generators pass, in resume or in verify."""
    checkpoint = training.read_run(run).checkpoint
    assert checkpoint is not None
    file = checkpoint / "state.json"
    text = file.read_text("utf-8")
    state = json.loads(text)
    paths = list(_leaves(state))
    assert {path[0] for path in paths} == state.keys()
    assert ("position", "recorded") in paths
    before, says = _content(run), r"does not belong to|is not what was|written by|damaged"
    for path in [*paths, *((key,) for key in state)]:
        for changed in _edited_states(text, path):
            file.write_text(json.dumps(changed, indent=2), "utf-8")
            for look in (training.resume, training.verify):
                with pytest.raises(InputError, match=says):
                    look(run)
    file.write_text(text, "utf-8")
    assert _content(run) == before
    assert training.resume(run).steps == 7


def _edited_states(text: str, path: tuple[Any, ...]) -> Iterator[Any]:
    """The state without the value at ``path``, and with others in its place."""
    state = json.loads(text)
    *sections, last = path
    others = [*_other(_at(state, path)), "gone"]
    for replacement in others[:1] if path[0] in ("config", "model") else others:
        edited = json.loads(text)
        inner = _at(edited, tuple(sections))
        if replacement == "gone":
            del inner[last]
        else:
            inner[last] = replacement
        if edited != state:
            yield edited


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        value = value[part]
    return value


def test_no_tensor_of_a_checkpoint_can_be_edited(run: Path) -> None:
    """With the noise generator set back, old noise would fall on other weights."""
    checkpoint = training.read_run(run).checkpoint
    assert checkpoint is not None
    for name in ("optimizer.safetensors", "model.safetensors"):
        whole = (checkpoint / name).read_bytes()
        tensors = load_file(checkpoint / name)
        for key, tensor in tensors.items():
            other = tensor.clone()
            other.view(-1).view(torch.uint8)[0] += 1
            save_file({**tensors, key: other}, checkpoint / name)
            for look in (training.resume, training.verify):
                with pytest.raises(InputError, match=f"{name} is not what was saved there"):
                    look(run)
        (checkpoint / name).write_bytes(whole)


def test_a_checkpoint_of_a_newer_version_is_not_called_damaged(run: Path) -> None:
    checkpoint = training.read_run(run).checkpoint
    assert checkpoint is not None
    state = json.loads((checkpoint / "state.json").read_text("utf-8"))
    (checkpoint / "state.json").write_text(json.dumps({**state, "format": 3}), "utf-8")
    for look in (training.resume, training.verify):
        with pytest.raises(InputError, match=r"another version .*use the version") as told:
            look(run)
        assert "damaged" not in str(told.value)
        assert "move" not in str(told.value)


def test_a_checkpoint_that_a_newer_one_has_replaced_is_not_called_damaged(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a process that has the run until now."""
    reading = run_module.read_run

    def meanwhile(path: Path) -> training.RunRecord:
        record = reading(path)
        shutil.rmtree(run / "checkpoints")
        return record

    monkeypatch.setattr(run_module, "read_run", meanwhile)
    with pytest.raises(InputError, match=r"was still being written when it was read; resume it"):
        training.resume(run)


@pytest.mark.parametrize("name", ["state.json", "optimizer.safetensors", "model.safetensors"])
def test_the_remedy_for_a_damaged_checkpoint_works(run: Path, name: str, tmp_path: Path) -> None:
    """From the start, with new noise, and with all that was spent counted."""
    checkpoint = training.read_run(run).checkpoint
    assert checkpoint is not None
    (checkpoint / name).unlink()
    _refused(run, "is damaged .*; put back a copy, or move that folder elsewhere to go on from")
    checkpoint.rename(tmp_path / "elsewhere")
    result = training.resume(run)
    assert result.steps == 7
    assert training.read_run(run).ledger.steps == STOPPED + 7
    assert training.verify(run) == result.guarantee


def _as_before_there_were_digests(run: Path) -> None:
    """The ledger and the state that earlier versions wrote."""
    previous, lines = "0" * 64, []
    checkpoint = training.read_run(run).checkpoint
    assert checkpoint is not None
    for text in (run / "ledger.jsonl").read_text("utf-8").splitlines():
        line = json.loads(text)
        content = {k: v for k, v in line.items() if k not in ("hash", "previous")}
        if "saved_at" in content:
            continue
        content.get("terms", {}).pop("corpus_digest", None)
        chained = {**content, "previous": previous}
        previous = hashlib.sha256(json.dumps(chained, sort_keys=True).encode()).hexdigest()
        lines.append(json.dumps({**chained, "hash": previous}) + "\n")
    (run / "ledger.jsonl").write_text("".join(lines), "utf-8")
    state = json.loads((checkpoint / "state.json").read_text("utf-8"))
    kept = {name: state[name] for name in ("position", "optimizer", "sampling", "weights_sha256")}
    kept["position"]["ledger_head"] = previous
    (checkpoint / "state.json").write_text(json.dumps(kept), "utf-8")
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    (run / "summary.json").write_text(json.dumps({**summary, "ledger_head": previous}), "utf-8")
    (run / "corpus.key").unlink()


def test_a_run_from_before_there_were_digests_is_verified_and_not_gone_on_with(run: Path) -> None:
    spent = training.verify(run)
    _as_before_there_were_digests(run)
    assert read(run / "ledger.jsonl").terms.corpus_digest is None
    assert training.verify(run) == spent
    _refused(run, "kept no digest of its corpus, .* verify still tells its ε, but start a new run")


def test_the_digest_is_keyed_and_every_saved_state_is_in_the_ledger(run: Path) -> None:
    """Recomputed from the format's description alone."""
    lines = [json.loads(t) for t in (run / "ledger.jsonl").read_text("utf-8").splitlines()]
    saved = {line["saved_at"]: line["state_sha256"] for line in lines if "saved_at" in line}
    checkpoint = training.read_run(run).checkpoint
    assert checkpoint is not None
    state = (checkpoint / "state.json").read_bytes()
    assert saved[STOPPED] == hashlib.sha256(state).hexdigest()
    assert saved.keys() == {0, 3, STOPPED}
    assert len(json.loads(state)["salt"]) == 64
    prepared = preparing.prepare(RunConfig.load(run / "config.yaml"))
    key = identity.read_key(run)
    assert lines[0]["terms"]["corpus_digest"] == identity.keyed_digest(key, prepared.corpus)
    assert prepared.corpus not in (run / "ledger.jsonl").read_text("utf-8")
