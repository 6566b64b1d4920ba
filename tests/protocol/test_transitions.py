"""Every pair of state and message, state and event, for both roles.

The tables below are written out again on purpose: they are the protocol, and a changed table in the
code must be noticed. Every state is a real one, from an honest walk.
"""

import dataclasses
import functools
import itertools

import pytest

from collabedit.aggregator import rounds
from collabedit.aggregator import states as a
from collabedit.aggregator import task as aggregator_task
from collabedit.errors import AbortReason, UnexpectedMessageError
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.party import states as s
from collabedit.party import task as party_task
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body
from collabedit.proto.statements import RefusalError
from tests.protocol.stage import Walk, fingerprint, parties, walk
from tests.support.federations import encrypted_federation

ONE = PartyId(1)

PARTY_MESSAGES: dict[tuple[type, type], type] = {
    (s.AwaitingRoster, m.Roster): s.AwaitingShares,
    (s.AwaitingShares, m.RelayShares): s.AwaitingConfirmations,
    (s.AwaitingConfirmations, m.Confirmed): s.Contributing,
    (s.AwaitingSurvivors, m.ProposeSurvivors): s.AwaitingSurvivorConfirmations,
    (s.AwaitingSurvivorConfirmations, m.SurvivorsConfirmed): s.AwaitingRelease,
    (s.AwaitingSum, m.OfferSum): s.OpeningSum,
    (s.AwaitingRelease, m.Release): s.FetchingUpdate,
    (s.AwaitingVerification, m.UpdateVerified): s.Completed,
}
PARTY_EVENTS: dict[tuple[type, type], type] = {
    (s.Contributing, s.Uploaded): s.AwaitingSurvivors,
    (s.OpeningSum, s.Uploaded): s.AwaitingRelease,
    (s.OpeningSum, s.SumRefused): s.Aborted,
    (s.FetchingUpdate, s.UpdateFetched): s.AwaitingVerification,
    (s.FetchingUpdate, s.UpdateRefused): s.Aborted,
}
PARTY_STATES = (
    s.AwaitingRoster,
    s.AwaitingShares,
    s.AwaitingConfirmations,
    s.Contributing,
    s.AwaitingSurvivors,
    s.AwaitingSurvivorConfirmations,
    s.AwaitingSum,
    s.OpeningSum,
    s.AwaitingRelease,
    s.FetchingUpdate,
    s.AwaitingVerification,
    s.Completed,
    s.Aborted,
)
AGGREGATOR_MESSAGES: dict[tuple[type, type], type] = {
    (a.CollectingAdvertisements, m.Advertise): a.CollectingAdvertisements,
    (a.CollectingShares, m.ShareKeys): a.CollectingShares,
    (a.CollectingConfirmations, m.Confirm): a.CollectingConfirmations,
    (a.CollectingContributions, m.Contribute): a.CollectingContributions,
    (a.CollectingSurvivorConfirmations, m.ConfirmSurvivors): a.CollectingSurvivorConfirmations,
    (a.CollectingUnmaskings, m.Unmask): a.CollectingUnmaskings,
    (a.CollectingOpening, m.SumOpened): a.Opening,
    (a.CollectingVerifications, m.VerifyUpdate): a.CollectingVerifications,
}
AGGREGATOR_EVENTS: dict[tuple[type, type], type] = {
    (a.Opening, a.Merged): a.CollectingVerifications,
    (a.Opening, a.MergeRefused): a.Aborted,
    (a.Summing, a.Summed): a.CollectingOpening,
    (a.Summing, a.MergeRefused): a.Aborted,
}
AGGREGATOR_STATES = (
    a.CollectingAdvertisements,
    a.CollectingShares,
    a.CollectingConfirmations,
    a.CollectingContributions,
    a.CollectingSurvivorConfirmations,
    a.CollectingUnmaskings,
    a.Summing,
    a.CollectingOpening,
    a.Opening,
    a.CollectingVerifications,
    a.Completed,
    a.Aborted,
)
MESSAGES = tuple(m.KINDS)


