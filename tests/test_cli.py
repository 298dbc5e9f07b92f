"""The command line: right answers, and one sentence with exit status 2 for wrong questions."""

import json

import pytest
from click.testing import CliRunner, Result

from workbench import privacy
from workbench.cli import main


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
