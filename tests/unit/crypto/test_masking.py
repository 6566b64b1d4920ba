import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest

from collabedit.crypto.agreement import AgreementKey
from collabedit.crypto.kdf import derive_key
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.masking import (
    SignedMask,
    _scratch_buffer,
    mask_tile,
    pair_mask_key,
    pair_sign,
    self_mask_key,
    unmask_tile,
)
from collabedit.crypto.ring import Ring, RingArray
from collabedit.errors import InvalidPublicKeyError
from collabedit.ids import PartyId
from tests.support.randomness import InsecureTestRandomness

RANDOMNESS = InsecureTestRandomness(4)
MASKS = [SignedMask(sign, Keystream(RANDOMNESS.random_bytes(32))) for sign in (1, -1, 1)]


def tile(ring: Ring = Ring.Z64, elements: int = 100) -> RingArray:
    return np.arange(elements).astype(ring.dtype)


def test_signs_are_opposite_at_the_two_ends() -> None:
    assert pair_sign(PartyId(1), PartyId(2)) == 1
    assert pair_sign(PartyId(2), PartyId(1)) == -1
    with pytest.raises(ValueError, match="itself"):
        pair_sign(PartyId(2), PartyId(2))


@pytest.mark.parametrize("sign", [0, 2, -2])
def test_a_mask_has_no_other_sign(sign: int) -> None:
    with pytest.raises(ValueError, match=r"\+1 or -1"):
        SignedMask(sign, MASKS[0].keystream)


@pytest.mark.parametrize("ring", list(Ring))
def test_masks_are_added_with_their_signs(ring: Ring) -> None:
    values = tile(ring)
    mask_tile(values, tile_index=3, masks=MASKS)
    a, b, c = (mask.keystream.tile(3, 100, ring) for mask in MASKS)
    assert values.tolist() == (tile(ring) + a - b + c).tolist()


@pytest.mark.parametrize("ring", list(Ring))
def test_unmasking_is_the_inverse_for_that_tile_only(ring: Ring) -> None:
    values = tile(ring)
    mask_tile(values, tile_index=3, masks=MASKS)
    other = values.copy()
    unmask_tile(values, tile_index=3, masks=reversed(MASKS))
    assert values.tolist() == tile(ring).tolist()
    unmask_tile(other, tile_index=4, masks=MASKS)
    assert other.tolist() != tile(ring).tolist()


def test_no_mask_changes_nothing() -> None:
    values = tile()
    mask_tile(values, tile_index=0, masks=[])
    assert values.tolist() == tile().tolist()


def test_a_pair_cancels_in_the_sum() -> None:
    keys = [AgreementKey.generate(RANDOMNESS) for _ in range(2)]
    total = np.zeros(50, dtype="<u8")
    for me, (mine, peer) in enumerate([keys, keys[::-1]], start=1):
        key = pair_mask_key(mine, peer.public, b"task")
        values = np.full(50, me, dtype="<u8")
        sign = pair_sign(PartyId(me), PartyId(3 - me))
        mask_tile(values, tile_index=0, masks=[SignedMask(sign, Keystream(key))])
        assert (values != me).all()
        total += values
    assert total.tolist() == [3] * 50


def test_mask_keys_are_bound_to_their_context_and_purpose() -> None:
    seed = RANDOMNESS.random_bytes(32)
    mine, peer = AgreementKey.generate(RANDOMNESS), AgreementKey.generate(RANDOMNESS)
    keys = {
        self_mask_key(seed, b"a"),
        self_mask_key(seed, b"b"),
        self_mask_key(seed[::-1], b"a"),
        pair_mask_key(mine, peer.public, b"a"),
        pair_mask_key(mine, peer.public, b"b"),
        mine.agree(peer.public, label="seal", context=b"a"),
    }
    assert len(keys) == 6


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_seed_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        self_mask_key(bytes(size), b"")


def test_no_mask_is_agreed_with_an_unusable_key() -> None:
    with pytest.raises(InvalidPublicKeyError):
        pair_mask_key(AgreementKey.generate(RANDOMNESS), bytes(32), b"")


def test_what_is_not_a_ring_vector_is_refused() -> None:
    with pytest.raises(TypeError, match="<u4 or <u8"):
        mask_tile(np.zeros(4), tile_index=0, masks=MASKS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="vector"):
        mask_tile(np.zeros((2, 2), dtype="<u8"), tile_index=0, masks=MASKS)
    with pytest.raises(ValueError, match="tile index"):
        mask_tile(tile(), tile_index=-1, masks=MASKS)


def test_purposes_have_labels_of_their_own() -> None:
    seed, context = RANDOMNESS.random_bytes(32), b"task"
    key = self_mask_key(seed, context)
    assert key == derive_key(seed, label="self-mask", context=context)
    assert key != derive_key(seed, label="pair-mask", context=context)


def test_threads_do_not_share_their_buffers() -> None:
    everybody_has_one = threading.Barrier(2)

    def buffer(_: int) -> npt.NDArray[np.uint8]:
        mine = _scratch_buffer(1000)
        everybody_has_one.wait(timeout=10)
        assert _scratch_buffer(500) is mine
        return mine

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(buffer, range(2))
    assert not np.shares_memory(one, other)


def test_several_threads_mask_at_once() -> None:
    def work(index: int) -> list[int]:
        values = tile(elements=5000 + index)
        mask_tile(values, tile_index=index, masks=MASKS)
        return [int(value) for value in values]

    expected = [work(index) for index in range(16)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(16))) == expected
