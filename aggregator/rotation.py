"""The aggregator's TLS identity, read anew from its files when they change.

gRPC asks for it at each handshake, so a new certificate serves the next connection, and connections
that are open go on under the old one. Files that do not belong together are reported once and
change nothing: while somebody copies them, the certificate may be there before its key.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeAlias

from collabedit.aggregator.service import ServerTls
from collabedit.errors import KeyFileError

WATCH_SECONDS = 5.0
"""How often the files are looked at when nobody connects."""

_Print: TypeAlias = tuple[tuple[int, int, int, int] | None, ...]


class RotatedTls:
    """Watches the files of a TLS identity while its context is entered.

    Args:
        read: reads and checks all of them.
        files: whose change is looked for.
        observer: told of each new identity (`certificate-renewed`) and of each that cannot be used
            (`certificate-refused`).

    Raises:
        KeyFileError: as `read`, for the first identity.
    """

    def __init__(
        self,
        read: Callable[[], ServerTls],
        files: Sequence[Path],
        observer: Callable[[str, Mapping[str, object]], None],
    ) -> None:
        self._read = read
        self._files = tuple(files)
        self._observer = observer
        self._lock = threading.Lock()
        self._seen = self._print()
        self._current = read()
        self._served = self._current
        self._asked = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._watch, name="certificates", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over = True
        self._asked.set()
        self._thread.join()

    @property
    def current(self) -> ServerTls:
        """The newest identity that can be used."""
        return self._current

    def ask(self) -> None:
        """Have the files read soon, changed or not. Safe in a signal handler."""
        self._asked.set()

    def renewed(self) -> ServerTls | None:
        """Return the identity for the next handshake if it is another one than for the last."""
        with self._lock:
            self._look(is_asked=False)
            if self._current is self._served:
                return None
            self._served = self._current
            return self._current

    def _watch(self) -> None:
        while not self._over:
            is_asked = self._asked.wait(WATCH_SECONDS)
            self._asked.clear()
            if not self._over:
                with self._lock:
                    self._look(is_asked=is_asked)

    def _look(self, *, is_asked: bool) -> None:
        found = self._print()
        if found == self._seen and not is_asked:
            return
        self._seen = found
        try:
            read = self._read()
        except KeyFileError as error:
            self._observer("certificate-refused", {"why": str(error)})
            return
        if read != self._current:
            self._current = read
            self._observer("certificate-renewed", {"file": str(self._files[0])})

    def _print(self) -> _Print:
        """Return what changes when a file is written or another one takes its place."""
        return tuple(_stamp(path) for path in self._files)


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
