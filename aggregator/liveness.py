"""Who was heard of, and when: what decides that a round starves, and who still fetches the end.

SPEC 8. Times are of the monotonic clock, so a clock that is set does no harm.
"""

import time
from collections.abc import Collection, Iterable

from collabedit.ids import PartyId, TaskIndex
from collabedit.plan import Plan

LONGEST_POLL_SECONDS = 20.0
"""Longest hold of a long poll; well under the idle limits of common proxies (60 s)."""


class Liveness:
    """Last signs of life of each party.

    Args:
        plan: gives the limits, and says which task is voted on.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._contact: dict[PartyId, float] = {}
        self._finished: dict[PartyId, bool] = {}

    def hear(self, party: PartyId) -> None:
        """Note that a party called, or that its call is still open."""
        self._contact[party] = time.monotonic()

    def poll(self, party: PartyId, *, finished: bool) -> None:
        """Note that a party polls, and whether it needs anything more of the session."""
        self._finished[party] = finished

    def reachable(self) -> frozenset[PartyId]:
        """Return who polled lately and has not finished; the others will fetch nothing more."""
        since = time.monotonic() - LONGEST_POLL_SECONDS / 2 - 2.0
        return frozenset(
            party
            for party, finished in self._finished.items()
            if not finished and self._contact.get(party, 0.0) >= since
        )

    def expected_back(self, parties: Iterable[PartyId]) -> frozenset[PartyId]:
        """Return who of `parties` has not finished, after a restart in which nobody polled yet."""
        return frozenset(party for party in parties if not self._finished.get(party, False))

    def is_starved(
        self, position: tuple[TaskIndex, str], *, since: float, waiting: Collection[PartyId]
    ) -> bool:
        """Return whether a round is to be ended without those whom it waits for.

        Args:
            position: task and round.
            since: when the round began, on the monotonic clock.
            waiting: who could still answer.
        """
        task, round_name = position
        now = time.monotonic()
        timing = self._plan.timing
        limit = timing.round
        if round_name.startswith("r0"):
            limit = timing.compute if task else timing.join
        elif round_name in {"r3-contribute", "r5-decrypt"}:
            limit = timing.upload
        elif round_name.startswith("r6") and self._plan.is_voted(task):
            limit = timing.compute  # each party evaluates the model before it votes
        if now - since > limit:
            return True
        # Nobody is given up before it was ever seen: that is what the join deadline is for.
        return bool(waiting) and all(
            party in self._contact and now - max(self._contact[party], since) > timing.liveness
            for party in waiting
        )
