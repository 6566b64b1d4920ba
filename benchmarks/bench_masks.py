"""Masking at a party: a contribution of 2^20 numbers, nine pairwise masks and the self mask.

The limit is the work that no masking can do without: the same keystreams (AES-256-GCM over zeros)
and the same additions, on tiles that stay in cache, with nothing around them; the keystreams alone
are another one, of which `share_of_aes_rate` speaks. The peer is the
fastest generator that is at hand without cryptography, numpy's PCG64: masks drawn from it would be
no masks.
"""

import os

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from plans import create_identities, create_plan
from timing import milliseconds, time_in_turn, write_record

from collabedit.crypto.keystream import Keystream, buffer_bytes
from collabedit.crypto.masking import SignedMask, mask_tile
from collabedit.crypto.ring import RingArray, to_bytes
from collabedit.exchange import TileLayout, encode_frame, plan_encoding
from collabedit.ids import TaskIndex
from collabedit.party.contribution import masked_upload

ELEMENTS = 1 << 20
PARTIES = 10
TASK = TaskIndex(0)
LIMIT = "limit: AES-256-GCM keystream and add"
STREAM = "limit: AES-256-GCM keystream"
LIMIT_TILE = 1 << 18
"""Bytes; keystream, sum and zeros fit a core's second-level cache."""


def bare_stream(elements: int, keys: list[AESGCM]) -> None:
    zeros, buffer = bytes(LIMIT_TILE), np.empty(LIMIT_TILE + 16, dtype=np.uint8)
    for number in range(8 * elements // LIMIT_TILE):
        nonce = number.to_bytes(12, "big")
        for key in keys:
            key.encrypt_into(nonce, zeros, None, buffer.data)


def limit(vector: RingArray, keys: list[AESGCM]) -> None:
    zeros, buffer = bytes(LIMIT_TILE), np.empty(LIMIT_TILE + 16, dtype=np.uint8)
    stream = buffer[:LIMIT_TILE].view(np.uint64)
    step = LIMIT_TILE // 8
    for number, start in enumerate(range(0, len(vector), step)):
        tile, nonce = vector[start : start + step], number.to_bytes(12, "big")
        for key in keys:
            key.encrypt_into(nonce, zeros, None, buffer.data)
            np.add(tile, stream, out=tile)


def numpy_peer(vector: RingArray) -> None:
    for seed in range(PARTIES):
        vector += np.random.Generator(np.random.PCG64(seed)).integers(
            0, 1 << 64, len(vector), dtype=np.uint64
        )


def compare(tile_bytes: int) -> list[dict[str, object]]:
    plan = create_plan(
        create_identities(PARTIES),
        mapped=768,
        outputs=256,
        capacity=ELEMENTS // 1024,
        tile_bytes=tile_bytes,
    )
    layout, encoding = TileLayout.of(plan, TASK), plan_encoding(plan)
    reals = np.random.default_rng(0).normal(size=ELEMENTS)
    scratch = encoding.encode(reals)
    masks = tuple(
        SignedMask(1 if number % 2 else -1, Keystream(os.urandom(32))) for number in range(PARTIES)
    )
    keys = [AESGCM(os.urandom(32)) for _ in range(PARTIES)]

    buffer = np.empty(buffer_bytes(layout.per_tile, encoding.ring), dtype=np.uint8)

    def masks_only() -> None:
        for index in range(layout.tiles):
            for mask in masks:
                mask.keystream.tile(index, layout.per_tile, encoding.ring, out=buffer)

    def mask_only() -> None:
        for index in range(layout.tiles):
            mask_tile(scratch[layout.bounds(index)], tile_index=index, masks=masks)

    def frame_only() -> None:
        for index in range(layout.tiles):
            encode_frame(index, to_bytes(scratch[layout.bounds(index)]))

    def whole_client() -> None:
        for _ in masked_upload(plan, TASK, encoding.encode(reals), masks).frames():
            pass

    times = time_in_turn(
        {
            LIMIT: lambda: limit(scratch, keys),
            STREAM: lambda: bare_stream(ELEMENTS, keys),
            "peer: numpy PCG64 and add, no security": lambda: numpy_peer(scratch),
            "keystreams of all masks": masks_only,
            "mask_tile": mask_only,
            "fixed point encoding": lambda: encoding.encode(reals),
            "frames with SHA-256": frame_only,
            "whole client: encode, mask, frame": whole_client,
        },
        runs=7,
    )
    return [
        {
            "what": name,
            "tile_kib": tile_bytes >> 10,
            **milliseconds(timed),
            "ratio_to_limit": round(timed.cpu / times[LIMIT].cpu, 3),
            "share_of_aes_rate": round(times[STREAM].cpu / timed.cpu, 3),
        }
        for name, timed in times.items()
    ]


def main() -> None:
    rows = [row for tile_bytes in (1 << 18, 1 << 20) for row in compare(tile_bytes)]
    write_record("masks", rows, elements=ELEMENTS, parties=PARTIES, ring_bits=64)


if __name__ == "__main__":
    main()
