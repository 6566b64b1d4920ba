"""What a party keeps for a restart: the inputs of its state machine, never its states (ADR 0009).

The machine of a task is deterministic, given the seed from which it draws and the inputs that it
accepted. So these are written down, each before anything that follows from it leaves this machine,
and a restart comes to the same state and the same answers, byte for byte: it cannot answer twice
differently. Everything is sealed under a key in a file of its own.

    WORK/journal.key               32 random bytes, or wherever --journal-key says
    WORK/journal/session.journal   records of `party.entries`
    WORK/journal/task-K.vector     contribution to the task that runs, or what it is made of
    WORK/journal/task-K.encoded    encoded contribution, where it is made during the task
    WORK/journal/task-K.opened     integers of the encrypted sum that this party opened
    WORK/journal/task-K.update     update of a task, as it was fetched
    WORK/journal/lock              held while a process takes part

When a task completes, the journal is written anew without its seed and inputs, and the vectors are
deleted. `end` deletes everything but the key. Deleting is what the file system makes of it: see
THREAT_MODEL.md.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable
from io import BufferedRandom
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from collabedit.crypto.kdf import SECRET_BYTES
from collabedit.crypto.rng import Randomness
from collabedit.crypto.signing import read_private, write_private
from collabedit.durable import sync
from collabedit.errors import JournalError, KeyFileError
from collabedit.ids import PartyId, TaskIndex
from collabedit.party.entries import (
    ContributionMade,
    EditsCounted,
    Entry,
    Input,
    Made,
    OpeningBegun,
    OpeningMade,
    OpenSession,
    SessionStarted,
    TaskCompleted,
    TaskStarted,
    UpdateAccepted,
    decode_entry,
    encode_entry,
    fold_entries,
)
from collabedit.party.pieces import SealedFile, cut, open_sealed, scratch_file, seal_pieces
from collabedit.party.records import (
    RecordFile,
    StorageKey,
    read_sealed,
    unwritable,
    write_sealed,
)

FOLDER: Final = "journal"
KEY_FILE: Final = "journal.key"
KEY_OPTION: Final = "--journal-key"
ABANDON_OPTION: Final = "--abandon"
_SESSION: Final = "session.journal"
_NEW: Final = "session.journal.new"
_LOCK: Final = "lock"
_NO_INPUTS: Final = bytes(32)


class PartyJournal:
    """The journal of one work directory, locked while it is open. Not for several threads at once.

    Args:
        work: the party's private directory.
        randomness: the system's; draws keys, salts and nonces.
        key_file: 32 bytes, mode 0600; made if there is none and none is needed yet.
        inputs: 32 bytes that stand for what the party brings (edits).
        abandon: delete an unfinished session, whether or not it can be read.

    Attributes:
        unfinished: what is to be resumed; None if there is nothing.

    Raises:
        JournalError: another process has the directory, the journal is damaged, its key is missing
            or another one, it was begun with other inputs, or the disk refuses.
        KeyFileError: the key file is unusable.
    """

    def __init__(
        self,
        work: Path,
        *,
        randomness: Randomness,
        key_file: Path | None = None,
        inputs: bytes = _NO_INPUTS,
        abandon: bool = False,
    ) -> None:
        self._folder = work / FOLDER
        self._inputs = inputs
        self._file: RecordFile | None = None
        self.unfinished: OpenSession | None = None
        self._lock = _take_lock(self._folder)
        try:
            if abandon:
                self._delete_files()
            exists = (self._folder / _SESSION).exists()
            path = work / KEY_FILE if key_file is None else key_file
            key = _read_key(path) if exists else _find_key(path, randomness)
            self._storage = StorageKey(path, key, randomness)
            if exists:
                self._resume()
            self._tidy()
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"PartyJournal({self._folder})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _resume(self) -> None:
        path = self._folder / _SESSION
        self._file, records = RecordFile.open(path, self._storage, name=_SESSION)
        try:
            session = fold_entries(map(decode_entry, records))
        except ValueError as error:
            raise JournalError(
                f"{path}: was written by another version of this program: resume with that one, "
                f"or give the session up with {ABANDON_OPTION}"
            ) from error
        if session.start.inputs != self._inputs:
            raise JournalError(
                f"{path}: the unfinished session {session.start.session_id.hex()[:16]} was begun "
                f"with other edits: resume with those, or give it up with {ABANDON_OPTION}"
            )
        self.unfinished = session

    def _tidy(self) -> None:
        # What a crash left between writing a file and the record that says so, or the reverse.
        session = self.unfinished
        wanted = {_LOCK}
        if session is not None:
            wanted |= {_SESSION, *(_update_name(entry.task) for entry in session.completed)}
            if session.task is not None:
                names = (_vector_name, _encoded_name, _opened_name, _update_name)
                wanted |= {name(session.task.task) for name in names}
        self._remove(self._names() - wanted)

    def check(self, plan_digest: bytes, party: PartyId) -> None:
        """Refuse to resume a session of another plan or party.

        Raises:
            JournalError: it is one.
        """
        if self.unfinished is None:
            return
        start = self.unfinished.start
        if (start.plan_digest, start.party) != (plan_digest, party):
            raise JournalError(
                f"{self._folder}: holds an unfinished session of another plan or party, "
                f"{start.session_id.hex()[:16]}: resume it with its own plan and name, use another "
                f"--work directory, or give it up with {ABANDON_OPTION}"
            )

    def begin(self, session_id: bytes, plan_digest: bytes, party: PartyId) -> None:
        """Start the journal of a session, in place of another one.

        Raises:
            StorageError: the disk refuses.
        """
        self.end()
        session = OpenSession(SessionStarted(session_id, plan_digest, self._inputs, party))
        self._rewrite(session)
        self.unfinished = session

    def start_task(self, entry: TaskStarted, brought: bytes | memoryview) -> None:
        """Store what the party brings, then that the task begins. Durable on return.

        Raises:
            StorageError: the disk refuses.
        """
        write_sealed(self._folder / _vector_name(entry.task), self._storage, cut(brought))
        self._append(entry)

    def accept(self, entry: Input) -> None:
        """Store what the machine accepted. Durable on return.

        Raises:
            StorageError: the disk refuses; the answer must not leave.
        """
        self._append(entry)

    def fetched(self, task: TaskIndex, bundle: bytes, entry: UpdateAccepted) -> None:
        """Store a fetched update, then that it was accepted. Durable on return.

        Raises:
            StorageError: the disk refuses.
        """
        write_sealed(self._folder / _update_name(task), self._storage, [bundle])
        self._append(entry)

    def complete_task(self, entry: TaskCompleted, counted: EditsCounted | None = None) -> None:
        """Forget a task but for its update and what is given here. Durable on return.

        Raises:
            StorageError: the disk refuses.
        """
        session = self._session()
        if counted is not None:
            session = session.with_entry(counted)
        session = session.with_entry(entry)
        self._rewrite(session)
        self.unfinished = session
        names = (_vector_name, _encoded_name, _opened_name)
        self._remove([name(entry.task) for name in names])

    def encoded(self, task: TaskIndex, make: Callable[[], Iterable[bytes]]) -> SealedFile:
        """Return the contribution to a task, made once and durable before it is returned.

        Numbers that are computed twice may differ in their last bits, on another number of threads
        already, and one task must never mask two vectors; ciphertexts differ anyway.

        Args:
            task: which.
            make: makes it, piece by piece; a piece that is written is not kept in memory.

        Raises:
            JournalError: what was made is missing or damaged.
            StorageError: the disk refuses.
        """
        path = self._folder / _encoded_name(task)
        if self._session().made is None:
            self._append(ContributionMade(seal_pieces(path, self._storage, make())))
        made = self._session().made
        assert made is not None  # noqa: S101  for mypy
        what = "contribution that was made for this task"
        return open_sealed(path, self._storage, made.digest, what=what)

    def begin_opening(self, sum_digest: bytes) -> bool:
        """Fix which sum the task's key opens; tell whether it was begun before. Durable on return.

        Raises:
            JournalError: the opening of another sum was begun before.
            StorageError: the disk refuses; nothing may be opened.
        """
        begun = self._session().begun
        if begun is None:
            self._append(OpeningBegun(sum_digest))
            return False
        if begun.digest != sum_digest:
            raise JournalError(
                f"{self._folder}: the key of this task opens another sum; {self._storage.advice}"
            )
        return True

    def opened(self, task: TaskIndex, make: Callable[[], Iterable[bytes]]) -> SealedFile:
        """Return the opening of a task's sum, made once and durable before it is returned.

        Two openings of one sum would be flooded twice. `begin_opening` comes before.

        Args:
            task: which.
            make: makes it, piece by piece.

        Raises:
            JournalError: what was made is missing or damaged.
            StorageError: the disk refuses.
        """
        path = self._folder / _opened_name(task)
        if self._session().opened is None:
            self._append(OpeningMade(seal_pieces(path, self._storage, make())))
        made = self._session().opened
        assert made is not None  # noqa: S101  for mypy
        what = "one opening that was made for this task"
        return open_sealed(path, self._storage, made.digest, what=what)

    def scratch(self) -> BufferedRandom:
        """Return an empty file beside the journal that has no name, and ends with its last use.

        Raises:
            StorageError: the disk refuses.
        """
        return scratch_file(self._folder)

    def brought(self) -> bytes:
        """Return what the party brought to the task that runs, bit by bit as it was stored.

        Raises:
            JournalError: it is missing or damaged.
        """
        task = self._session().task
        assert task is not None  # noqa: S101  the caller asks within a task
        path = self._folder / _vector_name(task.task)
        data = b"".join(read_sealed(path, self._storage))
        if hashlib.sha256(data).digest() != task.vector:
            raise JournalError(f"{path}: is not the contribution that this task began with")
        return data

    def update(self, task: TaskIndex, digest: bytes) -> bytes:
        """Return the stored update of a task.

        Raises:
            JournalError: it is missing or damaged.
        """
        path = self._folder / _update_name(task)
        data = b"".join(read_sealed(path, self._storage))
        if hashlib.sha256(data).digest() != digest:
            raise JournalError(f"{path}: is not the update that this session verified")
        return data

    def end(self) -> None:
        """Delete everything that is kept of the session; nothing can be resumed then.

        Raises:
            StorageError: the disk refuses.
        """
        if self._file is not None:
            self._file.close()
            self._file = None
        self.unfinished = None
        self._delete_files()

    def close(self) -> None:
        """Let go of files and lock; what is unfinished stays. Closing twice is harmless."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _session(self) -> OpenSession:
        assert self.unfinished is not None  # noqa: S101  the caller began one
        return self.unfinished

    def _append(self, entry: TaskStarted | Made | Input) -> None:
        assert self._file is not None  # noqa: S101  the caller began a session
        session = self._session().with_entry(entry)
        self._file.append(encode_entry(entry))
        self._file.sync()
        self.unfinished = session

    def _rewrite(self, session: OpenSession) -> None:
        path, fresh = self._folder / _SESSION, self._folder / _NEW
        file = RecordFile.create(fresh, self._storage, name=_SESSION)
        try:
            counted = () if session.counted is None else (session.counted,)
            entries: list[Entry] = [session.start, *counted, *session.completed]
            for entry in entries:
                file.append(encode_entry(entry))
            file.sync()
            fresh.replace(path)
            sync(self._folder)
        except OSError as error:
            file.close()
            raise unwritable(path, error) from error
        except BaseException:
            file.close()
            raise
        if self._file is not None:
            self._file.close()
        file.path, self._file = path, file

    def _delete_files(self) -> None:
        # The journal first: without it the other files mean nothing, with it they must be there.
        self._remove([_SESSION])
        self._remove(self._names() - {_LOCK})

    def _names(self) -> set[str]:
        try:
            return {path.name for path in self._folder.iterdir()}
        except OSError as error:
            raise JournalError(f"{self._folder}: cannot be read: {error.strerror}") from error

    def _remove(self, names: Iterable[str]) -> None:
        try:
            removed = [name for name in names if _unlink(self._folder / name)]
            if removed:
                sync(self._folder)
        except OSError as error:
            raise unwritable(self._folder, error) from error


