"""Every way in which the aggregator can lie to a party, and what the party answers.

Scene: five parties, threshold 4, the party under test is party 1. `full`: everybody contributes.
`dropped`: party 5 falls silent in r3. The aggregator has its own key and whatever others signed.
"""

import hashlib
from dataclasses import replace

import pytest

from collabedit.errors import (
    AbortReason,
    InvalidSignatureError,
    MalformedMessageError,
    UnexpectedMessageError,
)
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.party.task import advance, receive
from collabedit.proto import messages as m
from collabedit.proto.envelope import next_chain, open_envelope, sign_message
from tests.protocol.stage import DIGEST, Walk, changed_digest, fingerprint, kind_of
from tests.support.lies import Refusal

ONE = PartyId(1)
LOW_ORDER = (1).to_bytes(32, "little")
NOT_CANONICAL = (2**255 - 19 + 9).to_bytes(32, "little")


def assert_refused(
    walk: Walk,
    state: s.State,
    message: m.Message,
    *attachments: bytes,
    reason: AbortReason,
    culprit: int | None,
) -> AbortReason:
    """The party aborts for this reason, tells the aggregator so in its own name, keeps nothing.

    Returns the reason.
    """
    before = fingerprint(state)
    step = receive(state, walk.packet(message, *attachments))
    assert isinstance(step.state, s.Aborted)
    assert (step.state.reason, step.state.culprit) == (reason, culprit), step.state.detail
    (farewell,) = step.outbound
    assert not farewell.attachments
    assert farewell.envelope.sender == ONE
    said = open_envelope(
        farewell.envelope,
        m.Abort,
        context=walk.context,
        identities=walk.federation.plan.identity,
    )
    assert said == m.Abort(reason, None if culprit is None else PartyId(culprit))
    assert fingerprint(state) == before
    with pytest.raises(UnexpectedMessageError):
        receive(step.state, walk.packet(message, *attachments))
    return step.state.reason


def ordered(*envelopes: m.Envelope) -> tuple[m.Envelope, ...]:
    return tuple(sorted(envelopes, key=lambda envelope: envelope.sender))


def envelopes(walk: Walk, message: type, *parties: int) -> tuple[m.Envelope, ...]:
    return tuple(walk.envelope(party, message) for party in parties)


# r0: the roster.


def roster_refused(
    walk: Walk, *advertisements: m.Envelope, reason: AbortReason, culprit: int | None = AGGREGATOR
) -> AbortReason:
    roster = m.Roster(advertisements)
    return assert_refused(walk, walk.state(1, m.Roster), roster, reason=reason, culprit=culprit)


@pytest.mark.lie(
    role="aggregator",
    lie="leaves the receiver out of the roster",
    round="r0",
    refused_by="MISSING_SELF",
)
def test_a_roster_that_leaves_out_the_party_is_refused(full: Walk, refusal: Refusal) -> None:
    listed = envelopes(full, m.Advertise, 2, 3, 4, 5)
    refusal(roster_refused(full, *listed, reason=AbortReason.MISSING_SELF))


@pytest.mark.lie(
    role="aggregator",
    lie="shows a party another key in that party's own name",
    round="r0",
    refused_by="ALTERED_OWN_MESSAGE",
)
def test_a_roster_with_another_key_of_ours_is_refused(full: Walk, refusal: Refusal) -> None:
    # Only a thief of our identity key could do this; the party notices even then.
    forged = full.sign(full.message(2, m.Advertise), sender=1)
    listed = (forged, *envelopes(full, m.Advertise, 3, 4, 5))
    refusal(roster_refused(full, *listed, reason=AbortReason.ALTERED_OWN_MESSAGE))


@pytest.mark.lie(
    role="aggregator",
    lie="adds a party that is not in the plan",
    round="r0",
    refused_by="UNKNOWN_PARTY",
)
def test_a_roster_with_a_stranger_is_refused(full: Walk, refusal: Refusal) -> None:
    stranger = full.sign(full.message(2, m.Advertise), sender=6, key=2)
    listed = (*envelopes(full, m.Advertise, 1, 2, 3, 4, 5), stranger)
    refusal(roster_refused(full, *listed, reason=AbortReason.UNKNOWN_PARTY))


@pytest.mark.lie(
    role="aggregator",
    lie="adds itself to the roster as a party",
    round="r0",
    refused_by="UNKNOWN_PARTY",
)
def test_a_roster_with_the_aggregator_as_a_party_is_refused(full: Walk, refusal: Refusal) -> None:
    own = full.sign(full.message(2, m.Advertise))
    listed = (own, *envelopes(full, m.Advertise, 1, 2, 3, 4, 5))
    refusal(roster_refused(full, *listed, reason=AbortReason.UNKNOWN_PARTY))


@pytest.mark.lie(
    role="aggregator",
    lie="lists one party twice on the wire",
    round="r0",
    refused_by="MalformedMessageError",
)
def test_a_roster_that_lists_a_party_twice_cannot_even_be_decoded(
    full: Walk, refusal: Refusal
) -> None:
    state = full.state(1, m.Roster)
    listed = envelopes(full, m.Advertise, 1, 2, 2, 3, 4)
    before = fingerprint(state)
    with pytest.raises(MalformedMessageError, match="ascending") as caught:
        receive(state, full.packet(m.Roster(listed)))
    refusal(caught.value)
    assert fingerprint(state) == before


