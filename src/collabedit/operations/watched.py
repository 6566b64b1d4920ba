"""What metrics and pages read: a session, what was noted of it, its wire, and its server."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias, get_args

from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.service import AggregatorServer
from collabedit.aggregator.traffic import UPLOAD, MethodTraffic, Traffic
from collabedit.ids import PartyId
from collabedit.operations.progress import SessionProgress

PartyState: TypeAlias = Literal["joined", "dropped", "awaited"]
PARTY_STATES: tuple[PartyState, ...] = get_args(PartyState)


@dataclass(frozen=True, slots=True)
class Watched:
    """One session at the aggregator.

    Attributes:
        coordinator: the session.
        progress: observes it.
        traffic: counts its wire.
        reachable: who polled lately.
        is_serving: whether it takes new calls.
    """

    coordinator: Coordinator
    progress: SessionProgress
    traffic: Traffic
    reachable: Callable[[], frozenset[PartyId]]
    is_serving: Callable[[], bool]

    @classmethod
    def at(
        cls,
        server: AggregatorServer,
        coordinator: Coordinator,
        progress: SessionProgress,
        traffic: Traffic,
    ) -> Self:
        """Watch a session where it is served."""
        return cls(
            coordinator,
            progress,
            traffic,
            reachable=lambda: server.reachable,
            is_serving=lambda: server.is_serving,
        )

    def party_states(self) -> dict[PartyId, PartyState]:
        """Return of each party whether it is dropped, joined this process, or neither."""
        plan, joined = self.coordinator.plan, self.progress.joined
        dropped = {dropout.party for dropout in self.coordinator.dropouts}

        def state(party: PartyId) -> PartyState:
            if party in dropped:
                return "dropped"
            return "joined" if plan.party_name(party) in joined else "awaited"

        return {party: state(party) for party in sorted(plan.party_ids)}


def received_frames(methods: dict[str, MethodTraffic]) -> int:
    """Count frames of uploads, those that were sent again included."""
    return sum(each.received_messages for name, each in methods.items() if name == UPLOAD)
