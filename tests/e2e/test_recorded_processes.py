"""Recordings of real processes, some of which are killed on the way."""

from pathlib import Path

import numpy as np
import pytest

from collabedit.attacks.views import AggregatorView, RecipientView
from collabedit.ids import TaskIndex
from collabedit.recording import Recording
from tests.protocol.stage import plain_sum
from tests.support.federations import build_federation
from tests.support.standins import Process, StandInSession, lay_out


def kill_once(end: Process, *, after: str) -> bool:
    """Kill an end whose log says that it came so far, and start it again; tell whether it did."""
    if end.starts > 1 or not any(event.get("event") == after for event in end.events):
        return False
    end.kill()
    end.start()
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("aggregator_after", "party_after"),
    [("task-started", "joined"), ("received", "uploading"), ("opened", "uploaded")],
)
def test_ends_that_were_killed_go_on_in_their_files(
    aggregator_after: str, party_after: str, tmp_path: Path
) -> None:
    federation = build_federation(3, layers=2, mapped=200, edits_each=30, tile_bytes=1024)
    stands = lay_out(tmp_path / "files", federation)
    killed = set()
    with StandInSession(stands, tmp_path / "session", records=True) as session:
        for _ in session.wait(120):
            if kill_once(session.aggregator, after=aggregator_after):
                killed.add("aggregator")
            if kill_once(session.parties["party-2"], after=party_after):
                killed.add("party")
        assert not session.faults()
    assert killed == {"aggregator", "party"}
    with Recording(session.recording("aggregator")) as recording:
        recording.check()
        view = AggregatorView.of_recording(recording)
        kept = [(d.task, d.sender, d.receiver, d.data) for d in recording.deliveries()]
    assert len(set(kept)) == len(kept)
    everybody = frozenset(federation.plan.party_ids)
    for task in map(TaskIndex, range(2)):
        assert view.survivors[task] == everybody
        np.testing.assert_array_equal(view.sums[task], plain_sum(federation, everybody, task))
        # Not one frame is missing, whoever died when.
        assert view.uploads[task].keys() == everybody
    verified = []
    for name in session.parties:
        with Recording(session.recording(name)) as recording:
            recording.check()
            assert recording.origin == name
            verified.append(RecipientView.of_recording(recording).updates)
    for updates in verified:
        for layer, update in verified[0].items():
            np.testing.assert_array_equal(updates[layer].left, update.left)
            np.testing.assert_array_equal(updates[layer].right, update.right)
