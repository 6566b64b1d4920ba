"""The first few hundred scenarios of the fault simulation; `make fault-simulation` plays more."""

import pytest

from tests.simulation.faults.campaign import play_afresh
from tests.simulation.faults.generate import scenario
from tests.simulation.faults.ops import Deliver, Join, Kill, Op, Scenario
from tests.simulation.faults.shrink import shrink
from tests.simulation.faults.world import Result

BATCH = 20


@pytest.mark.parametrize("first", range(0, 200, BATCH))
def test_no_rule_is_broken(first: int) -> None:
    for seed in range(first, first + BATCH):
        result = play_afresh(scenario(seed))
        assert result.finding is None, f"scenario {seed}: {result.finding}"


@pytest.mark.parametrize("counts", [False, True])
def test_a_calm_session_opens_every_sum(counts: bool) -> None:
    result = play_afresh(Scenario((), parties=5, tasks=2, counts=counts))
    assert result.finding is None
    assert result.counts["exact sums"] == 2 + counts
    assert result.counts["end, aggregator honest: Completed"] == 1


def test_the_same_number_gives_the_same_session() -> None:
    first, second = (play_afresh(scenario(11)) for _ in range(2))
    assert first.counts == second.counts
    assert scenario(11) == scenario(11) != scenario(12)


def test_shrinking_keeps_only_what_matters() -> None:
    noise: tuple[Op, ...] = tuple(Deliver(i) for i in range(40))
    ops = (*noise[:20], Kill(2), *noise[20:30], Join(3), *noise[30:])

    def fails(wanted: Scenario) -> bool:
        return Kill(2) in wanted.ops and Join(3) in wanted.ops

    assert shrink(Scenario(ops, tasks=2), fails).ops == (Kill(2), Join(3))
    assert isinstance(play_afresh(Scenario(ops)), Result)
