"""Sweeps: every cell once, whatever happens on the way, and an honest price for all of them."""

import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from distributed import Client, Future, LocalCluster

from tests.panels.waiting import PATIENCE, eventually
from workbench import privacy, training
from workbench.cli import main
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.runs.ledger import read
from workbench.sweeps import cluster as sweep_cluster
from workbench.sweeps import folder as sweep_folder
from workbench.sweeps import sweep as sweep_module
from workbench.sweeps.config import cell_id, field_names
from workbench.sweeps.sweep import SweepConfig, SweepCost, read_sweep, run_sweep, sweep_cost

SIGMAS = (0.6, 0.8)


def sweep_of(config: RunConfig, grid: dict[str, Any] | None = None, **more: Any) -> SweepConfig:
    """A sweep around ``config``; over two noise multipliers unless told otherwise."""
    grid = {"privacy.noise_multiplier": SIGMAS} if grid is None and not more else grid or {}
    return SweepConfig(base=config, grid=grid, **more)


def long(config: RunConfig, *, steps: int) -> RunConfig:
    """A run that is still going when somebody looks."""
    return config.with_changes({"training.steps": steps, "training.evaluate_every": steps})


def rows(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    """The cells' results, one by one, 0 for a number of steps that is not known."""
    return frame.fillna({"steps": 0}).to_dict("records")


def states(frame: pd.DataFrame) -> list[str]:
    return frame["state"].tolist()


def test_a_grid_is_every_combination_once() -> None:
    sweep = SweepConfig(grid={"privacy.noise_multiplier": (0.6, 0.8), "seed": (0, 1, 1)})
    values = [tuple(cell.values.values()) for cell in sweep.cells()]
    assert values == [(0.6, 0), (0.6, 1), (0.8, 0), (0.8, 1)]
    for cell in sweep.cells():
        expected = RunConfig().with_changes(cell.values)
        assert cell.config == expected


def test_every_entry_of_the_list_goes_through_the_grid() -> None:
    entries = ({"training.steps": 5, "seed": 3}, {"training.learning_rate": 0.1})
    sweep = SweepConfig(grid={"model.width": (16, 32)}, list=entries)
    assert sweep.fields == ("training.steps", "seed", "training.learning_rate", "model.width")
    chosen = [(c.config.training.steps, c.config.seed, c.config.model.width) for c in sweep.cells()]
    assert chosen == [(5, 3, 16), (5, 3, 32), (300, 0, 16), (300, 0, 32)]


def test_fields_nest_as_deep_as_the_configuration() -> None:
    assert {"seed", "training.steps", "schedule.noise.kind"} <= set(field_names())
    grid = {"schedule.noise.kind": ("linear", "step"), "schedule.noise.end_factor": (0.5,)}
    kinds = [cell.config.schedule.noise.kind for cell in SweepConfig(grid=grid).cells()]
    assert kinds == ["linear", "step"]


def test_a_value_for_one_alternative_empties_the_other() -> None:
    grid = {"privacy.target_epsilon": (2, 4), "training.epochs": (1,)}
    for cell in SweepConfig(grid=grid).cells():
        assert cell.config.privacy.noise_multiplier is None
        assert cell.config.training.steps is None


def test_a_cell_is_named_by_its_configuration_and_not_by_how_it_was_written() -> None:
    by_grid = SweepConfig(grid={"privacy.noise_multiplier": (1, 2)}).cells()
    by_list = SweepConfig(list=({"privacy.noise_multiplier": 2.0},)).cells()
    based = SweepConfig.from_yaml("base: {privacy: {noise_multiplier: 2}}\ngrid: {seed: [0]}")
    assert by_grid[1].id == by_list[0].id == based.cells()[0].id
    assert by_grid[0].id != by_grid[1].id
    # A sweep of today must find its cells tomorrow, on any machine.
    assert cell_id(RunConfig()) == cell_id(RunConfig.from_yaml(RunConfig().to_yaml()))


def test_a_sweep_survives_its_yaml() -> None:
    text = "grid: {privacy.delta: [1e-5, 1e-6]}\nlist: [{runtime.physical_batch_size: auto}]"
    sweep = SweepConfig.from_yaml(text)
    again = SweepConfig.from_yaml(sweep.to_yaml())
    assert [cell.id for cell in again.cells()] == [cell.id for cell in sweep.cells()]
    assert [cell.config.privacy.delta for cell in sweep.cells()] == [1e-5, 1e-6]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("grid: {privacy.noise_multipler: [1]}", "perhaps you mean privacy.noise_multiplier."),
        ("grid: {learning_rate: [1]}", "perhaps you mean training.learning_rate."),
        ("grid: {noise-multiplier: [1]}", "perhaps you mean privacy.noise_multiplier."),
        ("grid: {training.lr: [1]}", "perhaps you mean training.learning_rate."),
        ("grid:\n  seed: [0, 1]\n  seed: [2]", "Line 3 of the configuration has 'seed' again"),
        ("list: [{seed: 1, seed: 2}]", "Line 1 of the configuration has 'seed' again"),
        (
            "base: {privacy: {noise-multiplier: 2}}\ngrid: {seed: [1]}",
            "noise_multiplier in the section base.privacy.",
        ),
        ("grid: {seed: [010]}", "'010'"),
        ("grid: {seed: [yes]}", "seed is True but should be neither true nor false"),
        ("grids: {seed: [1]}", "perhaps you mean grid."),
        (f"grid: {{seed: {[*range(400)]}, model.width: {[*range(400)]}}}", "160,000 cells"),
        ("grid: {privacy: [1]}", "the section 'privacy'"),
        ("grid: {zeal: [1]}", "'zeal', which is not a field"),
        ("list: [{zeal: 1}]", "'zeal', which is not a field"),
        ("grid: {seed: 3}", "grid.seed is 3 but must be a list"),
        ("grid: {seed: []}", "grid.seed is [] but must be a list"),
        ("grid: 3", "grid is no mapping"),
        ("list: 3", "list is no list"),
        ("list: [3]", "the entry 3"),
        ("grid: {privacy.delta: [0.1, 2]}", "privacy.delta is 2 but"),
        ("base: {zeal: 1}", "base.zeal is not a field"),
        ("base: {}", "neither grid nor list"),
        ("seeds: [1]", "seeds is not a field"),
        ("grid: {seed: [1]}\nlist: [{seed: 2}]", "seed is both in grid and in list"),
    ],
)
def test_a_wrong_sweep_is_refused_in_one_sentence(text: str, names: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    result = CliRunner().invoke(main, ["sweep", str(path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert names in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_cell_is_the_run_of_its_configuration(
    config: RunConfig, client: Client, tmp_path: Path
) -> None:
    """Threads as the worker's, noise and batches from the seed: the numbers are the same bits."""
    frame = run_sweep(sweep_of(config), folder=tmp_path / "sweep", scheduler=client)
    alone = training.train(
        config.with_changes({"privacy.noise_multiplier": SIGMAS[1]}), run_dir=tmp_path / "alone"
    )
    row = rows(frame)[1]
    assert states(frame) == ["done", "done"]
    assert row["privacy.noise_multiplier"] == row["noise_multiplier"] == SIGMAS[1]
    assert row["heldout_loss"] == alone.heldout_loss
    assert row["epsilon"] == alone.guarantee.epsilon
    assert (row["steps"], row["delta"], row["sample_rate"]) == (4, 1e-5, alone.sample_rate)
    assert training.verify(tmp_path / "sweep" / row["folder"]) == alone.guarantee


def test_results_can_be_read_while_the_sweep_runs_and_after(
    config: RunConfig, client: Client, tmp_path: Path
) -> None:
    seen = []

    def look(frame: pd.DataFrame) -> None:
        kept = read_sweep(tmp_path)
        seen.append((states(frame), states(kept), kept.attrs))

    frame = run_sweep(sweep_of(config), folder=tmp_path, scheduler=client, on_change=look)
    assert seen[0][:2] == (["waiting", "waiting"],) * 2
    assert all(attrs == {"state": "running", "privacy": None} for *_, attrs in seen)
    assert any("done" in kept and "done" not in kept[1:] for _, kept, _ in seen)
    pd.testing.assert_frame_equal(read_sweep(tmp_path), frame)
    text = (tmp_path / "results.csv").read_text("utf-8")
    assert text == frame.to_csv(index=False)
    assert frame.attrs["state"] == "done"


def test_a_mixture_of_values_is_a_column_of_texts(config: RunConfig) -> None:
    sweep = sweep_of(config, {"runtime.physical_batch_size": (16, "auto")})
    frame = sweep_folder.no_results(sweep.cells())
    assert frame["runtime.physical_batch_size"].tolist() == ["16", "auto"]


def test_the_whole_sweep_costs_the_composition_of_all_its_runs(
    config: RunConfig, client: Client, tmp_path: Path
) -> None:
    sweep = sweep_of(config, {"privacy.noise_multiplier": SIGMAS, "training.steps": (2, 4)})
    frame = run_sweep(sweep, folder=tmp_path, scheduler=client)
    rate = frame["sample_rate"].iloc[0]
    expected = privacy.compose([(sigma, rate, 6) for sigma in SIGMAS], 1e-5)
    cost = SweepCost.from_dict(frame.attrs["privacy"])
    assert cost.guarantee.epsilon == pytest.approx(expected, rel=1e-9)
    assert (cost.guarantee.delta, cost.runs, cost.steps, cost.splits) == (1e-5, 4, 12, 1)
    assert cost.guarantee.epsilon > max(row["epsilon"] for row in rows(frame))
    assert "for all 4 runs together" in str(cost)


def test_a_run_that_is_not_private_makes_the_cost_infinite(
    config: RunConfig, client: Client, tmp_path: Path
) -> None:
    sweep = sweep_of(config, {"privacy.private": (True, False)})
    frame = run_sweep(sweep, folder=tmp_path, scheduler=client)
    assert [math.isinf(row["epsilon"]) for row in rows(frame)] == [False, True]
    assert frame.attrs["privacy"]["epsilon"] == math.inf


def test_several_seeds_cost_more_and_say_whom_they_leave_out(
    config: RunConfig, client: Client, tmp_path: Path
) -> None:
    frame = run_sweep(sweep_of(config, {"seed": (0, 1)}), folder=tmp_path, scheduler=client)
    cost = SweepCost.from_dict(frame.attrs["privacy"])
    assert cost.splits == 2
    assert "only those that are private in every one" in str(cost)


def test_a_grown_sweep_keeps_its_cells_and_what_they_cost(
    config: RunConfig, client: Client, tmp_path: Path
) -> None:
    """Cells that the file names no longer are no rows, but their weights are in the world."""
    first = run_sweep(sweep_of(config), folder=tmp_path, scheduler=client)
    ledger = tmp_path / rows(first)[1]["folder"] / "ledger.jsonl"
    before = ledger.stat().st_mtime_ns
    grid = {"privacy.noise_multiplier": (SIGMAS[1], 1.0)}
    scheduler_file = tmp_path / "scheduler.json"
    address = client.scheduler_info()["address"]
    scheduler_file.write_text(json.dumps({"address": address}), encoding="utf-8")
    second = run_sweep(sweep_of(config, grid), folder=tmp_path, scheduler=scheduler_file)
    assert states(second) == ["done", "done"]
    assert ledger.stat().st_mtime_ns == before
    assert rows(second)[0]["id"] == rows(first)[1]["id"]
    assert second.attrs["privacy"]["runs"] == 3
    assert second.attrs["privacy"]["epsilon"] > first.attrs["privacy"]["epsilon"]


@pytest.mark.slow
def test_a_stopped_sweep_goes_on_to_the_very_results_of_an_unbroken_one(
    config: RunConfig, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.sweeps.sweep.TICK_SECONDS", 0.02)
    monkeypatch.setattr("workbench.sweeps.worker._LOOK_SECONDS", 0.0)
    sweep = sweep_of(long(config, steps=150))
    stop = threading.Event()

    def stop_under_way(frame: pd.DataFrame) -> None:
        if rows(frame)[0]["steps"] > 0:
            stop.set()

    options: dict[str, Any] = {"scheduler": client, "folder": tmp_path / "broken"}
    broken = run_sweep(sweep, on_change=stop_under_way, stop=stop, **options)
    assert states(broken) == ["interrupted", "waiting"]
    assert 0 < rows(broken)[0]["steps"] < 150
    assert broken.attrs["state"] == "interrupted"
    assert broken.attrs["privacy"]["steps"] == rows(broken)[0]["steps"]

    done = run_sweep(sweep, **options)
    unbroken = run_sweep(sweep, scheduler=client, folder=tmp_path / "unbroken")
    assert states(done) == ["done", "done"]
    assert done["heldout_loss"].tolist() == unbroken["heldout_loss"].tolist()
    assert done.attrs["privacy"] == unbroken.attrs["privacy"]


def test_a_failed_cell_keeps_its_error_and_is_retried_only_on_demand(
    config: RunConfig, client: Client, corpus: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "later.txt"
    sweep = sweep_of(config, {"corpus.source": (str(missing), str(corpus))})
    options: dict[str, Any] = {"scheduler": client, "folder": tmp_path / "sweep"}
    frame = run_sweep(sweep, **options)
    assert states(frame) == ["failed", "done"]
    assert f"Cannot read corpus.source {missing}" in rows(frame)[0]["error"]
    error = tmp_path / "sweep" / Path(rows(frame)[0]["folder"]).parent / "error.txt"
    assert error.read_text("utf-8").startswith(f"{rows(frame)[0]['error']}\n\nTraceback")
    assert frame.attrs["state"] == "done"
    assert frame.attrs["privacy"]["runs"] == 1

    missing.write_text(corpus.read_text("utf-8"), encoding="utf-8")
    again = run_sweep(sweep, **options)
    assert states(again) == ["failed", "done"]
    retried = run_sweep(sweep, retry_failed=True, **options)
    assert states(retried) == ["done", "done"]
    assert retried["error"].tolist() == ["", ""]
    assert not error.exists()


@pytest.mark.slow
def test_a_killed_worker_is_a_failed_cell_and_the_others_go_on(
    config: RunConfig, tmp_path: Path
) -> None:
    """In processes of its own, because a thread cannot be killed."""
    short, endless = 20, 100_000  # the cell to be killed cannot end before it is seen running
    killed = []

    def kill_the_endless(frame: pd.DataFrame) -> None:
        running = [row for row in rows(frame) if row["state"] == "running" and row["steps"] > 0]
        seen = [row for row in running if row["training.steps"] == endless]
        if not killed and seen:
            mark = tmp_path / Path(seen[0]["folder"]).parent / "started"
            killed.append(seen[0]["id"])
            os.kill(int(mark.read_text("utf-8").split()[1]), signal.SIGKILL)

    sweep = sweep_of(long(config, steps=short), {"training.steps": (short, endless)})
    frame = run_sweep(sweep, folder=tmp_path, on_change=kill_the_endless)
    assert states(frame) == ["done", "failed"]
    failed = rows(frame)[1]
    assert failed["id"] == killed[0]
    assert failed["error"].startswith("The worker that trained this cell died")
    spent = [read(path) for path in tmp_path.glob("cells/*/run/ledger.jsonl")]
    assert frame.attrs["privacy"]["steps"] == sum(record.steps for record in spent)
    assert short < sum(record.steps for record in spent) < short + endless


@pytest.mark.slow
def test_ctrl_c_leaves_a_sweep_that_goes_on(config: RunConfig, tmp_path: Path) -> None:
    """As a terminal does it: the interrupt reaches the workers, too."""
    path, out = tmp_path / "sweep.yaml", tmp_path / "out"
    path.write_text(sweep_of(long(config, steps=100_000)).to_yaml(), encoding="utf-8")
    # Tests started in the background may hand on that Ctrl-C is ignored; in a terminal it is not.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = f"{heard}; from workbench.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "sweep", str(path), "--out", str(out)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    eventually(lambda: list(out.glob("cells/*/run/metrics.parquet")) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "Stopped."
    assert "Traceback" not in stderr
    frame = read_sweep(out)
    assert frame.attrs["state"] == "interrupted"
    assert "interrupted" in states(frame)
    assert set(states(frame)) <= {"interrupted", "waiting"}
    assert frame.attrs["privacy"]["steps"] > 0


def test_a_worker_leaves_torch_threads_as_they_were(
    config: RunConfig, client: Client, tmp_path: Path
) -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        free = config.with_changes({"runtime.threads": None})
        frame = run_sweep(sweep_of(free, {"seed": (0,)}), folder=tmp_path, scheduler=client)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    record = training.read_run(tmp_path / rows(frame)[0]["folder"])
    assert record.summary["threads"] == 1


def test_a_local_cluster_has_no_more_workers_than_cores_cells_and_memory(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = sweep_of(config, {"seed": tuple(range(10))}).cells()
    monkeypatch.setattr("dask.system.CPU_COUNT", 8)
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 64e9)
    assert sweep_cluster.local_workers(cells) == 8
    assert sweep_cluster.local_workers(cells[:3]) == 3
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 4e9)
    assert sweep_cluster.local_workers(cells) == 2
    on_gpu = sweep_of(config, {"runtime.device": ("auto",), "seed": (0, 1)}).cells()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert sweep_cluster.local_workers(on_gpu) == 1


def test_a_folder_of_something_else_is_refused_untouched(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="is no sweep folder"):
        run_sweep(sweep_of(config), folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]
    with pytest.raises(InputError, match="is not a sweep folder"):
        read_sweep(tmp_path)


def test_two_sweeps_cannot_write_one_folder(config: RunConfig, tmp_path: Path) -> None:
    sweep = sweep_of(config)
    with (
        sweep_folder.SweepFolder(tmp_path, sweep),
        pytest.raises(InputError, match="written by another process"),
    ):
        run_sweep(sweep, folder=tmp_path)


def test_a_worker_that_sees_another_disk_is_a_failed_cell(
    config: RunConfig, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trains, says that it is done, and leaves nothing where the sweep looks."""

    def elsewhere(*_: str) -> None:
        pass

    monkeypatch.setattr(sweep_module, "train_cell", elsewhere)
    frame = run_sweep(sweep_of(config), folder=tmp_path, scheduler=client)
    assert states(frame) == ["failed", "failed"]
    assert all("under the same path" in error for error in frame["error"])


def test_a_scheduler_that_does_not_answer_is_named(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_cluster, "_CONNECT_SECONDS", 0.5)
    for address in ("tcp://127.0.0.1:9", "nonsense"):
        with pytest.raises(InputError, match=f"No Dask scheduler answers at {address}"):
            run_sweep(sweep_of(config), folder=tmp_path, scheduler=address)
    assert read_sweep(tmp_path).attrs["state"] == "interrupted"


@contextmanager
def other_server(greeting: bytes, *, hangs_up: bool) -> Iterator[str]:
    """The address of something that is no Dask scheduler."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.sendall(greeting)
                    if hangs_up:
                        connection.close()
                    kept.append(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection in kept:
            connection.close()


@pytest.mark.parametrize(
    ("greeting", "hangs_up", "says"),
    [
        (b"", False, "it says nothing that Dask says"),  # a web server waits to be asked
        (b"", True, "it hangs up"),
        (b"abc", True, "it hangs up"),
        (b"abc", False, "it says nothing that Dask says"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", False, "something else than Dask is there"),
        (b"\xff" * 64, False, "something else than Dask is there"),
        (b"\x10" + b"\0" * 7, False, "it says nothing that Dask says"),
        # A length that could be Dask's, and nothing behind it that Dask could read.
        (b"\x10" + b"\0" * 7 + b"x" * 16, False, "No Dask scheduler answers"),
    ],
)
@pytest.mark.parametrize("by_file", [False, True], ids=["address", "file"])
def test_another_server_at_the_schedulers_address_is_named(
    greeting: bytes,
    hangs_up: bool,
    says: str,
    by_file: bool,
    config: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep_cluster, "_GREETING_SECONDS", 0.3)
    monkeypatch.setattr(sweep_cluster, "_CONNECT_SECONDS", 2)
    with other_server(greeting, hangs_up=hangs_up) as scheduler:
        if by_file:
            (tmp_path / "scheduler.json").write_text(json.dumps({"address": scheduler}), "utf-8")
            scheduler = str(tmp_path / "scheduler.json")
        with pytest.raises(InputError, match=r"^No Dask scheduler answers at .*; give") as refusal:
            run_sweep(sweep_of(config), folder=tmp_path / "sweep", scheduler=scheduler)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_scheduler_without_workers_is_said_and_a_late_worker_is_used(
    config: RunConfig, tmp_path: Path
) -> None:
    empty: Any = LocalCluster(
        n_workers=0,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    )
    with empty as cluster:
        notes: list[str] = []

        def look(frame: pd.DataFrame) -> None:
            notes.append(frame.attrs["note"])
            if frame.attrs["note"]:
                cluster.scale(1)

        address = cluster.scheduler_address
        frame = run_sweep(sweep_of(config), folder=tmp_path, scheduler=address, on_change=look)
    assert states(frame) == ["done", "done"]
    assert sweep_module.NO_WORKERS in notes
    assert not notes[-1]


@pytest.mark.parametrize("content", ["{}", "[]", '{"address": 5}', "no JSON"])
def test_a_scheduler_file_without_an_address_is_named(
    config: RunConfig, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "scheduler.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"No Dask scheduler answers at .*\.json \(.+\); give"):
        run_sweep(sweep_of(config), folder=tmp_path / "sweep", scheduler=file)


def test_a_scheduler_that_is_lost_on_the_way_is_said(
    config: RunConfig, client: Client, tmp_path: Path
) -> None:
    """A client that loses its scheduler sees all its futures cancelled."""

    def lose(_: pd.DataFrame) -> None:
        client.cancel([Future(key, client) for key in client.futures])

    sweep = sweep_of(config, {"seed": (0, 1, 2)})
    with pytest.raises(InputError, match="scheduler was lost; start the sweep again"):
        run_sweep(sweep, folder=tmp_path, scheduler=client, on_change=lose)
    assert read_sweep(tmp_path).attrs["state"] == "interrupted"


def test_the_command_shows_progress_and_a_table_and_fails_with_a_failed_cell(
    config: RunConfig, client: Client, corpus: Path, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.yaml"
    sweep = sweep_of(config, {"corpus.source": (str(corpus), "/nowhere.txt")})
    path.write_text(sweep.to_yaml(), encoding="utf-8")
    address = client.scheduler_info()["address"]
    out = ("--out", str(tmp_path / "out"), "--scheduler", address)
    result = CliRunner().invoke(main, ["sweep", str(path), *out])
    assert result.exit_code == 1
    assert "2/2" in result.stderr
    assert "failed=1" in result.stderr
    assert "Cannot read corpus.source /nowhere.txt" in result.stderr
    for part in ("heldout_perplexity", "corpus.source", "done", "ε = ", "δ = 1e-05"):
        assert part in result.stdout
    cost = sweep_cost(tmp_path / "out")
    assert f"{cost.guarantee.epsilon:.4g}" in result.stdout
