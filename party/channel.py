"""How a party's session reaches its aggregator, whatever the network is."""

from collections.abc import Callable, Iterable
from typing import Protocol

from collabedit.ids import TaskIndex
from collabedit.proto.messages import Packet


class Channel(Protocol):
    """A connection to one aggregator.

    All methods raise `TransportError` when it cannot be reached, `ProtocolError` when it refuses.
    """

    def join(self, packet: Packet) -> Packet:
        """Hand in a `Join`, get the `Welcome`."""

    def open(self, session_id: bytes) -> None:
        """Begin to collect the session's packets in the background; this is also the heartbeat."""

    def deliver(self, packet: Packet) -> None:
        """Hand in a message. Repeating it is harmless."""

    def next_packet(self, timeout: float) -> Packet | None:
        """Return the next packet for this party, None after `timeout` seconds without one."""

    def upload(self, task: TaskIndex, frames: Callable[[], Iterable[bytes]]) -> None:
        """Send all frames of a contribution; asks for them anew if the stream breaks."""

    def download(self, task: TaskIndex, *, limit: int) -> bytes:
        """Fetch the update bundle of a task, at most `limit` bytes."""

    def close(self) -> None:
        """Acknowledge what was read and end the background collection."""
