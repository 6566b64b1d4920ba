"""r5 done: from stored tiles and recovered masks to the merged update."""

import hashlib
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from collabedit.aggregator.encrypted import opened_vector
from collabedit.aggregator.states import Merged, MergeRefused, Opening
from collabedit.aggregator.tiles import TileStore
from collabedit.bounds import check_magnitude
from collabedit.crypto.ring import RingArray, to_bytes
from collabedit.errors import AbortReason, BoundsError, NumericError, StorageError
from collabedit.exchange import (
    encode_bundle,
    encode_checks,
    encode_counts,
    merge_vector,
    noise_room,
    plan_encoding,
)


@dataclass(frozen=True, slots=True)
class OpenedTask:
    """The released outcome of a task: the event for the state machine, and the bundle to serve.

    `total` is the opened ring vector, kept for whoever records transcripts.
    """

    event: Merged
    bundle: bytes = field(repr=False)
    total: RingArray = field(repr=False)


Outcome: TypeAlias = OpenedTask | MergeRefused


def open_and_merge(state: Opening, store: TileStore, opened: TileStore | None) -> Outcome:
    """Open the sum over the survivors and merge it; a counting task's is released as it is.

    Args:
        state: with what the sum still carries.
        store: the uploads.
        opened: of an encrypted sum, the opener's upload; None with masks.
    """
    setup = state.progress.setup
    plan, task = setup.plan, setup.context.task
    encoding = plan_encoding(plan)
    try:
        if state.opener is not None and opened is not None:
            total = opened_vector(
                plan, task, store, state.survivors, opened=opened, opener=state.opener
            )
        else:
            total = store.open_sum(state.survivors, ring=encoding.ring, masks=state.masks)
    except StorageError as error:
        return MergeRefused(str(error), AbortReason.INTERNAL)
    if plan.counting(task):
        # The parties' pads are on it: nothing here can be checked, or learned.
        return _opened(encode_counts(plan, task, total), total)
    # Each party rounds to a multiple of the step: N independent errors, uniform over one step.
    noise = encoding.step * float(np.sqrt(len(state.survivors) / 12))
    # Behind the statistics are elements under the parties' pads, for parties alone.
    decoded = encoding.decode(total[: plan.statistics_length(task)])
    try:
        check_magnitude(
            decoded,
            parties=len(state.survivors),
            bound=encoding.magnitude_bound,
            step=encoding.step,
            noise=noise_room(plan, task, parties=len(state.survivors)),
        )
        updates = merge_vector(plan, task, decoded, survivors=state.survivors, noise=noise)
    except BoundsError as error:
        return MergeRefused(str(error), AbortReason.BOUNDS_EXCEEDED)
    except NumericError as error:
        return MergeRefused(str(error))
    return _opened(encode_bundle(updates) + encode_checks(plan, task, total), total)


def _opened(bundle: bytes, total: RingArray) -> OpenedTask:
    event = Merged(
        update_digest=hashlib.sha256(bundle).digest(),
        update_bytes=len(bundle),
        sum_digest=hashlib.sha256(to_bytes(total)).digest(),
    )
    return OpenedTask(event, bundle, total)
