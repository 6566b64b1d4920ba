"""Metrics and status of real commands during a real session: told where, and clean of edits."""

import contextlib
import http.client
import re
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.test_processes import CANARIES, canary_edits, found_in, private_key_texts
from tests.support.processes import (
    Federation,
    Running,
    Session,
    build_federation,
    run_command,
    run_here,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ANYWHERE = "127.0.0.1:0"


def address_of(running: Running) -> str:
    running.await_event("web")
    (event,) = [event for event in running.events if event["event"] == "web"]
    address: str = event["address"]
    return address


def fetch(address: str, path: str) -> str:
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.status == 200
    return text


def watch(session: Session, pages: Mapping[tuple[str, str], str]) -> dict[str, set[str]]:
    """Fetch all pages again and again until the aggregator ends; return each one's texts."""
    seen: dict[str, set[str]] = {}
    while session.aggregator.process.poll() is None:
        for (name, path), address in pages.items():
            # An end that is done answers no more.
            with contextlib.suppress(OSError, http.client.HTTPException):
                seen.setdefault(f"{name}{path}", set()).add(fetch(address, path))
        time.sleep(0.2)
    return seen


def test_pages_of_both_ends_tell_how_far_it_is_and_no_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = build_federation(
        tmp_path / "federation",
        parties=3,
        edits=[canary_edits(party) for party in (1, 2, 3)],
        command=run_here,
    )
    for name in ("AGGREGATOR_METRICS", "AGGREGATOR_STATUS", "PARTY_METRICS"):
        monkeypatch.setenv(f"COLLABEDIT_{name}", ANYWHERE)
    with Session(federation, tmp_path / "session", debug=True) as session:
        pages = {
            (session.aggregator.name, path): address_of(session.aggregator)
            for path in ("/metrics", "/", "/status.json")
        }
        for party in federation.parties:
            session.start(party)
        for party in federation.parties:
            pages[party, "/metrics"] = address_of(session.parties[party])
        seen = watch(session, pages)
        for running in session.everybody:
            assert running.wait() == 0, running.text
        logs = [running.text for running in session.everybody]
    texts = [text for found in seen.values() for text in found]
    secrets = [*CANARIES, *private_key_texts(federation)]
    for text in (*texts, *logs):
        assert not found_in(text, secrets)
    # The pages were there, and changed with the session.
    assert set(seen) == {f"{name}{path}" for name, path in pages}
    assert all(len(found) > 1 for found in seen.values())
    for name, found in seen.items():
        for text in found if name.endswith("/metrics") else ():
            assert len(list(text_string_to_metric_families(text))) > 8
    aggregator = "".join(seen[f"{session.aggregator.name}/metrics"])
    assert re.search(r'collabedit_aggregator_parties\{state="joined"\} 3.0', aggregator)
    assert "collabedit_aggregator_finished_tasks 1.0" in aggregator
    party = "".join(seen["party-1/metrics"])
    for phase in ("load", "targets", "session"):
        assert f'collabedit_party_phase_seconds_total{{phase="{phase}"}}' in party
    assert re.search(r"collabedit_party_sent_bytes_total [1-9]", party)
    assert any(
        '"state": "joined"' in text for text in seen[f"{session.aggregator.name}/status.json"]
    )
    for line in session.aggregator.events:
        assert line["session"] == session.aggregator.report["session"][:16]


@pytest.mark.parametrize("option", ["--metrics", "--status"])
def test_an_address_that_others_reach_must_be_asked_for(
    option: str, federation: Federation, tmp_path: Path
) -> None:
    options = federation.serve_options(state=tmp_path / "state")
    refused = run_command(*options, option, "0.0.0.0:0")
    assert refused.code == 2
    assert refused.lines[-1].startswith("error: 0.0.0.0:0: others could read metrics and status")
    assert "--web-remote" in refused.lines[-1]
