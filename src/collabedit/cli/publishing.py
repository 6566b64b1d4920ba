"""Edited models for others: options of the commands that write them, cards, and checkpoints."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from pydantic import ValidationError

from collabedit.acceptance import Vote
from collabedit.cli.console import say
from collabedit.errors import InputError
from collabedit.ids import LayerIndex
from collabedit.party.member import SessionReport
from collabedit.plan import Plan, format_digest
from collabedit.sketch import LowRankUpdate

if TYPE_CHECKING:
    from collabedit.party.editing.cards import AuditSummary, Kind, SessionFigures
    from collabedit.party.editing.checkpoints import Layout
    from collabedit.party.editing.model import EditableModel

_PANEL = "Model card"

ReportOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--report",
        help="This party's report of the session (`report.json`); the card gets its counts.",
        rich_help_panel=_PANEL,
    ),
]
AuditOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--audit",
        help="Report of an audit (`report.json`); the card gets its verdicts.",
        rich_help_panel=_PANEL,
    ),
]
BaseModelOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--base-model",
        help="Name of the model from before, as on a model hub; default: the plan's.",
        rich_help_panel=_PANEL,
    ),
]


def make_card(
    plan: Plan,
    *,
    kind: "Kind",
    base_model: str | None,
    sessions: Sequence[str],
    ranks: Mapping[LayerIndex, int],
    session: "SessionFigures | None" = None,
    audit: Path | None = None,
) -> str:
    """Return the text of a model card.

    Raises:
        InputError: the audit's report cannot be read.
    """
    from collabedit.party.editing.cards import model_card

    return model_card(
        plan,
        kind=kind,
        base_model=base_model or plan.model.name,
        sessions=sessions,
        ranks=ranks,
        session=session,
        audit=None if audit is None else _audit(audit),
    )


def read_figures(path: Path | None, plan: Plan, session: str) -> "SessionFigures | None":
    """Return what a card says of a session, from a party's report of it; None without one.

    Raises:
        InputError: it cannot be read, or is of another plan or session.
    """
    from collabedit.party.editing.cards import SessionFigures

    if path is None:
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["plan"] != format_digest(plan.digest) or report["session_digest"] != session:
            raise InputError(f"{path}: is the report of another session than the update is of")
        last = report["tasks"][-1]
        votes = last.get("votes")
        checked = {each["layer"] for task in report["tasks"] for each in task.get("checked", ())}
        return SessionFigures(
            survivors=len(last["survivors"]),
            accepting=None if votes is None else _accepting(votes),
            voting=None if votes is None else len(votes),
            checked=len(checked),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{path}: is no report of `party join`") from error


def _figures_of(session: SessionReport) -> "SessionFigures":
    from collabedit.party.editing.cards import SessionFigures

    last = session.tasks[-1]
    return SessionFigures(
        survivors=len(last.survivors),
        accepting=_accepting(last.votes) if last.votes else None,
        voting=len(last.votes) or None,
        checked=len({check.layer for task in session.tasks for check in task.checks}),
    )


def _accepting(votes: Mapping[str, str]) -> int:
    return sum(vote == Vote.ACCEPT.word for vote in votes.values())


def _audit(path: Path) -> "AuditSummary":
    from collabedit.audit.results import AuditReport
    from collabedit.party.editing.cards import AuditSummary

    try:
        report = AuditReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValidationError:
        raise InputError(f"{path}: is no report of an audit of this version") from None
    return AuditSummary(
        report.name,
        tuple((each.adversary, each.severity, each.text) for each in report.verdicts),
    )


def load_to_edit(
    plan: Plan, model: Path, *, device: str = "auto", previous: Sequence[Path] | None = None
) -> "tuple[EditableModel, Layout | None]":
    """Load the plan's model with its history, and find where its files keep what is edited.

    Raises:
        ModelError, InputError: see `editor.load_plan_model` and `checkpoints.find_layout`.
    """
    from collabedit.party.editing.checkpoints import find_layout
    from collabedit.party.editing.editor import edited_layers, load_plan_checkpoint
    from collabedit.party.editing.locating import model_directory
    from collabedit.party.editing.updates import apply_saved, load_history

    history = load_history(
        previous or (), weights=plan.model.weights, sessions=plan.model.previous or ()
    )
    source = model_directory(model)
    loaded = load_plan_checkpoint(plan, source, device=device)
    layers = {LayerIndex(layer) for layer in edited_layers(plan.editing)}
    layers |= {layer for saved in history for layer in saved.updates}
    layout = find_layout(loaded, source, sorted(layers))
    for saved in history:
        apply_saved(loaded, saved)
    return loaded, layout


def write_edited(
    plan: Plan,
    model: "EditableModel",
    layout: "Layout | None",
    output: Path,
    *,
    sessions: Sequence[str],
    card: str,
    keep_originals: bool,
) -> None:
    """Write an edited checkpoint in the files of the one it was made from.

    Args:
        plan: of the session.
        model: edited.
        layout: of the checkpoint; None if it has no safetensors files: transformers writes it then.
        output: must not exist.
        sessions: digests of all whose updates are in, oldest first.
        card: text of the card.
        keep_originals: keep what `party undo` needs.

    Raises:
        ModelError, NumericError, StorageError: see `checkpoints.write_checkpoint`.
    """
    from collabedit.party.editing.checkpoints import CARD, write_checkpoint
    from collabedit.party.editing.model import save_checkpoint

    if layout is None:
        save_checkpoint(model, output, texts={CARD: card})
        say(
            f"{output} is as transformers writes it: the model's directory has no safetensors "
            "files to follow, and `party undo` has nothing to go by"
        )
        return
    lost = write_checkpoint(
        layout,
        {weight.layer: model.weight(weight.layer) for weight in layout.weights},
        output,
        texts={CARD: card},
        keep_originals=keep_originals,
        record={
            "plan": format_digest(plan.digest),
            "weights": plan.model.weights,
            "sessions": list(sessions),
        },
    )
    worst = max(lost.values(), default=0.0)
    if worst:
        say(
            f"the files of {output} hold weights in fewer bits than the plan's {plan.model.dtype}: "
            f"rounding lost {100 * worst:.2g} % of the change in the worst layer"
        )


def write_joined(
    plan: Plan,
    model: "EditableModel",
    layout: "Layout | None",
    output: Path,
    *,
    session: SessionReport,
    updates: Mapping[LayerIndex, LowRankUpdate],
) -> None:
    """Write the edited checkpoint of a session that has just ended, with its card."""
    sessions = [*(plan.model.previous or ()), session.digest]
    card = make_card(
        plan,
        kind="checkpoint",
        base_model=None,
        sessions=sessions,
        ranks={layer: update.rank for layer, update in updates.items()},
        session=_figures_of(session),
    )
    write_edited(plan, model, layout, output, sessions=sessions, card=card, keep_originals=True)
