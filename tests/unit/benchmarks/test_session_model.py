"""Seconds and bytes of a task, against what can be computed by hand, and counted messages."""

from dataclasses import replace

import pytest
from plans import create_identities, create_plan
from session_model import (
    MANY,
    Computing,
    Phase,
    Site,
    Task,
    disk,
    on_one_machine,
    paper_upload,
    wall,
)
from star import GOODPUT, Link
from traffic import Round, control_bytes, count
from unit_costs import Fit, Shape

FAST = 1e15


def site(links: list[Link], *, bits: float = FAST, cores: int = 1, disk: float = FAST) -> Site:
    return Site(links=links, bits=bits, party_cores=1, cores=cores, disk=disk)


def uploading(parties: int, **changes: float) -> Phase:
    phase = Phase("upload", up=GOODPUT * 1e6, senders=parties, threads=MANY, streams=True)
    return replace(phase, **changes)  # type: ignore[arg-type]


def test_an_upload_over_one_link_takes_its_size_over_the_rate_and_the_latency() -> None:
    # A megabyte on the line at 8 Mbit/s, half a round trip later; the window covers the link.
    assert wall(uploading(1), site([Link(8e6, 0.01)])) == pytest.approx(1.005)


def test_equal_parties_share_the_line_of_the_aggregator() -> None:
    assert wall(uploading(20), site([Link(8e6, 0.0)] * 20, bits=80e6)) == pytest.approx(2.0)


def test_a_straggler_holds_everybody_up() -> None:
    links = [Link(0.8e6, 0.0), *[Link(8e6, 0.0)] * 19]
    assert wall(uploading(20), site(links)) == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("changes", "machine", "seconds"),
    [
        ({"party": 3.0}, {}, 3.0),
        ({"aggregator": 8.0}, {"cores": 2}, 4.0),
        ({}, {"disk": GOODPUT * 4e6}, 5.0),
        ({"waits": 60.0}, {}, 60.0),
    ],
)
def test_the_slowest_thing_decides_an_upload(
    changes: dict[str, float], machine: dict[str, float], seconds: float
) -> None:
    links = [Link(8e6, 0.0)] * 20
    assert wall(uploading(20, **changes), site(links, **machine)) == pytest.approx(seconds)  # type: ignore[arg-type]


def test_a_round_is_work_and_a_way_there_and_back() -> None:
    size = GOODPUT * 1e3
    phase = Phase("r1", party=0.25, aggregator=0.5, up=size, down=2 * size, senders=1)
    assert wall(phase, site([Link(8e6, 0.02)], cores=8)) == pytest.approx(0.773)


def test_opening_waits_for_the_disk_or_the_processors() -> None:
    phase = Phase("open", aggregator=8.0, threads=4, reads=600.0)
    assert wall(phase, site([], cores=16, disk=100.0)) == pytest.approx(6.0)
    assert wall(phase, site([], cores=16, disk=1000.0)) == pytest.approx(2.0)
    assert wall(phase, site([], cores=1, disk=1000.0)) == pytest.approx(8.0)


def test_on_one_machine_all_work_is_shared_but_the_slowest_upload_is_waited_for() -> None:
    phase = Phase("upload", party=1.0, aggregator=2.0, up=100.0, senders=4, streams=True)
    assert on_one_machine(phase, cores=2) == pytest.approx(3.0)
    assert on_one_machine(phase, cores=2, rates=[10.0, 50.0]) == pytest.approx(10.0)


def task(parties: int, dropouts: int) -> Task:
    plan = create_plan(create_identities(parties), mapped=60, outputs=4, capacity=20)
    nothing = Computing(parties - 1, 0.0, 0.0, 0.0, 0.0)
    return Task(plan, "open", parties, dropouts, 1, {}, nothing)


def test_a_lost_party_leaves_its_masks_with_all_survivors() -> None:
    assert task(10, 0).masks_of_sum == 10
    assert task(10, 2).masks_of_sum == 8 + 2 * 8


def test_bytes_are_those_of_the_layout() -> None:
    assert task(10, 0).stored == 8 * 64 * 20
    assert task(10, 0).upload == 8 * 64 * 20 + 48
    # An update of rank 8 with its headers, as it would lie beside ten uploads.
    assert disk(task(10, 2)) - 10 * task(10, 2).stored == pytest.approx(8 * 8 * 64, abs=128)
    assert paper_upload(Shape(16384, 4096, 1)) == 2415919104


def test_control_messages_weigh_the_same_with_any_vector() -> None:
    small = count(5, closed=True, corruptions=None, dropouts=1)
    large = count(5, closed=True, corruptions=None, dropouts=1, mapped=40)
    assert small == large
    assert list(small) == [f"r{number}" for number in range(7)]
    assert small["r0"].messages == 10
    assert small["r6"].messages == 8
    assert control_bytes({"r0": Round(1, 2, 30, 4), "r1": Round(1, 2, 12, 4)}) == 42


def test_a_fit_finds_its_factors_and_says_what_it_misses() -> None:
    fit = Fit.of([(1.0, 1.0), (1.0, 2.0), (1.0, 4.0)], [5.0, 8.0, 14.0])
    assert fit.factors == pytest.approx((2.0, 3.0))
    assert fit.miss == pytest.approx(0.0, abs=1e-9)
    assert fit.at(1.0, 8.0) == pytest.approx(26.0)
    assert Fit.of([(1.0,), (1.0,)], [1.0, 2.0]).miss > 0.3
