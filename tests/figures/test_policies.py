"""The picture of gains: intervals as computed, the article's figure as the article's."""

from typing import Any

import pandas as pd
import pytest

from workbench.figures.policies import policies_figure

GAINS = pd.DataFrame(
    {"perplexity": [50.0, 45.0], "gain": [0.0, 4.0], "low": [0.0, 1.0], "high": [0.0, 6.0]},
    index=pd.Index(["constant", "both"], name="policy"),
)


def test_intervals_and_the_articles_line() -> None:
    drawn: Any = policies_figure(GAINS, article_gain=15.8)
    trace = drawn.data[0]
    assert list(trace.y) == ["σ falls and batch grows"]
    assert trace.error_x.array[0] == pytest.approx(2.0)
    assert trace.error_x.arrayminus[0] == pytest.approx(3.0)
    assert [shape.x0 for shape in drawn.layout.shapes] == [0, 15.8]
    assert drawn.layout.annotations[0].text == "the article: up to 15.8 %"
    low, high = drawn.layout.xaxis.range
    assert low < 0
    assert high > 15.8
