"""Options of the commands that write edited models for others, and the reports that cards quote."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from pydantic import ValidationError

from collabedit.api.publishing import count_accepting
from collabedit.errors import InputError
from collabedit.plan import Plan, format_digest

if TYPE_CHECKING:
    from collabedit.party.editing.cards import AuditSummary, SessionFigures

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
            accepting=None if votes is None else count_accepting(votes),
            voting=None if votes is None else len(votes),
            checked=len(checked),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{path}: is no report of `party join`") from error


def read_audit(path: Path | None) -> "AuditSummary | None":
    """Return what a card says of an audit, from its report; None without one.

    Raises:
        InputError: it cannot be read.
    """
    from collabedit.audit.results import AuditReport
    from collabedit.party.editing.cards import AuditSummary

    if path is None:
        return None
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
