"""Votes of r6: who asks, who counts, what a liar can do with them, and what of it can be proven.

Scene: five parties, threshold 4, a plan with one task that is voted on. The party under test is
party 1; where votes are counted, party 4 finds its neighbourhood spoilt.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit.acceptance import Vote
from collabedit.aggregator import states as a
from collabedit.aggregator import task as aggregator_task
from collabedit.aggregator.witness import Witness as AggregatorWitness
from collabedit.errors import (
    AbortReason,
    InvalidEvidenceError,
    MalformedMessageError,
    UnexpectedMessageError,
)
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.party.task import advance, receive
from collabedit.party.witness import Witness
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body, encode_body
from collabedit.proto.envelope import open_envelope
from collabedit.proto.evidence import Evidence, EvidenceKind, verify
from collabedit.proto.statements import RefusalError
from tests.protocol.stage import (
    DIGEST,
    Session,
    Walk,
    changed_digest,
    fingerprint,
    instead_of,
    kind_of,
    parties,
    walk,
)
from tests.support.federations import TestFederation, build_federation
from tests.support.lies import Refusal

ONE, FOUR = PartyId(1), PartyId(4)
EVERYBODY = parties(1, 2, 3, 4, 5)
REJECTIONS = tuple(vote for vote in Vote if vote not in {Vote.NONE, Vote.ACCEPT})


@pytest.fixture(scope="module")
def accepted() -> Walk:
    """Four of five must accept, four do, and party 4 is overruled."""
    return walk(contributors=EVERYBODY, least=4, votes={FOUR: Vote.NEIGHBOURHOOD})


@pytest.fixture(scope="module")
def rejected() -> Walk:
    """All five must accept, and party 4 does not."""
    return walk(contributors=EVERYBODY, least=5, votes={FOUR: Vote.NEIGHBOURHOOD})


@pytest.fixture(scope="module")
def unanimous() -> Walk:
    """The plan of `accepted`, its session too, and party 4 accepts as well."""
    return walk(contributors=EVERYBODY, least=4)


def listed(walk: Walk, *who: int, **instead: m.Envelope) -> m.UpdateVerified:
    """The statements of `who`, one of them replaced by `instead=`."""
    entries = {party: walk.envelope(party, m.VerifyUpdate) for party in who}
    entries |= {envelope.sender: envelope for envelope in instead.values()}
    return m.UpdateVerified(tuple(entries[party] for party in sorted(entries)))


def cast(walk: Walk, party: int, vote: Vote, *, key: int | None = None) -> m.Envelope:
    """Another vote in a party's name."""
    statement = replace(walk.message(party, m.VerifyUpdate), vote=vote)
    return walk.sign(statement, sender=party, key=key)


def refused(
    walk: Walk, message: m.Message, *, reason: AbortReason, culprit: int | None = AGGREGATOR
) -> AbortReason:
    """Party 1, having voted, aborts for this reason, which is returned."""
    state = walk.state(1, m.UpdateVerified)
    before = fingerprint(state)
    step = receive(state, walk.packet(message))
    assert isinstance(step.state, s.Aborted)
    assert (step.state.reason, step.state.culprit) == (reason, culprit), step.state.detail
    assert [kind_of(packet) for packet in step.outbound] == [m.Abort]
    assert fingerprint(state) == before
    return step.state.reason


def proven(walk: Walk, message: m.Message, *, before: Iterable[type[m.Message]] = ()) -> Evidence:
    """What party 1 can prove to a third person, after it was shown `message`."""
    found: list[Evidence] = []
    witness = Witness(walk.federation.plan, found.append)
    for earlier in (m.Release, *before):
        state = walk.state(1, earlier)
        assert not isinstance(witness.receive(state, walk.shown[ONE, earlier]).state, s.Aborted)
    step = witness.receive(walk.state(1, m.UpdateVerified), walk.packet(message))
    assert isinstance(step.state, s.Aborted)
    (evidence,) = found
    verify(evidence, walk.federation.plan)
    return evidence


# What honest ends do.