ENCRYPTED = {s.AwaitingSum, s.OpeningSum, a.Summing, a.CollectingOpening}


@functools.cache
def encrypted() -> Walk:
    """Five parties that upload ciphertexts; party 1 opens their sum."""
    federation = encrypted_federation(5, check_columns=1)
    return walk(contributors=parties(1, 2, 3, 4, 5), federation=federation)


def walk_to(state: type, full: Walk) -> Walk:
    """The walk in which this state occurs."""
    return encrypted() if state in ENCRYPTED else full


def party_state(walk: Walk, kind: type) -> s.State:
    if kind is s.Completed:
        return walk.ends[ONE]
    if kind is s.Aborted:
        step = party_task.advance(
            walk.party[ONE, m.Roster], s.LeaveSession(AbortReason.INPUT_REFUSED)
        )
        return step.state
    found = [state for state in walk.party.values() if type(state) is kind]
    return next(state for state in found if not isinstance(state, s.Completed | s.Aborted))


def aggregator_state(walk: Walk, kind: type) -> a.State:
    if kind is a.Aborted:
        return aggregator_task.advance(walk.aggregator[m.Advertise], a.RoundClosed()).state
    states = [*walk.aggregator.values(), walk.summing, walk.opening, walk.completed]
    return next(state for state in states if state is not None and type(state) is kind)


MADE: dict[type, m.Message] = {
    m.Join: m.Join(),
    m.Welcome: m.Welcome(),
    m.OfferSum: m.OfferSum(bytes(32), 1),
    m.SumOpened: m.SumOpened(bytes(32), 1, 1, bytes(32)),
    m.Unmask: m.Unmask({}),
}
"""Kinds that a walk has not."""


def to_party(walk: Walk, message: type) -> m.Packet:
    """The aggregator's real packet of this kind, or, of a party's kinds, one it signs itself."""
    if (ONE, message) in walk.shown:
        return walk.shown[ONE, message]
    if (ONE, message) in walk.sent:
        return walk.packet(walk.message(1, message))
    return walk.packet(MADE.get(message, m.Abort(AbortReason.TIMEOUT, ONE)))


def to_aggregator(walk: Walk, message: type) -> m.Packet:
    if (ONE, message) in walk.sent:
        return walk.sent[ONE, message]
    if (ONE, message) in walk.shown:
        return walk.packet(walk.shown_message(1, message), sender=1)
    return walk.packet(MADE.get(message, m.Abort(AbortReason.PARTY_LEFT, ONE)), sender=1)


def test_the_tables_of_the_code_are_the_tables_of_the_protocol() -> None:
    assert set(party_task.MESSAGES) == set(PARTY_MESSAGES)
    assert set(party_task.EVENTS) == set(PARTY_EVENTS)
    assert set(aggregator_task.MESSAGES) == set(AGGREGATOR_MESSAGES)


def test_every_state_and_message_is_in_the_cross_products() -> None:
    assert set(PARTY_STATES) == set(s.State.__args__)
    assert set(AGGREGATOR_STATES) == {*a.State.__args__}
    assert set(MESSAGES) == set(m.Message.__args__)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        pair
        for pair in itertools.product(PARTY_STATES, MESSAGES)
        if pair not in PARTY_MESSAGES and (pair[1] is not m.Abort or pair[0] in PARTY_STATES[-2:])
    ],
    ids=lambda kind: kind.__name__,
)
def test_a_party_refuses_what_its_state_does_not_accept(
    state: type, message: type, full: Walk
) -> None:
    full = walk_to(state, full)
    held = party_state(full, state)
    before = fingerprint(held)
    with pytest.raises(UnexpectedMessageError):
        party_task.receive(held, to_party(full, message))
    assert fingerprint(held) == before


