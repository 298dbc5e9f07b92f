"""Imports go down the layers, and nothing heavy loads before it is needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
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
