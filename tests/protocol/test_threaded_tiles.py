"""Masking at a party and unmasking at the aggregator by several threads: the same as by one."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from collabedit.aggregator import tiles as tiles_module
from collabedit.aggregator.tiles import TileStore
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.masking import SignedMask, mask_tile
from collabedit.crypto.ring import Ring, RingArray, to_bytes
from collabedit.exchange import TileLayout, decode_frame, encode_frame
from collabedit.ids import PartyId, TaskIndex
from collabedit.party import contribution as contribution_module
from collabedit.party.contribution import masked_upload
from tests.support.federations import build_federation

TASK = TaskIndex(0)
PLAN = build_federation(3, mapped=400, outputs=200, capacity=300, tile_bytes=1 << 14).plan
LAYOUT = TileLayout.of(PLAN, TASK)
KEYS = [os.urandom(32) for _ in range(3)]


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (contribution_module, tiles_module):
        monkeypatch.setattr(module, "usable_threads", lambda _size: 4)


def masks(*signs: int) -> tuple[SignedMask, ...]:
    return tuple(SignedMask(sign, Keystream(key)) for sign, key in zip(signs, KEYS, strict=True))


def vector(seed: int) -> RingArray:
    return np.random.default_rng(seed).integers(0, 1 << 64, LAYOUT.elements, dtype=np.uint64)


def test_frames_are_those_of_one_thread_in_order() -> None:
    expected = []
    for index in range(LAYOUT.tiles):
        tile = vector(1)[LAYOUT.bounds(index)]
        mask_tile(tile, tile_index=index, masks=masks(1, -1, 1))
        expected.append(encode_frame(index, to_bytes(tile)))
    upload = masked_upload(PLAN, TASK, vector(1), masks(1, -1, 1))
    assert list(upload.frames()) == expected
    assert list(upload.frames(skip={0, 7})) == expected[1:7] + expected[8:]


def test_an_upload_that_was_broken_off_has_the_same_root() -> None:
    whole = masked_upload(PLAN, TASK, vector(1), masks(1, -1, 1))
    for _ in whole.frames():
        pass
    broken = masked_upload(PLAN, TASK, vector(1), masks(1, -1, 1))
    next(broken.frames())
    assert broken.uploaded() == whole.uploaded()


def test_frames_hold_a_few_tiles_however_many_there_are() -> None:
    upload = masked_upload(PLAN, TASK, vector(1), masks(1, -1, 1))
    tracemalloc.start()
    for _ in upload.frames():
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert LAYOUT.tiles > 80
    # Under way or done: two a thread, each with its tile and the frame made of it; and the buffers.
    assert peak < 24 * PLAN.aggregation.tile_bytes


def test_the_aggregator_opens_what_the_parties_masked(tmp_path: Path) -> None:
    store = TileStore(tmp_path / "spool", LAYOUT)
    signs = {PartyId(1): (1, 1, 1), PartyId(2): (1, -1, -1)}
    for party, its in signs.items():
        for frame in masked_upload(PLAN, TASK, vector(party), masks(*its)).frames():
            store.put(party, decode_frame(frame, layout=LAYOUT))
        store.settle(party)
    twice = SignedMask(1, Keystream(KEYS[0]))
    total = store.open_sum(signs, ring=Ring.Z64, masks=(twice, twice))
    np.testing.assert_array_equal(total, vector(1) + vector(2))
