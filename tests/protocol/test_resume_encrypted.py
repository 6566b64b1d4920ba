"""The opener of encrypted sums, killed at any moment: one upload, one opening, the same answers.

The scene of `test_resume`, with the lowest id as the victim. Ciphertexts and flooding are random:
whoever encrypts or opens anew instead of reading what is stored shows something else.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import JournalError
from collabedit.exchange import TileLayout
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party import decryption
from collabedit.party.entries import OpeningBegun
from collabedit.party.journal import PartyJournal
from collabedit.proto import messages as m
from tests.protocol import test_resume
from tests.protocol.test_resume import Stage
from tests.support.crashes import CrashError, CrashPoints
from tests.support.federations import encrypted_federation
from tests.support.loopback import driven

# Two chunks each: what is stored of a contribution and of an opening is several records.
FEDERATION = encrypted_federation(3, layers=2, tile_bytes=1 << 16, capacity=150)
FIRST = TaskIndex(0)
TILES = TileLayout.of(FEDERATION.plan, FIRST).tiles
ANSWERS = (
    *(m.Advertise, m.ShareKeys, m.Confirm, m.Contribute),
    *(m.ConfirmSurvivors, m.SumOpened, m.VerifyUpdate),
)


@pytest.fixture(autouse=True)
def _the_victim_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_resume, "VICTIM", PartyId(1))


@dataclass
class EncryptedStage(Stage):
    """The victim is the opener."""

    def check(self) -> None:
        last = self.lives[-1]
        assert last.report is not None
        assert set(self.reports) == {2, 3}
        said = [[task.sum_digest for task in last.report.tasks]]
        said += [[task.sum_digest for task in report.tasks] for report in self.reports.values()]
        assert said == [said[0]] * 3
        assert [record.survivors for record in self.coordinator.records] == [{1, 2, 3}] * 2
        assert len(last.editor.applied) == 2
        for layer, applied in enumerate(last.editor.applied):
            wanted = FEDERATION.centralised(frozenset(FEDERATION.plan.party_ids), TaskIndex(layer))
            error = np.linalg.norm(applied[LayerIndex(layer)].dense() - wanted)
            assert error < 1e-7 * np.linalg.norm(wanted)
        self.check_answers()
        assert {path.name for path in (self.work / "journal").iterdir()} == {"lock"}
        openings = (self.work / "ledger.jsonl").read_text().splitlines()
        # Of each task one line for the edits, one for the key.
        assert len(openings) == len(set(openings)) == 4

    def check_answers(self) -> None:
        answers: dict[tuple[int, int], set[bytes]] = defaultdict(set)
        for life in self.lives:
            for packet in life.channel.attempted:
                envelope = packet.envelope
                body = b"".join((envelope.body, *packet.attachments))
                answers[envelope.context.task, envelope.kind].add(body)
        assert all(len(bodies) == 1 for bodies in answers.values())
        assert {kind for _, kind in answers} == {m.KINDS[kind] for kind in ANSWERS}
        # Tiles of the upload, and of the opening, whose bytes never differ.
        frames = {frame for life in self.lives for frame in life.channel.frames_sent}
        places: dict[tuple[int, bytes], int] = defaultdict(int)
        for task, frame in frames:
            places[task, frame[4:8]] += 1
        assert max(places.values()) == 2


def moments(directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    stage = EncryptedStage(FEDERATION, directory)
    stage.run(iter([None]), monkeypatch)
    stage.check()
    return stage.lives[-1].channel.points.passed


PARTS = 12


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))]
)
def test_an_opener_killed_at_any_moment_opens_once(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = moments(tmp_path / "count", monkeypatch)
    assert count > 150
    for deadly in range(part, count, PARTS):
        stage = EncryptedStage(FEDERATION, tmp_path / str(deadly))
        stage.run(iter([deadly, None]), monkeypatch)
        assert len(stage.lives) == 2 or stage.lives[0].report is not None, deadly
        stage.check()


@pytest.mark.parametrize("seed", range(2))
def test_an_opener_killed_again_and_again_opens_once(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    stage = EncryptedStage(FEDERATION, tmp_path)
    stage.run((int(rng.integers(10, 80)) for _ in range(300)), monkeypatch)
    assert len(stage.lives) > 3
    stage.check()


def live_and_die(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The victim dies when its opening has arrived."""
    points = CrashPoints()
    with monkeypatch.context() as patched:
        points.patch(patched)
        life = stage.live(points, last_words=m.SumOpened)
    assert isinstance(life.error, CrashError)


def test_a_second_opening_from_an_older_copy_of_the_journal_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger knows of the key what a journal that was set back does not."""
    stage = EncryptedStage(FEDERATION, tmp_path)
    opened: list[bytes] = []
    honest, begin = decryption.open_chunks, PartyJournal.begin_opening
    copy: dict[str, bytes] = {}

    def keep(journal: PartyJournal, sum_digest: bytes) -> bool:
        if not copy:
            copy.update({path.name: path.read_bytes() for path in files(stage)})
        return begin(journal, sum_digest)

    def noted(*arguments: object) -> object:
        opened.append(b"opened")
        return honest(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(PartyJournal, "begin_opening", keep)
    monkeypatch.setattr(decryption, "open_chunks", noted)

    def set_back() -> None:
        for path in files(stage):
            path.unlink()
        for name, data in copy.items():
            (stage.work / "journal" / name).write_bytes(data)

    with driven(stage.coordinator, patience=2):
        threads = stage.others()
        live_and_die(stage, monkeypatch)
        assert len(opened) == 1
        set_back()
        second = stage.live(CrashPoints())
        for thread in threads:
            thread.join(30)
    assert isinstance(second.error, JournalError)
    assert "opened before" in str(second.error)
    assert len(opened) == 1


def files(stage: Stage) -> Iterator[Path]:
    return iter([path for path in (stage.work / "journal").iterdir() if path.name != "lock"])


def test_a_journal_holds_a_key_to_one_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = EncryptedStage(FEDERATION, tmp_path)
    with driven(stage.coordinator, patience=2):
        threads = stage.others()
        live_and_die(stage, monkeypatch)
        with PartyJournal(stage.work, randomness=SystemRandomness()) as journal:
            assert journal.unfinished is not None
            begun = journal.unfinished.begun
            assert isinstance(begun, OpeningBegun)
            assert journal.begin_opening(begun.digest)
            with pytest.raises(JournalError, match="another sum"):
                journal.begin_opening(bytes(32))
            with pytest.raises(ValueError, match="one sum"):
                journal.unfinished.with_entry(OpeningBegun(bytes(32)))
        stage.live(CrashPoints())
        for thread in threads:
            thread.join(30)
    stage.check()
