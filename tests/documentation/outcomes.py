"""What must have come of a page once its blocks were run, beyond that none of them failed."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from collabedit import Credentials, load_plan
from collabedit.party.editing.evaluate import evaluate
from collabedit.party.editing.measures import figures
from collabedit.party.editing.model import EditableModel, load_model
from collabedit.party.edits import Edit, load_edits
from tests.documentation.setups import MODEL
from tests.support.processes import torch_threads

FIRST_LAYER_ERROR: Final = 1e-8
LAYER_ERROR: Final = 1e-5
PARTIES: Final = ("alder", "birch", "cedar")


def _preference(model: EditableModel, edits: Sequence[Edit]) -> float:
    """P(new answer) - P(old answer), the mean over the edits."""
    value = figures(evaluate(model, edits).outcomes)["efficacy_magnitude"].value
    assert value is not None
    return value


def _checkpoints(directories: Iterable[Path]) -> set[str]:
    return {
        hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
        for directory in directories
    }


def _tutorial(folder: Path, printed: str) -> None:
    """Everybody has the same update, it is the trustee's, and the model answers by it."""
    place = folder / "out" / "tutorial"
    reports = [json.loads((place / name / "work" / "report.json").read_text()) for name in PARTIES]
    digests = [[task["update_digest"] for task in report["tasks"]] for report in reports]
    assert digests[0]
    assert digests == [digests[0]] * len(PARTIES)
    for digest in digests[0]:
        assert re.search(rf"^ +3 .*{digest}", printed, re.MULTILINE), printed
    errors = [
        float(error)
        for error in re.findall(r"^layer \d+: relative error (.*)$", printed, re.MULTILINE)
    ]
    assert len(errors) == len(digests[0])
    assert errors[0] < FIRST_LAYER_ERROR
    assert max(errors) < LAYER_ERROR
    assert len(set(re.findall(r"^sha256:[0-9a-f]{64}$", printed, re.MULTILINE))) == 2
    # The covariance's and the plan's: all four ends printed the same one of the plan.
    assert len(_checkpoints(place / name / "edited" for name in PARTIES)) == 1
    before = load_model(folder / MODEL)
    with torch_threads(1):
        for name in PARTIES:
            after = load_model(place / name / "edited")
            everything = [
                edit for owner in PARTIES for edit in load_edits(place / owner / "edits.json")
            ]
            # Random weights answer nothing, but must lean further to the new answers than before.
            assert _preference(after, everything) > 1.25 * _preference(before, everything) > 0


def _deploy(folder: Path, printed: str) -> None:
    """OpenSSL's certificates are such as every end takes."""
    place = folder / "deployment"
    for name in ("hub", *PARTIES):
        own = place / name
        Credentials.read(
            load_plan(own / "plan.toml"),
            name,
            identity=own / "identity.pem",
            certificate=own / "tls.pem",
            key=own / "tls-key.pem",
            authority=own / "ca.pem",
        )
    assert printed.count("plan.toml: valid") == 1 + len(PARTIES)


def _readme(folder: Path, printed: str) -> None:
    """All parties wrote the same checkpoint, and it is not the model that they began with."""
    assert len(_checkpoints(folder / "edited" / name for name in PARTIES)) == 1
    assert not _checkpoints([folder / "edited" / "alder"]) & _checkpoints([folder / MODEL])


OUTCOMES: Final[Mapping[str, Callable[[Path, str], None]]] = {
    "README.md": _readme,
    "docs/deploy.md": _deploy,
    "docs/tutorial.md": _tutorial,
}
"""For some pages: called with the folder where they were run and all that they printed."""
