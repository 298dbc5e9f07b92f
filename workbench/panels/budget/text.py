"""The numbers of a schedule as HTML: pure functions from results to markup."""

import html
import math

from workbench.analysis.schedule import Plan, equal_constant_sigma
from workbench.panels.common.formatting import shown_epsilon, written_reading
from workbench.privacy import Guarantee


def result(plan: Plan, guarantee: Guarantee | None) -> str:
    """ε of the whole run once it is certified, and the constant σ that would spend the same."""
    if guarantee is None:
        value, detail, state = "…", "being certified", "preview"
    else:
        value, detail = shown_epsilon(guarantee.epsilon), html.escape(str(guarantee))
        state = "certified"
    equal = equal_constant_sigma(plan, guarantee.epsilon if guarantee else math.nan)
    constant = (
        f"A constant σ of {written_reading(equal)} at the mean batch of "
        f"{plan.mean_batch_size:,.0f} would spend the same (preview)."
    )
    return (
        f'<div class="wb-card wb-epsilon" data-state="{state}"><div><h4>ε of the whole run</h4>'
        f'<div class="value">{value}</div></div>'
        f"<div><small>{detail}</small><small>{constant}</small></div></div>"
    )
