"""Domain messages of the secure sum. `docs/SPEC.md` sections 3 and 4 define each field.

A message says nothing of who sent it, in which session, or whether it is authentic: that is the
`Envelope` around it. Lists are tuples in ascending party order; the codec refuses any other order,
so one set has one encoding. Messages that carry shares hide them from `repr`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from collabedit.acceptance import Vote
from collabedit.errors import AbortReason
from collabedit.ids import PartyId, TaskIndex

PROTOCOL_VERSION = 1
DIGEST_BYTES = 32
KEY_BYTES = 32
SHARE_BYTES = 33
SIGNATURE_BYTES = 64
SESSION_ID_BYTES = 32


@dataclass(frozen=True, slots=True)
class Context:
    """Where a statement belongs; part of every signature (SPEC 3.1).

    Attributes:
        plan_digest: 32 bytes.
        session_id: 32 bytes, chosen by the aggregator; zeros before the welcome.
        task: which secure sum of the session.
        chain: 32 bytes that stand for the updates released before this task.
    """

    plan_digest: bytes
    session_id: bytes
    task: TaskIndex
    chain: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A serialised message with its sender, context and signature, kept byte for byte."""

    context: Context
    sender: PartyId
    kind: int
    body: bytes = field(repr=False)
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Packet:
    """An envelope and the data that its body binds by digest."""

    envelope: Envelope
    attachments: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Join:
    """A party asks to enter the session of its plan."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """The aggregator's answer; the envelope's context carries the session id."""


@dataclass(frozen=True, slots=True)
class Advertise:
    """r0: public keys of this task."""

    mask_public: bytes
    seal_public: bytes


@dataclass(frozen=True, slots=True)
class Roster:
    """r0: every advertisement that arrived."""

    advertisements: tuple[Envelope, ...]


@dataclass(frozen=True, slots=True)
class ShareKeys:
    """r1: commitments, and digests of the sealed shares by receiver."""

    self_mask_commitment: bytes
    group_commitment: bytes
    digests: Mapping[PartyId, bytes]


@dataclass(frozen=True, slots=True)
class RelayShares:
    """r1: the `ShareKeys` of everybody whose shares are relayed."""

    commitments: tuple[Envelope, ...]


@dataclass(frozen=True, slots=True)
class Confirm:
    """r2: the transcript that this party saw."""

    transcript: bytes


@dataclass(frozen=True, slots=True)
class Confirmed:
    """r2: the confirmations that arrived."""

    confirmations: tuple[Envelope, ...]


@dataclass(frozen=True, slots=True)
class Contribute:
    """r3: what this party uploaded; of ciphertexts also the digest of their seeds, else empty."""

    elements: int
    tiles: int
    root: bytes
    seeds: bytes = b""


@dataclass(frozen=True, slots=True)
class ProposeSurvivors:
    """r4: the `Contribute` of everybody whose upload is complete."""

    contributions: tuple[Envelope, ...]


@dataclass(frozen=True, slots=True)
class ConfirmSurvivors:
    """r4: the survivor set that this party saw."""

    transcript: bytes


@dataclass(frozen=True, slots=True)
class SurvivorsConfirmed:
    """r4: the confirmations that arrived."""

    confirmations: tuple[Envelope, ...]


@dataclass(frozen=True, slots=True)
class SelfMaskShare:
    """Share of a survivor's self-mask seed."""

    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class MaskKeyShare:
    """Share of a dropped party's mask secret key."""

    value: bytes = field(repr=False)


Share: TypeAlias = SelfMaskShare | MaskKeyShare


@dataclass(frozen=True, slots=True)
class Unmask:
    """r5: one share of each party of the transcript. A mapping cannot hold two for one owner."""

    shares: Mapping[PartyId, Share] = field(repr=False)


@dataclass(frozen=True, slots=True)
class OfferSum:
    """r5 of encrypted sums: the opener may fetch the sum; its digest and length."""

    sum_digest: bytes
    sum_bytes: int


@dataclass(frozen=True, slots=True)
class SumOpened:
    """r5 of encrypted sums: what the opener uploaded, of which offer."""

    sum_digest: bytes
    elements: int
    tiles: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Release:
    """r5: digests of the merged update and of the opened sum."""

    update_digest: bytes
    update_bytes: int
    sum_digest: bytes


@dataclass(frozen=True, slots=True)
class VerifyUpdate:
    """r6: the update that this party fetched, the sum that it was told of, its vote if asked."""

    update_digest: bytes
    sum_digest: bytes
    vote: Vote = Vote.NONE


@dataclass(frozen=True, slots=True)
class UpdateVerified:
    """r6: the statements that arrived."""

    confirmations: tuple[Envelope, ...]


@dataclass(frozen=True, slots=True)
class Abort:
    """Any round: the sender leaves the session. `culprit` is None if nobody is known."""

    reason: AbortReason
    culprit: PartyId | None


Message: TypeAlias = (
    Join
    | Welcome
    | Advertise
    | Roster
    | ShareKeys
    | RelayShares
    | Confirm
    | Confirmed
    | Contribute
    | ProposeSurvivors
    | ConfirmSurvivors
    | SurvivorsConfirmed
    | Unmask
    | OfferSum
    | SumOpened
    | Release
    | VerifyUpdate
    | UpdateVerified
    | Abort
)

KINDS: Mapping[type, int] = {
    Join: 1,
    Welcome: 2,
    Advertise: 10,
    Roster: 11,
    ShareKeys: 20,
    RelayShares: 21,
    Confirm: 30,
    Confirmed: 31,
    Contribute: 40,
    ProposeSurvivors: 41,
    ConfirmSurvivors: 50,
    SurvivorsConfirmed: 51,
    Unmask: 60,
    Release: 61,
    OfferSum: 62,
    SumOpened: 63,
    VerifyUpdate: 70,
    UpdateVerified: 71,
    Abort: 90,
}
"""Wire numbers, SPEC 3.2. Never renumber. The tens digit is the round that the message starts or
answers, plus one; what the aggregator relays at the end of a round keeps that round's digit."""
