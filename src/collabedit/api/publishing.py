"""Edited models for others: cards, and checkpoints in the files of those they were made from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from collabedit.acceptance import Vote
from collabedit.api.reporting import Reporter
from collabedit.ids import LayerIndex
from collabedit.party.member import SessionReport
from collabedit.plan import Plan, format_digest
from collabedit.sketch import LowRankUpdate

if TYPE_CHECKING:
    from collabedit.party.editing.cards import AuditSummary, Kind, SessionFigures
    from collabedit.party.editing.checkpoints import Layout
    from collabedit.party.editing.model import EditableModel


def make_card(
    plan: Plan,
    *,
    kind: "Kind",
    base_model: str | None,
    sessions: Sequence[str],
    ranks: Mapping[LayerIndex, int],
    session: "SessionFigures | None" = None,
    audit: "AuditSummary | None" = None,
) -> str:
    """Return the text of a model card."""
    from collabedit.party.editing.cards import model_card

    return model_card(
        plan,
        kind=kind,
        base_model=base_model or plan.model.name,
        sessions=sessions,
        ranks=ranks,
        session=session,
        audit=audit,
    )


def _figures_of(session: SessionReport) -> "SessionFigures":
    from collabedit.party.editing.cards import SessionFigures

    last = session.tasks[-1]
    return SessionFigures(
        survivors=len(last.survivors),
        accepting=count_accepting(last.votes) if last.votes else None,
        voting=len(last.votes) or None,
        checked=len({check.layer for task in session.tasks for check in task.checks}),
    )


def count_accepting(votes: Mapping[str, str]) -> int:
    """Count votes for an update."""
    return sum(vote == Vote.ACCEPT.word for vote in votes.values())


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
    reporter: Reporter,
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
        reporter: told what is not as one would expect.

    Raises:
        ModelError, NumericError, StorageError: see `checkpoints.write_checkpoint`.
    """
    from collabedit.party.editing.checkpoints import CARD, write_checkpoint
    from collabedit.party.editing.model import save_checkpoint

    if layout is None:
        save_checkpoint(model, output, texts={CARD: card})
        reporter.say(
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
        reporter.say(
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
    reporter: Reporter,
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
    write_edited(
        plan,
        model,
        layout,
        output,
        sessions=sessions,
        card=card,
        keep_originals=True,
        reporter=reporter,
    )
