"""A lying aggregator and a real party's session: it ends in time, and with proof."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from collabedit.aggregator.coordinator import Coordinator
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import AbortReason, SessionAbortedError
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.party.member import Member
from collabedit.party.session import run_session
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body
from collabedit.proto.envelope import sign_message
from collabedit.proto.evidence import Evidence, EvidenceKind, verify
from tests.protocol.stage import kind_of
from tests.support.federations import build_federation
from tests.support.lies import Refusal
from tests.support.loopback import LoopbackChannel, driven
from tests.support.networks import MatrixEditor

T = TypeVar("T", bound=m.Message)
ONE = PartyId(1)


@dataclass
class Stage:
    """Five parties around a real coordinator, whose words to party 1 a test may replace.

    Attributes:
        told: what party 1 was told, by message, as it should have been.
        found: evidence of every party.
        errors: how sessions ended that did not end well.
    """

    directory: Path
    layers: int = 1
    told: dict[type, m.Packet] = field(default_factory=dict)
    found: dict[PartyId, list[Evidence]] = field(default_factory=dict)
    errors: dict[PartyId, BaseException] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.federation = build_federation(5, layers=self.layers)
        self.coordinator = Coordinator(
            self.federation.plan,
            self.federation.identities[AGGREGATOR],
            directory=self.directory,
            randomness=SystemRandomness(),
        )
        self.channels = {
            party: LoopbackChannel(self.coordinator, party)
            for party in self.federation.plan.party_ids
        }

    def sign(self, message: m.Message) -> m.Packet:
        """Sign as the aggregator, in the context of what party 1 was told last."""
        context = list(self.told.values())[-1].envelope.context
        key = self.federation.identities[AGGREGATOR]
        return m.Packet(sign_message(message, context=context, sender=AGGREGATOR, key=key))

    def said(self, message: type[T]) -> T:
        envelope = self.told[message].envelope
        body = decode_body(envelope.kind, envelope.body)
        assert isinstance(body, message)
        return body

    def replace(self, at: type[m.Message], lie: Callable[[m.Packet], m.Packet]) -> None:
        """Show party 1 something else where `at` belongs."""

        def received(packet: m.Packet) -> m.Packet:
            self.told[kind_of(packet)] = packet
            return lie(packet) if kind_of(packet) is at else packet

        self.channels[ONE].received = received

    def _join(self, party: PartyId) -> None:
        plan = self.federation.plan
        member = Member(plan, party, self.federation.identities[party], SystemRandomness())
        found = self.found.setdefault(party, [])
        try:
            run_session(
                member,
                self.channels[party],
                MatrixEditor(self.federation, party),
                evidence=found.append,
            )
        except BaseException as error:  # noqa: BLE001  handed to the test
            self.errors[party] = error

    def run(self) -> "Stage":
        with driven(self.coordinator):
            threads = [
                threading.Thread(target=self._join, args=(party,)) for party in self.channels
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
                assert not thread.is_alive()
        return self

    def sent(self, message: type[m.Message]) -> list[m.Message]:
        packets = [p for p in self.channels[ONE].delivered if kind_of(p) is message]
        return [decode_body(p.envelope.kind, p.envelope.body) for p in packets]


@pytest.mark.lie(
    role="aggregator",
    lie="signs two different rosters and shows a party both",
    round="r0",
    refused_by="ROSTER_FORK",
)
def test_a_second_roster_ends_the_session_with_proof(tmp_path: Path, refusal: Refusal) -> None:
    stage = Stage(tmp_path)
    stage.replace(
        m.RelayShares, lambda _: stage.sign(m.Roster(stage.said(m.Roster).advertisements[:4]))
    )
    stage.run()
    error = stage.errors.pop(ONE)
    assert isinstance(error, SessionAbortedError)
    refusal(error.reason)
    assert (error.reason, error.culprit) == (AbortReason.ROSTER_FORK, "aggregator")
    assert stage.sent(m.Abort) == [m.Abort(AbortReason.ROSTER_FORK, AGGREGATOR)]
    (evidence,) = stage.found.pop(ONE)
    assert evidence.kind is EvidenceKind.REPEATED_STATEMENT
    assert verify(evidence, stage.federation.plan).session_id == stage.coordinator.session_id
    # The others were told the truth, and have nothing against anybody.
    assert not stage.errors
    assert not any(stage.found.values())


@pytest.mark.lie(
    role="aggregator",
    lie="signs a second set of survivors before the shares leave",
    round="r5",
    refused_by="REPEATED_OPENING",
)
def test_a_second_unmask_request_is_named_and_no_share_leaves(
    tmp_path: Path, refusal: Refusal
) -> None:
    stage = Stage(tmp_path)
    stage.replace(
        m.SurvivorsConfirmed,
        lambda _: stage.sign(m.ProposeSurvivors(stage.said(m.ProposeSurvivors).contributions[:4])),
    )
    stage.run()
    error = stage.errors[ONE]
    assert isinstance(error, SessionAbortedError)
    refusal(error.reason)
    assert (error.reason, error.culprit) == (AbortReason.REPEATED_OPENING, "aggregator")
    assert not stage.sent(m.Unmask)
    (evidence,) = stage.found[ONE]
    assert verify(evidence, stage.federation.plan).reason is AbortReason.REPEATED_OPENING


@pytest.mark.lie(
    role="aggregator",
    lie="asks for shares a second time after they left",
    round="r5",
    refused_by="REPEATED_OPENING",
)
def test_a_second_opening_is_named_after_the_shares_left_too(
    tmp_path: Path, refusal: Refusal
) -> None:
    stage = Stage(tmp_path)
    stage.replace(
        m.Release,
        lambda _: stage.sign(
            m.SurvivorsConfirmed(stage.said(m.SurvivorsConfirmed).confirmations[:4])
        ),
    )
    stage.run()
    error = stage.errors[ONE]
    assert isinstance(error, SessionAbortedError)
    refusal(error.reason)
    assert error.reason is AbortReason.REPEATED_OPENING
    assert len(stage.sent(m.Unmask)) == 1
    assert len(stage.found[ONE]) == 1


@pytest.mark.lie(
    role="aggregator",
    lie="signs a list that does not decode",
    round="any",
    refused_by="MALFORMED_MESSAGE",
)
def test_a_signed_list_that_does_not_decode_is_the_aggregators_fault(
    tmp_path: Path, refusal: Refusal
) -> None:
    stage = Stage(tmp_path)
    stage.replace(
        m.Roster, lambda _: stage.sign(m.Roster(stage.said(m.Roster).advertisements[::-1]))
    )
    stage.run()
    error = stage.errors[ONE]
    assert isinstance(error, SessionAbortedError)
    refusal(error.reason)
    assert (error.reason, error.culprit) == (AbortReason.MALFORMED_MESSAGE, "aggregator")
    assert stage.sent(m.Abort) == [m.Abort(AbortReason.MALFORMED_MESSAGE, AGGREGATOR)]
    (evidence,) = stage.found[ONE]
    assert evidence.kind is EvidenceKind.INVALID_RELAY
    assert verify(evidence, stage.federation.plan).reason is AbortReason.MALFORMED_MESSAGE


@pytest.mark.parametrize("layers", [1, 2])
def test_an_honest_session_with_every_packet_twice_gives_no_evidence(
    layers: int, tmp_path: Path
) -> None:
    stage = Stage(tmp_path, layers=layers)
    for channel in stage.channels.values():
        repeat(channel)
    stage.run()
    assert not stage.errors
    assert len(stage.found) == 5
    assert not any(stage.found.values())


def repeat(channel: LoopbackChannel) -> None:
    real, last = channel.next_packet, list[m.Packet]()

    def twice(timeout: float) -> m.Packet | None:
        if last:
            return last.pop()
        packet = real(timeout)
        # A packet of r6 that comes again would be the next task's first, and of the wrong task.
        if packet is not None and kind_of(packet) is not m.UpdateVerified:
            last.append(packet)
        return packet

    channel.next_packet = twice  # type: ignore[method-assign]
