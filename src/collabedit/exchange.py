"""What travels in one task besides control messages: contribution vector, tiles, update bundle.

SPEC 6. A contribution is one ring vector: the statistics of the task's layers one after the other
(`GramSketch.to_vector`, or the dense form), cut into tiles of the plan's size. An update bundle
holds one `LowRankUpdate` for each layer. Both ends use these functions and no others.
"""

import hashlib
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from collabedit.bounds import check_columns, check_past, check_projections, check_update
from collabedit.crypto.fixedpoint import FixedPoint
from collabedit.crypto.ring import Ring, RingArray, from_bytes, to_bytes
from collabedit.editing import Layer
from collabedit.errors import BoundsError, MalformedMessageError, NumericError
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.plan import Plan
from collabedit.privacy import NOISE_HEADROOM, projection_bound
from collabedit.sketch import (
    DenseStatistics,
    GramSketch,
    LowRankUpdate,
    Matrix,
    dense_statistics,
    expand_test_matrix,
    merge_dense,
    merge_sketch,
    sketch,
)

FRAME_HEADER = struct.Struct("<4sIII")
"""Magic, tile index, payload bytes, zero: 16 bytes, little-endian; then SHA-256, then payload."""

FRAME_MAGIC = b"CET1"
DIGEST_BYTES = 32
FRAME_OVERHEAD = FRAME_HEADER.size + DIGEST_BYTES

_COUNTS_HEADER = struct.Struct("<4sIII")
"""Magic, bytes of an element, rows, width: 16 bytes, little-endian; then the ring elements."""

_COUNTS_MAGIC = b"CEC1"

_BUNDLE_HEADER = struct.Struct("<4sI")
_BUNDLE_ENTRY = struct.Struct("<IQ")
_BUNDLE_MAGIC = b"CEB1"


@dataclass(frozen=True, slots=True)
class Tile:
    """One verified piece of an upload: `payload` holds whole ring elements, little-endian."""

    index: int
    payload: bytes | memoryview
    digest: bytes

    def __repr__(self) -> str:
        return f"Tile(index={self.index}, bytes={len(self.payload)})"


def encode_frame(index: int, payload: bytes | memoryview) -> bytes:
    """Build the frame of a tile (SPEC 6.1).

    Its digest stands from FRAME_HEADER.size up to FRAME_OVERHEAD.
    """
    header = FRAME_HEADER.pack(FRAME_MAGIC, index, len(payload), 0)
    return b"".join((header, _frame_digest(header, payload), payload))


def tile_digest(index: int, payload: bytes | memoryview) -> bytes:
    """Return the digest that the frame of this tile carries."""
    return _frame_digest(FRAME_HEADER.pack(FRAME_MAGIC, index, len(payload), 0), payload)


def _frame_digest(header: bytes, payload: bytes | memoryview) -> bytes:
    # The header is covered, so a tile cannot be filed under another index.
    digest = hashlib.sha256(header)
    digest.update(payload)
    return digest.digest()


def decode_frame(frame: bytes, *, layout: "TileLayout") -> Tile:
    """Parse and check a frame.

    Raises:
        MalformedMessageError: not a frame, wrong length for its place, or a wrong digest.
    """
    if len(frame) < FRAME_OVERHEAD:
        raise MalformedMessageError(f"frame of {len(frame)} bytes is shorter than its header")
    magic, index, size, zero = FRAME_HEADER.unpack_from(frame)
    if magic != FRAME_MAGIC or zero != 0:
        raise MalformedMessageError("frame does not start with CET1")
    if index >= layout.tiles:
        raise MalformedMessageError(f"tile {index} of {layout.tiles}")
    payload = memoryview(frame)[FRAME_OVERHEAD:]
    if size != len(payload) or size != layout.tile_bytes(index):
        raise MalformedMessageError(
            f"tile {index} has {len(payload)} bytes, must have {layout.tile_bytes(index)}"
        )
    digest = _frame_digest(frame[: FRAME_HEADER.size], payload)
    if digest != frame[FRAME_HEADER.size : FRAME_OVERHEAD]:
        raise MalformedMessageError(f"tile {index} does not match its digest")
    return Tile(index, payload, digest)


def tiles_root(digests: Iterable[bytes]) -> bytes:
    """Hash the tiles' digests in order: what a party signs for its whole upload (SPEC 6.1)."""
    return hashlib.sha256(b"collabedit/v1/tiles" + b"".join(digests)).digest()


