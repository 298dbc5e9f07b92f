"""Points from a file, and parameters as a command line gives them."""

from collections.abc import Iterable

import pandas as pd

from workbench.errors import InputError, shown, usable_path


def read_points(file: str) -> pd.DataFrame:
    """The points of a CSV file; raise `InputError` if it cannot be read as a table."""
    path = usable_path("The file", file)
    try:
        frame = pd.read_csv(path, skipinitialspace=True)
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror}; check the path.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise InputError(
            f"{file} is no table of comma-separated values ({reason}); give a row of names and a "
            "row a point."
        ) from None
    return frame.rename(columns=lambda name: str(name).strip())


def given_parameters(texts: Iterable[str]) -> dict[str, float]:
    """Parameters from ``NAME=VALUE``; raise `InputError` for anything else."""
    given = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            given[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise InputError(f"fixed is {shown(text)} but must be NAME=VALUE, such as alpha=0.35.")
    return given
