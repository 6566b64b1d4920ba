"""What `serve`, `join` and `simulate` share about `--record`."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

RecordOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--record",
        help="Private directory for a transcript of the session, recording.sqlite, for audits.",
    ),
]
