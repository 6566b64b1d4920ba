"""What is stored is what was acknowledged, or nothing is summed."""

from pathlib import Path

import numpy as np
import pytest

from collabedit.aggregator.tiles import RESENDS, TileStore
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.masking import SignedMask, mask_tile
from collabedit.crypto.ring import Ring, RingArray, to_bytes
from collabedit.errors import (
    DamagedUploadError,
    MalformedMessageError,
    StorageError,
    UnexpectedMessageError,
)
from collabedit.exchange import Tile, TileLayout, decode_frame, encode_frame, tiles_root
from collabedit.ids import PartyId

LAYOUT = TileLayout(elements=20, element_bytes=8, per_tile=8)
ONE, TWO = PartyId(1), PartyId(2)


def tile(index: int, payload: bytes | None = None) -> Tile:
    made = bytes([index + 1]) * LAYOUT.tile_bytes(index) if payload is None else payload
    return decode_frame(encode_frame(index, made), layout=LAYOUT)


def fill(store: TileStore, party: PartyId, vector: RingArray) -> None:
    for index in range(LAYOUT.tiles):
        store.put(party, tile(index, bytes(to_bytes(vector[LAYOUT.bounds(index)]))))
    store.settle(party)


def vector(seed: int) -> RingArray:
    return np.random.default_rng(seed).integers(0, 2**64, size=20, dtype=np.uint64)


@pytest.fixture
def store(tmp_path: Path) -> TileStore:
    return TileStore(tmp_path / "spool" / "task-0", LAYOUT)


def test_tiles_in_any_order_give_the_root_and_the_sum(store: TileStore) -> None:
    one, two = vector(1), vector(2)
    for index in (2, 0, 1):
        store.put(ONE, tile(index, bytes(to_bytes(one[LAYOUT.bounds(index)]))))
    fill(store, TWO, two)
    store.settle(ONE)
    digests = [tile(i, bytes(to_bytes(one[LAYOUT.bounds(i)]))).digest for i in range(3)]
    assert store.root(ONE) == tiles_root(digests)
    total = store.open_sum([TWO, ONE], ring=Ring.Z64, masks=())
    np.testing.assert_array_equal(total, one + two)


def test_only_the_survivors_are_summed(store: TileStore) -> None:
    fill(store, ONE, vector(1))
    fill(store, TWO, vector(2))
    total = store.open_sum([TWO], ring=Ring.Z64, masks=())
    np.testing.assert_array_equal(total, vector(2))


def test_masks_come_off_tile_by_tile(store: TileStore) -> None:
    masks = (SignedMask(1, Keystream(bytes(32))), SignedMask(-1, Keystream(b"k" * 32)))
    masked = vector(1)
    for index in range(LAYOUT.tiles):
        mask_tile(masked[LAYOUT.bounds(index)], tile_index=index, masks=masks)
    fill(store, ONE, masked)
    np.testing.assert_array_equal(store.open_sum([ONE], ring=Ring.Z64, masks=masks), vector(1))


def test_the_same_tile_again_is_ignored(store: TileStore) -> None:
    fill(store, ONE, vector(1))
    root = store.root(ONE)
    fill(store, ONE, vector(1))
    assert store.root(ONE) == root


def test_other_bytes_for_a_stored_tile_are_refused_and_the_first_stay(store: TileStore) -> None:
    fill(store, ONE, vector(1))
    root = store.root(ONE)
    with pytest.raises(MalformedMessageError, match="tile 1 was sent before"):
        store.put(ONE, tile(1))
    assert store.root(ONE) == root
    np.testing.assert_array_equal(store.open_sum([ONE], ring=Ring.Z64, masks=()), vector(1))


@pytest.mark.parametrize("stored", [[], [0], [0, 2], [1, 2]])
def test_an_upload_with_gaps_has_no_root(stored: list[int], store: TileStore) -> None:
    for index in stored:
        store.put(ONE, tile(index))
    assert store.root(ONE) is None


def test_parties_do_not_share_tiles(store: TileStore) -> None:
    fill(store, ONE, vector(1))
    assert store.root(TWO) is None


