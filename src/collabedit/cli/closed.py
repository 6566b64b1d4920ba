"""Options about closed sums, for commands that write a plan."""

from typing import Annotated, TypeAlias

import typer

from collabedit.closed import PROPOSED_DECOY_BOUND, PROPOSED_MIN_EDITS, Closed
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
    typer.Option(
        min=0,
        help="Fewest edits of all parties that an update is applied for; of a new plan 30.",
    ),
]
DecoyBoundOption: TypeAlias = Annotated[
    float | None,
    typer.Option(
        min=1e-6,
        max=1,
        help="Hide residuals from the aggregator behind rows of noise, to this total variation, "
        "like 0.01; default: no such rows.",
    ),
]
EqualLengthsOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--equal-lengths",
        help="Scale every edit's key to one length, so that sums tell nothing by lengths; with "
        "--decoy-bound 0.01 unless given. Weighs edits otherwise than the editor as published.",
    ),
]

LengthUnitsOption: TypeAlias = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        help="Of --equal-lengths: squared length in units of its mean over text; default: 2.",
    ),
]


def choose_closed(
    *,
    open_sums: bool,
    check_columns: int | None,
    check_tolerance: float | None,
    cover_edits: int | None,
    min_edits: int | None,
    decoy_bound: float | None,
    equal_lengths: bool,
) -> Closed | None:
    """Return the plan's section; what was not given is as the section has it.

    Raises:
        InputError: an option that has no meaning with open sums.
    """
    if equal_lengths and decoy_bound is None and not open_sums:
        decoy_bound = PROPOSED_DECOY_BOUND
    given = {
        name: value
        for name, value in (
            ("check_columns", check_columns),
            ("check_tolerance", check_tolerance),
            ("cover_edits", cover_edits),
            ("min_edits", min_edits),
            ("decoy_bound", decoy_bound),
        )
        if value is not None
    }
    if not open_sums:
        return Closed.model_validate(given)
    if given:
        option = "--" + next(iter(given)).replace("_", "-")
        raise InputError(f"{option} has no meaning with --open-sums")
    return None


def choose_length(
    *, equal_lengths: bool, length_units: float | None, proposed: float
) -> float | None:
    """Return the squared length that keys get, in units of its mean over text; None for their own.

    Raises:
        InputError: units without keys of one length.
    """
    if not equal_lengths:
        if length_units is not None:
            raise InputError("--length-units: needs --equal-lengths")
        return None
    return proposed if length_units is None else length_units


def propose_min_edits(room: int) -> int:
    """Return the fewest edits that an update of a new plan is applied for.

    Args:
        room: how many edits all parties may bring.

    Raises:
        InputError: they may bring fewer than sums should be closed over.
    """
    if room < PROPOSED_MIN_EDITS:
        raise InputError(
            f"the parties may bring {room} edits together, and sums of fewer than "
            f"{PROPOSED_MIN_EDITS} can give subjects away: bring more, or accept it with "
            "--min-edits 0"
        )
    return PROPOSED_MIN_EDITS


def describe_closed(closed: Closed | None, *, outputs: int) -> str:
    """Say for people what the aggregator sees of the sums, and who checks its merge.

    Args:
        closed: the plan's section.
        outputs: smallest d_out, of which `min_edits` is given as a share: beyond it the row space
            of an update is no longer that of its edits' keys.
    """
    if closed is None:
        return "open to the aggregator; its merge is not checked"
    cover = f", {closed.cover_edits} cover edits each" if closed.cover_edits else ""
    decoys = f", residuals hidden to {closed.decoy_bound:g}" if closed.decoy_bound else ""
    share = closed.min_edits / outputs
    fewest = (
        f", at least {closed.min_edits} edits together ({share:.2g} d_out)"
        if closed.min_edits
        else ""
    )
    return (
        f"closed; each merge checked by {closed.check_columns} secret vectors to "
        f"{closed.check_tolerance:g}{cover}{decoys}{fewest}"
    )
