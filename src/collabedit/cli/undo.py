"""`collabedit party undo`: the checkpoint of before an edit."""

from pathlib import Path
from typing import Annotated

import typer

from collabedit.api.results import check_output
from collabedit.cli.console import PreviousOption, say
from collabedit.cli.credentials import PlanOption
from collabedit.errors import InputError
from collabedit.plan import load_plan


def run(
    plan_file: PlanOption,
    edited: Annotated[
        Path, typer.Option(help="Checkpoint that `party apply` or `party join` wrote.")
    ],
    output: Annotated[Path, typer.Option(help="Checkpoint to write; must not exist.")],
    update: Annotated[
        Path | None,
        typer.Option(help="The stored update, to subtract it; needed without kept originals."),
    ] = None,
    previous: PreviousOption = None,
    accept_rounding: Annotated[
        bool,
        typer.Option(help="Write what was restored although it is not exactly the plan's model."),
    ] = False,
) -> None:
    """Write the checkpoint of before an edit, and hold it against the plan's digest.

    By the originals that the edited checkpoint has kept, else by subtracting the stored update,
    which as a rule misses last bits (docs/adr/0025).
    """
    from collabedit.party.editing.restoring import restore

    if previous and update is None:
        raise InputError("--previous has no meaning without --update")
    check_output(output)
    plan = load_plan(plan_file)
    restored = restore(
        plan,
        edited,
        output,
        updates=() if update is None else (*(previous or ()), update),
        accept_rounding=accept_rounding,
    )
    way = "from its kept originals" if restored.by_originals else "by subtracting the update"
    if restored.exact:
        say(f"restored {way} to {output}: bit for bit the model that the plan names")
    elif restored.by_originals:
        say(f"restored {way} to {output}; other tensors are not those of the plan's model")
    else:
        say(
            f"restored {way} to {output}: not bit for bit the model that the plan names; a weight "
            f"is off by {restored.within:.2g} at most, if just this update was added"
        )
