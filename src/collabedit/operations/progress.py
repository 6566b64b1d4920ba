"""What happened in a session at the aggregator so far, gathered from its events.

`SessionProgress.observe` is one more observer of the coordinator (`aggregator.reporting`): it is
called under the session's lock and only keeps numbers. Everything is bounded by the plan: rounds by
its tasks, parties by its names.
"""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from collabedit.aggregator import states as s
from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.reporting import Observer
from collabedit.errors import AbortReason

BUCKETS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0)
"""Upper bounds of a round's seconds: from a message among few parties to an hour's upload."""


@dataclass(frozen=True, slots=True)
class RoundTime:
    """A round that this process saw.

    Attributes:
        task: its task.
        name: as in `aggregator.rounds`.
        started: Unix seconds.
        seconds: how long it took; None while it goes on.
    """

    task: int
    name: str
    started: float
    seconds: float | None = None


@dataclass(slots=True)
class PhaseTimes:
    """Seconds of all finished rounds of one name, by `BUCKETS` and one beyond."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one round."""
        self.counts[sum(seconds > bound for bound in BUCKETS)] += 1
        self.seconds += seconds


class SessionProgress:
    """Rounds with their times, who joined, and what was refused. Safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rounds: list[RoundTime] = []
        self._entered = time.monotonic()
        self._phases: dict[str, PhaseTimes] = {}
        self._joined: set[str] = set()
        self._refused: Counter[str] = Counter()
        self.started = time.time()
        """Unix seconds at which this process took up the session."""
        self.resumed = False
        """Whether an earlier process began the session: its rounds' times are not known here."""

    def observe(self, event: str, fields: Mapping[str, object]) -> None:
        """Take note of an event of the coordinator."""
        with self._lock:
            match event:
                case "round-started":
                    self._enter(cast("int", fields["task"]), str(fields["round"]))
                case "resumed":
                    self.resumed = True
                    # It begins anew: its deadline does, too.
                    self._rounds.clear()
                    self._enter(cast("int", fields["task"]), str(fields["round"]))
                case "task-finished" | "aborted":
                    self._leave()
                case "joined":
                    self._joined.add(str(fields["party"]))
                case "refused":
                    self._refused[str(fields["error"])] += 1

    def before(self, observer: Observer) -> Observer:
        """Return an observer that takes note, and then tells `observer`."""

        def both(event: str, fields: Mapping[str, object]) -> None:
            self.observe(event, fields)
            observer(event, fields)

        return both

    def _leave(self) -> None:
        if self._rounds and self._rounds[-1].seconds is None:
            last = self._rounds[-1]
            seconds = time.monotonic() - self._entered
            self._rounds[-1] = RoundTime(last.task, last.name, last.started, seconds)
            self._phases.setdefault(last.name, PhaseTimes()).add(seconds)

    def _enter(self, task: int, name: str) -> None:
        self._leave()
        self._entered = time.monotonic()
        self._rounds.append(RoundTime(task, name, time.time()))

    @property
    def rounds(self) -> tuple[RoundTime, ...]:
        """Rounds in their order, the current one last."""
        with self._lock:
            return tuple(self._rounds)

    @property
    def round_seconds(self) -> float:
        """How long the current round has been going on; 0 after the end."""
        with self._lock:
            if not self._rounds or self._rounds[-1].seconds is not None:
                return 0.0
            return time.monotonic() - self._entered

    def phases(self) -> dict[str, PhaseTimes]:
        """Return a copy of the times of finished rounds, by name."""
        with self._lock:
            return {
                name: PhaseTimes(list(times.counts), times.seconds)
                for name, times in self._phases.items()
            }

    @property
    def joined(self) -> frozenset[str]:
        """Names of the parties that entered since this process took up the session."""
        with self._lock:
            return frozenset(self._joined)

    @property
    def refused(self) -> Counter[str]:
        """Refused calls that were worth a line in the log, by class of error."""
        with self._lock:
            return self._refused.copy()


def abort_reason(coordinator: Coordinator) -> AbortReason | None:
    """Return why the session ended early, None if it did not."""
    state = coordinator.state
    return state.reason if isinstance(state, s.Aborted) else None
