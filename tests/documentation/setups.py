"""What a page takes for granted: a model, files of edits, a recording."""

import json
from pathlib import Path

from collabedit.recorder import Recorder
from tests.documentation.shells import Workspace
from tests.support.federations import build_federation
from tests.support.processes import GENERAL_TEXT, own_edits, run_here
from tests.support.tiny_models import build_tiny_model

MODEL = Path("path") / "to" / "your" / "model"


def model(workspace: Workspace) -> None:
    """Put a tiny model where the text says that yours is, and say so in MODEL."""
    build_tiny_model("llama", workspace.folder / MODEL)
    workspace.variables = {
        **workspace.variables,
        "MODEL": str(workspace.folder / MODEL),
        # Random weights have nothing to lose: edits get all the room that they want.
        "WEIGHT": "0.1",
    }


def library(workspace: Workspace) -> None:
    """Put a tiny model into `model`, where programs in the text look for it."""
    build_tiny_model("llama", workspace.folder / "model")


def edits(workspace: Workspace) -> None:
    """Add a model and the edits of three parties, four each."""
    model(workspace)
    for number, name in enumerate("abc", start=1):
        text = json.dumps(own_edits(number, 4))
        (workspace.folder / f"{name}.json").write_text(text, encoding="utf-8")


def covariance(workspace: Workspace) -> None:
    """Add the edits of three parties and the covariance of the model."""
    edits(workspace)
    source = workspace.private / "general.txt"
    source.write_text(GENERAL_TEXT * 12, encoding="utf-8")
    run_here(
        *("covariance", "--model", workspace.folder / MODEL, "--source", source),
        *("--out", workspace.folder / "covariance.safetensors", "--tokens", 2000, "--window", 50),
    ).ok()


TABLE = "question,entity,answer\nThe capital of Norway is,Norway,Bergen\n"
"""Edits in columns that have names of their own."""


def table(workspace: Workspace) -> None:
    """Put a table of edits beside nothing else."""
    (workspace.folder / "facts.csv").write_text(TABLE, encoding="utf-8")


def recording(workspace: Workspace) -> None:
    """Record a simulated session of four parties without a model."""
    federation = build_federation(4)
    spool = workspace.private / "spool"
    with Recorder(workspace.folder, federation.plan, role="simulation") as recorder:
        federation.simulation(spool, recorder=recorder).run(federation.contribute)
