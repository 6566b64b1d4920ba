"""A signature covers everything that says where a statement belongs."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit.crypto.signing import SigningKey
from collabedit.errors import InvalidSignatureError, MalformedMessageError
from collabedit.ids import PartyId, TaskIndex
from collabedit.proto import messages as m
from collabedit.proto.envelope import (
    context_fields,
    first_chain,
    next_chain,
    open_envelope,
    sign_message,
    verify_signature,
)

KEYS = {PartyId(i): SigningKey.from_seed(bytes([i + 1]) * 32) for i in range(4)}
CONTEXT = m.Context(b"p" * 32, b"s" * 32, TaskIndex(3), b"c" * 32)
MESSAGE = m.Confirm(b"t" * 32)
TWO = PartyId(2)
ENVELOPE = sign_message(MESSAGE, context=CONTEXT, sender=TWO, key=KEYS[TWO])


def identities(party: PartyId) -> bytes:
    return KEYS[party].verify_key.to_bytes()


def open_confirm(envelope: m.Envelope, context: m.Context = CONTEXT) -> m.Confirm:
    return open_envelope(envelope, m.Confirm, context=context, identities=identities)


def test_what_is_signed_opens() -> None:
    assert open_confirm(ENVELOPE) == MESSAGE


OTHER_CONTEXTS = {
    "plan_digest": replace(CONTEXT, plan_digest=b"q" * 32),
    "session_id": replace(CONTEXT, session_id=b"q" * 32),
    "task": replace(CONTEXT, task=TaskIndex(4)),
    "chain": replace(CONTEXT, chain=b"q" * 32),
}


@pytest.mark.parametrize("what", OTHER_CONTEXTS)
def test_a_statement_of_another_context_does_not_belong_here(what: str) -> None:
    with pytest.raises(MalformedMessageError, match="another plan, session, task or history"):
        open_confirm(ENVELOPE, OTHER_CONTEXTS[what])


@pytest.mark.parametrize("what", OTHER_CONTEXTS)
def test_a_signature_binds_every_field_of_the_context(what: str) -> None:
    moved = replace(ENVELOPE, context=OTHER_CONTEXTS[what])
    with pytest.raises(InvalidSignatureError):
        open_confirm(moved, OTHER_CONTEXTS[what])


def test_a_signature_binds_the_sender() -> None:
    # Even if two senders had the same key.
    same = KEYS[TWO].verify_key.to_bytes()
    with pytest.raises(InvalidSignatureError):
        verify_signature(replace(ENVELOPE, sender=PartyId(1)), identities=lambda _party: same)


@pytest.mark.parametrize("kind", sorted(set(m.KINDS.values()) - {ENVELOPE.kind}))
def test_a_signature_binds_the_kind(kind: int) -> None:
    with pytest.raises(InvalidSignatureError):
        verify_signature(replace(ENVELOPE, kind=kind), identities=identities)


def test_a_statement_of_the_same_form_cannot_stand_for_another_kind() -> None:
    # Confirm and ConfirmSurvivors have the same bytes; the kind tells them apart.
    other = sign_message(m.ConfirmSurvivors(b"t" * 32), context=CONTEXT, sender=TWO, key=KEYS[TWO])
    assert other.body == ENVELOPE.body
    with pytest.raises(MalformedMessageError, match="where Confirm belongs"):
        open_confirm(other)
    with pytest.raises(InvalidSignatureError):
        open_confirm(replace(other, kind=ENVELOPE.kind))


@pytest.mark.parametrize("bit", range(0, 8 * len(ENVELOPE.body), 7))
def test_a_signature_binds_every_bit_of_the_body(bit: int) -> None:
    body = bytearray(ENVELOPE.body)
    body[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidSignatureError):
        verify_signature(replace(ENVELOPE, body=bytes(body)), identities=identities)


@pytest.mark.parametrize("bit", range(0, 512, 5))
def test_every_bit_of_the_signature_matters(bit: int) -> None:
    signature = bytearray(ENVELOPE.signature)
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidSignatureError):
        verify_signature(replace(ENVELOPE, signature=bytes(signature)), identities=identities)


def test_a_signature_is_under_the_senders_own_key() -> None:
    forged = sign_message(MESSAGE, context=CONTEXT, sender=TWO, key=KEYS[PartyId(1)])
    with pytest.raises(InvalidSignatureError):
        open_confirm(forged)


def test_the_version_is_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "PROTOCOL_VERSION", 2)
    with pytest.raises(InvalidSignatureError):
        open_confirm(ENVELOPE)


def test_a_signed_body_that_does_not_decode_is_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    from collabedit.proto import envelope as module

    monkeypatch.setattr(module, "encode_body", lambda _message: b"\x0a\x01x")
    made = sign_message(MESSAGE, context=CONTEXT, sender=TWO, key=KEYS[TWO])
    with pytest.raises(MalformedMessageError, match="must have 32"):
        open_confirm(made)


@settings(max_examples=60, deadline=None)
@given(
    plan=st.binary(min_size=32, max_size=32),
    session=st.binary(min_size=32, max_size=32),
    task=st.integers(0, 2**32 - 1),
    chain=st.binary(min_size=32, max_size=32),
)
def test_contexts_have_different_encodings(
    plan: bytes, session: bytes, task: int, chain: bytes
) -> None:
    context = m.Context(plan, session, TaskIndex(task), chain)
    assert (context_fields(context) == context_fields(CONTEXT)) == (context == CONTEXT)


def test_a_chain_depends_on_everything_released_and_on_its_order() -> None:
    start = first_chain(b"p" * 32, b"s" * 32)
    one, two = b"1" * 32, b"2" * 32
    chains = {
        start,
        first_chain(b"s" * 32, b"p" * 32),
        next_chain(start, one),
        next_chain(start, two),
        next_chain(next_chain(start, one), two),
        next_chain(next_chain(start, two), one),
    }
    assert len(chains) == 6
