"""Encrypted sums at the aggregator: check uploads, add them, put the opened sum together.

SPEC 6.11. With public parameters alone: no key is here, and no TenSEAL. A chunk that is not one of
the plan's is refused by name when its upload is complete, so that the sum of what was taken opens.
"""

from collections.abc import Iterable

import numpy as np

from collabedit.aggregator.tiles import TileStore
from collabedit.ciphertexts import (
    WORDS,
    plan_parameters,
    seeds_digest,
    split_upload,
    upload_seeds,
)
from collabedit.crypto.ckks.adding import Adder
from collabedit.crypto.ckks.wire import Form, decode_chunk
from collabedit.crypto.ring import RingArray, add_into
from collabedit.encrypted import SEED_BYTES
from collabedit.errors import AbortReason, MalformedMessageError
from collabedit.ids import PartyId, TaskIndex
from collabedit.plan import Plan
from collabedit.proto.messages import Contribute
from collabedit.proto.statements import RefusalError


def check_ciphertexts(
    plan: Plan,
    task: TaskIndex,
    store: TileStore,
    *,
    party: PartyId,
    message: Contribute,
    others: Iterable[PartyId],
) -> None:
    """Check that a complete upload holds chunks of this plan, and the seeds that were signed.

    Args:
        plan: with encrypted sums.
        task: which task.
        store: its uploads.
        party: whose.
        message: what it signed.
        others: whose uploads were taken before.

    Raises:
        RefusalError: MALFORMED_MESSAGE, DIGEST_MISMATCH, REPEATED_PARTY for a seed that was there
            before; the party is the culprit.
        StorageError: the disk refuses.
    """
    words = store.read(party, ring=WORDS)
    encrypted, _ = split_upload(plan, task, words)
    parameters = plan_parameters(plan)
    for index, chunk in enumerate(encrypted):
        try:
            decode_chunk(
                parameters, chunk.tobytes(), form=Form.SEEDED, index=index, chunks=len(encrypted)
            )
        except MalformedMessageError as error:
            raise RefusalError(
                AbortReason.MALFORMED_MESSAGE, f"chunk {index}: {error}", culprit=party
            ) from error
    seeds = upload_seeds(plan, task, words)
    if seeds_digest(seeds) != message.seeds:
        raise RefusalError(
            AbortReason.DIGEST_MISMATCH, "the seeds are not the signed ones", culprit=party
        )
    known = set().union(
        *(_pieces(upload_seeds(plan, task, store.read(other, ring=WORDS))) for other in others)
    )
    own = _pieces(seeds)
    if len(set(own)) < len(own) or known & set(own):
        raise RefusalError(
            AbortReason.REPEATED_PARTY,
            "a chunk was uploaded before: its seed is there twice",
            culprit=party,
        )


def _pieces(seeds: bytes) -> list[bytes]:
    return [seeds[start : start + SEED_BYTES] for start in range(0, len(seeds), SEED_BYTES)]


def make_offer(
    plan: Plan, task: TaskIndex, store: TileStore, survivors: Iterable[PartyId]
) -> bytes:
    """Add the survivors' uploads: their seeds, by party, and the chunks of the sum.

    Raises:
        StorageError: a stored upload is gone or damaged.
    """
    members = sorted(survivors)
    parameters = plan_parameters(plan)
    values = plan.statistics_length(task)
    adder = Adder(parameters, values=values, contributors=members)
    seeds, uploads = [], []
    for party in members:
        words = store.read(party, ring=WORDS)
        uploads.append(split_upload(plan, task, words)[0])
        seeds.append(upload_seeds(plan, task, words))
    summed = []
    for index in range(adder.chunks):
        for party, encrypted in zip(members, uploads, strict=True):
            adder.add(party, index, encrypted[index].tobytes())
        summed.append(adder.take(index).data)
    return b"".join(seeds + summed)


def opened_vector(
    plan: Plan,
    task: TaskIndex,
    store: TileStore,
    survivors: Iterable[PartyId],
    opened: RingArray,
) -> RingArray:
    """Return what a masked sum would be: opened integers, then the sum of the check elements.

    Args:
        plan: with encrypted sums.
        task: which task.
        store: its uploads.
        survivors: whose are in the sum.
        opened: as the opener says: [statistics of the task], in two's complement.

    Raises:
        StorageError: a stored upload is gone or damaged.
    """
    size = plan.statistics_length(task)
    total: RingArray = np.zeros(plan.task_length(task), dtype=WORDS.dtype)
    total[:size] = opened
    for party in sorted(survivors):
        _, checks = split_upload(plan, task, store.read(party, ring=WORDS))
        add_into(total[size:], checks)
    return total
