"""Encrypted sums at the aggregator: check uploads, add them, put the opened sum together.

SPEC 6.11. With public parameters alone: no key is here, and no TenSEAL. A chunk that is not one of
the plan's is refused by name when its upload is complete, so that the sum of what was taken opens.

Uploads stay in the spool. A stripe of few chunks of one party is in memory at a time, and the sum
of that stripe, whatever the number of parties and the length of the vector; and the seeds.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from collabedit.aggregator.tiles import TileStore
from collabedit.ciphertexts import (
    WORDS,
    check_words,
    chunk_seeds,
    chunk_words,
    opened_layout,
    plan_parameters,
    seeds_digest,
    split_chunks,
    task_chunks,
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

STRIPE_CHUNKS = 8
"""Chunks of one party that are read together: 1 MiB, since tiles are read whole, and may be longer
than a chunk."""


class EncryptedUploads:
    """The uploads of ciphertexts to one task. Not for several threads at once.

    Args:
        plan: with encrypted sums.
        task: which task.
        store: its uploads.
    """

    def __init__(self, plan: Plan, task: TaskIndex, store: TileStore) -> None:
        self._plan = plan
        self._task = task
        self._store = store
        self._chunks = task_chunks(plan, task)
        self._seeds: dict[PartyId, bytes] = {}

    def check(self, party: PartyId, message: Contribute, others: Iterable[PartyId]) -> None:
        """Check that a complete upload holds chunks of the plan, and the seeds that were signed.

        Args:
            party: whose.
            message: what it signed.
            others: whose uploads were taken before.

        Raises:
            RefusalError: MALFORMED_MESSAGE, DIGEST_MISMATCH, REPEATED_PARTY for a seed that was
                there before; the party is the culprit.
            StorageError: the disk refuses.
        """
        parameters = plan_parameters(self._plan)
        seeds = []
        for stripe in self._stripes():
            encrypted = self._read(party, stripe)
            for index, chunk in zip(stripe, encrypted, strict=True):
                try:
                    decode_chunk(
                        parameters,
                        chunk.tobytes(),
                        form=Form.SEEDED,
                        index=index,
                        chunks=self._chunks,
                    )
                except MalformedMessageError as error:
                    raise RefusalError(
                        AbortReason.MALFORMED_MESSAGE, f"chunk {index}: {error}", culprit=party
                    ) from error
            seeds.append(chunk_seeds(encrypted))
        found = b"".join(seeds)
        if seeds_digest(found) != message.seeds:
            raise RefusalError(
                AbortReason.DIGEST_MISMATCH, "the seeds are not the signed ones", culprit=party
            )
        own = set(_pieces(found))
        if len(own) < self._chunks or not all(
            own.isdisjoint(_pieces(self._seeds_of(other))) for other in others
        ):
            raise RefusalError(
                AbortReason.REPEATED_PARTY,
                "a chunk was uploaded before: its seed is there twice",
                culprit=party,
            )
        self._seeds[party] = found

    def _stripes(self) -> Iterator[range]:
        for first in range(0, self._chunks, STRIPE_CHUNKS):
            yield range(first, min(first + STRIPE_CHUNKS, self._chunks))

    def _read(self, party: PartyId, stripe: range) -> npt.NDArray[np.uint8]:
        bounds = chunk_words(stripe.start, stripe.stop)
        return split_chunks(self._store.read(party, ring=WORDS, bounds=bounds))

    def _seeds_of(self, party: PartyId) -> bytes:
        # Who checked an upload may have been the process before this one.
        if party not in self._seeds:
            self._seeds[party] = b"".join(
                chunk_seeds(self._read(party, stripe)) for stripe in self._stripes()
            )
        return self._seeds[party]

    def offer(self, survivors: Iterable[PartyId]) -> Iterator[bytes]:
        """Add the survivors' uploads: their seeds, by party, and the chunks of the sum.

        Raises:
            DamagedUploadError: a stored upload is gone or damaged.
        """
        members = sorted(survivors)
        for party in members:
            yield self._seeds_of(party)
        adder = Adder(
            plan_parameters(self._plan),
            values=self._plan.statistics_length(self._task),
            contributors=members,
        )
        for stripe in self._stripes():
            for party in members:
                for index, chunk in zip(stripe, self._read(party, stripe), strict=True):
                    adder.add(party, index, chunk.tobytes())
            for index in stripe:
                yield adder.take(index).data


def _pieces(seeds: bytes) -> list[bytes]:
    return [seeds[start : start + SEED_BYTES] for start in range(0, len(seeds), SEED_BYTES)]


def opened_vector(
    plan: Plan,
    task: TaskIndex,
    store: TileStore,
    survivors: Iterable[PartyId],
    *,
    opened: TileStore,
    opener: PartyId,
) -> RingArray:
    """Return what a masked sum would be: opened integers, then the sum of the check elements.

    Args:
        plan: with encrypted sums.
        task: which task.
        store: its uploads.
        survivors: whose are in the sum.
        opened: the opener's upload: [statistics of the task], in two's complement.
        opener: whose that is.

    Raises:
        DamagedUploadError: a stored upload is gone or damaged.
    """
    total: RingArray = np.zeros(plan.task_length(task), dtype=WORDS.dtype)
    layout = opened_layout(plan, task)
    for index in range(layout.tiles):
        bounds = layout.bounds(index)
        total[bounds] = opened.read(opener, ring=WORDS, bounds=bounds)
    for party in sorted(survivors):
        checks = store.read(party, ring=WORDS, bounds=check_words(plan, task))
        add_into(total[layout.elements :], checks)
    return total
