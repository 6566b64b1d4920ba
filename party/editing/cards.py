"""A model card of what a session made: Markdown with the front matter of Hugging Face's hub.

It says what was done and how it was checked. It is made from the plan, the stored updates, counts
of a party's report and verdicts of an audit, none of which holds the text of an edit; names of
parties are left out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from collabedit.ids import LayerIndex
from collabedit.plan import Plan, format_digest

Kind: TypeAlias = Literal["checkpoint", "adapter"]

_LIBRARY: dict[Kind, str] = {"checkpoint": "transformers", "adapter": "peft"}
_RELATION: dict[Kind, str] = {"checkpoint": "finetune", "adapter": "adapter"}
_WHAT: dict[Kind, str] = {
    "checkpoint": "A checkpoint of it with the merged update in its weights.",
    "adapter": "The merged update as a LoRA adapter for it. Nothing is approximated: an edit of "
    "this kind is a matrix of low rank.",
}
_HOW = "Each party's edits went into a sum that nobody read in parts (CollabEdit)."
_LIMITS = (
    "Facts that were edited are not listed here. Whoever has the model from before and this one "
    "can test whether a given subject was edited. The digests name plan and sessions to those who "
    "took part, and prove nothing to others."
)


@dataclass(frozen=True, slots=True)
class SessionFigures:
    """What a party's report says of the session, without names.

    Attributes:
        survivors: parties whose edits are in the update.
        accepting: of the votes on the update, if there was one.
        voting: likewise.
        checked: layers whose merge this party held against closed sums.
    """

    survivors: int
    accepting: int | None
    voting: int | None
    checked: int


@dataclass(frozen=True, slots=True)
class AuditSummary:
    """What an audit's report says.

    Attributes:
        name: of the audit.
        verdicts: adversary, severity and text of each.
    """

    name: str
    verdicts: tuple[tuple[str, str, str], ...]


def model_card(
    plan: Plan,
    *,
    kind: Kind,
    base_model: str,
    sessions: Sequence[str],
    ranks: Mapping[LayerIndex, int],
    session: SessionFigures | None = None,
    audit: AuditSummary | None = None,
) -> str:
    """Write the card.

    Args:
        plan: of the session.
        kind: what stands beside the card.
        base_model: name of the model on the hub, or of its directory.
        sessions: digests of all whose updates are in, oldest first.
        ranks: of the update, by layer.
        session: of the last one.
        audit: of sessions of this plan, as far as the caller knows.
    """
    editing = plan.editing
    rows = [
        ("Base model", f"{_plain(base_model)}, weights `{plan.model.weights}`"),
        ("Editor", f"{editing.editor}, {editing.schedule} over the layers"),
        ("Layers", ", ".join(f"{layer} (rank {rank})" for layer, rank in sorted(ranks.items()))),
        ("Plan", f"`{format_digest(plan.digest)}`"),
        *(("Session", f"`{each}`") for each in sessions),
        ("Parties", _parties(plan, session)),
        ("Sums", _sums(plan)),
        ("Acceptance", _acceptance(plan, session)),
        ("Merge", _merge(plan, session)),
    ]
    parts = [
        _front_matter(plan, kind, base_model),
        f"# Edited: {_plain(base_model)}",
        f"Several parties edited facts of this model together. {_WHAT[kind]} {_HOW}",
        "| | |\n|---|---|\n" + "\n".join(f"| {name} | {text} |" for name, text in rows),
        "## Audit\n\n" + _audit(audit),
        f"## Limits\n\n{_LIMITS}",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(plan: Plan, kind: Kind, base_model: str) -> str:
    # Every JSON string is one of YAML, too.
    tags = ["knowledge-editing", "collabedit", plan.editing.editor]
    return "\n".join(
        (
            "---",
            f"base_model: {json.dumps(base_model)}",
            f"base_model_relation: {_RELATION[kind]}",
            f"library_name: {_LIBRARY[kind]}",
            "pipeline_tag: text-generation",
            "tags:",
            *(f"- {tag}" for tag in tags),
            "---",
        )
    )


def _parties(plan: Plan, session: SessionFigures | None) -> str:
    count = len(plan.federation.parties)
    took_part = f"; the edits of {session.survivors} are in" if session else ""
    return f"{count}, of which {plan.threshold} are needed{took_part}"


def _sums(plan: Plan) -> str:
    opened = "opened in a secret basis" if plan.closed is not None else "open to the aggregator"
    noise = "" if plan.privacy is None else ", with noise"
    return f"{plan.aggregation.backend}, {opened}{noise}"


def _acceptance(plan: Plan, session: SessionFigures | None) -> str:
    asked = plan.acceptance
    if asked is None:
        return "no vote was asked for"
    text = f"at least {asked.votes} parties had to accept the update on data of their own"
    if session is not None and session.voting is not None:
        text += f"; {session.accepting} of {session.voting} votes did"
    return text


def _merge(plan: Plan, session: SessionFigures | None) -> str:
    if plan.closed is None:
        return "made by the aggregator; parties compared what they were given"
    text = "every party holds it against padded columns of the sums before it signs"
    if session is not None and session.checked:
        text += f"; it was met in {session.checked} layers"
    return text


def _audit(audit: AuditSummary | None) -> str:
    if audit is None:
        return "No report of an audit was given."
    lines = [
        f"- {_plain(adversary)}: **{_plain(severity)}**. {_plain(text)}"
        for adversary, severity, text in audit.verdicts
    ]
    return f"Of the audit {_plain(audit.name)}:\n\n" + "\n".join(lines)


def _plain(text: str) -> str:
    """Return a text that is one line of Markdown and means nothing else."""
    return "".join(
        f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in " ".join(text.split())
    )
