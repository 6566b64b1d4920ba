"""States of a party in one secure sum. A state holds what its round may know, and nothing else.

    AwaitingRoster ─Roster→ AwaitingShares ─RelayShares→ AwaitingConfirmations ─Confirmed→
    Contributing ─Uploaded→ AwaitingSurvivors ─ProposeSurvivors→ AwaitingSurvivorConfirmations
    ─SurvivorsConfirmed→ AwaitingRelease ─Release→ FetchingUpdate ─UpdateFetched→
    AwaitingVerification ─UpdateVerified→ Completed

With encrypted sums the opener goes from AwaitingSurvivorConfirmations ─SurvivorsConfirmed→
AwaitingSum ─OfferSum→ OpeningSum ─Uploaded→ AwaitingRelease, the others straight to the last,

and from every state but the last ─Abort or a broken rule→ Aborted. Private keys live from r0 to r3,
shares from r1 to r5; what a later round doesn't need is gone with the state that held it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from collabedit.acceptance import Vote
from collabedit.crypto.agreement import AgreementKey
from collabedit.crypto.masking import SignedMask
from collabedit.crypto.rng import Randomness
from collabedit.crypto.sealed import Channel
from collabedit.crypto.signing import SigningKey
from collabedit.errors import AbortReason
from collabedit.ids import PartyId
from collabedit.plan import Plan
from collabedit.proto.messages import Advertise, Context, Envelope, Packet


@dataclass(frozen=True, slots=True)
class TaskSetup:
    """What a party brings into a task and keeps through it.

    Attributes:
        plan: the plan as this party read it; its floors and bounds rule, not the aggregator's word.
        context: plan digest, session, task, chain.
        me: this party.
        identity: signs everything.
        randomness: the one door to entropy.
    """

    plan: Plan
    context: Context
    me: PartyId
    identity: SigningKey = field(repr=False)
    randomness: Randomness = field(repr=False)


@dataclass(frozen=True, slots=True)
class HeldShares:
    """Our shares of one owner's two secrets, 33 bytes each."""

    self_mask: bytes = field(repr=False)
    mask_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AwaitingRoster:
    """r0: our keys are advertised."""

    setup: TaskSetup
    mask_key: AgreementKey = field(repr=False)
    seal_key: AgreementKey = field(repr=False)
    advertisement: Envelope = field(repr=False)


@dataclass(frozen=True, slots=True)
class AwaitingShares:
    """r1: our secrets are shared and sealed to those whom `channels` has, all others if full."""

    setup: TaskSetup
    advertisements: tuple[Envelope, ...] = field(repr=False)
    roster: Mapping[PartyId, Advertise] = field(repr=False)
    mask_key: AgreementKey = field(repr=False)
    seal_key: AgreementKey = field(repr=False)
    channels: Mapping[PartyId, Channel] = field(repr=False)
    self_mask_seed: bytes = field(repr=False)
    group_part: bytes = field(repr=False)
    own_shares: HeldShares = field(repr=False)
    commitment: Envelope = field(repr=False)


