"""One session, canaries by coins: the noise of a plan keeps its ε, and without it nothing does."""

import numpy as np
import pytest

from collabedit.attacks.attack import Finding
from collabedit.attacks.canaries import EpsilonBound, bounds_of
from collabedit.attacks.metrics import Members
from collabedit.ids import LayerIndex, TaskIndex
from collabedit.sketch import Matrix
from tests.security.test_privacy_attacks import correlations, opened
from tests.support.federations import TestFederation, build_federation

pytest.importorskip("opendp")
pytest.importorskip("dp_accounting")

EACH, PARTIES = 24, 5
CAPS = {"key_energy": 20.0, "residual_energy": 600.0}
EPSILON = 0.5
PRIVATE = {**CAPS, "epsilon": EPSILON, "noise_multiplier": 8.9, "honest": 3}
FIRST, LAYER = TaskIndex(0), LayerIndex(0)


def session(seed: int, **changes: object) -> tuple[TestFederation, Matrix, Members]:
    """A federation whose parties leave out every canary for which the coin says so.

    Returns:
        It, the keys of all canaries [d', m], and which of them are in.
    """
    federation = build_federation(PARTIES, edits_each=EACH, mapped=160, seed=seed, **changes)  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    keys, coins = [], []
    for party in federation.plan.party_ids:
        own, residuals = federation.edits[party, FIRST]
        # A third of the length that a federation has by itself: 160 rows instead of 48.
        own = own * 0.55
        coin = rng.random(EACH) < 0.5
        keys.append(own)
        coins.append(coin)
        federation.edits[party, FIRST] = own[:, coin], residuals[:, coin]
    return federation, np.concatenate(keys, axis=1), np.concatenate(coins)


def audited(seed: int, **changes: object) -> tuple[EpsilonBound, EpsilonBound]:
    federation, keys, coins = session(seed, **changes)
    scores = correlations(federation, opened(federation), keys)
    finding = Finding("correlation", (None,), scores[None])
    return bounds_of(finding, coins, delta=1e-6)


def test_without_noise_one_session_refutes_every_small_epsilon() -> None:
    for bound in audited(0, **CAPS):
        assert bound.canaries == EACH * PARTIES
        # Six times what the noise of the next test promises.
        assert bound.epsilon > 2.0
        assert bound.right > 0.95 * bound.guesses


@pytest.mark.slow
def test_with_the_plans_noise_nothing_beyond_its_epsilon_is_refuted() -> None:
    found = [bound for seed in range(3) for bound in audited(seed, **PRIVATE)]
    assert max(bound.epsilon for bound in found) <= EPSILON
    # Nothing at all, with so much noise: the bound is not tight, and says so.
    assert sum(bound.epsilon == 0 for bound in found) >= 5
