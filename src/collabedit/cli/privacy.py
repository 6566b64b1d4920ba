"""Options of differential privacy, for commands that write a plan."""

from typing import Annotated, TypeAlias, get_args

import typer

from collabedit.accounting import with_privacy
from collabedit.errors import InputError
from collabedit.plan import Plan
from collabedit.privacy import Unit
from collabedit.threat_model import maximum_corruptions

DELTA = 1e-6
"""Proposed: well below one over the number of edits that a federation will ever bring."""

EpsilonOption: TypeAlias = Annotated[
    float | None,
    typer.Option(help="Add noise, so that a session is (ε, δ)-differentially private."),
]
DeltaOption: TypeAlias = Annotated[float | None, typer.Option(help=f"δ; default: {DELTA:g}.")]
UnitOption: TypeAlias = Annotated[
    str | None,
    typer.Option(help="What the noise hides: one edit (default), or all edits of one party."),
]
HonestOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        help="Survivors whose noise counts; default: the threshold less all that may collude."
    ),
]


def add_privacy(
    plan: Plan,
    *,
    epsilon: float | None,
    delta: float | None,
    unit: str | None,
    honest: int | None,
) -> Plan:
    """Return the plan with the noise that was asked for.

    Raises:
        InputError: an option has no meaning without `--epsilon`, a unit is unknown, or
            dp-accounting is not installed.
        ValidationError: a value out of its range, for `plan_errors`.
    """
    if epsilon is None:
        if delta is not None or unit is not None or honest is not None:
            raise InputError("--delta, --privacy-unit and --honest need --epsilon")
        return plan
    for name in get_args(Unit):
        if name == (unit or "edit"):
            chosen: Unit = name
            break
    else:
        raise InputError(f"--privacy-unit {unit}: must be one of {', '.join(get_args(Unit))}")
    colluding = plan.federation.corruptions
    if colluding is None:
        colluding = maximum_corruptions(len(plan.federation.parties), plan.threshold)
    return with_privacy(
        plan,
        epsilon=epsilon,
        delta=DELTA if delta is None else delta,
        unit=chosen,
        honest=plan.threshold - colluding if honest is None else honest,
    )


def describe_privacy(plan: Plan) -> str:
    """Say for people what the plan's noise claims; `plan check` computes whether it holds."""
    privacy = plan.privacy
    if privacy is None:
        return "none: no noise is added"
    hidden = "one edit" if privacy.unit == "edit" else "all edits of one party"
    return (
        f"ε = {privacy.epsilon:g} at δ = {privacy.delta:g} for {hidden} in the whole session; "
        f"{privacy.mechanism} noise of multiplier {privacy.noise_multiplier:g}, of which "
        f"{privacy.honest} honest survivors are enough"
    )
