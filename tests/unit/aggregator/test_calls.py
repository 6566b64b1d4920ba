"""Nobody holds more calls than its share, and nobody's share is another one's."""

import time
from collections.abc import Callable

import pytest

from collabedit.aggregator.calls import Call, CallKind, CallTable, RefusalLog
from collabedit.ids import PartyId

ONE, TWO = PartyId(1), PartyId(2)


class Cancelled:
    def __init__(self) -> None:
        self.names: list[str] = []

    def of(self, name: str) -> Callable[[Call], None]:
        return lambda _: self.names.append(name)


def test_a_second_call_of_a_kind_takes_the_place_of_the_first() -> None:
    table, cancelled = CallTable(), Cancelled()
    first = table.enter(ONE, CallKind.POLL, seconds=10, cancel=cancelled.of("first"))
    second = table.enter(ONE, CallKind.POLL, seconds=10, cancel=cancelled.of("second"))
    assert cancelled.names == ["first"]
    assert len(table) == 1
    assert not table.leave(first)
    assert len(table) == 1
    assert table.leave(second)
    assert len(table) == 0


def test_other_kinds_and_other_parties_keep_their_places() -> None:
    table, cancelled = CallTable(), Cancelled()
    for party in (ONE, TWO):
        for kind in CallKind:
            table.enter(party, kind, seconds=10, cancel=cancelled.of(f"{party} {kind}"))
    for _ in range(50):
        table.enter(ONE, CallKind.POLL, seconds=10, cancel=cancelled.of("again"))
    assert set(cancelled.names) == {f"1 {CallKind.POLL}", "again"}
    assert len(table) == 2 * len(CallKind)


def test_a_call_that_lasts_too_long_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    table, cancelled = CallTable(), Cancelled()
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    table.enter(ONE, CallKind.MESSAGE, seconds=10, cancel=cancelled.of("short"))
    table.enter(TWO, CallKind.STREAM, seconds=20, cancel=cancelled.of("long"))
    now = 109.0
    table.cancel_overdue()
    assert cancelled.names == []
    now = 111.0
    table.cancel_overdue()
    assert cancelled.names == ["short"]


def test_refusals_are_logged_up_to_a_limit_and_again_later() -> None:
    log = RefusalLog(limit=3, seconds=60)
    assert [log.admits(1000.0 + second) for second in range(5)] == [True] * 3 + [False] * 2
    assert log.admits(1060.0)
