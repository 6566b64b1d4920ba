"""A party's `Channel` straight to a `Coordinator`: real sessions in threads, without a network."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BufferedIOBase

from collabedit.aggregator.coordinator import Coordinator
from collabedit.errors import ProtocolError, TransportError
from collabedit.exchange import bitmap_tiles
from collabedit.ids import PartyId, TaskIndex
from collabedit.party.channel import Frames
from collabedit.proto.codec import decode_packet, encode_packet
from collabedit.proto.messages import Packet


def _ignore(packet: Packet) -> None:
    del packet


@dataclass
class LoopbackChannel:
    """One party's end. Packets pass through the wire codec.

    Attributes:
        before_delivery: sees, or fails, what the party is about to send.
        received: shows the party something else; None withholds it.
        delivered: what the party sent.
        closed: whether the party closed its end.
    """

    coordinator: Coordinator
    party: PartyId
    before_delivery: Callable[[Packet], None] = _ignore
    received: Callable[[Packet], Packet | None] = lambda packet: packet
    welcomed: Callable[[Packet], Packet] = lambda packet: packet
    downloaded: Callable[[bytes], bytes] = lambda bundle: bundle
    delivered: list[Packet] = field(default_factory=list)
    closed: bool = False
    _cursor: int = 0

    def join(self, packet: Packet) -> Packet:
        return self.welcomed(self.coordinator.welcome(decode_packet(encode_packet(packet))))

    def open(self, session_id: bytes, *, cursor: int = 0) -> None:
        assert session_id == self.coordinator.session_id
        self._cursor = cursor

    def deliver(self, packet: Packet) -> None:
        if self.closed:
            raise TransportError("the channel is closed")
        self.before_delivery(packet)
        self.delivered.append(packet)
        self.coordinator.deliver(decode_packet(encode_packet(packet)))

    def next_packet(self, timeout: float) -> Packet | None:
        packets = self.coordinator.wait_mailbox(self.party, cursor=self._cursor, seconds=timeout)
        if not packets:
            return None
        self._cursor += 1
        return self.received(decode_packet(encode_packet(packets[0])))

    def stored(self, task: TaskIndex) -> frozenset[int]:
        return bitmap_tiles(self.coordinator.stored_tiles(self.party, task))

    def upload(self, task: TaskIndex, frames: Frames) -> None:
        for frame in frames(self.stored(task)):
            self.coordinator.put_frame(self.party, task, frame)
        self.coordinator.settle_upload(self.party, task)

    def download(self, task: TaskIndex, *, limit: int) -> bytes:
        bundle = self.downloaded(b"".join(self.coordinator.download(self.party, task)))
        if len(bundle) > limit:
            raise ProtocolError("the update is larger than the plan allows")
        return bundle

    def fetch(self, task: TaskIndex, *, limit: int, file: BufferedIOBase) -> None:
        file.write(self.download(task, limit=limit))

    def close(self, *, finished: bool) -> None:
        self.closed = True


@contextlib.contextmanager
def driven(coordinator: Coordinator, *, patience: float = 1.0) -> Iterator[None]:
    """Open sums in a thread, and close a round that lasts longer than `patience` seconds."""
    stop = threading.Event()

    def drive() -> None:
        while not coordinator.finished and not stop.is_set():
            position = coordinator.position
            coordinator.open_pending()
            coordinator.wait_change(position, patience)
            if coordinator.position == position and not stop.is_set():
                coordinator.close_round()

    thread = threading.Thread(target=drive, name="drive")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(2 * patience + 5)
