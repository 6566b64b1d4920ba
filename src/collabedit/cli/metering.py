"""A party's metrics, fed by what its session reports."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from collabedit.api.reporting import Wire
from collabedit.cli.console import ConsoleReporter
from collabedit.cli.logs import LogObserver
from collabedit.cli.web import served_pages
from collabedit.plan import Plan

if TYPE_CHECKING:
    from collabedit.operations.party_metrics import PartyCollector


class MeteredReporter(ConsoleReporter):
    """Tells the person and the log, and counts if somebody wants metrics.

    Args:
        plan: the plan.
        name: the party's in it.
    """

    def __init__(self, plan: Plan, name: str) -> None:
        super().__init__(LogObserver(name))
        self._plan = plan
        self._name = name
        self._phases: Callable[[], Mapping[str, float]] = dict
        self._collector: PartyCollector | None = None

    @contextmanager
    def served(
        self, address: str | None, *, names: list[str] | None, is_remote: bool
    ) -> Iterator[None]:
        """Serve the party's metrics while the context lasts, if there is an address.

        Raises:
            InputError: see `served_pages`.
        """
        if address is None:
            yield
            return
        from collabedit.operations.metrics import MetricsPage
        from collabedit.operations.party_metrics import PartyCollector

        self._collector = PartyCollector(self._plan, self._name, phases=self._seconds)
        pages = {"--metrics": (address, {"/metrics": MetricsPage(self._collector)})}
        with served_pages(pages, names=names, is_remote=is_remote, observe=self.observe):
            yield

    def observe(self, event: str, fields: Mapping[str, object]) -> None:
        """Log an event, and count it."""
        if self._collector is not None:
            self._collector.observe(event, fields)
        super().observe(event, fields)

    def follow(self, phases: Callable[[], Mapping[str, float]]) -> None:
        """Count the seconds of phases."""
        self._phases = phases

    def _seconds(self) -> Mapping[str, float]:
        return self._phases()

    def connect(self, wire: Wire) -> None:
        """Count the bytes of the wire."""
        if self._collector is not None:
            self._collector.wire = wire
