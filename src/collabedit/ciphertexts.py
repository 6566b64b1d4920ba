"""What travels in a task of encrypted sums besides control messages (SPEC 6.11).

An upload is the chunks of SPEC 7.8, one after the other, and behind them the check elements as
they are: these are under pads already. It is handled as a vector of 64-bit words, and cut into
tiles like a masked one. What the opener is offered are the contributors' seeds and the chunks of
the sum; what it returns are the opened integers, as words again.
"""

from collections.abc import Collection
from typing import Protocol

import numpy as np
import numpy.typing as npt

from collabedit.crypto.ckks.packing import Packing
from collabedit.crypto.ckks.parameters import CkksParameters
from collabedit.crypto.ckks.wire import HEADER_BYTES
from collabedit.crypto.kdf import transcript_hash
from collabedit.crypto.ring import Ring, RingArray
from collabedit.encrypted import (
    CHUNK_BYTES,
    CHUNK_WORDS,
    PRIME_BITS,
    RING_BITS,
    RING_DEGREE,
    SEED_BYTES,
    SUM_CHUNK_BYTES,
    chunks,
)
from collabedit.exchange import TileLayout
from collabedit.ids import PartyId, TaskIndex
from collabedit.plan import Plan

WORDS = Ring.from_bits(RING_BITS)


def plan_parameters(plan: Plan) -> CkksParameters:
    """Return ring, primes and scale of an encrypted plan."""
    return CkksParameters(
        RING_DEGREE,
        PRIME_BITS,
        scale_bits=plan.aggregation.fractional_bits,
        shift_bits=plan.guard_bits,
    )


def plan_packing(plan: Plan) -> Packing:
    """Return how the numbers of an encrypted plan are written."""
    parties = len(plan.federation.parties)
    return Packing(plan_parameters(plan), plan.aggregation.magnitude_bound, parties)


def choose_opener(survivors: Collection[PartyId]) -> PartyId:
    """Return who opens the sum over `survivors`: the lowest id (SPEC 4.12)."""
    return min(survivors)


def task_chunks(plan: Plan, task: TaskIndex) -> int:
    """Return how many chunks an upload to `task` has."""
    return chunks(plan.statistics_length(task))


class Words(Protocol):
    """A vector of which slices are read: an array, or a file of one."""

    def __getitem__(self, bounds: slice, /) -> RingArray:
        """Return the elements from `bounds.start` up to `bounds.stop`."""


def chunk_words(first: int, stop: int) -> slice:
    """Return where an upload has its chunks from `first` up to `stop`."""
    return slice(first * CHUNK_WORDS, stop * CHUNK_WORDS)


def check_words(plan: Plan, task: TaskIndex) -> slice:
    """Return where an upload has its check elements."""
    return slice(task_chunks(plan, task) * CHUNK_WORDS, plan.upload_length(task))


def split_chunks(words: RingArray) -> npt.NDArray[np.uint8]:
    """Take whole chunks of an upload apart: [chunks, bytes]."""
    octets = np.ascontiguousarray(words).astype("<u8", copy=False).view(np.uint8)
    return octets.reshape(-1, CHUNK_BYTES)


def chunk_seeds(chunks: npt.NDArray[np.uint8]) -> bytes:
    """Return the seeds of chunks, one after the other."""
    return chunks[:, HEADER_BYTES : HEADER_BYTES + SEED_BYTES].tobytes()


def upload_seeds(plan: Plan, task: TaskIndex, words: Words) -> bytes:
    """Return the seeds of an upload's chunks, one after the other."""
    return b"".join(
        chunk_seeds(split_chunks(words[chunk_words(index, index + 1)]))
        for index in range(task_chunks(plan, task))
    )


def seeds_digest(seeds: bytes) -> bytes:
    """Hash the seeds of an upload: what a contributor signs beside the root of its tiles."""
    return transcript_hash("ckks-seeds", seeds)


def offer_bytes(plan: Plan, task: TaskIndex, contributors: int) -> int:
    """Return the length of what the opener is offered."""
    return task_chunks(plan, task) * (contributors * SEED_BYTES + SUM_CHUNK_BYTES)


def opened_layout(plan: Plan, task: TaskIndex) -> TileLayout:
    """Return how the opened integers are cut."""
    element_bytes = RING_BITS // 8
    per_tile = plan.aggregation.tile_bytes // element_bytes
    return TileLayout(plan.statistics_length(task), element_bytes, per_tile)
