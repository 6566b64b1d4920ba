"""`collabedit demo`: three institutions and an aggregator as real processes on loopback."""

from pathlib import Path
from typing import Annotated

import typer

from collabedit.api.checks import check_ckks
from collabedit.cli.closed import EqualLengthsOption
from collabedit.cli.console import progress_bar, terminal
from collabedit.cli.plan import BackendOption, parse_backend, parse_editor
from collabedit.errors import InputError


def run(
    out: Annotated[Path, typer.Option(help="Directory for report, figure and logs.")] = Path(
        "out/demo"
    ),
    cache: Annotated[Path, typer.Option(help="Directory for the model and its covariance.")] = Path(
        ".cache/collabedit"
    ),
    edits: Annotated[
        int, typer.Option(min=3, max=60, help="Facts to edit, over all parties.")
    ] = 12,
    model: Annotated[
        Path | None, typer.Option(help="Use this model directory instead of the pinned one.")
    ] = None,
    editor: Annotated[str, typer.Option(help="memit, alphaedit or emmet.")] = "memit",
    equal_lengths: EqualLengthsOption = False,
    backend: BackendOption = "masked",
) -> None:
    """Edit a real model together over gRPC with mutual TLS, and compare with every alternative.

    Exits with 7 if a stated bound does not hold.
    """
    from collabedit.demo.run import Settings, run_demo

    chosen = parse_editor(editor)
    if chosen == "ridge":
        raise InputError("--editor ridge: the demo edits with a covariance, which ridge has not")
    chosen_backend = parse_backend(backend)
    check_ckks(chosen_backend)
    settings = Settings(
        out=out,
        cache=cache,
        edits=edits,
        model=model,
        editor=chosen,
        equal_lengths=equal_lengths,
        backend=chosen_backend,
    )
    run_demo(settings, terminal=terminal, stage=progress_bar)
