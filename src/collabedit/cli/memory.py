"""`collabedit party memory`: the past edits of an institution, and how a session brings them."""

import json
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from collabedit.api.memory import memory_file
from collabedit.cli.console import say
from collabedit.crypto.signing import write_private
from collabedit.errors import InputError
from collabedit.party.edits import Edit
from collabedit.party.journal import KEY_FILE, KEY_OPTION
from collabedit.party.memory import (
    FILE,
    OPTION,
)

app = typer.Typer(help="Past edits, kept for later sessions.", no_args_is_help=True)

MemoryOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(OPTION, help=f"File of past edits, sealed; default: {FILE} in --work."),
]
_KeyOption: TypeAlias = Annotated[
    Path | None, typer.Option(KEY_OPTION, help=f"Its key; default: {KEY_FILE} in --work.")
]
_WorkOption: TypeAlias = Annotated[
    Path, typer.Option("--work", help="Private directory of `party join`.")
]


@app.command("list")
def list_sessions(
    work: _WorkOption, memory: MemoryOption = None, journal_key: _KeyOption = None
) -> None:
    """List remembered sessions, oldest first: digest, number of edits, plan."""
    for session in memory_file(work, memory, journal_key).sessions():
        typer.echo(f"{session.session} {len(session.edits)} {session.plan}")


@app.command("forget")
def forget(
    session: Annotated[str, typer.Argument(help="Digest of the session, as `list` shows it.")],
    work: _WorkOption,
    memory: MemoryOption = None,
    journal_key: _KeyOption = None,
) -> None:
    """Forget the edits of a session. The model keeps them; later sessions may undo them."""
    file = memory_file(work, memory, journal_key)
    forgotten = file.forget(session)
    say(f"forgot {len(forgotten.edits)} edits of session {session}")


@app.command("export")
def export(
    out: Annotated[Path, typer.Option(help="Edits file to write, private; must not exist.")],
    work: _WorkOption,
    session: Annotated[
        str | None, typer.Option(help="Digest of one session; default: all of them.")
    ] = None,
    memory: MemoryOption = None,
    journal_key: _KeyOption = None,
) -> None:
    """Write remembered edits in clear, as an edits file that every command reads."""
    if out.exists():
        raise InputError(f"{out}: exists already")
    file = memory_file(work, memory, journal_key)
    chosen = [remembered for remembered in file.sessions() if session in {None, remembered.session}]
    records = [_record(edit) for remembered in chosen for edit in remembered.edits]
    if not records:
        raise InputError(f"{file.path}: remembers no such edits")
    write_private(out, (json.dumps(records, indent=1) + "\n").encode())
    say(f"{len(records)} edits written to {out}, in clear")


def _record(edit: Edit) -> dict[str, Any]:
    """An edit in CounterFact form, or in EasyEdit's where a neighbour has an answer of its own."""
    record: dict[str, Any]
    if all(answer == edit.target_true for _, answer in edit.neighborhood):
        record = {
            "case_id": edit.case_id,
            "requested_rewrite": {
                "prompt": edit.prompt,
                "subject": edit.subject,
                "target_new": {"str": edit.target_new},
                "target_true": edit.target_true and {"str": edit.target_true},
                "relation_id": edit.relation,
            },
            "paraphrase_prompts": edit.paraphrase_prompts,
            "neighborhood_prompts": [prompt for prompt, _ in edit.neighborhood],
            "generation_prompts": edit.generation_prompts,
        }
        return record
    # The forms with answers for neighbours have at most one of each.
    ((prompt, answer),) = edit.neighborhood
    record = {
        "case_id": edit.case_id,
        "prompt": edit.prompt,
        "subject": edit.subject,
        "target_new": edit.target_new,
        "ground_truth": edit.target_true,
        "rephrase_prompt": "".join(edit.paraphrase_prompts[:1]),
        "locality_prompt": prompt,
        "locality_ground_truth": answer,
        "relation_id": edit.relation,
    }
    return record
