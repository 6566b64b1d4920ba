"""Whole sessions between network namespaces, over links that are slow, lossy or cut.

Every end is a process in a namespace of its own (`lab`). A session that finishes must open exactly
the sums that the in-memory simulation opens over the same edits: bit by bit, for a sum depends on
what was contributed and on nothing that happened on the way.
"""

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.network.conftest import Record
from tests.network.lab import Shape
from tests.network.session import HUB_END, PATIENCE, TIMING, Session, expected_sums, party_end

pytestmark = [pytest.mark.network, pytest.mark.timeout(600)]

CUT_SECONDS = 4.0
SLOW = Shape(delay=0.1, up=256_000, down=1_000_000)
"""100 ms each way: a round trip takes 200 ms."""

GRACE_SECONDS = 25.0
"""What two busy cores add to a deadline: processes that start, a last poll that runs out."""

Open = Callable[..., Session]


@pytest.fixture
def open_session(tmp_path: Path, mechanism: str) -> Open:
    def start(parties: int, shape: Shape | None = None, *, patience: float = PATIENCE) -> Session:
        ends = [HUB_END, *(party_end(party) for party in range(1, parties + 1))]
        shapes = {} if shape is None else dict.fromkeys(ends[1:], shape)
        return Session(tmp_path, parties, mechanism, shapes, patience)

    return start


def check(session: Session, record: Record, seconds: float, *, lost: int | None = None) -> None:
    """Hold everybody's sums against the simulation's and write the row."""
    finished = [party for party in session.party_numbers if party != lost]
    want = expected_sums(session.federation, session.directory / "simulated", lost=lost)
    tasks = {party: session.tasks(party) for party in finished}
    equal = all([task["sum_digest"] for task in own] == want for own in tasks.values())
    names = [session.name(party) for party in finished]
    survivors = [task["survivors"] for own in tasks.values() for task in own]
    record(
        outcome="finished",
        parties=session.parties,
        survivors=len(finished),
        seconds=round(seconds, 1),
        bytes_sent=[session.last(party)["bytes"] for party in finished],
        sums_equal=equal,
    )
    assert equal
    assert all(present == names for present in survivors)
    assert session.aggregator.process.wait(60) == 0


@pytest.mark.parametrize(
    "shape",
    [
        Shape(delay=0.2),
        Shape(delay=0.01, loss=0.02),
        Shape(delay=0.02, up=256_000),
        Shape(delay=0.1, loss=0.01, up=256_000, down=1_000_000),
    ],
    ids=["delay-200ms", "loss-2pct", "uplink-256kbit", "all-at-once"],
)
def test_a_bad_link_costs_time_and_nothing_else(
    open_session: Open, record: Record, shape: Shape
) -> None:
    with open_session(4, shape) as session:
        check(session, record, session.wait())
        first, last = session.running[1].events[0], session.last(1)
        # Seven rounds of each of two tasks cannot be quicker than the link: it is really there.
        moments = [dt.datetime.fromisoformat(event["timestamp"]) for event in (first, last)]
        assert (moments[1] - moments[0]).total_seconds() > 14 * shape.delay


ROUNDS: dict[str, tuple[str, dict[str, object]]] = {
    "r0": ("state", {"state": "AwaitingRoster"}),
    "r1": ("state", {"state": "AwaitingShares"}),
    "r3": ("uploading", {"task": 0}),
    "r5": ("state", {"state": "AwaitingRelease"}),
}


@pytest.mark.parametrize("round_name", ROUNDS)
def test_a_party_whose_link_was_cut_is_in_the_sum(
    open_session: Open, record: Record, round_name: str
) -> None:
    event, fields = ROUNDS[round_name]
    with open_session(4, SLOW) as session:
        session.running[2].await_event(event, **fields)
        if round_name == "r3":
            time.sleep(1.0)  # of the four seconds that its upload takes
        with session.lab.cut_for(party_end(2)):
            time.sleep(CUT_SECONDS)
            # It hit: nobody has the party's answer of this round.
            assert not session.aggregator.has(
                "received", party="party-2", task=0, round=round_name
            ), session.aggregator.log.read_text()
        check(session, record, session.wait())


def test_the_rest_of_five_goes_on_without_a_party_that_is_gone(
    open_session: Open, record: Record
) -> None:
    with open_session(5, SLOW, patience=15.0) as session:
        session.running[2].await_event("uploading", task=0)
        time.sleep(1.0)
        session.lab.cut(party_end(2))
        cut = time.monotonic()
        rest = [party for party in session.party_numbers if party != 2]
        for party in rest:
            session.running[party].await_event("state", state="AwaitingSurvivorConfirmations")
        waited = time.monotonic() - cut
        record(seconds_until_given_up=round(waited, 1))
        # A poll that was under way counts as a sign of life until it runs out.
        assert waited < TIMING["liveness"] + TIMING["liveness"] / 3 + GRACE_SECONDS
        seconds = session.wait(rest)
        session.running[2].process.wait(TIMING["liveness"] + 120)
        check(session, record, seconds, lost=2)
        assert session.last(2)["event"] == "failed"
        assert session.last(2)["rolled_back"]


def test_two_of_three_are_too_few(open_session: Open, record: Record) -> None:
    with open_session(3, SLOW, patience=15.0) as session:
        session.running[2].await_event("uploading", task=0)
        time.sleep(1.0)
        session.lab.cut(party_end(2))
        cut = time.monotonic()
        seconds = session.wait([1, 3])
        waited = time.monotonic() - cut
        record(outcome="aborted", parties=3, seconds=round(seconds, 1))
        record(seconds_until_given_up=round(waited, 1))
        for party in (1, 3):
            assert session.last(party)["event"] == "failed"
            assert session.last(party)["why"].startswith("BELOW_THRESHOLD")
            assert session.last(party)["rolled_back"]
        assert waited < TIMING["liveness"] + TIMING["liveness"] / 3 + GRACE_SECONDS
        assert session.aggregator.process.wait(60) == 5


def test_an_aggregator_whose_link_was_cut_loses_nobody(open_session: Open, record: Record) -> None:
    with open_session(4, SLOW) as session:
        session.running[2].await_event("uploading", task=0)
        time.sleep(1.0)
        with session.lab.cut_for(HUB_END):
            time.sleep(CUT_SECONDS)
            assert not session.aggregator.has("round-closed")
        check(session, record, session.wait())


@pytest.mark.parametrize("round_name", ["r1", "r3", "r5"])
def test_an_aggregator_that_was_killed_resumes(
    open_session: Open, record: Record, round_name: str
) -> None:
    event, fields = ROUNDS[round_name]
    with open_session(4, SLOW) as session:
        session.running[2].await_event(event, **fields)
        time.sleep(1.0 if round_name == "r3" else 0.0)
        session.aggregator.kill()
        time.sleep(1.0)
        session.start_aggregator()
        assert session.aggregator.has("resumed")
        check(session, record, session.wait())


def test_a_link_that_flaps_through_a_whole_session(open_session: Open, record: Record) -> None:
    with open_session(3, SLOW) as session:
        cuts = 0
        while session.running[2].process.poll() is None:
            with session.lab.cut_for(party_end(2)):
                time.sleep(1.0)
            cuts += 1
            time.sleep(4.0)
        record(cuts=cuts)
        assert cuts >= 3
        check(session, record, session.wait())
