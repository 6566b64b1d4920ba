"""Ciphertexts at a party: encrypt what it contributes, open the one sum if it is the opener.

SPEC 6.11. The key follows from the task's group secret, so every party of the roster has it, also
after a restart, and the aggregator has not. This module needs TenSEAL, and is imported by nobody
whose plan has masked sums.
"""

import hashlib

import numpy as np

from collabedit.ciphertexts import (
    opened_layout,
    plan_packing,
    plan_parameters,
    seeds_digest,
    task_chunks,
    upload_words,
)
from collabedit.crypto.ckks.encryption import encrypt_integers
from collabedit.crypto.ckks.keys import SecretKey
from collabedit.crypto.ckks.opening import Opening
from collabedit.crypto.kdf import derive_key, is_equal
from collabedit.crypto.ring import RingArray
from collabedit.crypto.rng import Randomness
from collabedit.encrypted import SEED_BYTES, SUM_CHUNK_BYTES
from collabedit.errors import AbortReason, CryptoError, MalformedMessageError, NumericError
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party.contribution import MaskedUpload
from collabedit.party.states import OpeningSum, TaskSetup
from collabedit.plan import Plan
from collabedit.proto.envelope import context_fields
from collabedit.proto.messages import Context
from collabedit.proto.statements import RefusalError


def task_key(plan: Plan, context: Context, group_secret: bytes) -> SecretKey:
    """Derive the key of a task, for whoever has its group secret."""
    seed = derive_key(group_secret, label="ckks-secret", context=context_fields(context))
    return SecretKey.derive(plan_parameters(plan), seed)


def encrypted_upload(setup: TaskSetup, vector: RingArray, group_secret: bytes) -> RingArray:
    """Encrypt a contribution; every call draws fresh randomness, so one task may have one only.

    Args:
        setup: of the task.
        vector: encoded statistics, and check elements under their pad.
        group_secret: of the task.

    Returns:
        The upload, [upload_length].

    Raises:
        NumericError: a number is beyond the plan's magnitude bound.
    """
    plan, context = setup.plan, setup.context
    size = plan.statistics_length(context.task)
    key = task_key(plan, context, group_secret)
    chunks = encrypt_integers(key, vector[:size].view(np.int64), plan_packing(plan))
    words = upload_words(chunks, vector[size:])
    key.delete()
    return words


def open_offer(state: OpeningSum, offer: bytes, randomness: Randomness) -> RingArray:
    """Open the offered sum: [statistics of the task], in two's complement.

    The second polynomial is expanded from seeds that are held against what the survivors signed, so
    the sum is one over exactly them, up to an offset that the aggregator knows and that flooding
    keeps from telling anything.

    Args:
        state: whose sum, over whom, and what they signed.
        offer: as it was downloaded.
        randomness: the system's; gives the noise.

    Raises:
        RefusalError: DIGEST_MISMATCH, MALFORMED_MESSAGE (the aggregator's), REPEATED_PARTY for one
            seed of two survivors, BOUNDS_EXCEEDED (nobody's) for a sum that they cannot have.
    """
    plan, task = state.setup.plan, state.setup.context.task
    if not is_equal(hashlib.sha256(offer).digest(), state.sum_digest):
        raise _blame(AbortReason.DIGEST_MISMATCH, "the sum is not the one that was offered")
    members, chunks = sorted(state.survivors), task_chunks(plan, task)
    seeds: dict[PartyId, bytes] = {}
    for place, party in enumerate(members):
        found = offer[place * chunks * SEED_BYTES : (place + 1) * chunks * SEED_BYTES]
        if not is_equal(seeds_digest(found), state.seeds[party]):
            raise _blame(
                AbortReason.DIGEST_MISMATCH, f"the seeds of party {party} are not those it signed"
            )
        seeds[party] = found
    assert state.group_secret is not None  # noqa: S101  such a task has the full graph
    key = task_key(plan, state.setup.context, state.group_secret)
    opening = Opening(
        key,
        plan_packing(plan),
        values=plan.statistics_length(task),
        contributors=members,
        randomness=randomness,
    )
    opened, start = [], len(members) * chunks * SEED_BYTES
    try:
        for index in range(chunks):
            data = offer[start + index * SUM_CHUNK_BYTES : start + (index + 1) * SUM_CHUNK_BYTES]
            own = slice(index * SEED_BYTES, (index + 1) * SEED_BYTES)
            of_chunk = {party: each[own] for party, each in seeds.items()}
            opened.append(opening.open_integers(index, data, of_chunk))
    except MalformedMessageError as error:
        raise _blame(AbortReason.MALFORMED_MESSAGE, str(error)) from error
    except CryptoError as error:
        raise _blame(AbortReason.REPEATED_PARTY, str(error)) from error
    except NumericError as error:
        raise RefusalError(AbortReason.BOUNDS_EXCEEDED, str(error), culprit=None) from error
    finally:
        key.delete()
    return np.concatenate(opened).view(np.uint64)


def _blame(reason: AbortReason, detail: str) -> RefusalError:
    return RefusalError(reason, detail, culprit=AGGREGATOR)


def opened_upload(plan: Plan, task: TaskIndex, opened: RingArray) -> MaskedUpload:
    """Prepare the frames of the opened integers."""
    return MaskedUpload(opened, (), opened_layout(plan, task))
