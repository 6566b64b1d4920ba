"""The driver of a party's session, against a real coordinator in memory."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from collabedit.aggregator import opening
from collabedit.aggregator.coordinator import Coordinator
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import (
    AbortReason,
    InputError,
    InvalidSignatureError,
    MalformedMessageError,
    NumericError,
    PlanError,
    ProtocolError,
    SessionAbortedError,
    TransportError,
)
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId, TaskIndex
from collabedit.party import driver as driver_module
from collabedit.party.channel import Frames
from collabedit.party.member import Member, OpeningRecord, SessionReport
from collabedit.party.session import run_session
from collabedit.plan import Plan, Timing
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body
from collabedit.proto.envelope import sign_message
from collabedit.sketch import LowRankUpdate
from tests.protocol.stage import kind_of
from tests.support.federations import TestFederation, build_federation
from tests.support.lies import Refusal
from tests.support.loopback import LoopbackChannel, driven
from tests.support.networks import MatrixEditor
from tests.support.randomness import InsecureTestRandomness

ONE = PartyId(1)


@dataclass
class Room:
    """A coordinator and parties in threads; `channels` and `editors` may be changed at first."""

    federation: TestFederation
    directory: Path
    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    reports: dict[PartyId, SessionReport] = field(default_factory=dict)
    errors: dict[PartyId, BaseException] = field(default_factory=dict)
    seen: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.coordinator = Coordinator(
            self.federation.plan,
            self.federation.identities[AGGREGATOR],
            directory=self.directory,
            randomness=SystemRandomness(),
            observer=lambda event, fields: self.events.append((event, dict(fields))),
        )
        ids = self.federation.plan.party_ids
        self.channels = {party: LoopbackChannel(self.coordinator, party) for party in ids}
        self.editors = {party: MatrixEditor(self.federation, party) for party in ids}
        self.ledgers: dict[PartyId, OpeningRecord] = {}

    def _join(self, party: PartyId) -> None:
        identity = self.federation.identities[party]
        member = Member(self.federation.plan, party, identity, SystemRandomness())
        try:
            self.reports[party] = run_session(
                member,
                self.channels[party],
                self.editors[party],
                ledger=self.ledgers.get(party),
                observer=lambda event, fields: self.seen.append((event, dict(fields))),
            )
        except BaseException as error:  # noqa: BLE001  handed to the test
            self.errors[party] = error

    def run(self, *, patience: float = 1.0) -> "Room":
        with driven(self.coordinator, patience=patience):
            threads = [
                threading.Thread(target=self._join, args=(party,)) for party in self.channels
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
                assert not thread.is_alive()
        return self

    def farewells(self, party: PartyId) -> list[m.Message]:
        """What the party said when it left."""
        sent = [packet.envelope for packet in self.channels[party].delivered]
        return [decode_body(e.kind, e.body) for e in sent if e.kind == m.KINDS[m.Abort]]


def test_everybody_applies_the_same_centralised_update(tmp_path: Path) -> None:
    room = Room(build_federation(3, layers=2), tmp_path).run()
    assert not room.errors
    for party, editor in room.editors.items():
        assert not editor.rolled_back
        assert room.channels[party].closed
        for layer, applied in enumerate(editor.applied):
            want = room.federation.centralised(
                frozenset(room.federation.plan.party_ids), TaskIndex(layer)
            )
            update = applied[LayerIndex(layer)].dense()
            assert np.linalg.norm(update - want) / np.linalg.norm(want) < 1e-9
    reports = list(room.reports.values())
    assert len({(report.session_id, str(len(report.tasks))) for report in reports}) == 1
    for task in (0, 1):
        assert len({report.tasks[task].update_digest for report in reports}) == 1
        assert reports[0].tasks[task].survivors == ("party-1", "party-2", "party-3")
    told = [event for event, _ in room.seen]
    assert {"joined", "computed", "uploading", "uploaded", "applied", "state"} == set(told)


def test_another_identity_key_than_the_plans_is_refused(tmp_path: Path) -> None:
    federation = build_federation(3)
    stranger = federation.identities[PartyId(2)]
    with pytest.raises(PlanError, match="party-1"):
        Member(federation.plan, ONE, stranger, InsecureTestRandomness(0))


def test_a_member_shows_neither_key_nor_entropy(tmp_path: Path) -> None:
    federation = build_federation(3)
    member = Member(federation.plan, ONE, federation.identities[ONE], InsecureTestRandomness(0))
    assert "identity=" not in repr(member).replace("identity='", "")
    assert "randomness" not in repr(member)


# Ending early.


def test_an_abort_rolls_back_everywhere_and_tells_why(tmp_path: Path) -> None:
    # The update of the second task is refused by everybody: its download is damaged.
    room = Room(build_federation(3, layers=2), tmp_path)
    for channel in room.channels.values():
        channel.downloaded = second_damaged()
    room.run()
    assert set(room.errors) == {1, 2, 3}
    for party, error in room.errors.items():
        assert isinstance(error, SessionAbortedError)
        assert error.reason is AbortReason.DIGEST_MISMATCH
        assert error.culprit == "aggregator"
        assert "DIGEST_MISMATCH: the update is not" in str(error)
        assert room.editors[party].rolled_back
        assert len(room.editors[party].applied) == 1
        assert room.channels[party].closed
        assert room.farewells(party) == [m.Abort(AbortReason.DIGEST_MISMATCH, AGGREGATOR)]


def second_damaged() -> Callable[[bytes], bytes]:
    count = 0

    def damage(bundle: bytes) -> bytes:
        nonlocal count
        count += 1
        return bundle if count == 1 else bundle[:-1] + bytes([bundle[-1] ^ 1])

    return damage


def test_a_bound_broken_by_our_own_edits_is_said_and_nothing_of_it_sent(tmp_path: Path) -> None:
    room = Room(build_federation(4), tmp_path)
    room.editors[ONE].scale = 1e6
    room.run()
    assert set(room.errors) == {1}
    assert isinstance(room.errors[ONE], NumericError)
    assert room.editors[ONE].rolled_back
    assert room.farewells(ONE) == [m.Abort(AbortReason.INPUT_REFUSED, ONE)]
    assert len(room.channels[ONE].delivered) == 1
    assert room.coordinator.records[0].survivors == {2, 3, 4}


class BrokenEditor(MatrixEditor):
    """Fails to apply the update of the first task, and to roll back if told so."""

    rollback_fails = False

    def apply(self, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
        super().apply(updates)
        raise MemoryError

    def rollback(self) -> None:
        super().rollback()
        if self.rollback_fails:
            raise OSError("the disk is gone")


@pytest.mark.parametrize("rollback_fails", [False, True])
def test_a_party_that_fails_between_two_tasks_says_farewell_in_the_next(
    rollback_fails: bool, tmp_path: Path
) -> None:
    room = Room(build_federation(4, layers=2), tmp_path)
    editor = room.editors[ONE] = BrokenEditor(room.federation, ONE)
    editor.rollback_fails = rollback_fails
    # Nobody closes a round for half a minute: the farewell alone lets the others go on.
    room.run(patience=30)
    assert isinstance(room.errors.pop(ONE), OSError if rollback_fails else MemoryError)
    assert not room.errors
    assert editor.rolled_back
    assert room.farewells(ONE) == [m.Abort(AbortReason.PARTY_LEFT, ONE)]
    assert room.coordinator.records[1].survivors == {2, 3, 4}


def test_an_interrupted_party_says_farewell(tmp_path: Path) -> None:
    room = Room(build_federation(4), tmp_path)

    def interrupt(packet: m.Packet) -> m.Packet:
        if kind_of(packet) is m.RelayShares:
            raise KeyboardInterrupt
        return packet

    room.channels[ONE].received = interrupt
    room.run(patience=30)
    assert isinstance(room.errors.pop(ONE), KeyboardInterrupt)
    assert not room.errors
    assert room.farewells(ONE) == [m.Abort(AbortReason.PARTY_LEFT, ONE)]
    assert room.coordinator.records[0].survivors == {2, 3, 4}


def test_a_farewell_that_cannot_be_said_does_not_hide_the_reason(tmp_path: Path) -> None:
    room = Room(build_federation(4), tmp_path)

    def fail(packet: m.Packet) -> None:
        if kind_of(packet) in {m.Confirm, m.Abort}:
            raise TransportError("unreachable")

    room.channels[ONE].before_delivery = fail
    room.run()
    assert isinstance(room.errors.pop(ONE), TransportError)
    assert not room.errors
    assert room.editors[ONE].rolled_back


def test_a_silent_aggregator_is_given_up_after_the_plans_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "_POLL_SECONDS", 0.02)
    federation = build_federation(3)
    timing = Timing(join=0.1, compute=0.1, round=0.1, upload=0.1, liveness=0.1)
    plan = Plan.model_validate({**federation.plan.model_dump(), "timing": timing.model_dump()})
    room = Room(TestFederation(plan, federation.identities, federation.edits), tmp_path)
    channel = room.channels[ONE]
    channel.received = lambda _packet: None
    member = Member(plan, ONE, federation.identities[ONE], SystemRandomness())
    with pytest.raises(SessionAbortedError) as caught:
        run_session(member, channel, room.editors[ONE])
    assert caught.value.reason is AbortReason.TIMEOUT
    assert caught.value.culprit == "aggregator"
    assert room.farewells(ONE) == [m.Abort(AbortReason.PARTY_LEFT, ONE)]
    assert channel.closed


# The welcome.


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(
            "forged",
            marks=pytest.mark.lie(
                role="party",
                lie="welcomes others in the name of the aggregator",
                round="join",
                refused_by="InvalidSignatureError",
            ),
        ),
        pytest.param(
            "of a party",
            marks=pytest.mark.lie(
                role="aggregator",
                lie="has a party welcome the others in its own name",
                round="join",
                refused_by="MalformedMessageError",
            ),
        ),
        pytest.param(
            "another kind",
            marks=pytest.mark.lie(
                role="aggregator",
                lie="answers a join with another message",
                round="join",
                refused_by="MalformedMessageError",
            ),
        ),
        pytest.param(
            "another session",
            marks=pytest.mark.lie(
                role="aggregator",
                lie="welcomes into another session than it signed",
                round="join",
                refused_by="MalformedMessageError",
            ),
        ),
    ],
)
def test_a_welcome_that_is_not_the_aggregators_is_refused(
    how: str, tmp_path: Path, refusal: Refusal
) -> None:
    room = Room(build_federation(3), tmp_path)
    identities = room.federation.identities

    def welcomed(packet: m.Packet) -> m.Packet:
        honest = packet.envelope
        context = honest.context
        made = {
            "forged": sign_message(
                m.Welcome(), context=context, sender=AGGREGATOR, key=identities[PartyId(2)]
            ),
            "of a party": sign_message(
                m.Welcome(), context=context, sender=PartyId(2), key=identities[PartyId(2)]
            ),
            "another kind": sign_message(
                m.Join(), context=context, sender=AGGREGATOR, key=identities[AGGREGATOR]
            ),
            "another session": replace(honest, context=replace(context, session_id=bytes(32))),
        }
        return m.Packet(made[how])

    room.channels[ONE].welcomed = welcomed
    member = Member(room.federation.plan, ONE, identities[ONE], SystemRandomness())
    expected = InvalidSignatureError if how == "forged" else MalformedMessageError
    with pytest.raises(expected) as caught:
        run_session(member, room.channels[ONE], room.editors[ONE])
    refusal(caught.value)
    # Nobody is told farewell who has not shown who it is.
    assert not room.channels[ONE].delivered
    assert room.channels[ONE].closed


def test_a_refused_join_is_an_error_and_closes_the_channel(tmp_path: Path) -> None:
    room = Room(build_federation(3), tmp_path)
    other = build_federation(3, capacity=40)
    member = Member(other.plan, ONE, other.identities[ONE], SystemRandomness())
    with pytest.raises(ProtocolError, match="PLAN_MISMATCH"):
        run_session(member, room.channels[ONE], room.editors[ONE])
    assert room.channels[ONE].closed


# What does not end a session.


def test_a_packet_that_comes_twice_is_ignored(tmp_path: Path) -> None:
    room = Room(build_federation(3), tmp_path)
    channel = room.channels[ONE]
    real = channel.next_packet
    last: list[m.Packet] = []

    def twice(timeout: float) -> m.Packet | None:
        if last:
            return last.pop()
        packet = real(timeout)
        if packet is not None:
            last.append(packet)
        return packet

    channel.next_packet = twice  # type: ignore[method-assign]
    room.run()
    assert not room.errors
    assert [event for event, _ in room.seen].count("ignored") >= 3


def test_an_update_larger_than_the_plan_allows_is_not_taken(tmp_path: Path) -> None:
    room = Room(build_federation(4), tmp_path)
    room.channels[ONE].downloaded = lambda bundle: bundle + bytes(1 << 20)
    room.run()
    assert isinstance(room.errors.pop(ONE), ProtocolError)
    assert room.editors[ONE].rolled_back
    assert not room.editors[ONE].applied
    assert not room.errors


@pytest.mark.lie(
    role="aggregator",
    lie="releases the same bytes to everybody, and they are no update",
    round="r6",
    refused_by="MalformedMessageError",
)
def test_bytes_that_are_no_update_change_no_weight(
    tmp_path: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All parties fetch the same and sign the same: only parsing can tell.
    monkeypatch.setattr(opening, "encode_bundle", lambda _updates: b"CEB1 and so on")
    room = Room(build_federation(3), tmp_path).run()
    assert set(room.errors) == {1, 2, 3}
    refusal(*room.errors.values())
    for editor in room.editors.values():
        assert editor.rolled_back
        assert not editor.applied


@dataclass
class Notebook:
    """A ledger that notes what was sent when it was written, and may refuse."""

    channel: LoopbackChannel
    refuses: bool = False
    openings: list[tuple[bytes, TaskIndex]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    def check(self) -> None:
        pass

    def record(self, session_id: bytes, task: TaskIndex, *, replayed: bool = False) -> None:
        assert not replayed
        if self.refuses:
            raise InputError("disk full")
        self.openings.append((session_id, task))
        self.sent = [packet.envelope.kind for packet in self.channel.delivered]

    def record_key(self, session_id: bytes, task: TaskIndex, *, replayed: bool) -> None:
        raise AssertionError("a masked sum has no key")


def test_a_refused_call_is_explained_by_the_abort_that_waits(tmp_path: Path) -> None:
    """The aggregator gives the party up during its upload; what counts is why, not the refusal."""
    room = Room(build_federation(5), tmp_path)
    channel = room.channels[ONE]

    def slow(task: TaskIndex, frames: Frames) -> None:
        while room.coordinator.round_name == "r3-contribute":
            time.sleep(0.01)
        LoopbackChannel.upload(channel, task, frames)

    channel.upload = slow  # type: ignore[method-assign]
    room.run(patience=0.5)
    error = room.errors[ONE]
    assert isinstance(error, SessionAbortedError)
    assert (error.reason, error.culprit) == (AbortReason.TIMEOUT, "party-1")
    assert set(room.reports) == {2, 3, 4, 5}


def test_every_opening_is_recorded_before_the_shares_leave(tmp_path: Path) -> None:
    room = Room(build_federation(3, layers=2), tmp_path)
    notebook = Notebook(room.channels[ONE])
    room.ledgers[ONE] = notebook
    room.run()
    session = room.coordinator.session_id
    assert notebook.openings == [(session, TaskIndex(0)), (session, TaskIndex(1))]
    assert notebook.sent.count(m.KINDS[m.Unmask]) == 1  # of the first task only


def test_a_ledger_that_cannot_be_written_stops_the_opening(tmp_path: Path) -> None:
    room = Room(build_federation(5), tmp_path)
    room.ledgers[ONE] = Notebook(room.channels[ONE], refuses=True)
    room.run()
    assert isinstance(room.errors[ONE], InputError)
    assert not [p for p in room.channels[ONE].delivered if p.envelope.kind == m.KINDS[m.Unmask]]
    assert room.editors[ONE].rolled_back
    assert set(room.reports) == {2, 3, 4, 5}


def test_more_edits_than_the_plan_allows_are_refused_at_the_party(tmp_path: Path) -> None:
    federation = build_federation(5)
    keys, residuals = federation.edits[ONE, TaskIndex(0)]
    federation.edits[ONE, TaskIndex(0)] = (np.hstack([keys, keys]), np.hstack([residuals] * 2))
    room = Room(federation, tmp_path).run()
    error = room.errors[ONE]
    assert isinstance(error, NumericError)
    assert "6 edits, the plan allows party-1 3" in str(error)
    assert room.farewells(ONE) == [m.Abort(AbortReason.INPUT_REFUSED, ONE)]
    assert room.coordinator.records[0].survivors == {2, 3, 4, 5}
