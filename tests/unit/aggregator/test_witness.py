"""What the aggregator can prove of a party, and what it must not accuse anybody of."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.journal import Journal
from collabedit.aggregator.witness import LARGEST_STATEMENT, Witness
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import UnexpectedMessageError
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.proto import messages as m
from collabedit.proto.envelope import sign_message
from collabedit.proto.evidence import Evidence, verify
from tests.protocol.stage import Session, Walk, kind_of, parties, walk
from tests.support.federations import build_federation

ONE, TWO = PartyId(1), PartyId(2)
ANSWERED = (
    m.Advertise,
    m.ShareKeys,
    m.Confirm,
    m.Contribute,
    m.ConfirmSurvivors,
    m.VerifyUpdate,
)


@pytest.fixture(scope="module")
def full() -> Walk:
    return walk(contributors=parties(1, 2, 3, 4, 5))


class Watch:
    """A witness with everything that it says."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.found: list[Evidence] = []
        self.events: list[Mapping[str, object]] = []
        self.witness = Witness(walk.federation.plan, self.found.append, self._note)

    def _note(self, event: str, fields: Mapping[str, object]) -> None:
        assert event == "equivocated"
        self.events.append(fields)

    def see(self, *envelopes: m.Envelope) -> None:
        for envelope in envelopes:
            self.witness.see(self.walk.context, envelope)


def other(walk: Walk, message: type[m.Message]) -> m.Envelope:
    """What party 2 signs besides its own statement."""
    body = b"\x05" * 32
    others: dict[type[m.Message], m.Message] = {
        m.Advertise: m.Advertise(body, body),
        m.ShareKeys: m.ShareKeys(body, body, {ONE: body}),
        m.Confirm: m.Confirm(body),
        m.Contribute: m.Contribute(1, 1, body),
        m.ConfirmSurvivors: m.ConfirmSurvivors(body),
        m.VerifyUpdate: m.VerifyUpdate(body, body),
    }
    return walk.sign(others[message], sender=2)


@pytest.mark.parametrize("message", ANSWERED, ids=lambda kind: kind.__name__)
def test_a_second_statement_is_proven_and_reported_once(
    message: type[m.Message], full: Walk
) -> None:
    watch = Watch(full)
    first, second = full.envelope(2, message), other(full, message)
    watch.see(first, first, second, first, second)
    (evidence,) = watch.found
    assert evidence.envelopes == (first, second)
    assert verify(evidence, full.federation.plan).accused == TWO
    assert watch.events == [
        {"party": "party-2", "task": 0, "statement": message.__name__, "evidence": True}
    ]


def test_a_second_unmask_is_told_but_its_shares_are_not_kept(full: Walk) -> None:
    watch = Watch(full)
    honest = full.message(2, m.Unmask)
    fewer = m.Unmask({owner: share for owner, share in honest.shares.items() if owner != 5})
    watch.see(full.envelope(2, m.Unmask), full.sign(fewer, sender=2))
    assert not watch.found
    assert watch.events == [
        {"party": "party-2", "task": 0, "statement": "Unmask", "evidence": False}
    ]
    assert not watch.witness._first


def test_nobody_is_accused_by_what_others_signed(full: Walk) -> None:
    watch = Watch(full)
    honest = full.envelope(2, m.Confirm)
    watch.see(
        full.sign(m.Confirm(bytes(32)), sender=2, key=3),  # before its own statement
        honest,
        full.sign(m.Confirm(bytes(32)), sender=2, key=3),  # and after it
        full.sign(m.Confirm(bytes(32)), sender=3),
        full.envelope(2, m.Contribute),
        full.sign(m.Confirm(bytes(32)), sender=6, key=2),
    )
    assert not watch.found
    assert not watch.events
    watch.see(other(full, m.Confirm))
    assert watch.found[0].envelopes[0] == honest


def test_statements_of_two_tasks_are_not_compared(full: Walk) -> None:
    watch = Watch(full)
    later = replace(full.context, task=TaskIndex(1))
    watch.see(full.envelope(2, m.Confirm), full.sign(m.Confirm(bytes(32)), sender=2, context=later))
    watch.witness.see(later, full.sign(m.Confirm(bytes(32)), sender=2, context=later))
    assert not watch.events


