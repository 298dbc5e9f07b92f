"""One guarantee, made in one place, under terms that are all stated and that training keeps."""

import ast
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import workbench
from workbench import privacy
from workbench.analysis.projection import project
from workbench.config import PrivacyConfig, RunConfig
from workbench.errors import InputError
from workbench.privacy import Guarantee, PrivacyTerms, accountant
from workbench.privacy.pld import Reading
from workbench.sweeps.cost import SweepCost, composed
from workbench.training.plan import plan
from workbench.training.prepare import prepare

HISTORY = [(1.0, 0.01, 100)]
TERMS = PrivacyTerms(1e-5, "pld", "poisson", "add_or_remove_one", "record")
ELSEWHERE = [
    {"privacy.sampling": "shuffle"},
    {"privacy.sampling": "truncated_poisson"},
    {"privacy.sampling": "fixed_size"},
    {"privacy.neighbouring_relation": "replace_one"},
]


def made(tree: ast.AST, name: str) -> bool:
    """Whether ``name`` is called anywhere, also as an attribute."""
    return any(
        isinstance(node, ast.Call)
        and (getattr(node.func, "id", None) == name or getattr(node.func, "attr", None) == name)
        for node in ast.walk(tree)
    )


def test_no_module_but_the_factorys_makes_a_guarantee() -> None:
    root = Path(workbench.__file__).parent
    makers = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if made(ast.parse(path.read_text(encoding="utf-8")), "Guarantee")
    ]
    assert makers == ["privacy/terms.py"]


@pytest.mark.parametrize("kind", [Guarantee, PrivacyTerms])
def test_every_term_is_required(kind: type) -> None:
    for field in dataclasses.fields(kind):
        assert field.default is dataclasses.MISSING
        assert field.default_factory is dataclasses.MISSING


def refusal(ask: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        ask()
    return str(caught.value)


@pytest.mark.parametrize("changes", ELSEWHERE)
def test_what_training_refuses_every_preview_refuses_in_the_same_words(
    changes: dict[str, str],
) -> None:
    config = RunConfig().with_changes(changes)
    sentence = refusal(lambda: prepare(config))
    for ask in (
        lambda: privacy.guarantee(HISTORY, PrivacyTerms.of(config.privacy)),
        lambda: plan(config, 1000),
        lambda: list(project(config)),
        lambda: composed(config.privacy, [config], [HISTORY]),
    ):
        assert refusal(ask) == sentence


@pytest.mark.parametrize("changes", ELSEWHERE)
def test_a_run_without_privacy_has_no_terms_to_keep(changes: dict[str, str]) -> None:
    config = RunConfig().with_changes({**changes, "privacy.private": False})
    without = privacy.guarantee([(0.0, 0.01, 100)], PrivacyTerms.of(config.privacy))
    assert math.isinf(without.epsilon)


def test_the_terms_of_training_are_the_configurations_defaults() -> None:
    assert PrivacyTerms.of_training(1e-5) == PrivacyTerms.of(PrivacyConfig()) == TERMS


def test_a_bound_in_place_of_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsettled(*_: object, **__: object) -> Reading:
        return Reading(1e6, False, 0)

    monkeypatch.setattr(accountant, "settled_epsilon", unsettled)
    stated = privacy.guarantee(HISTORY, TERMS)
    assert stated.epsilon == privacy.epsilon(*HISTORY[0], 1e-5, accountant="rdp")
    assert "(RDP in place of PLD, poisson sampling, add or remove one record)" in str(stated)
    assert Guarantee.from_dict(json.loads(json.dumps(stated.as_dict()))) == stated


@pytest.mark.parametrize("epsilon", [0.0, 5.04, math.inf])
def test_a_guarantee_survives_json(epsilon: float) -> None:
    stated = Guarantee(epsilon, 1e-5, "pld", "poisson", "add_or_remove_one", "record")
    assert Guarantee.from_dict(json.loads(json.dumps(stated.as_dict()))) == stated
    cost = SweepCost(stated, runs=2, steps=10, splits=1)
    assert SweepCost.from_dict(json.loads(json.dumps(cost.as_dict()))) == cost


@given(st.floats(min_value=0, max_value=1, exclude_min=True, exclude_max=True))
def test_delta_is_never_written_smaller_than_it_is(delta: float) -> None:
    assert float(privacy.written_delta(delta)) >= delta * (1 - 1e-11)
    stated = Guarantee(1.0, delta, "pld", "poisson", "add_or_remove_one", "record")
    assert f"at δ = {privacy.written_delta(delta)} (" in str(stated)


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False))
def test_epsilon_is_never_written_smaller_than_it_is(epsilon: float) -> None:
    assert float(privacy.written_epsilon(epsilon)) >= epsilon * (1 - 1e-12)


def test_negative_noise_is_no_run_without_privacy() -> None:
    with pytest.raises(InputError, match="noise_multiplier is -1"):
        privacy.guarantee([(-1.0, 0.01, 100)], TERMS)
