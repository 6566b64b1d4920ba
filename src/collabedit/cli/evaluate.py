"""`collabedit evaluate`: how well a model holds a file of edits."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from collabedit.cli.console import PreviousOption, progress_bar, terminal
from collabedit.errors import InputError

if TYPE_CHECKING:
    from collabedit.party.editing.measures import Figure


def run(
    model: Annotated[Path, typer.Option(help="Model directory, edited or not.")],
    edits: Annotated[Path, typer.Option(help="Edits file.")],
    previous: PreviousOption = None,
    text: Annotated[
        Path | None, typer.Option(help="Text for the perplexity; default: leave it out.")
    ] = None,
    fluency: Annotated[
        bool, typer.Option("--fluency", help="Let the model write from generation prompts; slow.")
    ] = False,
    ability: Annotated[
        bool, typer.Option("--ability", help="Ask 48 general questions that no edit is about.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
    dtype: Annotated[str, typer.Option(help="Of the model's weights.")] = "float32",
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda ...; spread: over all GPUs.")
    ] = "auto",
) -> None:
    """Measure how well a model holds edits, and what else changed (docs/metrics.md)."""
    from collabedit.party.editing.ability import (
        ability_figures,
        ability_questions,
        answered_right,
    )
    from collabedit.party.editing.evaluate import evaluate
    from collabedit.party.editing.measures import Figure, figures
    from collabedit.party.editing.model import load_model
    from collabedit.party.editing.updates import apply_saved, load_chain
    from collabedit.party.edits import load_edits

    records = load_edits(edits)
    try:
        prose = None if text is None else text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{text}: cannot be read as UTF-8 text: {error}") from error
    loaded = load_model(model, dtype=dtype, device=device)
    if previous:
        for saved in load_chain(previous, weights=f"sha256:{loaded.weights_digest()}"):
            apply_saved(loaded, saved)
    with progress_bar("evaluating") as advance:
        evaluation = evaluate(loaded, records, text=prose, with_fluency=fluency, progress=advance)
    found = figures(evaluation.outcomes)
    found["perplexity"] = Figure(evaluation.metrics.perplexity, None)
    questions = ability_questions() if ability else ()
    with progress_bar("general questions") as advance:
        right = answered_right(loaded, questions, progress=advance) if ability else ()
    found |= ability_figures(questions, right)
    if as_json:
        intervals = {name: figure.interval for name, figure in found.items()}
        values = {name: figure.value for name, figure in found.items()}
        typer.echo(json.dumps({**values, "edits": len(records), "intervals": intervals}))
        return
    _print(found, edits=len(records))


def _print(found: dict[str, "Figure"], *, edits: int) -> None:
    table = Table("measure", title=f"{edits} edits", title_justify="left")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for name, figure in found.items():
        if figure.value is None:
            table.add_row(name, "-", "")
            continue
        digits = 4 if name.endswith("_magnitude") else 2
        ends = figure.interval
        between = f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}" if ends else ""
        table.add_row(name, f"{figure.value:.{digits}f}", between)
    terminal.print(table)
