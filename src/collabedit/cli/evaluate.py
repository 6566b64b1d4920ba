"""`collabedit evaluate`: how well a model holds a file of edits."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from collabedit.cli.console import progress_bar, terminal
from collabedit.errors import InputError


def run(
    model: Annotated[Path, typer.Option(help="Model directory, edited or not.")],
    edits: Annotated[Path, typer.Option(help="Edits file.")],
    text: Annotated[
        Path | None, typer.Option(help="Text for the perplexity; default: leave it out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
    dtype: Annotated[str, typer.Option(help="Of the model's weights.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
) -> None:
    """Measure efficacy, paraphrase, neighbourhood, score, generation accuracy and perplexity."""
    from collabedit.party.editing.evaluate import evaluate
    from collabedit.party.editing.model import load_model
    from collabedit.party.edits import load_edits

    records = load_edits(edits)
    try:
        prose = None if text is None else text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{text}: cannot be read as UTF-8 text: {error}") from error
    loaded = load_model(model, dtype=dtype, device=device)
    with progress_bar("evaluating") as advance:
        metrics = evaluate(loaded, records, text=prose, progress=advance).metrics
    row = metrics.to_dict()
    if as_json:
        typer.echo(json.dumps(row))
        return
    table = Table("measure", "value")
    for measure, value in row.items():
        table.add_row(measure, "-" if value is None else f"{value:.2f}")
    terminal.print(table)