@pytest.mark.lie(
    role="aggregator",
    lie="asks for a sum over fewer parties than the threshold",
    round="r0",
    refused_by="BELOW_THRESHOLD",
)
def test_a_roster_below_the_threshold_is_refused(full: Walk, refusal: Refusal) -> None:
    listed = envelopes(full, m.Advertise, 1, 2, 3)
    refusal(roster_refused(full, *listed, reason=AbortReason.BELOW_THRESHOLD, culprit=None))


@pytest.mark.lie(
    role="aggregator",
    lie="swaps a party's keys for its own",
    round="r0",
    refused_by="INVALID_SIGNATURE",
)
def test_a_forged_advertisement_is_refused(full: Walk, refusal: Refusal) -> None:
    forged = full.sign(m.Advertise(bytes([9]) * 32, bytes([10]) * 32), sender=2, key=0)
    listed = (full.envelope(1, m.Advertise), forged, *envelopes(full, m.Advertise, 3, 4, 5))
    refusal(roster_refused(full, *listed, reason=AbortReason.INVALID_SIGNATURE))


@pytest.mark.lie(
    role="aggregator",
    lie="flips one bit of a relayed key",
    round="r0",
    refused_by="INVALID_SIGNATURE",
)
@pytest.mark.parametrize("bit", [0, 100, 255])
def test_an_advertisement_with_one_flipped_bit_is_refused(
    bit: int, full: Walk, refusal: Refusal
) -> None:
    honest = full.envelope(3, m.Advertise)
    body = bytearray(honest.body)
    body[2 + bit // 8] ^= 1 << bit % 8
    listed = ordered(replace(honest, body=bytes(body)), *envelopes(full, m.Advertise, 1, 2, 4, 5))
    refusal(roster_refused(full, *listed, reason=AbortReason.INVALID_SIGNATURE))


@pytest.mark.lie(
    role="party",
    lie="advertises a low-order or non-canonical point, and a coordinator relays it",
    round="r0",
    refused_by="INVALID_PUBLIC_KEY",
)
@pytest.mark.parametrize("key", [bytes(32), LOW_ORDER, NOT_CANONICAL])
@pytest.mark.parametrize("which", ["mask_public", "seal_public"])
def test_an_unusable_key_is_its_signers_fault(
    key: bytes, which: str, full: Walk, refusal: Refusal
) -> None:
    advertise = replace(full.message(4, m.Advertise), **{which: key})
    listed = ordered(full.sign(advertise, sender=4), *envelopes(full, m.Advertise, 1, 2, 3, 5))
    refusal(roster_refused(full, *listed, reason=AbortReason.INVALID_PUBLIC_KEY, culprit=4))


@pytest.mark.lie(
    role="party",
    lie="advertises one key for both purposes, and a coordinator relays it",
    round="r0",
    refused_by="INVALID_PUBLIC_KEY",
)
def test_one_key_for_both_purposes_is_its_signers_fault(full: Walk, refusal: Refusal) -> None:
    key = full.message(4, m.Advertise).mask_public
    listed = ordered(
        full.sign(m.Advertise(key, key), sender=4), *envelopes(full, m.Advertise, 1, 2, 3, 5)
    )
    refusal(roster_refused(full, *listed, reason=AbortReason.INVALID_PUBLIC_KEY, culprit=4))


@pytest.mark.lie(
    role="aggregator",
    lie="relays an accomplice's copy of another party's keys",
    round="r0",
    refused_by="INVALID_PUBLIC_KEY",
)
@pytest.mark.parametrize("copier", [2, 4])
def test_a_copied_key_does_not_frame_whoever_had_it_first(
    copier: int, full: Walk, refusal: Refusal
) -> None:
    # Party 3's keys, signed by a neighbour before or after it in the list.
    copied = full.sign(full.message(3, m.Advertise), sender=copier)
    rest = [party for party in (1, 2, 3, 4, 5) if party != copier]
    listed = ordered(copied, *envelopes(full, m.Advertise, *rest))
    refusal(roster_refused(full, *listed, reason=AbortReason.INVALID_PUBLIC_KEY))


@pytest.mark.lie(
    role="aggregator",
    lie="reflects a party's own keys under another name",
    round="r0",
    refused_by="INVALID_PUBLIC_KEY",
)
def test_our_own_key_reflected_by_another_party_is_not_our_fault(
    full: Walk, refusal: Refusal
) -> None:
    copied = full.sign(full.message(1, m.Advertise), sender=2)
    listed = ordered(copied, *envelopes(full, m.Advertise, 1, 3, 4, 5))
    refusal(roster_refused(full, *listed, reason=AbortReason.INVALID_PUBLIC_KEY))


@pytest.mark.lie(
    role="aggregator",
    lie="replays an advertisement of another session",
    round="r0",
    refused_by="MALFORMED_MESSAGE",
)
def test_advertisements_of_another_session_are_refused(
    full: Walk, other_session: Walk, refusal: Refusal
) -> None:
    listed = ordered(
        other_session.envelope(5, m.Advertise), *envelopes(full, m.Advertise, 1, 2, 3, 4)
    )
    refusal(roster_refused(full, *listed, reason=AbortReason.MALFORMED_MESSAGE))


@pytest.mark.lie(
    role="aggregator",
    lie="puts another statement of a party in place of its advertisement",
    round="r0",
    refused_by="MALFORMED_MESSAGE",
)
def test_another_message_in_the_place_of_an_advertisement_is_refused(
    full: Walk, refusal: Refusal
) -> None:
    listed = ordered(full.envelope(5, m.Confirm), *envelopes(full, m.Advertise, 1, 2, 3, 4))
    refusal(roster_refused(full, *listed, reason=AbortReason.MALFORMED_MESSAGE))


# r1: the relayed shares.


def shares_refused(
    walk: Walk,
    commitments: tuple[m.Envelope, ...],
    attachments: tuple[bytes, ...],
    *,
    reason: AbortReason,
    culprit: int | None = AGGREGATOR,
) -> AbortReason:
    relay = m.RelayShares(commitments)
    state = walk.state(1, m.RelayShares)
    return assert_refused(walk, state, relay, *attachments, reason=reason, culprit=culprit)


def relayed(walk: Walk) -> tuple[tuple[m.Envelope, ...], tuple[bytes, ...]]:
    packet = walk.shown[ONE, m.RelayShares]
    return walk.shown_message(1, m.RelayShares).commitments, packet.attachments


@pytest.mark.lie(
    role="aggregator",
    lie="changes a bit of a sealed share",
    round="r1",
    refused_by="DIGEST_MISMATCH",
)
def test_a_replaced_sealed_share_is_refused(full: Walk, refusal: Refusal) -> None:
    commitments, sealed = relayed(full)
    changed = bytes([sealed[1][0] ^ 1]) + sealed[1][1:]
    attachments = (sealed[0], changed, *sealed[2:])
    refusal(shares_refused(full, commitments, attachments, reason=AbortReason.DIGEST_MISMATCH))


@pytest.mark.lie(
    role="aggregator",
    lie="swaps sealed shares of two senders",
    round="r1",
    refused_by="DIGEST_MISMATCH",
)
def test_sealed_shares_in_another_order_are_refused(full: Walk, refusal: Refusal) -> None:
    commitments, sealed = relayed(full)
    refusal(shares_refused(full, commitments, sealed[::-1], reason=AbortReason.DIGEST_MISMATCH))


@pytest.mark.lie(
    role="aggregator",
    lie="relays a share that was sealed for somebody else",
    round="r1",
    refused_by="DIGEST_MISMATCH",
)
def test_a_share_that_was_sealed_for_another_party_is_refused(full: Walk, refusal: Refusal) -> None:
    commitments, sealed = relayed(full)
    for_two = full.shown[PartyId(2), m.RelayShares].attachments
    attachments = (*sealed[:3], for_two[3])
    refusal(shares_refused(full, commitments, attachments, reason=AbortReason.DIGEST_MISMATCH))


@pytest.mark.lie(
    role="aggregator", lie="withholds sealed shares", round="r1", refused_by="MALFORMED_MESSAGE"
)
@pytest.mark.parametrize("count", [0, 3])
def test_an_omitted_sealed_share_is_refused(count: int, full: Walk, refusal: Refusal) -> None:
    commitments, sealed = relayed(full)
    refusal(shares_refused(full, commitments, sealed[:count], reason=AbortReason.MALFORMED_MESSAGE))


@pytest.mark.lie(
    role="aggregator", lie="adds a sealed share", round="r1", refused_by="MALFORMED_MESSAGE"
)
def test_a_surplus_sealed_share_is_refused(full: Walk, refusal: Refusal) -> None:
    commitments, sealed = relayed(full)
    attachments = (*sealed, sealed[0])
    refusal(shares_refused(full, commitments, attachments, reason=AbortReason.MALFORMED_MESSAGE))


@pytest.mark.lie(
    role="aggregator",
    lie="relays shares of fewer parties than the threshold",
    round="r1",
    refused_by="BELOW_THRESHOLD",
)
def test_commitments_of_fewer_than_the_threshold_are_refused(full: Walk, refusal: Refusal) -> None:
    commitments, sealed = relayed(full)
    refusal(
        shares_refused(
            full, commitments[:3], sealed[:2], reason=AbortReason.BELOW_THRESHOLD, culprit=None
        )
    )


@pytest.mark.lie(
    role="aggregator",
    lie="leaves out the receiver's own commitment",
    round="r1",
    refused_by="MISSING_SELF",
)
def test_commitments_without_our_own_are_refused(full: Walk, refusal: Refusal) -> None:
    commitments, sealed = relayed(full)
    refusal(shares_refused(full, commitments[1:], sealed, reason=AbortReason.MISSING_SELF))


@pytest.mark.lie(
    role="aggregator",
    lie="alters the receiver's own commitment",
    round="r1",
    refused_by="ALTERED_OWN_MESSAGE",
)
def test_commitments_with_another_one_of_ours_are_refused(full: Walk, refusal: Refusal) -> None:
    commitments, sealed = relayed(full)
    altered = replace(full.message(1, m.ShareKeys), group_commitment=bytes(32))
    listed = (full.sign(altered, sender=1), *commitments[1:])
    refusal(shares_refused(full, listed, sealed, reason=AbortReason.ALTERED_OWN_MESSAGE))


@pytest.mark.lie(
    role="aggregator",
    lie="relays shares of a party that was not in the roster",
    round="r1",
    refused_by="UNKNOWN_PARTY",
)
def test_commitments_of_a_party_that_is_not_in_the_roster_are_refused(
    full: Walk, refusal: Refusal
) -> None:
    # The roster that party 1 was shown had parties 1 to 4 only.
    roster = m.Roster(envelopes(full, m.Advertise, 1, 2, 3, 4))
    state = receive(full.state(1, m.Roster), full.packet(roster)).state
    commitments, sealed = relayed(full)
    refusal(
        assert_refused(
            full,
            state,
            m.RelayShares(commitments),
            *sealed,
            reason=AbortReason.UNKNOWN_PARTY,
            culprit=AGGREGATOR,
        )
    )


@pytest.mark.lie(
    role="aggregator",
    lie="relays the commitment of a party that left another one without a share",
    round="r1",
    refused_by="MALFORMED_MESSAGE",
)
def test_share_keys_for_the_wrong_receivers_are_not_relayed_by_an_honest_aggregator(
    full: Walk, refusal: Refusal
) -> None:
    commitments, sealed = relayed(full)
    honest = full.message(3, m.ShareKeys)
    digests = {party: digest for party, digest in honest.digests.items() if party != 5}
    wrong = full.sign(replace(honest, digests=digests), sender=3)
    listed = (*commitments[:2], wrong, *commitments[3:])
    refusal(shares_refused(full, listed, sealed, reason=AbortReason.MALFORMED_MESSAGE))


@pytest.mark.lie(
    role="aggregator",
    lie="shows one party a smaller roster, to blame the others for their shares",
    round="r1",
    refused_by="MALFORMED_MESSAGE",
)
def test_an_honest_party_is_not_blamed_for_the_roster_that_it_was_shown(
    full: Walk, refusal: Refusal
) -> None:
    # Party 1 is shown a roster without 5, the others are shown everybody and answer honestly.
    roster = m.Roster(envelopes(full, m.Advertise, 1, 2, 3, 4))
    step = receive(full.state(1, m.Roster), full.packet(roster))
    commitments, sealed = relayed(full)
    refusal(
        assert_refused(
            full,
            step.state,
            m.RelayShares((step.outbound[0].envelope, *commitments[1:4])),
            *sealed[:3],
            reason=AbortReason.MALFORMED_MESSAGE,
            culprit=AGGREGATOR,
        )
    )


@pytest.mark.lie(
    role="party",
    lie="signs a sealed share that does not open",
    round="r1",
    refused_by="INVALID_SEAL",
)
def test_a_signed_share_that_does_not_open_is_its_senders_fault(
    full: Walk, refusal: Refusal
) -> None:
    commitments, sealed = relayed(full)
    junk = bytes(126)
    honest = full.message(3, m.ShareKeys)
    digests = {**honest.digests, ONE: hashlib.sha256(junk).digest()}
    wrong = full.sign(replace(honest, digests=digests), sender=3)
    listed = (*commitments[:2], wrong, *commitments[3:])
    attachments = (sealed[0], junk, *sealed[2:])
    refusal(shares_refused(full, listed, attachments, reason=AbortReason.INVALID_SEAL, culprit=3))


@pytest.mark.lie(
    role="party",
    lie="sends another part of the group secret than it committed to",
    round="r1",
    refused_by="INVALID_SHARE",
)
def test_another_group_contribution_than_committed_is_its_senders_fault(
    full: Walk, refusal: Refusal
) -> None:
    commitments, sealed = relayed(full)
    wrong = full.sign(replace(full.message(3, m.ShareKeys), group_commitment=bytes(32)), sender=3)
    listed = (*commitments[:2], wrong, *commitments[3:])
    refusal(shares_refused(full, listed, sealed, reason=AbortReason.INVALID_SHARE, culprit=3))


@pytest.mark.lie(
    role="aggregator", lie="forges a party's commitment", round="r1", refused_by="INVALID_SIGNATURE"
)
def test_a_forged_commitment_is_refused(full: Walk, refusal: Refusal) -> None:
    commitments, sealed = relayed(full)
    forged = full.sign(full.message(3, m.ShareKeys), sender=3, key=0)
    listed = (*commitments[:2], forged, *commitments[3:])
    refusal(shares_refused(full, listed, sealed, reason=AbortReason.INVALID_SIGNATURE))


# r2: the confirmations.


def confirmed_refused(
    walk: Walk, *confirmations: m.Envelope, reason: AbortReason, culprit: int | None = AGGREGATOR
) -> AbortReason:
    state = walk.state(1, m.Confirmed)
    return assert_refused(walk, state, m.Confirmed(confirmations), reason=reason, culprit=culprit)


@pytest.mark.lie(
    role="aggregator",
    lie="forks the roster: two parties signed different transcripts",
    round="r2",
    refused_by="ROSTER_FORK",
)
def test_confirmations_of_another_roster_are_a_fork(full: Walk, refusal: Refusal) -> None:
    # Party 2 was shown a roster without party 5, and signed what it saw.
    roster = m.Roster(envelopes(full, m.Advertise, 1, 2, 3, 4))
    step = receive(full.state(2, m.Roster), full.packet(roster))
    assert isinstance(step.state, s.AwaitingShares)
    other = full.sign(m.Confirm(hashlib.sha256(b"another transcript").digest()), sender=2)
    listed = ordered(other, *envelopes(full, m.Confirm, 1, 3, 4, 5))
    refusal(confirmed_refused(full, *listed, reason=AbortReason.ROSTER_FORK))


@pytest.mark.lie(
    role="aggregator",
    lie="relays the shares of a party to some and not to others",
    round="r2",
    refused_by="ROSTER_FORK",
)
def test_two_rosters_give_two_transcripts(full: Walk, refusal: Refusal) -> None:
    # The aggregator relays everybody's shares to party 1, but not those of party 5 to party 2.
    commitments, sealed = relayed(full)
    one = receive(full.state(1, m.RelayShares), full.packet(m.RelayShares(commitments), *sealed))
    attachments = full.shown[PartyId(2), m.RelayShares].attachments
    two = receive(
        full.state(2, m.RelayShares),
        full.packet(m.RelayShares(commitments[:4]), *attachments[:3]),
    )
    assert isinstance(one.state, s.AwaitingConfirmations)
    assert isinstance(two.state, s.AwaitingConfirmations)
    assert one.state.transcript != two.state.transcript
    listed = ordered(two.outbound[0].envelope, *envelopes(full, m.Confirm, 1, 3, 4, 5))
    refusal(confirmed_refused(full, *listed, reason=AbortReason.ROSTER_FORK))


@pytest.mark.lie(
    role="aggregator",
    lie="goes on with too few confirmations of the roster",
    round="r2",
    refused_by="BELOW_THRESHOLD",
)
def test_too_few_confirmations_are_refused(full: Walk, refusal: Refusal) -> None:
    listed = envelopes(full, m.Confirm, 1, 2, 3)
    refusal(confirmed_refused(full, *listed, reason=AbortReason.BELOW_THRESHOLD, culprit=None))


@pytest.mark.lie(
    role="aggregator",
    lie="goes on without any confirmation of the roster",
    round="r2",
    refused_by="BELOW_THRESHOLD",
)
def test_no_confirmations_are_refused(full: Walk, refusal: Refusal) -> None:
    refusal(confirmed_refused(full, reason=AbortReason.BELOW_THRESHOLD, culprit=None))


@pytest.mark.lie(
    role="aggregator",
    lie="replays confirmations of a stale session",
    round="r2",
    refused_by="MALFORMED_MESSAGE",
)
def test_replayed_confirmations_of_another_session_are_refused(
    full: Walk, other_session: Walk, refusal: Refusal
) -> None:
    listed = (
        full.envelope(1, m.Confirm),
        *envelopes(other_session, m.Confirm, 2, 3, 4, 5),
    )
    refusal(confirmed_refused(full, *listed, reason=AbortReason.MALFORMED_MESSAGE))


@pytest.mark.lie(
    role="aggregator",
    lie="replays confirmations of another task",
    round="r2",
    refused_by="MALFORMED_MESSAGE",
)
def test_replayed_confirmations_of_another_task_are_refused(full: Walk, refusal: Refusal) -> None:
    later = replace(full.context, task=TaskIndex(1))
    listed = tuple(
        full.sign(full.message(party, m.Confirm), sender=party, context=later)
        for party in (1, 2, 3, 4, 5)
    )
    refusal(confirmed_refused(full, *listed, reason=AbortReason.MALFORMED_MESSAGE))


@pytest.mark.lie(
    role="aggregator",
    lie="pastes this session onto a confirmation of another one",
    round="r2",
    refused_by="INVALID_SIGNATURE",
)
def test_confirmations_that_a_context_was_pasted_onto_are_refused(
    full: Walk, other_session: Walk, refusal: Refusal
) -> None:
    moved = replace(other_session.envelope(2, m.Confirm), context=full.context)
    listed = ordered(moved, *envelopes(full, m.Confirm, 1, 3, 4, 5))
    refusal(confirmed_refused(full, *listed, reason=AbortReason.INVALID_SIGNATURE))


@pytest.mark.lie(
    role="aggregator",
    lie="fills up with a confirmation from outside of the transcript",
    round="r2",
    refused_by="UNKNOWN_PARTY",
)
def test_confirmations_of_parties_outside_of_the_transcript_do_not_count(
    full: Walk, refusal: Refusal
) -> None:
    # The transcript has parties 1 to 4; the confirmation of party 5 does not make up for one.
    commitments, sealed = relayed(full)
    relay = full.packet(m.RelayShares(commitments[:4]), *sealed[:3])
    step = receive(full.state(1, m.RelayShares), relay)
    assert isinstance(step.state, s.AwaitingConfirmations)
    confirm = m.Confirm(step.state.transcript)
    listed = tuple(full.sign(confirm, sender=party) for party in (1, 2, 3, 5))
    refusal(
        assert_refused(
            full,
            step.state,
            m.Confirmed(listed),
            reason=AbortReason.UNKNOWN_PARTY,
            culprit=AGGREGATOR,
        )
    )


# r4: the survivors.


def survivors_refused(
    walk: Walk, *contributions: m.Envelope, reason: AbortReason, culprit: int | None = AGGREGATOR
) -> AbortReason:
    state = walk.state(1, m.ProposeSurvivors)
    message = m.ProposeSurvivors(contributions)
    return assert_refused(walk, state, message, reason=reason, culprit=culprit)


@pytest.mark.lie(
    role="aggregator",
    lie="calls a party that contributed dropped",
    round="r4",
    refused_by="MISSING_SELF",
)
def test_survivors_without_a_party_that_contributed_are_refused_by_it(
    full: Walk, refusal: Refusal
) -> None:
    listed = envelopes(full, m.Contribute, 2, 3, 4, 5)
    refusal(survivors_refused(full, *listed, reason=AbortReason.MISSING_SELF))


@pytest.mark.lie(
    role="aggregator",
    lie="alters the receiver's own contribution",
    round="r4",
    refused_by="ALTERED_OWN_MESSAGE",
)
def test_survivors_with_another_contribution_of_ours_are_refused(
    full: Walk, refusal: Refusal
) -> None:
    altered = full.sign(replace(full.message(1, m.Contribute), root=bytes(32)), sender=1)
    listed = (altered, *envelopes(full, m.Contribute, 2, 3, 4, 5))
    refusal(survivors_refused(full, *listed, reason=AbortReason.ALTERED_OWN_MESSAGE))


@pytest.mark.lie(
    role="aggregator",
    lie="proposes fewer survivors than the threshold",
    round="r4",
    refused_by="BELOW_THRESHOLD",
)
def test_survivors_below_the_threshold_are_refused(full: Walk, refusal: Refusal) -> None:
    listed = envelopes(full, m.Contribute, 1, 2, 3)
    refusal(survivors_refused(full, *listed, reason=AbortReason.BELOW_THRESHOLD, culprit=None))


@pytest.mark.lie(
    role="aggregator",
    lie="makes up the contribution of a dropped party",
    round="r4",
    refused_by="INVALID_SIGNATURE",
)
def test_a_survivor_whose_contribution_the_aggregator_made_up_is_refused(
    dropped: Walk, refusal: Refusal
) -> None:
    forged = dropped.sign(dropped.message(4, m.Contribute), sender=5, key=0)
    listed = (*envelopes(dropped, m.Contribute, 1, 2, 3, 4), forged)
    refusal(survivors_refused(dropped, *listed, reason=AbortReason.INVALID_SIGNATURE))


@pytest.mark.lie(
    role="aggregator",
    lie="adds a survivor that is not in the plan",
    round="r4",
    refused_by="UNKNOWN_PARTY",
)
def test_a_survivor_from_outside_of_the_transcript_is_refused(full: Walk, refusal: Refusal) -> None:
    stranger = full.sign(full.message(2, m.Contribute), sender=6, key=2)
    listed = (*envelopes(full, m.Contribute, 1, 2, 3, 4, 5), stranger)
    refusal(survivors_refused(full, *listed, reason=AbortReason.UNKNOWN_PARTY))


@pytest.mark.lie(
    role="aggregator",
    lie="adds a survivor whose shares were not relayed",
    round="r4",
    refused_by="UNKNOWN_PARTY",
)
def test_a_survivor_whose_shares_were_not_relayed_is_refused(full: Walk, refusal: Refusal) -> None:
    # Party 5 is in the plan and in the roster, but the transcript has parties 1 to 4 only.
    commitments, sealed = relayed(full)
    relay = full.packet(m.RelayShares(commitments[:4]), *sealed[:3])
    confirming = receive(full.state(1, m.RelayShares), relay).state
    assert isinstance(confirming, s.AwaitingConfirmations)
    confirm = m.Confirm(confirming.transcript)
    listed = tuple(full.sign(confirm, sender=party) for party in (1, 2, 3, 4))
    contributing = receive(confirming, full.packet(m.Confirmed(listed))).state
    awaiting = advance(contributing, s.Uploaded(5, 1, bytes([1]) * 32)).state
    assert isinstance(awaiting, s.AwaitingSurvivors)
    contributions = (awaiting.contribution, *envelopes(full, m.Contribute, 2, 3, 4, 5))
    refusal(
        assert_refused(
            full,
            awaiting,
            m.ProposeSurvivors(contributions),
            reason=AbortReason.UNKNOWN_PARTY,
            culprit=AGGREGATOR,
        )
    )


@pytest.mark.lie(
    role="aggregator",
    lie="shows a second, overlapping set of survivors to a state that signed one",
    round="r4",
    refused_by="UnexpectedMessageError",
)
def test_a_second_survivor_set_is_refused_and_nothing_changes(full: Walk, refusal: Refusal) -> None:
    first = full.shown[ONE, m.ProposeSurvivors]
    signed = full.state(1, m.SurvivorsConfirmed)
    fewer = full.packet(m.ProposeSurvivors(envelopes(full, m.Contribute, 1, 2, 3, 4)))
    before = fingerprint(signed)
    for packet in (first, fewer):
        with pytest.raises(UnexpectedMessageError) as caught:
            receive(signed, packet)
        refusal(caught.value)
        assert fingerprint(signed) == before


def survivor_confirmations_refused(
    walk: Walk, *confirmations: m.Envelope, reason: AbortReason, culprit: int | None = AGGREGATOR
) -> AbortReason:
    state = walk.state(1, m.SurvivorsConfirmed)
    message = m.SurvivorsConfirmed(confirmations)
    return assert_refused(walk, state, message, reason=reason, culprit=culprit)


@pytest.mark.lie(
    role="aggregator",
    lie="forks the survivors: two parties signed different sets",
    round="r4",
    refused_by="SURVIVOR_FORK",
)
def test_confirmations_of_another_survivor_set_are_a_fork(full: Walk, refusal: Refusal) -> None:
    # Party 2 was shown survivors 1 to 4, party 1 all five: each would reveal the other kind of
    # share of party 5, and the two kinds together unmask it.
    propose = m.ProposeSurvivors(envelopes(full, m.Contribute, 1, 2, 3, 4))
    step = receive(full.state(2, m.ProposeSurvivors), full.packet(propose))
    (other,) = step.outbound
    assert kind_of(other) is m.ConfirmSurvivors
    listed = ordered(other.envelope, *envelopes(full, m.ConfirmSurvivors, 1, 3, 4, 5))
    refusal(survivor_confirmations_refused(full, *listed, reason=AbortReason.SURVIVOR_FORK))


@pytest.mark.lie(
    role="aggregator",
    lie="goes on with too few confirmations of the survivors",
    round="r4",
    refused_by="BELOW_THRESHOLD",
)
def test_too_few_confirmations_of_the_survivors_are_refused(full: Walk, refusal: Refusal) -> None:
    listed = envelopes(full, m.ConfirmSurvivors, 1, 2, 3)
    refusal(
        survivor_confirmations_refused(
            full, *listed, reason=AbortReason.BELOW_THRESHOLD, culprit=None
        )
    )


@pytest.mark.lie(
    role="aggregator",
    lie="passes confirmations of the roster off as ones of the survivors",
    round="r4",
    refused_by="MALFORMED_MESSAGE",
)
def test_confirmations_of_r2_do_not_stand_for_those_of_r4(full: Walk, refusal: Refusal) -> None:
    listed = envelopes(full, m.Confirm, 1, 2, 3, 4, 5)
    refusal(survivor_confirmations_refused(full, *listed, reason=AbortReason.MALFORMED_MESSAGE))


@pytest.mark.lie(
    role="aggregator",
    lie="fills up with the confirmation of a dropped party",
    round="r4",
    refused_by="UNKNOWN_PARTY",
)
def test_a_dropped_party_cannot_confirm_the_survivors(dropped: Walk, refusal: Refusal) -> None:
    state = dropped.state(1, m.SurvivorsConfirmed)
    assert isinstance(state, s.AwaitingSurvivorConfirmations)
    confirm = m.ConfirmSurvivors(state.survivor_transcript)
    listed = tuple(dropped.sign(confirm, sender=party) for party in (1, 2, 3, 5))
    refusal(survivor_confirmations_refused(dropped, *listed, reason=AbortReason.UNKNOWN_PARTY))


def test_no_two_thresholds_of_honest_parties_sign_different_survivors(full: Walk) -> None:
    # Any two sets of 4 of 5 parties share 3, who sign once each: a fork needs 3 who sign twice.
    plan = full.federation.plan
    assert 2 * plan.threshold - len(plan.party_ids) == 3


# r5: unmasking.


def test_exactly_one_kind_of_share_of_each_party_is_revealed(dropped: Walk) -> None:
    for party in (1, 2, 3, 4):
        shares = dropped.message(party, m.Unmask).shares
        kinds = {owner: type(share) for owner, share in shares.items()}
        assert kinds == {
            **dict.fromkeys((1, 2, 3, 4), m.SelfMaskShare),
            5: m.MaskKeyShare,
        }


@pytest.mark.lie(
    role="aggregator",
    lie="asks again for shares, of a state that holds none any more",
    round="r5",
    refused_by="UnexpectedMessageError",
)
def test_a_second_request_for_shares_is_refused_and_nothing_changes(
    full: Walk, refusal: Refusal
) -> None:
    revealed = full.state(1, m.Release)
    before = fingerprint(revealed)
    with pytest.raises(UnexpectedMessageError) as caught:
        receive(revealed, full.shown[ONE, m.SurvivorsConfirmed])
    refusal(caught.value)
    assert fingerprint(revealed) == before
    assert not hasattr(revealed, "shares")


# r6: the release.


@pytest.mark.lie(
    role="aggregator",
    lie="serves other bytes than the update it released",
    round="r6",
    refused_by="DIGEST_MISMATCH",
)
def test_a_download_that_is_not_what_was_released_is_refused(full: Walk, refusal: Refusal) -> None:
    state = full.state(1, s.UpdateFetched)
    step = advance(state, s.UpdateFetched(hashlib.sha256(b"another update").digest()))
    assert isinstance(step.state, s.Aborted)
    refusal(step.state.reason)
    assert step.state.culprit == AGGREGATOR
    assert [kind_of(packet) for packet in step.outbound] == [m.Abort]


@pytest.mark.lie(
    role="aggregator",
    lie="announces an update larger than the plan allows",
    round="r6",
    refused_by="MALFORMED_MESSAGE",
)
def test_a_release_larger_than_the_plan_allows_is_refused(full: Walk, refusal: Refusal) -> None:
    oversized = replace(full.shown_message(1, m.Release), update_bytes=1 << 40)
    state = full.state(1, m.Release)
    refusal(
        assert_refused(
            full, state, oversized, reason=AbortReason.MALFORMED_MESSAGE, culprit=AGGREGATOR
        )
    )


def verified_refused(
    walk: Walk, *confirmations: m.Envelope, reason: AbortReason, culprit: int | None = AGGREGATOR
) -> AbortReason:
    state = walk.state(1, m.UpdateVerified)
    message = m.UpdateVerified(confirmations)
    return assert_refused(walk, state, message, reason=reason, culprit=culprit)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(
            "update_digest",
            marks=pytest.mark.lie(
                role="aggregator",
                lie="forks the update: two parties were given different ones",
                round="r6",
                refused_by="UPDATE_FORK",
            ),
        ),
        pytest.param(
            "sum_digest",
            marks=pytest.mark.lie(
                role="aggregator",
                lie="tells two parties different digests of the opened sum",
                round="r6",
                refused_by="UPDATE_FORK",
            ),
        ),
    ],
)
def test_statements_on_another_update_or_sum_are_a_fork(
    changed: str, full: Walk, refusal: Refusal
) -> None:
    honest = full.message(2, m.VerifyUpdate)
    assert isinstance(honest, m.VerifyUpdate)
    other = full.sign(changed_digest(honest, changed), sender=2)
    listed = ordered(other, *envelopes(full, m.VerifyUpdate, 1, 3, 4, 5))
    refusal(verified_refused(full, *listed, reason=AbortReason.UPDATE_FORK))


