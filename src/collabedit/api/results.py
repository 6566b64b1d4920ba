"""What a party leaves behind: the update of a session, and its report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from collabedit.acceptance import describe
from collabedit.api.places import check_place
from collabedit.api.reporting import Reporter
from collabedit.errors import InputError
from collabedit.party.client import GrpcChannel
from collabedit.party.member import SessionReport, TaskReport
from collabedit.plan import Plan, format_digest

if TYPE_CHECKING:
    from collabedit.party.editing.editor import ModelEditor


def check_previous(previous: Sequence[Path], update: Path) -> None:
    """Refuse an earlier update where this session's would take its place.

    Raises:
        InputError: names it.
    """
    for path in previous:
        if path.resolve() == update.resolve():
            raise InputError(
                f"{path}: is where this session's update goes: move it away and name it there"
            )


def check_output(output: Path | None) -> None:
    """Refuse a place for a checkpoint before any work is done for it.

    Raises:
        InputError: it exists, or cannot be written.
    """
    if output is None:
        return
    if output.exists():
        raise InputError(f"{output}: exists already")
    check_place(output)


def save_update(
    path: Path, editor: "ModelEditor", session: SessionReport, *, reporter: Reporter
) -> None:
    """Write a session's update; that of another session is moved aside first.

    Raises:
        InputError: what is there is no update.
    """
    from collabedit.party.editing.updates import move_other_update, save_updates

    aside = move_other_update(path, session=session.digest)
    if aside is not None:
        reporter.say(f"the update of another session that was there is in {aside} now")
    save_updates(path, editor.updates, plan=editor.plan, session=session)


def write_report(
    path: Path,
    plan: Plan,
    name: str,
    session: SessionReport,
    *,
    seconds: dict[str, float],
    channel: GrpcChannel,
    selected: Mapping[str, object],
) -> None:
    """Write what a party knows of a finished session, as JSON, for itself."""
    report = {
        "party": name,
        "plan": format_digest(plan.digest),
        "session": session.session_id,
        "session_digest": session.digest,
        "tasks": [
            {
                "task": task.task,
                "layers": list(task.layers),
                "survivors": list(task.survivors),
                "sum_digest": task.sum_digest,
                "update_digest": task.update_digest,
                "compute_seconds": round(task.compute_seconds, 3),
                "protocol_seconds": round(task.protocol_seconds, 3),
                **_vote_of(task),
                **_checks_of(task),
            }
            for task in session.tasks
        ],
        **selected,
        "bytes_sent": channel.bytes_sent,
        "bytes_received": channel.bytes_received,
        "seconds": {phase: round(value, 3) for phase, value in seconds.items()},
    }
    path.write_text(json.dumps(report, indent=2) + "\n")


def _vote_of(task: TaskReport) -> dict[str, object]:
    if task.assessment is None:
        return {}
    return {"votes": dict(task.votes), "assessment": describe(task.assessment)}


def _checks_of(task: TaskReport) -> dict[str, object]:
    if not task.checks:
        return {}
    return {
        "checked": [
            {"layer": check.layer, "miss": check.miss, "tolerance": check.tolerance}
            for check in task.checks
        ]
    }
