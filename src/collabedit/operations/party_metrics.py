"""A party's metrics, gathered from its events and read when somebody asks.

They tell the party's own operator how far its session is. No edit, no number that depends on an
edit's content; seconds and bytes do depend on how many edits there are, so this page is for the
party alone.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import cast

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from collabedit.api.reporting import Wire
from collabedit.operations.metrics import counter, gauge
from collabedit.plan import Plan, format_digest

_TASK_ENDS = frozenset({"applied", "counted"})


class PartyCollector(Collector):
    """Observes one session at a party's end.

    Args:
        plan: the plan.
        name: the party's in it.
        phases: seconds of each phase of the command so far, the running one included.
    """

    def __init__(self, plan: Plan, name: str, *, phases: Callable[[], Mapping[str, float]]) -> None:
        self._plan = plan
        self._name = name
        self._phases = phases
        self._lock = threading.Lock()
        self._session = ""
        self._task = 0
        self._finished = 0
        self._state = "Preparing"
        self._states = {self._state}
        self.wire: Wire | None = None
        """Set once there is one."""

    def describe(self) -> list[Metric]:
        """Promise nothing: what there is, is known when it is read."""
        return []

    def observe(self, event: str, fields: Mapping[str, object]) -> None:
        """Take note of an event of the session."""
        with self._lock:
            self._session = str(fields.get("session", self._session))
            if "task" in fields:
                self._task = cast("int", fields["task"])
            if event in _TASK_ENDS:
                self._finished = self._task + 1
            elif event == "resumed":
                self._finished = self._task
            if "state" in fields:
                self._state = str(fields["state"])
                self._states.add(self._state)

    def collect(self) -> Iterator[Metric]:
        """Yield all families as they are now."""
        plan = self._plan
        with self._lock:
            session, task, finished = self._session, self._task, self._finished
            here, states = self._state, sorted(self._states)
        yield gauge(
            "collabedit_party_session_info",
            "Which session of which plan, and who we are in it; always 1.",
            ((session, self._name, plan.name, format_digest(plan.digest)), 1),
            labels=("session", "party", "plan", "plan_digest"),
        )
        yield gauge("collabedit_party_tasks", "Sums of the plan.", ((), len(plan.tasks)))
        yield gauge(
            "collabedit_party_finished_tasks", "Sums whose update was verified.", ((), finished)
        )
        yield gauge("collabedit_party_task", "Number of the current sum, from 0.", ((), task))
        yield gauge(
            "collabedit_party_round",
            "1 for the state that this party is in, 0 for those that it was in.",
            *(((name,), name == here) for name in states),
            labels=("round",),
        )
        yield counter(
            "collabedit_party_phase_seconds",
            "Seconds of the command's phases: load, targets, session, save.",
            *(((name,), seconds) for name, seconds in self._phases().items()),
            labels=("phase",),
        )
        wire = self.wire
        if wire is not None:
            yield counter(
                "collabedit_party_sent_bytes",
                "Bytes of messages and frames; without those of gRPC and TLS.",
                ((), wire.bytes_sent),
            )
            yield counter(
                "collabedit_party_received_bytes",
                "Bytes of messages and downloads; without those of gRPC and TLS.",
                ((), wire.bytes_received),
            )
