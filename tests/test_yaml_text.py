"""YAML without its traps: read as it looks, or refused with the line."""

import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.sweeps.config import SweepConfig
from workbench.yaml_text import read_yaml, write_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-1_000", -1000),
        ("+3", 3),
        ("0", 0),
        ("1e-5", 1e-5),  # a text in YAML 1.1
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.5e+3", -1500.0),
        (".inf", math.inf),
        ("true", True),
        ("off", False),
        ("~", None),
        ("", None),
        ("plain words", "plain words"),
        ("1.2.3", "1.2.3"),
        ("'010'", "010"),
        ('"yes"', "yes"),
        ("!!str 010", "010"),
        ("|\n  010", "010"),
        ("[a, 1, {b: c}]", ["a", 1, {"b": "c"}]),
    ],
)
def test_values_are_what_they_look_like(text: str, value: Any) -> None:
    assert read_yaml(f"key: {text}") == {"key": value}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 010", "Line 1 of the configuration has '010'"),
        ("\n\na: -007", "Line 3"),
        ("a: 0x1F", "not decimal"),
        ("a: 0b1", "not decimal"),
        ("a: 0x_", "not decimal"),
        ("a: 1:30", "in sixties"),
        ("a: 12:30:45.5", "in sixties"),
        ("a: 2024-01-02", "a date"),
        ("a: 2024-31-12", "a date"),
        ("a: 2024-01-02 10:00:00", "a date"),
        ("a: 1\nb: 2\na: 3", "Line 3 of the configuration has 'a' again, which line 1 has"),
        ("a: {b: 1, c: 2, b: 3}", "'b' again"),
        ("a:\n  - {b: 1,\n     b: 3}", "Line 3"),
        ("a: 1\n'a': 2", "'a' again"),
        ("1: 1\n'1': 2", "'1' again"),
        ("a: !!int 3", "Line 1 of the configuration has the tag"),
        ("a: !!python/object:os.system x", "the tag"),
        ("!mine {a: 1}", "the tag"),
        ("a: !!timestamp x", "the tag"),
        ("a: " + "[" * 3000, "nested too deeply"),
        ("a: " + "{b: " * 3000, "nested too deeply"),
        ("\n".join(" " * i + "a:" for i in range(900)), "nested too deeply"),
        ("a: &a [*a]", "contains itself"),
        ("a: &a {b: *a}", "contains itself"),
        ("a: *b", "undefined alias"),
        ("<<: 3", "Line 1 of the configuration merges"),
        ("? [1, 2]\n: 3", "a key that is no name"),
        ('a: "\\ud800"', "a character that no text has"),
        ('a: "\\0"', "a character that no text has"),
        ('a: "\\UFFFFFFFF"', "not YAML"),
        ("a: \0", "not YAML"),
        ("a: 1\n---\nb: 2", "line 2"),
        ("a: b: c", "line 1"),
        ("a: x" * 10**6, "characters"),
    ],
)
def test_what_could_mean_something_else_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        read_yaml(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_aliases_are_taken_unless_they_stand_for_too_much() -> None:
    shared = "a: &x {b: 1, c: 2}\nd: *x\ne: {<<: *x, c: 3}\nf: {<<: [{c: 9}, *x]}"
    one = {"b": 1, "c": 2}
    assert read_yaml(shared) == {"a": one, "d": one, "e": {"b": 1, "c": 3}, "f": {"b": 1, "c": 9}}
    laughs = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    laughs += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(InputError, match="values with its aliases"):
        read_yaml("\n".join(laughs))
    merges = ["a0: &a0 {b: 1}"]
    merges += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 12)]
    with pytest.raises(InputError, match="values with its aliases"):
        read_yaml("\n".join(merges))


_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
_near_yaml = st.text("0123456789.eE+-_:xyesnoftrul~<'\"#&*!%@ \n[]{},|>?", max_size=12)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _text | _near_yaml,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(_text | _near_yaml, inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.dictionaries(_text | _near_yaml, _values, max_size=4))
def test_whatever_is_written_is_read_back(values: dict[str, Any]) -> None:
    assert read_yaml(write_yaml(values)) == values


_SOME_YAML = st.text("abz01 \n\t:-[]{},&*!|>'\"%@`?#~.<e_", max_size=60)
_MARKED = _SOME_YAML.map(lambda text: f"privacy: {text}\ntraining: {{steps: {text}}}")


@settings(derandomize=True, deadline=None, max_examples=600)
@given(_SOME_YAML | _MARKED | st.text(max_size=40))
def test_random_text_ends_in_a_configuration_or_one_sentence(text: str) -> None:
    for document in (RunConfig, SweepConfig):
        with suppress(InputError):
            document.from_yaml(text)