def test_spool_files_are_the_owners_alone(store: TileStore, tmp_path: Path) -> None:
    store.put(ONE, tile(0))
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_directory_that_is_a_file_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("in the way")
    store = TileStore(tmp_path / "spool" / "task-0", LAYOUT)
    with pytest.raises(StorageError, match="cannot store a tile"):
        store.put(ONE, tile(0))
    assert store.root(ONE) is None


def test_a_directory_that_vanishes_is_a_disk_error_not_a_hole(
    store: TileStore, tmp_path: Path
) -> None:
    store.put(ONE, tile(0))
    for path in (tmp_path / "spool" / "task-0").iterdir():
        path.unlink()
    with pytest.raises(StorageError, match="cannot store a tile"):
        store.put(ONE, tile(1))
    assert store.root(ONE) is None


def test_a_stale_file_of_an_earlier_run_is_not_kept(tmp_path: Path) -> None:
    stale = tmp_path / "party-1.tiles"
    stale.write_bytes(b"\xff" * 1000)
    store = TileStore(tmp_path, LAYOUT)
    fill(store, ONE, vector(1))
    assert stale.stat().st_size == 160
    np.testing.assert_array_equal(store.open_sum([ONE], ring=Ring.Z64, masks=()), vector(1))


@pytest.mark.parametrize("damage", ["gone", "short", "empty"])
def test_a_damaged_contribution_is_a_disk_error(
    damage: str, store: TileStore, tmp_path: Path
) -> None:
    fill(store, ONE, vector(1))
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 100 if damage == "short" else 0])
    with pytest.raises(StorageError, match="gone or damaged"):
        store.open_sum([ONE], ring=Ring.Z64, masks=())


def test_a_full_disk_is_an_error(store: TileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.pwrite", lambda _file, data, _offset: len(data) - 1)
    with pytest.raises(StorageError, match="disk full"):
        store.put(ONE, tile(0))
    monkeypatch.undo()
    store.put(ONE, tile(0))


def test_a_deleted_store_takes_no_tile_and_leaves_no_file(store: TileStore, tmp_path: Path) -> None:
    fill(store, ONE, vector(1))
    store.delete()
    store.delete()
    for party in (ONE, TWO):
        with pytest.raises(UnexpectedMessageError, match="over"):
            store.put(party, tile(0))
        assert store.root(party) is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_tile_is_not_taken_for_ever(store: TileStore) -> None:
    for _ in range(RESENDS * LAYOUT.tiles):
        store.put(ONE, tile(0))
    with pytest.raises(UnexpectedMessageError, match="64 times over"):
        store.put(ONE, tile(1))
    store.put(TWO, tile(1))


def test_a_piece_is_read_and_compared_with_the_tiles_that_it_touches(
    store: TileStore, tmp_path: Path
) -> None:
    one = vector(1)
    fill(store, ONE, one)
    for start in range(20):
        for stop in range(start + 1, 21):
            piece = store.read(ONE, ring=Ring.Z64, bounds=slice(start, stop))
            np.testing.assert_array_equal(piece, one[start:stop])
    np.testing.assert_array_equal(store.read(ONE, ring=Ring.Z64), one)
    path = tmp_path / "spool" / "task-0" / "party-1.tiles"
    data = bytearray(path.read_bytes())
    data[8 * 9] ^= 1  # in the second of three tiles
    path.write_bytes(data)
    for bounds in (slice(0, 8), slice(16, 20)):
        np.testing.assert_array_equal(store.read(ONE, ring=Ring.Z64, bounds=bounds), one[bounds])
    for bounds in (slice(0, 9), slice(15, 16), slice(0, 20)):
        with pytest.raises(DamagedUploadError, match="party 1"):
            store.read(ONE, ring=Ring.Z64, bounds=bounds)
    path.write_bytes(data[:150])
    with pytest.raises(DamagedUploadError):
        store.read(ONE, ring=Ring.Z64, bounds=slice(16, 20))
    path.unlink()
    with pytest.raises(DamagedUploadError):
        store.read(ONE, ring=Ring.Z64, bounds=slice(0, 8))
