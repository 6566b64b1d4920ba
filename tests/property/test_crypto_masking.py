import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit.crypto.agreement import AgreementKey
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.masking import (
    SignedMask,
    mask_tile,
    pair_mask_key,
    pair_sign,
    self_mask_key,
    unmask_tile,
)
from collabedit.crypto.ring import Ring, RingArray, add_into, from_bytes
from collabedit.ids import PartyId
from tests.support.randomness import InsecureTestRandomness

TASK = b"session 1, task 2"
ELEMENTS = 24


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(Ring), st.integers(min_value=2, max_value=6), st.integers())
def test_any_survivor_set_opens_to_exactly_its_own_sum(
    data: st.DataObject, ring: Ring, count: int, seed: int
) -> None:
    randomness = InsecureTestRandomness(seed)
    parties = [PartyId(i) for i in range(1, count + 1)]
    keys = {i: AgreementKey.generate(randomness) for i in parties}
    seeds = {i: randomness.random_bytes(32) for i in parties}
    survivors = data.draw(st.lists(st.sampled_from(parties), min_size=1, unique=True))
    tile_index = data.draw(st.integers(min_value=0, max_value=2**40))

    def own(i: PartyId) -> SignedMask:
        return SignedMask(1, Keystream(self_mask_key(seeds[i], TASK)))

    def pair(i: PartyId, j: PartyId) -> SignedMask:
        key = pair_mask_key(keys[i], keys[j].public, TASK)
        return SignedMask(pair_sign(i, j), Keystream(key))

    plain: RingArray = np.zeros(ELEMENTS, dtype=ring.dtype)
    total: RingArray = np.zeros(ELEMENTS, dtype=ring.dtype)
    for i in survivors:
        values = from_bytes(ring, randomness.random_bytes(ELEMENTS * ring.element_bytes)).copy()
        add_into(plain, values)
        masks = [own(i), *(pair(i, j) for j in parties if j != i)]
        mask_tile(values, tile_index=tile_index, masks=masks)
        add_into(total, values)
    assert total.tolist() != plain.tolist()

    # The aggregator's part: self masks of survivors, and pairs of survivors with the dropped, whose
    # key it derives from the dropped party's private key.
    dropped = [j for j in parties if j not in survivors]
    unmask_tile(total, tile_index=tile_index, masks=[own(i) for i in survivors])
    for i in survivors:
        for j in dropped:
            key = pair_mask_key(keys[j], keys[i].public, TASK)
            mask = SignedMask(pair_sign(i, j), Keystream(key))
            unmask_tile(total, tile_index=tile_index, masks=[mask])
    assert total.tolist() == plain.tolist()
