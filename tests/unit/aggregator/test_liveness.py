"""How long a round may last, by the plan's timing and by what the round is for."""

import time

import pytest

from collabedit.aggregator.liveness import Liveness
from collabedit.ids import PartyId, TaskIndex
from tests.support.federations import build_federation

PLAIN = build_federation(3, layers=2).plan
VOTED = build_federation(3, layers=2, votes=3).plan
FIRST, LAST = TaskIndex(0), TaskIndex(1)


@pytest.mark.parametrize(
    ("plan", "task", "round_name", "limit"),
    [
        (PLAIN, FIRST, "r0-advertise", PLAIN.timing.join),
        (PLAIN, LAST, "r0-advertise", PLAIN.timing.compute),
        (PLAIN, LAST, "r3-contribute", PLAIN.timing.upload),
        (PLAIN, LAST, "r6-verify", PLAIN.timing.round),
        (VOTED, FIRST, "r6-verify", VOTED.timing.round),
        (VOTED, LAST, "r5-unmask", VOTED.timing.round),
        # Parties evaluate the model in there.
        (VOTED, LAST, "r6-verify", VOTED.timing.compute),
    ],
)
def test_a_round_may_last_as_long_as_the_plan_says(
    plan: object, task: TaskIndex, round_name: str, limit: float
) -> None:
    assert plan in {PLAIN, VOTED}
    liveness = Liveness(VOTED if plan == VOTED else PLAIN)
    waiting = [PartyId(1)]
    now = time.monotonic()
    for age, starved in ((limit - 5, False), (limit + 5, True)):
        liveness.hear(PartyId(1))
        position = (task, round_name)
        assert liveness.is_starved(position, since=now - age, waiting=waiting) is starved


def test_a_silent_voter_is_given_up_long_before_the_deadline() -> None:
    liveness = Liveness(VOTED)
    now = time.monotonic()
    liveness.hear(PartyId(1))
    liveness._contact[PartyId(1)] = now - VOTED.timing.liveness - 1
    position = (LAST, "r6-verify")
    since = now - VOTED.timing.liveness - 2
    assert liveness.is_starved(position, since=since, waiting=[PartyId(1)])
