"""A seekable AES-256 stream of ring elements: what masks are made of.

Implements the CTR part of AES-256-GCM (NIST SP 800-38D): the ciphertext of zeros, without its tag,
under a nonce that is the tile's index. With a 96-bit nonce, GCM encrypts block j (from 0) with
AES(nonce || j + 2) as a 32-bit counter, so tile i is

    AES(i as 96-bit big-endian || 2), AES(i || 3), ...

*Why this is a keystream.* AES-256 is taken to be a pseudorandom permutation. Two tiles differ in
the nonce, two blocks of a tile in the counter, which cannot come round within 2^32 - 2 blocks; so
the cipher is never evaluated twice at one point, and its outputs are indistinguishable from uniform
up to q^2 / 2^129 for q blocks under one key (PRP/PRF switching): 2^-49 for 16 TiB. `nonce || 1`,
which GCM keeps for the tag, is not used for data.

*Why GCM and not CTR.* Departs from the plain choice for speed alone: OpenSSL has a vectorised path
for GCM that its CTR lacks, and its nonce makes it seekable (`benchmarks/bench_masks.py` measures).
The tag is thrown away: masked sums are authenticated by signatures over their digests.

*Single use.* A mask is a one-time pad. A key must serve one pair of parties (or one self mask), one
task, one vector and one ring: the streams of both rings come from the same bytes. `masking` derives
such keys.
"""

import functools
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from collabedit.crypto.ring import Ring, RingArray

KEY_BYTES: Final = 32
BLOCK_BYTES: Final = 16
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16

MAX_TILES: Final = 1 << 96
"""Every 96-bit nonce is one tile."""

GCM_MAX_BLOCKS: Final = (1 << 32) - 2
"""SP 800-38D, 5.2.1.1: a longer plaintext would bring the counter round to the tag's block."""

MAX_TILE_BYTES: Final = 1 << 30
"""Ours: 2^26 blocks, far below GCM's limit and the 2^31 - 1 bytes that OpenSSL takes at once."""


@functools.lru_cache(maxsize=8)
def _zeros(capacity: int) -> memoryview:
    # Shared by all threads, never written. Untouched pages of a fresh `bytes` are the kernel's one
    # zero page, so reading them costs hardly any cache.
    return memoryview(bytes(capacity))


def buffer_bytes(elements: int, ring: Ring) -> int:
    """Size in bytes of a buffer for `Keystream.tile`: the tile and the tag that is discarded."""
    return elements * ring.element_bytes + TAG_BYTES


class Keystream:
    """The stream of one key, tile by tile, in any order.

    Safe to use from several threads at once: it keeps no position.
    """

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        """Take a 32-byte key from `masking` or `kdf.derive_key`.

        Raises:
            ValueError: the key does not have 32 bytes.
        """
        if len(key) != KEY_BYTES:
            raise ValueError(f"a keystream key has {KEY_BYTES} bytes, not {len(key)}")
        self._cipher = AESGCM(key)

    def tile(
        self, index: int, elements: int, ring: Ring, *, out: npt.NDArray[np.uint8] | None = None
    ) -> RingArray:
        """Return the first `elements` elements of tile `index`, uniform over the ring.

        A shorter tile is a prefix of a longer one with the same index.

        Args:
            index: 0..2^96-1.
            elements: 0 or more, at most 1 GiB of them.
            ring: width of the elements.
            out: a contiguous, writable byte buffer of at least `buffer_bytes(elements, ring)`; the
                result is then a window on it, valid until its next use. One buffer must not serve
                two threads at once. Without it, a fresh array is made.

        Raises:
            ValueError: an argument is out of range, or `out` is too small.
        """
        if not 0 <= index < MAX_TILES:
            raise ValueError("a tile index must be in 0..2^96-1")
        size = elements * ring.element_bytes
        if not 0 <= size <= MAX_TILE_BYTES:
            raise ValueError(f"a tile has 0..{MAX_TILE_BYTES} bytes")
        needed = buffer_bytes(elements, ring)
        if out is None:
            out = np.empty(needed, dtype=np.uint8)
        elif out.ndim != 1 or out.dtype != np.uint8 or out.size < needed:
            raise ValueError(f"the buffer must be a vector of at least {needed} bytes")
        nonce = index.to_bytes(NONCE_BYTES, "big")
        # Capacities are rounded up to powers of two, so that the shorter last tile shares the zeros
        # of the others.
        zeros = _zeros(1 << max(size - 1, 0).bit_length())[:size]
        self._cipher.encrypt_into(nonce, zeros, None, out[:needed].data)
        return out[:size].view(ring.dtype)

    def __repr__(self) -> str:
        return "Keystream(<secret>)"
