"""Self masks and pairwise masks over a ring vector, tile by tile.

Implements the double masking of Bonawitz et al. 2017 (CCS, section 4): party i sends

    x_i + PRG(b_i) + sum over peers j > i of PRG(s_ij) - sum over peers j < i of PRG(s_ij)

modulo 2^bits.

Over any set of parties that all contributed, each pairwise mask stands once with each sign and
cancels. What is left are the self masks, and for each dropped party its pairwise masks with the
survivors, which the aggregator removes with `unmask_tile` once it holds the shares. Departs from
the paper in the generator only: AES-256, seekable, see `keystream`.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from collabedit.crypto.agreement import AgreementKey
from collabedit.crypto.kdf import SECRET_BYTES, derive_key
from collabedit.crypto.keystream import Keystream, buffer_bytes
from collabedit.crypto.ring import Ring, RingArray, add_into, subtract_from
from collabedit.ids import PartyId

_scratch = threading.local()


def _scratch_buffer(size: int) -> npt.NDArray[np.uint8]:
    # One per thread, reused over masks and tiles: a fresh buffer would cost a page fault for each 4
    # KiB of each mask.
    buffer: npt.NDArray[np.uint8] | None = getattr(_scratch, "buffer", None)
    if buffer is None or buffer.size < size:
        buffer = np.empty(size, dtype=np.uint8)
        _scratch.buffer = buffer
    return buffer


@dataclass(frozen=True, slots=True, eq=False)
class SignedMask:
    """A keystream and the sign with which one party's vector carries it.

    Attributes:
        sign: +1 or -1.
        keystream: of a key that is used for nothing else.

    Raises:
        ValueError: another sign.
    """

    sign: int
    keystream: Keystream = field(repr=False)

    def __post_init__(self) -> None:
        if self.sign not in (1, -1):
            raise ValueError("a mask's sign is +1 or -1")


def pair_sign(me: PartyId, peer: PartyId) -> int:
    """Return +1 if `me` < `peer`, else -1: the two ends of a pair always carry opposite signs.

    Raises:
        ValueError: a party has no pairwise mask with itself; it would not cancel.
    """
    if me == peer:
        raise ValueError("a party has no pairwise mask with itself")
    return 1 if me < peer else -1


def self_mask_key(seed: bytes, context: bytes) -> bytes:
    """Derive the key of a party's self mask from the 32-byte seed that it Shamir-shares.

    Args:
        seed: 32 bytes.
        context: session, task, vector and party, encoded injectively.

    Raises:
        ValueError: the seed does not have 32 bytes.
    """
    if len(seed) != SECRET_BYTES:
        raise ValueError(f"a self-mask seed has {SECRET_BYTES} bytes, not {len(seed)}")
    return derive_key(seed, label="self-mask", context=context)


def pair_mask_key(agreement: AgreementKey, peer_public: bytes, context: bytes) -> bytes:
    """Derive the key of the mask that two parties share.

    The aggregator can derive it, too, once it has reconstructed either private key.

    Args:
        agreement: one end's mask key.
        peer_public: the other end's public mask key.
        context: session, task and vector, the same at both ends, encoded injectively. The pair
            itself is bound by the two public keys.

    Raises:
        InvalidPublicKeyError: the peer's key is malformed, of low order, or our own.
    """
    return agreement.agree(peer_public, label="pair-mask", context=context)


def mask_tile(values: RingArray, *, tile_index: int, masks: Iterable[SignedMask]) -> None:
    """Add every mask, with its sign, to one tile in place.

    Args:
        values: [elements] of a ring, writable: the tile's elements in order.
        tile_index: the tile's place in the vector, from 0. Each (mask, tile) pair is used once.
        masks: the party's self mask (sign +1) and its pairwise masks.

    Raises:
        TypeError: not a ring array.
        ValueError: not a vector, or the index is out of range. A failure leaves the tile partly
            masked: discard it.
    """
    _apply(values, tile_index, masks, direction=1)


def unmask_tile(values: RingArray, *, tile_index: int, masks: Iterable[SignedMask]) -> None:
    """Take every mask, with its sign, off one tile in place: the inverse of `mask_tile`.

    Args:
        values: [elements] of a ring, writable: a tile of one masked vector or of a sum of them.
        tile_index: the tile's place in the vector, from 0.
        masks: as they were added: for a sum, the self masks of the survivors (sign +1) and, for
            each survivor i and dropped party j, their pairwise mask with `pair_sign(i, j)`.

    Raises:
        TypeError: not a ring array.
        ValueError: not a vector, or the index is out of range.
    """
    _apply(values, tile_index, masks, direction=-1)


def _apply(
    values: RingArray, tile_index: int, masks: Iterable[SignedMask], *, direction: int
) -> None:
    ring = Ring.of(values)
    if values.ndim != 1:
        raise ValueError(f"a tile is a vector, not of shape {values.shape}")
    buffer = _scratch_buffer(buffer_bytes(values.size, ring))
    for mask in masks:
        stream = mask.keystream.tile(tile_index, values.size, ring, out=buffer)
        if mask.sign == direction:
            add_into(values, stream)
        else:
            subtract_from(values, stream)
