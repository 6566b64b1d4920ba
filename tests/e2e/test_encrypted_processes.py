"""Encrypted sums by the commands that people type: real processes that are killed and come back."""

from pathlib import Path

import pytest

from collabedit.demo.methods import relative_errors
from tests.e2e.test_processes import Finished, assert_same_update, centralised
from tests.support.processes import Session, build_federation, edit_plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ERROR = 1e-5
"""As of masked sums after the first layer: float32 weights give more than 34 fractional bits."""


def test_parties_come_and_go_and_the_update_is_the_centralised_one(tmp_path: Path) -> None:
    federation = build_federation(
        tmp_path / "federation",
        parties=4,
        tile_bytes=1 << 14,
        editor=lambda made: (
            *("--covariance", made.covariance, "--covariance-weight", 20),
            *("--backend", "ckks"),
        ),
    )
    # Long enough for a process to be gone and come back in any round.
    edit_plan(federation.plan_file, timing={"round": 120.0, "upload": 120.0, "liveness": 60.0})
    with Session(federation, tmp_path / "session") as session:
        for party in federation.parties:
            session.start(party)
        # One uploads and is gone until the others have uploaded, too.
        guest = session.parties["party-3"]
        guest.await_event("uploaded", task=0)
        guest.kill()
        # The aggregator dies; the opener, before it has opened; both come back.
        session.start("party-3")
        opener = session.parties["party-1"]
        opener.await_event("opening", task=0)
        opener.kill()
        session.aggregator.kill()
        session.restart_aggregator()
        session.start("party-1")
        for running in session.everybody:
            assert running.wait() == 0, running.text
        finished = Finished(federation, session)
        everybody = list(federation.parties)
        assert [task["survivors"] for task in session.aggregator.report["tasks"]] == [everybody] * 2
        assert_same_update(finished, everybody)
        want = centralised(finished, [everybody, everybody])
        for party in everybody:
            got = {int(layer): update.dense() for layer, update in finished.updates(party).items()}
            assert max(relative_errors(got, want).values()) < ERROR
