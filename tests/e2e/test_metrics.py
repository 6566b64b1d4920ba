"""Metrics of both ends, scraped while a real session runs over gRPC."""

import http.client
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from collabedit.aggregator.rounds import ROUNDS
from collabedit.aggregator.service import AggregatorServer
from collabedit.aggregator.traffic import Traffic
from collabedit.editing import Layer
from collabedit.errors import AbortReason
from collabedit.ids import PartyId, TaskIndex
from collabedit.operations.aggregator_metrics import AggregatorCollector
from collabedit.operations.metrics import MetricsPage
from collabedit.operations.party_metrics import PartyCollector
from collabedit.operations.progress import SessionProgress
from collabedit.operations.watched import Watched
from collabedit.operations.web import WebServer
from collabedit.plan import Plan, Timing
from collabedit.sketch import Matrix
from tests.support.federations import TestFederation, build_federation
from tests.support.networks import MatrixEditor, Network, client_tls

ROOT = Path(__file__).parents[2]


def scrape(server: WebServer) -> dict[str, Metric]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    text = answer.read().decode()
    connection.close()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(re.findall("^# TYPE ", text, re.MULTILINE)) == len(families)
    assert text.count("# HELP ") == len(families)
    return families


def value(families: Mapping[str, Metric], name: str, **labels: str) -> float:
    (found,) = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return found


def timed(federation: TestFederation, **seconds: float) -> TestFederation:
    timing = Timing(**{"join": 6.0, "compute": 6.0, "round": 6.0, "liveness": 3.0, **seconds})
    plan = Plan.model_validate({**federation.plan.model_dump(), "timing": timing.model_dump()})
    return TestFederation(plan, federation.identities, federation.edits)


@contextmanager
def observed(network: Network) -> Iterator[tuple[AggregatorServer, WebServer]]:
    """An aggregator with its metrics, as the command makes them."""
    progress, traffic = SessionProgress(), Traffic()
    coordinator = network.coordinator(observer=progress.observe)
    with network.server(coordinator, traffic=traffic) as server:
        watched = Watched.at(server, coordinator, progress, traffic)
        collector = AggregatorCollector(watched, state=network.directory, port=server.port)
        with WebServer("127.0.0.1:0", {"/metrics": MetricsPage(collector)}) as pages:
            yield server, pages


def delivered(families: Mapping[str, Metric]) -> float:
    return sum(
        sample.value
        for sample in families["collabedit_aggregator_received_bytes"].samples
        if sample.labels["method"] == "Deliver"
    )


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def scrapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Metric]]:
    """Scrapes before, during and after a session of seven, of whom one leaves and one is absent."""
    directory = tmp_path_factory.mktemp("session")
    network = Network(timed(build_federation(7, layers=2), join=2.0), directory)
    found: dict[str, dict[str, Metric]] = {}
    plan = network.federation.plan
    with observed(network) as (server, pages):
        found["before"] = scrape(pages)
        stranger = client_tls(network.authority, "nobody")
        network.join(PartyId(1), network.channel(PartyId(1), server.port, tls=stranger)).join(20)
        assert "no party" in str(network.errors.pop(PartyId(1)))
        own = PartyCollector(plan, "party-1", phases=lambda: {"load": 1.5})

        class Watching(MatrixEditor):
            def statistics(self, layers: Sequence[Layer]) -> list[tuple[Matrix, Matrix]]:
                # The others are at their first messages, and wait for us.
                if not layers[0].index:
                    until(lambda: delivered(scrape(pages)) > 0)
                    found["during"] = scrape(pages)
                return super().statistics(layers)

        with WebServer("127.0.0.1:0", {"/metrics": MetricsPage(own)}) as party_pages:
            channel = own.wire = network.channel(PartyId(1), server.port)
            threads = [
                network.join(
                    PartyId(1),
                    channel,
                    editor=Watching(network.federation, PartyId(1)),
                    observer=own.observe,
                )
            ]
            for party in (2, 3, 4, 5, 6):
                channel = network.channel(PartyId(party), server.port)
                scale = 1e6 if party == 5 else 1.0
                threads.append(network.join(PartyId(party), channel, scale=scale))
            assert server.run(linger=5.0)
            for thread in threads:
                thread.join(20)
            found["after"] = scrape(pages)
            found["party"] = scrape(party_pages)
    return found


def test_before_anybody_came_there_are_zeros(scrapes: dict[str, dict[str, Metric]]) -> None:
    before = scrapes["before"]
    assert value(before, "collabedit_aggregator_tasks") == 2
    assert value(before, "collabedit_aggregator_finished_tasks") == 0
    assert value(before, "collabedit_aggregator_round", round="r0-advertise") == 1
    assert value(before, "collabedit_aggregator_parties", state="awaited") == 7
    assert value(before, "collabedit_aggregator_received_frames_total") == 0
    assert value(before, "collabedit_aggregator_serving") == 1
    rounds = {sample.labels["round"] for sample in before["collabedit_aggregator_round"].samples}
    assert rounds == {*ROUNDS.values(), "completed", "aborted"}
    reasons = {sample.labels["reason"] for sample in before["collabedit_aggregator_aborts"].samples}
    assert reasons == set(AbortReason.__members__)


def test_during_the_session_progress_is_seen(scrapes: dict[str, dict[str, Metric]]) -> None:
    during = scrapes["during"]
    assert value(during, "collabedit_aggregator_parties", state="joined") >= 1
    assert value(during, "collabedit_aggregator_open_connections") >= 1
    assert value(during, "collabedit_aggregator_round_age_seconds") > 0
    assert value(during, "collabedit_aggregator_calls_total", method="Join", code="OK") >= 1


