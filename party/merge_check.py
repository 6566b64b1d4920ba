"""Checking the aggregator's merge by secret vectors: Freivalds' test of a whole secure sum.

Freivalds 1979 (MFCS, section 2) checks a product of matrices by a random vector that whoever
computed the product did not know. Here every party adds S_i v and T_i v to what it contributes, for
c Gaussian vectors v that follow from the task's group secret, and then holds the update Δ that
comes back against the sums: Δ(ρv + Sv) = Tv. One equation covers summation and solve, whatever the
aggregator did. Departs from Freivalds in the field: reals with a tolerance (`tolerance`) instead of
exact numbers, so that a small enough change passes.

The aggregator must not read these elements, nor shift them to its advantage:

* each party puts a pad on all of its own, so the opened ones are uniform to the aggregator;
* what the tolerance rests on are integers, which secret linear tags authenticate as in a counting
  task (ADR 0012): inflating them would buy room for a lie;
* the columns need no tag. A lie E and shifts a, b pass if E(ρI + S)v + Δ'a - b is small, and no
  shift that does not depend on v makes that more likely than none (Anderson 1955).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from collabedit.bounds import squared_size
from collabedit.closed import ENERGY_UNITS, INTEGERS
from collabedit.crypto.kdf import derive_key, encode_fields
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.ring import Ring, RingArray, add_into, subtract_from
from collabedit.editing import Layer
from collabedit.errors import BoundsError
from collabedit.exchange import plan_encoding
from collabedit.ids import LayerIndex, PartyId
from collabedit.party.basis import Rotation
from collabedit.party.tolerance import LayerSums, Magnitude, tolerance
from collabedit.plan import Plan
from collabedit.proto.envelope import context_fields
from collabedit.proto.messages import Context
from collabedit.proto.statements import owner_context
from collabedit.sketch import LowRankUpdate, Matrix, normals


@dataclass(frozen=True, slots=True)
class CheckedLayer:
    """What a layer's update was held against.

    Attributes:
        layer: which.
        miss: the largest ‖Δ(ρv + Sv) - Tv‖ of its columns, as a share of ‖Tv‖.
        tolerance: what is allowed, likewise; the largest of its columns.
        edits: of all survivors together, without past and cover edits.
    """

    layer: LayerIndex
    miss: float
    tolerance: float
    edits: int


class MergeCheck:
    """The check of one task, for whoever has its group secret.

    Args:
        plan: with closed sums.
        context: of a task of layers.
        group_secret: 32 bytes (SPEC 4.3(b)).

    Attributes:
        cap: share of ‖R‖₂‖S‖₂^½ by which an update may miss for want of a direction.
    """

    def __init__(self, plan: Plan, context: Context, group_secret: bytes) -> None:
        closed = plan.closed
        assert closed is not None  # noqa: S101  the caller has closed sums
        self._plan = plan
        self._context = context
        self._secret = group_secret
        self._columns = closed.check_columns
        self.cap = closed.check_tolerance
        self._layers = plan.tasks[context.task]
        self._encoding = plan_encoding(plan)
        own = context_fields(context)
        self._tags = Keystream(derive_key(group_secret, label="check-tag", context=own))
        limits = plan.energy_limits(plan.party_ids)
        self._units = (limits.keys / ENERGY_UNITS, limits.residuals / ENERGY_UNITS)

    def __repr__(self) -> str:
        return f"MergeCheck({self._plan.name!r}, task={self._context.task})"

    def vectors(self, layer: Layer) -> Matrix:
        """Return v of a layer, [d', c], in the coordinates in which its sums are opened."""
        fields = encode_fields(context_fields(self._context), layer.index)
        stream = Keystream(derive_key(self._secret, label="check-vector", context=fields))
        words = 2 * ((layer.mapped * self._columns + 1) // 2)
        drawn = stream.tile(0, words, Ring.from_bits(64))
        return normals(drawn, rows=layer.mapped, columns=self._columns)

    def encode(
        self,
        rotated: Sequence[tuple[Matrix, Matrix]],
        *,
        own: Sequence[tuple[Matrix, Matrix]],
        party: PartyId,
    ) -> RingArray:
        """Return a party's own check elements under its pad: [check_length].

        Args:
            rotated: of each layer K̃ and R as they are summed, in those coordinates.
            own: of each layer K̃ [d', n + p] and R [d_out, n], in the model's.
            party: whose pad it is.

        Raises:
            NumericError: a number is beyond the plan's magnitude bound.
        """
        columns, integers = [], []
        for layer, (keys, residuals) in zip(self._layers, rotated, strict=True):
            projected = keys.T @ self.vectors(layer)
            columns += [(keys @ projected).ravel()]
            columns += [(residuals @ projected[: residuals.shape[1]]).ravel()]
        for keys, residuals in own:
            counts = (keys.shape[1], residuals.shape[1])
            integers += [*counts, *self._energies(keys, residuals)]
        counted = np.array(integers, dtype=self._encoding.ring.dtype)
        elements = np.concatenate(
            [self._encoding.encode(np.concatenate(columns)), counted, self._tag(counted)]
        )
        add_into(elements, self._pad(party))
        return elements

    def _energies(self, *matrices: Matrix) -> list[int]:
        """‖M‖₂² of K̃ and R in units that all parties' edits together have at most so many of."""
        return [
            math.ceil(_squared_norm(matrix) / unit)
            for matrix, unit in zip(matrices, self._units, strict=True)
        ]

    def _tag(self, integers: RingArray) -> RingArray:
        tags = np.zeros(self._plan.check_tags, dtype=integers.dtype)
        for index in range(len(tags)):
            row = self._tags.tile(index, integers.size, self._encoding.ring)
            tags[index] = np.dot(row, integers)
        return tags

    def _pad(self, party: PartyId) -> RingArray:
        key = derive_key(
            self._secret, label="check-pad", context=owner_context(self._context, party)
        )
        size = self._plan.check_length(self._context.task)
        return Keystream(key).tile(0, size, self._encoding.ring)

    def open(self, elements: RingArray, survivors: Iterable[PartyId]) -> "CheckSums":
        """Take the survivors' pads off the opened check elements.

        Raises:
            BoundsError: the integers are not what the survivors can have made. Nobody can tell who
                spoiled them.
        """
        parties = sorted(survivors)
        opened = elements.copy()
        for party in parties:
            subtract_from(opened, self._pad(party))
        rows = [layer.mapped + self._plan.summed_outputs(layer) for layer in self._layers]
        reals = self._columns * sum(rows)
        integers = opened[reals : reals + INTEGERS * len(rows)]
        if not np.array_equal(opened[reals + integers.size :], self._tag(integers)):
            raise BoundsError("the check elements do not meet their tags")
        counts = integers.reshape(len(rows), INTEGERS)
        energies = [ENERGY_UNITS + len(parties)] * 2
        most = [self._plan.max_columns(parties), self._plan.max_edits(parties), *energies]
        if (counts > np.array(most, dtype=counts.dtype)).any():
            raise BoundsError("the check elements exceed what the survivors may bring")
        sums, columns = {}, {}
        decoded = self._encoding.decode(opened[:reals])
        start = 0
        for layer, row, (count, edits, *energy) in zip(
            self._layers, rows, counts.tolist(), strict=True
        ):
            stop = start + self._columns * row
            index = LayerIndex(layer.index)
            columns[index] = decoded[start:stop].reshape(row, self._columns)
            keys, residuals = (part * unit for part, unit in zip(energy, self._units, strict=True))
            sums[index] = LayerSums(count, edits, keys, residuals)
            start = stop
        return CheckSums(self._plan, self, tuple(parties), sums, columns)


@dataclass(frozen=True, slots=True)
class CheckSums:
    """Opened check elements, without pads.

    Attributes:
        plan: the plan.
        check: of which task.
        survivors: whose contributions are in them.
        sums: what the tolerance rests on, by layer.
        columns: Sv above Tv by layer, [d' + rows of T, c].
    """

    plan: Plan
    check: MergeCheck
    survivors: tuple[PartyId, ...]
    sums: Mapping[LayerIndex, LayerSums] = field(repr=False)
    columns: Mapping[LayerIndex, Matrix] = field(repr=False)

    def hold(
        self, layer: Layer, update: LowRankUpdate, *, outputs: Rotation | None = None
    ) -> CheckedLayer:
        """Hold one layer's update, as it was released, against the sums.

        With decoys only the rows of residuals count, those that U turns back to: the lie that
        hides in the others' size is one about noise.

        Args:
            layer: which.
            update: of that layer, in the secret basis.
            outputs: U with decoys in the plan, else None.

        Raises:
            BoundsError: it is not their merge; names the layer.
        """
        plan, index = self.plan, LayerIndex(layer.index)
        gram, cross = np.split(self.columns[index], [layer.mapped])
        left = update.left
        if outputs is not None:
            left, cross = (outputs.undo(each)[: layer.outputs] for each in (left, cross))
        vectors = plan.editing.ridge * self.check.vectors(layer) + gram
        with np.errstate(over="ignore", invalid="ignore"):
            misses = np.linalg.norm(left @ (update.right @ vectors) - cross, axis=0)
            # Of factors that do not cancel (`bounds.check_update`): the tolerance rests on it.
            size = math.sqrt(max(squared_size(left, update.right), 0.0))
            whole = math.sqrt(max(squared_size(update.left, update.right), 0.0))
        sums, wanted = self.sums[index], np.linalg.norm(cross, axis=0)
        hidden = plan.summed_limits(self.survivors).residuals if plan.decoys else 0.0
        bound = tolerance(
            plan,
            layer,
            sums,
            survivors=len(self.survivors),
            rank=update.rank,
            size=size,
            inexact=Magnitude(whole, max(hidden, sums.residuals)),
        )
        # Of what the integers allow ‖T‖₂ to be, not of an opened Tv: shifting Sv by a and Tv by Δa
        # leaves the miss as it is, and could make ‖Tv‖ as large as anybody likes.
        cap = self.check.cap * math.sqrt(sums.residuals * sums.keys)
        allowed = bound.rounding + min(bound.lost, cap)
        # Negated, so that what is not a number fails, too. Without a ridge nothing else bounds an
        # update whose squares are beyond float64: then both sides are infinite.
        if not misses.max() <= allowed < math.inf:
            worst = float(misses.max()) / allowed if allowed < math.inf else math.inf
            raise BoundsError(
                f"the update of layer {layer.index} is not the merge of what was contributed: it "
                f"misses by {worst:.3g} times what is allowed"
            )
        scale = np.where(wanted > 0, wanted, np.inf)
        return CheckedLayer(
            index, float((misses / scale).max()), float(allowed / scale.min()), sums.edits
        )


def _squared_norm(matrix: Matrix) -> float:
    """‖M‖₂² by the smaller of its Gram matrices, of M [rows, columns]."""
    if not matrix.size:
        return 0.0
    thin = matrix if matrix.shape[1] <= matrix.shape[0] else matrix.T
    # eigvalsh is exact to 1e-13 or so of the largest: the unit is far larger, and rounded up.
    return float(np.linalg.eigvalsh(thin.T @ thin)[-1])
