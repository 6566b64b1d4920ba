"""Options about closed sums, for commands that write a plan."""

from typing import Annotated, TypeAlias

import typer

from collabedit.closed import Closed
from collabedit.errors import InputError

OpenSumsOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--open-sums", help="Let the aggregator see the sums, and nobody check its merge."
    ),
]
CheckColumnsOption: TypeAlias = Annotated[
    int | None, typer.Option(min=1, max=64, help="Secret vectors that check a merge; default: 4.")
]
CheckToleranceOption: TypeAlias = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Share by which a merge may miss; default: 0.0001."),
]
CoverOption: TypeAlias = Annotated[
    int | None, typer.Option(min=0, help="Random keys that each party adds; default: 0.")
]
MinEditsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(min=0, help="Fewest edits of all that an update is applied for; default: 0."),
]


def choose_closed(
    *,
    open_sums: bool,
    check_columns: int | None,
    check_tolerance: float | None,
    cover_edits: int | None,
    min_edits: int | None,
) -> Closed | None:
    """Return the plan's section; what was not given is as the section has it.

    Raises:
        InputError: an option that has no meaning with open sums.
    """
    given = {
        name: value
        for name, value in (
            ("check_columns", check_columns),
            ("check_tolerance", check_tolerance),
            ("cover_edits", cover_edits),
            ("min_edits", min_edits),
        )
        if value is not None
    }
    if not open_sums:
        return Closed.model_validate(given)
    if given:
        option = "--" + next(iter(given)).replace("_", "-")
        raise InputError(f"{option} has no meaning with --open-sums")
    return None
