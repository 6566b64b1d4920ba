"""States of the aggregator in one secure sum. Each collects one round's answers.

    CollectingAdvertisements → CollectingShares → CollectingConfirmations → CollectingContributions
    → CollectingSurvivorConfirmations → CollectingUnmaskings → Opening → CollectingVerifications
    → Completed, and from every one of them → Aborted.

With encrypted sums Summing → CollectingOpening stand in the place of CollectingUnmaskings.

A round ends when everybody whom it waits for has answered or left, or when the driver closes it
(deadline passed, or the silent ones gave no sign of life). The aggregator never holds a private
key, a seed or an unmasked contribution; from r5 on it holds, for each party, shares of one kind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from collabedit.acceptance import Vote
from collabedit.crypto.graph import Neighbourhood
from collabedit.crypto.masking import SignedMask
from collabedit.crypto.signing import SigningKey
from collabedit.errors import AbortReason, SessionAbortedError
from collabedit.ids import PartyId
from collabedit.plan import Plan
from collabedit.proto.messages import (
    Abort,
    Advertise,
    Context,
    Contribute,
    Envelope,
    Packet,
    ShareKeys,
    SumOpened,
    Unmask,
)


@dataclass(frozen=True, slots=True)
class TaskSetup:
    """What holds through a task.

    Attributes:
        plan: the plan as the operator gave it.
        context: plan digest, session, task, chain.
        identity: signs everything.
        expected: whom r0 waits for: everybody in the first task, later whoever is still there.
    """

    plan: Plan
    context: Context
    identity: SigningKey = field(repr=False)
    expected: frozenset[PartyId]


@dataclass(frozen=True, slots=True)
class Dropout:
    """A party that was waited for in `round` and did not answer, or left.

    Attributes:
        reason: as it said when it left, None if it fell silent.
        accused: whom it blamed in its signed farewell. A claim: nobody else can check it.
    """

    party: PartyId
    round: str
    reason: AbortReason | None = None
    accused: PartyId | None = None


@dataclass(frozen=True, slots=True)
class StrayShare:
    """Shares of `owner` that don't lie on the polynomial which leads to its committed secret.

    Whoever revealed them altered them, or the owner dealt them so: it cannot be told which.
    """

    owner: PartyId
    revealed_by: tuple[PartyId, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """What every collecting state carries.

    Attributes:
        setup: see there.
        gone: left by their own word since the task began.
        dropouts: who fell silent or left, and in which round.
        farewells: what those in `gone` said.
    """

    setup: TaskSetup
    gone: frozenset[PartyId] = frozenset()
    dropouts: tuple[Dropout, ...] = ()
    farewells: Mapping[PartyId, Abort] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CollectingAdvertisements:
    """r0."""

    progress: Progress
    envelopes: Mapping[PartyId, Envelope] = field(default_factory=dict, repr=False)
    answers: Mapping[PartyId, Advertise] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class CollectingShares:
    """r1. `graph` follows from the roster's size and holds to the end of the task."""

    progress: Progress
    advertisements: tuple[Envelope, ...] = field(repr=False)
    roster: Mapping[PartyId, Advertise] = field(repr=False)
    graph: Neighbourhood
    packets: Mapping[PartyId, Packet] = field(default_factory=dict, repr=False)
    answers: Mapping[PartyId, ShareKeys] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class CollectingConfirmations:
    """r2. `sharers` maps everybody in the transcript to what they committed to."""

    progress: Progress
    roster: Mapping[PartyId, Advertise] = field(repr=False)
    sharers: Mapping[PartyId, ShareKeys] = field(repr=False)
    graph: Neighbourhood
    transcript: bytes
    answers: Mapping[PartyId, Envelope] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class CollectingContributions:
    """r3. Counts an upload only once every tile is stored and matches the signed root."""

    progress: Progress
    roster: Mapping[PartyId, Advertise] = field(repr=False)
    sharers: Mapping[PartyId, ShareKeys] = field(repr=False)
    graph: Neighbourhood
    transcript: bytes
    confirmed: frozenset[PartyId]
    envelopes: Mapping[PartyId, Envelope] = field(default_factory=dict, repr=False)
    answers: Mapping[PartyId, Contribute] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class CollectingSurvivorConfirmations:
    """r4."""

    progress: Progress
    roster: Mapping[PartyId, Advertise] = field(repr=False)
    sharers: Mapping[PartyId, ShareKeys] = field(repr=False)
    graph: Neighbourhood
    survivors: frozenset[PartyId]
    survivor_transcript: bytes
    answers: Mapping[PartyId, Envelope] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class CollectingUnmaskings:
    """r5. Only `confirmed`, who signed the survivor set, were asked for shares."""

    progress: Progress
    roster: Mapping[PartyId, Advertise] = field(repr=False)
    sharers: Mapping[PartyId, ShareKeys] = field(repr=False)
    graph: Neighbourhood
    survivors: frozenset[PartyId]
    confirmed: frozenset[PartyId]
    answers: Mapping[PartyId, Unmask] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Summing:
    """r4 of encrypted sums done: the driver adds the survivors' ciphertexts.

    Attributes:
        opener: who alone may open the sum.
        confirmed: survivors who signed the survivor set.
    """

    progress: Progress
    survivors: frozenset[PartyId]
    opener: PartyId
    confirmed: frozenset[PartyId]


