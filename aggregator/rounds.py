"""Names of the rounds, and whom each one is about."""

from collections.abc import Mapping

from collabedit.aggregator import states as s
from collabedit.ids import PartyId

ROUNDS: Mapping[type[s.State], str] = {
    s.CollectingAdvertisements: "r0-advertise",
    s.CollectingShares: "r1-share",
    s.CollectingConfirmations: "r2-confirm",
    s.CollectingContributions: "r3-contribute",
    s.CollectingSurvivorConfirmations: "r4-survivors",
    s.CollectingUnmaskings: "r5-unmask",
    s.Summing: "r5-add",
    s.CollectingOpening: "r5-decrypt",
    s.Opening: "r5-open",
    s.CollectingVerifications: "r6-verify",
}
"""Names of the rounds, as logs, reports and metrics show them."""


def expected(state: s.Collecting) -> frozenset[PartyId]:
    """Return whom this round is about, answered or not, the ones who left included."""
    match state:
        case s.CollectingAdvertisements():
            return state.progress.setup.expected
        case s.CollectingShares():
            return frozenset(state.roster)
        case s.CollectingConfirmations():
            return frozenset(state.sharers)
        case s.CollectingContributions():
            return state.confirmed
        case s.CollectingSurvivorConfirmations():
            return state.survivors
        case s.CollectingUnmaskings():
            return state.confirmed
        case s.CollectingOpening():
            return frozenset({state.opener})
        case s.CollectingVerifications():
            return state.awaiting


def waiting_for(state: s.State) -> frozenset[PartyId]:
    """Return who could still answer in this round."""
    if isinstance(state, s.Summing | s.Opening | s.Completed | s.Aborted):
        return frozenset()
    return expected(state) - state.answers.keys() - state.progress.gone