def bitmap_tiles(bitmap: bytes) -> frozenset[int]:
    """Read which tiles a bitmap names: bit i, least significant first within a byte (SPEC 5.3)."""
    bits = np.unpackbits(np.frombuffer(bitmap, dtype=np.uint8), bitorder="little")
    return frozenset(np.flatnonzero(bits).tolist())


@dataclass(frozen=True, slots=True)
class TileLayout:
    """How a vector of `elements` ring elements is cut.

    Attributes:
        elements: of the whole vector.
        element_bytes: 4 or 8.
        per_tile: elements of every tile but the last.
    """

    elements: int
    element_bytes: int
    per_tile: int

    @classmethod
    def of(cls, plan: Plan, task: TaskIndex) -> "TileLayout":
        """Return the layout of a contribution to `task`."""
        element_bytes = plan.aggregation.ring_bits // 8
        per_tile = plan.aggregation.tile_bytes // element_bytes
        return cls(plan.upload_length(task), element_bytes, per_tile)

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return -(-self.elements // self.per_tile)

    def bounds(self, index: int) -> slice:
        """Return the elements of tile `index`."""
        start = index * self.per_tile
        return slice(start, min(start + self.per_tile, self.elements))

    def tile_bytes(self, index: int) -> int:
        """Return the payload bytes of tile `index`."""
        elements = min(self.per_tile, self.elements - index * self.per_tile)
        return elements * self.element_bytes


def plan_encoding(plan: Plan) -> FixedPoint:
    """Return the fixed-point encoding that the plan prescribes."""
    return FixedPoint(
        ring=Ring.from_bits(plan.aggregation.ring_bits),
        fractional_bits=plan.aggregation.fractional_bits,
        magnitude_bound=plan.aggregation.magnitude_bound,
        parties=len(plan.federation.parties),
    )


def plan_test_matrix(plan: Plan, layer: Layer) -> Matrix:
    """Expand Ω of one layer, [d', capacity]."""
    return expand_test_matrix(
        bytes.fromhex(plan.aggregation.test_matrix_seed),
        layer=layer.index,
        rows=layer.mapped,
        columns=plan.aggregation.capacity,
    )


def contribution_vector(
    plan: Plan, task: TaskIndex, statistics: Sequence[tuple[Matrix, Matrix]]
) -> Matrix:
    """Build one party's vector for a task from its statistics.

    Args:
        plan: the plan.
        task: which task.
        statistics: of each of its layers K̃ [d', n + p + c] and R [d_out, n]. Columns of K̃ behind
            those of the edits have no residual: p past edits, √w·k̃, none without a memory, and c
            cover edits, exactly as many as the plan has.

    Raises:
        NumericError: a number is not finite.
        BoundsError: a key or residual is beyond the plan's bounds.
        ValueError: shapes are not the plan's.
    """
    check_shapes(plan, task, statistics)
    vector = statistics_vector(plan, task, statistics)
    bounds = plan.bounds
    for layer, (mapped_keys, residuals) in zip(plan.tasks[task], statistics, strict=True):
        edits = residuals.shape[1]
        try:
            check_columns(
                mapped_keys[:, :edits],
                residuals,
                key_energy=bounds.key_energy,
                residual_energy=bounds.residual_energy,
            )
            if plan.memory is not None:
                check_past(
                    mapped_keys[:, edits : mapped_keys.shape[1] - plan.cover_edits],
                    weight=plan.memory.weight,
                    key_energy=bounds.key_energy,
                )
            if plan.privacy is not None and plan.aggregation.statistics == "sketch":
                check_projections(
                    mapped_keys,
                    plan_test_matrix(plan, layer),
                    reach=projection_bound(plan.aggregation.capacity),
                    key_energy=bounds.key_energy,
                )
        except BoundsError as error:
            raise BoundsError(f"layer {layer.index}: {error}") from error
    return vector


def statistics_vector(
    plan: Plan, task: TaskIndex, statistics: Sequence[tuple[Matrix, Matrix]]
) -> Matrix:
    """Build a vector as `contribution_vector`, of residuals that were checked before.

    Args:
        plan: the plan.
        task: which task.
        statistics: as there; with decoys R has their rows below its own, and as many columns as K̃.

    Raises:
        NumericError: a number is not finite.
    """
    parts = []
    for layer, (mapped_keys, residuals) in zip(plan.tasks[task], statistics, strict=True):
        wanted = np.pad(residuals, ((0, 0), (0, mapped_keys.shape[1] - residuals.shape[1])))
        if plan.aggregation.statistics == "dense":
            parts.append(dense_statistics(mapped_keys, wanted).to_vector())
        else:
            omega = plan_test_matrix(plan, layer)
            parts.append(sketch(mapped_keys, wanted, omega).to_vector())
    vector = np.concatenate(parts)
    if not np.isfinite(vector).all():
        raise NumericError(f"statistics of task {task} are not finite: check model and targets")
    return vector


def check_shapes(plan: Plan, task: TaskIndex, statistics: Sequence[tuple[Matrix, Matrix]]) -> None:
    """Hold shapes of statistics against the plan's.

    Raises:
        ValueError: they are others.
    """
    for layer, (mapped_keys, residuals) in zip(plan.tasks[task], statistics, strict=True):
        past = mapped_keys.shape[1] - residuals.shape[1] - plan.cover_edits
        if len(mapped_keys) != layer.mapped or len(residuals) != layer.outputs or past < 0:
            raise ValueError(f"statistics of layer {layer.index} have another shape than the plan")
        if past and plan.memory is None:
            raise ValueError(f"shape of layer {layer.index}: keys of past edits, without a memory")


def noise_room(plan: Plan, task: TaskIndex, *, parties: int) -> float:
    """Return what the noise of `parties` may add to an entry of a sum; 0 without privacy."""
    scales = [plan.noise(layer) for layer in plan.tasks[task]]
    largest = max(max(scale.gram, scale.cross) for scale in scales)
    return NOISE_HEADROOM * math.sqrt(parties) * largest


def merge_vector(
    plan: Plan, task: TaskIndex, total: Matrix, *, survivors: Iterable[PartyId], noise: float
) -> dict[LayerIndex, LowRankUpdate]:
    """Merge the opened sum of a task, layer by layer.

    Args:
        plan: the plan.
        task: which task.
        total: the sum over the survivors, decoded to float64: [statistics of the task].
        survivors: whose contributions are in it; their `max_edits` set the caps.
        noise: standard deviation of the fixed-point rounding in an entry of `total`; that of a plan
            with privacy is added here.

    Raises:
        NumericError: the sums cannot come from honest contributions; names the layer.
        BoundsError: they exceed the plan's bounds; names the layer.
    """
    members = tuple(survivors)
    limits = plan.summed_limits(members)
    updates = {}
    start = 0
    for layer in plan.tasks[task]:
        stop, outputs = start + plan.layer_length(layer), plan.summed_outputs(layer)
        part = total[start:stop]
        start = stop
        drawn = plan.noise(layer) * math.sqrt(len(members))
        deviations = {
            "noise": math.hypot(noise, drawn.gram),
            "cross_noise": math.hypot(noise, drawn.cross),
        }
        try:
            if plan.aggregation.statistics == "dense":
                dense = DenseStatistics.from_vector(part, mapped=layer.mapped, outputs=outputs)
                update = merge_dense(dense, ridge=plan.editing.ridge, limits=limits, **deviations)
            else:
                sketched = GramSketch.from_vector(part, mapped=layer.mapped, outputs=outputs)
                update = merge_sketch(
                    sketched,
                    plan_test_matrix(plan, layer),
                    ridge=plan.editing.ridge,
                    limits=limits,
                    **deviations,
                )
        except BoundsError as error:
            raise BoundsError(f"layer {layer.index}: {error}") from error
        except (NumericError, np.linalg.LinAlgError) as error:
            raise NumericError(f"layer {layer.index}: {error}") from error
        updates[LayerIndex(layer.index)] = update
    return updates


def encode_bundle(updates: Mapping[LayerIndex, LowRankUpdate]) -> bytes:
    """Serialise a task's updates by ascending layer (SPEC 6.3)."""
    parts = [_BUNDLE_HEADER.pack(_BUNDLE_MAGIC, len(updates))]
    for layer in sorted(updates):
        data = updates[layer].to_bytes()
        parts += [_BUNDLE_ENTRY.pack(layer, len(data)), data]
    return b"".join(parts)


def encode_counts(plan: Plan, task: TaskIndex, total: RingArray) -> bytes:
    """Serialise the opened vector of a counting task: what is released instead of updates."""
    return _counts_header(plan, task) + bytes(to_bytes(total))


def _counts_header(plan: Plan, task: TaskIndex) -> bytes:
    overlap = plan.counting(task)
    assert overlap is not None  # noqa: S101  the caller asks for a counting task
    element_bytes = plan.aggregation.ring_bits // 8
    return _COUNTS_HEADER.pack(_COUNTS_MAGIC, element_bytes, overlap.rows, overlap.width)


def decode_counts(plan: Plan, task: TaskIndex, data: bytes) -> RingArray:
    """Parse the opened vector of a counting task: [elements].

    Raises:
        MalformedMessageError: not one of exactly this plan's shape.
    """
    header = _counts_header(plan, task)
    if data[: len(header)] != header or len(data) != bundle_limit(plan, task):
        raise MalformedMessageError("not the counts of this plan's tables")
    return from_bytes(Ring.from_bits(plan.aggregation.ring_bits), data[len(header) :])


def encode_checks(plan: Plan, task: TaskIndex, total: RingArray) -> bytes:
    """Serialise what follows the statistics in an opened vector (SPEC 6.3): what parties check by.

    Nothing without closed sums.
    """
    return bytes(to_bytes(total[plan.statistics_length(task) :]))


def decode_checks(plan: Plan, task: TaskIndex, data: bytes) -> RingArray:
    """Return the check elements behind the updates of a bundle: [check_length].

    Raises:
        MalformedMessageError: the bundle is shorter than they are.
    """
    size = _checks_bytes(plan, task)
    if len(data) < size:
        raise MalformedMessageError("update bundle is shorter than its check elements")
    ring = Ring.from_bits(plan.aggregation.ring_bits)
    return from_bytes(ring, data[len(data) - size :])


def _checks_bytes(plan: Plan, task: TaskIndex) -> int:
    return plan.check_length(task) * plan.aggregation.ring_bits // 8


def bundle_limit(plan: Plan, task: TaskIndex) -> int:
    """Return the largest size in bytes that a bundle of `task` can have."""
    if plan.counting(task):
        return _COUNTS_HEADER.size + plan.task_length(task) * plan.aggregation.ring_bits // 8
    per_layer = (
        64 + _BUNDLE_ENTRY.size + 8 * plan.rank_limit * (layer.mapped + plan.summed_outputs(layer))
        for layer in plan.tasks[task]
    )
    return _BUNDLE_HEADER.size + sum(per_layer) + _checks_bytes(plan, task)


def decode_bundle(plan: Plan, task: TaskIndex, data: bytes) -> dict[LayerIndex, LowRankUpdate]:
    """Parse the updates of a task, as they were released: with closed sums in the secret basis.

    Raises:
        MalformedMessageError: not exactly one update of the right shape for each of its layers, or
            one that is larger than all parties' edits within the plan's bounds can make.
    """
    layers = plan.tasks[task]
    limits = plan.summed_limits(plan.party_ids)
    if len(data) < _BUNDLE_HEADER.size:
        raise MalformedMessageError("update bundle is shorter than its header")
    magic, count = _BUNDLE_HEADER.unpack_from(data)
    if magic != _BUNDLE_MAGIC or count != len(layers):
        raise MalformedMessageError(f"not a bundle of the task's {len(layers)} layers")
    updates = {}
    offset = _BUNDLE_HEADER.size
    for layer in layers:
        if len(data) < offset + _BUNDLE_ENTRY.size:
            raise MalformedMessageError("update bundle ends early")
        index, size = _BUNDLE_ENTRY.unpack_from(data, offset)
        offset += _BUNDLE_ENTRY.size
        if index != layer.index or offset + size > len(data):
            raise MalformedMessageError(f"update bundle has no whole layer {layer.index}")
        update = LowRankUpdate.from_bytes(
            data[offset : offset + size],
            outputs=plan.summed_outputs(layer),
            mapped=layer.mapped,
            capacity=plan.rank_limit,
        )
        try:
            check_update(update.left, update.right, ridge=plan.editing.ridge, limits=limits)
        except BoundsError as error:
            raise MalformedMessageError(f"layer {index}: {error}") from error
        updates[LayerIndex(index)] = update
        offset += size
    if offset + _checks_bytes(plan, task) != len(data):
        raise MalformedMessageError("update bundle has another length than its parts")
    return updates
