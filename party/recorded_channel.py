"""A party's channel with a recorder beside it: what arrives and what is sent, in wire form.

`Join` and `Welcome` are left out: they come before the session has a name. What the party keeps to
itself never passes here: a channel is handed signed messages and masked frames alone.
"""

from collections.abc import Iterator
from io import BufferedIOBase

from collabedit.errors import StorageError
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party.channel import Channel, Frames
from collabedit.proto.codec import encode_packet
from collabedit.proto.messages import Packet
from collabedit.recorder import Recorder
from collabedit.recording import PIECE_BYTES, Delivery, Kind


class RecordedChannel:
    """A `Channel` through another one.

    Args:
        channel: does the work.
        recorder: of this party; raises `StorageError` before anything leaves or is looked at.
        party: whose channel it is.
    """

    def __init__(self, channel: Channel, recorder: Recorder, party: PartyId) -> None:
        self._channel = channel
        self._recorder = recorder
        self._party = party

    def join(self, packet: Packet) -> Packet:
        """See `Channel`."""
        return self._channel.join(packet)

    def open(self, session_id: bytes, *, cursor: int = 0) -> None:
        """See `Channel`; raises `InputError` if another session is recorded there."""
        self._recorder.begin(session_id)
        self._channel.open(session_id, cursor=cursor)

    def deliver(self, packet: Packet) -> None:
        """See `Channel`."""
        self._send(packet.envelope.context.task, "packet", encode_packet(packet))
        self._channel.deliver(packet)

    def next_packet(self, timeout: float) -> Packet | None:
        """See `Channel`."""
        packet = self._channel.next_packet(timeout)
        if packet is not None:
            self._take(packet.envelope.context.task, "packet", encode_packet(packet))
        return packet

    def stored(self, task: TaskIndex) -> frozenset[int]:
        """See `Channel`."""
        return self._channel.stored(task)

    def upload(self, task: TaskIndex, frames: Frames) -> None:
        """See `Channel`."""
        refused: list[StorageError] = []

        def recorded(have: frozenset[int]) -> Iterator[bytes]:
            for frame in frames(have):
                try:
                    self._send(task, "frame", frame)
                except StorageError as error:
                    # gRPC would take an exception in here for a broken stream, and try again.
                    refused.append(error)
                    return
                yield frame

        self._channel.upload(task, recorded)
        for error in refused:
            raise error

    def download(self, task: TaskIndex, *, limit: int) -> bytes:
        """See `Channel`."""
        data = self._channel.download(task, limit=limit)
        self._take(task, "bundle", data)
        return data

    def fetch(self, task: TaskIndex, *, limit: int, file: BufferedIOBase) -> None:
        """See `Channel`: what an opener is offered is fetched so, being too large for memory."""
        self._channel.fetch(task, limit=limit, file=file)

        def pieces() -> Iterator[bytes]:
            file.seek(0)
            while piece := file.read(PIECE_BYTES):
                yield piece

        delivery = Delivery(AGGREGATOR, self._party, task, "sum", b"")
        self._recorder.deliver_pieces(delivery, pieces)

    def close(self, *, finished: bool) -> None:
        """See `Channel`."""
        self._channel.close(finished=finished)

    def _send(self, task: TaskIndex, kind: Kind, data: bytes) -> None:
        self._recorder.deliver(Delivery(self._party, AGGREGATOR, task, kind, data))

    def _take(self, task: TaskIndex, kind: Kind, data: bytes) -> None:
        self._recorder.deliver(Delivery(AGGREGATOR, self._party, task, kind, data))
