"""A party killed at any moment goes on with the same session, and never answers twice differently.

The other parties and the coordinator live on, in threads; the killed party's next life begins with
its work directory and nothing else.
"""

import contextlib
import hashlib
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collabedit.aggregator.coordinator import Coordinator
from collabedit.crypto import shamir
from collabedit.crypto.ring import to_bytes
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import (
    AbortReason,
    InputError,
    JournalError,
    KeyFileError,
    SessionAbortedError,
    StorageError,
)
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import task as task_module
from collabedit.party.edits import Edit
from collabedit.party.items import Item
from collabedit.party.journal import PartyJournal
from collabedit.party.ledger import Ledger
from collabedit.party.member import Member, SessionReport
from collabedit.party.overlap import Review, accept
from collabedit.party.session import run_session
from collabedit.party.sessions import EnteredSessions
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body
from tests.support.crashes import CrashError, CrashPoints, MortalChannel
from tests.support.federations import TestFederation, build_federation
from tests.support.loopback import LoopbackChannel, driven
from tests.support.networks import MatrixEditor

VICTIM = PartyId(2)
EDIT = Edit(
    prompt="{} lives in",
    subject="Ada",
    target_new="Rome",
    target_true=None,
    paraphrase_prompts=(),
    neighborhood=(),
    generation_prompts=(),
    relation=None,
    case_id="1",
)


@dataclass
class Life:
    """One process of the victim."""

    channel: MortalChannel
    editor: MatrixEditor
    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    report: SessionReport | None = None
    error: BaseException | None = None