@pytest.mark.parametrize(("state", "message"), PARTY_MESSAGES, ids=lambda kind: kind.__name__)
def test_a_party_goes_where_the_table_says(state: type, message: type, full: Walk) -> None:
    full = walk_to(state, full)
    held = party_state(full, state)
    assert not isinstance(held, s.Completed | s.Aborted)
    before = fingerprint(held)
    step = party_task.receive(held, full.shown[held.setup.me, message])
    assert type(step.state) is PARTY_MESSAGES[state, message]
    assert fingerprint(held) == before


@pytest.mark.parametrize("state", PARTY_STATES[:-2], ids=lambda kind: kind.__name__)
def test_an_abort_of_the_aggregator_ends_the_task_in_every_state(state: type, full: Walk) -> None:
    full = walk_to(state, full)
    packet = full.packet(m.Abort(AbortReason.TIMEOUT, PartyId(3)))
    step = party_task.receive(party_state(full, state), packet)
    assert isinstance(step.state, s.Aborted)
    assert (step.state.reason, step.state.culprit) == (AbortReason.TIMEOUT, 3)
    assert not step.outbound


EVENTS: dict[type, s.Event] = {
    s.Uploaded: s.Uploaded(5, 1, bytes(32)),
    s.SumRefused: s.SumRefused(AbortReason.DIGEST_MISMATCH, "another sum", AGGREGATOR),
    s.UpdateFetched: s.UpdateFetched(bytes(32)),
    s.UpdateRefused: s.UpdateRefused(AbortReason.MERGE_UNVERIFIED, "layer 0"),
    s.LeaveSession: s.LeaveSession(AbortReason.INPUT_REFUSED),
}


@pytest.mark.parametrize(
    ("state", "event"),
    [
        pair
        for pair in itertools.product(PARTY_STATES, EVENTS)
        if pair not in PARTY_EVENTS
        and (pair[1] is not s.LeaveSession or pair[0] in PARTY_STATES[-2:])
    ],
    ids=lambda kind: kind.__name__,
)
def test_a_party_refuses_events_that_make_no_sense(state: type, event: type, full: Walk) -> None:
    full = walk_to(state, full)
    held = party_state(full, state)
    before = fingerprint(held)
    with pytest.raises(UnexpectedMessageError):
        party_task.advance(held, EVENTS[event])
    assert fingerprint(held) == before


@pytest.mark.parametrize("state", PARTY_STATES[:-2], ids=lambda kind: kind.__name__)
def test_a_party_can_leave_from_every_state_and_says_so(state: type, full: Walk) -> None:
    full = walk_to(state, full)
    held = party_state(full, state)
    assert not isinstance(held, s.Completed | s.Aborted)
    step = party_task.advance(held, EVENTS[s.LeaveSession])
    assert isinstance(step.state, s.Aborted)
    assert (step.state.reason, step.state.culprit) == (AbortReason.INPUT_REFUSED, held.setup.me)
    (farewell,) = step.outbound
    assert farewell.envelope.kind == m.KINDS[m.Abort]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        pair
        for pair in itertools.product(AGGREGATOR_STATES, MESSAGES)
        if pair not in AGGREGATOR_MESSAGES
        and (pair[1] is not m.Abort or pair[0] in (a.Completed, a.Aborted))
    ],
    ids=lambda kind: kind.__name__,
)
def test_the_aggregator_refuses_what_its_state_does_not_accept(
    state: type, message: type, full: Walk
) -> None:
    full = walk_to(state, full)
    held = aggregator_state(full, state)
    before = fingerprint(held)
    with pytest.raises(UnexpectedMessageError):
        aggregator_task.receive(held, to_aggregator(full, message))
    assert fingerprint(held) == before