def test_the_vote_is_signed_and_everybody_sees_all_of_them(accepted: Walk) -> None:
    statements = accepted.shown_message(1, m.UpdateVerified).confirmations
    opened = {
        each.sender: open_envelope(
            each,
            m.VerifyUpdate,
            context=accepted.context,
            identities=accepted.federation.plan.identity,
        ).vote
        for each in statements
    }
    assert opened == {
        party: Vote.NEIGHBOURHOOD if party == FOUR else Vote.ACCEPT for party in EVERYBODY
    }
    assert isinstance(accepted.completed, a.Completed)
    assert accepted.completed.votes == opened
    for end in accepted.ends.values():
        # Who voted against it keeps the update all the same.
        assert isinstance(end, s.Completed)
        assert end.votes == opened


def test_too_few_votes_end_the_session_at_both_roles_without_anybodys_fault(
    rejected: Walk,
) -> None:
    assert isinstance(rejected.completed, a.Aborted)
    for end in (rejected.completed, *rejected.ends.values()):
        assert isinstance(end, a.Aborted | s.Aborted)
        assert end.reason is AbortReason.UPDATE_REJECTED
        assert end.culprit is None
        assert "4 of 5 votes accept the update, the plan asks for 5" in end.detail
        assert end.detail.endswith("party-4 neighbourhood")
    assert rejected.completed.votes[FOUR] is Vote.NEIGHBOURHOOD
    assert set(rejected.completed.votes) == EVERYBODY


def test_a_rejection_is_told_by_the_list_alone(rejected: Walk) -> None:
    kinds = [kind for party, kind in rejected.shown if party == ONE]
    assert m.UpdateVerified in kinds
    assert m.Abort not in kinds
    # The party has nothing to add to it either.
    step = receive(rejected.state(1, m.UpdateVerified), rejected.shown[ONE, m.UpdateVerified])
    assert not step.outbound


@pytest.mark.parametrize("vote", list(Vote))
def test_without_an_acceptance_section_nobody_votes(vote: Vote, full: Walk) -> None:
    state = full.state(1, s.UpdateFetched)
    if vote is Vote.NONE:
        assert isinstance(advance(state, s.UpdateFetched(DIGEST)).state, s.AwaitingVerification)
        return
    before = fingerprint(state)
    with pytest.raises(UnexpectedMessageError, match="vote"):
        advance(state, s.UpdateFetched(DIGEST, vote))
    assert fingerprint(state) == before


def test_a_party_does_not_leave_out_its_vote(accepted: Walk) -> None:
    with pytest.raises(UnexpectedMessageError, match="vote"):
        advance(accepted.state(1, s.UpdateFetched), s.UpdateFetched(DIGEST))


def test_no_vote_has_the_bytes_of_a_statement_without_the_field() -> None:
    plain = encode_body(m.VerifyUpdate(bytes(32), b"\x01" * 32))
    assert plain == b"\x0a\x20" + bytes(32) + b"\x12\x20" + b"\x01" * 32
    voted = encode_body(m.VerifyUpdate(bytes(32), b"\x01" * 32, Vote.UNUSABLE))
    assert voted == plain + b"\x18\x05"


def test_only_the_last_task_is_voted_on(tmp_path: Path) -> None:
    federation = build_federation(5, layers=3, votes=4)
    assert [federation.plan.is_voted(TaskIndex(task)) for task in range(3)] == [False, False, True]
    session = Session(federation, tmp_path)
    asked: list[PartyId] = []

    def vote(party: PartyId) -> Vote:
        asked.append(party)
        return Vote.ACCEPT

    session.vote = vote
    session.run()
    assert len(session.coordinator.records) == 3
    assert asked == [1, 2, 3, 4, 5]


# What any votes come to.


def outcome(votes: Iterable[Vote], least: int) -> AbortReason | None:
    """The rule once more: four must answer at all, and `least` accept."""
    cast = list(votes)
    if len(cast) < 4:
        return AbortReason.BELOW_THRESHOLD
    return None if cast.count(Vote.ACCEPT) >= least else AbortReason.UPDATE_REJECTED


CASTS = st.sampled_from([vote for vote in Vote if vote is not Vote.NONE])


