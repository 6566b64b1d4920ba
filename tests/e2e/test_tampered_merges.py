"""A modified aggregator over real gRPC: parties notice its merge, and their weights stay.

The aggregator is the product's; what it releases for a merge is changed right behind
`merge_vector`. Everything else, signatures and digests included, it does as it should.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from collabedit.aggregator import opening
from collabedit.crypto.ring import RingArray
from collabedit.errors import AbortReason, SessionAbortedError
from collabedit.exchange import encode_checks, merge_vector, plan_encoding
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party import driver as driver_module
from collabedit.party import states as s
from collabedit.party.contribution import contributed_vector
from collabedit.plan import Plan
from collabedit.sketch import LowRankUpdate, Matrix
from tests.support.editors import TinyFederation, tiny_federation
from tests.support.federations import TestFederation, build_federation
from tests.support.lies import Refusal
from tests.support.networks import Network
from tests.support.tampering import TAMPERINGS, Tampering

CLOSED = "check_columns = 4"
SIZE = 0.01
CASES = [
    pytest.param(
        tampering,
        id=tampering.name.replace(" ", "-"),
        marks=[] if tampering.has_size else pytest.mark.slow,
    )
    for tampering in TAMPERINGS
]
"""Those that can be made small are tried in the fast suite."""

Merged = dict[LayerIndex, LowRankUpdate]
Merge = Callable[..., Merged]


def federation_of(*, layers: int = 2, **changes: Any) -> TestFederation:  # noqa: ANN401  as given
    return build_federation(
        4, layers=layers, closed=CLOSED, **{"schedule": '"parallel"', **changes}
    )


def run(network: Network) -> None:
    coordinator = network.coordinator()
    with network.server(coordinator) as server:
        threads = [
            network.join(party, network.channel(party, server.port))
            for party in network.federation.plan.party_ids
        ]
        server.run(linger=1.5)
        for thread in threads:
            thread.join(30)


def assert_refused_by_all(network: Network, refusal: Refusal) -> None:
    assert not network.reports
    reasons = []
    for party in network.federation.plan.party_ids:
        error = network.errors[party]
        assert isinstance(error, SessionAbortedError)
        reasons.append(error.reason)
        assert not network.editors[party].applied
    # Whoever is slower than the others' farewells hears of those.
    assert set(reasons) <= {AbortReason.MERGE_UNVERIFIED, AbortReason.BELOW_THRESHOLD}
    refusal(*[reason for reason in reasons if reason is not AbortReason.BELOW_THRESHOLD])


def lie(monkeypatch: pytest.MonkeyPatch, released: Callable[[Merged], Any]) -> None:
    def merge(plan: Plan, task: TaskIndex, total: Matrix, **options: Any) -> Any:  # noqa: ANN401
        return released(merge_vector(plan, task, total, **options))

    monkeypatch.setattr(opening, "merge_vector", merge)


def test_the_honest_aggregator_is_believed(tmp_path: Path) -> None:
    network = Network(federation_of(), tmp_path)
    run(network)
    assert not network.errors
    assert len(network.reports) == 4
    for report in network.reports.values():
        (task,) = report.tasks
        assert [check.layer for check in task.checks] == [0, 1]
        assert all(check.miss < 1e-6 < check.tolerance for check in task.checks)


@pytest.mark.lie(
    role="aggregator",
    lie="releases another update than the merge of closed sums",
    round="r6",
    refused_by="MERGE_UNVERIFIED",
)
@pytest.mark.parametrize("tampering", CASES)
def test_tampering_is_refused_by_everybody(
    tampering: Tampering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    lie(monkeypatch, lambda updates: tampering.alter(updates, SIZE))
    network = Network(federation_of(), tmp_path)
    run(network)
    assert_refused_by_all(network, refusal)


@pytest.mark.lie(
    role="aggregator",
    lie="merges closed sums under another ridge",
    round="r6",
    refused_by="MERGE_UNVERIFIED",
)
def test_another_ridge_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    def merge(plan: Plan, task: TaskIndex, total: Matrix, **options: Any) -> Merged:  # noqa: ANN401
        editing = plan.editing.model_copy(update={"ridge": 1.02 * plan.editing.ridge})
        return merge_vector(plan.model_copy(update={"editing": editing}), task, total, **options)

    monkeypatch.setattr(opening, "merge_vector", merge)
    network = Network(federation_of(), tmp_path)
    run(network)
    assert_refused_by_all(network, refusal)


@pytest.mark.lie(
    role="aggregator",
    lie="releases the update of an earlier session over the same edits",
    round="r6",
    refused_by="MERGE_UNVERIFIED",
)
def test_a_stale_update_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    """The update of an earlier session over the same edits: right then, in another basis."""
    kept: list[Merged] = []

    def first_one(updates: Merged) -> Merged:
        kept.append(updates)
        return kept[0]

    lie(monkeypatch, first_one)
    first = Network(federation_of(), tmp_path / "first")
    run(first)
    assert not first.errors
    again = Network(federation_of(), tmp_path / "again")
    run(again)
    assert len(kept) == 2
    assert_refused_by_all(again, refusal)


@pytest.mark.lie(
    role="aggregator",
    lie="leaves a party's statistics out of the merge of closed sums",
    round="r6",
    refused_by="MERGE_UNVERIFIED",
)
def test_a_party_left_out_of_the_merge_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    """An aggregator that even knows a party's statistics merges the others alone."""
    own: list[RingArray] = []

    def contributed(setup: s.TaskSetup, brought: bytes, secret: bytes | None) -> RingArray:
        vector = contributed_vector(setup, brought, secret)
        if setup.me == 3:
            own.append(vector)
        return vector

    def merge(
        plan: Plan, task: TaskIndex, total: Matrix, *, survivors: Iterable[PartyId], noise: float
    ) -> Merged:
        left_out = plan_encoding(plan).decode(own[0][: total.size])
        return merge_vector(plan, task, total - left_out, survivors=survivors, noise=noise)

    monkeypatch.setattr(driver_module, "contributed_vector", contributed)
    monkeypatch.setattr(opening, "merge_vector", merge)
    network = Network(federation_of(layers=1), tmp_path)
    run(network)
    assert_refused_by_all(network, refusal)


