"""A session at the aggregator: mailboxes, uploads, refusals, ends."""

import dataclasses
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from collabedit.aggregator import states as a
from collabedit.aggregator.admission import NO_CHAIN, NO_SESSION
from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.opening import OpenedTask, open_and_merge
from collabedit.aggregator.tiles import TileStore
from collabedit.crypto.ring import to_bytes
from collabedit.errors import (
    AbortReason,
    InvalidSignatureError,
    MalformedMessageError,
    PlanError,
    SessionAbortedError,
    UnexpectedMessageError,
)
from collabedit.exchange import TileLayout, decode_frame, encode_frame, plan_encoding
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.proto import messages as m
from collabedit.proto.envelope import first_chain, open_envelope, sign_message
from collabedit.proto.statements import RefusalError
from tests.protocol.stage import FIRST, Session, instead_of, plain_sum
from tests.support.federations import TestFederation, build_federation
from tests.support.lies import Refusal
from tests.support.randomness import InsecureTestRandomness

ONE = PartyId(1)
FEDERATION = build_federation(4)
PLAN = FEDERATION.plan
Events = list[tuple[str, dict[str, object]]]


@pytest.fixture
def events() -> Events:
    return []


@pytest.fixture
def coordinator(tmp_path: Path, events: Events) -> Coordinator:
    return Coordinator(
        PLAN,
        FEDERATION.identities[AGGREGATOR],
        directory=tmp_path,
        randomness=InsecureTestRandomness(0),
        observer=lambda event, fields: events.append((event, dict(fields))),
    )


NOWHERE = m.Context(PLAN.digest, NO_SESSION, FIRST, NO_CHAIN)


def join(
    party: int = 1,
    *,
    key: int | None = None,
    message: m.Message | None = None,
    context: m.Context = NOWHERE,
) -> m.Packet:
    made = sign_message(
        message or m.Join(),
        context=context,
        sender=PartyId(party),
        key=FEDERATION.identities[PartyId(party if key is None else key)],
    )
    return m.Packet(made)


def test_another_identity_than_the_plans_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="aggregator"):
        Coordinator(
            PLAN,
            FEDERATION.identities[ONE],
            directory=tmp_path,
            randomness=InsecureTestRandomness(0),
        )


def test_a_join_is_welcomed_into_the_session(coordinator: Coordinator, events: Events) -> None:
    for _ in range(2):
        answer = coordinator.welcome(join()).envelope
        context = m.Context(
            PLAN.digest,
            coordinator.session_id,
            FIRST,
            first_chain(PLAN.digest, coordinator.session_id),
        )
        assert answer.sender == AGGREGATOR
        open_envelope(answer, m.Welcome, context=context, identities=PLAN.identity)
    joined = [fields for event, fields in events if event == "joined"]
    assert joined == [{"party": "party-1"}]


@pytest.mark.lie(
    role="party", lie="joins under an altered plan", round="join", refused_by="PLAN_MISMATCH"
)
def test_a_join_under_another_plan_is_refused_with_both_digests(
    coordinator: Coordinator, refusal: Refusal
) -> None:
    with pytest.raises(RefusalError) as caught:
        coordinator.welcome(join(context=replace(NOWHERE, plan_digest=b"\xab" * 32)))
    refusal(caught.value)
    assert caught.value.reason is AbortReason.PLAN_MISMATCH
    assert "ab" * 32 in str(caught.value)
    assert PLAN.digest.hex() in str(caught.value)


@pytest.mark.lie(
    role="party", lie="joins without being in the plan", round="join", refused_by="UNKNOWN_PARTY"
)
@pytest.mark.parametrize("party", [0, 5, 999])
def test_a_join_of_nobody_in_the_plan_is_refused(
    party: int, coordinator: Coordinator, refusal: Refusal
) -> None:
    with pytest.raises(RefusalError) as caught:
        coordinator.welcome(join(party, key=1))
    refusal(caught.value)
    assert caught.value.reason is AbortReason.UNKNOWN_PARTY


