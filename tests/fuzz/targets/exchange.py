"""Frames of an upload, update bundles and single updates: round trips, else malformed.

The first byte chooses the reader. A second choice repairs the digest of a frame, so that what lies
behind that check is reached too.
"""

import functools

import numpy as np

from collabedit.errors import MalformedMessageError
from collabedit.exchange import (
    FRAME_HEADER,
    FRAME_OVERHEAD,
    TileLayout,
    _frame_digest,
    decode_bundle,
    decode_frame,
    encode_bundle,
    encode_frame,
)
from collabedit.ids import LayerIndex, TaskIndex
from collabedit.plan import Plan
from collabedit.sketch import LowRankUpdate
from tests.support.federations import MAPPED, OUTPUTS, build_federation

FRAME, REPAIRED_FRAME, BUNDLE, UPDATE = range(4)
TASK = TaskIndex(0)
LAYOUT = TileLayout(elements=19, element_bytes=8, per_tile=8)
"""Two whole tiles and a short one."""


@functools.cache
def plan() -> Plan:
    return build_federation(3, layers=2, schedule='"parallel"').plan


def run(data: bytes) -> None:
    """Read, and write what came out."""
    choice, data = (data[0] % 4 if data else 0), data[1:]
    if choice == REPAIRED_FRAME and len(data) >= FRAME_OVERHEAD:
        header, payload = data[: FRAME_HEADER.size], data[FRAME_OVERHEAD:]
        data = header + _frame_digest(header, payload) + payload
    try:
        again = _round_trip(choice, data)
    except MalformedMessageError:
        return
    assert again == data, "two encodings decode to one value"


def _round_trip(choice: int, data: bytes) -> bytes:
    if choice in {FRAME, REPAIRED_FRAME}:
        tile = decode_frame(data, layout=LAYOUT)
        assert len(tile.payload) == LAYOUT.tile_bytes(tile.index)
        return encode_frame(tile.index, tile.payload)
    if choice == BUNDLE:
        updates = decode_bundle(plan(), TASK, data)
        assert list(updates) == [layer.index for layer in plan().tasks[TASK]]
        return encode_bundle(updates)
    update = LowRankUpdate.from_bytes(data, outputs=3, mapped=2, capacity=2)
    return update.to_bytes()


def seeds() -> dict[str, bytes]:
    """Return every tile's frame, bundles of low rank, and updates of every rank."""
    rng = np.random.default_rng(0)

    def update(rows: int, rank: int, columns: int) -> LowRankUpdate:
        return LowRankUpdate(rng.normal(size=(rows, rank)), rng.normal(size=(rank, columns)))

    made = {}
    for index in range(LAYOUT.tiles):
        payload = rng.bytes(LAYOUT.tile_bytes(index))
        frame = encode_frame(index, payload)
        made[f"frame-{index}"] = bytes([FRAME]) + frame
        made[f"repaired-{index}"] = bytes([REPAIRED_FRAME]) + frame[:8] + bytes(len(frame) - 8)
    for rank in range(3):
        made[f"update-{rank}"] = bytes([UPDATE]) + update(3, rank, 2).to_bytes()
    for rank in range(2):
        updates = {LayerIndex(i): update(OUTPUTS, rank, MAPPED) for i in range(2)}
        made[f"bundle-{rank}"] = bytes([BUNDLE]) + encode_bundle(updates)
    return made
