"""The coordinator's recording of a session, or its absence.

Everything is handed over before the journal has it and before anybody sees what it caused; a replay
of the journal hands it over once more, which changes nothing (`recording`).
"""

from collections.abc import Callable, Iterable, Iterator

from collabedit.aggregator.states import Event, Step
from collabedit.crypto.ring import RingArray
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.proto.codec import encode_packet
from collabedit.proto.messages import Packet
from collabedit.recorder import Recorder
from collabedit.recording import Delivery, Kind


class Transcript:
    """What the coordinator tells a recorder. Every method may raise its `StorageError`.

    Args:
        recorder: None for a session that is not recorded.
    """

    def __init__(self, recorder: Recorder | None) -> None:
        self._recorder = recorder
        self._fetched: dict[tuple[TaskIndex, Kind], bytes] = {}

    def begin(self, session_id: bytes) -> None:
        """Name the session; raises `InputError` if another one is recorded there."""
        if self._recorder is not None:
            self._recorder.begin(session_id)

    def stepped(self, task: TaskIndex, change: Event | Packet, step: Step) -> None:
        """Keep a packet that was accepted, and the packets that are sent because of an input."""
        if self._recorder is None:
            return
        if isinstance(change, Packet):
            sender = change.envelope.sender
            self._packet(Delivery(sender, AGGREGATOR, task, "packet", encode_packet(change)))
        for item in step.outbound:
            data = encode_packet(item.packet)
            self._packet(Delivery(AGGREGATOR, item.receiver, task, "packet", data))

    def _packet(self, delivery: Delivery) -> None:
        if self._recorder is not None:
            self._recorder.deliver(delivery)

    def frame(self, party: PartyId, task: TaskIndex, data: bytes) -> None:
        """Keep a frame whose tile was stored."""
        self._packet(Delivery(party, AGGREGATOR, task, "frame", data))

    def opened(self, task: TaskIndex, survivors: Iterable[PartyId], total: RingArray) -> None:
        """Keep an opened sum."""
        if self._recorder is not None:
            self._recorder.open_sum(task, survivors, total)

    def fetched(
        self,
        party: PartyId,
        task: TaskIndex,
        kind: Kind,
        pieces: Callable[[], Iterator[bytes]],
    ) -> None:
        """Keep that a party was given a file, and what is in it."""
        if self._recorder is None:
            return
        delivery = Delivery(AGGREGATOR, party, task, kind, b"")
        known = self._fetched.get((task, kind))
        self._fetched[task, kind] = self._recorder.deliver_pieces(delivery, pieces, digest=known)