@given(
    votes=st.lists(CASTS, min_size=5, max_size=5),
    least=st.integers(4, 5),
    silent=st.sets(st.integers(1, 5), max_size=3),
    leaving=st.sets(st.integers(1, 5), max_size=2),
    order=st.permutations(range(1, 6)),
)
@settings(max_examples=150, deadline=None)
def test_all_honest_ends_agree_on_the_outcome(
    votes: list[Vote], least: int, silent: set[int], leaving: set[int], order: list[int]
) -> None:
    """Whoever votes what, is silent in r6, or votes and leaves: one list, one outcome."""
    scene = _SCENES[least]
    mine = {PartyId(party): vote for party, vote in enumerate(votes, 1)}
    step, waiting = vote_in_turn(
        scene,
        {PartyId(party): mine[PartyId(party)] for party in order if party not in silent},
        leaving=leaving,
    )
    held = step.state
    assert isinstance(held, a.Completed | a.Aborted)
    answered = {party: vote for party, vote in mine.items() if party not in silent}
    ends = {
        sent.receiver: receive(waiting[sent.receiver], sent.packet).state
        for sent in step.outbound
        if sent.receiver in waiting
    }
    assert ends.keys() == waiting.keys()
    late = [sent.packet for sent in step.outbound if sent.receiver not in waiting]
    assert {kind_of(packet) for packet in late} <= {m.Abort}
    wanted = outcome(answered.values(), least)
    for state in (held, *ends.values()):
        reason = state.reason if isinstance(state, a.Aborted | s.Aborted) else None
        assert reason is wanted
        if isinstance(state, a.Completed | s.Completed):
            assert state.votes == answered


def vote_in_turn(
    scene: Walk, votes: Mapping[PartyId, Vote], *, leaving: set[int]
) -> tuple[a.Step, dict[PartyId, s.State]]:
    """Let the parties of `votes` vote in this order; return the end and who waits for it, how."""
    step = a.Step(scene.aggregator[m.VerifyUpdate])
    waiting: dict[PartyId, s.State] = {}
    for party, vote in votes.items():
        voted = advance(scene.state(party, s.UpdateFetched), s.UpdateFetched(DIGEST, vote))
        step = aggregator_task.receive(step.state, voted.outbound[0])
        waiting[party] = voted.state
        if party in leaving and not isinstance(step.state, a.Completed | a.Aborted):
            del waiting[party]
            farewell = scene.packet(m.Abort(AbortReason.PARTY_LEFT, party), sender=party)
            step = aggregator_task.receive(step.state, farewell)
    if not isinstance(step.state, a.Completed | a.Aborted):
        step = aggregator_task.advance(step.state, a.RoundClosed())
    return step, waiting


_SCENES = {least: walk(contributors=EVERYBODY, least=least) for least in (4, 5)}


def test_who_is_silent_in_r6_does_not_accept(tmp_path: Path) -> None:
    federation = build_federation(5, votes=5)
    session = Session(federation, tmp_path)
    session.alter = instead_of(FOUR, m.VerifyUpdate, lambda _packet: ())
    session.run()
    assert isinstance(session.coordinator.state, a.Aborted)
    assert session.coordinator.state.reason is AbortReason.UPDATE_REJECTED
    assert set(session.coordinator.state.votes) == EVERYBODY - {FOUR}
    reasons = {
        party: state.reason
        for party, state in session.states.items()
        if isinstance(state, s.Aborted)
    }
    rejected = AbortReason.UPDATE_REJECTED
    assert reasons == {1: rejected, 2: rejected, 3: rejected, 4: AbortReason.TIMEOUT, 5: rejected}


# Lies of the aggregator.


@pytest.mark.lie(
    role="aggregator",
    lie="withholds the receiver's own vote",
    round="r6",
    refused_by="MISSING_SELF",
)
def test_a_list_without_our_own_vote_is_refused(accepted: Walk, refusal: Refusal) -> None:
    message = listed(accepted, 2, 3, 4, 5)
    refusal(refused(accepted, message, reason=AbortReason.MISSING_SELF))


@pytest.mark.lie(
    role="aggregator",
    lie="withholds votes until too few are left",
    round="r6",
    refused_by="BELOW_THRESHOLD",
)
def test_a_list_of_fewer_votes_than_the_threshold_is_refused(
    accepted: Walk, refusal: Refusal
) -> None:
    message = listed(accepted, 1, 2, 3)
    refusal(refused(accepted, message, reason=AbortReason.BELOW_THRESHOLD, culprit=None))


