"""How a party's session reaches its aggregator, whatever the network is."""

from collections.abc import Callable, Iterable
from io import BufferedIOBase
from typing import Protocol, TypeAlias

from collabedit.ids import TaskIndex
from collabedit.proto.messages import Packet

Frames: TypeAlias = Callable[[frozenset[int]], Iterable[bytes]]
"""Gives the frames of a contribution, less those of the tiles in the set."""


class Channel(Protocol):
    """A connection to one aggregator.

    All methods raise `TransportError` when it cannot be reached, `ProtocolError` when it refuses.
    """

    def join(self, packet: Packet) -> Packet:
        """Hand in a `Join`, get the `Welcome`."""

    def open(self, session_id: bytes, *, cursor: int = 0) -> None:
        """Begin to collect the session's packets in the background; this is also the heartbeat.

        The first `cursor` packets of the mailbox are left out: they were read before.
        """

    def deliver(self, packet: Packet) -> None:
        """Hand in a message. Repeating it is harmless."""

    def next_packet(self, timeout: float) -> Packet | None:
        """Return the next packet for this party, None after `timeout` seconds without one."""

    def stored(self, task: TaskIndex) -> frozenset[int]:
        """Ask which tiles of this party's contribution the aggregator says to have for good."""

    def upload(self, task: TaskIndex, frames: Frames) -> None:
        """Send the frames that `stored` lacks; asks for both anew if the stream breaks."""

    def download(self, task: TaskIndex, *, limit: int) -> bytes:
        """Fetch the update bundle of a task, at most `limit` bytes."""

    def fetch(self, task: TaskIndex, *, limit: int, file: BufferedIOBase) -> None:
        """Fetch as `download` does, into a file from its start; raises its `OSError` as it is."""

    def close(self, *, finished: bool) -> None:
        """End the background collection.

        Args:
            finished: whether nothing more of the session is needed. The aggregator stays for
                whoever did not say so: a process that dies with what it read comes back for it.
        """
