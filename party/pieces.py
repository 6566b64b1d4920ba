"""Bytes longer than memory: sealed on disk piece by piece, and read back piece by piece.

Ciphertexts are 16 bytes a number, and made once; so they go from the machine that makes them into
the file that a restart would need anyway, and from there to the network.
"""

import hashlib
import os
import tempfile
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import Final

from collabedit.crypto.kdf import SECRET_BYTES
from collabedit.crypto.ring import Ring, RingArray, from_bytes
from collabedit.crypto.rng import SystemRandomness
from collabedit.crypto.storage import record_digest
from collabedit.errors import InvalidSealError, StorageError
from collabedit.party.records import (
    HEADER_BYTES,
    LENGTH,
    StorageKey,
    length_check,
    unwritable,
    write_sealed,
)

_PIECE_BYTES: Final = 1 << 20


def cut(data: bytes | memoryview) -> Iterator[bytes]:
    """Cut bytes into pieces of the size of a record."""
    for start in range(0, len(data), _PIECE_BYTES):
        yield bytes(data[start : start + _PIECE_BYTES])


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a record is: its plaintext in the whole, its sealed bytes in the file."""

    start: int
    offset: int
    length: int
    previous: bytes


class SealedFile:
    """A file that `write_sealed` made, read piece by piece: a record at a time is in memory.

    It is read through once when it is opened, and each record is authenticated again when it is
    asked for. The file may lose its name meanwhile.

    Args:
        path: where.
        storage: under which key.

    Attributes:
        size: bytes of the whole.
        digest: SHA-256 of them.

    Raises:
        StorageError: missing, damaged, not whole, or of another key (`storage.error`).
    """

    def __init__(self, path: Path, storage: StorageKey) -> None:
        self.path = path
        self._storage = storage
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._refusal(f"cannot be opened: {error.strerror}") from error
        weakref.finalize(self, os.close, self._descriptor)
        header = self._pread(HEADER_BYTES, 0)
        self._key = storage.find(path.name, header, path)
        self._places: list[_Place] = []
        self._last: tuple[int, bytes] = (-1, b"")
        digest, previous, offset = hashlib.sha256(), record_digest(header), len(header)
        self.size, is_whole = 0, False
        while not is_whole:
            head = self._pread(LENGTH.size, offset)
            if len(head) < LENGTH.size:
                raise self._refusal("is not whole")
            length, check = LENGTH.unpack(head)
            if check != length_check(len(self._places), previous, length):
                raise self._refusal(f"record {len(self._places)} is damaged")
            place = _Place(self.size, offset + LENGTH.size, length, previous)
            sealed = self._pread(length, place.offset)
            plaintext = self._unseal(len(self._places), place, sealed)
            digest.update(plaintext)
            self._places.append(place)
            self.size += len(plaintext)
            offset, previous = place.offset + length, record_digest(head + sealed)
            is_whole = not plaintext
        self.digest = digest.digest()

    def read(self, start: int, stop: int) -> bytes:
        """Return part of the whole.

        Raises:
            StorageError: it was damaged since the file was opened.
        """
        parts = []
        index = bisect_right(self._places, start, key=lambda place: place.start) - 1
        while start < stop:
            place, plaintext = self._places[index], self._record(index)
            found = plaintext[start - place.start : stop - place.start]
            parts.append(found)
            start += len(found)
            index += 1
        return b"".join(parts)

    def _record(self, index: int) -> bytes:
        # The next piece often begins in the record in which the last one ended.
        held, plaintext = self._last
        if held != index:
            place = self._places[index]
            plaintext = self._unseal(index, place, self._pread(place.length, place.offset))
            self._last = index, plaintext
        return plaintext

    def _unseal(self, index: int, place: _Place, sealed: bytes) -> bytes:
        try:
            return self._key.open(sealed, index=index, previous=place.previous)
        except InvalidSealError as error:
            raise self._refusal(f"record {index} is damaged") from error

    def _pread(self, size: int, offset: int) -> bytes:
        try:
            return os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise self._refusal(f"cannot be read: {error.strerror}") from error

    def _refusal(self, detail: str) -> StorageError:
        return self._storage.error(f"{self.path}: {detail}; {self._storage.advice}")


def seal_pieces(path: Path, storage: StorageKey, pieces: Iterable[bytes]) -> bytes:
    """Write a sealed file, durable on return; return the SHA-256 of what is in it.

    Args:
        path: where.
        storage: under which key.
        pieces: one record each, none of them empty; none is kept in memory.

    Raises:
        StorageError: the disk refuses; the file may be there in part.
    """
    digest = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for piece in pieces:
            digest.update(piece)
            yield piece

    write_sealed(path, storage, hashed())
    return digest.digest()


def open_sealed(path: Path, storage: StorageKey, digest: bytes, *, what: str) -> SealedFile:
    """Open a file that `seal_pieces` wrote.

    Raises:
        StorageError: see `SealedFile`; or it holds something else, that is, not the `what`.
    """
    found = SealedFile(path, storage)
    if found.digest != digest:
        raise storage.error(f"{path}: is not the {what}; {storage.advice}")
    return found


def seal_temporarily(pieces: Iterable[bytes]) -> SealedFile:
    """Keep pieces outside of memory, in a nameless file under a key that ends with the process.

    Raises:
        StorageError: the disk refuses.
    """
    randomness = SystemRandomness()
    key = randomness.random_bytes(SECRET_BYTES)
    try:
        with tempfile.TemporaryDirectory(prefix="collabedit-") as folder:
            path = Path(folder) / "pieces"
            storage = StorageKey(path, key, randomness, StorageError, "begin anew")
            seal_pieces(path, storage, pieces)
            return SealedFile(path, storage)
    except OSError as error:
        raise unwritable(Path(tempfile.gettempdir()), error) from error


def scratch_file(folder: Path | None) -> BufferedRandom:
    """Return an empty file that has no name, and ends with its last use.

    Args:
        folder: on whose disk; None for the system's temporary one.

    Raises:
        StorageError: the disk refuses.
    """
    try:
        return tempfile.TemporaryFile(dir=folder)
    except OSError as error:
        raise unwritable(folder or Path(tempfile.gettempdir()), error) from error


class StoredVector:
    """A vector of ring elements in a sealed file; slices of it are read when they are asked for.

    Args:
        file: its wire form.
        ring: of its elements.
    """

    def __init__(self, file: SealedFile, ring: Ring) -> None:
        self._file = file
        self._ring = ring

    def __getitem__(self, bounds: slice) -> RingArray:
        """Return the elements from `bounds.start` up to `bounds.stop`, read-only.

        Raises:
            StorageError: the file was damaged.
        """
        size = self._ring.element_bytes
        data = self._file.read(bounds.start * size, bounds.stop * size)
        return from_bytes(self._ring, data)
