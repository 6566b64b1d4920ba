"""What each adversary sees of a session with ciphertexts (SPEC 4.12), cut from its transcript.

The transcript is `Outcome.transcript` of a simulated session, or the same deliveries as they pass
the aggregator of a real one. As in `views`, a view holds what its adversary may use and nothing
else. Who sees what:

* the aggregator, `EncryptedView`: uploads, and so seeds and check elements under pads; the sum that
  it offered; the integers that the opener returned;
* any party, `PartyView`: its own contribution, the group secret, the released bytes;
* the opener, `OpenerView`: besides, what it was offered and what it opened;
* the aggregator with a party, `EncryptedCollusion`; with parties of a masked session, for the
  comparison, `MaskedCollusion`, which has every mask that one of them knows;
* who gets the model, `views.RecipientView`: the update, by `PartyView.outside`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, TypeVar

import numpy as np

from collabedit.aggregator.unmasking import recover_masks
from collabedit.attacks.views import (
    AggregatorView,
    RecipientView,
    Uploads,
    frames_of,
    messages_of,
    proposed_survivors,
    reassemble,
    uploads_of,
)
from collabedit.ciphertexts import WORDS, check_words, opened_layout
from collabedit.crypto.masking import SignedMask
from collabedit.crypto.ring import RingArray, add_into
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId, TaskIndex
from collabedit.party.closing import Released
from collabedit.plan import Plan
from collabedit.proto.codec import decode_body
from collabedit.proto.messages import (
    Advertise,
    Context,
    Envelope,
    RelayShares,
    Roster,
    ShareKeys,
    Unmask,
)
from collabedit.proto.neighbours import find_neighbours
from collabedit.recording import Delivery
from collabedit.sketch import LowRankUpdate

Body = TypeVar("Body", Advertise, ShareKeys)


@dataclass(frozen=True, slots=True)
class EncryptedTask:
    """One task at the aggregator.

    Attributes:
        context: of its statements; public.
        survivors: whose uploads are in the sum.
        uploads: of each party that completed one, [upload_length] words: chunks, check elements.
        offer: what the opener was sent: survivors' seeds, chunks of the sum; empty if nothing was.
        opened: the integers that it returned, [statistics] in two's complement; None if none.
    """

    context: Context
    survivors: frozenset[PartyId]
    uploads: Uploads = field(repr=False)
    offer: bytes = field(repr=False)
    opened: RingArray | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class EncryptedView:
    """One session as the aggregator keeps it (`Adversary.HONEST_AGGREGATOR`).

    Attributes:
        plan: public.
        tasks: those of which anything was uploaded.
    """

    plan: Plan
    tasks: Mapping[TaskIndex, EncryptedTask]

    @classmethod
    def of(cls, plan: Plan, transcript: Sequence[Delivery]) -> Self:
        """Cut the view, also from a session that ended early."""
        tasks = {}
        for index in range(len(plan.tasks)):
            task = TaskIndex(index)
            uploads = uploads_of(plan, task, transcript)
            if not uploads:
                continue
            _, frames = frames_of(task, transcript)
            returned = reassemble(frames, layout=opened_layout(plan, task), ring=WORDS)
            tasks[task] = EncryptedTask(
                context_of(task, transcript),
                proposed_survivors(task, transcript),
                uploads,
                _last(transcript, task, "sum"),
                next(iter(returned.values()), None),
            )
        return cls(plan, tasks)

    def as_masked(self) -> AggregatorView:
        """Return what an attack on sums reads: opened integers, and the sum of check elements.

        Bit for bit what masks would have left (SPEC 4.12(g)).
        """
        sums = {}
        for task, each in self.tasks.items():
            if each.opened is None:
                continue
            total: RingArray = np.zeros(self.plan.task_length(task), dtype=WORDS.dtype)
            total[: len(each.opened)] = each.opened
            for party in sorted(each.survivors):
                checks = each.uploads[party][check_words(self.plan, task)]
                add_into(total[len(each.opened) :], checks)
            sums[task] = total
        return AggregatorView(
            self.plan,
            {task: each.uploads for task, each in self.tasks.items()},
            sums,
            {task: each.survivors for task, each in self.tasks.items()},
        )


@dataclass(frozen=True, slots=True)
class HeldTask:
    """What a party has of a task, and never sends.

    Attributes:
        context: of the task.
        group_secret: 32 bytes.
        contribution: what it encrypts or masks, [task_length], in the secret basis.
        masks: of a masked task: its self mask, then one for each other party, ascending.
    """

    context: Context
    group_secret: bytes = field(repr=False)
    contribution: RingArray = field(repr=False)
    masks: tuple[SignedMask, ...] = field(repr=False, default=())


@dataclass(frozen=True, slots=True)
class PartyView:
    """One party that follows the protocol (`Adversary.PARTY`).

    Attributes:
        plan: public.
        party: which.
        own: what it has of each task that it contributed to.
        survivors: of each of these tasks.
        released: the bytes that it downloaded, of each released task.
    """

    plan: Plan
    party: PartyId
    own: Mapping[TaskIndex, HeldTask]
    survivors: Mapping[TaskIndex, frozenset[PartyId]]
    released: Mapping[TaskIndex, bytes] = field(repr=False)

    @classmethod
    def of(
        cls,
        plan: Plan,
        party: PartyId,
        transcript: Sequence[Delivery],
        own: Mapping[TaskIndex, HeldTask],
    ) -> Self:
        """Cut the view.

        Args:
            plan: public.
            party: which.
            transcript: of the session; only what this party received of it is kept.
            own: what it kept itself.
        """
        received = [delivery for delivery in transcript if delivery.receiver == party]
        released = {task: _last(received, task, "bundle") for task in own}
        return cls(
            plan,
            party,
            own,
            {task: proposed_survivors(task, received) for task in own},
            {task: data for task, data in released.items() if data},
        )

    def outside(self) -> RecipientView:
        """Return what who gets the model sees: the update in the model's coordinates, no secret."""
        updates: dict[LayerIndex, LowRankUpdate] = {}
        for task, data in self.released.items():
            held = self.own[task]
            released = Released(
                self.plan, held.context, data, self.survivors[task], held.group_secret
            )
            updates |= released.opened.updates
        return RecipientView(self.plan, updates)


