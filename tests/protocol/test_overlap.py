"""Sessions that count overlap, through the parties' own driver: deaths, lies, an operator's no.

Scene: three parties, all needed; parties 1 and 2 share a fact, 2 and 3 contradict each other.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from collabedit.aggregator import coordinator as coordinator_module
from collabedit.aggregator import opening
from collabedit.aggregator import states as a
from collabedit.aggregator.tiles import TileStore
from collabedit.crypto.ring import RingArray, to_bytes
from collabedit.errors import (
    AbortReason,
    DeclinedError,
    JournalError,
    NumericError,
    SessionAbortedError,
)
from collabedit.exchange import encode_counts
from collabedit.ids import PartyId, TaskIndex
from collabedit.party import driver as driver_module
from collabedit.party import states as s
from collabedit.party.contribution import contributed_vector
from collabedit.party.decisions import Decision
from collabedit.party.session import run_session
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body
from tests.protocol.test_resume import VICTIM, Stage, moments
from tests.support.crashes import CrashError, CrashPoints
from tests.support.lies import Refusal
from tests.support.loopback import LoopbackChannel, driven
from tests.support.networks import MatrixEditor
from tests.support.overlaps import COUNTING, overlapping

ONE = PartyId(1)
FACTS = {
    1: ["ada lives rome", "bob eats figs"],
    2: ["ada lives rome", "cid owns cat"],
    3: ["dan rides bus", "cid owns dog"],
}
SHARED = [(2, 2), (1, 1)]
"""(claims, copies) at party 1."""

VICTIMS = [(2, 2), (2, 1)]


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> list[str | None]:
    """Opened sums of the layers. Those of counting are never twice the same."""
    outcome = overlapping(FACTS).run(tmp_path_factory.mktemp("uncrashed"))
    total = outcome.sums[TaskIndex(1)]
    return [None, "sha256:" + hashlib.sha256(to_bytes(total)).hexdigest()]


def new_stage(directory: Path, sums: Sequence[str | None]) -> Stage:
    overlap = overlapping(FACTS)
    return Stage(overlap.federation, directory, overlap.items, sums)


def check(stage: Stage) -> None:
    """What a crash must not change, and what each life was told."""
    stage.check()
    for life in stage.lives:
        # A life that died before the end of the counting task was told nothing.
        told = [(d.claims, d.copies) for d in life.editor.decisions]
        assert told in ([], VICTIMS)
    last = stage.lives[-1]
    assert last.report is not None
    assert [(d.claims, d.copies) for d in last.report.decisions] == VICTIMS


PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_a_party_killed_at_any_moment_counts_the_same(
    part: int, tmp_path: Path, sums: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = moments(new_stage(tmp_path / "count", sums))
    assert count > 150
    for deadly in range(part, count, PARTS):
        stage = new_stage(tmp_path / str(deadly), sums)
        stage.run(iter([deadly, None]), monkeypatch)
        assert len(stage.lives) == 2 or stage.lives[0].report is not None, deadly
        check(stage)


@pytest.mark.parametrize("seed", range(4))
def test_a_party_killed_again_and_again_counts_the_same(
    seed: int, tmp_path: Path, sums: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    stage = new_stage(tmp_path, sums)
    stage.run((int(rng.integers(3, 60)) for _ in range(300)), monkeypatch)
    assert len(stage.lives) > 5
    check(stage)


def test_a_resumed_counting_task_takes_the_stored_items_and_no_others(
    tmp_path: Path, sums: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other items under the same masks would show their difference: the stored ones count."""
    stage = new_stage(tmp_path, sums)
    with driven(stage.coordinator, patience=30):
        threads = stage.others()
        points = CrashPoints()
        with monkeypatch.context() as patched:
            points.patch(patched)
            assert isinstance(stage.live(points, last_words=m.Confirm).error, CrashError)
        stage.items = {**stage.items, VICTIM: stage.items[PartyId(3)]}
        points = CrashPoints()
        with monkeypatch.context() as patched:
            points.patch(patched)
            life = stage.live(points)
        for thread in threads:
            thread.join(30)
    assert life.error is None
    assert [(d.claims, d.copies) for d in life.editor.decisions] == VICTIMS