@pytest.mark.lie(
    role="aggregator",
    lie="goes on with too few statements on the update",
    round="r6",
    refused_by="BELOW_THRESHOLD",
)
def test_too_few_statements_on_the_update_are_refused(full: Walk, refusal: Refusal) -> None:
    listed = envelopes(full, m.VerifyUpdate, 1, 2, 3)
    refusal(verified_refused(full, *listed, reason=AbortReason.BELOW_THRESHOLD, culprit=None))


@pytest.mark.lie(
    role="aggregator",
    lie="forges a party's statement on the update",
    round="r6",
    refused_by="INVALID_SIGNATURE",
)
def test_a_forged_statement_on_the_update_is_refused(full: Walk, refusal: Refusal) -> None:
    forged = full.sign(m.VerifyUpdate(DIGEST, DIGEST), sender=5, key=0)
    listed = (*envelopes(full, m.VerifyUpdate, 1, 2, 3, 4), forged)
    refusal(verified_refused(full, *listed, reason=AbortReason.INVALID_SIGNATURE))


@pytest.mark.lie(
    role="aggregator",
    lie="lets a dropped party vouch for the update",
    round="r6",
    refused_by="UNKNOWN_PARTY",
)
def test_a_dropped_party_cannot_vouch_for_the_update(dropped: Walk, refusal: Refusal) -> None:
    stranger = dropped.sign(m.VerifyUpdate(DIGEST, DIGEST), sender=5)
    listed = (*envelopes(dropped, m.VerifyUpdate, 1, 2, 3), stranger)
    refusal(verified_refused(dropped, *listed, reason=AbortReason.UNKNOWN_PARTY))


