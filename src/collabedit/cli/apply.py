"""`collabedit party apply`: an edited checkpoint from stored updates."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.api.publishing import load_to_edit, make_card, write_edited
from collabedit.api.results import check_output
from collabedit.cli.console import Lines, PreviousOption, say
from collabedit.cli.credentials import PlanOption
from collabedit.cli.publishing import (
    AuditOption,
    BaseModelOption,
    ReportOption,
    read_audit,
    read_figures,
)
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import InputError
from collabedit.plan import Plan, load_plan

if TYPE_CHECKING:
    from collabedit.party.editing.camouflage import Camouflage
    from collabedit.party.editing.key_map import KeyMap
    from collabedit.party.editing.model import EditableModel
    from collabedit.party.editing.updates import SavedUpdate
    from collabedit.party.edits import Edit

_PANEL = "Camouflage of the checkpoint"


def run(
    plan_file: PlanOption,
    model: Annotated[Path, typer.Option(help="Model directory.")],
    update: Annotated[Path, typer.Option(help="An update that `party join` wrote.")],
    output: Annotated[Path, typer.Option(help="Edited checkpoint to write; must not exist.")],
    previous: PreviousOption = None,
    keep_originals: Annotated[
        bool,
        typer.Option(
            help="Keep the weights of before beside the edited ones, for an exact `party undo`; "
            "as large as the edited layers."
        ),
    ] = True,
    base_model: BaseModelOption = None,
    report: ReportOption = None,
    audit: AuditOption = None,
    camouflage: Annotated[
        Path | None,
        typer.Option(
            help="Decoys to mix into the row space of what is written: a JSON list of subjects, or "
            "edits. Another choice in each run: averaging copies undoes it. What the model says of "
            "decoys changes. docs/camouflage.md has what it buys.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    camouflage_strength: Annotated[
        float | None,
        typer.Option(
            min=0, help="Length of a decoy beside an edit's; default: 1.", rich_help_panel=_PANEL
        ),
    ] = None,
    camouflage_decoys_per_direction: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Decoys for each dimension of the update; default: 1.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    covariance: Annotated[
        Path | None,
        typer.Option(
            help="The plan's covariance file, if it has one; for --camouflage.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
) -> None:
    """Write an edited checkpoint from a stored update.

    It has the files of the model's directory: the same shards, dtypes and order, tokenizer and
    configuration, and weights that differ in the edited layers only; and a model card.

    With --camouflage a span test of the checkpoint finds decoys beside edited subjects. The stored
    update stays as it is, and so does what it does to the edits' keys.
    """
    from collabedit.party.editing.camouflage import Camouflage, load_decoys
    from collabedit.party.editing.editor import key_maps, load_plan_covariance
    from collabedit.party.editing.updates import apply_saved, load_chain

    check_output(output)
    given = {
        "--camouflage-strength": camouflage_strength,
        "--camouflage-decoys-per-direction": camouflage_decoys_per_direction,
        "--covariance": covariance,
    }
    for option, value in given.items():
        if camouflage is None and value is not None:
            raise InputError(f"{option} has no meaning without --camouflage")
    plan = load_plan(plan_file)
    saved = load_chain([*(previous or ()), update], weights=plan.model.weights)[-1]
    card = make_card(
        plan,
        kind="checkpoint",
        base_model=base_model,
        sessions=[*saved.previous, saved.session],
        ranks={layer: each.rank for layer, each in saved.updates.items()},
        session=read_figures(report, plan, saved.session),
        audit=read_audit(audit),
    )
    if camouflage is not None:
        decoys = load_decoys(camouflage)
        maps = key_maps(plan, load_plan_covariance(plan, covariance))
    loaded, layout = load_to_edit(plan, model, device="cpu", previous=previous)
    if camouflage is not None:
        settings = Camouflage(
            1.0 if camouflage_strength is None else camouflage_strength,
            camouflage_decoys_per_direction or 1,
        )
        saved = _camouflage(plan, loaded, saved, decoys, maps, settings)
    apply_saved(loaded, saved)
    write_edited(
        plan,
        loaded,
        layout,
        output,
        sessions=[*saved.previous, saved.session],
        card=card,
        keep_originals=keep_originals,
        reporter=Lines(),
    )
    say(f"edited model written to {output}")


def _camouflage(
    plan: Plan,
    model: "EditableModel",
    saved: "SavedUpdate",
    decoys: "tuple[Edit, ...]",
    maps: "dict[int, KeyMap]",
    settings: "Camouflage",
) -> "SavedUpdate":
    from collabedit.party.editing.camouflage import camouflage_layers

    hidden = camouflage_layers(
        model,
        saved.updates,
        decoys,
        maps=maps,
        templates=plan.editing.context_templates,
        camouflage=settings,
        randomness=SystemRandomness(),
    )
    rank = max(update.rank for update in hidden.values())
    say(
        f"camouflage: {rank * settings.per_direction} of {len(decoys)} decoys are mixed into "
        f"{rank} directions"
    )
    return replace(saved, updates=hidden)
