"""Whose upload or download moves, when more of them are open than the aggregator has memory for.

A call that moves costs a few frames of memory; one that waits costs what its connection sent ahead.
So a fixed number of calls have a place, the others stand in line, and HTTP/2's flow control lets
their parties wait, too. Nobody can hold a place: it lapses after some seconds if anybody waits, and
while nothing at all arrives, because those who have places are slow, one more is let in every
twentieth of a second. A call whose place lapsed goes on as soon as it has moved and its turn comes
again, so a party that stalls costs others at most that long.
"""

import threading
import time
from collections import deque
from collections.abc import Hashable
from typing import Final

PLACES: Final = 16
"""Calls that move. A party on a good link keeps a core busy alone; slow links are let in beyond."""

TURN_SECONDS: Final = 5.0
"""Longest that a call keeps its place while others wait: some hundred frames on a good link."""

IDLE_SECONDS: Final = 0.05
"""Without a frame from anybody: a round trip over a long link, within which one was to come."""


class Turns:
    """The places, and the line before them. Safe to use from several threads.

    Args:
        places: calls that have one at a time, as long as they move.
        seconds: longest that a place is kept while others wait.
        idle: seconds without a move after which one more is let in.
    """

    def __init__(
        self,
        *,
        places: int = PLACES,
        seconds: float = TURN_SECONDS,
        idle: float = IDLE_SECONDS,
    ) -> None:
        self._places = places
        self._seconds = seconds
        self._idle = idle
        self._changed = threading.Condition()
        self._line: deque[Hashable] = deque()
        self._holders: dict[Hashable, float] = {}
        self._over: set[Hashable] = set()
        self._moved = time.monotonic()

    def __len__(self) -> int:
        """Return how many have a place."""
        return len(self._holders)

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return len(self._line)

    def enter(self, call: Hashable) -> bool:
        """Wait for a place; return False if the call left meanwhile.

        Args:
            call: whose; not one that has a place or waits.
        """
        with self._changed:
            return self._wait(call)

    def keep(self, call: Hashable) -> bool:
        """Note that a call moved, and wait for its next turn if this one is over.

        Returns:
            False if the call left meanwhile.
        """
        with self._changed:
            now = self._moved = time.monotonic()
            since = self._holders.get(call)
            if since is not None and (not self._line or now - since < self._seconds):
                return True
            self._holders.pop(call, None)
            return self._wait(call)

    def leave(self, call: Hashable) -> None:
        """Give up a place, or the wait for one. Harmless without either."""
        with self._changed:
            if call in self._line:
                self._over.add(call)
            self._holders.pop(call, None)
            self._changed.notify_all()

    def _wait(self, call: Hashable) -> bool:
        self._line.append(call)
        try:
            while call not in self._over:
                # Only who is first looks at the clock; the others are woken when that changes.
                left = self._until_free() if self._line[0] is call else None
                if left is not None and left <= 0.0:
                    self._holders[call] = self._moved = time.monotonic()
                    return True
                self._changed.wait(left)
            return False
        finally:
            self._line.remove(call)
            self._over.discard(call)
            self._changed.notify_all()

    def _until_free(self) -> float:
        """Return seconds until the first in line may go; 0 or less for at once."""
        now = time.monotonic()
        for holder, since in tuple(self._holders.items()):
            if now - since >= self._seconds:
                del self._holders[holder]
        if len(self._holders) < self._places:
            return 0.0
        lapses = min(self._holders.values()) + self._seconds
        return min(self._moved + self._idle, lapses) - now
