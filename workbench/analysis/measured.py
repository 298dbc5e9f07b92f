"""Our own runs behind a comparison, from `data/measured/`."""

import pandas as pd

from workbench import presets


def measured_runs(name: str) -> pd.DataFrame:
    """A row a run of ``name``, such as "policies": arm, learning rate, seed, perplexity, ε …

    Each arm has one learning rate, tuned on a seed of its own; the runs that tuned are left out.
    """
    rows = presets.rows(f"measured/{name}.csv")
    frame = pd.DataFrame([row for row in rows if not row["arm"].endswith(", tuning")])
    numbers = [name for name in frame.columns if name != "arm"]
    return frame.astype(dict.fromkeys(numbers, float))
