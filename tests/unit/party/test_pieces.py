"""Sealed files that are read piece by piece."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from collabedit.crypto.ring import Ring, to_bytes
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import JournalError, StorageError
from collabedit.party.pieces import (
    SealedFile,
    StoredVector,
    cut,
    open_sealed,
    scratch_file,
    seal_pieces,
    seal_temporarily,
)
from collabedit.party.records import StorageKey

SIZES = (5, 130, 1, 64, 300)
WHOLE = np.random.default_rng(3).bytes(sum(SIZES))


def storage(tmp_path: Path) -> StorageKey:
    return StorageKey(tmp_path / "key", b"k" * 32, SystemRandomness())


def parts() -> Iterator[bytes]:
    start = 0
    for size in SIZES:
        yield WHOLE[start : start + size]
        start += size


def test_every_piece_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "pieces"
    digest = seal_pieces(path, storage(tmp_path), parts())
    found = open_sealed(path, storage(tmp_path), digest, what="vector")
    assert found.size == len(WHOLE)
    for start in range(0, len(WHOLE), 7):
        for stop in (start, start + 1, start + 131, len(WHOLE)):
            stop = min(stop, len(WHOLE))  # noqa: PLW2901  the last pieces are shorter
            assert found.read(start, stop) == WHOLE[start:stop]
    assert WHOLE not in path.read_bytes()


def test_a_vector_is_sliced_like_an_array(tmp_path: Path) -> None:
    vector = np.random.default_rng(4).integers(0, 2**64, 1000, dtype=np.uint64)
    seal_pieces(tmp_path / "pieces", storage(tmp_path), cut(to_bytes(vector)))
    stored = StoredVector(SealedFile(tmp_path / "pieces", storage(tmp_path)), Ring.Z64)
    for bounds in (slice(0, 1000), slice(3, 4), slice(990, 1000)):
        np.testing.assert_array_equal(stored[bounds], vector[bounds])


def test_damage_since_it_was_opened_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "pieces"
    seal_pieces(path, storage(tmp_path), parts())
    found = SealedFile(path, storage(tmp_path))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalError, match=r"pieces: record 3 is damaged.*--abandon"):
        found.read(0, found.size)


@pytest.mark.parametrize("place", range(0, 760, 3))
def test_damage_anywhere_is_refused_when_it_is_opened(place: int, tmp_path: Path) -> None:
    path = tmp_path / "pieces"
    seal_pieces(path, storage(tmp_path), parts())
    data = bytearray(path.read_bytes())
    assert len(data) > 750
    data[place % len(data)] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalError, match="pieces: "):
        SealedFile(path, storage(tmp_path))


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pieces"
    seal_pieces(path, storage(tmp_path), parts())
    data = path.read_bytes()
    for size in range(0, len(data), 11):
        path.write_bytes(data[:size])
        with pytest.raises(JournalError, match="pieces: "):
            SealedFile(path, storage(tmp_path))


def test_records_of_one_size_are_not_exchanged(tmp_path: Path) -> None:
    path = tmp_path / "pieces"
    seal_pieces(path, storage(tmp_path), [bytes(100), bytes([1]) * 100, bytes([2]) * 100])
    data, record = path.read_bytes(), 8 + 28 + 100
    first = len(data) - 36 - 3 * record
    exchanged = (
        data[:first]
        + data[first + record : first + 2 * record]
        + data[first : first + record]
        + data[first + 2 * record :]
    )
    path.write_bytes(exchanged)
    with pytest.raises(JournalError, match="is damaged"):
        SealedFile(path, storage(tmp_path))


def test_what_is_kept_for_this_process_alone_leaves_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = seal_temporarily(parts())
    assert kept.read(0, kept.size) == WHOLE
    with scratch_file(tmp_path) as scratch:
        scratch.write(WHOLE)
        assert not list(tmp_path.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(StorageError, match="cannot be written"):
        seal_temporarily(parts())
    with pytest.raises(StorageError, match="cannot be written"):
        scratch_file(tmp_path / "missing")