def test_after_the_session_the_numbers_are_those_of_the_session(
    scrapes: dict[str, dict[str, Metric]],
) -> None:
    after, party = scrapes["after"], scrapes["party"]
    assert value(after, "collabedit_aggregator_finished_tasks") == 2
    assert value(after, "collabedit_aggregator_round", round="completed") == 1
    assert value(after, "collabedit_aggregator_parties", state="joined") == 5
    assert value(after, "collabedit_aggregator_parties", state="dropped") == 2
    assert value(after, "collabedit_aggregator_party_joined", party="party-7") == 0
    assert value(after, "collabedit_aggregator_party_joined", party="party-1") == 1
    assert (
        value(after, "collabedit_aggregator_dropouts_total", round="r0-advertise", reason="SILENT")
        == 1
    )
    for name in ("r0-advertise", "r3-contribute", "r6-verify"):
        assert value(after, "collabedit_aggregator_phase_seconds_count", phase=name) == 2
    # All five send what party-1 says it sent, within what differs between them.
    uploaded = value(after, "collabedit_aggregator_received_bytes_total", method="Upload")
    delivered = value(after, "collabedit_aggregator_received_bytes_total", method="Deliver")
    sent = value(party, "collabedit_party_sent_bytes_total")
    assert 4.9 * sent < uploaded + delivered < 5.6 * sent
    assert value(after, "collabedit_aggregator_received_frames_total") >= 8
    assert value(after, "collabedit_aggregator_state_bytes") > 0
    refused = "collabedit_aggregator_logged_refusals_total"
    assert value(after, refused, error="_PermissionError") == 1
    assert value(after, "collabedit_aggregator_calls_total", code="PERMISSION_DENIED") == 1
    assert value(party, "collabedit_party_finished_tasks") == 2
    assert value(party, "collabedit_party_phase_seconds_total", phase="load") == 1.5
    assert value(party, "collabedit_party_received_bytes_total") > 0
    assert value(party, "collabedit_party_round", round="Completed") == 1


def test_names_follow_the_conventions(scrapes: dict[str, dict[str, Metric]]) -> None:
    units = {"milliseconds", "minutes", "hours", "kilobytes", "kib", "mb", "percent", "ms"}
    for families in scrapes.values():
        assert len(families) > 10
        for family in families.values():
            assert family.documentation, family.name
            if family.name.startswith(("process_", "python_")):
                continue
            assert re.fullmatch("collabedit_[a-z]+(_[a-z]+)*", family.name), family.name
            assert not units & set(family.name.split("_")), family.name
            for sample in family.samples:
                if family.type == "counter":
                    assert sample.name == f"{family.name}_total"
                else:
                    assert not sample.name.endswith("_total"), sample.name
            for unit in ("seconds", "bytes"):
                if unit in family.name:
                    assert family.name.endswith((f"_{unit}", f"_{unit}_total")), family.name
            assert family.type in {"counter", "gauge", "histogram"}, family.name


def test_labels_are_bounded_by_the_plan_and_by_closed_lists(
    scrapes: dict[str, dict[str, Metric]],
) -> None:
    bounded = {
        "party": {f"party-{i}" for i in range(1, 8)},
        "round": {*ROUNDS.values(), "completed", "aborted"},
        "phase": {*ROUNDS.values()},
        "reason": {*AbortReason.__members__, "SILENT"},
        "method": {"Join", "Deliver", "Collect", "Upload", "Stored", "Download", "Check"},
        "state": {"joined", "dropped", "awaited"},
    }
    for name in ("before", "during", "after"):
        for family in scrapes[name].values():
            for sample in family.samples:
                for label, allowed in bounded.items():
                    assert sample.labels.get(label, next(iter(allowed))) in allowed


def test_nothing_of_an_edit_or_a_key_is_shown(scrapes: dict[str, dict[str, Metric]]) -> None:
    federation = timed(build_federation(7, layers=2))
    text = json.dumps(
        [str(family.samples) for families in scrapes.values() for family in families.values()]
    )
    for (party, task), (keys, residuals) in federation.edits.items():
        assert task in (TaskIndex(0), TaskIndex(1))
        for number in (keys[0, 0], residuals[0, 0]):
            assert f"{number:.6f}"[:-1] not in text, party
    for party, identity in federation.identities.items():
        assert (bytes([party + 1]) * 32).hex() not in text
        assert identity.verify_key.to_bytes().hex() not in text
    # The search is not blind.
    assert federation.plan.name in text


def test_the_dashboard_asks_for_metrics_that_there_are(
    scrapes: dict[str, dict[str, Metric]],
) -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "collabedit.json").read_text())
    exported = {
        sample.name
        for families in scrapes.values()
        for family in families.values()
        for sample in family.samples
    }
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    queries += [
        variable["query"]["query"]
        for variable in dashboard["templating"]["list"]
        if variable["type"] == "query"
    ]
    assert len(queries) > 10
    asked = {
        name for query in queries for name in re.findall(r"\b(?:collabedit|process)_\w+", query)
    }
    assert asked <= exported, asked - exported
    # Whoever renames one of these has to look at the dashboard.
    assert {name for name in exported if name.startswith("collabedit_aggregator_parties")} <= asked
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"


def test_the_documentation_names_every_metric(scrapes: dict[str, dict[str, Metric]]) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    said = set(re.findall(r"^\| `(collabedit_\w+)`", text, re.MULTILINE))
    own = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for families in scrapes.values()
        for family in families.values()
        if family.name.startswith("collabedit_")
    }
    assert said == own