# Any round: whose word it is, and where it belongs.

SHOWN = (
    m.Roster,
    m.RelayShares,
    m.Confirmed,
    m.ProposeSurvivors,
    m.SurvivorsConfirmed,
    m.Release,
    m.UpdateVerified,
)


@pytest.mark.lie(
    role="aggregator",
    lie="has a party speak for the aggregator in its own name",
    round="any",
    refused_by="UnexpectedMessageError",
)
@pytest.mark.parametrize("message", SHOWN, ids=lambda kind: kind.__name__)
def test_a_message_in_the_name_of_a_party_is_refused(
    message: type, full: Walk, refusal: Refusal
) -> None:
    state, packet = full.state(1, message), full.shown[ONE, message]
    before = fingerprint(state)
    named = full.sign(full.shown_message(1, message), sender=2)
    with pytest.raises(UnexpectedMessageError, match="not the aggregator's") as caught:
        receive(state, m.Packet(named, packet.attachments))
    refusal(caught.value)
    assert fingerprint(state) == before


@pytest.mark.lie(
    role="party",
    lie="signs in the name of the aggregator",
    round="any",
    refused_by="InvalidSignatureError",
)
@pytest.mark.parametrize("message", [*SHOWN, m.Abort], ids=lambda kind: kind.__name__)
def test_a_message_that_a_party_signed_for_the_aggregator_is_refused(
    message: type, full: Walk, refusal: Refusal
) -> None:
    asked = SHOWN[0] if message is m.Abort else message
    state, packet = full.state(1, asked), full.shown[ONE, asked]
    content = (
        m.Abort(AbortReason.TIMEOUT, ONE) if message is m.Abort else full.shown_message(1, message)
    )
    before = fingerprint(state)
    forged = full.sign(content, sender=0, key=2)
    with pytest.raises(InvalidSignatureError) as caught:
        receive(state, m.Packet(forged, packet.attachments))
    refusal(caught.value)
    assert fingerprint(state) == before