@dataclass
class Stage:
    """A coordinator, parties that live, and one that dies.

    Attributes:
        items: by party, if the plan counts overlap.
        sums: digests of the opened sums; None for one that every session has another.
    """

    federation: TestFederation
    directory: Path
    items: Mapping[PartyId, Sequence[Item]] = field(default_factory=dict)
    sums: Sequence[str | None] = field(default_factory=lambda: SUMS)
    lives: list[Life] = field(default_factory=list)
    reports: dict[PartyId, SessionReport] = field(default_factory=dict)
    editors: dict[PartyId, MatrixEditor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.work = self.directory / "work"
        self.work.mkdir(parents=True)
        self.coordinator = self.new_coordinator()

    def new_coordinator(self) -> Coordinator:
        return Coordinator(
            self.federation.plan,
            self.federation.identities[AGGREGATOR],
            directory=self.directory / "spool",
            randomness=SystemRandomness(),
        )

    def member(self, party: PartyId) -> Member:
        identity = self.federation.identities[party]
        return Member(self.federation.plan, party, identity, SystemRandomness())

    def ledger(self, *, accept_repeated: bool = False) -> Ledger:
        weights = self.federation.plan.model.weights
        path = self.work / "ledger.jsonl"
        return Ledger(path, edits=[EDIT], weights=weights, accept_repeated=accept_repeated)

    def editor(self, points: CrashPoints) -> MatrixEditor:
        """The victim's, as it is before the session."""
        del points
        return MatrixEditor(self.federation, VICTIM)

    def live(
        self,
        points: CrashPoints,
        *,
        last_words: type[m.Message] | None = None,
        last_event: tuple[str, int] | None = None,
        accept_repeated: bool = False,
        review: Review = accept,
    ) -> Life:
        """One process of the victim, from its start to its end or death.

        Args:
            points: when it dies.
            last_words: it dies when a message of this kind has arrived.
            last_event: it dies after this event of this task.
            accept_repeated: see `Ledger`.
            review: see `run_session`.
        """
        channel = MortalChannel(self.coordinator, VICTIM, points=points)

        def hear(packet: m.Packet) -> None:
            if last_words is not None and packet.envelope.kind == m.KINDS[last_words]:
                points.deadly = points.passed

        channel.before_delivery = hear

        def observe(event: str, fields: Mapping[str, object]) -> None:
            life.events.append((event, dict(fields)))
            if (event, fields.get("task")) == last_event:
                points.deadly = points.passed

        life = Life(channel, self.editor(points))
        self.lives.append(life)
        try:
            with (
                points.alive(),
                PartyJournal(self.work, randomness=SystemRandomness()) as journal,
            ):
                ledger = self.ledger(accept_repeated=accept_repeated)
                unfinished = journal.unfinished
                ledger.check(resuming=b"" if unfinished is None else unfinished.start.session_id)
                life.report = run_session(
                    self.member(VICTIM),
                    channel,
                    life.editor,
                    ledger=ledger,
                    enter=EnteredSessions(self.work / "sessions.txt").enter,
                    journal=journal,
                    items=self.items.get(VICTIM),
                    review=review,
                    observer=observe,
                )
                points.point()
                journal.end()
        except BaseException as error:  # noqa: BLE001  handed to the test
            life.error = error
        return life

    def others(self) -> list[threading.Thread]:
        def body(party: PartyId) -> None:
            editor = self.editors[party] = MatrixEditor(self.federation, party)
            channel = LoopbackChannel(self.coordinator, party)
            # Some tests end the session for everybody.
            with contextlib.suppress(SessionAbortedError):
                self.reports[party] = run_session(
                    self.member(party), channel, editor, items=self.items.get(party)
                )

        ids = [party for party in self.federation.plan.party_ids if party != VICTIM]
        threads = [threading.Thread(target=body, args=(party,), daemon=True) for party in ids]
        for thread in threads:
            thread.start()
        return threads

    def run(self, deaths: Iterator[int | None], monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the victim live until it has finished, dying where `deaths` says."""
        with driven(self.coordinator, patience=30):
            threads = self.others()
            for deadly in deaths:
                points = CrashPoints(deadly)
                with monkeypatch.context() as patched:
                    points.patch(patched)
                    life = self.live(points)
                assert life.error is None or isinstance(life.error, CrashError), life.error
                if life.report is not None and not self.unfinished():
                    break
            for thread in threads:
                thread.join(30)
                assert not thread.is_alive()

    def unfinished(self) -> bool:
        with PartyJournal(self.work, randomness=SystemRandomness()) as journal:
            return journal.unfinished is not None

    def check(self) -> None:
        """Everything that a crash must not change, against what all lives let go."""
        last = self.lives[-1]
        assert last.report is not None
        assert set(self.reports) == {1, 3}
        said = [[task.sum_digest for task in last.report.tasks]]
        said += [[task.sum_digest for task in report.tasks] for report in self.reports.values()]
        assert said == [said[0]] * 3
        for digest, want_digest in zip(said[0], self.sums, strict=True):
            assert want_digest in {None, digest}
        survivors = [record.survivors for record in self.coordinator.records]
        assert survivors == [{1, 2, 3}] * len(self.sums)
        want = [
            {layer: update.dense() for layer, update in applied.items()}
            for applied in self.editors[PartyId(1)].applied
        ]
        for got, wanted in zip(last.editor.applied, want, strict=True):
            assert got.keys() == wanted.keys()
            assert all(np.array_equal(got[layer].dense(), wanted[layer]) for layer in wanted)
        self.check_answers()
        assert {path.name for path in (self.work / "journal").iterdir()} == {"lock"}
        openings = (self.work / "ledger.jsonl").read_text().splitlines()
        assert len(openings) == len(set(openings)) == len(self.sums)

    def check_answers(self) -> None:
        answers: dict[tuple[int, int], set[bytes]] = defaultdict(set)
        shares: dict[tuple[int, PartyId], set[m.Share]] = defaultdict(set)
        for life in self.lives:
            for packet in life.channel.attempted:
                envelope = packet.envelope
                task = envelope.context.task
                answers[task, envelope.kind].add(b"".join((envelope.body, *packet.attachments)))
                message = decode_body(envelope.kind, envelope.body)
                if isinstance(message, m.Unmask):
                    for owner, share in message.shares.items():
                        shares[task, owner].add(share)
        assert all(len(bodies) == 1 for bodies in answers.values())
        assert {kind for _, kind in answers} == {
            m.KINDS[kind]
            for kind in (
                *(m.Advertise, m.ShareKeys, m.Confirm, m.Contribute),
                *(m.ConfirmSurvivors, m.Unmask, m.VerifyUpdate),
            )
        }
        assert len(shares) == 3 * len(self.sums)
        assert all(len(revealed) == 1 for revealed in shares.values())
        frames = {frame for life in self.lives for frame in life.channel.frames_sent}
        assert len({(task, frame[4:8]) for task, frame in frames}) == len(frames)


FEDERATION = build_federation(3, layers=2)
SUMS: list[str] = []


@pytest.fixture(autouse=True, scope="module")
def uncrashed(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Sums of a session in which nobody died."""
    outcome = FEDERATION.simulation(tmp_path_factory.mktemp("uncrashed")).run(FEDERATION.contribute)
    SUMS[:] = [
        "sha256:" + hashlib.sha256(to_bytes(outcome.sums[TaskIndex(task)])).hexdigest()
        for task in (0, 1)
    ]


def moments(stage: Stage) -> int:
    """How many moments a life without a death has."""
    with pytest.MonkeyPatch.context() as patched:
        stage.run(iter([None]), patched)
    stage.check()
    return stage.lives[-1].channel.points.passed


PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_a_party_killed_at_any_moment_finishes_the_same_session(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = moments(Stage(FEDERATION, tmp_path / "count"))
    assert count > 150
    for deadly in range(part, count, PARTS):
        stage = Stage(FEDERATION, tmp_path / str(deadly))
        stage.run(iter([deadly, None]), monkeypatch)
        # Whoever dies while it deletes its journal has finished.
        assert len(stage.lives) == 2 or stage.lives[0].report is not None, deadly
        stage.check()


@pytest.mark.parametrize("seed", range(8))
def test_a_party_killed_again_and_again_finishes_the_same_session(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    stage = Stage(FEDERATION, tmp_path)
    # Short lives: the very start of a resumed one, and its first new steps.
    stage.run((int(rng.integers(3, 60)) for _ in range(300)), monkeypatch)
    assert len(stage.lives) > 5
    stage.check()


# Coming back to something else.


@dataclass
class Revisit:
    """A victim that died after it said something; its work directory is what is left."""

    stage: Stage
    monkeypatch: pytest.MonkeyPatch

    def die_after(self, kind: type[m.Message]) -> "Revisit":
        with driven(self.stage.coordinator, patience=30):
            threads = self.stage.others()
            assert isinstance(self.live(last_words=kind).error, CrashError)
            self.give_up()
            for thread in threads:
                thread.join(30)
        return self

    def give_up(self) -> None:
        """Let nobody wait any longer: with three parties, none may be missing."""
        coordinator = self.stage.coordinator
        while not coordinator.finished:
            coordinator.close_round()
            coordinator.wait_change(coordinator.position, 0.01)  # sums are opened by `driven`

    def live(
        self, *, last_words: type[m.Message] | None = None, accept_repeated: bool = False
    ) -> Life:
        points = CrashPoints()
        with self.monkeypatch.context() as patched:
            points.patch(patched)
            return self.stage.live(points, last_words=last_words, accept_repeated=accept_repeated)

    def begin_anew(self) -> None:
        """Start the aggregator anew, and the others with it."""
        self.stage.coordinator = self.stage.new_coordinator()
        self.stage.reports.clear()


@pytest.fixture
def revisit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Revisit:
    return Revisit(Stage(FEDERATION, tmp_path), monkeypatch)


def test_a_session_that_ended_meanwhile_is_told_and_the_journal_ended(revisit: Revisit) -> None:
    life = revisit.die_after(m.Confirm).live()
    assert isinstance(life.error, SessionAbortedError)
    assert life.error.reason is AbortReason.BELOW_THRESHOLD
    assert life.editor.rolled_back
    assert not revisit.stage.unfinished()
    assert {path.name for path in (revisit.stage.work / "journal").iterdir()} == {"lock"}


def test_another_session_takes_the_place_of_one_that_opened_nothing(revisit: Revisit) -> None:
    revisit.die_after(m.Contribute).begin_anew()
    with driven(revisit.stage.coordinator, patience=30):
        threads = revisit.stage.others()
        life = revisit.live()
        for thread in threads:
            thread.join(30)
    assert life.error is None
    assert "superseded" in [event for event, _ in life.events]
    revisit.stage.lives[:] = [life]
    revisit.stage.check()


def test_another_session_is_refused_after_an_opening_unless_that_is_accepted(
    revisit: Revisit,
) -> None:
    revisit.die_after(m.Unmask).begin_anew()
    life = revisit.live()
    assert isinstance(life.error, InputError)
    assert "opened before" in str(life.error)
    assert revisit.stage.unfinished()
    # The new session is told, so that nobody there waits.
    assert [packet.envelope.kind for packet in life.channel.attempted] == [m.KINDS[m.Abort]]
    revisit.begin_anew()
    with driven(revisit.stage.coordinator, patience=30):
        threads = revisit.stage.others()
        accepted = revisit.live(accept_repeated=True)
        for thread in threads:
            thread.join(30)
    assert accepted.report is not None
    assert [task.sum_digest for task in accepted.report.tasks] == SUMS


def test_an_older_copy_of_the_work_directory_opens_nothing_again(
    revisit: Revisit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is set back, the aggregator plays along: the ledger still knows."""
    stage, copy = revisit.stage, revisit.stage.directory / "copy"
    with driven(stage.coordinator, patience=30):
        threads = stage.others()
        assert isinstance(revisit.live(last_words=m.ConfirmSurvivors).error, CrashError)
        shutil.copytree(stage.work / "journal", copy)
        assert isinstance(revisit.live(last_words=m.Unmask).error, CrashError)
        shutil.rmtree(stage.work / "journal")
        copy.rename(stage.work / "journal")
        life = revisit.live()
        assert isinstance(life.error, JournalError)
        assert "older copy" in str(life.error)
        sent = {packet.envelope.kind for packet in life.channel.attempted}
        assert sent == {m.KINDS[m.ConfirmSurvivors]}
        revisit.give_up()
        for thread in threads:
            thread.join(30)


def test_a_finished_session_needs_no_aggregator(revisit: Revisit) -> None:
    stage = revisit.stage
    with driven(stage.coordinator, patience=30):
        threads = stage.others()
        points = CrashPoints()
        with pytest.MonkeyPatch.context() as patched:
            points.patch(patched)
            life = stage.live(points, last_event=("applied", 1))
        for thread in threads:
            thread.join(30)
    assert life.report is not None
    assert isinstance(life.error, CrashError)
    stage.coordinator = stage.new_coordinator()
    again = revisit.live()
    assert again.report == life.report
    assert again.events == [
        ("resumed", {"session": life.report.session_id[:16], "task": 1, "state": "Completed"})
    ]
    assert len(again.editor.applied) == 2
    assert not again.channel.attempted


def test_a_resumed_task_says_where_it_goes_on(revisit: Revisit) -> None:
    life = revisit.die_after(m.Contribute).live()
    resumed = [fields for event, fields in life.events if event == "resumed"]
    assert [(fields["task"], fields["state"]) for fields in resumed] == [(0, "AwaitingSurvivors")]


def test_answers_that_would_differ_are_refused(
    revisit: Revisit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of the program, say: it would send other shares under the same keys."""
    revisit.die_after(m.ShareKeys)
    real = shamir.split

    def other(*arguments: Any, **options: Any) -> dict[PartyId, bytes]:  # noqa: ANN401
        options["randomness"].random_bytes(1)
        shares: dict[PartyId, bytes] = real(*arguments, **options)
        return shares

    monkeypatch.setattr(task_module, "split", other)
    life = revisit.live()
    assert isinstance(life.error, JournalError)
    assert "answered differently" in str(life.error)
    assert not life.channel.attempted
    assert revisit.stage.unfinished()


def test_another_plan_or_party_does_not_resume(revisit: Revisit) -> None:
    revisit.die_after(m.Advertise)
    with PartyJournal(revisit.stage.work, randomness=SystemRandomness()) as journal:
        digest = FEDERATION.plan.digest
        journal.check(digest, VICTIM)
        for plan_digest, party in ((bytes(32), VICTIM), (digest, PartyId(3))):
            with pytest.raises(JournalError, match="another plan or party"):
                journal.check(plan_digest, party)


# A disk that refuses.


def test_a_full_disk_suspends_the_session_before_anything_leaves(
    revisit: Revisit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write fails in turn, for good, until somebody makes room; nothing is ever lost."""
    stage = revisit.stage
    refused = 0
    with driven(stage.coordinator, patience=30):
        threads = stage.others()
        for allowed in range(200):
            points = CrashPoints()
            with monkeypatch.context() as patched:
                points.patch(patched)
                points.room = 2 + allowed % 9
                life = stage.live(points)
            if life.report is not None and not stage.unfinished():
                break
            assert isinstance(life.error, StorageError | KeyFileError), life.error
            assert "cannot be" in str(life.error)
            assert "No space left" in str(life.error)
            kinds = {packet.envelope.kind for packet in life.channel.attempted}
            assert m.KINDS[m.Abort] not in kinds
            assert life.editor.rolled_back or not life.events
            refused += 1
        for thread in threads:
            thread.join(30)
    assert refused > 5
    stage.check()
