"""r3 at a party: real vector to fixed point, masked, cut into frames.

The vector is checked as a whole before the first tile is masked: a value that breaks the plan's
bound refuses the contribution, nothing of it leaves the machine, and nothing is ever clipped.

What a party brings is fixed before its first message of the task, and kept for a restart as bytes:
the encoded vector, or where that depends on the group secret what it is made of, the digests of
items in a counting task and K̃ and R with closed sums. So one task never has two contributions.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from collabedit.ahead import in_order, usable_threads
from collabedit.ciphertexts import Words, seeds_digest, upload_seeds
from collabedit.crypto.kdf import SECRET_BYTES
from collabedit.crypto.masking import SignedMask, mask_tile
from collabedit.crypto.ring import Ring, RingArray, from_bytes, to_bytes
from collabedit.crypto.rng import Randomness
from collabedit.errors import NumericError
from collabedit.exchange import (
    FRAME_HEADER,
    FRAME_OVERHEAD,
    TileLayout,
    contribution_vector,
    encode_frame,
    plan_encoding,
    tiles_root,
)
from collabedit.ids import PartyId, TaskIndex
from collabedit.party.closing import (
    ClosedTask,
    Statistics,
    statistics_from_bytes,
    statistics_to_bytes,
)
from collabedit.party.counting import Counter
from collabedit.party.items import digests_from_bytes
from collabedit.party.noise import noisy
from collabedit.party.pieces import cut
from collabedit.party.states import TaskSetup, Uploaded
from collabedit.plan import Plan


@dataclass(slots=True)
class MaskedUpload:
    """Frames of one contribution or opened sum, made one at a time as the network takes them.

    Attributes:
        encoded: fixed-point values, checked against the plan's bound, still unmasked; or
            ciphertexts, or opened integers. Read tile by tile.
        masks: of this task; none for the latter two.
        layout: how the vector is cut.
        seeds: of ciphertexts, the digest that is signed beside the root.
    """

    encoded: Words = field(repr=False)
    masks: tuple[SignedMask, ...] = field(repr=False)
    layout: TileLayout
    seeds: bytes = b""
    _digests: dict[int, bytes] = field(default_factory=dict, repr=False)

    def frames(self, skip: Container[int] = frozenset()) -> Iterator[bytes]:
        """Mask and frame every tile in order, some ahead. Running again gives the same bytes.

        Tiles in `skip` are masked, too, since the root covers them, but not yielded.
        """
        # Ciphertexts are read from a file that keeps its place, and have no masks.
        size = self.layout.elements * self.layout.element_bytes if self.masks else 0
        frames = in_order(self._frame, self.layout.tiles, threads=usable_threads(size))
        for index, frame in enumerate(frames):
            if index not in skip:
                yield frame

    def _frame(self, index: int) -> bytes:
        tile = self.encoded[self.layout.bounds(index)].copy()
        mask_tile(tile, tile_index=index, masks=self.masks)
        frame = encode_frame(index, to_bytes(tile))
        self._digests[index] = frame[FRAME_HEADER.size : FRAME_OVERHEAD]
        return frame

    def uploaded(self) -> Uploaded:
        """Return the event for the state machine, once the aggregator has all tiles."""
        # An aggregator may acknowledge a stream that it did not read to its end.
        for index in range(self.layout.tiles):
            if index not in self._digests:
                self._frame(index)
        root = tiles_root(self._digests[index] for index in range(self.layout.tiles))
        return Uploaded(self.layout.elements, self.layout.tiles, root, self.seeds)


def contributed_vector(
    setup: TaskSetup, brought: bytes | memoryview, group_secret: bytes | None
) -> RingArray:
    """Return the vector that a party masks: [elements].

    Args:
        setup: of the task.
        brought: `items.items_to_bytes` in a counting task, `bring` in any other.
        group_secret: of the task, if it needs one.

    Raises:
        NumericError: in the secret basis a number is beyond the plan's magnitude bound.
    """
    plan, task = setup.plan, setup.context.task
    if not plan.needs_secret(task):
        return from_bytes(Ring.from_bits(plan.aggregation.ring_bits), brought)
    assert group_secret is not None  # noqa: S101  such a task has the full graph
    if plan.counting(task) is not None:
        counter = Counter(plan, setup.context, group_secret)
        return counter.encode(digests_from_bytes(bytes(brought)))
    closed = ClosedTask(plan, setup.context, group_secret)
    seed = bytes(brought[:SECRET_BYTES]) if plan.decoys else None
    statistics = statistics_from_bytes(plan, task, brought[len(seed or b"") :])
    return closed.contribute(setup.me, statistics, decoy_seed=seed)


def upload_pieces(
    setup: TaskSetup, vector: RingArray, group_secret: bytes | None, *, processes: int = 0
) -> Iterator[bytes]:
    """Make what a party uploads of its vector before masks: itself, or its ciphertexts.

    Ciphertexts are fresh on each call: one task may have one only.

    Args:
        setup: of the task.
        vector: see `contributed_vector`.
        group_secret: of the task, if it needs one.
        processes: that encrypt; 0 is this one.

    Raises:
        NumericError: a number is beyond the plan's magnitude bound; before the first piece.
    """
    if not setup.plan.is_encrypted:
        return cut(to_bytes(vector))
    from collabedit.party.decryption import encrypted_pieces  # noqa: PLC0415  needs TenSEAL

    assert group_secret is not None  # noqa: S101  such a task has the full graph
    return encrypted_pieces(setup, vector, group_secret, processes=processes)


def uploaded_vector(setup: TaskSetup, vector: RingArray, group_secret: bytes | None) -> RingArray:
    """Put `upload_pieces` together, where they fit into memory."""
    pieces = upload_pieces(setup, vector, group_secret)
    return from_bytes(Ring.from_bits(setup.plan.aggregation.ring_bits), b"".join(pieces))


def bring(
    plan: Plan, me: PartyId, task: TaskIndex, statistics: Statistics, randomness: Randomness
) -> bytes | memoryview:
    """Fix what a task of layers gets from a party, checked against the plan.

    Args:
        plan: the plan.
        me: the party.
        task: one of layers.
        statistics: K̃ and R of each layer (`exchange.contribution_vector`).
        randomness: the party's own, for decoys.

    Raises:
        PlanError, InputError: a plan with noise that this party cannot add (`noise.noisy`).
        NumericError: there are more edits than the plan allows, a number is not finite, or one is
            beyond a bound. With closed sums the last rule is held once more in the secret basis,
            in which numbers spread out: `contributed_vector`.
    """
    check_statistics(plan, me, statistics)
    encoded = plan_encoding(plan).encode(contribution_vector(plan, task, statistics))
    if plan.closed is not None:
        seed = randomness.random_bytes(SECRET_BYTES) if plan.decoys else b""
        return seed + statistics_to_bytes(statistics)
    return to_bytes(noisy(plan, task, encoded))


def masked_upload(
    plan: Plan, task: TaskIndex, encoded: Words, masks: tuple[SignedMask, ...]
) -> MaskedUpload:
    """Prepare the frames of an encoded contribution, or of its ciphertexts."""
    seeds = seeds_digest(upload_seeds(plan, task, encoded)) if plan.is_encrypted else b""
    return MaskedUpload(encoded, masks, TileLayout.of(plan, task), seeds)


def check_edits(plan: Plan, me: PartyId, edits: int) -> None:
    """Refuse more edits than the plan allows a party.

    Raises:
        NumericError: says how many it allows.
    """
    allowed = plan.max_edits([me])
    if edits > allowed:
        raise NumericError(f"{edits} edits, the plan allows {plan.party_name(me)} {allowed}")


def check_statistics(plan: Plan, me: PartyId, statistics: Statistics) -> None:
    """Refuse more columns than the plan counts on.

    They would exceed the sketch's capacity, and the merge would be wrong for everybody without an
    error showing.

    Args:
        plan: the plan.
        me: the party.
        statistics: K̃ [d', n + past and cover edits] and R [d_out, n] of each layer of a task.

    Raises:
        NumericError: says how many it allows.
    """
    check_edits(plan, me, max(residuals.shape[1] for _, residuals in statistics))
    extra = max(keys.shape[1] - residuals.shape[1] for keys, residuals in statistics)
    past = extra - plan.cover_edits
    if past > plan.max_past_edits:
        raise NumericError(f"{past} past edits, the plan's memory allows {plan.max_past_edits}")
