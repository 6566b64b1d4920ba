from pathlib import Path

import numpy as np
import pytest

from collabedit.attacks.attack import Finding, Prior
from collabedit.attacks.span import range_basis, span_scores
from collabedit.attacks.views import AggregatorView, RecipientView, first_layer, layer_of
from collabedit.errors import AbortReason
from collabedit.exchange import plan_encoding
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.simulation import Faults
from tests.support.federations import build_federation

FIRST = TaskIndex(0)


def test_uploads_are_what_crossed_the_network(tmp_path: Path) -> None:
    federation = build_federation(4, tile_bytes=256)
    simulation = federation.simulation(tmp_path, faults=Faults(duplicate=0.5, delay=9), seed=1)
    outcome = simulation.run(federation.contribute)
    view = AggregatorView.of(federation.plan, outcome)
    assert view.uploads[FIRST].keys() == set(federation.plan.party_ids)
    encoding = plan_encoding(federation.plan)
    for party, upload in view.uploads[FIRST].items():
        assert upload.shape == (federation.plan.task_length(FIRST),)
        plain = encoding.encode(federation.contribute(party, FIRST))
        assert not np.array_equal(upload, plain)
    # Pairwise masks cancel, self masks stay: the uploads alone don't give the sum.
    assert not np.array_equal(sum(view.uploads[FIRST].values()), view.sums[FIRST])


def test_a_party_that_died_in_its_upload_has_none(tmp_path: Path) -> None:
    federation = build_federation(5, tile_bytes=256)
    faults = Faults(crash_after_frames={PartyId(3): 2})
    outcome = federation.simulation(tmp_path, faults=faults).run(federation.contribute)
    view = AggregatorView.of(federation.plan, outcome)
    assert view.uploads[FIRST].keys() == {1, 2, 4, 5} == view.survivors[FIRST]


def test_damaged_frames_are_left_out_of_the_view(tmp_path: Path) -> None:
    federation = build_federation(4, tile_bytes=64)
    faults = Faults(tamper=0.02)
    outcome = federation.simulation(tmp_path, faults=faults, seed=2).run(federation.contribute)
    view = AggregatorView.of(federation.plan, outcome)
    complete = set(view.uploads[FIRST])
    assert complete < set(federation.plan.party_ids)


def test_a_session_that_failed_behind_the_opening_shows_its_sum(tmp_path: Path) -> None:
    federation = build_federation(5)
    faults = Faults(crash_before={PartyId(1): "r6", PartyId(4): "r6"})
    outcome = federation.simulation(tmp_path, faults=faults).run(federation.contribute)
    assert outcome.aborted is not None
    assert outcome.aborted.reason is AbortReason.BELOW_THRESHOLD
    view = AggregatorView.of(federation.plan, outcome)
    assert view.survivors == {FIRST: frozenset(federation.plan.party_ids)}
    assert view.sums.keys() == {FIRST}


def test_the_recipient_sees_the_released_update_and_no_upload(tmp_path: Path) -> None:
    federation = build_federation(4, layers=2)
    outcome = federation.simulation(tmp_path).run(federation.contribute)
    view = RecipientView.of(federation.plan, outcome)
    assert view.updates.keys() == {0, 1}
    want = federation.centralised(frozenset(federation.plan.party_ids), TaskIndex(1))
    np.testing.assert_allclose(view.updates[LayerIndex(1)].dense(), want, atol=1e-6)
    assert set(view.__slots__) == {"plan", "updates"}


def test_no_view_prints_what_it_holds(tmp_path: Path) -> None:
    federation = build_federation(3)
    outcome = federation.simulation(tmp_path).run(federation.contribute)
    view = AggregatorView.of(federation.plan, outcome)
    assert "array" not in repr(view)
    assert "array" not in repr(Prior({LayerIndex(0): np.eye(3)}))


def test_layers_of_a_parallel_plan_lie_one_after_the_other() -> None:
    plan = build_federation(3, layers=2, schedule='"parallel"').plan
    task, layer, place = layer_of(plan, LayerIndex(1))
    assert (task, layer.index) == (0, 1)
    assert place == slice(plan.task_length(FIRST) // 2, plan.task_length(FIRST))
    assert first_layer(plan) == 0
    with pytest.raises(ValueError, match="no layer 7"):
        layer_of(plan, LayerIndex(7))


def test_a_finding_refuses_scores_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="rows"):
        Finding("x", (None,), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="finite"):
        Finding("x", (None,), np.full((1, 3), np.nan))


def test_range_basis_finds_the_rank_under_noise() -> None:
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 20))
    assert range_basis(exact, noise=0.0).shape == (60, 5)
    noisy = exact + 1e-3 * rng.normal(size=exact.shape)
    assert range_basis(noisy, noise=0.0).shape == (60, 20)
    assert range_basis(noisy, noise=1e-3).shape == (60, 5)


def test_span_scores_are_shares_of_length() -> None:
    basis = np.eye(4)[:, :2]
    candidates = np.array([[3.0, 0, 1, 0], [0, 0, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(span_scores(basis, candidates), [1, 0, np.sqrt(0.5), 0])
