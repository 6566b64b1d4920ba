"""Ciphertexts at a party: encrypt what it contributes, open the one sum if it is the opener.

SPEC 6.11. The key follows from the task's group secret, so every party of the roster has it, also
after a restart, and the aggregator has not. This module needs TenSEAL, and is imported by nobody
whose plan has masked sums.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from io import BufferedIOBase
from typing import Final

import numpy as np

from collabedit.ciphertexts import (
    Words,
    opened_layout,
    plan_packing,
    plan_parameters,
    seeds_digest,
    task_chunks,
)
from collabedit.crypto.ckks.encryption import encrypt_integers
from collabedit.crypto.ckks.keys import SecretKey
from collabedit.crypto.ckks.opening import Opening
from collabedit.crypto.kdf import derive_key, is_equal
from collabedit.crypto.ring import Ring, RingArray, from_bytes, to_bytes
from collabedit.crypto.rng import Randomness
from collabedit.encrypted import SEED_BYTES, SUM_CHUNK_BYTES
from collabedit.errors import AbortReason, CryptoError, MalformedMessageError, NumericError
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party.contribution import MaskedUpload
from collabedit.party.pieces import cut
from collabedit.party.states import OpeningSum, TaskSetup
from collabedit.plan import Plan
from collabedit.proto.envelope import context_fields
from collabedit.proto.messages import Context
from collabedit.proto.statements import RefusalError

CHUNKS_EACH: Final = 1024
"""With fewer for each, an upload is encrypted sooner here: workers import what the command did."""

MOST_PROCESSES: Final = 8
"""Unless somebody asks for more: a worker takes memory."""


def task_key(plan: Plan, context: Context, group_secret: bytes) -> SecretKey:
    """Derive the key of a task, for whoever has its group secret."""
    seed = derive_key(group_secret, label="ckks-secret", context=context_fields(context))
    return SecretKey.derive(plan_parameters(plan), seed)


def worker_processes(chunks: int, most: int | None) -> int:
    """Return how many worker processes encrypt an upload; 0 is this process alone.

    Args:
        chunks: of the upload.
        most: that may be used; None for as many as there are cores, up to `MOST_PROCESSES`.
    """
    if most is None:
        most = min(len(os.sched_getaffinity(0)), MOST_PROCESSES)
    count = min(most, chunks // CHUNKS_EACH)
    return count if count > 1 else 0


def encrypted_pieces(
    setup: TaskSetup, vector: RingArray, group_secret: bytes, *, processes: int = 0
) -> Iterator[bytes]:
    """Encrypt a contribution, chunk by chunk, and then what follows the chunks.

    Every call draws fresh randomness, so one task may have one only.

    Args:
        setup: of the task.
        vector: encoded statistics, and check elements under their pad.
        group_secret: of the task.
        processes: see `encrypt_vector`.

    Raises:
        NumericError: a number is beyond the plan's magnitude bound; before the first chunk.
        CryptoError: a worker process died.
    """
    plan, context = setup.plan, setup.context
    size = plan.statistics_length(context.task)
    key = task_key(plan, context, group_secret)
    integers = vector[:size].view(np.int64)
    try:
        yield from encrypt_integers(key, integers, plan_packing(plan), processes=processes)
    finally:
        key.delete()
    yield from cut(to_bytes(vector[size:]))


def open_offer(state: OpeningSum, offer: bytes, randomness: Randomness) -> RingArray:
    """Open an offer that is in memory; see `open_chunks`."""
    opened = b"".join(open_chunks(state, io.BytesIO(offer), randomness))
    return from_bytes(Ring.Z64, opened)


def open_chunks(
    state: OpeningSum, offer: BufferedIOBase, randomness: Randomness
) -> Iterator[bytes]:
    """Open the offered sum, chunk by chunk: the statistics of the task, in two's complement.

    The second polynomial is expanded from seeds that are held against what the survivors signed, so
    the sum is one over exactly them, up to an offset that the aggregator knows and that flooding
    keeps from telling anything.

    Args:
        state: whose sum, over whom, and what they signed.
        offer: as it was downloaded; nobody else writes to it.
        randomness: the system's; gives the noise.

    Raises:
        RefusalError: DIGEST_MISMATCH, MALFORMED_MESSAGE (the aggregator's), REPEATED_PARTY for one
            seed of two survivors, BOUNDS_EXCEEDED (nobody's) for a sum that they cannot have. The
            first before anything is opened, the others when their chunk comes: what was opened
            before that must not leave.
    """
    plan, task = state.setup.plan, state.setup.context.task
    offer.seek(0)
    if not is_equal(hashlib.file_digest(offer, "sha256").digest(), state.sum_digest):
        raise _blame(AbortReason.DIGEST_MISMATCH, "the sum is not the one that was offered")
    offer.seek(0)
    members, chunks = sorted(state.survivors), task_chunks(plan, task)
    seeds: dict[PartyId, bytes] = {}
    for party in members:
        seeds[party] = offer.read(chunks * SEED_BYTES)
        if not is_equal(seeds_digest(seeds[party]), state.seeds[party]):
            raise _blame(
                AbortReason.DIGEST_MISMATCH, f"the seeds of party {party} are not those it signed"
            )
    assert state.group_secret is not None  # noqa: S101  such a task has the full graph
    key = task_key(plan, state.setup.context, state.group_secret)
    opening = Opening(
        key,
        plan_packing(plan),
        values=plan.statistics_length(task),
        contributors=members,
        randomness=randomness,
    )
    try:
        for index in range(chunks):
            data = offer.read(SUM_CHUNK_BYTES)
            own = slice(index * SEED_BYTES, (index + 1) * SEED_BYTES)
            of_chunk = {party: each[own] for party, each in seeds.items()}
            opened = opening.open_integers(index, data, of_chunk)
            yield bytes(to_bytes(opened.view(np.uint64)))
    except MalformedMessageError as error:
        raise _blame(AbortReason.MALFORMED_MESSAGE, str(error)) from error
    except CryptoError as error:
        raise _blame(AbortReason.REPEATED_PARTY, str(error)) from error
    except NumericError as error:
        raise RefusalError(AbortReason.BOUNDS_EXCEEDED, str(error), culprit=None) from error
    finally:
        key.delete()


def _blame(reason: AbortReason, detail: str) -> RefusalError:
    return RefusalError(reason, detail, culprit=AGGREGATOR)


def opened_upload(plan: Plan, task: TaskIndex, opened: Words) -> MaskedUpload:
    """Prepare the frames of the opened integers."""
    return MaskedUpload(opened, (), opened_layout(plan, task))
