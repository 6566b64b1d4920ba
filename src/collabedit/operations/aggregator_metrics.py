"""The aggregator's metrics, read from its session when somebody asks."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.rounds import ROUNDS
from collabedit.aggregator.states import Dropout
from collabedit.aggregator.traffic import UPLOAD, Traffic
from collabedit.errors import AbortReason
from collabedit.ids import PartyId
from collabedit.operations.connections import open_connections
from collabedit.operations.disk import free_bytes, used_bytes
from collabedit.operations.metrics import counter, gauge
from collabedit.operations.progress import BUCKETS, SessionProgress, abort_reason
from collabedit.plan import format_digest

SILENT = "SILENT"
"""Reason of a party that was dropped without a word; the others are `AbortReason`s."""

PARTY_STATES = ("joined", "dropped", "awaited")
STATES = (*ROUNDS.values(), "completed", "aborted")


class AggregatorCollector(Collector):
    """Reads one session.

    Args:
        coordinator: the session.
        progress: observes it.
        traffic: counts its wire.
        state: directory of journal and spool.
        port: where it listens.
        reachable: who polled lately.
        is_serving: whether it takes new calls.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        progress: SessionProgress,
        traffic: Traffic,
        *,
        state: Path,
        port: int,
        reachable: Callable[[], frozenset[PartyId]],
        is_serving: Callable[[], bool],
    ) -> None:
        self._coordinator = coordinator
        self._progress = progress
        self._traffic = traffic
        self._state = state
        self._port = port
        self._reachable = reachable
        self._is_serving = is_serving

    def describe(self) -> list[Metric]:
        """Promise nothing: what there is, is known when it is read."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all families as they are now."""
        yield from self._session()
        yield from self._parties()
        yield from self._wire()
        yield from self._disk()

    def _session(self) -> Iterator[Metric]:
        coordinator, progress = self._coordinator, self._progress
        plan = coordinator.plan
        yield gauge(
            "collabedit_aggregator_session_info",
            "Which session of which plan; always 1.",
            ((coordinator.session_id.hex()[:16], plan.name, format_digest(plan.digest)), 1),
            labels=("session", "plan", "plan_digest"),
        )
        yield gauge(
            "collabedit_aggregator_session_start_time_seconds",
            "Unix time at which this process took up the session.",
            ((), progress.started),
        )
        yield gauge(
            "collabedit_aggregator_serving",
            "Whether the aggregator takes new calls: 0 while it drains.",
            ((), self._is_serving()),
        )
        yield gauge("collabedit_aggregator_tasks", "Sums of the plan.", ((), len(plan.tasks)))
        yield gauge(
            "collabedit_aggregator_finished_tasks",
            "Sums that were opened, merged and verified.",
            ((), len(coordinator.records)),
        )
        task, here = coordinator.position
        yield gauge("collabedit_aggregator_task", "Number of the current sum, from 0.", ((), task))
        yield gauge(
            "collabedit_aggregator_round",
            "1 for the round that the session is in, or for how it ended.",
            *(((name,), name == here) for name in STATES),
            labels=("round",),
        )
        yield gauge(
            "collabedit_aggregator_round_age_seconds",
            "How long the current round has been going on.",
            ((), progress.round_seconds),
        )
        phases = HistogramMetricFamily(
            "collabedit_aggregator_phase_seconds",
            "Seconds of finished rounds, by name.",
            labels=("phase",),
        )
        for name, times in sorted(progress.phases().items()):
            below = [sum(times.counts[: i + 1]) for i in range(len(times.counts))]
            bounds = [*map(str, BUCKETS), "+Inf"]
            phases.add_metric(
                (name,), list(zip(bounds, below, strict=True)), sum_value=times.seconds
            )
        yield phases
        reason = abort_reason(coordinator)
        yield counter(
            "collabedit_aggregator_aborts",
            "Sessions that ended early, by reason.",
            *(((each.name,), each is reason) for each in AbortReason),
            labels=("reason",),
        )

    def _parties(self) -> Iterator[Metric]:
        coordinator, plan = self._coordinator, self._coordinator.plan
        dropouts = coordinator.dropouts
        dropped = {dropout.party for dropout in dropouts}
        joined = self._progress.joined
        states = {
            party: "dropped"
            if party in dropped
            else "joined"
            if plan.party_name(party) in joined
            else "awaited"
            for party in plan.party_ids
        }
        yield gauge(
            "collabedit_aggregator_parties",
            "Parties of the plan: joined this process and not dropped, dropped, or neither.",
            *(((name,), list(states.values()).count(name)) for name in PARTY_STATES),
            labels=("state",),
        )
        yield gauge(
            "collabedit_aggregator_party_joined",
            "Whether a party, by its name in the plan, joined this process and is in the session.",
            *(((plan.party_name(party),), state == "joined") for party, state in states.items()),
            labels=("party",),
        )
        yield gauge(
            "collabedit_aggregator_reachable_parties",
            "Parties that polled in the last seconds and still need something.",
            ((), len(self._reachable())),
        )
        yield gauge(
            "collabedit_aggregator_waiting_parties",
            "Parties that the current round still waits for.",
            ((), len(coordinator.waiting_for)),
        )
        gone = Counter(
            (each.round, each.reason.name if each.reason else SILENT) for each in dropouts
        )
        yield counter(
            "collabedit_aggregator_dropouts",
            "Parties that were dropped, by round and by what they said.",
            *sorted(gone.items()),
            labels=("round", "reason"),
        )
        yield counter(
            "collabedit_aggregator_logged_refusals",
            "Calls that were refused, as far as the log has them, by class of error.",
            *(((error,), count) for error, count in sorted(self._progress.refused.items())),
            labels=("error",),
        )

    def _wire(self) -> Iterator[Metric]:
        methods = sorted(self._traffic.methods().items())
        yield counter(
            "collabedit_aggregator_received_bytes",
            "Bytes of messages of parties, by method; without those of gRPC and TLS.",
            *(((name,), each.received_bytes) for name, each in methods),
            labels=("method",),
        )
        yield counter(
            "collabedit_aggregator_sent_bytes",
            "Bytes of answers, by method; without those of gRPC and TLS.",
            *(((name,), each.sent_bytes) for name, each in methods),
            labels=("method",),
        )
        frames = sum(each.received_messages for name, each in methods if name == UPLOAD)
        yield counter(
            "collabedit_aggregator_received_frames",
            "Frames of uploads, those that were sent again included.",
            ((), frames),
        )
        yield counter(
            "collabedit_aggregator_calls",
            "Calls that ended, by method and gRPC status.",
            *(
                ((name, code), count)
                for name, each in methods
                for code, count in sorted(each.ended.items())
            ),
            labels=("method", "code"),
        )
        yield gauge(
            "collabedit_aggregator_open_calls",
            "Calls that are being served, by method.",
            *(((name,), each.is_open) for name, each in methods),
            labels=("method",),
        )
        connections = open_connections(self._port)
        if connections is not None:
            yield gauge(
                "collabedit_aggregator_open_connections",
                "Established TCP connections to the parties' port, those of strangers included.",
                ((), connections),
            )

    def _disk(self) -> Iterator[Metric]:
        yield gauge(
            "collabedit_aggregator_state_bytes",
            "Bytes of all files in the state directory.",
            ((), used_bytes(self._state)),
        )
        free = free_bytes(self._state)
        if free is not None:
            yield gauge(
                "collabedit_aggregator_state_free_bytes",
                "Bytes left on the state directory's disk.",
                ((), free),
            )


def _reason(dropout: Dropout) -> str:
    return SILENT if dropout.reason is None else dropout.reason.name