def _vector_name(task: TaskIndex) -> str:
    return f"task-{task}.vector"


def _encoded_name(task: TaskIndex) -> str:
    return f"task-{task}.encoded"


def _opened_name(task: TaskIndex) -> str:
    return f"task-{task}.opened"


def _update_name(task: TaskIndex) -> str:
    return f"task-{task}.update"


def _unlink(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        return True
    return False


def _take_lock(folder: Path) -> int:
    descriptor = -1
    try:
        if not folder.is_dir():
            folder.mkdir(mode=0o700)
            sync(folder.parent)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise JournalError(
            f"{folder.parent}: another process takes part with this directory: wait for its end, "
            "or use another --work directory"
        ) from error
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        raise unwritable(folder, error) from error
    return descriptor


def _find_key(path: Path, randomness: Randomness) -> bytes:
    if not path.exists():
        write_private(path, randomness.random_bytes(SECRET_BYTES))
        with contextlib.suppress(OSError):
            sync(path.parent)
    return _read_key(path)


def _read_key(path: Path) -> bytes:
    try:
        key = read_private(path)
    except KeyFileError as error:
        raise KeyFileError(
            f"{error}; without its key the journal cannot be read: name it with {KEY_OPTION}, or "
            f"give an unfinished session up with {ABANDON_OPTION}"
        ) from error
    if len(key) != SECRET_BYTES:
        raise KeyFileError(
            f"{path}: is no journal key: it has {len(key)} bytes, not {SECRET_BYTES}; name another "
            f"one with {KEY_OPTION}, or move it away if nothing is unfinished"
        )
    return key