@pytest.mark.lie(
    role="aggregator",
    lie="alters the check elements of closed sums",
    round="r6",
    refused_by="MERGE_UNVERIFIED",
)
@pytest.mark.parametrize("element", ["column", "integer", "tag"])
def test_altered_check_elements_are_refused(
    element: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    def altered(plan: Plan, task: TaskIndex, total: RingArray) -> bytes:
        size = plan.check_length(task)
        place = {"column": 5, "integer": size - plan.check_tags - 1, "tag": size - 1}[element]
        place += plan.statistics_length(task)
        changed = total.copy()
        changed[place : place + 1] += np.uint64(1 << 44)
        return encode_checks(plan, task, changed)

    monkeypatch.setattr(opening, "encode_checks", altered)
    network = Network(federation_of(), tmp_path)
    run(network)
    assert_refused_by_all(network, refusal)


@pytest.mark.lie(
    role="party",
    lie="contributes check elements of other statistics than its own",
    round="r3",
    refused_by="MERGE_UNVERIFIED",
)
def test_a_party_that_spoils_the_check_ends_the_session_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    """Nobody can tell who it was; nothing was edited."""

    def contributed(setup: s.TaskSetup, brought: bytes, secret: bytes | None) -> RingArray:
        vector = contributed_vector(setup, brought, secret)
        if setup.me == 3:
            place = setup.plan.statistics_length(setup.context.task) + 7
            vector[place : place + 1] += np.uint64(1 << 44)
        return vector

    monkeypatch.setattr(driver_module, "contributed_vector", contributed)
    network = Network(federation_of(), tmp_path)
    run(network)
    assert_refused_by_all(network, refusal)


def test_open_sums_believe_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without closed sums the same lie edits everybody's model."""
    lie(monkeypatch, lambda updates: TAMPERINGS[0].alter(updates, SIZE))
    network = Network(build_federation(4, layers=2, schedule='"parallel"'), tmp_path)
    run(network)
    assert not network.errors
    assert len(network.reports) == 4


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyFederation:
    torch.set_num_threads(1)
    return tiny_federation(tmp_path_factory.mktemp("tiny"), model_type="gpt2", layers=(1, 2))


@pytest.mark.parametrize("task", [0, 1])
def test_the_weights_are_those_of_before_bit_by_bit(
    task: int, tiny: TinyFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real models and a lie about the first or the last layer of a sequential session."""
    plan = tiny.plan("memit")
    assert plan.closed is not None

    def merge(plan: Plan, at: TaskIndex, total: Matrix, **options: Any) -> Any:  # noqa: ANN401
        updates = merge_vector(plan, at, total, **options)
        return TAMPERINGS[2].alter(updates, SIZE) if at == task else updates

    monkeypatch.setattr(opening, "merge_vector", merge)
    editors = tiny.editors(plan)
    before = {party: editor.model.weights_digest() for party, editor in editors.items()}
    network = Network(TestFederation(plan, tiny.identities, {}), tmp_path)
    coordinator = network.coordinator()
    with network.server(coordinator) as server:
        threads = [
            network.join(party, network.channel(party, server.port), editor=editor)
            for party, editor in editors.items()
        ]
        server.run(linger=1.5)
        for thread in threads:
            thread.join(60)
    assert not network.reports
    for party, editor in editors.items():
        assert editor.model.weights_digest() == before[party]
        assert not editor.updates