@pytest.mark.parametrize(("state", "message"), AGGREGATOR_MESSAGES, ids=lambda kind: kind.__name__)
def test_the_aggregator_files_an_answer_and_waits_for_the_others(
    state: type, message: type, full: Walk
) -> None:
    full = walk_to(state, full)
    held = aggregator_state(full, state)
    before = fingerprint(held)
    step = aggregator_task.receive(held, full.sent[ONE, message])
    assert type(step.state) is AGGREGATOR_MESSAGES[state, message]
    waited = rounds.waiting_for(held)
    assert rounds.waiting_for(step.state) == waited - {ONE}
    assert not step.outbound
    assert fingerprint(held) == before


@pytest.mark.parametrize(
    "state",
    [kind for kind in AGGREGATOR_STATES[:-2] if kind is not a.CollectingOpening],
    ids=lambda kind: kind.__name__,
)
def test_a_party_may_leave_in_every_round_and_is_not_waited_for(state: type, full: Walk) -> None:
    full = walk_to(state, full)
    held = aggregator_state(full, state)
    packet = full.packet(m.Abort(AbortReason.PARTY_LEFT, ONE), sender=1)
    step = aggregator_task.receive(held, packet)
    assert not isinstance(step.state, a.Completed | a.Aborted)
    assert step.state.progress.gone == {1}
    assert 1 not in rounds.waiting_for(step.state)
    again = aggregator_task.receive(step.state, packet)
    assert fingerprint(again.state) == fingerprint(step.state)


def answered_by_four(full: Walk, state: type, message: type[m.Message]) -> a.State:
    full = walk_to(state, full)
    held = aggregator_state(full, state)
    for party in range(1, 5):
        held = aggregator_task.receive(held, full.sent[PartyId(party), message]).state
    return held


def leave(full: Walk, held: a.State, party: int) -> a.Step:
    farewell = full.packet(m.Abort(AbortReason.PARTY_LEFT, PartyId(party)), sender=party)
    return aggregator_task.receive(held, farewell)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        pair
        for pair in AGGREGATOR_MESSAGES
        if pair[0] not in (a.CollectingOpening, a.CollectingVerifications)
    ],
    ids=lambda kind: kind.__name__,
)
def test_who_answered_and_left_does_not_carry_a_task_that_too_few_can_end(
    state: type, message: type[m.Message], full: Walk
) -> None:
    held = leave(full, answered_by_four(full, state, message), 1).state
    assert isinstance(held, state)
    step = leave(full, held, 2)
    assert isinstance(step.state, a.Aborted)
    assert step.state.reason is AbortReason.BELOW_THRESHOLD
    # Party 5 was in time, and is not told that it is late.
    (told,) = [sent.packet.envelope for sent in step.outbound if sent.receiver == 5]
    assert decode_body(told.kind, told.body) == m.Abort(AbortReason.BELOW_THRESHOLD, None)


def test_who_verified_and_left_counts_and_the_last_one_may_still_verify(full: Walk) -> None:
    held = answered_by_four(full, a.CollectingVerifications, m.VerifyUpdate)
    for party in (1, 2):
        held = leave(full, held, party).state
    assert rounds.waiting_for(held) == {5}
    done = aggregator_task.receive(held, full.sent[PartyId(5), m.VerifyUpdate]).state
    assert isinstance(done, a.Completed)
    assert done.present == {3, 4, 5}


AGGREGATOR_EVENT_SAMPLES: dict[type, a.Event] = {
    a.RoundClosed: a.RoundClosed(),
    a.Summed: a.Summed(bytes(32), 1),
    a.Merged: a.Merged(bytes(32), 1, bytes(32)),
    a.MergeRefused: a.MergeRefused("no"),
}


@pytest.mark.parametrize(
    ("state", "event"),
    [
        pair
        for pair in itertools.product(AGGREGATOR_STATES, AGGREGATOR_EVENT_SAMPLES)
        if pair not in AGGREGATOR_EVENTS
        and (
            pair[1] is not a.RoundClosed
            or pair[0] in (a.Summing, a.Opening, *AGGREGATOR_STATES[-2:])
        )
    ],
    ids=lambda kind: kind.__name__,
)
def test_the_aggregator_refuses_events_that_make_no_sense(
    state: type, event: type, full: Walk
) -> None:
    full = walk_to(state, full)
    held = aggregator_state(full, state)
    before = fingerprint(held)
    with pytest.raises(UnexpectedMessageError):
        aggregator_task.advance(held, AGGREGATOR_EVENT_SAMPLES[event])
    assert fingerprint(held) == before


