"""What a party remembers of opened sums, so that nobody can make it open the same edits twice.

Two opened sums of the same edits over different survivors differ by the contribution of whoever is
in one and not in the other (`attacks.differencing`). No malice is needed: a session that failed
after its first sum and is repeated without one institution is enough. A party therefore writes
down, before the shares that open a sum leave it, which edits on which weights they open, and
refuses the next session on the same ones until its operator says that the risk is understood.

The file is private: it holds digests of edits, which could be guessed from candidates.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from collabedit.crypto.kdf import transcript_hash
from collabedit.durable import append_line, read_lines
from collabedit.errors import InputError, JournalError
from collabedit.ids import TaskIndex
from collabedit.party.edits import Edit, edits_digest

ACCEPT_OPTION = "--accept-repeated-opening"


@dataclass(frozen=True, slots=True)
class Opening:
    """One sum that this party helped to open."""

    edits: str
    session: str
    task: int
    is_key: bool = False
    """Of an encrypted sum that this party itself opened, with the task's key."""


class Ledger:
    """Append-only record of openings, one JSON line each.

    Args:
        path: the file; made with mode 0600 at the first opening.
        edits: whose openings this session may add.
        weights: digest of the unedited weights, as the plan writes it.
        accept_repeated: the operator accepts that a sum over the same edits was opened before.
    """

    def __init__(
        self, path: Path, *, edits: Sequence[Edit], weights: str, accept_repeated: bool = False
    ) -> None:
        self._path = path
        self._accept_repeated = accept_repeated
        self._edits = transcript_hash("ledger", weights, edits_digest(edits)).hex()

    def __repr__(self) -> str:
        return f"Ledger({self._path})"

    def check(self, *, resuming: bytes = b"") -> None:
        """Refuse to go on if a sum over the same edits was opened before.

        Args:
            resuming: session id of an unfinished session, whose own openings are no repetition.

        Raises:
            InputError: it was, or the file is damaged.
        """
        if self._accept_repeated:
            return
        for opening in self._read():
            if opening.edits == self._edits and opening.session != resuming.hex():
                raise InputError(
                    f"{self._path}: a sum over these edits was opened before, in session "
                    f"{opening.session[:16]}. Whoever sees a second sum over other parties can "
                    "subtract the two and isolate somebody's edits. Change the edits, or accept "
                    f"that with {ACCEPT_OPTION}"
                )

    def record(self, session_id: bytes, task: TaskIndex, *, replayed: bool = False) -> None:
        """Write an opening to disk before it happens; or before a ciphertext is signed.

        Args:
            session_id: of the session.
            task: whose sum is opened.
            replayed: the party does again, after a restart, what its journal says it did; the
                opening may be written down already.

        Raises:
            JournalError: the sum was opened before although the party's journal does not know of
                it; the caller must not open.
            StorageError: the disk refuses; the caller must not open.
            InputError: the file is damaged.
        """
        self._record(session_id, task, replayed=replayed, is_key=False)

    def record_key(self, session_id: bytes, task: TaskIndex, *, replayed: bool) -> None:
        """Write down that the key of an encrypted sum opens it, before it does.

        Args:
            session_id: of the session.
            task: whose sum is opened.
            replayed: the party's journal has that opening, or that it was begun.

        Raises:
            JournalError, StorageError, InputError: as of `record`; the caller must not open.
        """
        self._record(session_id, task, replayed=replayed, is_key=True)

    def _record(self, session_id: bytes, task: TaskIndex, *, replayed: bool, is_key: bool) -> None:
        known = any(
            (opening.session, opening.task, opening.is_key) == (session_id.hex(), task, is_key)
            for opening in self._read()
        )
        if known and replayed:
            return
        if known:
            raise JournalError(
                f"{self._path}: the sum of task {task} was opened before, in this very session, "
                "and the journal does not know of it: the work directory is an older copy. "
                "Nothing is opened a second time; give the session up with --abandon"
            )
        values = {"edits": self._edits, "session": session_id.hex(), "task": task}
        append_line(self._path, json.dumps({**values, "key": True} if is_key else values))

    def _read(self) -> list[Opening]:
        try:
            lines = read_lines(self._path)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self._path}: cannot be read: {error}") from error
        openings = []
        for number, line in enumerate(lines, 1):
            try:
                values = json.loads(line)
                openings.append(
                    Opening(
                        values["edits"],
                        values["session"],
                        values["task"],
                        values.get("key", False),
                    )
                )
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(
                    f"{self._path}: line {number} is damaged; without it nobody can tell which "
                    "sums were opened. Restore the file, or move it away if you know"
                ) from error
        return openings
