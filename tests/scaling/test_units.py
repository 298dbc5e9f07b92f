"""Losses change units exactly, and units are never confused."""

import json
import math

import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from workbench.cli import main
from workbench.errors import InputError
from workbench.scaling import fit, from_nats, to_nats, with_loss
from workbench.scaling.units import UNITS


@given(st.floats(0.01, 13), st.sampled_from(UNITS), st.floats(1, 8))
def test_units_go_there_and_back(loss: float, unit, per_token: float):
    there = from_nats([loss], unit, bytes_per_token=per_token)
    assert to_nats(there, unit, bytes_per_token=per_token)[0] == pytest.approx(loss)


def test_units_are_what_they_say():
    assert to_nats([math.e], "perplexity")[0] == pytest.approx(1)
    assert to_nats([1.0], "bits")[0] == pytest.approx(math.log(2))
    assert to_nats([1.0], "bits_per_byte", bytes_per_token=4)[0] == pytest.approx(4 * math.log(2))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"perplexity": [2.9, 0.9]}, "perplexity is 0.9 but is at least 1"),
        ({"tokens": [1.0, 2.0]}, "no column loss, perplexity"),
        ({"loss": [2.0, 3.0], "perplexity": [math.e**2, 5.0]}, "different losses in row 1"),
        ({"loss": [2.0, 3.0], "unit": ["nats", "bits"]}, "'nats' in some rows and 'bits'"),
        ({"loss": [2.0, 3.0], "unit": ["dB", "dB"]}, "unit is 'dB' but must be one of"),
        ({"bits_per_byte": [1.0, 2.0]}, "needs bytes_per_token"),
        ({"loss": ["low", "high"]}, "loss holds something that is no number"),
    ],
)
def test_what_cannot_be_a_loss_is_refused(columns: dict, words: str):
    with pytest.raises(InputError, match=words):
        with_loss(pd.DataFrame(columns))


def csv(path, **changes) -> str:
    tokens = [1e6, 1e7, 1e8, 1e9, 1e10, 1e11]
    columns = {"tokens": tokens, "loss": [1.5 + 40 * t**-0.2 for t in tokens], **changes}
    pd.DataFrame({k: v for k, v in columns.items() if v is not None}).to_csv(path, index=False)
    return str(path)


def test_the_command_fits_what_the_library_fits(tmp_path):
    file = csv(tmp_path / "points.csv")
    result = CliRunner().invoke(main, ["fit", file, "--law", "power_floor", "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["params"] == pytest.approx({"A": 40, "E": 1.5, "alpha": 0.2}, rel=1e-3)
    assert told["params"] == fit(pd.read_csv(file), "power_floor").params
    text = CliRunner().invoke(main, ["fit", file, "--law", "power_floor", "--fixed", "E=1.5"])
    assert "E = 1.5 (given)" in text.stdout


def test_perplexities_give_the_same_fit(tmp_path):
    told = []
    for name, change in (
        ("a", {}),
        ("b", {"perplexity": lambda loss: math.exp(loss)}),
        ("c", {"bits": lambda loss: loss / math.log(2)}),
    ):
        file = csv(tmp_path / f"{name}.csv")
        frame = pd.read_csv(file)
        for column, function in change.items():
            frame[column] = frame.pop("loss").map(function)
        frame.to_csv(file, index=False)
        result = CliRunner().invoke(main, ["fit", file, "--law", "power_floor", "--json"])
        told.append(json.loads(result.stdout)["params"]["alpha"])
    assert told == pytest.approx([0.2] * 3, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "more", "words"),
    [
        ({"loss": None}, (), "no column loss, perplexity"),
        ({"tokens": None}, (), "no column tokens"),
        ({"loss": [3.0, -1, 2, 2, 2, 2]}, (), "loss is -1 in row 1"),
        ({"loss": [3.0, math.nan, 2, 2, 2, 2]}, (), "loss is nan in row 1"),
        ({"loss": [32.0, 24, 19, 13, 10.5, 7.8]}, (), "if the column holds perplexities"),
        ({"tokens": [1e6] * 6}, (), "whose values differ"),
        ({"tokens": [1e6, 1e6, 1e8, 1e9, 1e10, 1e11], "loss": [3.0, 3, 2, 2, 2, 2]}, (), "same as"),
        ({"unit": ["nats"] * 5 + ["bits"]}, (), "give all losses in one unit"),
        ({}, ("--fixed", "alpha"), "must be NAME=VALUE"),
        ({}, ("--law", "cubic"), "law is 'cubic'"),
        ({}, ("--unit", "dB"), "unit is 'dB'"),
    ],
)
def test_bad_points_are_one_sentence_with_status_2(tmp_path, changes, more, words):
    file = csv(tmp_path / "points.csv", **changes)
    result = CliRunner().invoke(main, ["fit", file, "--law", "power_floor", *more])
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_one_size_of_model_is_refused():
    tokens = [10.0**k for k in range(6, 14)]
    frame = pd.DataFrame(
        {"tokens": tokens, "n_params": 1e8, "loss": [5 - 0.1 * k for k in range(8)]}
    )
    with pytest.raises(InputError, match="n_params is 1e\\+08 in every row"):
        fit(frame, "chinchilla")


@pytest.mark.parametrize("name", ["none.csv", "~nosuchuser/x", "."])
def test_a_file_that_cannot_be_read_is_one_sentence(name: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["fit", name])
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 1)
