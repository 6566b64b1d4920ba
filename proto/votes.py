"""Rules on the votes of r6 that both roles hold each other to, and their count (SPEC 4.7)."""

from collections.abc import Mapping

from collabedit.acceptance import Vote
from collabedit.errors import AbortReason
from collabedit.ids import PartyId
from collabedit.plan import Plan
from collabedit.proto.messages import Context, VerifyUpdate
from collabedit.proto.statements import RefusalError


def check_vote(
    plan: Plan, context: Context, statement: VerifyUpdate, *, sender: PartyId, culprit: PartyId
) -> None:
    """Check that a statement votes exactly where the plan asks for it (SPEC 4.7(c)).

    Args:
        plan: the plan.
        context: of the task.
        statement: what `sender` signed.
        sender: for the message.
        culprit: who is at fault: the sender on arrival, the aggregator in a list.

    Raises:
        RefusalError: MALFORMED_MESSAGE.
    """
    asked = plan.is_voted(context.task)
    if asked != (statement.vote is not Vote.NONE):
        raise RefusalError(
            AbortReason.MALFORMED_MESSAGE,
            f"VerifyUpdate of party {sender} "
            + ("has no vote where one is asked" if asked else "votes where no vote is asked"),
            culprit=culprit,
        )


def accepts(plan: Plan, votes: Mapping[PartyId, Vote]) -> bool:
    """Tell whether the votes of a voted task keep its update. Who does not vote does not accept."""
    return _accepting(votes) >= _asked(plan)


def name_votes(plan: Plan, votes: Mapping[PartyId, Vote]) -> dict[str, str]:
    """Return votes as reports show them, by name in the plan's order."""
    return {plan.party_name(party): votes[party].word for party in sorted(votes)}


def rejection(plan: Plan, votes: Mapping[PartyId, Vote]) -> RefusalError:
    """Build the outcome of a vote that failed. It is nobody's fault."""
    against = ", ".join(
        f"{name} {word}"
        for name, word in name_votes(plan, votes).items()
        if word != Vote.ACCEPT.word
    )
    return RefusalError(
        AbortReason.UPDATE_REJECTED,
        f"{_accepting(votes)} of {len(votes)} votes accept the update, the plan asks for "
        f"{_asked(plan)}" + (f"; against it: {against}" if against else ""),
        culprit=None,
    )


def _accepting(votes: Mapping[PartyId, Vote]) -> int:
    return sum(vote is Vote.ACCEPT for vote in votes.values())


def _asked(plan: Plan) -> int:
    assert plan.acceptance is not None  # noqa: S101  only plans that have it ask for votes
    return plan.acceptance.votes
