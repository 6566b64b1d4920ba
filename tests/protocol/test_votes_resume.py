"""A party killed around its vote: it never votes twice differently, and comes to everybody's end.

The scene of `test_resume`, under a plan that asks all three parties to accept. Each life of the
victim would vote otherwise than the one before, so a vote that is not the stored one would show.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from collabedit.acceptance import Measures, Vote
from collabedit.errors import AbortReason, InputError, SessionAbortedError
from collabedit.ids import TaskIndex
from collabedit.plan import format_digest
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body
from tests.protocol import test_resume
from tests.protocol.test_resume import VICTIM, Stage
from tests.support.crashes import CrashError, CrashPoints
from tests.support.federations import build_federation
from tests.support.loopback import driven
from tests.support.networks import HARMFUL, MatrixEditor

FEDERATION = build_federation(3, layers=2, votes=3)
LAST = TaskIndex(1)


@dataclass
class MortalEditor(MatrixEditor):
    """Dies while it measures, too."""

    points: CrashPoints = field(default_factory=CrashPoints)

    def measure(self) -> Measures:
        self.points.point()
        measured = super().measure()
        self.points.point()
        return measured


@dataclass
class VotedStage(Stage):
    """A victim whose lives vote in turn: `first`, then the other of the two."""

    first: Vote = Vote.ACCEPT

    def editor(self, points: CrashPoints) -> MatrixEditor:
        turn = len(self.lives) % 2 == 0
        vote = self.first if turn else ({Vote.ACCEPT, Vote.PERPLEXITY} - {self.first}).pop()
        return MortalEditor(self.federation, VICTIM, after=HARMFUL[vote], points=points)

    def play(self, deaths: Iterator[int | None], monkeypatch: pytest.MonkeyPatch) -> None:
        with driven(self.coordinator, patience=30):
            threads = self.others()
            for deadly in deaths:
                points = CrashPoints(deadly)
                with monkeypatch.context() as patched:
                    points.patch(patched)
                    life = self.live(points)
                if isinstance(life.error, CrashError):
                    continue
                if isinstance(life.error, InputError):
                    # Killed while it deleted the journal of a rejected session: that one is over,
                    # and its ledger knows that sums over these edits were opened.
                    assert "opened before" in str(life.error)
                    assert not self.lives.pop().channel.attempted
                    break
                assert life.error is None or isinstance(life.error, SessionAbortedError)
                break
            for thread in threads:
                thread.join(30)
                assert not thread.is_alive()

    def votes(self) -> set[Vote]:
        """Every vote that left the victim, in whatever life."""
        return {
            message.vote
            for life in self.lives
            for packet in life.channel.attempted
            if packet.envelope.context.task == LAST
            and isinstance(
                message := decode_body(packet.envelope.kind, packet.envelope.body), m.VerifyUpdate
            )
        }

    def check_end(self) -> Vote:
        """One vote, one outcome for everybody; nothing is left to resume."""
        (vote,) = self.votes()
        last = self.lives[-1]
        if vote is Vote.ACCEPT:
            self.check()
            assert last.report is not None
            (own,) = [task.assessment for task in last.report.tasks if task.assessment]
            assert own.vote is vote
            assert own.after == HARMFUL[vote]
            return vote
        assert not self.unfinished()
        if not isinstance(last.error, CrashError):
            assert isinstance(last.error, SessionAbortedError)
            assert last.error.reason is AbortReason.UPDATE_REJECTED
            assert "party-2 perplexity" in str(last.error)
        for editor in (last.editor, *self.editors.values()):
            assert editor.rolled_back
        assert not self.reports
        assert self.coordinator.finished
        return vote


@pytest.fixture(autouse=True, scope="module")
def uncrashed(tmp_path_factory: pytest.TempPathFactory) -> None:
    """`Stage.check` compares sums with those of a session in which nobody died."""
    outcome = FEDERATION.simulation(tmp_path_factory.mktemp("uncrashed")).run(FEDERATION.contribute)
    test_resume.SUMS[:] = [format_digest(record.sum_digest) for record in outcome.records]


def moments(directory: Path, first: Vote) -> tuple[int, int]:
    """Moments of a life without a death: when the last task's contribution is out, and all."""
    stage = VotedStage(FEDERATION, directory, first=first)
    passed: list[int] = []
    real: Callable[[CrashPoints], MatrixEditor] = stage.editor

    def editor(points: CrashPoints) -> MatrixEditor:
        made = real(points)
        statistics = made.statistics

        def noting(layers: object) -> object:
            passed.append(points.passed)
            return statistics(layers)  # type: ignore[arg-type]

        made.statistics = noting  # type: ignore[method-assign, assignment]
        return made

    stage.editor = editor  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patched:
        stage.play(iter([None]), patched)
    assert stage.check_end() is first
    return passed[-1], stage.lives[-1].channel.points.passed


@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("first", [Vote.ACCEPT, Vote.PERPLEXITY])
def test_a_party_killed_at_any_moment_of_the_voted_task_votes_once(
    first: Vote, part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, stop = moments(tmp_path / "count", first)
    assert stop - start > 60
    votes = []
    for deadly in range(start + part, stop, 2):
        stage = VotedStage(FEDERATION, tmp_path / str(deadly), first=first)
        stage.play(iter([deadly, None]), monkeypatch)
        votes.append(stage.check_end())
        if len(stage.lives) == 2:
            # A stored vote is not evaluated anew; one that was not stored is, before and after.
            assert stage.lives[1].editor.measured == (0 if votes[-1] is first else 2)
    # Before the vote was written down the second life's counts, afterwards the first one's.
    assert set(votes) == {Vote.ACCEPT, Vote.PERPLEXITY}


def test_a_party_killed_again_and_again_votes_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = VotedStage(FEDERATION, tmp_path)
    stage.play((20 + life % 17 for life in range(300)), monkeypatch)
    assert len(stage.lives) > 5
    stage.check_end()
