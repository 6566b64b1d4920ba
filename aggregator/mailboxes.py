"""What waits for each party: its packets, in order, for the whole session.

A party says how many it has (its cursor) and gets the rest. Nothing is dropped before the session
ends, so a party that was restarted can ask from any point. Not locked: the coordinator is.
"""

from collections.abc import Iterable

from collabedit.aggregator.states import Outbound
from collabedit.errors import MalformedMessageError
from collabedit.ids import PartyId
from collabedit.proto.messages import Packet


class Mailboxes:
    """Packets by receiver.

    Args:
        parties: whose mailboxes.
    """

    def __init__(self, parties: Iterable[PartyId]) -> None:
        self._packets: dict[PartyId, list[Packet]] = {party: [] for party in parties}

    def post(self, outbound: Iterable[Outbound]) -> None:
        """File what is to be sent."""
        for item in outbound:
            self._packets[item.receiver].append(item.packet)

    def has_more(self, party: PartyId, cursor: int) -> bool:
        """Return whether there is anything after the first `cursor` packets."""
        return len(self._packets[party]) > cursor

    def after(self, party: PartyId, cursor: int) -> tuple[Packet, ...]:
        """Return a party's packets after the first `cursor`.

        Raises:
            MalformedMessageError: the cursor is beyond the mailbox.
        """
        packets = self._packets[party]
        if cursor > len(packets):
            raise MalformedMessageError(f"cursor {cursor} of {len(packets)} packets")
        return tuple(packets[cursor:])