@pytest.mark.lie(
    role="aggregator",
    lie="turns a party's rejection into an acceptance",
    round="r6",
    refused_by="INVALID_SIGNATURE",
)
def test_an_altered_vote_is_refused(rejected: Walk, refusal: Refusal) -> None:
    honest = rejected.envelope(4, m.VerifyUpdate)
    assert honest.body.endswith(b"\x18\x03")
    altered = replace(honest, body=honest.body[:-1] + b"\x01")
    message = listed(rejected, 1, 2, 3, 5, instead=altered)
    refusal(refused(rejected, message, reason=AbortReason.INVALID_SIGNATURE))


@pytest.mark.lie(
    role="aggregator",
    lie="invents a party's vote",
    round="r6",
    refused_by="INVALID_SIGNATURE",
)
def test_an_invented_vote_is_refused_and_proven(rejected: Walk, refusal: Refusal) -> None:
    message = listed(rejected, 1, 2, 3, 5, instead=cast(rejected, 4, Vote.ACCEPT, key=0))
    refusal(refused(rejected, message, reason=AbortReason.INVALID_SIGNATURE))
    assert proven(rejected, message).kind is EvidenceKind.INVALID_RELAY


@pytest.mark.lie(
    role="aggregator",
    lie="shows a party another vote in that party's own name",
    round="r6",
    refused_by="ALTERED_OWN_MESSAGE",
)
def test_another_vote_of_ours_is_refused(accepted: Walk, refusal: Refusal) -> None:
    # Only a thief of our identity key could do this; the party notices even then.
    message = listed(accepted, 2, 3, 4, 5, instead=cast(accepted, 1, Vote.PERPLEXITY))
    refusal(refused(accepted, message, reason=AbortReason.ALTERED_OWN_MESSAGE))


@pytest.mark.lie(
    role="aggregator",
    lie="relays a statement without the vote that the plan asks for",
    round="r6",
    refused_by="MALFORMED_MESSAGE",
)
def test_a_statement_without_a_vote_is_refused_and_proven(accepted: Walk, refusal: Refusal) -> None:
    message = listed(accepted, 1, 2, 3, 5, instead=cast(accepted, 4, Vote.NONE))
    refusal(refused(accepted, message, reason=AbortReason.MALFORMED_MESSAGE))
    evidence = proven(accepted, message)
    assert evidence.kind is EvidenceKind.INVALID_RELAY
    assert "has no vote" in verify(evidence, accepted.federation.plan).detail


@pytest.mark.lie(
    role="aggregator",
    lie="relays a vote where the plan asks for none",
    round="r6",
    refused_by="MALFORMED_MESSAGE",
)
@pytest.mark.parametrize("vote", [Vote.ACCEPT, Vote.UNUSABLE])
def test_a_vote_where_none_is_asked_is_refused_and_proven(
    vote: Vote, full: Walk, refusal: Refusal
) -> None:
    message = listed(full, 1, 2, 3, 5, instead=cast(full, 4, vote))
    refusal(refused(full, message, reason=AbortReason.MALFORMED_MESSAGE))
    assert proven(full, message).kind is EvidenceKind.INVALID_RELAY


@pytest.mark.lie(
    role="aggregator",
    lie="relays a vote on another update",
    round="r6",
    refused_by="UPDATE_FORK",
)
@pytest.mark.parametrize("which", ["update_digest", "sum_digest"])
def test_a_vote_on_another_update_is_a_fork(which: str, accepted: Walk, refusal: Refusal) -> None:
    other = changed_digest(accepted.message(4, m.VerifyUpdate), which)
    message = listed(accepted, 1, 2, 3, 5, instead=accepted.sign(other, sender=4))
    refusal(refused(accepted, message, reason=AbortReason.UPDATE_FORK))
    assert proven(accepted, message).kind is EvidenceKind.UPDATE_FORK


@pytest.mark.lie(
    role="aggregator",
    lie="counts a vote of another session",
    round="r6",
    refused_by="MALFORMED_MESSAGE",
)
def test_a_vote_of_another_session_is_refused(accepted: Walk, refusal: Refusal) -> None:
    other = walk(contributors=EVERYBODY, least=4, seed=1).envelope(4, m.VerifyUpdate)
    message = listed(accepted, 1, 2, 3, 5, instead=other)
    refusal(refused(accepted, message, reason=AbortReason.MALFORMED_MESSAGE))


