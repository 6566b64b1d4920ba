"""The form of log lines, and that docs/logs.md has every event with its level and fields."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from collabedit.cli.logs import LEVELS, LogFormat, LogLevel, LogObserver, configure_logs
from collabedit.ids import PartyId
from collabedit.proto import messages as m
from tests.protocol.stage import Session, instead_of
from tests.support.federations import build_federation

ROOT = Path(__file__).parents[3]
ALWAYS = {"event", "level", "timestamp", "role", "session"}
SOURCES = ("src/collabedit/api", "aggregator", "party", "src/collabedit/cli")
CALL = re.compile(r'(?:_tell|observer?|_observer)\(\s*"([a-z-]+)"')


def rows() -> list[tuple[str, str, str]]:
    """Event, level and fields of every row of docs/logs.md."""
    found = []
    for line in (ROOT / "docs" / "logs.md").read_text().splitlines():
        match = re.match(r"\| (`[a-z-]+`(?:, `[a-z-]+`)*) \| ([a-z ]+) \| ([^|]*)\|", line)
        if match:
            found += [(name, match[2], match[3]) for name in re.findall("`([a-z-]+)`", match[1])]
    return found


def test_every_event_of_the_source_is_documented_and_no_other_one() -> None:
    logged = {"applied", "counted"}  # chosen by an expression
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*.py"):
            logged |= set(CALL.findall(path.read_text()))
    assert len(logged) > 25
    assert {event for event, _, _ in rows()} - {"session"} == logged


def test_levels_are_the_documented_ones() -> None:
    for event, level, _ in rows():
        if level != "as above":
            assert LEVELS.get(event, LogLevel.INFO) == level, event
    assert set(LEVELS) <= {event for event, _, _ in rows()}


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_session_logs_documented_fields_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    allowed: dict[str, set[str]] = {}
    for event, _, fields in rows():
        allowed.setdefault(event, set()).update(re.findall(r"[a-z_]+", fields))
    configure_logs(LogFormat.JSON, LogLevel.DEBUG)
    observe = LogObserver("aggregator", is_held=True)
    session = Session(build_federation(5, layers=2), tmp_path, observer=observe)
    assert capsys.readouterr().err == ""  # no line without its session
    observe.begin(session.coordinator.session_id)
    session.alter = instead_of(5, m.Contribute, lambda _packet: ())
    session.run()
    logged = lines(capsys.readouterr().err)
    assert {line["event"] for line in logged} >= {
        *("task-started", "round-started", "received", "dropped", "opened"),
        *("task-finished", "session-finished"),
    }
    for line in logged:
        assert line["session"] == session.coordinator.session_id.hex()[:16]
        assert line["role"] == "aggregator"
        assert set(line) - ALWAYS <= allowed[str(line["event"])], line
    (dropped,) = [line for line in logged if line["event"] == "dropped"]
    assert (dropped["level"], dropped["party"], dropped["round"]) == (
        *("warning", "party-5"),
        "r3-contribute",
    )


def test_a_party_learns_its_session_when_it_joins(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogFormat.JSON)
    observe = LogObserver("birch")
    observe("web", {"address": "127.0.0.1:1"})
    observe("joined", {"session": "00ff"})
    observe("uploaded", {"task": 0})
    before, joined, after = lines(capsys.readouterr().err)
    assert "session" not in before
    assert joined["session"] == after["session"] == "00ff"


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        (LogLevel.DEBUG, ["received", "joined", "dropped", "aborted"]),
        (LogLevel.INFO, ["joined", "dropped", "aborted"]),
        (LogLevel.WARNING, ["dropped", "aborted"]),
        (LogLevel.ERROR, ["aborted"]),
    ],
)
def test_a_level_leaves_out_what_is_less(
    level: LogLevel, seen: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(LogFormat.JSON, level)
    observe = LogObserver("aggregator")
    for event in ("received", "joined", "dropped", "aborted"):
        observe(event, {})
    assert [line["event"] for line in lines(capsys.readouterr().err)] == seen


def test_the_console_form_has_the_same_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogFormat.CONSOLE)
    fields: Mapping[str, object] = {"party": "birch", "reason": "TIMEOUT"}
    LogObserver("aggregator")("dropped", fields)
    line = capsys.readouterr().err
    assert "dropped" in line
    assert "party=birch" in line
    assert "reason=TIMEOUT" in line


def test_the_older_options_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(as_json=True, debug=True)
    LogObserver("aggregator")("received", {"party": "birch"})
    (line,) = lines(capsys.readouterr().err)
    assert line["level"] == "debug"
    assert PartyId(1)
