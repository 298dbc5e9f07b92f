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
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from difflib import unified_diff
from pathlib import Path

from tools.mutant_tests import (
    ROOT,
    outcome_of,
    prefix_of,
    prepare_forks,
    project_copy,
    tests_of,
)
from tools.mutations import Mutant, sample

OUT = ROOT / "benchmarks" / "out"
MUTATED = (
    "workbench/privacy/*.py",
    "workbench/clipping/**/*.py",
    "workbench/runs/*.py",
    "workbench/training/plan.py",
    "workbench/training/step.py",
)
# Faults that change nothing that can be seen, by module and change, and why. They are not counted.
EQUIVALENT: dict[tuple[str, str], str] = {
    (
        "workbench/clipping/bookkeeping/contributions.py",
        "comparison: m * n > KEEP_UP_TO * positions * (m + n) → "
        "m * n >= KEEP_UP_TO * positions * (m + n)",
    ): "at equality both forms of the same gradients cost alike",
    (
        "workbench/clipping/bookkeeping/products.py",
        "comparison: left.shape[2] > right.shape[2] → left.shape[2] >= right.shape[2]",
    ): "of two factors of one width either may be called the narrower",
    (
        "workbench/clipping/bookkeeping/layer_calls.py",
        "comparison: len(output) == 1 → len(output) != 1",
    ): "calls with one row are still told from those with more",
    (
        "workbench/privacy/surface.py",
        "comparison: excess < 0 → excess <= 0",
    ): "where the excess is 0 the search has ended",
    (
        "workbench/privacy/_saddle.py",
        "comparison: np.abs(step) < _TILT_TOLERANCE → np.abs(step) <= _TILT_TOLERANCE",
    ): "a step is never exactly the tolerance, and either would do",
    (
        "workbench/privacy/tradeoff.py",
        "constant: 1e-12 → 5e-13",
    ): "a root found more closely than anyone reads it",
    (
        "workbench/privacy/calibration.py",
        "constant: 0 → -1",
    ): "the first bisection that asks about no step at all raises -1 to 0 again",
}


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
    with project_copy() as copy, path.open("a", encoding="utf-8") as file:
        prepare_forks(copy)
        for mutant in chosen:
            if str(mutant) in done:
                continue
            verdict = _tried(copy, mutant, modules[mutant.path])
            print(f"{verdict.outcome:9}{verdict.seconds:6.0f} s  {mutant}", flush=True)
            file.write(json.dumps(asdict(verdict), ensure_ascii=False) + "\n")
            file.flush()
        names = set(map(str, chosen))
        verdicts = [verdict for verdict in _read(path) if verdict.mutant in names]
        _refuse_failingtests_of(copy, verdicts)
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
        outcome, by = outcome_of(copy, tests_of(copy, mutant.path))
    finally:
        (copy / mutant.path).write_text(text, "utf-8")
    seconds = round(time.monotonic() - began, 1)
    return Verdict(str(mutant), outcome, by, seconds, "".join(list(lines)[3:]))


def _refuse_failingtests_of(copy: Path, verdicts: list[Verdict]) -> None:
    """Where something survived, all tests passed; elsewhere they may fail without any fault."""
    passed = {prefix_of(v.mutant) for v in verdicts if v.outcome == "survived"}
    paths = {prefix_of(v.mutant): v.mutant.partition(":")[0] for v in verdicts}
    for path in (path for prefix, path in paths.items() if prefix not in passed):
        outcome, by = outcome_of(copy, tests_of(copy, path))
        if outcome != "survived":
            sys.exit(f"{by} fails without any fault, so nothing was measured; mend it first.")


def _read(path: Path) -> list[Verdict]:
    if not path.exists():
        return []
    return [Verdict(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def _report(verdicts: list[Verdict]) -> None:
    counts: Counter[str] = Counter()
    for verdict in verdicts:
        place, _, change = verdict.mutant.partition(" ")
        reason = EQUIVALENT.get((place.partition(":")[0], change))
        outcome = "equivalent" if reason and verdict.outcome == "survived" else verdict.outcome
        counts[outcome] += 1
        if outcome in ("survived", "not run", "equivalent"):
            print(f"\n{outcome}: {verdict.mutant}\n{verdict.difference}{reason or verdict.by}")
    noticed = counts["killed"] + counts["timeout"]
    judged = noticed + counts["survived"]
    print(
        f"\n{len(verdicts)} mutants: {counts['killed']} killed, {counts['timeout']} killed by "
        f"timeout, {counts['survived']} survived, {counts['equivalent']} equivalent, "
        f"{counts['not run']} could not be run; "
        f"score {noticed}/{judged} = {noticed / max(1, judged):.1%}"
    )


if __name__ == "__main__":
    main()
