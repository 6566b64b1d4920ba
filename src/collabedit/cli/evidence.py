"""`collabedit verify-evidence`: judge a file of evidence as a third person."""

import json
from pathlib import Path
from typing import Annotated

import typer

from collabedit.cli.credentials import PlanOption
from collabedit.plan import format_digest, load_plan
from collabedit.proto.evidence import verify
from collabedit.proto.evidence_file import read_evidence


def run(
    file: Annotated[Path, typer.Argument(help="File that `party join` or the aggregator wrote.")],
    plan_file: PlanOption,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Check that signed statements prove who broke the protocol. Trusts the plan and nobody else.

    Exit codes: 0 proven, 4 not proven, 2 the file cannot be used or is of another plan.
    """
    plan = load_plan(plan_file)
    verdict = verify(read_evidence(file, plan), plan)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "kind": verdict.kind.value,
                    "accused": {"id": verdict.accused, "name": verdict.name},
                    "plan": format_digest(plan.digest),
                    "session": verdict.session_id.hex(),
                    "task": verdict.task,
                    "round": verdict.round,
                    "reason": verdict.reason.name,
                    "detail": verdict.detail,
                },
                indent=2,
            )
        )
        return
    typer.echo(
        f"proven: {verdict.name} ({'aggregator' if verdict.accused == 0 else 'party'} "
        f"{verdict.accused}), {verdict.reason.name} by {verdict.kind}: {verdict.detail}; session "
        f"{verdict.session_id.hex()[:16]}, task {verdict.task}, round {verdict.round}"
    )
