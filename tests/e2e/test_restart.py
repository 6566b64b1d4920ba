"""An aggregator that was started anew, over real gRPC."""

import json
import sqlite3
import threading
import time
from pathlib import Path

from typer.testing import CliRunner

from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.journal import Journal
from collabedit.cli import app
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import InputError, JournalError
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.proto import messages as m
from collabedit.simulation import Simulation
from tests.support.federations import TestFederation, build_federation
from tests.support.networks import Network

FEDERATION = build_federation(3)


def finished(federation: TestFederation, directory: Path) -> Path:
    """Run a session to its end and leave the journal as a crash before the farewell would."""
    path = directory / "journal.sqlite"
    simulation = Simulation(
        federation.plan,
        identities=federation.identities,
        directory=directory,
        randomness=dict.fromkeys((AGGREGATOR, *federation.plan.party_ids), SystemRandomness()),
        journal=lambda: Journal(path),
    )
    assert len(simulation.run(federation.contribute).records) == 1
    simulation._journal.close()
    return path


def test_whoever_missed_the_end_hears_it_from_the_restarted_aggregator(tmp_path: Path) -> None:
    network = Network(FEDERATION, tmp_path)
    coordinator = Coordinator(
        FEDERATION.plan,
        FEDERATION.identities[AGGREGATOR],
        directory=tmp_path,
        randomness=SystemRandomness(),
        journal=Journal(finished(FEDERATION, tmp_path)),
    )
    assert coordinator.finished
    with network.server(coordinator) as server:
        started = time.monotonic()
        driver = threading.Thread(target=server.run, kwargs={"linger": 30.0})
        driver.start()
        # Longer than the driver looks for somebody who polls.
        time.sleep(1.0)
        assert driver.is_alive()
        for party in FEDERATION.plan.party_ids:
            channel = network.channel(PartyId(party), server.port)
            channel.open(coordinator.session_id)
            kinds: list[int] = []
            while not kinds or kinds[-1] != m.KINDS[m.UpdateVerified]:
                packet = channel.next_packet(5.0)
                assert packet is not None
                kinds.append(packet.envelope.kind)
            channel.close(finished=True)
        driver.join(20)
        assert not driver.is_alive()
        assert time.monotonic() - started < 25.0
    coordinator.retire()
    assert not list(tmp_path.glob("task-*"))


def test_the_log_of_a_session_that_is_over_can_still_be_checked(tmp_path: Path) -> None:
    path = finished(FEDERATION, tmp_path)
    journal = Journal(path)
    inputs = len(list(journal.inputs()))
    journal.end("finished")
    journal.close()
    listed = CliRunner().invoke(app, ["aggregator", "log", "--state", str(tmp_path)])
    assert listed.exit_code == 0, listed.output
    header, *rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert (header["outcome"], header["inputs"], len(rows)) == ("finished", inputs, inputs)
    assert {row["kind"] for row in rows} == {"packet", "merged"}
    assert rows[0]["what"] == "Advertise of party 1 in task 0, r0-advertise"
    (merged,) = (row["what"] for row in rows if row["kind"] == "merged")
    assert merged == "Merged in task 0, r5-open"
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM inputs WHERE number = 4")
    database.close()
    altered = CliRunner().invoke(app, ["aggregator", "log", "--state", str(tmp_path)])
    assert isinstance(altered.exception, JournalError)
    missing = CliRunner().invoke(app, ["aggregator", "log", "--state", str(tmp_path / "none")])
    assert isinstance(missing.exception, InputError)
