"""The status page: what it says of a session, and that names cannot break it."""

import json
import re
from pathlib import Path

import pytest

from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.traffic import Traffic
from collabedit.crypto.rng import SystemRandomness
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.operations.progress import SessionProgress
from collabedit.operations.status import StatusPages, _bytes, _seconds
from collabedit.operations.watched import Watched
from tests.protocol.stage import Session
from tests.support.federations import TestFederation, build_federation


def status_of(federation: TestFederation, directory: Path) -> tuple[Coordinator, StatusPages]:
    progress = SessionProgress()
    coordinator = Coordinator(
        federation.plan,
        federation.identities[AGGREGATOR],
        directory=directory,
        randomness=SystemRandomness(),
        observer=progress.observe,
    )
    return coordinator, StatusPages(
        Watched(
            coordinator,
            progress,
            Traffic(),
            reachable=lambda: frozenset({PartyId(1)}),
            is_serving=lambda: True,
        )
    )


def test_before_anybody_came(tmp_path: Path) -> None:
    coordinator, pages = status_of(build_federation(3, layers=2), tmp_path)
    status = json.loads(pages.json().body)
    assert status["session"] == coordinator.session_id.hex()
    assert (status["state"], status["round"], status["task"]) == ("running", "r0-advertise", 0)
    assert status["waiting_for"] == ["party-1", "party-2", "party-3"]
    assert [party["state"] for party in status["parties"]] == ["awaited"] * 3
    assert [each["round"] for each in status["rounds"]] == ["r0-advertise"]
    assert status["rounds"][0]["seconds"] is None
    html = pages.html().body.decode()
    assert 'http-equiv="refresh" content="5"' in html
    for name in ("party-1", "party-2", "party-3"):
        assert f'<span class="name">{name}</span>' in html


def test_after_a_session_with_a_dropout(tmp_path: Path) -> None:
    federation = build_federation(5, layers=2)
    progress = SessionProgress()
    session = Session(
        federation,
        tmp_path,
        observer=progress.observe,
        alter=lambda party, packet: () if party == PartyId(5) else (packet,),
    ).run()
    pages = StatusPages(
        Watched(
            session.coordinator,
            progress,
            Traffic(),
            reachable=frozenset,
            is_serving=lambda: True,
        )
    )
    status = json.loads(pages.json().body)
    assert (status["state"], status["finished_tasks"]) == ("completed", 2)
    gone = {party["name"]: party for party in status["parties"]}["party-5"]
    assert (gone["state"], gone["round"]) == ("dropped", "r0-advertise")
    assert [each["round"] for each in status["rounds"]][:2] == ["r0-advertise", "r1-share"]
    assert {each["task"] for each in status["rounds"]} == {0, 1}
    assert all(each["seconds"] is not None for each in status["rounds"])
    html = pages.html().body.decode()
    assert "http-equiv" not in html  # it is over: nothing changes any more
    assert "in r0-advertise" in html


def test_an_abort_is_told_with_its_reason(tmp_path: Path) -> None:
    coordinator, pages = status_of(build_federation(3), tmp_path)
    coordinator.close_round()
    status = json.loads(pages.json().body)
    assert status["state"] == "aborted"
    assert status["aborted"] == {"reason": "BELOW_THRESHOLD", "culprit": ""}
    assert "The session ended early: BELOW_THRESHOLD" in pages.html().body.decode()


def test_the_page_needs_nothing_else_and_runs_nothing(tmp_path: Path) -> None:
    _, pages = status_of(build_federation(3), tmp_path)
    page = pages.html()
    html = page.body.decode()
    assert not re.search(r"<script|<img|<link|\bsrc=|url\(|@import|\son\w+=|\sstyle=", html)
    assert re.findall(r'href="([^"]*)"', html) == ["status.json"]
    assert "script-src" not in page.policy
    assert page.policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in page.policy


def test_a_name_is_text_and_not_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Plans refuse such names; the page does not count on it.
    _, pages = status_of(build_federation(3), tmp_path)
    status = pages.snapshot()
    hostile = "<script>alert(1)</script>&\"'"
    status["plan"] = status["parties"][0]["name"] = hostile
    monkeypatch.setattr(pages, "snapshot", lambda: status)
    html = pages.html().body.decode()
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&#34;&#39;") == 3
    assert json.loads(pages.json().body)["plan"] == hostile


def test_nothing_secret_is_shown(tmp_path: Path) -> None:
    federation = build_federation(3)
    _, pages = status_of(federation, tmp_path)
    text = pages.json().body.decode() + pages.html().body.decode()
    for party, identity in federation.identities.items():
        assert (bytes([party + 1]) * 32).hex() not in text
        assert identity.verify_key.to_bytes().hex() not in text
    for keys, residuals in federation.edits.values():
        assert f"{keys[0, 0]:.6f}"[:-1] not in text
        assert f"{residuals[0, 0]:.6f}"[:-1] not in text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 50, "5120.0 TiB")]
)
def test_bytes_are_readable(count: int, text: str) -> None:
    assert _bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (59.9, "59.9 s"), (61, "1 min 1 s"), (3700, "1 h 1 min")]
)
def test_seconds_are_readable(seconds: float, text: str) -> None:
    assert _seconds(seconds) == text
