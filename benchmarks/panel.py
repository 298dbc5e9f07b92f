"""What the live training panel costs the run it follows, in a real notebook in a real Chromium.

In the midst of one run the panel is let draw and held still in turns of a few seconds; the figure
is the median over pairs of such turns of their times a step. Steps of the default run take long,
small batches make steps fast. On a busy machine the pairs scatter, so its load is a figure too, and
so is the processor time that browser and server take for the panel, which scatters less.
"""

import asyncio
import json
import os
import statistics
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pandas as pd
import psutil

from tests.browser.lab_server import lab_page, running_chromium, running_lab
from workbench.config import RunConfig

if TYPE_CHECKING:
    from workbench.panels.run.job import RunJob
    from workbench.panels.run.panel import Trainer

PAIRS = 20
Turn = tuple[float, float]  # seconds a step, and of processor time that others take a second
CASES = {  # expected batch size, and the steps of one turn
    "default run": (512, 7),
    "small batches": (32, 80),
}
_LOOK_AGAIN_SECONDS = 0.05
PATIENCE = 3600.0  # seconds; a quiet machine takes some minutes
ANSWER = "panel.json"
CELLS = [
    "from benchmarks.panel import measured\n"
    "from workbench import panels\n"
    "trainer = panels.Trainer()\n"
    "trainer",
    "await measured(trainer)",
]


def main() -> dict[str, float]:
    """Percent that a step takes longer with the panel drawing, and milliseconds of a redraw."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # the kernel runs `measured`
    with tempfile.TemporaryDirectory() as folder, running_lab(Path(folder)) as server:
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
        book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(book, server.notebooks / "panel.ipynb")
        with running_chromium() as browser, lab_page(browser, server) as page:
            page.open("panel.ipynb")
            page.run_all(seconds=PATIENCE)
            answer = json.loads((server.notebooks / ANSWER).read_text(encoding="utf-8"))
    figures = {}
    for name, pairs in answer["pairs"].items():
        times, processor = ([[turn[kind] for turn in pair] for pair in pairs] for kind in (0, 1))
        drawing, still = (statistics.median(one) for one in zip(*times, strict=True))
        overhead = statistics.median(drawn / held for drawn, held in times) - 1
        taken = statistics.mean(drawn - held for drawn, held in processor)
        figures[f"{name}: overhead of the panel, %"] = 100 * overhead
        figures[f"{name}: browser and server, % of all cores"] = 100 * taken / (os.cpu_count() or 1)
        figures[f"{name}: ms a step, panel drawing"] = 1000 * drawing
        figures[f"{name}: ms a step, panel drawing | held still"] = 1000 * still
    redraw = "redraw after 10,000 steps, ms of the kernel's time"
    return {
        **figures,
        redraw: answer["redraw"]["10000"],
        f"{redraw} | after 300": answer["redraw"]["300"],
        "load average": os.getloadavg()[0],
    }


async def measured(trainer: "Trainer") -> None:
    """Run in the notebook: train with the panel in turns, and write what was timed to `ANSWER`."""
    pairs = {name: await _turns(trainer, *case) for name, case in CASES.items()}
    redraw = {steps: _redraw(trainer, steps) for steps in (300, 10_000)}
    Path(ANSWER).write_text(json.dumps({"pairs": pairs, "redraw": redraw}), encoding="utf-8")


async def _turns(trainer: "Trainer", batch: int, steps: int) -> list[tuple["Turn", "Turn"]]:
    """`PAIRS` turns with the panel drawing, each with the next one, in which it is held still."""
    total = (2 * PAIRS + 3) * steps
    changes = {
        "training.expected_batch_size": batch,
        "training.steps": total,
        "training.evaluate_every": total,
    }
    trainer.form.show(RunConfig().with_changes(changes))
    run = trainer.begin()
    await _past(run, steps)  # warms up
    taken = []
    for turn in range(2 * PAIRS):
        # A panel that waits for its lock does nothing at all.
        with trainer._lock if turn % 2 else nullcontext():
            began, before = time.monotonic(), _seconds_of_others()
            step = await _past(run, steps)
            others = (_seconds_of_others() - before) / (time.monotonic() - began)
            taken.append((step, others))
    run.cancel()
    await run.until_end()
    return list(zip(taken[::2], taken[1::2], strict=True))


def _seconds_of_others() -> float:
    """Processor time so far of the browser's processes and of this kernel's server."""
    found = [psutil.Process(os.getppid())]
    found += [p for p in psutil.process_iter(["name"]) if "chrom" in (p.info["name"] or "")]
    return sum(sum(p.cpu_times()[:2]) for p in found)


async def _past(run: "RunJob", steps: int) -> float:
    """Let ``steps`` pass and return the seconds that one of them took."""
    while (before := run.progress().latest) is None:
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)
    after = before
    while after.step < before.step + steps:
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        after = run.progress().latest or before
    return (after.seconds - before.seconds) / (after.step - before.step)


def _redraw(trainer: "Trainer", steps: int, *, times: int = 20) -> float:
    """Milliseconds of this process to redraw all pictures of a run of so many steps."""
    assert trainer.run is not None
    view = trainer._view(trainer.run.progress())
    repeats = -(-steps // len(view.metrics))
    metrics = pd.concat([view.metrics] * repeats, ignore_index=True).head(steps)
    long = replace(view, metrics=metrics.assign(step=range(steps)), steps=steps)
    began = time.thread_time()
    for _ in range(times):
        trainer.pictures.show(long)
    return 1000 * (time.thread_time() - began) / times
