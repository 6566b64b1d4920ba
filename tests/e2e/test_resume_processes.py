"""`party join` and `aggregator serve` are killed in mid-session and started again by hand."""

from pathlib import Path

import pytest

from tests.e2e.test_processes import Finished, assert_parity, assert_same_update, centralised
from tests.support.processes import (
    TIMING,
    Session,
    await_condition,
    build_federation,
    edit_plan,
    run_here,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PARTIES = ("party-1", "party-2", "party-3")
SLOW_UPLOAD = 9000
"""Bytes per second: about 4 s for a contribution."""


def test_a_killed_party_and_a_killed_aggregator_resume_the_same_session(tmp_path: Path) -> None:
    federation = build_federation(
        tmp_path / "federation", parties=3, statistics="dense", tile_bytes=64, command=run_here
    )
    # A process that must load a model again takes longer than one that only lost its network.
    edit_plan(federation.plan_file, timing={**TIMING, "liveness": 90.0})
    with Session(federation, tmp_path / "session", debug=True) as session:
        for party in PARTIES[:2]:
            session.start(party, patience=60)
        victim = session.start("party-3", patience=60, upload_rate=SLOW_UPLOAD)
        victim.await_event("uploading", task=0)
        spool = session.directory / "state" / "spool" / "task-0" / "party-3.tiles"
        await_condition(
            lambda: spool.exists() and spool.stat().st_size > 640,
            "nothing arrives",
            unless=lambda: victim.process.poll() is not None,
            explain=lambda: session.aggregator.text + victim.text,
        )
        victim.kill()
        assert not (session.work("party-3") / "update.safetensors").exists()
        resumed = session.start("party-3", patience=60)
        resumed.await_event("resumed", task=0, state="Contributing")
        session.aggregator.await_event("task-finished", task=0)
        session.aggregator.kill()
        session.restart_aggregator().await_event("resumed")
        for running in session.everybody:
            assert running.wait() == 0, running.text
        finished = Finished(federation, session)
        assert "resuming session" in resumed.text
        assert "resuming session" in session.aggregator.text
        for party in PARTIES:
            tasks = session.parties[party].report["tasks"]
            assert [task["survivors"] for task in tasks] == [list(PARTIES)] * 2
            assert session.checkpoint(party).is_dir()
        assert_same_update(finished, PARTIES)
        assert_parity(finished, PARTIES, centralised(finished, [PARTIES, PARTIES]))
