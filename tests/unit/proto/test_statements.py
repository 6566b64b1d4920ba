"""Relayed lists, transcripts, and the reasons that go on the wire."""

from dataclasses import replace

import pytest

from collabedit.crypto.signing import SigningKey
from collabedit.errors import (
    AbortReason,
    CryptoError,
    InvalidPublicKeyError,
    InvalidSealError,
    InvalidShareError,
    InvalidSignatureError,
    MalformedMessageError,
    ProtocolError,
    UnexpectedMessageError,
)
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.proto import messages as m
from collabedit.proto.envelope import sign_message
from collabedit.proto.statements import (
    RefusalError,
    open_list,
    owner_context,
    reason_of,
    roster_transcript,
    share_associated_data,
    survivor_transcript,
)
from tests.support.lies import Refusal

KEYS = {PartyId(i): SigningKey.from_seed(bytes([i + 1]) * 32) for i in range(6)}
CONTEXT = m.Context(b"p" * 32, b"s" * 32, TaskIndex(3), b"c" * 32)
OTHER = replace(CONTEXT, task=TaskIndex(4))


def signed(party: int, message: m.Message, key: int | None = None) -> m.Envelope:
    signer = KEYS[PartyId(party if key is None else key)]
    return sign_message(message, context=CONTEXT, sender=PartyId(party), key=signer)


CONFIRM = m.Confirm(b"t" * 32)
LISTED = tuple(signed(party, CONFIRM) for party in (1, 2, 3))


def opened(
    *envelopes: m.Envelope, threshold: int = 3, allowed: int = 4
) -> dict[PartyId, m.Confirm]:
    return open_list(
        envelopes,
        m.Confirm,
        context=CONTEXT,
        identities=lambda party: KEYS[party].verify_key.to_bytes(),
        allowed=[PartyId(i) for i in range(1, 5)],
        threshold=threshold,
        relay=AGGREGATOR,
    )


def refused(*envelopes: m.Envelope) -> tuple[AbortReason, PartyId | None]:
    with pytest.raises(RefusalError) as caught:
        opened(*envelopes)
    return caught.value.reason, caught.value.culprit


def test_a_list_opens_to_its_statements() -> None:
    assert opened(*LISTED) == {1: CONFIRM, 2: CONFIRM, 3: CONFIRM}


def test_each_rule_of_a_list_has_its_reason_and_blames_the_relay() -> None:
    assert refused(*LISTED, signed(5, CONFIRM)) == (AbortReason.UNKNOWN_PARTY, AGGREGATOR)
    assert refused(*LISTED, signed(4, CONFIRM, key=1)) == (
        AbortReason.INVALID_SIGNATURE,
        AGGREGATOR,
    )
    assert refused(*LISTED, signed(4, m.VerifyUpdate(b"t" * 32, b"u" * 32))) == (
        AbortReason.MALFORMED_MESSAGE,
        AGGREGATOR,
    )
    assert refused(*LISTED[:2]) == (AbortReason.BELOW_THRESHOLD, None)


@pytest.mark.lie(
    role="aggregator",
    lie="lists one party twice, past the decoder",
    round="any",
    refused_by="REPEATED_PARTY",
)
def test_a_party_that_is_listed_twice_refuses_the_list(refusal: Refusal) -> None:
    reason, culprit = refused(*LISTED, LISTED[0])
    refusal(reason)
    assert culprit == AGGREGATOR


def test_one_bad_entry_refuses_the_list_even_if_enough_others_are_good() -> None:
    with pytest.raises(RefusalError):
        opened(*LISTED, signed(4, CONFIRM, key=1), threshold=2)


ADVERTISED = tuple(signed(p, m.Advertise(bytes([p]) * 32, bytes([p + 9]) * 32)) for p in (1, 2, 3))
COMMITTED = tuple(signed(p, m.ShareKeys(bytes([p]) * 32, bytes(32), {})) for p in (1, 2, 3))
CONTRIBUTED = tuple(signed(p, m.Contribute(5, 1, bytes([p]) * 32)) for p in (1, 2, 3))


def test_the_roster_transcript_depends_on_everything_that_it_stands_for() -> None:
    def transcript(
        context: m.Context = CONTEXT,
        advertisements: tuple[m.Envelope, ...] = ADVERTISED,
        commitments: tuple[m.Envelope, ...] = COMMITTED,
    ) -> bytes:
        return roster_transcript(context, advertisements=advertisements, commitments=commitments)

    changed = signed(2, m.Advertise(bytes(32), bytes([9]) * 32))
    recommitted = signed(2, m.ShareKeys(bytes(32), bytes(32), {}))
    digests = signed(2, m.ShareKeys(bytes([2]) * 32, bytes(32), {PartyId(1): bytes(32)}))
    variants = [
        transcript(),
        transcript(context=OTHER),
        transcript(advertisements=ADVERTISED[:2]),
        transcript(advertisements=(ADVERTISED[0], changed, ADVERTISED[2])),
        transcript(commitments=COMMITTED[:2]),
        transcript(commitments=COMMITTED[1:]),
        transcript(commitments=(COMMITTED[0], recommitted, COMMITTED[2])),
        transcript(commitments=(COMMITTED[0], digests, COMMITTED[2])),
        transcript(advertisements=(*ADVERTISED, COMMITTED[0]), commitments=COMMITTED[1:]),
        transcript(advertisements=(replace(ADVERTISED[0], sender=PartyId(4)), *ADVERTISED[1:])),
    ]
    assert len(set(variants)) == len(variants)


def test_the_survivor_transcript_depends_on_everything_that_it_stands_for() -> None:
    other = signed(2, m.Contribute(5, 1, bytes(32)))
    variants = [
        survivor_transcript(CONTEXT, roster=b"r" * 32, contributions=CONTRIBUTED),
        survivor_transcript(OTHER, roster=b"r" * 32, contributions=CONTRIBUTED),
        survivor_transcript(CONTEXT, roster=b"q" * 32, contributions=CONTRIBUTED),
        survivor_transcript(CONTEXT, roster=b"r" * 32, contributions=CONTRIBUTED[:2]),
        survivor_transcript(
            CONTEXT, roster=b"r" * 32, contributions=(CONTRIBUTED[0], other, CONTRIBUTED[2])
        ),
    ]
    assert len(set(variants)) == len(variants)


def test_associated_data_and_owner_contexts_tell_everybody_apart() -> None:
    one, two = PartyId(1), PartyId(2)
    labels = {
        share_associated_data(context, sender=sender, receiver=receiver)
        for context in (CONTEXT, OTHER)
        for sender, receiver in ((one, two), (two, one), (one, one))
    }
    assert len(labels) == 6
    assert len({owner_context(c, p) for c in (CONTEXT, OTHER) for p in (one, two)}) == 4


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RefusalError(AbortReason.TIMEOUT, "x", culprit=None), AbortReason.TIMEOUT),
        (InvalidSignatureError("x"), AbortReason.INVALID_SIGNATURE),
        (MalformedMessageError("x"), AbortReason.MALFORMED_MESSAGE),
        (InvalidSealError("x"), AbortReason.INTERNAL),
        (InvalidPublicKeyError("x"), AbortReason.INTERNAL),
        (InvalidShareError("x"), AbortReason.INTERNAL),
        (UnexpectedMessageError("x"), AbortReason.INTERNAL),
    ],
)
def test_exceptions_of_the_lower_layers_have_a_reason(
    error: ProtocolError | CryptoError, reason: AbortReason
) -> None:
    assert reason_of(error) is reason