@pytest.mark.lie(
    role="aggregator",
    lie="shows two different lists of votes",
    round="r6",
    refused_by="UPDATE_FORK",
)
def test_a_second_list_of_votes_is_refused_and_proven(
    accepted: Walk, unanimous: Walk, refusal: Refusal
) -> None:
    assert accepted.context == unanimous.context
    plan = accepted.federation.plan
    found: list[Evidence] = []
    witness = Witness(plan, found.append)
    # The first list comes early, the second where a list is due.
    with pytest.raises(UnexpectedMessageError):
        witness.receive(accepted.state(1, m.Release), unanimous.shown[ONE, m.UpdateVerified])
    step = witness.receive(
        accepted.state(1, m.UpdateVerified), accepted.shown[ONE, m.UpdateVerified]
    )
    assert isinstance(step.state, s.Aborted)
    refusal(step.state.reason)
    (evidence,) = found
    assert verify(evidence, plan).kind is EvidenceKind.REPEATED_STATEMENT
    assert verify(evidence, plan).accused == AGGREGATOR


def test_lists_that_part_the_parties_are_proven_once_they_are_compared(unanimous: Walk) -> None:
    """Each list is in order, so that each party believes its own. The two envelopes are a proof."""
    kept = listed(unanimous, 1, 2, 3, 4)
    taken_back = listed(unanimous, 1, 2, 3, 5, instead=cast(unanimous, 5, Vote.OWN_EDITS))
    ends = []
    for party, message in ((1, kept), (2, taken_back)):
        step = receive(unanimous.state(party, m.UpdateVerified), unanimous.packet(message))
        ends.append(type(step.state))
    assert ends == [s.Completed, s.Aborted]
    pair = (unanimous.sign(kept), unanimous.sign(taken_back))
    evidence = Evidence(EvidenceKind.REPEATED_STATEMENT, AGGREGATOR, pair)
    assert verify(evidence, unanimous.federation.plan).accused == AGGREGATOR


@pytest.mark.lie(
    role="aggregator",
    lie="calls an update rejected without showing the votes",
    round="r6",
    refused_by="MALFORMED_MESSAGE",
)
def test_the_word_of_the_aggregator_is_no_rejection(accepted: Walk, refusal: Refusal) -> None:
    message = m.Abort(AbortReason.UPDATE_REJECTED, None)
    refusal(refused(accepted, message, reason=AbortReason.MALFORMED_MESSAGE))


def test_different_votes_are_no_fork(accepted: Walk) -> None:
    """An honest aggregator relays them, so they must not convict it."""
    shown = [accepted.shown[ONE, kind].envelope for kind in (m.Release, m.UpdateVerified)]
    for kind, envelopes in itertools.product(EvidenceKind, (shown, shown[:1], shown[1:])):
        with pytest.raises(InvalidEvidenceError):
            verify(Evidence(kind, AGGREGATOR, tuple(envelopes)), accepted.federation.plan)


# Lies of a party.


@pytest.fixture(scope="module")
def federation() -> TestFederation:
    return build_federation(5, votes=4)


def dishonest(
    federation: TestFederation, tmp_path: Path, statement: m.Message | None, vote: Vote
) -> Session:
    """Run with party 4 signing `statement`, or its own with another vote."""
    session = Session(federation, tmp_path)

    def make(packet: m.Packet) -> m.Packet:
        own = session.open_own(packet, m.VerifyUpdate)
        return m.Packet(session.sign(FOUR, statement or replace(own, vote=vote)))

    session.alter = instead_of(FOUR, m.VerifyUpdate, make)
    return session.run()


def assert_kept_by_the_others(session: Session) -> None:
    assert isinstance(session.coordinator.state, a.Completed)
    assert set(session.coordinator.state.votes) == EVERYBODY - {FOUR}
    for party in EVERYBODY - {FOUR}:
        assert isinstance(session.states[party], s.Completed)


