"""Lies that a third person can check, and honest sessions that nobody can be accused with.

Scene: five parties, threshold 4. `full` is an honest session. `elsewhere` is the same task of the
same session as a lying aggregator showed it to others: other keys, other shares. `dropped` is the
same again, equal to `full` until r3 and with party 5 called dropped.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit.errors import (
    AbortReason,
    InvalidEvidenceError,
    InvalidSignatureError,
    UnexpectedMessageError,
)
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.party.witness import Witness
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body
from collabedit.proto.envelope import sign_message
from collabedit.proto.evidence import Evidence, EvidenceKind, Verdict, verify
from collabedit.proto.evidence_file import format_evidence, parse_evidence
from tests.protocol.stage import Walk, _Walker, changed_digest, kind_of, parties, walk

T = TypeVar("T", bound=m.Message)

ONE = PartyId(1)
SHOWN = (
    m.Roster,
    m.RelayShares,
    m.Confirmed,
    m.ProposeSurvivors,
    m.SurvivorsConfirmed,
    m.Release,
    m.UpdateVerified,
)
ANSWERED = (
    m.Advertise,
    m.ShareKeys,
    m.Confirm,
    m.Contribute,
    m.ConfirmSurvivors,
    m.VerifyUpdate,
)


@pytest.fixture(scope="package")
def elsewhere(full: Walk) -> Walk:
    other = Walk(full.federation, full.context)
    _Walker(other, parties(1, 2, 3, 4, 5), 7).run()
    return other


def watched(
    walk: Walk, until: type[m.Message] | None = None, *, of: Walk | None = None
) -> tuple[Witness, list[Evidence]]:
    """A witness of party 1 who saw everything of `of` before the message `until`."""
    found: list[Evidence] = []
    witness = Witness(walk.federation.plan, found.append)
    for message in SHOWN:
        if message is until:
            break
        source = of or walk
        witness.receive(source.state(1, message), source.shown[ONE, message])
    return witness, found


def judged(walk: Walk, found: list[Evidence]) -> Verdict:
    """What somebody makes of it who has the plan and the file alone."""
    (evidence,) = found
    data = format_evidence(evidence, walk.federation.plan)
    return verify(parse_evidence(data, walk.federation.plan), walk.federation.plan)


def assert_contradicted(walk: Walk, step: s.Step, reason: AbortReason) -> None:
    assert isinstance(step.state, s.Aborted)
    assert (step.state.reason, step.state.culprit) == (reason, AGGREGATOR)
    (farewell,) = step.outbound
    assert farewell.envelope.sender == ONE
    body = decode_body(farewell.envelope.kind, farewell.envelope.body)
    assert body == m.Abort(reason, AGGREGATOR)


def relayed(message: Callable[[tuple[m.Envelope, ...]], T], *entries: m.Envelope) -> T:
    return message(tuple(sorted(entries, key=lambda entry: entry.sender)))


def entries(walk: Walk, message: type[m.Message], *ids: int) -> tuple[m.Envelope, ...]:
    return tuple(walk.envelope(party, message) for party in ids)


# Forks.


def test_a_roster_fork_is_proven(full: Walk, elsewhere: Walk) -> None:
    witness, found = watched(full, m.Confirmed)
    mixed = (*entries(full, m.Confirm, 1, 2, 3), *entries(elsewhere, m.Confirm, 4, 5))
    packet = full.packet(relayed(m.Confirmed, *mixed))
    step = witness.receive(full.state(1, m.Confirmed), packet)
    assert isinstance(step.state, s.Aborted)
    assert step.state.reason is AbortReason.ROSTER_FORK
    verdict = judged(full, found)
    assert (verdict.kind, verdict.reason) == (EvidenceKind.ROSTER_FORK, AbortReason.ROSTER_FORK)
    assert (verdict.accused, verdict.name) == (AGGREGATOR, "aggregator")
    assert (verdict.session_id, verdict.task, verdict.round) == (full.context.session_id, 0, "r2")
    assert "party 4, 5 under another transcript" in verdict.detail


def test_shares_for_another_roster_prove_the_fork_before_anything_is_confirmed(
    full: Walk,
) -> None:
    # Party 1 was shown a roster without party 5; the others share with party 5 as well.
    roster = full.packet(relayed(m.Roster, *entries(full, m.Advertise, 1, 2, 3, 4)))
    found: list[Evidence] = []
    witness = Witness(full.federation.plan, found.append)
    sharing = witness.receive(full.state(1, m.Roster), roster)
    (own,) = sharing.outbound
    commitments = relayed(m.RelayShares, own.envelope, *entries(full, m.ShareKeys, 2, 3, 4))
    sealed = full.shown[ONE, m.RelayShares].attachments[:3]
    packet = m.Packet(full.sign(commitments), sealed)
    assert isinstance(witness.receive(sharing.state, packet).state, s.Aborted)
    verdict = judged(full, found)
    assert (verdict.kind, verdict.round) == (EvidenceKind.ROSTER_FORK, "r1")
    assert "shares of party 2 to or from somebody outside" in verdict.detail


def test_shares_from_outside_of_the_roster_prove_the_fork(full: Walk) -> None:
    roster = full.sign(relayed(m.Roster, *entries(full, m.Advertise, 1, 2, 3, 4)))
    fewer = {PartyId(p): bytes(32) for p in (1, 2, 3, 4)}
    strange = full.sign(m.ShareKeys(bytes(32), bytes(32), fewer), sender=5)
    shares = full.sign(relayed(m.RelayShares, strange))
    claim = Evidence(EvidenceKind.ROSTER_FORK, AGGREGATOR, (roster, shares))
    assert "shares of party 5" in judged(full, [claim]).detail


def test_a_survivor_fork_is_proven(full: Walk, dropped: Walk) -> None:
    witness, found = watched(full, m.SurvivorsConfirmed)
    mixed = (
        *entries(full, m.ConfirmSurvivors, 1, 3, 5),
        *entries(dropped, m.ConfirmSurvivors, 2, 4),
    )
    packet = full.packet(relayed(m.SurvivorsConfirmed, *mixed))
    step = witness.receive(full.state(1, m.SurvivorsConfirmed), packet)
    assert isinstance(step.state, s.Aborted)
    assert step.state.reason is AbortReason.SURVIVOR_FORK
    verdict = judged(full, found)
    assert verdict.reason is AbortReason.SURVIVOR_FORK
    assert verdict.round == "r4"
    assert "party 2, 4 under" in verdict.detail


@pytest.mark.parametrize("changed", ["update_digest", "sum_digest"])
def test_an_update_fork_is_proven(changed: str, full: Walk) -> None:
    witness, found = watched(full, m.UpdateVerified)
    said = changed_digest(full.message(2, m.VerifyUpdate), changed)
    mixed = (full.sign(said, sender=2), *entries(full, m.VerifyUpdate, 1, 3, 4, 5))
    packet = full.packet(relayed(m.UpdateVerified, *mixed))
    step = witness.receive(full.state(1, m.UpdateVerified), packet)
    assert isinstance(step.state, s.Aborted)
    verdict = judged(full, found)
    assert verdict.reason is AbortReason.UPDATE_FORK
    assert "party 2 under" in verdict.detail


def test_a_fork_with_a_forged_entry_is_an_invalid_relay_and_no_fork(
    full: Walk, elsewhere: Walk
) -> None:
    forged = full.sign(elsewhere.message(4, m.Confirm), sender=4, key=0)
    witness, found = watched(full, m.Confirmed)
    relay = full.packet(relayed(m.Confirmed, *entries(full, m.Confirm, 1, 2, 3, 5), forged))
    witness.receive(full.state(1, m.Confirmed), relay)
    assert judged(full, found).kind is EvidenceKind.INVALID_RELAY
    shown = [full.shown[ONE, kind].envelope for kind in (m.Roster, m.RelayShares)]
    claim = Evidence(EvidenceKind.ROSTER_FORK, AGGREGATOR, (*shown, relay.envelope))
    with pytest.raises(InvalidEvidenceError, match="no fork but invalid-relay"):
        verify(claim, full.federation.plan)


# Relays.


def bad_relays(walk: Walk, other: Walk) -> Iterator[tuple[str, m.Packet, AbortReason]]:
    rest = entries(walk, m.Advertise, 1, 2, 3, 4)
    fifth = walk.envelope(5, m.Advertise)
    flipped = replace(fifth, body=fifth.body[:-1] + bytes([fifth.body[-1] ^ 1]))
    cases: list[tuple[str, m.Envelope, AbortReason]] = [
        ("flipped", flipped, AbortReason.INVALID_SIGNATURE),
        (
            "forged",
            walk.sign(walk.message(5, m.Advertise), sender=5, key=0),
            AbortReason.INVALID_SIGNATURE,
        ),
        ("elsewhere", other.envelope(5, m.Advertise), AbortReason.MALFORMED_MESSAGE),
        ("another kind", walk.envelope(5, m.Confirm), AbortReason.MALFORMED_MESSAGE),
        (
            "a stranger",
            walk.sign(walk.message(5, m.Advertise), sender=6, key=5),
            AbortReason.UNKNOWN_PARTY,
        ),
        ("twice", rest[3], AbortReason.MALFORMED_MESSAGE),
    ]
    for name, entry, reason in cases:
        yield name, walk.packet(relayed(m.Roster, *rest, entry)), reason


@pytest.mark.parametrize("number", range(6))
def test_an_invalid_relay_is_proven_by_one_statement(
    number: int, full: Walk, other_session: Walk
) -> None:
    name, packet, reason = list(bad_relays(full, other_session))[number]
    witness, found = watched(full, m.Roster)
    state = full.state(1, m.Roster)
    assert_contradicted(full, witness.receive(state, packet), reason)
    verdict = judged(full, found)
    assert (verdict.kind, verdict.reason) == (EvidenceKind.INVALID_RELAY, reason), name
    assert verdict.round == "r0"


def test_a_refusal_that_proves_nothing_leaves_no_evidence(full: Walk) -> None:
    # Who was left out cannot show that it answered in time; too few can be nobody's fault.
    for left in ((2, 3, 4, 5), (1, 2, 3)):
        witness, found = watched(full, m.Roster)
        packet = full.packet(relayed(m.Roster, *entries(full, m.Advertise, *left)))
        assert isinstance(witness.receive(full.state(1, m.Roster), packet).state, s.Aborted)
        assert not found


def test_an_abort_in_the_aggregators_words_is_no_evidence(full: Walk) -> None:
    witness, found = watched(full, m.Confirmed)
    packet = full.packet(m.Abort(AbortReason.ROSTER_FORK, PartyId(3)))
    assert isinstance(witness.receive(full.state(1, m.Confirmed), packet).state, s.Aborted)
    assert not found


# Repetitions.

REASONS = {
    m.Roster: AbortReason.ROSTER_FORK,
    m.RelayShares: AbortReason.ROSTER_FORK,
    m.Confirmed: AbortReason.ROSTER_FORK,
    m.ProposeSurvivors: AbortReason.REPEATED_OPENING,
    m.SurvivorsConfirmed: AbortReason.REPEATED_OPENING,
    m.Release: AbortReason.UPDATE_FORK,
    m.UpdateVerified: AbortReason.UPDATE_FORK,
}


FEWER: dict[
    type[m.Message], tuple[Callable[[tuple[m.Envelope, ...]], m.Message], type[m.Message]]
] = {
    m.ProposeSurvivors: (m.ProposeSurvivors, m.Contribute),
    m.UpdateVerified: (m.UpdateVerified, m.VerifyUpdate),
}


@pytest.mark.parametrize("message", SHOWN, ids=lambda kind: kind.__name__)
def test_a_second_statement_of_the_aggregator_ends_the_task_with_proof(
    message: type[m.Message], full: Walk, elsewhere: Walk
) -> None:
    following = SHOWN.index(message) + 1
    until = SHOWN[following] if following < len(SHOWN) else None
    witness, found = watched(full, until)
    state = full.state(1, SHOWN[min(following, len(SHOWN) - 1)])
    second = elsewhere.shown[ONE, message]
    if message is m.Release:
        other = replace(full.shown_message(1, m.Release), update_digest=bytes(32))
        second = full.packet(other)
    elif message in FEWER:
        make, entry = FEWER[message]
        second = full.packet(relayed(make, *entries(full, entry, 1, 2, 3, 4)))
    step = witness.receive(state, second)
    assert_contradicted(full, step, REASONS[message])
    assert not isinstance(step.state, s.Completed)
    verdict = judged(full, found)
    assert verdict.kind is EvidenceKind.REPEATED_STATEMENT
    assert verdict.reason is REASONS[message]
    assert message.__name__ in verdict.detail


def test_a_statement_that_came_too_early_is_remembered(full: Walk, elsewhere: Walk) -> None:
    witness, found = watched(full, m.Roster)
    with pytest.raises(UnexpectedMessageError):
        witness.receive(full.state(1, m.Roster), full.shown[ONE, m.RelayShares])
    step = witness.receive(full.state(1, m.Roster), elsewhere.shown[ONE, m.RelayShares])
    assert_contradicted(full, step, AbortReason.ROSTER_FORK)
    assert judged(full, found).detail.startswith("two different RelayShares")


@pytest.mark.parametrize("message", SHOWN, ids=lambda kind: kind.__name__)
def test_the_same_statement_again_is_ignored(message: type[m.Message], full: Walk) -> None:
    witness, found = watched(full)
    state = full.state(1, SHOWN[0] if message is SHOWN[-1] else SHOWN[-1])
    with pytest.raises(UnexpectedMessageError):
        witness.receive(state, full.shown[ONE, message])
    assert not found


def test_a_forged_second_statement_ends_nothing(full: Walk, elsewhere: Walk) -> None:
    witness, found = watched(full, m.RelayShares)
    forged = full.sign(elsewhere.shown_message(1, m.Roster), sender=0, key=2)
    with pytest.raises(UnexpectedMessageError):
        witness.receive(full.state(1, m.RelayShares), m.Packet(forged))
    # Nor does it keep the aggregator's own second one from being noticed, or a first one away.
    fresh, noted = watched(full, m.Roster)
    with pytest.raises(InvalidSignatureError):
        fresh.receive(full.state(1, m.Roster), m.Packet(forged))
    assert not isinstance(
        fresh.receive(full.state(1, m.Roster), full.shown[ONE, m.Roster]).state, s.Aborted
    )
    assert not found
    assert not noted


def test_a_statement_of_another_task_is_no_repetition(full: Walk, other_session: Walk) -> None:
    witness, found = watched(full, m.RelayShares)
    with pytest.raises(UnexpectedMessageError):
        witness.receive(full.state(1, m.RelayShares), other_session.shown[ONE, m.Roster])
    assert not found


def test_an_honest_task_gives_no_evidence(full: Walk, dropped: Walk) -> None:
    for honest in (full, dropped):
        _, found = watched(honest)
        assert not found


@pytest.mark.parametrize("message", ANSWERED, ids=lambda kind: kind.__name__)
def test_a_second_statement_of_a_party_is_proven(
    message: type[m.Message], full: Walk, elsewhere: Walk
) -> None:
    second = elsewhere.envelope(3, message)
    if second.body == full.envelope(3, message).body:
        others: dict[type[m.Message], m.Message] = {
            m.Contribute: m.Contribute(1, 1, bytes(32)),
            m.VerifyUpdate: m.VerifyUpdate(bytes(32), bytes(32)),
        }
        second = full.sign(others[message], sender=3)
    kind = EvidenceKind.REPEATED_STATEMENT
    evidence = Evidence(kind, PartyId(3), (full.envelope(3, message), second))
    verdict = judged(full, [evidence])
    assert (verdict.accused, verdict.name) == (3, "party-3")


# What proves nothing.


def honest_envelopes(walk: Walk) -> list[m.Envelope]:
    shown = {kind_of(packet): packet.envelope for packet in walk.shown.values()}
    sent = [packet.envelope for packet in walk.sent.values()]
    return [shown[message] for message in SHOWN] + sent


def assert_unproven(walk: Walk, kind: EvidenceKind, chosen: Iterable[m.Envelope]) -> None:
    envelopes = tuple(chosen)
    for accused in {AGGREGATOR, *(envelope.sender for envelope in envelopes)}:
        with pytest.raises(InvalidEvidenceError):
            verify(Evidence(kind, accused, envelopes), walk.federation.plan)


@pytest.mark.parametrize("kind", list(EvidenceKind))
def test_no_pair_and_no_single_statement_of_an_honest_session_proves_anything(
    kind: EvidenceKind, full: Walk
) -> None:
    honest = honest_envelopes(full)
    assert len(honest) == 7 + 5 * 7
    for envelope in honest:
        assert_unproven(full, kind, (envelope,))
    for pair in itertools.product(honest, repeat=2):
        assert_unproven(full, kind, pair)


def test_no_statements_of_an_honest_aggregator_make_a_fork(full: Walk) -> None:
    shown = honest_envelopes(full)[:7]
    for three in itertools.product(shown, repeat=3):
        assert_unproven(full, EvidenceKind.ROSTER_FORK, three)
    for two in itertools.product(shown, repeat=2):
        first = full.shown[ONE, m.Roster].envelope
        assert_unproven(full, EvidenceKind.SURVIVOR_FORK, (first, shown[1], *two))


def test_two_honest_sessions_do_not_add_up_to_a_lie(full: Walk, other_session: Walk) -> None:
    mine, theirs = honest_envelopes(full)[:7], honest_envelopes(other_session)[:7]
    for ours, others in zip(mine, theirs, strict=True):
        assert ours.kind == others.kind
        assert_unproven(full, EvidenceKind.REPEATED_STATEMENT, (ours, others))
    mixed = (*mine[:2], theirs[2])
    assert_unproven(full, EvidenceKind.ROSTER_FORK, mixed)
    assert_unproven(full, EvidenceKind.UPDATE_FORK, (mine[5], theirs[6]))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_one_makes_of_two_honest_sessions_is_no_evidence(data: st.DataObject) -> None:
    sessions = [_SESSIONS[0], _SESSIONS[1]]
    pool = [envelope for session in sessions for envelope in honest_envelopes(session)]
    kind = data.draw(st.sampled_from(list(EvidenceKind)))
    chosen = list(data.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=4)))
    if data.draw(st.booleans()):
        # Anybody may move, rename and alter what was signed; the signature is what it needs.
        at = data.draw(st.integers(0, len(chosen) - 1))
        victim = chosen[at]
        chosen[at] = data.draw(
            st.sampled_from(
                [
                    replace(victim, context=sessions[1].context),
                    replace(victim, context=replace(victim.context, task=TaskIndex(1))),
                    replace(victim, sender=PartyId(data.draw(st.integers(0, 6)))),
                    replace(victim, kind=data.draw(st.sampled_from(sorted(m.KINDS.values())))),
                    replace(victim, body=victim.body[:-1]),
                    replace(victim, body=victim.body + b"\x00"),
                ]
            )
        )
    for accused in range(7):
        with pytest.raises(InvalidEvidenceError):
            verify(Evidence(kind, PartyId(accused), tuple(chosen)), sessions[0].federation.plan)


_SESSIONS = [walk(contributors=parties(1, 2, 3, 4, 5), seed=seed) for seed in (0, 1)]


def proofs(full: Walk, elsewhere: Walk, dropped: Walk) -> dict[EvidenceKind, Evidence]:
    """One true proof of each kind."""
    shown = {message: full.shown[ONE, message].envelope for message in SHOWN}
    other = elsewhere.shown[ONE, m.Roster].envelope
    roster = (shown[m.Roster], shown[m.RelayShares])
    forked = full.sign(
        relayed(
            m.Confirmed, *entries(full, m.Confirm, 1, 2, 3), *entries(elsewhere, m.Confirm, 4, 5)
        )
    )
    survivors = full.sign(
        relayed(
            m.SurvivorsConfirmed,
            *entries(full, m.ConfirmSurvivors, 1, 3, 5),
            *entries(dropped, m.ConfirmSurvivors, 2, 4),
        )
    )
    said = full.sign(m.VerifyUpdate(bytes(32), bytes(32)), sender=2)
    updates = full.sign(relayed(m.UpdateVerified, said, *entries(full, m.VerifyUpdate, 1, 3, 4, 5)))
    forged = full.sign(full.message(5, m.Advertise), sender=5, key=0)
    invalid = full.sign(relayed(m.Roster, *entries(full, m.Advertise, 1, 2, 3, 4), forged))
    made = {
        EvidenceKind.REPEATED_STATEMENT: (shown[m.Roster], other),
        EvidenceKind.ROSTER_FORK: (*roster, forked),
        EvidenceKind.SURVIVOR_FORK: (*roster, shown[m.ProposeSurvivors], survivors),
        EvidenceKind.UPDATE_FORK: (shown[m.Release], updates),
        EvidenceKind.INVALID_RELAY: (invalid,),
    }
    return {kind: Evidence(kind, AGGREGATOR, envelopes) for kind, envelopes in made.items()}


@pytest.mark.parametrize("kind", list(EvidenceKind))
def test_a_proof_proves_one_thing_about_one_signer(
    kind: EvidenceKind, full: Walk, elsewhere: Walk, dropped: Walk
) -> None:
    plan = full.federation.plan
    proof = proofs(full, elsewhere, dropped)[kind]
    assert verify(proof, plan).kind is kind
    for claimed in set(EvidenceKind) - {kind}:
        with pytest.raises(InvalidEvidenceError):
            verify(replace(proof, kind=claimed), plan)
    for accused in range(1, 7):
        with pytest.raises(InvalidEvidenceError):
            verify(replace(proof, accused=PartyId(accused)), plan)
    for number in (proof.envelopes[:-1], (*proof.envelopes, proof.envelopes[0])):
        with pytest.raises(InvalidEvidenceError):
            verify(replace(proof, envelopes=number), plan)


@pytest.mark.parametrize("kind", list(EvidenceKind))
def test_one_flipped_bit_anywhere_ends_the_proof(
    kind: EvidenceKind, full: Walk, elsewhere: Walk, dropped: Walk
) -> None:
    plan = full.federation.plan
    proof = proofs(full, elsewhere, dropped)[kind]
    for at, envelope in enumerate(proof.envelopes):
        bits = range(0, 8 * len(envelope.body), max(1, len(envelope.body) // 8))
        changed = [replace(envelope, body=flip(envelope.body, bit)) for bit in bits]
        changed += [replace(envelope, signature=flip(envelope.signature, bit)) for bit in (0, 511)]
        changed += [
            replace(envelope, context=context)
            for context in (
                replace(envelope.context, session_id=bytes(32)),
                replace(envelope.context, chain=bytes(32)),
                replace(envelope.context, plan_digest=bytes(32)),
                replace(envelope.context, task=TaskIndex(1)),
            )
        ]
        for damaged in changed:
            parts = (*proof.envelopes[:at], damaged, *proof.envelopes[at + 1 :])
            with pytest.raises(InvalidEvidenceError):
                verify(replace(proof, envelopes=parts), plan)


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_second_unmask_is_no_evidence(full: Walk, dropped: Walk) -> None:
    pair = (full.envelope(2, m.Unmask), dropped.envelope(2, m.Unmask))
    assert pair[0].body != pair[1].body
    with pytest.raises(InvalidEvidenceError, match="holds shares"):
        verify(Evidence(EvidenceKind.REPEATED_STATEMENT, PartyId(2), pair), full.federation.plan)


@pytest.mark.parametrize("kind", [EvidenceKind.INVALID_RELAY, EvidenceKind.REPEATED_STATEMENT])
def test_a_relayed_unmask_never_gets_into_evidence(kind: EvidenceKind, full: Walk) -> None:
    unmask = full.envelope(5, m.Unmask)
    packet = full.packet(relayed(m.Roster, *entries(full, m.Advertise, 1, 2, 3, 4), unmask))
    until = m.Roster if kind is EvidenceKind.INVALID_RELAY else m.RelayShares
    witness, found = watched(full, until)
    step = witness.receive(full.state(1, until), packet)
    assert isinstance(step.state, s.Aborted)
    assert not found


def test_aborts_and_welcomes_may_be_repeated(full: Walk) -> None:
    aborts = tuple(full.sign(m.Abort(AbortReason.TIMEOUT, PartyId(p))) for p in (1, 2))
    evidence = Evidence(EvidenceKind.REPEATED_STATEMENT, AGGREGATOR, aborts)
    with pytest.raises(InvalidEvidenceError, match="more than once"):
        verify(evidence, full.federation.plan)


def test_a_party_cannot_be_accused_of_what_only_aggregators_do(full: Walk) -> None:
    # Party 2 signs a roster in its own name, twice: nobody would look at it.
    rosters = tuple(
        full.sign(relayed(m.Roster, *entries(full, m.Advertise, *ids)), sender=2)
        for ids in ((1, 2, 3, 4), (1, 2, 3, 5))
    )
    for kind, envelopes in (
        (EvidenceKind.REPEATED_STATEMENT, rosters),
        (EvidenceKind.INVALID_RELAY, rosters[:1]),
    ):
        with pytest.raises(InvalidEvidenceError):
            verify(Evidence(kind, PartyId(2), envelopes), full.federation.plan)


# The file.


def test_a_file_gives_the_same_evidence_back(full: Walk, elsewhere: Walk, dropped: Walk) -> None:
    plan = full.federation.plan
    for proof in proofs(full, elsewhere, dropped).values():
        data = format_evidence(replace(proof, note="seen by party-1"), plan)
        assert parse_evidence(data, plan) == proof
        assert parse_evidence(data, plan).note == "seen by party-1"
        assert set(json.loads(data)) == {
            "format", "plan", "kind", "accused", "envelopes", "note",
        }  # fmt: skip


def test_statements_under_a_stolen_plan_digest_are_no_evidence(full: Walk) -> None:
    context = replace(full.context, plan_digest=bytes(32))
    key = full.federation.identities[AGGREGATOR]
    pair = tuple(
        sign_message(
            m.Release(bytes([n]) * 32, 1, bytes(32)), context=context, sender=AGGREGATOR, key=key
        )
        for n in (1, 2)
    )
    evidence = Evidence(EvidenceKind.REPEATED_STATEMENT, AGGREGATOR, pair)
    with pytest.raises(InvalidEvidenceError, match="another plan"):
        verify(evidence, full.federation.plan)
