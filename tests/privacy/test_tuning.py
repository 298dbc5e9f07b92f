"""What choosing the best of several runs costs."""

import pytest

from workbench import privacy
from workbench.errors import InputError

RUN = [(1.0, 0.01, 1000)]


def test_composed_trials_are_one_long_run() -> None:
    three = privacy.composed_trials(RUN, 1e-5, trials=3)
    assert three == privacy.epsilon(1.0, 0.01, 3000, 1e-5)
    assert privacy.composed_trials(RUN, 1e-5, trials=1) == privacy.epsilon(*RUN[0], 1e-5)


@pytest.mark.parametrize("distribution", ["poisson", "geometric", "logarithmic"])
def test_random_trials_cost_more_than_one_run_and_rise_with_their_mean(distribution: str) -> None:
    one = privacy.compose(RUN, 1e-5, accountant="rdp")
    costs = [
        privacy.random_trials(RUN, 1e-5, mean_trials=k, distribution=distribution)  # pyright: ignore
        for k in (2, 10, 100)
    ]
    assert one < costs[0] < costs[1] < costs[2]


def test_many_random_trials_cost_far_less_than_composing_them() -> None:
    composed = privacy.composed_trials(RUN, 1e-5, trials=100, accountant="rdp")
    assert (
        privacy.random_trials(RUN, 1e-5, mean_trials=100, distribution="geometric") < composed / 4
    )


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(InputError, match="trials is 0"):
        privacy.composed_trials(RUN, 1e-5, trials=0)
    with pytest.raises(InputError, match="mean_trials is 1"):
        privacy.random_trials(RUN, 1e-5, mean_trials=1, distribution="geometric")
    with pytest.raises(InputError, match="delta is 2"):
        privacy.random_trials(RUN, 2, mean_trials=3)
