"""The benchmark for CUDA cards, on a CPU at toy size: that its figures are what they say."""

import math
from typing import Any

import pytest
import torch

from benchmarks import gpu
from workbench.config import RunConfig

CPU = torch.device("cpu")
TOY: dict[str, Any] = {
    "model.vocabulary": 258,
    "corpus.record_tokens": 9,
    "training.expected_batch_size": 4,
    "runtime.physical_batch_size": 2,
    "model.width": 8,
    "model.layers": 1,
    "model.heads": 2,
    "runtime.device": "cpu",
}


def test_every_figure_that_needs_no_card_is_measured(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "PAIRS", 1)
    frame = gpu.measured(CPU, {"toy": {}}, TOY, config)
    assert list(frame) == gpu.COLUMNS
    assert frame["card"].unique().tolist() == ["CPU"]
    rows = list(frame[["size", "precision", "figure"]].itertuples(index=False, name=None))
    for precision in gpu.PRECISIONS:
        engines = set(gpu.ENGINES) - ({"ghost"} if precision == "bf16" else set())
        figures = {figure for size, one, figure in rows if (size, one) == ("toy", precision)}
        assert figures == {
            "error of the clipped sum, of C",
            "error of the norms",
            *(f"private ÷ plain, {engine}" for engine in engines),
        }
    assert all(map(math.isfinite, frame["value"]))
    run = frame[frame["size"] == "default run"].set_index("figure")["value"]
    assert set(run.index) == {"minutes", "epsilon", "held-out perplexity"}


def test_the_errors_are_those_of_the_precision() -> None:
    """Roundings of float32 and of bf16 are 2⁻²⁴ and 2⁻⁹, of some dozen operations each."""
    for precision, most in (("float32", 1e-5), ("bf16", 0.2)):
        asked = RunConfig().with_changes({**TOY, "runtime.precision": precision})
        found = dict(gpu.errors(asked, CPU))
        assert 0 < found["error of the clipped sum, of C"] < most
        assert 0 < found["error of the norms"] < most


def test_a_sum_that_is_off_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = gpu.Case.sum

    def longer(self: gpu.Case, *args: Any, **more: Any) -> Any:
        total = right(self, *args, **more)
        for gradient in total.gradients.values():
            gradient.mul_(1.01)
        return total

    monkeypatch.setattr(gpu.Case, "sum", longer)
    found = dict(gpu.errors(RunConfig().with_changes(TOY), CPU))
    assert found["error of the clipped sum, of C"] > 1e-4
    assert found["error of the norms"] < 1e-5


def test_without_a_card_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (2, "")
    assert told.err.startswith("There is no CUDA card")
    assert told.err.count("\n") == 1
