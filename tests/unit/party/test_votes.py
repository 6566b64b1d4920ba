"""How a party's driver comes to its vote, and what it does with the outcome.

Four parties, threshold 3, two tasks of which the second is voted on; against a real coordinator.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from collabedit.acceptance import Measures, Vote
from collabedit.aggregator import states as a
from collabedit.errors import AbortReason, NumericError, SessionAbortedError
from collabedit.exchange import decode_bundle
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party import closing as closing_module
from collabedit.party.candidate import Candidate
from collabedit.party.closing import Released
from collabedit.plan import Plan
from collabedit.proto import messages as m
from collabedit.proto.codec import encode_packet
from collabedit.sketch import LowRankUpdate
from tests.support.federations import build_federation
from tests.support.networks import HARMFUL, UNHARMED, MatrixEditor
from tests.unit.party.test_session import Room

ONE, TWO = PartyId(1), PartyId(2)


def hold(tmp_path: Path, votes: Mapping[int, Vote]) -> Room:
    """Run a session in which these parties find these faults; the others find none."""
    room = Room(build_federation(4, layers=2, votes=3), tmp_path)
    for party, vote in votes.items():
        room.editors[PartyId(party)].after = HARMFUL[vote]
    return room.run()


def assert_all_rolled_back(room: Room) -> None:
    assert not room.reports
    for party, editor in room.editors.items():
        error = room.errors[party]
        assert isinstance(error, SessionAbortedError)
        assert error.reason is AbortReason.UPDATE_REJECTED
        assert error.exit_code == 5
        assert editor.rolled_back
        # The list of votes said it all: nobody adds a farewell.
        assert not room.farewells(party)


def test_an_accepted_update_stays_and_is_applied_once(tmp_path: Path) -> None:
    room = hold(tmp_path, {})
    assert not room.errors
    for party, editor in room.editors.items():
        assert len(editor.applied) == 2
        assert not editor.rolled_back
        first, second = room.reports[party].tasks
        assert (first.votes, first.assessment) == ({}, None)
        assert second.votes == dict.fromkeys(("party-1", "party-2", "party-3", "party-4"), "accept")
        assert second.assessment is not None
        assert second.assessment.vote is Vote.ACCEPT
        assert (second.assessment.before, second.assessment.after) == (UNHARMED, UNHARMED)


def test_the_model_is_measured_before_the_first_update_and_after_the_last(tmp_path: Path) -> None:
    federation = build_federation(4, layers=3, votes=3)
    room = Room(federation, tmp_path)
    applied_at: list[int] = []

    @dataclass
    class NotingEditor(MatrixEditor):
        def measure(self) -> Measures:
            applied_at.append(len(self.applied))
            return super().measure()

    room.editors[ONE] = NotingEditor(federation, ONE)
    room.run()
    assert not room.errors
    assert applied_at == [0, 3]


def test_without_an_acceptance_section_nothing_is_measured(tmp_path: Path) -> None:
    room = Room(build_federation(3, layers=2), tmp_path).run()
    assert not room.errors
    assert {editor.measured for editor in room.editors.values()} == {0}
    assert "assessed" not in {event for event, _ in room.seen}
    assert {task.assessment for task in room.reports[ONE].tasks} == {None}


@pytest.mark.parametrize("vote", [Vote.OWN_EDITS, Vote.NEIGHBOURHOOD, Vote.PERPLEXITY])
def test_too_few_accepting_parties_take_everything_back(vote: Vote, tmp_path: Path) -> None:
    room = hold(tmp_path, {1: vote, 2: vote})
    assert_all_rolled_back(room)
    (why,) = {str(error) for error in room.errors.values()}
    assert why == (
        "UPDATE_REJECTED: 2 of 4 votes accept the update, the plan asks for 3; against it: "
        f"party-1 {vote.word}, party-2 {vote.word}"
    )
    state = room.coordinator.state
    assert isinstance(state, a.Aborted)
    assert state.reason is AbortReason.UPDATE_REJECTED
    assert state.votes == {1: vote, 2: vote, 3: Vote.ACCEPT, 4: Vote.ACCEPT}


def test_one_that_votes_against_it_is_overruled_and_keeps_the_update(tmp_path: Path) -> None:
    room = hold(tmp_path, {2: Vote.NEIGHBOURHOOD})
    assert not room.errors
    assert len(room.editors[TWO].applied) == 2
    assert room.reports[ONE].tasks[1].votes["party-2"] == "neighbourhood"
    own = room.reports[TWO].tasks[1].assessment
    assert own is not None
    assert own.vote is Vote.NEIGHBOURHOOD


@dataclass
class BrittleEditor(MatrixEditor):
    """Its weights cannot take the update of the last layer."""

    attempts: list[LayerIndex] = field(default_factory=list)

    def apply(self, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
        self.attempts += updates
        if LayerIndex(1) in updates:
            raise NumericError("the update of layer 1 makes a weight that is not finite")
        super().apply(updates)


def test_who_cannot_apply_it_says_so_and_leaves_if_the_others_keep_it(tmp_path: Path) -> None:
    federation = build_federation(4, layers=2, votes=3)
    room = Room(federation, tmp_path)
    brittle = room.editors[TWO] = BrittleEditor(federation, TWO)
    room.run()
    assert room.reports.keys() == {1, 3, 4}
    assert room.reports[ONE].tasks[1].votes["party-2"] == "unusable"
    assert isinstance(room.errors[TWO], NumericError)
    assert brittle.rolled_back
    assert brittle.attempts == [0, 1]  # not tried a second time


def test_an_update_that_nobody_can_use_is_rejected_by_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(plan: Plan, task: TaskIndex, data: bytes) -> Mapping[LayerIndex, LowRankUpdate]:
        # As if the aggregator had released bytes that are no update.
        return decode_bundle(plan, task, data[:-1] if task == 1 else data)

    monkeypatch.setattr(closing_module, "decode_bundle", decode)
    room = hold(tmp_path, {})
    assert_all_rolled_back(room)
    state = room.coordinator.state
    assert isinstance(state, a.Aborted)
    assert set(state.votes.values()) == {Vote.UNUSABLE}


def test_other_bytes_than_the_released_ones_are_not_even_tried(tmp_path: Path) -> None:
    federation = build_federation(4, layers=2, votes=3)
    room = Room(federation, tmp_path)
    seen: list[bytes] = []

    def other(bundle: bytes) -> bytes:
        seen.append(bundle)
        return bundle if len(seen) == 1 else bundle[:-1] + b"\x00"

    room.channels[TWO].downloaded = other
    room.run(patience=5.0)
    error = room.errors[TWO]
    assert isinstance(error, SessionAbortedError)
    assert error.reason is AbortReason.DIGEST_MISMATCH
    assert room.editors[TWO].measured == 1
    assert len(room.editors[TWO].applied) == 1
    # The other three are enough.
    assert room.reports.keys() == {1, 3, 4}


def test_a_candidate_that_has_voted_measures_nothing(tmp_path: Path) -> None:
    federation = build_federation(3, votes=3)
    simulation = federation.simulation(tmp_path)
    simulation.run(federation.contribute)
    context = m.Context(federation.plan.digest, bytes(32), TaskIndex(0), bytes(32))
    bundle, survivors = simulation.coordinator.bundle(TaskIndex(0)), simulation.coordinator.records
    released = Released(federation.plan, context, bundle, survivors[0].survivors, None)
    for voted, measured in ((True, 0), (False, 1)):
        editor = MatrixEditor(federation, ONE)
        Candidate(federation.plan, editor, has_voted=voted).apply(released)
        assert editor.measured == measured
        assert len(editor.applied) == 1


# What stays at the party.

BEFORE = Measures(efficacy=0.123456789, neighbourhood=0.987654321, perplexity=31.41592653)
AFTER = Measures(efficacy=0.876543219, neighbourhood=0.912345678, perplexity=32.71828182)


def test_no_measured_number_leaves_the_party(tmp_path: Path) -> None:
    federation = build_federation(4, layers=2, votes=3)
    room = Room(federation, tmp_path)
    room.editors[ONE].before, room.editors[ONE].after = BEFORE, AFTER
    room.editors[TWO].after = replace(AFTER, perplexity=3271.828182)
    room.run()
    assert not room.errors
    sent = b"".join(
        encode_packet(packet) for channel in room.channels.values() for packet in channel.delivered
    )
    told = json.dumps(room.events, default=str) + repr(room.coordinator.state)
    numbers = [
        number
        for measures in (BEFORE, AFTER, replace(AFTER, perplexity=3271.828182))
        for number in (measures.efficacy, measures.neighbourhood, measures.perplexity)
    ]
    for number in numbers:
        assert number is not None
        digits = f"{number:.4f}".rstrip("0")
        assert digits not in told
        assert digits.encode() not in sent
        for form in ("<d", ">d", "<f", ">f"):
            assert struct.pack(form, number) not in sent
    # The search would find them where they may be: in the party's own log.
    own = json.dumps([fields for event, fields in room.seen if event == "assessed"])
    assert "31.4159" in own
    assert "0.8765" in own
    assert "perplexity" in [fields["vote"] for event, fields in room.seen if event == "assessed"]
