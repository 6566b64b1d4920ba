"""What the library tells its caller while it works: lines for people, progress, events."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

Advance: TypeAlias = Callable[[int, int], None]
"""Called with (done, total)."""


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
        """Take an event of the protocol (docs/SPEC.md, section 8): its name, and plain values."""


SILENT = Reporter()
