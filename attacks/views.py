"""What each adversary sees of a session, cut from the transcript of the real machines.

A view holds everything that its adversary may use against the parties' edits, and nothing else. An
attack that needs more needs another adversary. Control messages are left out of all views: they
carry keys, signatures and sealed shares, which are independent of the edits (SPEC 4).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from collabedit.crypto.ring import Ring, RingArray, from_bytes
from collabedit.editing import Layer
from collabedit.errors import InputError, MalformedMessageError
from collabedit.exchange import (
    TileLayout,
    decode_frame,
    plan_encoding,
)
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId, TaskIndex
from collabedit.plan import Plan
from collabedit.proto.codec import decode_body, decode_packet
from collabedit.proto.messages import Envelope, Message, ProposeSurvivors
from collabedit.recording import Delivery, Recording
from collabedit.simulation import Outcome
from collabedit.sketch import DenseStatistics, GramSketch, LowRankUpdate, Matrix

Uploads = Mapping[PartyId, RingArray]
"""A ring vector by party."""


@dataclass(frozen=True, slots=True)
class AggregatorView:
    """One session as the aggregator keeps it (`Adversary.HONEST_AGGREGATOR`).

    Attributes:
        plan: public.
        uploads: each party's complete upload of a task, reassembled from its frames: [elements] of
            the plan's ring, masked; or ciphertexts, as words (`encrypted_views` has more of them).
        sums: the opened sum of each task that was opened, [elements].
        survivors: whose contributions are in the sum of a task.
    """

    plan: Plan
    uploads: Mapping[TaskIndex, Uploads] = field(repr=False)
    sums: Mapping[TaskIndex, RingArray] = field(repr=False)
    survivors: Mapping[TaskIndex, frozenset[PartyId]]

    @classmethod
    def of_recording(cls, recording: Recording) -> Self:
        """Cut the view from what an aggregator or a simulation recorded.

        Raises:
            InputError: a party recorded it, or the file is damaged.
        """
        if recording.role == "party":
            raise InputError(
                f"{recording.path}: is {recording.origin}'s: this view is the aggregator's"
            )
        plan = recording.plan
        tasks = [TaskIndex(index) for index in range(len(plan.tasks))]
        uploads = {task: uploads_of(plan, task, recording.deliveries(task=task)) for task in tasks}
        return cls(plan, uploads, recording.sums(), recording.survivors())

    @classmethod
    def of(cls, plan: Plan, outcome: Outcome) -> Self:
        """Cut the view from a simulated session, also from one that ended early."""
        tasks = [TaskIndex(index) for index in range(len(plan.tasks))]
        uploads = {task: uploads_of(plan, task, outcome.transcript) for task in tasks}
        survivors = {record.task: record.survivors for record in outcome.records}
        for task in outcome.sums:
            # A session that ended behind an opening has no record of it, but its proposal.
            survivors.setdefault(task, proposed_survivors(task, outcome.transcript))
        return cls(plan, uploads, dict(outcome.sums), survivors)

    def with_uploads(self, uploads: Mapping[TaskIndex, Uploads]) -> Self:
        """Return the undefended control: the same session with these vectors as uploads.

        Args:
            uploads: what the parties encoded, before any mask.
        """
        return replace(self, uploads=uploads)


@dataclass(frozen=True, slots=True)
class SessionPair:
    """Two sessions of one aggregator over the same edits."""

    first: AggregatorView
    second: AggregatorView


@dataclass(frozen=True, slots=True)
class ColludingView:
    """The aggregator together with some parties (`Adversary.COLLUDING`).

    Attributes:
        aggregator: what the aggregator sees.
        own: what each colluding party encoded, by task and party.
    """

    aggregator: AggregatorView
    own: Mapping[TaskIndex, Uploads] = field(repr=False)


@dataclass(frozen=True, slots=True)
class RecipientView:
    """Who holds the model before and after (`Adversary.RECIPIENT`): the released update.

    Attributes:
        plan: public.
        updates: ΔW by layer, in mapped coordinates: left [d_out, r], right [r, d'].
    """

    plan: Plan
    updates: Mapping[LayerIndex, LowRankUpdate]

    @classmethod
    def of_recording(cls, recording: Recording) -> Self:
        """Cut the view from what a party or a simulation recorded.

        Raises:
            InputError: it holds no verified update, or is damaged.
        """
        updates = recording.updates()
        if not updates:
            raise InputError(
                f"{recording.path}: {recording.origin} verified no update in this session"
            )
        return cls(recording.plan, updates)

    @classmethod
    def of(cls, plan: Plan, outcome: Outcome) -> Self:
        """Cut the view from a simulated session: what its parties made of the released bytes.

        In the model's coordinates also with closed sums: whoever has the model before and after
        needs no secret for that.
        """
        updates: dict[LayerIndex, LowRankUpdate] = {}
        for opened in outcome.updates.values():
            updates |= opened
        return cls(plan, updates)


def layer_of(plan: Plan, layer: LayerIndex) -> tuple[TaskIndex, Layer, slice]:
    """Find a layer: its task, its plan entry, and its elements in the task's vector.

    Raises:
        ValueError: the plan doesn't edit that layer.
    """
    for index, layers in enumerate(plan.tasks):
        start = 0
        for entry in layers:
            stop = start + plan.layer_length(entry)
            if entry.index == layer:
                return TaskIndex(index), entry, slice(start, stop)
            start = stop
    raise ValueError(f"the plan edits no layer {layer}")


def first_layer(plan: Plan) -> LayerIndex:
    """Name the lowest edited layer: its keys do not depend on any other layer's update."""
    return LayerIndex(plan.editing.layers[0].index)


def statistics_of(plan: Plan, layer: LayerIndex, vector: RingArray) -> tuple[Matrix, Matrix]:
    """Read one layer of a task's vector as reals.

    Args:
        plan: public.
        layer: which one.
        vector: a sum, or one party's upload, [elements] of the task.

    Returns:
        Y [d', m] and Z [d_out, m], or S [d', d'] and T [d_out, d'] if the plan's statistics are
        dense; Z and T with the rows of decoys, if there are any.
    """
    _, entry, place = layer_of(plan, layer)
    reals, outputs = plan_encoding(plan).decode(vector[place]), plan.summed_outputs(entry)
    if plan.aggregation.statistics == "dense":
        dense = DenseStatistics.from_vector(reals, mapped=entry.mapped, outputs=outputs)
        return dense.gram, dense.cross
    sketched = GramSketch.from_vector(reals, mapped=entry.mapped, outputs=outputs)
    return sketched.gram_sketch, sketched.cross_sketch


def frames_of(
    task: TaskIndex, transcript: Iterable[Delivery]
) -> tuple[tuple[Delivery, ...], tuple[Delivery, ...]]:
    """Return the frames of a task's uploads, and those of the sum that its opener uploaded.

    The latter are what came behind the offer, less frames that were there before: delayed copies.
    """
    uploads: list[Delivery] = []
    opened: list[Delivery] = []
    opener = None
    for delivery in transcript:
        if delivery.task != task:
            continue
        if delivery.kind == "sum":
            opener = delivery.receiver
        elif delivery.kind == "frame":
            is_opened = delivery.sender == opener and delivery not in uploads
            (opened if is_opened else uploads).append(delivery)
    return tuple(uploads), tuple(opened)


def reassemble(
    frames: Iterable[Delivery], *, layout: TileLayout, ring: Ring
) -> dict[PartyId, RingArray]:
    """Put the frames of each party together; parties with a gap are left out."""
    payloads: dict[PartyId, dict[int, bytes | memoryview]] = {}
    for delivery in frames:
        try:
            tile = decode_frame(delivery.data, layout=layout)
        except MalformedMessageError:
            continue  # damaged on the way; the machine refused it, too
        payloads.setdefault(delivery.sender, {})[tile.index] = tile.payload
    return {
        party: from_bytes(ring, b"".join(tiles[index] for index in range(layout.tiles)))
        for party, tiles in sorted(payloads.items())
        if len(tiles) == layout.tiles
    }


def uploads_of(plan: Plan, task: TaskIndex, transcript: Iterable[Delivery]) -> Uploads:
    """Return each party's complete upload of a task: ring elements, or the words of ciphertexts."""
    frames, _ = frames_of(task, transcript)
    return reassemble(frames, layout=TileLayout.of(plan, task), ring=plan_encoding(plan).ring)


def messages_of(
    task: TaskIndex, transcript: Iterable[Delivery]
) -> Iterator[tuple[Delivery, Envelope, Message]]:
    """Read the control messages of a task in order; those that were damaged are left out."""
    for delivery in transcript:
        if delivery.kind != "packet" or delivery.task != task:
            continue
        try:
            envelope = decode_packet(delivery.data).envelope
            yield delivery, envelope, decode_body(envelope.kind, envelope.body)
        except MalformedMessageError:
            continue


def proposed_survivors(task: TaskIndex, transcript: Iterable[Delivery]) -> frozenset[PartyId]:
    """Return whose contributions the aggregator proposed to open; nobody's if it never did."""
    for delivery, _, message in messages_of(task, transcript):
        if delivery.sender == AGGREGATOR and isinstance(message, ProposeSurvivors):
            return frozenset(contribution.sender for contribution in message.contributions)
    return frozenset()
