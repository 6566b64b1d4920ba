"""`collabedit edits`: files of edits, looked at before anything is computed with them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tomli_w
import typer
from rich.table import Table
from rich.text import Text

from collabedit.cli.console import PreviousOption, progress_bar, say, terminal
from collabedit.durable import replace_file
from collabedit.errors import AcceptanceError, EditFileError, InputError
from collabedit.party.edit import Edit
from collabedit.party.edit_files import columns_file, parse_columns
from collabedit.party.inspection import (
    Finding,
    Numbered,
    Severity,
    inspect_count,
    inspect_texts,
    read_file,
)
from collabedit.plan import Plan, load_plan

if TYPE_CHECKING:
    from collabedit.party.editing.model import EditableModel
    from collabedit.party.editing.reading import Reading

app = typer.Typer(help="Look at a file of edits before hours of computing.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Keep `check` a command of its own: typer makes a single command the group itself."""


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="Edits file: JSON, JSONL, CSV or TSV.")],
    model: Annotated[
        Path | None,
        typer.Option(help="Model directory or name: looks at tokens, too. Reads no weights."),
    ] = None,
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", help="Plan: limits, templates, and the model's tokenizer."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Own name in the plan; default: whoever may bring most.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="FIELD=COLUMN,... for a file whose columns have other names."),
    ] = None,
    save_columns: Annotated[
        bool,
        typer.Option(help="Keep --columns in a file beside this one, where all commands read it."),
    ] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="Load the model, and find what it says already.")
    ] = False,
    previous: PreviousOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings, too.")] = False,
    show_texts: Annotated[
        bool, typer.Option("--show-texts", help="Print the edits concerned; they are secret.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
    device: Annotated[str, typer.Option(help="For --probe: auto, cpu, cuda ...")] = "auto",
) -> None:
    """Find what will fail, or was probably not meant, in a file of edits.

    Exit code 0 without errors; 2 with errors; 7 with warnings under --strict. docs/edits-files.md
    has all findings.
    """
    for option, given, needs in (
        ("--name", name, plan_file),
        ("--save-columns", save_columns, columns),
        ("--probe", probe, model),
        ("--previous", previous, probe),
    ):
        if given and not needs:
            wanted = {"--name": "--plan", "--save-columns": "--columns", "--probe": "--model"}
            raise InputError(f"{option} has no meaning without {wanted.get(option, '--probe')}")
    mapping = None if columns is None else parse_columns(columns)
    plan = None if plan_file is None else load_plan(plan_file)
    edits, malformed = read_file(file, mapping)
    findings = [*malformed, *inspect_texts(edits)]
    if plan is not None:
        findings += inspect_count(len(edits) + len(malformed), plan, name)
    if model is not None:
        findings += _of_model(model, plan, edits, probe=probe, previous=previous, device=device)
    findings.sort(key=_order)
    if mapping is not None and save_columns:
        beside = columns_file(file)
        replace_file(beside, tomli_w.dumps({"columns": dict(mapping)}).encode(), private=False)
        say(f"columns written to {beside}")
    _tell(file, edits, malformed=len(malformed), findings=findings, as_json=as_json)
    if show_texts and not as_json:
        _show(edits, findings)
    _end(file, findings, strict=strict)


def _of_model(
    model: Path,
    plan: Plan | None,
    edits: Sequence[Numbered],
    *,
    probe: bool,
    previous: list[Path] | None,
    device: str,
) -> list[Finding]:
    from collabedit.party.editing.reading import load_reader
    from collabedit.party.editing.token_inspection import inspect_answers, inspect_tokens

    loaded = _load(model, plan, previous=previous, device=device) if probe else None
    reading = loaded or load_reader(model)
    if plan is not None and loaded is None:
        _check_tokenizer(model, plan, reading)
    templates = ("{}",) if plan is None else plan.editing.context_templates
    findings = list(inspect_tokens(reading, edits, templates=templates))
    if loaded is not None:
        broken = {each.record for each in findings if each.severity is Severity.ERROR}
        sound = [(number, edit) for number, edit in edits if number not in broken]
        with progress_bar("asking the model"):
            findings += inspect_answers(loaded, sound)
    return findings


def _load(
    model: Path, plan: Plan | None, *, previous: list[Path] | None, device: str
) -> "EditableModel":
    from collabedit.party.editing.editor import load_plan_model
    from collabedit.party.editing.model import load_model
    from collabedit.party.editing.updates import apply_saved, load_chain

    if plan is not None:
        return load_plan_model(plan, model, device=device, previous=previous or ())
    loaded = load_model(model, device=device)
    if previous:
        for saved in load_chain(previous, weights=f"sha256:{loaded.weights_digest()}"):
            apply_saved(loaded, saved)
    return loaded


def _check_tokenizer(model: Path, plan: Plan, reading: "Reading") -> None:
    from collabedit.party.editing.reading import tokenizer_digest

    digest = f"sha256:{tokenizer_digest(reading)}"
    if digest != plan.model.tokenizer:
        raise InputError(
            f"{model}: tokenizer has digest {digest}, the plan states {plan.model.tokenizer}"
        )


def _order(finding: Finding) -> tuple[bool, int, str]:
    return (finding.severity is not Severity.ERROR, finding.record or 0, finding.kind)


def _counts(findings: Sequence[Finding]) -> tuple[int, int]:
    errors = sum(finding.severity is Severity.ERROR for finding in findings)
    return errors, len(findings) - errors


def _tell(
    file: Path,
    edits: Sequence[Numbered],
    *,
    malformed: int,
    findings: Sequence[Finding],
    as_json: bool,
) -> None:
    errors, warnings = _counts(findings)
    records = len(edits) + malformed
    if as_json:
        report = {
            "file": str(file),
            "records": records,
            "errors": errors,
            "warnings": warnings,
            "findings": [finding.to_dict() for finding in findings],
        }
        typer.echo(json.dumps(report, indent=1))
        return
    if findings:
        table = Table("record", "case", "severity", "kind", "where", "what to do")
        for finding in findings:
            table.add_row(
                "" if finding.record is None else str(finding.record),
                Text(finding.case_id or ""),
                finding.severity.value,
                finding.kind,
                Text(finding.detail),
                finding.advice,
            )
        terminal.print(table)
    say(f"{file}: {records} records, {errors} errors, {warnings} warnings")


def _show(edits: Sequence[Numbered], findings: Sequence[Finding]) -> None:
    concerned = {finding.record for finding in findings}
    table = Table("record", "question", "target_new")
    shown: list[tuple[int, Edit]] = [each for each in edits if each[0] in concerned]
    for number, edit in shown:
        table.add_row(str(number), Text(edit.question), Text(edit.target_new))
    if shown:
        terminal.print(table)


def _end(file: Path, findings: Sequence[Finding], *, strict: bool) -> None:
    errors, warnings = _counts(findings)
    if errors:
        first = next(each for each in findings if each.severity is Severity.ERROR)
        place = "" if first.record is None else f"record {first.record}: "
        raise EditFileError(
            f"{file}: {place}{first.kind}: {first.detail}"
            + (f"; {errors - 1} more errors" if errors > 1 else "")
        )
    if strict and warnings:
        raise AcceptanceError(f"{file}: {warnings} warnings, and --strict allows none")
