"""A party killed in a session with closed sums: it masks one vector, and reopens its updates.

The scene of `test_resume`. What a party contributes is computed in floating point once the group
secret is known, so a second computation may differ in its last bits. Here it always does: whoever
computes instead of reading what is stored shows another vector under the same masks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collabedit.crypto.ring import RingArray
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import JournalError
from collabedit.exchange import TileLayout
from collabedit.ids import LayerIndex, TaskIndex
from collabedit.party import driver
from collabedit.party.contribution import contributed_vector
from collabedit.party.entries import OpenSession, UpdateAccepted
from collabedit.party.journal import PartyJournal
from collabedit.party.pieces import seal_temporarily
from collabedit.party.records import RecordFile, StorageKey, read_sealed, write_sealed
from collabedit.party.replay import InputLog
from collabedit.party.states import TaskSetup
from collabedit.proto import messages as m
from tests.protocol.test_resume import VICTIM, Life, Revisit, Stage
from tests.support.crashes import CrashError, CrashPoints
from tests.support.federations import build_federation
from tests.support.loopback import driven
from tests.support.networks import MatrixEditor

FEDERATION = build_federation(3, layers=2, closed="check_columns = 4")
FIRST, SECOND = TaskIndex(0), TaskIndex(1)
ENCODED = "task-0.encoded"
TILES = TileLayout.of(FEDERATION.plan, FIRST).tiles


@dataclass
class ClosedStage(Stage):
    """Every computation of the victim's contribution comes out by one unit more than the last.

    Attributes:
        computed: how often, by task.
        moments: when, in the lives of the victim.
    """

    computed: dict[TaskIndex, int] = field(default_factory=dict)
    moments: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sums = [None, None]  # every session has another group secret

    def editor(self, points: CrashPoints) -> MatrixEditor:
        self.points = points
        return super().editor(points)

    def vector(
        self, setup: TaskSetup, brought: bytes | memoryview, group_secret: bytes | None
    ) -> RingArray:
        made = contributed_vector(setup, brought, group_secret)
        task = setup.context.task
        if setup.me == VICTIM:
            turn = self.computed[task] = self.computed.get(task, 0) + 1
            self.moments.append(self.points.passed)
            made[: FEDERATION.plan.statistics_length(task)] += np.uint64(turn - 1)
        return made

    def run(self, deaths: Iterator[int | None], monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(driver, "contributed_vector", self.vector)
            super().run(deaths, monkeypatch)

    def check(self) -> None:
        super().check()
        self.check_updates()

    def check_updates(self) -> None:
        """The updates are those of one place that holds all edits."""
        assert len(self.lives[-1].editor.applied) == 2
        for layer, applied in enumerate(self.lives[-1].editor.applied):
            wanted = FEDERATION.centralised(frozenset(FEDERATION.plan.party_ids), TaskIndex(layer))
            error = np.linalg.norm(applied[LayerIndex(layer)].dense() - wanted)
            assert error < 1e-8 * np.linalg.norm(wanted)


def moments(directory: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Moments of a life without a death at which it computes the first and the second vector."""
    stage = ClosedStage(FEDERATION, directory)
    stage.run(iter([None]), monkeypatch)
    stage.check()
    assert stage.computed == {FIRST: 1, SECOND: 1}
    first, second = stage.moments
    return first, second


def trace(stage: Stage) -> str:
    """How far a dead victim had come with the contribution to the first task."""
    with PartyJournal(stage.work, randomness=SystemRandomness()) as journal:
        session = journal.unfinished
    assert session is not None
    if session.completed:
        return "completed"
    if any(isinstance(entry, UpdateAccepted) for entry in session.inputs):
        return "fetched"
    frames = {frame for _, frame in stage.lives[0].channel.frames_sent}
    if len(frames) < TILES and frames:
        return "in the upload"
    if frames:
        return "uploaded"
    if session.made is not None:
        return "written"
    return "half written" if ENCODED in files(stage) else "not written"


def files(stage: Stage) -> set[str]:
    return {path.name for path in (stage.work / "journal").iterdir()}


