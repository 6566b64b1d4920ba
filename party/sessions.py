"""Which sessions a party entered, so that it never enters one twice with new keys.

The session id is the aggregator's choice. A party that enters the same session again draws new keys
and signs other statements in the very context of its first ones, and a third person who sees both
must take it for a liar (SPEC 11.2(c)): an aggregator that uses an id again could frame it. So each
session is written down before anything is signed in it.
"""

import re
from pathlib import Path

from collabedit.durable import append_line, read_lines
from collabedit.errors import InputError, ProtocolError

_LINE = re.compile(r"[0-9a-f]{64}")


class EnteredSessions:
    """Append-only list of session ids, one line of hexadecimal digits each.

    Args:
        path: the file; made with mode 0600 at the first session.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"EnteredSessions({self._path})"

    def enter(self, session_id: bytes) -> None:
        """Write a session down before the first statement in it.

        Raises:
            ProtocolError: it was entered before.
            InputError: the file is damaged.
            StorageError: the disk refuses; the caller must not go on.
        """
        line = session_id.hex()
        if line in self._read():
            raise ProtocolError(
                f"session {line[:16]} was entered before from this work directory, and its keys "
                "are gone: to sign anew in it would look like a lie. Take part in the next one; "
                "if this should be a new one, the aggregator uses its id again"
            )
        append_line(self._path, line)

    def _read(self) -> set[str]:
        try:
            lines = read_lines(self._path)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self._path}: cannot be read: {error}") from error
        for number, line in enumerate(lines, 1):
            if not _LINE.fullmatch(line):
                raise InputError(
                    f"{self._path}: line {number} is damaged; without it nobody can tell which "
                    "sessions were entered. Restore the file"
                )
        return set(lines)
