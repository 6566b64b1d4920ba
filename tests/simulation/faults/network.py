"""Links with messages in flight, and everything that was ever sent."""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Literal

from collabedit.errors import AbortReason
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex


@dataclass(frozen=True, slots=True)
class Message:
    """Bytes on their way.

    Attributes:
        sender: who.
        receiver: to whom.
        kind: a control packet, a frame of an upload, or the end of an upload.
        task: of the frame.
        data: the bytes.
        genuine: sent by its sender, whole, for the first time.
        lie: the lying aggregator made it.
        reasons: why its receiver must abort, if it expects such a message; empty if it need not.
    """

    sender: PartyId
    receiver: PartyId
    kind: Literal["packet", "frame", "end"]
    task: TaskIndex
    data: bytes = field(repr=False)
    genuine: bool = True
    lie: bool = False
    reasons: frozenset[AbortReason] = frozenset()

    @property
    def link(self) -> tuple[PartyId, PartyId, bool]:
        """Sender, receiver, and whether it is a stream of frames."""
        return self.sender, self.receiver, self.kind != "packet"

    @property
    def party(self) -> PartyId:
        """The end that is not the aggregator."""
        return self.receiver if self.sender == AGGREGATOR else self.sender


Link = tuple[PartyId, PartyId, bool]


class Network:
    """Every link is a queue. Nothing moves by itself."""

    def __init__(self) -> None:
        self._links: dict[Link, deque[Message]] = {}
        self._turn = 0
        self.cut: frozenset[int] = frozenset()
        self.history: list[Message] = []

    def send(self, message: Message) -> None:
        """Put a message on its way."""
        self._links.setdefault(message.link, deque()).append(message)
        if message.genuine:
            self.history.append(message)

    def _open(self) -> list[Link]:
        return sorted(
            link
            for link, queue in self._links.items()
            if queue and not self.cut & {link[0], link[1]}
        )

    def choose(self, pick: int, place: int) -> tuple[Link, int] | None:
        """Name a message in flight; None if nothing is."""
        links = self._open()
        if not links:
            return None
        link = links[pick % len(links)]
        # Frames of one upload stay in order: a stream has no holes.
        return link, 0 if link[2] else place % len(self._links[link])

    def take(self, link: Link, place: int) -> Message:
        """Remove a message."""
        queue = self._links[link]
        message = queue[place]
        del queue[place]
        return message

    def next(self) -> Message | None:
        """Take the next message, link by link in turn; None if nothing is in flight."""
        links = self._open()
        if not links:
            return None
        self._turn += 1
        return self.take(links[self._turn % len(links)], 0)

    @property
    def is_busy(self) -> bool:
        """Whether anything is in flight."""
        return bool(self._open())

    def put_back(self, message: Message) -> None:
        """Let a message be the next of its link once more."""
        self._links.setdefault(message.link, deque()).appendleft(message)

    def duplicate(self, link: Link, place: int) -> None:
        """Let a message arrive twice."""
        queue = self._links[link]
        queue.append(replace(queue[place], genuine=False, reasons=frozenset()))

    def damage(self, link: Link, place: int, bit: int) -> None:
        """Flip a bit of a message."""
        queue = self._links[link]
        data = bytearray(queue[place].data)
        if data:
            data[bit // 8 % len(data)] ^= 1 << bit % 8
            queue[place] = replace(
                queue[place], data=bytes(data), genuine=False, reasons=frozenset()
            )

    def break_uploads(self, party: PartyId | None = None) -> frozenset[PartyId]:
        """Lose the frames in flight of a party, or of all, and return whose."""
        broken = set()
        for link, queue in self._links.items():
            if link[2] and queue and party in (None, link[0]):
                queue.clear()
                broken.add(link[0])
        return frozenset(broken)

    def silence(self, party: PartyId) -> None:
        """Lose everything that a dead party sent or was about to read."""
        for link, queue in self._links.items():
            if party in link[:2]:
                queue.clear()
