"""The tests that may notice a fault, run in forks of one process over a copy of the project."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What may notice a fault in a module whose path begins so, the likeliest first.
TESTS: dict[str, tuple[str, ...]] = {
    "workbench/privacy/": (
        "tests/privacy/test_{name}.py",
        "tests/privacy",
        "tests/training/test_plan.py",
        "tests/analysis/test_previews.py",
    ),
    "workbench/privacy/_": ("tests/privacy/test_surface*.py", "tests/privacy"),
    "workbench/clipping/": (
        "tests/clipping/test_{name}.py",
        "tests/clipping",
        "tests/soundness/test_planted_bugs.py",
    ),
    "workbench/runs/": (
        "tests/runs",
        "tests/training/test_resume*.py",
        "tests/training/test_run*.py",
        "tests/training/test_checkpoint*.py",
        "tests/soundness",
    ),
    "workbench/training/": (
        "tests/training/test_{name}.py",
        "tests/training/test_run.py",
        "tests/soundness",
        "tests/training",
    ),
}
_PROCESSOR_SECONDS = 600  # of one process's tests: busy machines stretch any other clock
_MEMORY = 16 * 2**30  # bytes of addresses a process may ask for
# Imported once; each run of tests is a fork, and starts at once.
_PRELOADED = (
    "dp_accounting.pld.privacy_loss_distribution",
    "dp_accounting.rdp",
    "opacus.accountants",
    "opacus.grad_sample",
    "pandas",
    "pyarrow.parquet",
    "pytest",
    "scipy.optimize",
    "scipy.stats",
    "torch._dynamo",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
)


def prefix_of(path: str) -> str:
    """The longest beginning of a path that has tests of its own."""
    return max((prefix for prefix in TESTS if path.startswith(prefix)), key=len)


def tests_of(copy: Path, path: str) -> list[str]:
    """The copy's test files for a module, the likeliest to notice first, each once."""
    name = Path(path).stem.lstrip("_")
    files: list[str] = []
    for pattern in TESTS[prefix_of(path)]:
        for found in sorted(copy.glob(pattern.format(name=name))):
            inside = sorted(found.rglob("test_*.py")) if found.is_dir() else [found]
            files += [str(file.relative_to(copy)) for file in inside]
    return list(dict.fromkeys(files))


def outcome_of(copy: Path, tests: list[str]) -> tuple[str, str]:
    """Quick tests first; slow ones only if these noticed nothing."""
    for marked in ("not slow and not browser and not cuda", "slow and not browser and not cuda"):
        code, output = _pytest(copy, tests, marked)
        if code == -signal.SIGXCPU or "Timeout (>" in output:
            return "timeout", _first_failure(output)
        if code in (1, 2):
            return "killed", _first_failure(output)
        if code not in (0, 5):
            return "not run", f"pytest ended with {code}: {output[-400:]}"
    return "survived", ""


def prepare_forks(copy: Path) -> None:
    """Have this process, and with it every fork, see the copy instead of the project."""
    os.chdir(copy)
    sys.path[:] = [str(copy), *(entry for entry in sys.path if Path(entry) not in (ROOT, Path()))]
    sys.dont_write_bytecode = True  # compiled files are told apart by second and size alone
    os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    for name in _PRELOADED:
        import_module(name)
    assert not any(name.startswith("workbench") for name in sys.modules)


def _pytest(copy: Path, tests: list[str], marked: str) -> tuple[int, str]:
    """Exit code, negative for a signal, and output of the tests, run in a fork."""
    options = ["-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning", "--hypothesis-seed=0"]
    options += ["-m", marked, *tests]
    log = copy.with_name("output")
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (_PROCESSOR_SECONDS, _PROCESSOR_SECONDS + 5))
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            code = int(pytest.main(options))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what the tests have left running
    return code, log.read_text("utf-8", errors="replace")


def _first_failure(output: str) -> str:
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    return found[1] if found else output[-200:]


@contextmanager
def project_copy() -> Iterator[Path]:
    """A copy of the project that faults may be planted in."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "project"
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.check_output(listed, cwd=ROOT, text=True).splitlines():
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name)
        yield copy