@pytest.mark.lie(
    role="party",
    lie="joins in another party's name",
    round="join",
    refused_by="InvalidSignatureError",
)
def test_a_join_that_somebody_else_signed_is_refused(
    coordinator: Coordinator, events: Events, refusal: Refusal
) -> None:
    with pytest.raises(InvalidSignatureError) as caught:
        coordinator.welcome(join(1, key=2))
    refusal(caught.value)
    assert not [event for event, _ in events if event == "joined"]


@pytest.mark.lie(
    role="party",
    lie="replays a join of another session",
    round="join",
    refused_by="MalformedMessageError",
)
@pytest.mark.parametrize(
    "context",
    [
        replace(NOWHERE, session_id=b"s" * 32),
        replace(NOWHERE, task=TaskIndex(1)),
        replace(NOWHERE, chain=b"c" * 32),
    ],
)
def test_a_join_of_another_context_is_refused(
    context: m.Context, coordinator: Coordinator, refusal: Refusal
) -> None:
    with pytest.raises(MalformedMessageError) as caught:
        coordinator.welcome(join(context=context))
    refusal(caught.value)


def test_another_message_than_a_join_is_not_welcomed(coordinator: Coordinator) -> None:
    with pytest.raises(MalformedMessageError, match="where Join belongs"):
        coordinator.welcome(join(message=m.Welcome()))


def test_a_message_of_another_session_is_refused(coordinator: Coordinator) -> None:
    with pytest.raises(UnexpectedMessageError, match="another session"):
        coordinator.deliver(join())


def advertise(coordinator: Coordinator, party: int) -> m.Packet:
    envelope = sign_message(
        m.Advertise(bytes([party]) * 32, bytes([party + 99]) * 32),
        context=coordinator._setup.context,
        sender=PartyId(party),
        key=FEDERATION.identities[PartyId(party)],
    )
    return m.Packet(envelope)


def test_the_same_packet_again_is_ignored(coordinator: Coordinator, events: Events) -> None:
    for _ in range(3):
        coordinator.deliver(advertise(coordinator, 1))
    assert [event for event, _ in events if event == "received"] == ["received"]
    assert coordinator.waiting_for == {2, 3, 4}


def test_a_refused_packet_is_not_remembered_as_accepted(coordinator: Coordinator) -> None:
    good = advertise(coordinator, 1)
    damaged = m.Packet(replace(good.envelope, body=advertise(coordinator, 2).envelope.body))
    with pytest.raises(InvalidSignatureError):
        coordinator.deliver(damaged)
    coordinator.deliver(good)
    assert coordinator.waiting_for == {2, 3, 4}


def test_a_mailbox_gives_what_is_after_the_cursor(coordinator: Coordinator) -> None:
    assert coordinator.mailbox(ONE, cursor=0) == ()
    for party in (1, 2, 3, 4):
        coordinator.deliver(advertise(coordinator, party))
    (roster,) = coordinator.mailbox(ONE, cursor=0)
    assert roster.envelope.kind == m.KINDS[m.Roster]
    assert coordinator.mailbox(ONE, cursor=0) == (roster,)
    assert coordinator.mailbox(ONE, cursor=1) == ()
    with pytest.raises(MalformedMessageError, match="cursor 2 of 1"):
        coordinator.mailbox(ONE, cursor=2)


def test_a_poll_returns_at_once_when_there_is_something(coordinator: Coordinator) -> None:
    for party in (1, 2, 3, 4):
        coordinator.deliver(advertise(coordinator, party))
    assert len(coordinator.wait_mailbox(ONE, cursor=0, seconds=60)) == 1
    assert coordinator.wait_mailbox(ONE, cursor=1, seconds=0.01) == ()


@pytest.mark.lie(
    role="party",
    lie="uploads before r3 or for another task",
    round="r3",
    refused_by="UnexpectedMessageError",
)
def test_no_frame_is_stored_before_r3_or_for_another_task(
    coordinator: Coordinator, refusal: Refusal
) -> None:
    frame = encode_frame(0, bytes(TileLayout.of(PLAN, FIRST).tile_bytes(0)))
    for task in (0, 1):
        with pytest.raises(UnexpectedMessageError, match="no upload") as caught:
            coordinator.put_frame(ONE, TaskIndex(task), frame)
        refusal(caught.value)


