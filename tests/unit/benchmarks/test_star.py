"""Transfers over a star of links, against what can be computed by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from star import FIRST_WINDOW, GOODPUT, WINDOW, Flow, Link, fair_shares, finish

MEGABYTE = 1e6


def test_one_party_takes_size_over_rate_from_its_start() -> None:
    assert finish([Flow(0.5, 100 * MEGABYTE, 10 * MEGABYTE)]) == [pytest.approx(10.5)]


def test_equal_parties_share_what_they_cannot_all_have() -> None:
    flows = [Flow(0.0, 8 * MEGABYTE, 10 * MEGABYTE)] * 25
    assert finish(flows, capacity=50 * MEGABYTE) == [pytest.approx(25 * 8 / 50)] * 25


def test_parties_do_not_notice_each_other_below_the_capacity() -> None:
    flows = [Flow(0.0, 8 * MEGABYTE, 2 * MEGABYTE)] * 25
    assert finish(flows, capacity=50 * MEGABYTE) == [pytest.approx(4.0)] * 25


def test_others_take_what_a_straggler_leaves() -> None:
    # Nine at 11 beside one at 1 fill a line of 100; the straggler has it alone afterwards.
    flows = [*[Flow(0.0, 110.0, 20.0)] * 9, Flow(0.0, 100.0, 1.0)]
    assert finish(flows, capacity=100.0) == [*[pytest.approx(10.0)] * 9, pytest.approx(100.0)]


def test_rates_change_when_somebody_comes_and_goes() -> None:
    # Alone at 10 until 2, at 5 until both have 5 x 6 = 30 more: 50 = 20 + 30, then 10 again.
    flows = [Flow(0.0, 50.0, 10.0), Flow(2.0, 40.0, 10.0)]
    assert finish(flows, capacity=10.0) == [pytest.approx(8.0), pytest.approx(9.0)]


def test_nothing_to_send_is_done_at_once() -> None:
    assert finish([Flow(3.0, 0.0, 1.0), Flow(0.0, 2.0, 1.0)], capacity=1.0) == [3.0, 2.0]


@given(
    st.lists(
        st.tuples(st.floats(0, 10), st.floats(1, 1e3), st.floats(0.1, 50)), min_size=1, max_size=12
    ),
    st.floats(1, 100),
)
def test_no_line_carries_more_than_it_can(
    drawn: list[tuple[float, float, float]], capacity: float
) -> None:
    flows = [Flow(*values) for values in drawn]
    ends = finish(flows, capacity=capacity)
    for flow, end in zip(flows, ends, strict=True):
        assert end >= flow.start + flow.size / min(flow.rate, capacity) - 1e-6
    total = sum(flow.size for flow in flows)
    assert max(ends) >= min(flow.start for flow in flows) + total / capacity - 1e-6
    # Work is conserved: nobody waits longer than if all went one after the other, alone.
    assert max(ends) <= 10 + sum(f.size / min(f.rate, capacity) for f in flows) + 1e-6


def test_shares_add_up_and_favour_nobody() -> None:
    assert fair_shares([1.0, 9.0, 9.0], 11.0) == [1.0, 5.0, 5.0]
    assert fair_shares([3.0, 3.0], math.inf) == [3.0, 3.0]
    assert fair_shares([], 1.0) == []


def test_a_near_link_has_its_line_and_a_distant_one_its_window() -> None:
    assert Link(100e6, 0.0).rate == pytest.approx(100e6 / 8 * GOODPUT)
    assert Link(100e6, 0.005).rate == pytest.approx(100e6 / 8 * GOODPUT)
    assert Link(10e9, 0.2).rate == pytest.approx(WINDOW / 0.2)


def test_slow_start_loses_round_trips_until_the_window_covers_the_link() -> None:
    link = Link(8 * 8 * FIRST_WINDOW / GOODPUT, 1.0)  # 8 first windows a second, one in flight
    # Windows of 1, 2 and 4 leave 7/8, 6/8 and 4/8 of their round trips idle, then 8 fill them.
    assert link.slow_start(100 * FIRST_WINDOW) == pytest.approx(7 / 8 + 6 / 8 + 4 / 8)
    assert link.slow_start(2 * FIRST_WINDOW) == pytest.approx(7 / 8)
    assert link.slow_start(FIRST_WINDOW) == 0.0
    assert Link(1e9, 0.0).slow_start(1e9) == 0.0