@dataclass(frozen=True, slots=True)
class CollectingOpening:
    """r5 of encrypted sums. Counts an opening only once every tile of it is stored."""

    progress: Progress
    survivors: frozenset[PartyId]
    opener: PartyId
    confirmed: frozenset[PartyId]
    sum_digest: bytes
    answers: Mapping[PartyId, SumOpened] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Opening:
    """r5 done: the driver sums the survivors' tiles, takes these masks off, and merges.

    Attributes:
        masks: what the sum of the survivors' vectors still carries.
        awaiting: survivors who are still there to receive the release.
        strays: wrong shares that were outvoted.
        opener: of an encrypted sum, who uploaded the opened integers.
    """

    progress: Progress
    survivors: frozenset[PartyId]
    masks: tuple[SignedMask, ...] = field(repr=False)
    awaiting: frozenset[PartyId]
    strays: tuple[StrayShare, ...] = ()
    opener: PartyId | None = None


@dataclass(frozen=True, slots=True)
class CollectingVerifications:
    """r6. `votes` are those of `answers` in a voted task, and empty in all others."""

    progress: Progress
    survivors: frozenset[PartyId]
    awaiting: frozenset[PartyId]
    update_digest: bytes
    sum_digest: bytes
    answers: Mapping[PartyId, Envelope] = field(default_factory=dict, repr=False)
    votes: Mapping[PartyId, Vote] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completed:
    """Terminal. `present` have verified the update; they are who the next task waits for."""

    survivors: frozenset[PartyId]
    present: frozenset[PartyId]
    update_digest: bytes
    sum_digest: bytes
    dropouts: tuple[Dropout, ...]
    votes: Mapping[PartyId, Vote] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Aborted:
    """Terminal, with the first reason that applied. `votes` if these are the reason."""

    reason: AbortReason
    culprit: PartyId | None
    detail: str
    dropouts: tuple[Dropout, ...] = ()
    votes: Mapping[PartyId, Vote] = field(default_factory=dict)

    def to_error(self, plan: Plan) -> SessionAbortedError:
        """Return the error that says so, with reason and culprit."""
        return SessionAbortedError(
            self.reason,
            self.detail.removeprefix(f"{self.reason.name}: "),
            culprit="" if self.culprit is None else plan.party_name(self.culprit),
        )


Collecting: TypeAlias = (
    CollectingAdvertisements
    | CollectingShares
    | CollectingConfirmations
    | CollectingContributions
    | CollectingSurvivorConfirmations
    | CollectingUnmaskings
    | CollectingOpening
    | CollectingVerifications
)
Working: TypeAlias = Summing | Opening
"""States in which the driver works, and nobody is waited for."""

State: TypeAlias = Collecting | Working | Completed | Aborted


@dataclass(frozen=True, slots=True)
class RoundClosed:
    """Local event: go on with who has answered."""


@dataclass(frozen=True, slots=True)
class Merged:
    """Local event: the sum is opened and merged."""

    update_digest: bytes
    update_bytes: int
    sum_digest: bytes


@dataclass(frozen=True, slots=True)
class Summed:
    """Local event: the ciphertexts are added, and what the opener is offered is stored."""

    sum_digest: bytes
    sum_bytes: int


@dataclass(frozen=True, slots=True)
class MergeRefused:
    """Local event: the opened sums do not allow a merge, or there is no sum to open."""

    detail: str
    reason: AbortReason = AbortReason.MERGE_FAILED


Event: TypeAlias = RoundClosed | Summed | Merged | MergeRefused


@dataclass(frozen=True, slots=True)
class Outbound:
    """A packet and its receiver."""

    receiver: PartyId
    packet: Packet


@dataclass(frozen=True, slots=True)
class Step:
    """The state that follows, and what to send."""

    state: State
    outbound: tuple[Outbound, ...] = ()