@pytest.mark.lie(
    role="party",
    lie="fetches an update before it is released",
    round="r6",
    refused_by="UnexpectedMessageError",
)
def test_an_update_that_is_not_released_cannot_be_fetched(
    coordinator: Coordinator, refusal: Refusal
) -> None:
    with pytest.raises(UnexpectedMessageError, match="not released") as caught:
        coordinator.bundle(FIRST)
    refusal(caught.value)


def test_closing_without_answers_aborts_and_everything_after_is_refused(
    coordinator: Coordinator, events: Events
) -> None:
    coordinator.raise_if_aborted()
    assert coordinator.open_pending() is None
    coordinator.close_round()
    assert coordinator.finished
    with pytest.raises(SessionAbortedError) as caught:
        coordinator.raise_if_aborted()
    assert caught.value.reason is AbortReason.BELOW_THRESHOLD
    assert str(caught.value).startswith("BELOW_THRESHOLD: 0 parties answered in r0-advertise")
    coordinator.close_round()
    assert [event for event, _ in events if event == "aborted"] == ["aborted"]
    with pytest.raises(UnexpectedMessageError):
        coordinator.deliver(advertise(coordinator, 1))
    for party in PLAN.party_ids:
        (farewell,) = coordinator.mailbox(party, cursor=0)
        assert farewell.envelope.kind == m.KINDS[m.Abort]
    # A poll is held even now, or clients would spin; a shutdown lets it go.
    releaser = threading.Timer(0.05, coordinator.interrupt)
    releaser.start()
    assert coordinator.wait_mailbox(ONE, cursor=1, seconds=60) == ()
    releaser.join()


def test_a_finished_session_keeps_its_records_and_takes_nothing_more(tmp_path: Path) -> None:
    session = Session(build_federation(4, layers=2), tmp_path).run()
    coordinator = session.coordinator
    assert coordinator.finished
    coordinator.raise_if_aborted()
    assert [record.task for record in coordinator.records] == [0, 1]
    assert coordinator.position == (1, "completed")
    assert coordinator.waiting_for == frozenset()
    coordinator.close_round()
    assert coordinator.open_pending() is None
    with pytest.raises(UnexpectedMessageError):
        coordinator.deliver(m.Packet(session.sign(ONE, m.Abort(AbortReason.PARTY_LEFT, ONE))))
    assert "Coordinator(plan='test', task=1, round='completed')" in repr(coordinator)


def test_events_name_parties_and_never_hold_bytes(tmp_path: Path) -> None:
    seen: Events = []
    session = Session(
        FEDERATION, tmp_path, observer=lambda event, fields: seen.append((event, dict(fields)))
    )
    session.alter = instead_of(4, m.Contribute, lambda _packet: ())
    session.run()
    names = [event for event, _ in seen]
    assert names[0] == "task-started"
    assert names[-1] == "session-finished"
    assert ("dropped", {"party": "party-4", "task": 0, "round": "r3-contribute"}) in seen
    for _, fields in seen:
        for value in fields.values():
            assert isinstance(value, str | int | list)


# Opening.


def opening(tmp_path: Path) -> tuple[TestFederation, a.Opening, TileStore]:
    """Stop a session right before the sum is opened."""
    session = Session(FEDERATION, tmp_path)
    kept: list[tuple[a.Opening, TileStore]] = []

    def stop() -> None:
        state = session.coordinator.state
        if isinstance(state, a.Opening):
            kept.append((state, session.coordinator._store))
            raise InterruptedError

    session.coordinator.open_pending = stop  # type: ignore[method-assign]
    with pytest.raises(InterruptedError):
        session.run()
    return FEDERATION, *kept[0]


