"""Options about re-assertions: true facts beside an institution's edits."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from collabedit.api.reassertion import COUNT_OPTION, OPTION

ReassertOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(OPTION, help="File of true facts, some to be re-asserted beside the edits."),
]
ReassertCountOption: TypeAlias = Annotated[
    int | None,
    typer.Option(COUNT_OPTION, min=1, help="How many of them; default: as many as edits."),
]
