"""Imports go down the layers and in no circle, and nothing heavy loads before it is needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "workbench"
LAYERS = {
    **dict.fromkeys(["config", "errors", "fast", "presets", "spelling", "yaml_text"], 1),
    **dict.fromkeys(["privacy", "corpora", "clipping"], 2),
    "runs": 3,
    "training": 4,
    **dict.fromkeys(["audit", "production", "sweeps"], 5),
    **dict.fromkeys(["analysis", "scaling"], 6),
    **dict.fromkeys(["figures", "cli", "lab", "terminal", "terminal_audit", "__main__"], 7),
    "panels": 8,
}
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ["torch", "transformers", "opacus", "plotly", "ipywidgets", "distributed"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path):
    package = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if package == "__init__":
        return
    source = path.read_text(encoding="utf-8")
    for imported in packages_imported(source):
        assert LAYERS[imported] <= LAYERS[package], (
            f"{package} imports {imported} from a layer above"
        )


def test_an_import_inside_a_function_counts():
    source = "def late():\n    from workbench import panels\n    import workbench.cli\n"
    assert set(packages_imported(source)) == {"panels", "cli"}


def test_modules_import_in_no_circle():
    assert in_circles({dotted(path): modules_imported(path) for path in MODULES}) == set()


@pytest.mark.parametrize(
    "statement",
    [
        "from workbench.runs import ledger",
        "from workbench.runs.ledger import read",
        "def late():\n    import workbench.runs.ledger",
        "import importlib\nimportlib.import_module('workbench.runs.ledger')",
        "HOMES = {'read': 'runs.ledger'}\nimport_module(f'workbench.{HOMES[name]}')",
    ],
)
def test_an_import_is_seen_however_it_is_made(statement: str):
    module = PACKAGE / "runs" / "verify.py"
    assert modules_imported(module, statement) == {"workbench.runs.ledger"}
    only_types = f"if TYPE_CHECKING:\n    {statement}"
    if statement.startswith("from"):
        assert modules_imported(module, only_types) == set()


def test_panels_share_what_is_common_and_common_needs_none_of_them():
    for path in (PACKAGE / "panels" / "common").rglob("*.py"):
        needed = {name for name in modules_imported(path) if name.startswith("workbench.panels.")}
        assert all(name.startswith("workbench.panels.common.") for name in needed), path.name


def test_a_circle_is_found_however_long():
    assert in_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {"b", "c"}


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import workbench", HEAVY),
        ("from workbench import privacy", ["torch", "transformers", "opacus"]),
        ("from workbench import cli", HEAVY),
    ],
)
def test_heavy_packages_load_when_first_used(statement: str, unwanted: list[str]):
    probe = f"import sys; {statement}; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )
    assert set(unwanted) & set(result.stdout.split()) == set()


def packages_imported(source: str) -> Iterator[str]:
    """The packages that a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their package in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            package = rest.partition(".")[0]
            if top == "workbench" and package in LAYERS:
                yield package


def dotted(path: Path) -> str:
    """``workbench/runs/__init__.py`` as ``workbench.runs``."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def modules_imported(path: Path, source: str | None = None) -> set[str]:
    """The modules of the package that one imports, also inside functions; not for types alone.

    What ``import_module`` is given may be put together of any texts in the module.
    """
    tree = ast.parse(source or path.read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    modules = {dotted(module) for module in MODULES}
    found: set[str] = set()
    for node in set(ast.walk(tree)) - for_types:
        match node:
            case ast.Import(names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module, names):
                full = {f"{module}.{alias.name}" for alias in names}
                found |= {name if name in modules else str(module) for name in full}
            case ast.Call(ast.Name("import_module") | ast.Attribute(attr="import_module"), [given]):
                texts = [given] if isinstance(given, ast.Constant) else ast.walk(tree)
                values = {str(text.value) for text in texts if isinstance(text, ast.Constant)}
                found |= values | {f"workbench.{value}" for value in values}
    return (found & modules) - {dotted(path)}


def in_circles(imports: Mapping[str, set[str]]) -> set[str]:
    """The modules from which imports lead back to themselves."""
    reached = {name: set(needed) for name, needed in imports.items()}
    changed = True
    while changed:
        changed = False
        for name, so_far in reached.items():
            further = so_far.union(*(reached.get(other, set()) for other in so_far))
            changed |= further != so_far
            reached[name] = further
    return {name for name, so_far in reached.items() if name in so_far}
