from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from collabedit.crypto.keystream import MAX_TILE_BYTES, MAX_TILES, Keystream, buffer_bytes
from collabedit.crypto.ring import Ring, to_bytes

KEY = bytes(range(32))
STREAM = Keystream(KEY)


@pytest.mark.parametrize("index", [0, 1, 2**32, 2**96 - 1])
@pytest.mark.parametrize("ring", list(Ring))
def test_a_tile_is_aes_in_counter_mode_from_block_2(index: int, ring: Ring) -> None:
    counter = index.to_bytes(12, "big") + b"\x00\x00\x00\x02"
    expected = Cipher(algorithms.AES256(KEY), modes.CTR(counter)).encryptor().update(bytes(999 * 8))
    tile = STREAM.tile(index, 999 * 8 // ring.element_bytes, ring)
    assert tile.dtype == ring.dtype
    assert bytes(to_bytes(tile)) == expected


def test_a_shorter_tile_is_a_prefix() -> None:
    long = STREAM.tile(5, 1000, Ring.Z32)
    for elements in (0, 1, 3, 4, 511, 513):
        assert STREAM.tile(5, elements, Ring.Z32).tolist() == long[:elements].tolist()


def test_tiles_and_keys_differ() -> None:
    tiles = [STREAM.tile(i, 4, Ring.Z64) for i in range(50)]
    tiles.append(Keystream(KEY[::-1]).tile(0, 4, Ring.Z64))
    assert len({bytes(to_bytes(tile)) for tile in tiles}) == 51


def test_every_value_of_the_ring_can_occur() -> None:
    # Mean and spread of 2^18 uniform numbers; five standard deviations. Fails for a sign or top bit
    # that never occurs.
    sample = STREAM.tile(0, 2**18, Ring.Z32) / 2.0**32
    assert abs(sample.mean() - 0.5) < 5 / np.sqrt(12 * 2**18)
    bits = (
        np.unpackbits(STREAM.tile(1, 2**16, Ring.Z64).view(np.uint8)).reshape(-1, 64).mean(axis=0)
    )
    assert np.abs(bits - 0.5).max() < 5 * 0.5 / np.sqrt(2**16)


def test_a_fresh_tile_is_its_callers() -> None:
    first = STREAM.tile(0, 8, Ring.Z64)
    kept = first.tolist()
    first += 1
    STREAM.tile(1, 8, Ring.Z64)
    assert first.tolist() == [(value + 1) % 2**64 for value in kept]
    assert STREAM.tile(0, 8, Ring.Z64).tolist() == kept


def test_a_buffer_is_used_in_place_and_nothing_beyond_it_is_touched() -> None:
    needed = buffer_bytes(10, Ring.Z64)
    buffer = np.full(needed + 5, 0xAA, dtype=np.uint8)
    tile = STREAM.tile(3, 10, Ring.Z64, out=buffer)
    assert np.shares_memory(tile, buffer)
    assert tile.tolist() == STREAM.tile(3, 10, Ring.Z64).tolist()
    assert buffer[needed:].tolist() == [0xAA] * 5


@pytest.mark.parametrize(
    "buffer",
    [
        np.zeros(buffer_bytes(4, Ring.Z64) - 1, dtype=np.uint8),
        np.zeros(100, dtype=np.int8),
        np.zeros((2, 100), dtype=np.uint8),
    ],
)
def test_an_unsuitable_buffer_is_refused(buffer: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="at least 48 bytes"):
        STREAM.tile(0, 4, Ring.Z64, out=buffer)


@pytest.mark.parametrize("index", [-1, MAX_TILES])
def test_an_index_out_of_range_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="tile index"):
        STREAM.tile(index, 1, Ring.Z64)


@pytest.mark.parametrize("elements", [-1, MAX_TILE_BYTES // 8 + 1])
def test_a_size_out_of_range_is_refused(elements: int) -> None:
    with pytest.raises(ValueError, match="a tile has"):
        STREAM.tile(0, elements, Ring.Z64)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_only_256_bit_keys_are_taken(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Keystream(bytes(size))


def test_one_stream_serves_several_threads() -> None:
    expected = [bytes(to_bytes(STREAM.tile(i, 2000, Ring.Z64))) for i in range(64)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda i: bytes(to_bytes(STREAM.tile(i, 2000, Ring.Z64))), range(64)))
    assert made == expected
