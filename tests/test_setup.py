"""What installs the project agrees with itself: pyproject.toml, the lock and environment.yml."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tools.lock import pins
from workbench.cli import main

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [
    Requirement(text)
    for text in [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
]
LOCK_LINES = [
    line
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
README_EXAMPLES = re.findall(
    r"^\$ (workbench .+)\n(.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
)
LOCKED = dict(line.split("==") for line in LOCK_LINES)


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_dependency_is_locked_at_a_version_that_satisfies_it(requirement: Requirement):
    assert requirement.specifier.contains(LOCKED[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("line", LOCK_LINES)
def test_the_lock_pins_names_and_versions_alone(line: str):
    # A local label such as +cpu would tie the lock to one machine's build.
    assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)


def test_the_lock_is_sorted_and_names_nothing_twice():
    names = [line.split("==")[0] for line in LOCK_LINES]
    assert names == sorted(set(names))


def test_a_lock_leaves_out_what_belongs_to_one_platform():
    resolved = {"torch": "2.13.0+cpu", "nvidia-cublas": "13.0", "triton": "3.5", "PyYAML": "6.0.3"}
    packages = [{"metadata": {"name": name, "version": resolved[name]}} for name in resolved]
    assert pins({"install": packages}) == ["pyyaml==6.0.3", "torch==2.13.0"]


def test_conda_and_binder_install_the_same_project():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, from_pip = environment["dependencies"]
    assert pip == "pip"
    assert from_pip == {"pip": [f"-e .[{','.join(EXTRAS)}]"]}
    version = python.removeprefix("python=")
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)


@pytest.mark.parametrize(("command", "answer"), README_EXAMPLES)
def test_the_examples_of_the_readme_run_and_answer_as_printed(command: str, answer: str):
    result = CliRunner().invoke(main, shlex.split(command)[1:])
    assert result.output == f"{answer}\n"


def test_the_licence_is_whole():
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert "APPENDIX: How to apply the Apache License to your work." in licence
