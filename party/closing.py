"""Closed sums at a party: into the secret basis what it contributes, out of it what comes back.

SPEC 6.9. The statistics of a task are those of QK̃ and UR, with Q and U of each layer derived from
the task's group secret (`basis`); behind them come check elements (`merge_check`). The released
update UΔQᵀ is held against these before it is turned back, and so before any weight changes.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np

from collabedit.bounds import check_update
from collabedit.crypto.kdf import derive_key, encode_fields
from collabedit.crypto.ring import RingArray
from collabedit.editing import Layer
from collabedit.errors import AbortReason, BoundsError
from collabedit.exchange import (
    check_shapes,
    decode_bundle,
    decode_checks,
    plan_encoding,
    statistics_vector,
)
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party.basis import Rotation
from collabedit.party.decoys import with_decoys
from collabedit.party.merge_check import CheckedLayer, MergeCheck
from collabedit.plan import Plan
from collabedit.proto.envelope import context_fields
from collabedit.proto.messages import Context
from collabedit.sketch import LowRankUpdate, Matrix

Statistics: TypeAlias = Sequence[tuple[Matrix, Matrix]]
"""K̃ [d', n + p] and R [d_out, n] of each layer of a task."""

_SHAPE: Final = struct.Struct("<II")
"""Columns of K̃ and of R of a layer."""


class UnverifiedError(BoundsError):
    """A released update that no honest end can have made, or that the plan does not let pass.

    Attributes:
        reason: for the abort.
    """

    def __init__(self, reason: AbortReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class OpenedUpdate:
    """A released update that was checked.

    Attributes:
        updates: by layer, in the model's mapped coordinates.
        checks: of each layer, ascending; none with open sums.
    """

    updates: Mapping[LayerIndex, LowRankUpdate] = field(repr=False)
    checks: tuple[CheckedLayer, ...] = ()


class ClosedTask:
    """One task of layers with closed sums, for whoever has its group secret.

    Args:
        plan: with closed sums.
        context: of the task.
        group_secret: 32 bytes (SPEC 4.3(b)).
    """

    def __init__(self, plan: Plan, context: Context, group_secret: bytes) -> None:
        self._plan = plan
        self._context = context
        self._secret = group_secret
        self._check = MergeCheck(plan, context, group_secret)

    def __repr__(self) -> str:
        return f"ClosedTask({self._plan.name!r}, task={self._context.task})"

    def _rotations(self, layer: Layer) -> tuple[Rotation, Rotation]:
        """Q and U of a layer."""
        fields = encode_fields(context_fields(self._context), layer.index)
        keys, outputs = (
            derive_key(self._secret, label=label, context=fields)
            for label in ("basis-keys", "basis-outputs")
        )
        rows = self._plan.summed_outputs(layer)
        return Rotation(keys, layer.mapped), Rotation(outputs, rows)

    def turn_keys(self, layer: Layer, keys: Matrix) -> Matrix:
        """Return mapped keys [d', n] in the basis of the sums, QK̃: what a party can compute."""
        return self._rotations(layer)[0].apply(keys)

    def contribute(
        self, me: PartyId, statistics: Statistics, *, decoy_seed: bytes | None = None
    ) -> RingArray:
        """Return what a party masks: [elements].

        Args:
            me: the party.
            statistics: its own, within the plan's bounds (`exchange.contribution_vector`).
            decoy_seed: 32 bytes, of this party and for this task alone, with decoys in the plan.

        Raises:
            NumericError: in the secret basis a number is beyond the plan's magnitude bound.
            ValueError: shapes are not the plan's.
        """
        plan, task = self._plan, self._context.task
        check_shapes(plan, task, statistics)
        rotated = []
        for layer, (keys, residuals) in zip(self._layers, statistics, strict=True):
            inputs, outputs = self._rotations(layer)
            wanted = with_decoys(plan, layer, residuals, columns=keys.shape[1], seed=decoy_seed)
            rotated.append((inputs.apply(keys), outputs.apply(wanted)))
        encoded = plan_encoding(plan).encode(statistics_vector(plan, task, rotated))
        checks = self._check.encode(rotated, own=statistics, party=me)
        return np.concatenate([encoded, checks])

    def open(self, data: bytes, survivors: Iterable[PartyId]) -> OpenedUpdate:
        """Check a released bundle, and return its updates in the model's coordinates.

        Raises:
            MalformedMessageError: not updates of this plan.
            UnverifiedError: not the merge of what the survivors contributed, or of fewer edits than
                the plan lets pass; names the layer.
        """
        plan, task = self._plan, self._context.task
        released = decode_bundle(plan, task, data)
        try:
            sums = self._check.open(decode_checks(plan, task, data), survivors)
            checks, updates = [], {}
            for layer in self._layers:
                index = LayerIndex(layer.index)
                _, outputs = self._rotations(layer)
                # Nothing is turned for the check where no rows are dropped: norms are the same.
                turned = outputs if plan.decoys else None
                checks.append(sums.hold(layer, released[index], outputs=turned))
                updates[index] = self._turn_back(layer, released[index], checks[-1].edits)
        except BoundsError as error:
            raise UnverifiedError(AbortReason.MERGE_UNVERIFIED, str(error)) from error
        self._check_edits(checks)
        return OpenedUpdate(updates, tuple(checks))

    def _check_edits(self, checks: Iterable[CheckedLayer]) -> None:
        closed = self._plan.closed
        fewest = min(layer.edits for layer in checks)
        if closed is not None and fewest < closed.min_edits:
            raise UnverifiedError(
                AbortReason.TOO_FEW_EDITS,
                f"the survivors brought {fewest} edits together, the plan's closed.min_edits is "
                f"{closed.min_edits}",
            )

    def _turn_back(self, layer: Layer, update: LowRankUpdate, edits: int) -> LowRankUpdate:
        """Return the update in the model's coordinates, without the rows of decoys.

        Raises:
            BoundsError: it is larger than edits can make; with decoys, which hide that before.
        """
        inputs, outputs = self._rotations(layer)
        right = inputs.undo(update.right.T).T
        left = outputs.undo(update.left)
        if not self._plan.decoys:
            return LowRankUpdate(left, right)
        # What is left has the rank of the edits alone: the other factors are those of columns
        # without a residual, and none of the update's business.
        opened = LowRankUpdate(left[: layer.outputs], right).canonical(rank=edits)
        limits = self._plan.energy_limits(self._plan.party_ids)
        check_update(opened.left, opened.right, ridge=self._plan.editing.ridge, limits=limits)
        return opened

    @property
    def _layers(self) -> tuple[Layer, ...]:
        return self._plan.tasks[self._context.task]


@dataclass(frozen=True)
class Released:
    """The released bytes of a task, and what it takes to read them.

    Attributes:
        plan: the plan.
        context: of the task.
        data: as released.
        survivors: whose contributions are in it.
        group_secret: of the task, if it needs one.
    """

    plan: Plan
    context: Context
    data: bytes = field(repr=False)
    survivors: frozenset[PartyId]
    group_secret: bytes | None = field(repr=False)

    @cached_property
    def opened(self) -> OpenedUpdate:
        """The updates of a task of layers, in the model's mapped coordinates.

        Raises:
            MalformedMessageError, UnverifiedError: see `ClosedTask.open`.
        """
        if self.plan.closed is None:
            return OpenedUpdate(decode_bundle(self.plan, self.context.task, self.data))
        assert self.group_secret is not None  # noqa: S101  such a task has the full graph
        task = ClosedTask(self.plan, self.context, self.group_secret)
        return task.open(self.data, self.survivors)


def statistics_to_bytes(statistics: Statistics) -> bytes:
    """Serialise statistics for a restart; `statistics_from_bytes` gives the same bits back."""
    parts = []
    for keys, residuals in statistics:
        parts.append(_SHAPE.pack(keys.shape[1], residuals.shape[1]))
        parts += [matrix.astype("<f8").tobytes() for matrix in (keys, residuals)]
    return b"".join(parts)


def statistics_from_bytes(
    plan: Plan, task: TaskIndex, data: bytes | memoryview
) -> list[tuple[Matrix, Matrix]]:
    """Read `statistics_to_bytes` output of the same plan and task."""
    found, start = [], 0
    for layer in plan.tasks[task]:
        shape = _SHAPE.unpack_from(data, start)
        start += _SHAPE.size
        pair = []
        for rows, columns in zip((layer.mapped, layer.outputs), shape, strict=True):
            numbers = np.frombuffer(data, dtype="<f8", count=rows * columns, offset=start)
            pair.append(numbers.astype(np.float64).reshape(rows, columns))
            start += numbers.nbytes
        found.append((pair[0], pair[1]))
    return found
