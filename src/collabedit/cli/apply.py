"""`collabedit party apply`: an edited checkpoint from stored updates."""

from pathlib import Path
from typing import Annotated

import typer

from collabedit.cli.console import PreviousOption, say
from collabedit.cli.credentials import PlanOption
from collabedit.cli.results import check_output
from collabedit.plan import load_plan


def run(
    plan_file: PlanOption,
    model: Annotated[Path, typer.Option(help="Model directory.")],
    update: Annotated[Path, typer.Option(help="An update that `party join` wrote.")],
    output: Annotated[Path, typer.Option(help="Edited checkpoint to write; must not exist.")],
    previous: PreviousOption = None,
) -> None:
    """Write an edited checkpoint from a stored update."""
    from collabedit.party.editing.editor import load_plan_model
    from collabedit.party.editing.model import save_checkpoint
    from collabedit.party.editing.updates import apply_saved, load_chain

    check_output(output)
    plan = load_plan(plan_file)
    saved = load_chain([*(previous or ()), update], weights=plan.model.weights)[-1]
    loaded = load_plan_model(plan, model, device="cpu", previous=previous or ())
    apply_saved(loaded, saved)
    save_checkpoint(loaded, output)
    say(f"edited model written to {output}")
