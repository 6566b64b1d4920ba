"""Files of sealed records in a party's private directory, durable before a call returns.

A file is a header (magic, salt, key check) and records, each with a length, a check of that length,
and its sealed bytes (`crypto.storage`). What a crash leaves of an append is a prefix of a record,
or zeros where the disk had reserved room; both are told from damage and dropped, since nothing that
depends on that record has left this machine. Everything else that is not as it was written is
refused by name.
"""

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from collabedit.crypto.kdf import SECRET_BYTES
from collabedit.crypto.rng import Randomness
from collabedit.crypto.storage import CHECK_BYTES, OVERHEAD_BYTES, FileKey, record_digest
from collabedit.durable import sync, write_all
from collabedit.errors import InvalidSealError, JournalError, StorageError

MAGIC: Final = b"CEJ1"
HEADER_BYTES: Final = len(MAGIC) + SECRET_BYTES + CHECK_BYTES
LENGTH: Final = struct.Struct("<I4s")
_ADVICE: Final = "give the session up with --abandon, or restore the file"


@dataclass(frozen=True, slots=True)
class StorageKey:
    """The 32 bytes under which a party seals what it keeps, and where they come from.

    Attributes:
        path: of the key.
        key: 32 bytes.
        randomness: draws salts and nonces.
        error: raised for a file that cannot be used.
        advice: what to do then.
    """

    path: Path
    key: bytes = field(repr=False)
    randomness: Randomness = field(repr=False)
    error: type[StorageError] = JournalError
    advice: str = _ADVICE

    def make(self, name: str) -> tuple[FileKey, bytes]:
        """Draw the key of a new file: the key, and the header that the file begins with."""
        salt = self.randomness.random_bytes(SECRET_BYTES)
        key = FileKey(self.key, name=name, salt=salt)
        return key, MAGIC + salt + key.check

    def find(self, name: str, header: bytes, source: Path) -> FileKey:
        """Return the key of an existing file.

        Raises:
            StorageError: `error`: not such a file, or made under another key.
        """
        if len(header) != HEADER_BYTES or not header.startswith(MAGIC):
            raise self.error(f"{source}: is damaged at its beginning; {self.advice}")
        salt, check = header[4 : 4 + SECRET_BYTES], header[4 + SECRET_BYTES :]
        key = FileKey(self.key, name=name, salt=salt)
        if not key.fits(check):
            raise self.error(
                f"{source}: was not written under the key in {self.path}: name the right one with "
                f"--journal-key, or {self.advice}"
            )
        return key


def unwritable(path: Path, error: OSError) -> StorageError:
    """Build the error of a disk that refuses to keep something."""
    return StorageError(
        f"{path}: cannot be written: {error.strerror}; nothing that depends on it was sent. "
        "Make room or restore access, then run the same command again to resume"
    )


def length_check(index: int, previous: bytes, length: int) -> bytes:
    """Return four bytes by which a record's length is told from a damaged one."""
    # Not for secrecy: a damaged length must not look like a record that a crash cut off.
    text = previous + index.to_bytes(8, "little") + length.to_bytes(4, "little")
    return hashlib.sha256(text).digest()[:4]