@pytest.mark.parametrize(("state", "event"), AGGREGATOR_EVENTS, ids=lambda kind: kind.__name__)
def test_opening_ends_in_a_release_or_in_an_abort(state: type, event: type, full: Walk) -> None:
    full = walk_to(state, full)
    held = aggregator_state(full, state)
    step = aggregator_task.advance(held, AGGREGATOR_EVENT_SAMPLES[event])
    assert type(step.state) is AGGREGATOR_EVENTS[state, event]
    receivers = [1] if event is a.Summed else [1, 2, 3, 4, 5]
    assert [outbound.receiver for outbound in step.outbound] == receivers


@pytest.mark.parametrize(
    "state",
    [
        kind
        for kind in AGGREGATOR_STATES
        if kind.__name__.startswith("Collecting") and kind is not a.CollectingOpening
    ],
    ids=lambda kind: kind.__name__,
)
def test_a_round_closed_without_answers_aborts_below_the_threshold(state: type, full: Walk) -> None:
    full = walk_to(state, full)
    held = aggregator_state(full, state)
    step = aggregator_task.advance(held, a.RoundClosed())
    assert isinstance(step.state, a.Aborted)
    assert step.state.reason is AbortReason.BELOW_THRESHOLD
    assert step.state.culprit is None
    round_name = rounds.ROUNDS[state]
    assert step.state.dropouts == tuple(a.Dropout(PartyId(i), round_name) for i in range(1, 6))


@pytest.mark.parametrize("leaves", [True, False])
def test_without_its_opener_a_task_ends(*, leaves: bool) -> None:
    full = encrypted()
    held = aggregator_state(full, a.CollectingOpening)
    # One of the others may go: enough are left to verify.
    held = leave(full, held, 5).state
    assert isinstance(held, a.CollectingOpening)
    step = leave(full, held, 1) if leaves else aggregator_task.advance(held, a.RoundClosed())
    assert isinstance(step.state, a.Aborted)
    assert (step.state.reason, step.state.culprit) == (AbortReason.OPENER_GONE, 1)


def test_nothing_is_opened_that_too_few_are_left_to_verify() -> None:
    full = encrypted()
    offered, added = (aggregator_state(full, kind) for kind in (a.CollectingOpening, a.Summing))
    step = leave(full, leave(full, offered, 4).state, 5)
    assert isinstance(step.state, a.Aborted)
    assert step.state.reason is AbortReason.BELOW_THRESHOLD
    assert 1 in {outbound.receiver for outbound in step.outbound}
    held = leave(full, leave(full, added, 4).state, 5).state
    assert isinstance(held, a.Summing)
    step = aggregator_task.advance(held, AGGREGATOR_EVENT_SAMPLES[a.Summed])
    assert isinstance(step.state, a.Aborted)
    assert step.state.reason is AbortReason.BELOW_THRESHOLD


def test_an_opener_that_left_is_offered_nothing() -> None:
    full = encrypted()
    held = leave(full, aggregator_state(full, a.Summing), 1).state
    assert isinstance(held, a.Summing)
    step = aggregator_task.advance(held, AGGREGATOR_EVENT_SAMPLES[a.Summed])
    assert isinstance(step.state, a.Aborted)
    assert step.state.reason is AbortReason.OPENER_GONE
    assert [outbound.receiver for outbound in step.outbound] == [2, 3, 4, 5]


