"""The command line: right answers, and one sentence with exit status 2 for wrong questions."""

import json
from itertools import product
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from workbench import privacy
from workbench.cli import main
from workbench.errors import InputError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


MECHANISM = ("--sample-rate", "0.01", "--steps", "1000", "--delta", "1e-5")


def test_epsilon_prints_the_guarantee_whole() -> None:
    result = run("epsilon", "--noise-multiplier", "1.1", *MECHANISM)
    assert result.exit_code == 0
    for part in ("ε = 1.5", "δ = 1e-05", "PLD", "poisson sampling", "add or remove one record"):
        assert part in result.stdout


def test_epsilon_as_json_equals_the_library() -> None:
    result = run("epsilon", "--noise-multiplier", "1.1", *MECHANISM, "--json")
    answer = json.loads(result.stdout)
    assert answer["epsilon"] == privacy.epsilon(1.1, 0.01, 1000, 1e-5)
    assert answer["accountant"] == "pld"
    assert answer["neighbouring_relation"] == "add_or_remove_one"


def test_sigma_keeps_within_its_target() -> None:
    answer = json.loads(run("sigma", "--target-epsilon", "8", *MECHANISM, "--json").stdout)
    assert answer["epsilon"] <= 8
    assert privacy.epsilon(answer["noise_multiplier"], 0.01, 1000, 1e-5) <= 8


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("epsilon", "--noise-multiplier", "0", *MECHANISM), "noise_multiplier is 0"),
        (("epsilon", "--noise-multiplier", "nan", *MECHANISM), "noise_multiplier is nan"),
        (("epsilon", "--noise-multiplier", "x", *MECHANISM), "--noise-multiplier"),
        (
            ("epsilon", "--noise-multiplier", "1", "--sample-rate", "1.5", "--steps", "9"),
            "sample_rate is 1.5",
        ),
        (
            ("epsilon", "--noise-multiplier", "1", "--sample-rate", ".1", "--steps", "-3"),
            "steps is -3",
        ),
        (
            ("epsilon", "--noise-multiplier", "1", *MECHANISM[:4], "--delta", "1"),
            "delta is 1",
        ),
        (("epsilon", "--noise-multiplier", "1e300", *MECHANISM), "noise_multiplier is 1e+300"),
        (
            ("epsilon", "--noise-multiplier", "1", "--sample-rate", ".1", "--steps", "9" * 12),
            "steps is 1e+12",
        ),
        (("sigma", "--target-epsilon", "-1", *MECHANISM), "target_epsilon is -1"),
        (("sigma", *MECHANISM), "--target-epsilon"),
        (("nonsense",), "nonsense"),
    ],
)
def test_bad_input_is_one_line_on_standard_error_with_status_2(
    arguments: tuple[str, ...], names: str
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert names in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (InputError("It is bad; mend it."), 2, "It is bad; mend it."),
        (KeyError("x"), 1, "stopped with KeyError: 'x'; this is a fault of the workbench"),
        (RuntimeError("two\nlines"), 1, "two lines"),
        (MemoryError(), 1, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "not enough memory"),
        (
            OSError(28, "No space left on device", "a/b"),
            1,
            "Cannot write or read a/b: No space left on device; make room",
        ),
        (FloatingPointError("Lower the learning rate."), 1, "Lower the learning rate."),
        (type("PanicException", (BaseException,), {})("panicked"), 1, "panicked"),
    ],
)
def test_whatever_stops_a_command_is_one_line(
    error: BaseException, status: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(privacy, "guarantee", stop)
    monkeypatch.delenv("WORKBENCH_DEBUG", raising=False)
    result = run("epsilon", "--noise-multiplier", "1", *MECHANISM)
    assert (result.exit_code, result.stdout) == (status, "")
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_traceback_is_there_for_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyError

    monkeypatch.setattr(privacy, "guarantee", stop)
    monkeypatch.setenv("WORKBENCH_DEBUG", "1")
    result = run("epsilon", "--noise-multiplier", "1", *MECHANISM)
    assert isinstance(result.exception, KeyError)


ODD_PATHS = ["~nosuchuser/x", "x" * 300, "/dev/null/x", ".", "none/such"]


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        *product([("train", "PATH"), ("sweep", "PATH"), ("lab", "--notebooks", "PATH")], ODD_PATHS),
        *product([("sweep", "CELLS", "--scheduler", "PATH", "--out", "OUT")], ODD_PATHS),
        *product([("sweep", "CELLS", "--out", "PATH")], ODD_PATHS[:4]),  # the last can be made
    ],
)
def test_a_path_that_cannot_be_is_one_line_with_status_2(
    arguments: tuple[str, ...], path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cells.yaml").write_text("grid: {seed: [0]}", "utf-8")
    monkeypatch.chdir(tmp_path)
    given = {"PATH": path, "CELLS": "cells.yaml", "OUT": "out"}
    result = run(*(given.get(part, part) for part in arguments))
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("workbench: ")
    assert not (tmp_path / "out").exists()
