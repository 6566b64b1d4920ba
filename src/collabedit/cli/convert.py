"""`collabedit convert`: a checkpoint from a GGUF file."""

from pathlib import Path
from typing import Annotated

import typer

from collabedit.api.results import check_output
from collabedit.cli.console import say
from collabedit.durable import whole_directory
from collabedit.errors import ModelError


def run(
    file: Annotated[Path, typer.Argument(help="GGUF file of a model of Llama's architecture.")],
    output: Annotated[Path, typer.Option(help="Model directory to write; must not exist.")],
) -> None:
    """Turn a GGUF file into a model directory, in float32."""
    from collabedit.party.editing.gguf_files import convert_gguf

    check_output(output)
    if not file.is_file():
        raise ModelError(f"{file}: no such file")
    with whole_directory(output) as partial:
        convert_gguf(file, partial)
    say(f"model written to {output}")