class RecordFile:
    """An open file of sealed records, at its end. Not for several threads at once."""

    def __init__(
        self, path: Path, descriptor: int, key: FileKey, header: bytes, storage: StorageKey
    ) -> None:
        self.path = path
        self._descriptor = descriptor
        self._key = key
        self._storage = storage
        self._previous = record_digest(header)
        self._index = 0
        self._end = len(header)
        self._failed = False

    @classmethod
    def create(cls, path: Path, storage: StorageKey, *, name: str) -> "RecordFile":
        """Make a file anew, in place of one that may be there.

        Raises:
            StorageError: the disk refuses.
        """
        key, header = storage.make(name)
        descriptor = -1
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            write_all(descriptor, header)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            raise unwritable(path, error) from error
        return cls(path, descriptor, key, header, storage)

    @classmethod
    def open(
        cls, path: Path, storage: StorageKey, *, name: str
    ) -> tuple["RecordFile", tuple[bytes, ...]]:
        """Open a file to append to it, and read what it holds. A torn last record is cut off.

        Raises:
            StorageError: missing, damaged, or of another key (`storage.error`); the disk refuses.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise storage.error(
                f"{path}: cannot be opened: {error.strerror}; {storage.advice}"
            ) from error
        try:
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                size = os.fstat(descriptor).st_size
                header = stream.read(HEADER_BYTES)
                key = storage.find(name, header, path)
                file = cls(path, descriptor, key, header, storage)
                records = tuple(file._read(stream, size))
            if file._end != size:
                os.ftruncate(descriptor, file._end)
                os.fsync(descriptor)
            os.lseek(descriptor, file._end, os.SEEK_SET)
        except OSError as error:
            os.close(descriptor)
            raise unwritable(path, error) from error
        except BaseException:
            os.close(descriptor)
            raise
        return file, records

    def _read(self, stream: BinaryIO, size: int) -> Iterator[bytes]:
        while self._end < size:
            left = size - self._end
            head = stream.read(LENGTH.size)
            if len(head) < LENGTH.size:
                return  # torn within the length
            length, check = LENGTH.unpack(head)
            if check != length_check(self._index, self._previous, length):
                if not any(head) and _is_zero(stream):
                    return  # room that the disk had reserved when it lost power
                raise self._damaged()
            if LENGTH.size + length > left:
                return  # torn within the record
            sealed = stream.read(length)
            try:
                plaintext = self._key.open(sealed, index=self._index, previous=self._previous)
            except InvalidSealError as error:
                raise self._damaged() from error
            self._step(head + sealed)
            yield plaintext

    def _damaged(self) -> StorageError:
        return self._storage.error(
            f"{self.path}: record {self._index} is damaged (byte {self._end}); "
            f"{self._storage.advice}"
        )

    def _step(self, stored: bytes) -> None:
        self._previous = record_digest(stored)
        self._index += 1
        self._end += len(stored)

    def append(self, plaintext: bytes) -> None:
        """Add a record; it is durable once `sync` has returned.

        Raises:
            StorageError: the disk refuses; the record is not part of the file, which takes no more.
        """
        if self._failed:
            raise JournalError(f"{self.path}: takes no more records after a failed write")
        length = len(plaintext) + OVERHEAD_BYTES
        head = LENGTH.pack(length, length_check(self._index, self._previous, length))
        sealed = self._key.seal(
            plaintext,
            index=self._index,
            previous=self._previous,
            randomness=self._storage.randomness,
        )
        try:
            write_all(self._descriptor, head + sealed)
        except OSError as error:
            self._fail()
            raise unwritable(self.path, error) from error
        self._step(head + sealed)

    def _fail(self) -> None:
        self._failed = True
        # A prefix that stays would be dropped on opening; without it nobody has to know.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, self._end)

    def sync(self) -> None:
        """Make everything appended so far durable.

        Raises:
            StorageError: the disk refuses. Whether the last record is there will be seen on
                opening; the caller must not act on it.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self._failed = True
            raise unwritable(self.path, error) from error

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _is_zero(stream: BinaryIO) -> bool:
    while block := stream.read(1 << 20):
        if any(block):
            return False
    return True


def write_sealed(
    path: Path, storage: StorageKey, chunks: Iterable[bytes], *, name: str | None = None
) -> None:
    """Write a whole file of records, durable on return; the empty record marks its end.

    Args:
        path: where.
        storage: under which key.
        chunks: one record each, none of them empty.
        name: that the file will have; None for that of `path`.

    Raises:
        StorageError: the disk refuses; the file may be there in part.
    """
    file = RecordFile.create(path, storage, name=path.name if name is None else name)
    try:
        for chunk in chunks:
            file.append(chunk)
        file.append(b"")
        file.sync()
        sync(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        file.close()


def read_sealed(path: Path, storage: StorageKey, *, name: str | None = None) -> tuple[bytes, ...]:
    """Read a file that `write_sealed` made under the same name.

    Raises:
        StorageError: missing, damaged, or not whole (`storage.error`).
    """
    file, records = RecordFile.open(path, storage, name=path.name if name is None else name)
    file.close()
    if not records or records[-1]:
        raise storage.error(f"{path}: is not whole; {storage.advice}")
    return records[:-1]