@dataclass(frozen=True, slots=True)
class AwaitingConfirmations:
    """r2: we hold a share of everybody in the transcript who chose us, and signed it.

    Attributes:
        roster: keys of the transcript's parties.
        neighbours: with whom of them we share a mask.
        group_secret: None in a sparse graph, where nobody has everybody's part.
    """

    setup: TaskSetup
    roster: Mapping[PartyId, Advertise] = field(repr=False)
    neighbours: frozenset[PartyId]
    transcript: bytes
    shares: Mapping[PartyId, HeldShares] = field(repr=False)
    mask_key: AgreementKey = field(repr=False)
    self_mask_seed: bytes = field(repr=False)
    group_secret: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Contributing:
    """r3: the masks are fixed; the driver masks and uploads the tiles.

    `parties` are the transcript's from here on, `shares` those that we hold of them.
    """

    setup: TaskSetup
    parties: frozenset[PartyId]
    transcript: bytes
    shares: Mapping[PartyId, HeldShares] = field(repr=False)
    masks: tuple[SignedMask, ...] = field(repr=False)
    group_secret: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class AwaitingSurvivors:
    """r3 done: our contribution is out; the masks are gone."""

    setup: TaskSetup
    parties: frozenset[PartyId]
    transcript: bytes
    shares: Mapping[PartyId, HeldShares] = field(repr=False)
    contribution: Envelope = field(repr=False)
    group_secret: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class AwaitingSurvivorConfirmations:
    """r4: we signed one survivor set.

    `seeds` are the digests that its parties signed of theirs, of encrypted sums.
    """

    setup: TaskSetup
    shares: Mapping[PartyId, HeldShares] = field(repr=False)
    survivors: frozenset[PartyId]
    survivor_transcript: bytes
    group_secret: bytes | None = field(repr=False)
    seeds: Mapping[PartyId, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class AwaitingSum:
    """r5 of encrypted sums: we are the opener, and the sum is not yet offered."""

    setup: TaskSetup
    survivors: frozenset[PartyId]
    group_secret: bytes | None = field(repr=False)
    seeds: Mapping[PartyId, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class OpeningSum:
    """r5 of encrypted sums: the driver fetches the one sum of this digest, opens and uploads it."""

    setup: TaskSetup
    survivors: frozenset[PartyId]
    group_secret: bytes | None = field(repr=False)
    seeds: Mapping[PartyId, bytes] = field(repr=False)
    sum_digest: bytes
    sum_bytes: int


@dataclass(frozen=True, slots=True)
class AwaitingRelease:
    """r5: one share of each owner is revealed; none is kept."""

    setup: TaskSetup
    survivors: frozenset[PartyId]
    group_secret: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class FetchingUpdate:
    """r6: the update is released; the driver downloads it."""

    setup: TaskSetup
    survivors: frozenset[PartyId]
    update_digest: bytes
    update_bytes: int
    sum_digest: bytes
    group_secret: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class AwaitingVerification:
    """r6: we signed the update that we fetched, and in a voted task how we vote on it."""

    setup: TaskSetup
    survivors: frozenset[PartyId]
    update_digest: bytes
    sum_digest: bytes
    statement: Envelope = field(repr=False)
    group_secret: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Completed:
    """Terminal: at least a threshold of parties holds the same update. No share, no key.

    Attributes:
        votes: of everybody who voted, enough of them to accept; empty where no vote was asked.
        group_secret: of a task whose released bytes mean nothing without it; None for others.
    """

    survivors: frozenset[PartyId]
    update_digest: bytes
    sum_digest: bytes
    votes: Mapping[PartyId, Vote] = field(default_factory=dict)
    group_secret: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Aborted:
    """Terminal, with the first reason that applied.

    Attributes:
        reason: why.
        culprit: who is at fault; None if that cannot be told.
        detail: one line for people.
    """

    reason: AbortReason
    culprit: PartyId | None
    detail: str


State: TypeAlias = (
    AwaitingRoster
    | AwaitingShares
    | AwaitingConfirmations
    | Contributing
    | AwaitingSurvivors
    | AwaitingSurvivorConfirmations
    | AwaitingSum
    | OpeningSum
    | AwaitingRelease
    | FetchingUpdate
    | AwaitingVerification
    | Completed
    | Aborted
)


@dataclass(frozen=True, slots=True)
class Uploaded:
    """Local event: every tile of the masked vector, ciphertexts or opened sum was acknowledged.

    `seeds` is the digest of the ciphertexts' seeds, else empty.
    """

    elements: int
    tiles: int
    root: bytes
    seeds: bytes = b""


@dataclass(frozen=True, slots=True)
class SumRefused:
    """Local event: the offered sum was not opened, or not released.

    `culprit` is None if nobody can tell who spoiled it.
    """

    reason: AbortReason
    detail: str
    culprit: PartyId | None


@dataclass(frozen=True, slots=True)
class UpdateFetched:
    """Local event: the update was downloaded; `digest` is the SHA-256 of what came.

    `vote` is this party's in a voted task, and NONE in all others.
    """

    digest: bytes
    vote: Vote = Vote.NONE


@dataclass(frozen=True, slots=True)
class UpdateRefused:
    """Local event: the released update, of the announced digest, did not pass its check."""

    reason: AbortReason
    detail: str


@dataclass(frozen=True, slots=True)
class LeaveSession:
    """Local event: this party cannot go on."""

    reason: AbortReason


@dataclass(frozen=True, slots=True)
class Contradicted:
    """Local event: the driver holds two statements of the aggregator of which one is a lie."""

    reason: AbortReason
    detail: str


Event: TypeAlias = (
    Uploaded | SumRefused | UpdateFetched | UpdateRefused | LeaveSession | Contradicted
)


@dataclass(frozen=True, slots=True)
class Step:
    """The state that follows, and what to send first."""

    state: State
    outbound: tuple[Packet, ...] = ()