def test_an_opener_that_did_not_sign_the_survivors_opens_nothing() -> None:
    full = encrypted()
    held = aggregator_state(full, a.CollectingSurvivorConfirmations)
    for party in range(2, 6):
        held = aggregator_task.receive(held, full.sent[PartyId(party), m.ConfirmSurvivors]).state
    step = aggregator_task.advance(held, a.RoundClosed())
    assert isinstance(step.state, a.Aborted)
    assert (step.state.reason, step.state.culprit) == (AbortReason.OPENER_GONE, 1)


def test_an_opening_of_another_sum_is_refused() -> None:
    full = encrypted()
    held = aggregator_state(full, a.CollectingOpening)
    opened = full.message(1, m.SumOpened)
    for altered, reason in (
        (dataclasses.replace(opened, sum_digest=bytes(32)), AbortReason.DIGEST_MISMATCH),
        (dataclasses.replace(opened, elements=1), AbortReason.MALFORMED_MESSAGE),
    ):
        with pytest.raises(RefusalError) as refused:
            aggregator_task.receive(held, full.packet(altered, sender=1))
        assert (refused.value.reason, refused.value.culprit) == (reason, 1)
    with pytest.raises(UnexpectedMessageError):
        aggregator_task.receive(held, full.packet(opened, sender=2))


def test_an_offer_of_another_length_is_refused() -> None:
    full = encrypted()
    offer = full.shown_message(1, m.OfferSum)
    longer = dataclasses.replace(offer, sum_bytes=offer.sum_bytes + 1)
    step = party_task.receive(party_state(full, s.AwaitingSum), full.packet(longer))
    assert isinstance(step.state, s.Aborted)
    assert (step.state.reason, step.state.culprit) == (AbortReason.MALFORMED_MESSAGE, AGGREGATOR)


def test_masked_and_encrypted_contributions_do_not_mix(full: Walk) -> None:
    """A digest of seeds is where it has a meaning, and nowhere else."""
    other = encrypted()
    for own, seeds in ((full, bytes(32)), (other, b"")):
        held = own.aggregator[m.Contribute]
        contribution = dataclasses.replace(own.message(1, m.Contribute), seeds=seeds)
        packet = own.packet(contribution, sender=1)
        with pytest.raises(RefusalError, match="seeds"):
            aggregator_task.receive(held, packet)
        listed = [own.envelope(party, m.Contribute) for party in range(2, 6)]
        shown = own.packet(m.ProposeSurvivors((packet.envelope, *listed)))
        step = party_task.receive(own.party[PartyId(2), m.ProposeSurvivors], shown)
        assert isinstance(step.state, s.Aborted)
        assert step.state.reason is AbortReason.MALFORMED_MESSAGE
        assert step.state.culprit == AGGREGATOR


def test_every_round_has_a_name_and_terminal_states_have_none() -> None:
    assert set(rounds.ROUNDS) == set(AGGREGATOR_STATES[:-2])
    assert len(set(rounds.ROUNDS.values())) == len(rounds.ROUNDS)


def test_a_message_of_a_party_that_the_plan_does_not_have_is_refused(full: Walk) -> None:
    packet = m.Packet(full.sign(full.message(1, m.Advertise), sender=9, key=1))
    for state in full.aggregator.values():
        with pytest.raises(UnexpectedMessageError, match="party 9"):
            aggregator_task.receive(state, packet)


def test_a_message_in_the_aggregators_own_name_is_refused(full: Walk) -> None:
    packet = full.packet(full.message(1, m.Advertise), sender=AGGREGATOR)
    with pytest.raises(UnexpectedMessageError):
        aggregator_task.receive(full.aggregator[m.Advertise], packet)


def test_a_second_answer_in_the_same_round_is_refused_and_changes_nothing(full: Walk) -> None:
    for message in {message for _, message in AGGREGATOR_MESSAGES} - {m.SumOpened}:
        filed = aggregator_task.receive(full.aggregator[message], full.sent[ONE, message]).state
        before = fingerprint(filed)
        with pytest.raises(UnexpectedMessageError, match="has answered"):
            aggregator_task.receive(filed, full.sent[ONE, message])
        assert fingerprint(filed) == before