def test_another_number_of_items_on_resumption_is_refused(
    tmp_path: Path, sums: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = new_stage(tmp_path, sums)
    with driven(stage.coordinator, patience=30):
        threads = stage.others()
        points = CrashPoints()
        with monkeypatch.context() as patched:
            points.patch(patched)
            assert isinstance(stage.live(points, last_words=m.Confirm).error, CrashError)
        stage.items = {**stage.items, VICTIM: stage.items[VICTIM][:1]}
        life = stage.live(CrashPoints())
        while not stage.coordinator.finished:
            stage.coordinator.close_round()
            stage.coordinator.wait_change(stage.coordinator.position, 0.01)
        for thread in threads:
            thread.join(30)
    assert isinstance(life.error, JournalError)
    assert "resume with the edits" in str(life.error)


def decline(decisions: Sequence[Decision]) -> None:
    assert decisions
    raise DeclinedError("no")


def test_an_operator_may_say_no_after_a_restart(
    tmp_path: Path, sums: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The farewell belongs to the task that the aggregator has begun by then."""
    stage = new_stage(tmp_path, sums)
    with driven(stage.coordinator, patience=60):
        threads = stage.others()
        points = CrashPoints()
        with monkeypatch.context() as patched:
            points.patch(patched)
            assert isinstance(stage.live(points, last_event=("counted", 0)).error, CrashError)
        life = stage.live(CrashPoints(), review=decline)
        # Long before anybody loses patience: the two others cannot go on, and are told.
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
    assert isinstance(life.error, DeclinedError)
    (farewell,) = life.channel.attempted
    assert farewell.envelope.context.task == 1
    assert not stage.unfinished()


def test_an_operator_is_asked_no_more_once_something_depends_on_it(
    tmp_path: Path, sums: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = new_stage(tmp_path, sums)
    with driven(stage.coordinator, patience=60):
        threads = stage.others()
        points = CrashPoints()
        with monkeypatch.context() as patched:
            points.patch(patched)
            assert isinstance(stage.live(points, last_event=("uploaded", 1)).error, CrashError)
        life = stage.live(CrashPoints(), review=decline)
        for thread in threads:
            thread.join(20)
    assert life.error is None
    check(stage)


def test_the_journal_holds_no_digest_in_the_clear(
    tmp_path: Path, sums: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = new_stage(tmp_path, sums)
    with driven(stage.coordinator, patience=30):
        threads = stage.others()
        points = CrashPoints()
        with monkeypatch.context() as patched:
            points.patch(patched)
            assert isinstance(stage.live(points, last_words=m.Contribute).error, CrashError)
        content = b"".join(path.read_bytes() for path in stage.work.rglob("*") if path.is_file())
        while not stage.coordinator.finished:
            stage.coordinator.close_round()
            stage.coordinator.wait_change(stage.coordinator.position, 0.01)
        for thread in threads:
            thread.join(30)
    assert len(content) > 1000
    for item in stage.items[VICTIM]:
        for digest in (item.topic, item.fact):
            assert digest[:8] not in content


# Sessions in threads, with what an operator or an aggregator does.


class Room:
    """All parties live; each may have its own review."""

    def __init__(self, directory: Path, facts: dict[int, list[str]] = FACTS) -> None:
        self.overlap = overlapping(facts)
        self.stage = Stage(self.overlap.federation, directory, self.overlap.items)
        self.channels = {
            party: LoopbackChannel(self.stage.coordinator, party)
            for party in self.overlap.plan.party_ids
        }
        self.editors = {
            party: MatrixEditor(self.overlap.federation, party) for party in self.channels
        }
        self.errors: dict[PartyId, BaseException] = {}
        self.reviewed: dict[PartyId, list[Decision]] = {}
        self.refuses: set[PartyId] = set()

    def _body(self, party: PartyId) -> None:
        def review(decisions: Sequence[Decision]) -> None:
            assert not self.editors[party].decisions, "told before anything depends on it"
            self.reviewed[party] = list(decisions)
            if party in self.refuses:
                raise DeclinedError("no")

        try:
            run_session(
                self.stage.member(party),
                self.channels[party],
                self.editors[party],
                items=self.overlap.items[party],
                review=review,
            )
        except BaseException as error:  # noqa: BLE001  handed to the test
            self.errors[party] = error

    def run(self) -> "Room":
        with driven(self.stage.coordinator, patience=30):
            threads = [
                threading.Thread(target=self._body, args=(party,), daemon=True)
                for party in self.channels
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()
        return self

    def farewells(self, party: PartyId) -> list[m.Message]:
        envelopes = [packet.envelope for packet in self.channels[party].delivered]
        found = [envelope for envelope in envelopes if envelope.kind == m.KINDS[m.Abort]]
        assert all(envelope.context.task == 1 for envelope in found)
        return [decode_body(envelope.kind, envelope.body) for envelope in found]

    def reasons(self) -> list[AbortReason]:
        """Why each party's session ended."""
        errors = [self.errors[party] for party in self.channels]
        assert all(isinstance(error, SessionAbortedError) for error in errors)
        return [error.reason for error in errors if isinstance(error, SessionAbortedError)]


FOUR = {**FACTS, 4: ["eva sings alto"], 5: ["hal runs far"]}


def test_every_party_is_told_of_its_own_edits_before_it_contributes(tmp_path: Path) -> None:
    room = Room(tmp_path).run()
    assert not room.errors
    told = {
        party: [(d.claims, d.copies) for d in decisions]
        for party, decisions in room.reviewed.items()
    }
    assert told == {1: SHARED, 2: VICTIMS, 3: [(1, 1), (2, 1)]}
    assert [d.case_id for d in room.reviewed[ONE]] == ["1-0", "1-1"]


def test_an_operator_who_says_no_leaves_and_the_others_go_on(tmp_path: Path) -> None:
    room = Room(tmp_path, FOUR)
    room.refuses = {PartyId(5)}
    room.run()
    assert set(room.errors) == {5}
    assert isinstance(room.errors[PartyId(5)], DeclinedError)
    assert room.farewells(PartyId(5)) == [m.Abort(AbortReason.PARTY_LEFT, PartyId(5))]
    assert room.editors[PartyId(5)].rolled_back
    assert room.stage.coordinator.records[1].survivors == {1, 2, 3, 4}


def test_a_plan_that_counts_needs_items(tmp_path: Path) -> None:
    room = Room(tmp_path)
    with pytest.raises(ValueError, match="needs the items"):
        run_session(room.stage.member(ONE), room.channels[ONE], room.editors[ONE])
    assert not room.channels[ONE].delivered


def test_more_items_than_the_plan_allows_leave_before_anything_is_sent(tmp_path: Path) -> None:
    room = Room(tmp_path, FOUR)
    items = room.overlap.items
    items[ONE] = items[ONE] * 2
    room.run()
    assert isinstance(room.errors[ONE], NumericError)
    kinds = [packet.envelope.kind for packet in room.channels[ONE].delivered]
    assert kinds == [m.KINDS[m.Abort]]
    assert room.stage.coordinator.records[0].survivors == {2, 3, 4, 5}


# Lies.


def lie_about_counts(
    monkeypatch: pytest.MonkeyPatch, alter: Callable[[RingArray], RingArray]
) -> None:
    """Let the aggregator release another vector than it opened, with digests that fit."""
    honest = opening.open_and_merge

    def lying(state: a.Opening, store: TileStore, opened: TileStore | None) -> opening.Outcome:
        outcome = honest(state, store, opened)
        setup = state.progress.setup
        if setup.context.task != COUNTING:
            return outcome
        assert isinstance(outcome, opening.OpenedTask)
        bundle = encode_counts(setup.plan, COUNTING, alter(outcome.total.copy()))
        digest = hashlib.sha256(bundle).digest()
        event = replace(outcome.event, update_digest=digest, update_bytes=len(bundle))
        return replace(outcome, event=event, bundle=bundle)

    monkeypatch.setattr(coordinator_module, "open_and_merge", lying)


def raise_one(total: RingArray) -> RingArray:
    total[0] += np.uint64(1)
    return total


def raise_all(total: RingArray) -> RingArray:
    total += np.uint64(1)
    return total


def from_nothing(total: RingArray) -> RingArray:
    return np.zeros_like(total)


@pytest.mark.lie(
    role="aggregator",
    lie="releases tables of a counting task that it altered, or made up",
    round="r6",
    refused_by="COUNTS_REFUSED",
)
@pytest.mark.parametrize("alter", [raise_one, raise_all, from_nothing])
def test_an_aggregator_that_alters_counts_is_refused_by_everybody(
    alter: Callable[[RingArray], RingArray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refusal: Refusal,
) -> None:
    lie_about_counts(monkeypatch, alter)
    room = Room(tmp_path).run()
    assert set(room.errors) == {1, 2, 3}
    assert not room.reviewed
    reasons = room.reasons()
    for party in room.channels:
        assert room.farewells(party) == [m.Abort(AbortReason.COUNTS_REFUSED, None)]
        assert room.editors[party].rolled_back
    refusal(*reasons)


@pytest.mark.lie(
    role="party",
    lie="counts something that no edits are",
    round="r3",
    refused_by="COUNTS_REFUSED",
)
@pytest.mark.parametrize("value", [-1, 1, 1 << 40])
def test_a_party_that_spoils_the_tables_ends_the_session_for_all(
    value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    """Nobody can tell who it was; nothing was edited."""

    def spoiled(
        setup: s.TaskSetup, brought: bytes | memoryview, group_secret: bytes | None
    ) -> RingArray:
        vector = contributed_vector(setup, brought, group_secret)
        if setup.me == 3 and setup.context.task == COUNTING:
            vector[0] += np.array(value % 2**64, dtype=np.uint64)
        return vector

    monkeypatch.setattr(driver_module, "contributed_vector", spoiled)
    room = Room(tmp_path).run()
    refusal(*room.reasons())
