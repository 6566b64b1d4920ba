"""What a party's operator is shown of copies and conflicts, before anything depends on them.

Names of records and numbers only, on the terminal and in a private file: which edits of one's own
others have, or deny, says something about the others.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.table import Table

from collabedit.cli.console import say, terminal
from collabedit.durable import replace_file
from collabedit.errors import DeclinedError
from collabedit.party.decisions import Decision
from collabedit.party.overlap import Review

OVERLAP_FILE = "overlap.json"


def overlap_table(decisions: Sequence[Decision]) -> Table:
    """Lay the edits out that are not this party's alone; one line for each."""
    table = Table("edit", "copies", "others' objects", "decision", "weight", "added")
    for decision in decisions:
        if decision.claims == 1:
            continue
        table.add_row(
            decision.case_id,
            str(decision.copies),
            str(decision.claims - decision.copies),
            "keep" if decision.is_kept else "leave out",
            f"1/{decision.copies}" if decision.is_kept else "0",
            str(decision.added),
        )
    return table


def overlap_review(path: Path, *, ask: bool) -> Review:
    """Return a review that shows decisions, writes them to `path`, and asks if `ask` says so.

    It raises `StorageError` if the file cannot be written and `DeclinedError` if the answer is no.
    """

    def review(decisions: Sequence[Decision]) -> None:
        report = {"edits": [decision.to_dict() for decision in decisions]}
        replace_file(path, (json.dumps(report, indent=2) + "\n").encode(), private=True)
        shared = sum(decision.copies > 1 for decision in decisions)
        conflicts = sum(decision.is_conflict for decision in decisions)
        left_out = sum(not decision.is_kept for decision in decisions)
        if shared or conflicts:
            terminal.print(overlap_table(decisions))
        say(
            f"of {len(decisions)} edits {shared} are made by others, too, {conflicts} are in "
            f"conflict and {left_out} are left out; details are in {path} (private)"
        )
        if ask and not _confirmed():
            raise DeclinedError(
                "left the session on your answer: nothing was applied, and nothing but the counts "
                "was contributed"
            )

    return review


def _confirmed() -> bool:
    try:
        return typer.confirm("go on with these decisions?", err=True)
    except typer.Abort:
        say("")
        return False
