"""What the library tells its caller while it works: lines for people, progress, events."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TypeAlias

Advance: TypeAlias = Callable[[int, int], None]
"""Called with (done, total)."""


class Wire(Protocol):
    """A party's end of the wire, as far as it counts bytes."""

    @property
    def bytes_sent(self) -> int:
        """Bytes of messages and frames."""

    @property
    def bytes_received(self) -> int:
        """Bytes of messages and downloads."""


class Reporter:
    """Told of everything, and silent: override what you want to hear.

    Nothing that it is told holds the text of an edit or a secret.
    """

    def say(self, text: str) -> None:
        """Take a line for people."""

    @contextmanager
    def progress(self, title: str) -> Iterator[Advance]:
        """Follow something that takes long; called with (done, total) while it does."""
        del title
        yield lambda _done, _total: None

    def observe(self, event: str, fields: Mapping[str, object]) -> None:
        """Take an event (docs/logs.md): its name, and plain values."""

    def begin(self, session_id: bytes) -> None:
        """Take the id of the session that an aggregator coordinates, once it has one."""

    def follow(self, phases: Callable[[], Mapping[str, float]]) -> None:
        """Take what tells the seconds of each phase of a party so far. Safe from any thread."""

    def connect(self, wire: Wire) -> None:
        """Take the party's end of the wire, once there is one."""


SILENT = Reporter()
