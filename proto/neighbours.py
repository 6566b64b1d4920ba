"""The graph of a task as its signed messages describe it (SPEC 4.2).

The receivers in each `ShareKeys` are the only statement of who chose whom. Every party and the
aggregator read the same signed list, so all work on one graph, which the transcript of r2 covers.
"""

from collections.abc import Collection, Mapping

from collabedit.errors import AbortReason
from collabedit.ids import PartyId
from collabedit.proto.messages import ShareKeys
from collabedit.proto.statements import RefusalError


def check_receivers(
    keys: ShareKeys,
    *,
    sender: PartyId,
    roster: Collection[PartyId],
    degree: int,
    culprit: PartyId,
) -> None:
    """Check that a party shared with as many others of the roster as the derived degree says.

    Args:
        keys: what the party signed.
        sender: the party.
        roster: as the checking end knows it.
        degree: receivers that this roster asks for.
        culprit: at the aggregator the sender. At a party the aggregator: an honest one refuses this
            to the sender, and a sender that was shown another roster did what it should.

    Raises:
        RefusalError: MALFORMED_MESSAGE.
    """
    receivers = keys.digests.keys()
    if sender in receivers or not receivers <= set(roster):
        raise RefusalError(
            AbortReason.MALFORMED_MESSAGE,
            f"party {sender} shared with itself or with parties outside of the roster",
            culprit=culprit,
        )
    # SPEC 4.2(c): fewer guards could be too weak, more would choose neighbours at will.
    if len(receivers) != degree:
        raise RefusalError(
            AbortReason.MALFORMED_MESSAGE,
            f"party {sender} shared with {len(receivers)} parties, must be {degree}",
            culprit=culprit,
        )


def find_owners(holder: PartyId, sharers: Mapping[PartyId, ShareKeys]) -> frozenset[PartyId]:
    """Return whose shares `holder` has: its own, and of every party that chose it."""
    return frozenset(
        owner for owner, keys in sharers.items() if owner == holder or holder in keys.digests
    )


def find_neighbours(party: PartyId, sharers: Mapping[PartyId, ShareKeys]) -> frozenset[PartyId]:
    """Return with whom `party` shares a mask: whoever of the transcript chose it, or it chose."""
    chosen = sharers[party].digests.keys() & sharers.keys()
    return (find_owners(party, sharers) | chosen) - {party}