@pytest.mark.lie(
    role="party",
    lie="states the update and does not vote on it",
    round="r6",
    refused_by="MALFORMED_MESSAGE",
)
def test_a_party_that_does_not_vote_is_refused(
    federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    session = dishonest(federation, tmp_path, None, Vote.NONE)
    assert_kept_by_the_others(session)
    refusal(*session.reasons(FOUR))


@pytest.mark.lie(
    role="party",
    lie="votes where the plan asks for no vote",
    round="r6",
    refused_by="MALFORMED_MESSAGE",
)
def test_a_party_that_votes_unasked_is_refused(tmp_path: Path, refusal: Refusal) -> None:
    session = dishonest(build_federation(5), tmp_path, None, Vote.OWN_EDITS)
    assert session.coordinator.records
    refusal(*session.reasons(FOUR))


@pytest.mark.lie(
    role="party",
    lie="votes on another update than was released",
    round="r6",
    refused_by="UPDATE_FORK",
)
def test_a_vote_on_another_update_costs_its_signer(
    federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    other = m.VerifyUpdate(bytes(32), bytes(32), Vote.ACCEPT)
    session = dishonest(federation, tmp_path, other, Vote.ACCEPT)
    assert_kept_by_the_others(session)
    refusal(*session.reasons(FOUR))


@pytest.mark.lie(
    role="party",
    lie="votes with a number that no vote has",
    round="r6",
    refused_by="MalformedMessageError",
)
def test_a_vote_of_no_meaning_is_refused(accepted: Walk, refusal: Refusal) -> None:
    body = accepted.envelope(4, m.VerifyUpdate).body
    with pytest.raises(MalformedMessageError, match="vote 6") as caught:
        decode_body(m.KINDS[m.VerifyUpdate], body[:-1] + b"\x06")
    refusal(caught.value)


@pytest.mark.lie(
    role="party",
    lie="votes twice, differently",
    round="r6",
    refused_by="UnexpectedMessageError",
)
def test_a_second_different_vote_does_not_count_and_is_proven(
    federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    session = Session(federation, tmp_path)
    found: list[Evidence] = []
    session.coordinator._witness = AggregatorWitness(federation.plan, found.append)

    def make(packet: m.Packet) -> Iterable[m.Packet]:
        own = session.open_own(packet, m.VerifyUpdate)
        second = session.sign(FOUR, replace(own, vote=Vote.PERPLEXITY))
        return (packet, m.Packet(second))

    session.alter = instead_of(FOUR, m.VerifyUpdate, make)
    session.run()
    assert isinstance(session.coordinator.state, a.Completed)
    assert session.coordinator.state.votes[FOUR] is Vote.ACCEPT
    refusal(*session.reasons(FOUR))
    (evidence,) = found
    verdict = verify(evidence, federation.plan)
    assert (verdict.kind, verdict.accused) == (EvidenceKind.REPEATED_STATEMENT, FOUR)


@pytest.mark.parametrize("vote", REJECTIONS)
def test_a_lying_voter_blocks_only_with_enough_others(
    vote: Vote, federation: TestFederation, tmp_path: Path
) -> None:
    """N - votes parties that vote against everything change nothing, one more ends the session."""
    for liars, kept in ((parties(4), True), (parties(4, 5), False)):
        session = Session(federation, tmp_path / str(len(liars)))
        session.vote = lambda party, liars=liars: vote if party in liars else Vote.ACCEPT  # type: ignore[misc]
        session.run()
        assert isinstance(session.coordinator.state, a.Completed if kept else a.Aborted)
        for state in session.states.values():
            assert isinstance(state, s.Completed if kept else s.Aborted)


# What the aggregator keeps of it.


def test_the_aggregators_log_names_who_voted_what(tmp_path: Path) -> None:
    federation = build_federation(5, votes=5)
    events: list[tuple[str, Mapping[str, object]]] = []
    session = Session(
        federation, tmp_path, observer=lambda event, fields: events.append((event, fields))
    )
    session.vote = lambda party: Vote.OWN_EDITS if party == FOUR else Vote.ACCEPT
    session.run()
    (told,) = [fields for event, fields in events if event == "voted"]
    assert told["votes"] == {
        "party-1": "accept",
        "party-2": "accept",
        "party-3": "accept",
        "party-4": "own-edits",
        "party-5": "accept",
    }
    assert events[-1][0] == "aborted"
    assert events[-1][1]["reason"] == "UPDATE_REJECTED"


def test_a_refused_vote_changes_nothing(accepted: Walk) -> None:
    held = accepted.aggregator[m.VerifyUpdate]
    before = fingerprint(held)
    packet = m.Packet(cast(accepted, 4, Vote.NONE))
    with pytest.raises(RefusalError) as caught:
        aggregator_task.receive(held, packet)
    assert (caught.value.reason, caught.value.culprit) == (AbortReason.MALFORMED_MESSAGE, FOUR)
    assert fingerprint(held) == before
