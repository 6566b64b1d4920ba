"""Membership in the opened sum: it succeeds without noise, and fails with the noise of a plan.

Two attackers hold candidates' keys and Ω. `SumSpan` asks whether a key lies in the sum's range. The
other knows that noise hides the range, and correlates the sum with what the candidate would have
put in, the best test against white noise; whatever it does, its true positives are at most
e^ε times its false ones, and δ.
"""

import numpy as np
import pytest

from collabedit.attacks.metrics import auc
from collabedit.attacks.span import SumSpan
from collabedit.attacks.views import AggregatorView, statistics_of
from collabedit.crypto.ring import RingArray, add_into
from collabedit.exchange import plan_encoding, plan_test_matrix
from collabedit.ids import LayerIndex, TaskIndex
from collabedit.party.noise import noisy
from collabedit.sketch import Matrix
from tests.security.test_attacks_synthetic import prior_of
from tests.support.federations import TestFederation, build_federation

pytest.importorskip("opendp")
pytest.importorskip("dp_accounting")

FIRST = TaskIndex(0)
LAYER = LayerIndex(0)
DRAWS = 12


def opened(federation: TestFederation) -> RingArray:
    plan = federation.plan
    total = np.zeros(plan.task_length(FIRST), dtype=plan_encoding(plan).ring.dtype)
    for party in plan.party_ids:
        encoded = plan_encoding(plan).encode(federation.contribute(party, FIRST))
        add_into(total, noisy(plan, FIRST, encoded))
    return total


def correlations(federation: TestFederation, total: RingArray, keys: Matrix) -> Matrix:
    """⟨Y, kkᵀΩ⟩/‖kkᵀΩ‖ for each candidate, or ⟨S, kkᵀ⟩/‖kkᵀ‖."""
    plan = federation.plan
    gram, _ = statistics_of(plan, LAYER, total)
    if plan.aggregation.statistics == "dense":
        scores = np.einsum("dn,de,en->n", keys, gram, keys) / (keys**2).sum(axis=0)
    else:
        projected = plan_test_matrix(plan, plan.editing.layers[0]).T @ keys
        size = np.linalg.norm(keys, axis=0) * np.linalg.norm(projected, axis=0)
        scores = np.einsum("dn,dm,mn->n", keys, gram, projected) / size
    found: Matrix = scores
    return found


def success(federation: TestFederation) -> tuple[float, float]:
    """AUC of both attackers."""
    prior, owners = prior_of(federation)
    total = opened(federation)
    plan = federation.plan
    view = AggregatorView(plan, {}, {FIRST: total}, {FIRST: frozenset(plan.party_ids)})
    members = owners > 0
    span = auc(SumSpan().run(view, prior).scores[0], members).value
    keys = prior.mapped_keys[LAYER]
    return span, auc(correlations(federation, total, keys), members).value


@pytest.mark.parametrize("form", ["sketch", "dense"])
def test_noise_defeats_what_reads_every_edit_without_it(form: str) -> None:
    caps = {"key_energy": 20.0, "residual_energy": 600.0, "statistics": f'"{form}"'}
    span, correlated = success(build_federation(5, **caps))  # type: ignore[arg-type]
    assert span == 1.0
    assert correlated > 0.9
    private = {**caps, "epsilon": 0.5, "noise_multiplier": 8.9, "honest": 3}
    federation = build_federation(5, **private)  # type: ignore[arg-type]
    spans, correlations_ = zip(*(success(federation) for _ in range(DRAWS)), strict=True)
    # 15 members among 415: the standard error of one AUC at chance is 0.08, of the mean 0.02.
    assert abs(np.mean(spans) - 0.5) < 0.12
    assert abs(np.mean(correlations_) - 0.5) < 0.12


def test_the_noise_of_a_large_epsilon_hides_nothing() -> None:
    # The control of the control: the attack is not broken by noise as such.
    weak = {"key_energy": 20.0, "residual_energy": 600.0, "epsilon": 1e6, "noise_multiplier": 8e-4}
    _, correlated = success(build_federation(5, honest=3, **weak))  # type: ignore[arg-type]
    assert correlated > 0.9
