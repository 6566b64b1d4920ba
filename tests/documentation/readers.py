"""What reads the TOML and JSON of the documents: the program's own loaders."""

import tomllib
from pathlib import Path

from collabedit.audit.schema import parse_audit
from collabedit.experiments.schema import load_experiment
from collabedit.party.edits import load_edits
from tests.documentation.blocks import ROOT
from tests.documentation.setups import TABLE


def audit(text: str, folder: Path) -> None:
    """Read an audit file."""
    parse_audit(text)


def experiment(text: str, folder: Path) -> None:
    """Read an experiment file."""
    path = folder / "experiment.toml"
    path.write_text(text, encoding="utf-8")
    load_experiment(path)


def edits(text: str, folder: Path) -> None:
    """Read an edits file."""
    path = folder / "edits.json"
    path.write_text(text, encoding="utf-8")
    assert load_edits(path)


def example(text: str, folder: Path) -> None:
    """Compare with the `pyproject.toml` of the example under `examples`."""
    file = ROOT / "examples" / "third_party_attack" / "pyproject.toml"
    points = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["entry-points"]
    assert tomllib.loads(text) == {"project": {"entry-points": points}}


def columns(text: str, folder: Path) -> None:
    """Read a table with this mapping beside it."""
    (folder / "facts.csv").write_text(TABLE, encoding="utf-8")
    (folder / "facts.columns.toml").write_text(text, encoding="utf-8")
    (edit,) = load_edits(folder / "facts.csv")
    assert edit.subject == "Norway"