@dataclass(frozen=True, slots=True)
class OpenerView:
    """The party that opens sums (`Adversary.PARTY`).

    Attributes:
        party: what it has as a party.
        offers: what it was offered, of each task that it opens.
        opened: what it returned, [statistics].
    """

    party: PartyView
    offers: Mapping[TaskIndex, bytes] = field(repr=False)
    opened: Mapping[TaskIndex, RingArray] = field(repr=False)

    @classmethod
    def of(cls, party: PartyView, transcript: Sequence[Delivery]) -> Self:
        """Cut the view of a party; it has no offers if it was not the opener."""
        me = party.party
        seen = [each for each in transcript if me in {each.receiver, each.sender}]
        offers = {task: _last(seen, task, "sum") for task in party.own}
        opened = {}
        for task in party.own:
            _, frames = frames_of(task, seen)
            layout = opened_layout(party.plan, task)
            for each in reassemble(frames, layout=layout, ring=WORDS).values():
                opened[task] = each
        return cls(party, {task: offer for task, offer in offers.items() if offer}, opened)


@dataclass(frozen=True, slots=True)
class EncryptedCollusion:
    """The aggregator of ciphertexts together with one party (`Adversary.COLLUDING`)."""

    aggregator: EncryptedView
    party: PartyView


@dataclass(frozen=True, slots=True)
class MaskedCollusion:
    """The aggregator of masked sums together with parties (`Adversary.COLLUDING`).

    Attributes:
        aggregator: what the aggregator sees.
        parties: what these parties have.
        known: of each upload the masks that one of them knows: self masks, whose shares were
            revealed; masks of parties that dropped out; and those that a colluding party shares.
    """

    aggregator: AggregatorView
    parties: tuple[PartyView, ...]
    known: Mapping[TaskIndex, Mapping[PartyId, tuple[SignedMask, ...]]] = field(repr=False)

    @classmethod
    def of(
        cls,
        aggregator: AggregatorView,
        parties: Sequence[PartyView],
        transcript: Sequence[Delivery],
    ) -> Self:
        """Put them together, and collect the masks of all tasks whose sum was opened.

        Args:
            aggregator: its view.
            parties: theirs; their contributions are in the sums.
            transcript: of the session.
        """
        known = {}
        for task in aggregator.sums:
            masks = _revealed_masks(aggregator.plan, task, transcript)
            colluding = {each.party: each.own[task].masks for each in parties}
            for party, own in colluding.items():
                others = sorted(masks.keys() - {party})
                for other, mask in zip(others, own[1:], strict=True):
                    masks[other].append(SignedMask(-mask.sign, mask.keystream))
            masks |= {party: list(own) for party, own in colluding.items()}
            known[task] = {party: tuple(each) for party, each in masks.items()}
        return cls(aggregator, tuple(parties), known)


def context_of(task: TaskIndex, transcript: Iterable[Delivery]) -> Context:
    """Return the context of a task's statements.

    Raises:
        ValueError: the aggregator made none.
    """
    for delivery, envelope, _ in messages_of(task, transcript):
        if delivery.sender == AGGREGATOR:
            return envelope.context
    raise ValueError(f"the transcript has no statement of task {task}")


def _last(transcript: Iterable[Delivery], task: TaskIndex, kind: str) -> bytes:
    found = [each.data for each in transcript if each.task == task and each.kind == kind]
    return found[-1] if found else b""


def _revealed_masks(
    plan: Plan, task: TaskIndex, transcript: Iterable[Delivery]
) -> dict[PartyId, list[SignedMask]]:
    """Return the masks of each upload that the aggregator itself comes to know (SPEC 4.6).

    Of a full graph without liars, which is what closed sums have.
    """
    roster: dict[PartyId, Advertise] = {}
    sharers: dict[PartyId, ShareKeys] = {}
    revealed: dict[PartyId, Unmask] = {}
    survivors = proposed_survivors(task, transcript)
    for delivery, envelope, message in messages_of(task, transcript):
        if isinstance(message, Roster):
            roster = _listed(message.advertisements, Advertise)
        elif isinstance(message, RelayShares):
            sharers |= _listed(message.commitments, ShareKeys)
        elif isinstance(message, Unmask) and delivery.receiver == AGGREGATOR:
            revealed[envelope.sender] = message
    recovered = iter(
        recover_masks(
            context_of(task, transcript),
            roster=roster,
            sharers=sharers,
            survivors=survivors,
            revealed=revealed,
            threshold=plan.threshold,
        ).masks
    )
    # In their order: of each party in turn its self mask, or if it dropped out its pairs' masks.
    masks: dict[PartyId, list[SignedMask]] = {party: [] for party in sorted(sharers)}
    for owner in sorted(sharers):
        if owner in survivors:
            masks[owner].append(next(recovered))
            continue
        for survivor in sorted(survivors & find_neighbours(owner, sharers)):
            masks[survivor].append(next(recovered))
    return masks


def _listed(envelopes: Iterable[Envelope], kind: type[Body]) -> dict[PartyId, Body]:
    """Read the statements of a list, by sender."""
    found = {}
    for envelope in envelopes:
        message = decode_body(envelope.kind, envelope.body)
        if isinstance(message, kind):
            found[envelope.sender] = message
    return found