def test_the_aggregators_own_name_is_not_watched(full: Walk) -> None:
    watch = Watch(full)
    watch.see(*(full.sign(m.Confirm(bytes([n]) * 32)) for n in (1, 2)))
    assert not watch.events


def test_a_statement_that_no_honest_party_sends_is_not_kept(full: Walk) -> None:
    watch = Watch(full)
    digests = {PartyId(p): bytes(32) for p in range(1, 501)}
    honest = full.sign(m.ShareKeys(bytes(32), bytes(32), digests), sender=2)
    assert len(honest.body) < LARGEST_STATEMENT / 3
    many = {PartyId(p): bytes(32) for p in range(1, 2001)}
    huge = full.sign(m.ShareKeys(bytes(32), bytes(32), many), sender=2)
    assert len(huge.body) > LARGEST_STATEMENT
    watch.see(huge)
    assert not watch.witness._first
    watch.see(honest)
    assert watch.witness._first


# In the coordinator.


@pytest.fixture
def lied(tmp_path: Path) -> tuple[Session, list[Evidence], list[str]]:
    """Party 2 confirms two rosters, one after the other."""
    found: list[Evidence] = []
    events: list[str] = []
    session: Session

    def alter(party: PartyId, packet: m.Packet) -> Iterable[m.Packet]:
        if party == TWO and kind_of(packet) is m.Confirm:
            return (packet, m.Packet(session.sign(TWO, m.Confirm(bytes(32)))))
        return (packet,)

    session = Session(
        build_federation(5, layers=2),
        tmp_path,
        alter=alter,
        observer=lambda event, _: events.append(event),
    )
    session.coordinator._witness = Witness(
        session.federation.plan, found.append, session.coordinator._report.observer
    )
    return session, found, events


def test_the_session_goes_on_and_the_lie_is_kept(
    lied: tuple[Session, list[Evidence], list[str]],
) -> None:
    session, found, events = lied
    session.run()
    assert len(session.coordinator.records) == 2
    assert session.coordinator.records[0].survivors == parties(1, 2, 3, 4, 5)
    (evidence,) = found
    verdict = verify(evidence, session.federation.plan)
    assert (verdict.name, verdict.task, verdict.round) == ("party-2", 0, "r2")
    assert events.count("equivocated") == 1


def test_an_honest_session_accuses_nobody(tmp_path: Path) -> None:
    events: list[str] = []

    def twice(party: PartyId, packet: m.Packet) -> Iterable[m.Packet]:
        return (packet, packet)

    session = Session(
        build_federation(5, layers=2),
        tmp_path,
        alter=twice,
        observer=lambda event, _: events.append(event),
    ).run()
    assert len(session.coordinator.records) == 2
    assert "equivocated" not in events


def test_a_restart_does_not_make_the_aggregator_forget_what_a_party_signed(
    tmp_path: Path,
) -> None:
    federation = build_federation(5)
    found: list[Evidence] = []

    def start() -> Coordinator:
        return Coordinator(
            federation.plan,
            federation.identities[AGGREGATOR],
            directory=tmp_path / "spool",
            randomness=SystemRandomness(),
            evidence=found.append,
            journal=journal,
        )

    journal = Journal(tmp_path / "journal.sqlite")
    first = start()
    context = first._setup.context
    keys = [bytes([n]) * 32 for n in range(9, 13)]
    said = [
        sign_message(
            m.Advertise(*pair), context=context, sender=TWO, key=federation.identities[TWO]
        )
        for pair in (keys[:2], keys[2:])
    ]
    first.deliver(m.Packet(said[0]))
    journal.close()
    journal = Journal(tmp_path / "journal.sqlite")
    again = start()
    assert again.replayed == 1
    with pytest.raises(UnexpectedMessageError):
        again.deliver(m.Packet(said[1]))
    (evidence,) = found
    assert verify(evidence, federation.plan).detail.startswith("two different Advertise")
