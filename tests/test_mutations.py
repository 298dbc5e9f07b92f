"""The faults that `make mutants` plants: small, each of them compiles, and none is in a text."""

import ast
from pathlib import Path

import pytest

from tools.mutations import mutants, sample

ROOT = Path(__file__).resolve().parents[1]
STEP = (ROOT / "workbench" / "training" / "step.py").read_text("utf-8")


def faults(text: str) -> set[str]:
    return {mutant.applied(text) for mutant in mutants("m.py", text)}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a < b", "a <= b"),
        ("(a + b) / c", "(a + b) * c"),
        ("a ** 2", "a * 2"),
        ("x = 3", "x = 4"),
        ("x = 3", "x = 0"),
        ("min(a, b)", "max(a, b)"),
        ("min(a, b)", "min(b, a)"),
        ("not a", "a"),
        ("a and b", "(a or b)"),
        ("a -= b", "a += b"),
        ("check(a)", "pass"),
        ("def f():\n    return a", "def f():\n    return None"),
        ("@torch.no_grad()\ndef f(): ...", "\ndef f(): ..."),
        ("f(a, b=c)", "f(a)"),
        ("f(kind='pld')", "f(kind='rdp')"),
        ("if a:\n    b", "if (not (a)):\n    b"),
        ("f('σ', a < b)", "f('σ', a <= b)"),
    ],
)
def test_a_fault_of_every_kind_is_found(text: str, fault: str) -> None:
    assert fault in faults(text)


@pytest.mark.parametrize(
    "text",
    [
        '"""Of 3 kinds."""',
        "x: Literal[3]",
        "Way = Callable[[int], int]",
        "__all__ = ['pld']",
        "if TYPE_CHECKING:\n    x = 3",
        "import a.b",
        "f'{a:.3g}'",
        "zip(a, strict=True)",
    ],
)
def test_what_computes_nothing_is_left_alone(text: str) -> None:
    assert "x = 4" not in str(faults(text))
    assert not [m for m in mutants("m.py", text) if m.operator not in ("statement dropped",)]


def test_every_fault_in_a_module_compiles_and_changes_it() -> None:
    found = mutants("step.py", STEP)
    assert len(found) > 50
    for mutant in found:
        changed = mutant.applied(STEP)
        assert changed != STEP
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(STEP))


def test_a_sample_is_of_different_places_and_repeats() -> None:
    one, again, other = (sample({"step.py": STEP}, 20, seed=seed) for seed in (0, 0, 1))
    assert one == again != other
    assert len({(mutant.start, mutant.end) for mutant in one}) == 20