@pytest.mark.parametrize("message", [*SHOWN, m.Abort], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "what",
    [
        pytest.param(
            "plan_digest",
            marks=pytest.mark.lie(
                role="aggregator",
                lie="speaks under an altered plan",
                round="any",
                refused_by="MalformedMessageError",
            ),
        ),
        pytest.param(
            "session_id",
            marks=pytest.mark.lie(
                role="aggregator",
                lie="replays a message of a stale session",
                round="any",
                refused_by="MalformedMessageError",
            ),
        ),
        pytest.param(
            "task",
            marks=pytest.mark.lie(
                role="aggregator",
                lie="replays a message of another task",
                round="any",
                refused_by="MalformedMessageError",
            ),
        ),
        pytest.param(
            "chain",
            marks=pytest.mark.lie(
                role="aggregator",
                lie="speaks under another history of released updates",
                round="any",
                refused_by="MalformedMessageError",
            ),
        ),
    ],
)
def test_a_message_of_another_context_is_refused(
    message: type, what: str, full: Walk, refusal: Refusal
) -> None:
    asked = SHOWN[0] if message is m.Abort else message
    state, packet = full.state(1, asked), full.shown[ONE, asked]
    content = (
        m.Abort(AbortReason.TIMEOUT, ONE) if message is m.Abort else full.shown_message(1, message)
    )
    others = {
        "plan_digest": bytes(32),
        "session_id": bytes(32),
        "task": TaskIndex(1),
        "chain": next_chain(full.context.chain, DIGEST),
    }
    elsewhere = replace(full.context, **{what: others[what]})  # type: ignore[arg-type]
    before = fingerprint(state)
    key = full.federation.identities[AGGREGATOR]
    envelope = sign_message(content, context=elsewhere, sender=AGGREGATOR, key=key)
    with pytest.raises(
        MalformedMessageError, match="another plan, session, task or history"
    ) as caught:
        receive(state, m.Packet(envelope, packet.attachments))
    refusal(caught.value)
    pasted = replace(envelope, context=full.context)
    with pytest.raises(InvalidSignatureError):
        receive(state, m.Packet(pasted, packet.attachments))
    assert fingerprint(state) == before


def test_a_party_that_aborts_holds_no_secret(full: Walk) -> None:
    for (party, message), state in full.party.items():
        if party == ONE and issubclass(message, tuple(SHOWN)):
            packet = full.packet(m.Abort(AbortReason.TIMEOUT, None))
            after = receive(state, packet).state
            assert isinstance(after, s.Aborted)
            assert fingerprint(after) == fingerprint(
                s.Aborted(AbortReason.TIMEOUT, None, after.detail)
            )
