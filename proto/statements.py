"""Checks and hashes that both roles make on lists of signed statements.

A list that the aggregator relays is only as good as its entries: each must come from a party that
may be there, once, in this very context, with a valid signature under the pinned identity. The two
transcripts (SPEC 4.3 and 4.5) are computed here and nowhere else, so the two ends cannot drift.
"""

import hashlib
from collections.abc import Collection, Sequence
from typing import TypeVar

from collabedit.crypto.kdf import encode_fields, transcript_hash
from collabedit.errors import (
    AbortReason,
    CryptoError,
    InvalidSignatureError,
    MalformedMessageError,
    ProtocolError,
)
from collabedit.ids import PartyId
from collabedit.proto import messages as m
from collabedit.proto.envelope import Identities, context_fields, open_envelope

T = TypeVar("T", bound=m.Message)


class RefusalError(ProtocolError):
    """A peer's statement breaks a rule of the protocol.

    Attributes:
        reason: the rule, as a wire-stable value.
        culprit: who broke it, None if that cannot be told.
    """

    def __init__(self, reason: AbortReason, detail: str, *, culprit: PartyId | None) -> None:
        self.reason = reason
        self.culprit = culprit
        super().__init__(f"{reason.name}: {detail}")


def reason_of(error: ProtocolError | CryptoError) -> AbortReason:
    """Map an exception of the lower layers to the reason that goes on the wire."""
    if isinstance(error, RefusalError):
        return error.reason
    if isinstance(error, InvalidSignatureError):
        return AbortReason.INVALID_SIGNATURE
    if isinstance(error, MalformedMessageError):
        return AbortReason.MALFORMED_MESSAGE
    return AbortReason.INTERNAL


def open_list(
    envelopes: Sequence[m.Envelope],
    expected: type[T],
    *,
    context: m.Context,
    identities: Identities,
    allowed: Collection[PartyId],
    threshold: int,
    relay: PartyId,
) -> dict[PartyId, T]:
    """Open every statement of a relayed list.

    Args:
        envelopes: as relayed.
        expected: the message that each must hold.
        context: the context that each must state.
        identities: pinned keys.
        allowed: parties that may be in the list.
        threshold: fewest entries.
        relay: who assembled the list and is at fault if it cannot be right.

    Raises:
        RefusalError: UNKNOWN_PARTY, REPEATED_PARTY, BELOW_THRESHOLD, INVALID_SIGNATURE or
            MALFORMED_MESSAGE.
    """
    opened: dict[PartyId, T] = {}
    for envelope in envelopes:
        sender = envelope.sender
        if sender not in allowed:
            raise RefusalError(
                AbortReason.UNKNOWN_PARTY, f"{expected.__name__} of party {sender}", culprit=relay
            )
        if sender in opened:
            raise RefusalError(
                AbortReason.REPEATED_PARTY, f"party {sender} is listed twice", culprit=relay
            )
        try:
            opened[sender] = open_envelope(
                envelope, expected, context=context, identities=identities
            )
        except (CryptoError, MalformedMessageError) as error:
            # An honest relay checks before it relays, so whoever relayed it is at fault.
            raise RefusalError(
                reason_of(error), f"{expected.__name__} of party {sender}: {error}", culprit=relay
            ) from error
    if len(opened) < threshold:
        raise RefusalError(
            AbortReason.BELOW_THRESHOLD,
            f"{len(opened)} x {expected.__name__}, the plan asks for {threshold}",
            culprit=None,
        )
    return opened


def body_digest(envelope: m.Envelope) -> bytes:
    """Return SHA-256 of the envelope's body."""
    return hashlib.sha256(envelope.body).digest()


def _listing(envelopes: Sequence[m.Envelope]) -> bytes:
    return b"".join(encode_fields(e.sender, body_digest(e)) for e in envelopes)


def roster_transcript(
    context: m.Context,
    *,
    advertisements: Sequence[m.Envelope],
    commitments: Sequence[m.Envelope],
) -> bytes:
    """Hash what r0 and r1 established: whose keys, whose shares, every sealed share (SPEC 4.3)."""
    return transcript_hash(
        "roster", context_fields(context), _listing(advertisements), _listing(commitments)
    )


def survivor_transcript(
    context: m.Context, *, roster: bytes, contributions: Sequence[m.Envelope]
) -> bytes:
    """Hash what r3 established: whose upload, and its root, is in the sum (SPEC 4.5)."""
    return transcript_hash("survivors", context_fields(context), roster, _listing(contributions))


def share_associated_data(context: m.Context, *, sender: PartyId, receiver: PartyId) -> bytes:
    """Associated data of a sealed share (SPEC 4.2)."""
    return encode_fields("collabedit/v1/share", context_fields(context), sender, receiver)


def owner_context(context: m.Context, owner: PartyId) -> bytes:
    """Context of a party's own commitments and self mask (SPEC 4.2)."""
    return encode_fields(context_fields(context), owner)
