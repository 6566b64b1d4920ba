"""The aggregator's metrics, read from its session when somebody asks."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from collabedit.aggregator.rounds import ROUNDS
from collabedit.aggregator.states import Dropout
from collabedit.errors import AbortReason
from collabedit.operations.connections import open_connections
from collabedit.operations.disk import free_bytes, used_bytes
from collabedit.operations.metrics import counter, gauge
from collabedit.operations.progress import BUCKETS, abort_reason
from collabedit.operations.watched import PARTY_STATES, Watched, received_frames
from collabedit.plan import format_digest

SILENT = "SILENT"
"""Reason of a party that was dropped without a word; the others are `AbortReason`s."""

STATES = (*ROUNDS.values(), "completed", "aborted")


class AggregatorCollector(Collector):
    """Reads one session.

    Args:
        watched: the session.
        state: directory of journal and spool.
        port: where it listens.
    """

    def __init__(self, watched: Watched, *, state: Path, port: int) -> None:
        self._watched = watched
        self._state = state
        self._port = port

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
        coordinator, progress = self._watched.coordinator, self._watched.progress
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
            ((), self._watched.is_serving()),
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
        coordinator, plan = self._watched.coordinator, self._watched.coordinator.plan
        states = self._watched.party_states()
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
            ((), len(self._watched.reachable())),
        )
        yield gauge(
            "collabedit_aggregator_waiting_parties",
            "Parties that the current round still waits for.",
            ((), len(coordinator.waiting_for)),
        )
        gone = Counter((each.round, _reason(each)) for each in coordinator.dropouts)
        yield counter(
            "collabedit_aggregator_dropouts",
            "Parties that were dropped, by round and by what they said.",
            *sorted(gone.items()),
            labels=("round", "reason"),
        )
        yield counter(
            "collabedit_aggregator_logged_refusals",
            "Calls that were refused, as far as the log has them, by class of error.",
            *(((error,), count) for error, count in sorted(self._watched.progress.refused.items())),
            labels=("error",),
        )

    def _wire(self) -> Iterator[Metric]:
        methods = sorted(self._watched.traffic.methods().items())
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
        yield counter(
            "collabedit_aggregator_received_frames",
            "Frames of uploads, those that were sent again included.",
            ((), received_frames(dict(methods))),
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
