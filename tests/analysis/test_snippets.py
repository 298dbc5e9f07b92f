"""What is copied is right, and runs."""

import contextlib
import io
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from workbench import privacy
from workbench.analysis import Point
from workbench.analysis.snippets import as_opacus, as_python, as_yaml
from workbench.config import RunConfig
from workbench.presets import find

POINT = Point.from_preset(find("laptop")).changed(noise_multiplier=1.3, expected_batch_size=300)


def executed(program: str, **given: Any) -> tuple[dict[str, Any], str]:
    """The variables that a copied program leaves, and what it prints."""
    variables, printed = dict(given), io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(program, variables)
    return variables, printed.getvalue()


@pytest.mark.parametrize("point", [POINT, POINT.counted_in("epochs")], ids=["steps", "epochs"])
def test_the_yaml_is_a_run_that_spends_what_the_explorer_shows(point: Point) -> None:
    config = RunConfig.from_yaml(as_yaml(point))
    assert config.privacy.noise_multiplier == 1.3
    assert config.privacy.delta == 1e-5
    assert config.training.expected_batch_size == 300
    assert config.corpus.record_tokens == 64
    assert config.steps(point.dataset_size) == point.steps
    assert config.sample_rate(point.dataset_size) == point.sample_rate


def test_the_yaml_says_which_data_set_it_assumes() -> None:
    assert as_yaml(POINT).startswith("# The explorer assumed 18,792 training records.")


@pytest.mark.parametrize(
    "changes",
    [{"noise_multiplier": 1e30}, {"length": 1e12}, {"record_tokens": 1}, {"delta": 1e-300}],
    ids=str,
)
def test_whatever_the_explorer_accepts_can_be_copied(changes: dict[str, Any]) -> None:
    RunConfig.from_yaml(as_yaml(POINT.changed(**changes)))


def test_the_python_program_prints_the_certified_epsilon() -> None:
    variables, printed = executed(as_python(POINT))
    epsilon = privacy.epsilon(1.3, 300 / 18_792, 300, 1e-5)
    assert variables["epsilon"] == epsilon
    assert printed == f"ε = {privacy.written_epsilon(epsilon)} at δ = 1e-05\n"


@pytest.mark.filterwarnings("ignore:Secure RNG turned off")
def test_the_opacus_call_runs_with_the_settings_and_the_rate_it_states() -> None:
    model = torch.nn.Linear(2, 1)
    records = TensorDataset(torch.zeros(18_792, 2))
    variables, _ = executed(
        as_opacus(POINT),
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(records, batch_size=300),
    )
    optimizer, loader = variables["optimizer"], variables["data_loader"]
    assert (optimizer.noise_multiplier, optimizer.max_grad_norm) == (1.3, 1.0)
    assert loader.batch_sampler.sample_rate == 1 / 63
    assert "q = 1/len(data_loader) = 1/63 = 0.01587; B/N is 0.01596." in as_opacus(POINT)


def test_the_opacus_call_asks_for_the_epsilon_at_the_points_delta() -> None:
    *_, last = as_opacus(POINT).strip().splitlines()
    assert last.endswith("privacy_engine.get_epsilon(delta=1e-05)")
