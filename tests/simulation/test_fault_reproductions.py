"""What the fault simulation has found, cut down. Each was a defect, and stays a test."""

from tests.simulation.faults import ops
from tests.simulation.faults.campaign import play_afresh


def holds(scenario: ops.Scenario) -> None:
    result = play_afresh(scenario)
    assert result.finding is None, str(result.finding)


def test_nobody_is_called_late_in_a_round_that_too_few_can_survive() -> None:
    # Parties 2 and 5 advertise and leave, which leaves too few for any sum. The round was then
    # counted as if they were there: it went on, and party 4, who was in time, was told that it was
    # too late. The session ends for want of parties, and says so.
    holds(
        ops.Scenario(
            (
                ops.Join(2),
                ops.Join(5),
                ops.Join(3),
                ops.Flow(2),
                ops.Kill(3),
                ops.Leave(2),
                ops.Leave(5),
            ),
            parties=5,
            seed=26,
        )
    )
