"""A party's past edits, kept for later sessions: sealed on disk, whole or not at all.

    WORK/memory.sealed         one record for each session: its digest, its plan's name, the edits
    WORK/memory.sealed.lock    held while the file is being replaced

It is sealed under the journal's key (`crypto.storage`), by default `WORK/journal.key`: who has both
has the texts of all past edits. A change is a new file that takes the old one's place once it is on
disk, so a crash leaves one of the two. A session's edits are written after it completed and while
the journal still has it; a crash between the two is mended by resuming.

Which past edits a session brings is decided anew each time (`recall`): those of the sessions that
the plan continues, newest first, without those whose subject and relation a newer edit has: an edit
of this party, or, where the plan counts overlap, of anybody.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from collabedit.crypto.kdf import SECRET_BYTES
from collabedit.crypto.rng import Randomness
from collabedit.crypto.signing import read_private
from collabedit.durable import sync
from collabedit.errors import KeyFileError, MemoryFileError
from collabedit.party.edits import Edit
from collabedit.party.items import edit_item, normalise
from collabedit.party.journal import KEY_OPTION
from collabedit.party.records import StorageKey, read_sealed, unwritable, write_sealed

FILE: Final = "memory.sealed"
OPTION: Final = "--memory"
_ADVICE: Final = f"restore the file, or name another one with {OPTION}"


@dataclass(frozen=True, slots=True)
class RememberedSession:
    """What a party brought to one session.

    Attributes:
        session: digest of the session, as plans write it.
        plan: its plan's name, for people.
        edits: that it left in the model, in the order of their file.
        contested: `edit_item` topics, in hex, of past edits that edits of that session, of whatever
            party, were about: what this party wrote before does not hold any more.
    """

    session: str
    plan: str
    edits: tuple[Edit, ...] = field(repr=False)
    contested: tuple[str, ...] = field(default=(), repr=False)


class MemoryFile:
    """The past edits of one party. Processes may take turns at one file.

    Args:
        path: of the file; it need not exist.
        key_file: the journal's key, 32 bytes.
        randomness: the system's; draws salts and nonces.
    """

    def __init__(self, path: Path, *, key_file: Path, randomness: Randomness) -> None:
        self.path = path
        self._key_file = key_file
        self._randomness = randomness

    def __repr__(self) -> str:
        return f"MemoryFile({self.path})"

    def sessions(self) -> tuple[RememberedSession, ...]:
        """Read what is remembered, oldest first; nothing if there is no file.

        Raises:
            MemoryFileError: the file is damaged or sealed under another key.
            KeyFileError: the key is missing or unusable.
        """
        if not self.path.exists():
            return ()
        try:
            return tuple(map(_decode, read_sealed(self.path, self._storage(), name=FILE)))
        except (ValueError, KeyError, TypeError) as error:
            raise MemoryFileError(
                f"{self.path}: was written by another version of this program: use that one, or "
                f"name another file with {OPTION}"
            ) from error

    def remember(self, session: RememberedSession) -> None:
        """Add a session, in place of what is there of it. Durable on return.

        Raises:
            StorageError: the disk refuses, or `sessions` would; the old file stays.
        """
        with self._locked():
            others = [old for old in self.sessions() if old.session != session.session]
            self._replace([*others, session])

    def forget(self, session: str) -> RememberedSession:
        """Remove a session and return it. Durable on return.

        Raises:
            MemoryFileError: it is not there, or `sessions` would raise.
            StorageError: the disk refuses; the old file stays.
        """
        with self._locked():
            known = self.sessions()
            for old in known:
                if old.session == session:
                    self._replace([other for other in known if other is not old])
                    return old
        raise MemoryFileError(f"{self.path}: remembers nothing of session {session}")

    def _replace(self, sessions: Iterable[RememberedSession]) -> None:
        fresh = self.path.with_name(f"{self.path.name}.new")
        # The name under the seal is fixed: who moves the file need not unseal it.
        write_sealed(fresh, self._storage(), map(_encode, sessions), name=FILE)
        try:
            fresh.replace(self.path)
            sync(self.path.parent)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _storage(self) -> StorageKey:
        try:
            key = read_private(self._key_file)
        except KeyFileError as error:
            raise KeyFileError(
                f"{error}; without the journal's key {self.path} cannot be read: name the key with "
                f"{KEY_OPTION}"
            ) from error
        if len(key) != SECRET_BYTES:
            raise KeyFileError(
                f"{self._key_file}: is no journal key: it has {len(key)} bytes, not {SECRET_BYTES}"
            )
        return StorageKey(
            self._key_file, key, self._randomness, error=MemoryFileError, advice=_ADVICE
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = -1
        try:
            lock = self.path.with_name(f"{self.path.name}.lock")
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            raise unwritable(self.path, error) from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _encode(session: RememberedSession) -> bytes:
    values = {
        "session": session.session,
        "plan": session.plan,
        "edits": [asdict(edit) for edit in session.edits],
        "contested": session.contested,
    }
    return json.dumps(values, ensure_ascii=True).encode("ascii")


def _decode(record: bytes) -> RememberedSession:
    values = json.loads(record)
    return RememberedSession(
        str(values["session"]),
        str(values["plan"]),
        tuple(map(_edit, values["edits"])),
        tuple(map(str, values["contested"])),
    )


def _edit(values: Any) -> Edit:  # noqa: ANN401  JSON is untyped
    if not isinstance(values, dict) or values.keys() != {known.name for known in fields(Edit)}:
        raise ValueError("an edit has other fields")
    return Edit(
        **{
            **values,
            "paraphrase_prompts": tuple(values["paraphrase_prompts"]),
            "neighborhood": tuple((prompt, answer) for prompt, answer in values["neighborhood"]),
            "generation_prompts": tuple(values["generation_prompts"]),
        }
    )


@dataclass(frozen=True, slots=True)
class Recollection:
    """Which past edits a session brings.

    Attributes:
        edits: newest first.
        superseded: how many are not brought since a newer edit has their subject and relation.
        left_out: how many are not brought for want of room, the oldest ones.
    """

    edits: tuple[Edit, ...] = field(repr=False)
    superseded: int
    left_out: int


def check_history(
    source: Path, sessions: Sequence[RememberedSession], history: Iterable[str]
) -> None:
    """Refuse a memory that holds more than the history of a plan.

    Edits of another history are not in the model: to keep their keys as they are would keep the
    wrong thing.

    Args:
        source: the file, for the message.
        sessions: what is remembered.
        history: sessions that the plan continues, and the one that is being resumed.

    Raises:
        MemoryFileError: names the first session that is not part of it.
    """
    known = set(history)
    for remembered in sessions:
        if remembered.session not in known:
            raise MemoryFileError(
                f"{source}: remembers session {remembered.session} of plan {remembered.plan!r}, "
                "which the plan does not continue: agree on a plan that does, name another file "
                f"with {OPTION}, or drop it with `party memory forget`"
            )


def recall(
    sessions: Sequence[RememberedSession],
    *,
    history: Iterable[str],
    new: Sequence[Edit],
    limit: int,
    held: Sequence[Edit] = (),
) -> Recollection:
    """Choose the past edits that a session brings.

    Args:
        sessions: what is remembered, oldest first.
        history: sessions that count.
        new: the party's edits in this session, `held` ones included.
        limit: `memory.max_edits` of the plan.
        held: of `new`, those that the model satisfies already; they come first.
    """
    known = set(history)
    topics = {topic for edit in new for topic in _topics(edit)}
    contested: set[str] = set()
    current: list[Edit] = list(held)
    superseded = 0
    for remembered in reversed(sessions):
        if remembered.session not in known:
            continue
        for edit in remembered.edits:
            own = _topics(edit)
            if topics.isdisjoint(own) and contested_topic(edit) not in contested:
                current.append(edit)
            else:
                superseded += 1
            topics |= own
        contested.update(remembered.contested)
    return Recollection(tuple(current[:limit]), superseded, max(len(current) - limit, 0))


def contested_topic(edit: Edit) -> str:
    """Return what `RememberedSession.contested` says of an edit."""
    return edit_item(edit).topic.hex()


def _topics(edit: Edit) -> set[tuple[str, str, str]]:
    """What an edit is about. Two edits are about the same if these meet.

    The relation is known by its id and by the prompt's wording, as far as there is an id.
    """
    subject = normalise(edit.subject)
    topics = {(subject, "prompt", normalise(edit.prompt))}
    if edit.relation is not None:
        topics.add((subject, "id", normalise(edit.relation)))
    return topics