PARTS = 4


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))]
)
def test_a_party_killed_at_any_moment_masks_one_vector(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, stop = moments(tmp_path / "count", monkeypatch)
    assert stop - start > 100
    seen = set()
    for deadly in range(start + part, stop, PARTS):
        stage = ClosedStage(FEDERATION, tmp_path / str(deadly))

        def deaths(stage: Stage = stage, deadly: int = deadly) -> Iterator[int | None]:
            yield deadly
            seen.add(trace(stage))
            yield None

        stage.run(deaths(), monkeypatch)
        assert len(stage.lives) == 2
        stage.check()
    assert seen >= {"half written", "written", "in the upload", "uploaded", "fetched", "completed"}


@pytest.mark.parametrize("seed", range(3))
def test_a_party_killed_again_and_again_masks_one_vector(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    stage = ClosedStage(FEDERATION, tmp_path)
    stage.run((int(rng.integers(10, 60)) for _ in range(300)), monkeypatch)
    assert len(stage.lives) > 5
    stage.check()


@dataclass
class Return(Revisit):
    """A victim that dies, and comes back to files that may have changed."""

    stage: ClosedStage

    def live(self, **options: Any) -> Life:  # noqa: ANN401  those of `Stage.live`
        points = CrashPoints()
        with self.monkeypatch.context() as patched:
            points.patch(patched)
            patched.setattr(driver, "contributed_vector", self.stage.vector)
            return self.stage.live(points, **options)

    def after(self, *deaths: tuple[tuple[str, int], Callable[[], object]]) -> Life:
        """Die after each of these events, let something happen then, and live once more."""
        with driven(self.stage.coordinator, patience=30):
            threads = self.stage.others()
            for event, act in deaths:
                assert isinstance(self.live(last_event=event).error, CrashError)
                act()
            life = self.live()
            if life.error is not None:
                self.give_up()
            for thread in threads:
                thread.join(30)
        return life

    def session(self) -> OpenSession:
        with PartyJournal(self.stage.work, randomness=SystemRandomness()) as journal:
            assert journal.unfinished is not None
            return journal.unfinished


@pytest.fixture
def back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Return:
    return Return(ClosedStage(FEDERATION, tmp_path), monkeypatch)


def test_a_vector_that_is_not_stored_would_be_seen(
    back: Return, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above can fail: a driver that computes anew shows two vectors under one mask."""
    monkeypatch.setattr(
        InputLog, "contribution", lambda _log, _task, make: seal_temporarily(make())
    )
    monkeypatch.setattr(InputLog, "uploaded", lambda _log, _event, _step: None)
    back.after((("uploaded", 0), lambda: None))
    assert back.stage.computed[FIRST] == 2
    with pytest.raises(AssertionError):
        back.stage.check_answers()


def altered(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def another(path: Path) -> None:
    """A whole file of that name and key, as of an older session."""
    key = path.parents[1] / "journal.key"
    storage = StorageKey(key, key.read_bytes(), SystemRandomness())
    data = b"".join(read_sealed(path, storage))
    write_sealed(path, storage, [bytes(8) + data[8:]])


@pytest.mark.parametrize("damage", [altered, cut, another, Path.unlink])
@pytest.mark.parametrize("event", ["uploading", "uploaded"])
def test_a_stored_vector_that_was_tampered_with_is_refused_and_not_computed_anew(
    event: str, damage: Callable[[Path], None], back: Return
) -> None:
    path = back.stage.work / "journal" / ENCODED
    life = back.after(((event, 0), lambda: damage(path)))
    assert isinstance(life.error, JournalError)
    assert ENCODED in str(life.error)
    assert "--abandon" in str(life.error)
    assert back.stage.computed == {FIRST: 1}
    assert not life.channel.frames_sent
    assert m.KINDS[m.Contribute] not in {p.envelope.kind for p in life.channel.attempted}
    assert life.editor.rolled_back
    assert back.stage.unfinished()


def test_a_finished_task_is_reopened_with_its_secret_and_without_its_seed(back: Return) -> None:
    seeds: list[bytes] = []

    def running() -> None:
        session = back.session()
        assert session.task is not None
        assert session.made is not None
        seeds.append(session.task.seed)

    def finished() -> None:
        session = back.session()
        assert files(back.stage) == {"lock", "session.journal", "task-0.update"}
        assert (session.task, session.inputs, session.made) == (None, (), None)
        (done,) = session.completed
        assert done.group_secret is not None
        path, key = back.stage.work / "journal" / "session.journal", back.stage.work / "journal.key"
        storage = StorageKey(key, key.read_bytes(), SystemRandomness())
        records = b"".join(read_records(path, storage))
        assert records.count(done.group_secret) == 1
        assert seeds[0] not in records

    life = back.after((("uploaded", 0), running), (("applied", 0), finished))
    assert life.error is None
    back.stage.check()
    assert files(back.stage) == {"lock"}


def read_records(path: Path, storage: StorageKey) -> tuple[bytes, ...]:
    file, records = RecordFile.open(path, storage, name=path.name)
    file.close()
    return records


def test_a_finished_session_needs_no_aggregator(back: Return) -> None:
    life = back.after((("applied", 1), lambda: None))
    assert life.error is None
    assert not life.channel.attempted
    back.stage.check_updates()
    assert files(back.stage) == {"lock"}
