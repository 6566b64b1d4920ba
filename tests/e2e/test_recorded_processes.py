"""Recordings of real processes, some of which are killed on the way."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from collabedit.attacks.views import AggregatorView, RecipientView
from collabedit.ids import TaskIndex
from collabedit.recording import Recording
from tests.protocol.stage import plain_sum
from tests.support import processes
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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_party_join_records_what_it_verified(tmp_path: Path) -> None:
    federation = processes.build_federation(
        tmp_path / "federation", parties=3, command=processes.run_here
    )
    place = tmp_path / "recording"
    with processes.Session(federation, tmp_path / "session") as session:
        session.start("party-1", record=place)
        for name in ("party-2", "party-3"):
            session.start(name)
        for party in session.parties.values():
            assert party.wait() == 0, party.text
        report = session.parties["party-1"].report
    with Recording(place) as recording:
        assert recording.origin == "party-1"
        assert recording.session_id.hex() == report["session"]
        recording.check()
        bundles = [hashlib.sha256(d.data).hexdigest() for d in recording.deliveries(kind="bundle")]
        assert [f"sha256:{digest}" for digest in bundles] == [
            task["update_digest"] for task in report["tasks"]
        ]
        assert set(recording.updates()) == {1, 3}
        kept = b"".join(delivery.data for delivery in recording.deliveries())
    edits = json.loads(federation.member("party-1").edits.read_text())
    for edit in edits:
        assert edit["requested_rewrite"]["subject"].encode() not in kept
