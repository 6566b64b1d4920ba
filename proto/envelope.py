"""Signed statements: what a signature covers, and the single entrance for a peer's messages.

SPEC 3.1. The signature is over the exact body bytes that travel, with everything that says where
they belong: version, plan, session, task, chain, kind, sender. A statement therefore cannot be
moved to another plan, session, task, round or sender, nor presented after another history of
released updates. Relayed envelopes are kept byte for byte, so a third person can check them.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from collabedit.crypto.kdf import encode_fields, transcript_hash
from collabedit.crypto.signing import SigningKey, VerifyKey
from collabedit.errors import InvalidPublicKeyError, MalformedMessageError, PlanError
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.plan import Plan
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body, encode_body

T = TypeVar("T", bound=m.Message)

_ENVELOPE: Final = encode_fields("collabedit/v1/envelope")

Identities = Callable[[PartyId], bytes]
"""Looks up the Ed25519 key that the plan pins for a sender, 0 being the aggregator."""


@functools.lru_cache(maxsize=16)
def _context_fields(version: int, context: m.Context) -> bytes:
    return encode_fields(
        version, context.plan_digest, context.session_id, context.task, context.chain
    )


def context_fields(context: m.Context) -> bytes:
    """Encode a context for labels, associated data and transcripts (SPEC 2.3)."""
    # Hundreds of statements of a task share their context: it is encoded once.
    return _context_fields(m.PROTOCOL_VERSION, context)


def first_chain(plan_digest: bytes, session_id: bytes) -> bytes:
    """Return the chain of a session's first task (SPEC 2.4)."""
    return transcript_hash("chain", plan_digest, session_id)


def next_chain(chain: bytes, update_digest: bytes) -> bytes:
    """Extend the chain by a released update (SPEC 2.4)."""
    return transcript_hash("chain", chain, update_digest)


def session_digest(plan_digest: bytes, session_id: bytes, updates: Iterable[bytes]) -> bytes:
    """Return the chain after a session's last task, given the digests of all its updates.

    Later plans name the session by it (SPEC 2.4).
    """
    return functools.reduce(next_chain, updates, first_chain(plan_digest, session_id))


def _signed_bytes(context: m.Context, sender: PartyId, kind: int, body: bytes) -> bytes:
    # The encoding of a list is the concatenation of the encodings of its fields.
    return _ENVELOPE + context_fields(context) + encode_fields(kind, sender, body)


def sign_message(
    message: m.Message, *, context: m.Context, sender: PartyId, key: SigningKey
) -> m.Envelope:
    """Serialise and sign `message` as `sender`."""
    kind, body = m.KINDS[type(message)], encode_body(message)
    signature = key.sign(_signed_bytes(context, sender, kind, body))
    return m.Envelope(context, sender, kind, body, signature)


def check_identities(plan: Plan) -> None:
    """Check that every identity of a plan is a usable Ed25519 key.

    Raises:
        PlanError: names whose is not.
    """
    for member in (AGGREGATOR, *plan.party_ids):
        try:
            VerifyKey.from_bytes(plan.identity(member))
        except InvalidPublicKeyError as error:
            raise PlanError(f"the identity of {plan.party_name(member)}: {error}") from error


@functools.lru_cache(maxsize=1024)
def _verify_key(public: bytes) -> VerifyKey:
    # Loading one key again for each of its signatures would add a tenth to the verification.
    return VerifyKey.from_bytes(public)


def verify_signature(envelope: m.Envelope, *, identities: Identities) -> None:
    """Check the signature under the identity pinned for the sender that the envelope names.

    Raises:
        InvalidSignatureError: it does not verify.
    """
    _verify_key(identities(envelope.sender)).verify(
        envelope.signature,
        _signed_bytes(envelope.context, envelope.sender, envelope.kind, envelope.body),
    )


def open_envelope(
    envelope: m.Envelope, expected: type[T], *, context: m.Context, identities: Identities
) -> T:
    """Check that an envelope belongs here, is authentic and holds an `expected` message.

    The caller has checked that the plan or roster knows the sender.

    Raises:
        InvalidSignatureError: the signature does not verify under the pinned identity.
        MalformedMessageError: another context or kind, or a body that does not decode.
    """
    if envelope.context != context:
        raise MalformedMessageError("statement belongs to another plan, session, task or history")
    if envelope.kind != m.KINDS[expected]:
        raise MalformedMessageError(f"kind {envelope.kind} where {expected.__name__} belongs")
    verify_signature(envelope, identities=identities)
    message = decode_body(envelope.kind, envelope.body)
    if not isinstance(message, expected):
        raise MalformedMessageError(f"kind {envelope.kind} decodes to {type(message).__name__}")
    return message
