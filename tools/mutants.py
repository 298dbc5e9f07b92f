"""Plant single faults in the code that privacy rests on, and see whether the tests notice.

    make mutants                                   150 of them, seed 0 (about two hours)
    make mutants ARGS="--number 40 --seed 7"       others
    make mutants ARGS="--only workbench/runs"      of one package
    make mutants ARGS="--list"                     what would be planted, without running a test

Each fault is planted alone in a copy of the project, and the tests of its package run there until
one fails. Results go to ``benchmarks/out/mutants-SEED.jsonl``, a line a mutant; what has a line
there already is not run again, so an interrupted measurement goes on. Tests that take ten minutes
of processor time, several times what they all need, hang, and a fault that makes them is noticed.
"""

# ruff: noqa: T201

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from difflib import unified_diff
from importlib import import_module
from pathlib import Path

import pytest

from tools.mutations import Mutant, sample

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "out"
MUTATED = (
    "workbench/privacy/*.py",
    "workbench/clipping/**/*.py",
    "workbench/runs/*.py",
    "workbench/training/plan.py",
    "workbench/training/step.py",
)
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


@dataclass(frozen=True)
class Verdict:
    """What became of one mutant: ``killed``, ``timeout``, ``survived`` or ``not run``, and why."""

    mutant: str
    outcome: str
    by: str
    seconds: float
    difference: str


def main() -> None:
    """Plant and report."""
    asked = _arguments()
    modules = {
        str(path.relative_to(ROOT)): path.read_text("utf-8")
        for pattern in MUTATED
        for path in sorted(ROOT.glob(pattern))
        if str(path.relative_to(ROOT)).startswith(asked.only)
    }
    chosen = sample(modules, asked.number, seed=asked.seed)
    if asked.list:
        print(*chosen, sep="\n")
        return
    path = Path(asked.out or OUT / f"mutants-{asked.seed}.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {verdict.mutant for verdict in _read(path)}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped; run it again to go on."))
    with _copy() as copy, path.open("a", encoding="utf-8") as file:
        _prepare_forks(copy)
        for mutant in chosen:
            if str(mutant) in done:
                continue
            verdict = _tried(copy, mutant, modules[mutant.path])
            print(f"{verdict.outcome:9}{verdict.seconds:6.0f} s  {mutant}", flush=True)
            file.write(json.dumps(asdict(verdict), ensure_ascii=False) + "\n")
            file.flush()
        names = set(map(str, chosen))
        verdicts = [verdict for verdict in _read(path) if verdict.mutant in names]
        _refuse_failing_tests(copy, verdicts)
    _report(verdicts)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--number", type=int, default=150, help="how many faults")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--only", default="", help="in modules whose path begins so")
    parser.add_argument("--out", help="where results go, a line each")
    parser.add_argument("--list", action="store_true", help="show them, run nothing")
    return parser.parse_args()


def _tried(copy: Path, mutant: Mutant, text: str) -> Verdict:
    """Plant one fault, run the tests that may notice, and take it out again."""
    changed = mutant.applied(text)
    lines = unified_diff(text.splitlines(True), changed.splitlines(True), n=0)
    began = time.monotonic()
    (copy / mutant.path).write_text(changed, "utf-8")
    try:
        outcome, by = _outcome(copy, _tests(mutant.path))
    finally:
        (copy / mutant.path).write_text(text, "utf-8")
    seconds = round(time.monotonic() - began, 1)
    return Verdict(str(mutant), outcome, by, seconds, "".join(list(lines)[3:]))


def _refuse_failing_tests(copy: Path, verdicts: list[Verdict]) -> None:
    """Where something survived, all tests passed; elsewhere they may fail without any fault."""
    passed = {_prefix(v.mutant) for v in verdicts if v.outcome == "survived"}
    paths = {_prefix(v.mutant): v.mutant.partition(":")[0] for v in verdicts}
    for path in (path for prefix, path in paths.items() if prefix not in passed):
        outcome, by = _outcome(copy, _tests(path))
        if outcome != "survived":
            sys.exit(f"{by} fails without any fault, so nothing was measured; mend it first.")


def _prefix(path: str) -> str:
    return max((prefix for prefix in TESTS if path.startswith(prefix)), key=len)


def _tests(path: str) -> list[str]:
    """The test files for a module, the likeliest to notice first, each once."""
    name = Path(path).stem.lstrip("_")
    files: list[str] = []
    for pattern in TESTS[_prefix(path)]:
        for found in sorted(ROOT.glob(pattern.format(name=name))):
            inside = sorted(found.rglob("test_*.py")) if found.is_dir() else [found]
            files += [str(file.relative_to(ROOT)) for file in inside]
    return list(dict.fromkeys(files))


def _outcome(copy: Path, tests: list[str]) -> tuple[str, str]:
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


def _prepare_forks(copy: Path) -> None:
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
def _copy() -> Iterator[Path]:
    """A copy of the project that faults may be planted in."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "project"
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.check_output(listed, cwd=ROOT, text=True).splitlines():
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name)
        yield copy


def _read(path: Path) -> list[Verdict]:
    if not path.exists():
        return []
    return [Verdict(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def _report(verdicts: list[Verdict]) -> None:
    counts = Counter(verdict.outcome for verdict in verdicts)
    for verdict in verdicts:
        if verdict.outcome in ("survived", "not run"):
            print(f"\n{verdict.outcome}: {verdict.mutant}\n{verdict.difference}{verdict.by}")
    judged = len(verdicts) - counts["not run"]
    noticed = counts["killed"] + counts["timeout"]
    print(
        f"\n{len(verdicts)} mutants: {counts['killed']} killed, {counts['timeout']} killed by "
        f"timeout, {counts['survived']} survived, {counts['not run']} could not be run; "
        f"score {noticed}/{judged} = {noticed / max(1, judged):.1%}"
    )


if __name__ == "__main__":
    main()