def test_opening_gives_the_exact_sum(tmp_path: Path) -> None:
    federation, state, store = opening(tmp_path)
    outcome = open_and_merge(state, store, None)
    assert isinstance(outcome, OpenedTask)
    np.testing.assert_array_equal(outcome.total, plain_sum(federation, PLAN.party_ids))
    assert "array" not in repr(outcome)
    assert repr(outcome.bundle[:8]) not in repr(outcome)


def test_an_altered_spool_is_noticed_before_its_sum_is_merged(tmp_path: Path) -> None:
    _, state, store = opening(tmp_path)
    path = tmp_path / "task-0" / "party-1.tiles"
    data = bytearray(path.read_bytes())
    data[7] ^= 0x40
    path.write_bytes(data)
    outcome = open_and_merge(state, store, None)
    assert isinstance(outcome, a.MergeRefused)
    assert outcome.reason is AbortReason.INTERNAL
    assert "contribution of party 1" in outcome.detail


def test_masks_of_another_survivor_set_refuse_to_merge(tmp_path: Path) -> None:
    _, state, store = opening(tmp_path)
    wrong = dataclasses.replace(state, masks=state.masks[1:])
    outcome = open_and_merge(wrong, store, None)
    assert isinstance(outcome, a.MergeRefused)
    # What a mask is left on is uniformly random, and almost surely beyond what four parties send.
    assert outcome.reason is AbortReason.BOUNDS_EXCEEDED
    assert "add up to" in outcome.detail


def test_a_spool_that_is_gone_ends_the_session_with_a_reason(tmp_path: Path) -> None:
    session = Session(FEDERATION, tmp_path)
    real = session.coordinator.open_pending

    def lose() -> OpenedTask | None:
        if isinstance(session.coordinator.state, a.Opening):
            (tmp_path / "task-0" / "party-1.tiles").unlink()
        return real()

    session.coordinator.open_pending = lose  # type: ignore[method-assign]
    session.run()
    state = session.coordinator.state
    assert isinstance(state, a.Aborted)
    assert state.reason is AbortReason.INTERNAL
    for party in PLAN.party_ids:
        held = session.states[party]
        assert isinstance(held, s.Aborted)
        assert held.reason is AbortReason.INTERNAL
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_party_that_leaves_while_the_sum_is_opened_is_not_waited_for(tmp_path: Path) -> None:
    session = Session(FEDERATION, tmp_path)
    real = session.coordinator.open_pending
    waited: list[frozenset[PartyId]] = []

    def leave() -> OpenedTask | None:
        if not isinstance(session.coordinator.state, a.Opening):
            return real()
        session.deliver(m.Packet(session.sign(ONE, m.Abort(AbortReason.PARTY_LEFT, ONE))))
        opened = real()
        waited.append(session.coordinator.waiting_for)
        return opened

    session.coordinator.open_pending = leave  # type: ignore[method-assign]
    session.run()
    assert waited == [{2, 3, 4}]
    assert session.coordinator.records


def test_a_frame_is_stored_for_who_it_is_due_from(tmp_path: Path) -> None:
    layout = TileLayout.of(PLAN, FIRST)
    encoded = plan_encoding(PLAN).encode(FEDERATION.contribute(ONE, FIRST))
    frame = encode_frame(0, to_bytes(encoded[layout.bounds(0)]))
    assert decode_frame(frame, layout=layout).index == 0
    session = Session(FEDERATION, tmp_path)

    def frames(party: PartyId, sent: list[bytes]) -> list[bytes]:
        if party == 1:
            assert session.coordinator.put_frame(PartyId(2), FIRST, sent[0]) == 0
            with pytest.raises(UnexpectedMessageError):
                session.coordinator.put_frame(PartyId(1), TaskIndex(1), sent[0])
            with pytest.raises(MalformedMessageError):
                session.coordinator.put_frame(PartyId(1), FIRST, sent[0][:-1])
        return sent

    session.alter_frames = frames
    session.run()
    # The transport authenticates who uploads; another's tile in its place costs it the task.
    assert session.survivors == {1, 3, 4}
