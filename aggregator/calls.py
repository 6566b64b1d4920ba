"""Who may hold how many calls at once: what keeps one caller from using up the server.

SPEC 5.5. A party's own client holds at most three calls: one long poll, one stream, one message.
So does everybody here: a second call of a kind takes the place of the first, which is cancelled.
The newer one stays because after a broken link the older one is usually dead and only the
aggregator does not know yet. A caller can therefore neither hold more threads and buffers than its
share nor keep others from theirs, and what it does to itself is its own affair.
"""

import enum
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from collabedit.ids import AGGREGATOR, PartyId

GUEST = AGGREGATOR
"""Stands for all callers whose certificate is good but names no party; they share one place."""


class CallKind(enum.Enum):
    """What a call holds while it lasts."""

    POLL = "long poll"
    STREAM = "upload or download"
    MESSAGE = "message"


@dataclass(eq=False, slots=True)
class Call:
    """One call that was let in.

    Attributes:
        caller: whose.
        kind: of which kind.
        deadline: monotonic seconds at which it is cancelled.
        cancel: ends it from any thread.
        is_replaced: set before it is cancelled because a newer one took its place.
        is_over: set once it ended, however it did.
        is_held: whether a thread waits in it for something to tell.
    """

    caller: PartyId
    kind: CallKind
    deadline: float
    cancel: Callable[["Call"], object] = field(repr=False)
    is_replaced: bool = False
    is_over: bool = False
    is_held: bool = False


class CallTable:
    """All calls that are being served. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[tuple[PartyId, CallKind], Call] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def enter(
        self, caller: PartyId, kind: CallKind, *, seconds: float, cancel: Callable[[Call], object]
    ) -> Call:
        """Let a call in; the caller's older one of the same kind is cancelled.

        Args:
            caller: a party, or `GUEST`.
            kind: what it will hold.
            seconds: how long it may last.
            cancel: ends the call; may be called from another thread, and more than once.
        """
        call = Call(caller, kind, time.monotonic() + seconds, cancel)
        with self._lock:
            older = self._calls.get((caller, kind))
            self._calls[caller, kind] = call
        if older is not None:
            older.is_replaced = True
            older.cancel(older)
        return call

    def leave(self, call: Call) -> bool:
        """Note that a call is over; return whether it still had its place."""
        call.is_over = True
        with self._lock:
            if self._calls.get((call.caller, call.kind)) is not call:
                return False
            del self._calls[call.caller, call.kind]
            return True

    def cancel_overdue(self) -> None:
        """Cancel every call that lasts longer than it may."""
        now = time.monotonic()
        with self._lock:
            overdue = [call for call in self._calls.values() if now > call.deadline]
        for call in overdue:
            call.cancel(call)


class RefusalLog:
    """Decides which refusals are written to the log, so that a caller cannot fill the disk with it.

    Args:
        limit: most lines in a period.
        seconds: length of the period.
    """

    def __init__(self, *, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._lock = threading.Lock()
        self._since = 0.0
        self._count = 0

    def admits(self, now: float) -> bool:
        """Count a refusal at monotonic time `now`; return whether it is to be written."""
        with self._lock:
            if now - self._since >= self._seconds:
                self._since, self._count = now, 0
            self._count += 1
            return self._count <= self._limit
