"""Options of the vote on an update, for commands that write a plan."""

from typing import Annotated, TypeAlias

import typer

from collabedit.acceptance import EFFICACY, NEIGHBOURHOOD_DROP, PERPLEXITY_RATIO, Acceptance
from collabedit.threat_model import minimum_threshold

AcceptanceOption: TypeAlias = Annotated[
    bool, typer.Option("--acceptance", help="Let parties vote on the update before it stays.")
]
VotesOption: TypeAlias = Annotated[
    int | None, typer.Option(help="Fewest accepting parties; default with a vote: the threshold.")
]
EfficacyOption: TypeAlias = Annotated[
    float | None,
    typer.Option(help=f"Smallest share of a party's edits that must hold; default: {EFFICACY}."),
]
DropOption: TypeAlias = Annotated[
    float | None,
    typer.Option(
        help=f"Largest loss of neighbourhood prompts, 0 to 1; default: {NEIGHBOURHOOD_DROP}."
    ),
]
RatioOption: TypeAlias = Annotated[
    float | None,
    typer.Option(help=f"Largest perplexity after / before; default: {PERPLEXITY_RATIO}."),
]


def choose_acceptance(
    *,
    asked: bool,
    votes: int | None,
    efficacy: float | None,
    neighbourhood_drop: float | None,
    perplexity_ratio: float | None,
    parties: int,
) -> Acceptance | None:
    """Return the plan's section; None unless it, or any of its bounds, was asked for.

    Raises:
        ValidationError: a bound out of its range, for `plan_errors`.
    """

    def chosen(given: float | None, proposed: float) -> float:
        return float(proposed if given is None else given)

    bounds = (votes, efficacy, neighbourhood_drop, perplexity_ratio)
    if not asked and all(bound is None for bound in bounds):
        return None
    return Acceptance(
        # As many as every list needs: a vote costs no dropout that the session would survive.
        votes=minimum_threshold(parties) if votes is None else votes,
        efficacy=chosen(efficacy, EFFICACY),
        neighbourhood_drop=chosen(neighbourhood_drop, NEIGHBOURHOOD_DROP),
        perplexity_ratio=chosen(perplexity_ratio, PERPLEXITY_RATIO),
    )
