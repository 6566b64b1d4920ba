"""What the two ends' metrics share: a registry of our own, build information, the page.

Names follow Prometheus' conventions: prefix `collabedit_`, base units (`_seconds`, `_bytes`),
`_total` for counters. Labels are bounded: rounds, reasons, methods and status codes are closed
lists, and the only names are those of the plan, which is public among all who may see this page.
"""

import platform
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from collabedit import __version__
from collabedit.operations.web import Page
from collabedit.proto.messages import PROTOCOL_VERSION


def gauge(
    name: str, text: str, *values: tuple[tuple[str, ...], float], labels: tuple[str, ...] = ()
) -> Metric:
    """Return a gauge with one value for each tuple of labels."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family


def counter(
    name: str, text: str, *values: tuple[tuple[str, ...], float], labels: tuple[str, ...] = ()
) -> Metric:
    """Return a counter, likewise; its samples end in `_total`."""
    family = CounterMetricFamily(name, text, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family


class BuildCollector(Collector):
    """Says which build runs."""

    def collect(self) -> Iterator[Metric]:
        """Yield the one family."""
        version = (__version__, str(PROTOCOL_VERSION), platform.python_version())
        yield gauge(
            "collabedit_build_info",
            "Version of the package, of the protocol and of Python; always 1.",
            (version, 1),
            labels=("version", "protocol", "python"),
        )


class MetricsPage:
    """The page that a Prometheus scrapes, of these collectors and of the process itself."""

    def __init__(self, *collectors: Collector) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        for collector in (BuildCollector(), *collectors):
            self._registry.register(collector)

    def __call__(self) -> Page:
        """Return the page as it is now."""
        return Page(CONTENT_TYPE_PLAIN_0_0_4, generate_latest(self._registry))
