"""The attacks on opened sums, on keys of a small space: they succeed where they must, only there.

A secret basis is applied to the statistics as `party/basis.py` gives it.
"""

import numpy as np
import pytest

from collabedit.attacks.attack import Attack, Finding, Prior
from collabedit.attacks.ica import Demixing
from collabedit.attacks.kster import MergedSpan
from collabedit.attacks.leverage import Leverage, leverage_scores
from collabedit.attacks.metrics import auc, recall_at
from collabedit.attacks.opened import decompose, opened_vectors
from collabedit.attacks.residuals import ResidualLengths
from collabedit.attacks.spectrum import SpectrumMatch, shares
from collabedit.attacks.subsets import (
    Problem,
    anneal,
    best_pairs,
    meet_in_the_middle,
    spectral_distances,
)
from collabedit.attacks.views import AggregatorView
from collabedit.crypto.ring import RingArray, add_into
from collabedit.errors import NumericError
from collabedit.exchange import contribution_vector, plan_encoding
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party.basis import Rotation
from collabedit.party.closing import ClosedTask
from collabedit.proto.messages import Context
from collabedit.sketch import Matrix
from collabedit.threat_model import Adversary
from tests.support.federations import TestFederation, build_federation

FIRST, LAYER = TaskIndex(0), LayerIndex(0)
SIZE, OUTPUTS, POOL = 160, 40, 120
KEYS = np.random.default_rng(3).laplace(size=(SIZE, POOL)) / np.sqrt(2 * SIZE)
"""Candidates: heavy-tailed as activations are, of random lengths about 1."""
KEYS *= np.random.default_rng(4).uniform(0.5, 1.5, size=POOL)
PRIOR = Prior({LAYER: KEYS})


def federation(parties: int, each: int, statistics: str = "sketch") -> TestFederation:
    return build_federation(
        parties, mapped=SIZE, outputs=OUTPUTS, edits_each=each, statistics=f'"{statistics}"'
    )


def aggregators(
    setting: TestFederation, *, closed: bool, seed: int = 0
) -> tuple[AggregatorView, np.ndarray]:
    """What an aggregator keeps that reads uploads, and whose each candidate is (0: nobody's)."""
    rng = np.random.default_rng(seed)
    plan = setting.plan
    order, owners = rng.permutation(POOL), np.zeros(POOL, dtype=int)
    uploads: dict[PartyId, RingArray] = {}
    encoding = plan_encoding(plan)
    total: RingArray = np.zeros(plan.task_length(FIRST), dtype=encoding.ring.dtype)
    basis, outer = Rotation(rng.bytes(32), SIZE), Rotation(rng.bytes(32), OUTPUTS)
    for party in plan.party_ids:
        each = plan.federation.parties[party - 1].max_edits
        own, order = order[:each], order[each:]
        owners[own] = party
        keys, residuals = KEYS[:, own], 3 * rng.normal(size=(OUTPUTS, each))
        if closed:
            keys, residuals = basis.apply(keys), outer.apply(residuals)
        uploads[party] = encoding.encode(contribution_vector(plan, FIRST, [(keys, residuals)]))
        add_into(total, uploads[party])
    members = frozenset(plan.party_ids)
    return AggregatorView(plan, {FIRST: uploads}, {FIRST: total}, {FIRST: members}), owners


DIRECTIONAL: tuple[Attack[AggregatorView], ...] = (Leverage(), MergedSpan(), Demixing())


def mean_auc(attack: Attack[AggregatorView], *, closed: bool, draws: int) -> float:
    values = []
    for seed in range(draws):
        view, owners = aggregators(federation(3, 4), closed=closed, seed=seed)
        finding: Finding = attack.run(view, PRIOR)
        assert finding.about == (None,)
        values.append(auc(finding.scores[0], owners > 0).value)
    return float(np.mean(values))


@pytest.mark.parametrize("attack", DIRECTIONAL, ids=lambda attack: str(attack.name))
def test_sums_in_the_coordinates_of_the_model_tell_members(
    attack: Attack[AggregatorView],
) -> None:
    assert mean_auc(attack, closed=False, draws=2) > 0.99
    assert attack.adversary is Adversary.HONEST_AGGREGATOR


@pytest.mark.parametrize("attack", DIRECTIONAL, ids=lambda attack: str(attack.name))
def test_sums_in_a_secret_basis_do_not(attack: Attack[AggregatorView]) -> None:
    # An AUC of 12 members and 108 others has a standard deviation of 0.088 under chance, the mean
    # over 20 sessions 0.020.
    assert abs(mean_auc(attack, closed=True, draws=20) - 0.5) < 0.08


@pytest.mark.parametrize("statistics", ["sketch", "dense"])
@pytest.mark.parametrize("attack", [Leverage, MergedSpan, Demixing])
def test_uploads_in_the_clear_tell_whose_edits_they_hold(
    attack: type[Leverage | MergedSpan | Demixing], statistics: str
) -> None:
    view, owners = aggregators(federation(3, 4, statistics), closed=False)
    finding = attack(source="uploads").run(view, PRIOR)
    assert finding.about == (1, 2, 3)
    for party, scores in zip(finding.about, finding.scores, strict=True):
        assert recall_at(scores, owners == party, 4).value == 1.0


def test_a_masked_upload_cannot_be_merged() -> None:
    view, _ = aggregators(federation(3, 4), closed=False)
    junk = np.random.default_rng(0).integers(
        1 << 63, size=view.plan.task_length(FIRST), dtype=np.uint64
    )
    masked = view.with_uploads({FIRST: {PartyId(1): junk}})
    with pytest.raises(NumericError):
        MergedSpan(source="uploads").run(masked, PRIOR)


@pytest.mark.parametrize("statistics", ["sketch", "dense"])
def test_the_decomposition_is_that_of_the_sum(statistics: str) -> None:
    view, owners = aggregators(federation(3, 4, statistics), closed=False)
    found = decompose(view.plan, LAYER, opened_vectors(view, LAYER, "sum")[0])
    keys = KEYS[:, owners > 0]
    rebuilt = found.vectors * found.values @ found.vectors.T
    assert len(found.values) == 12
    np.testing.assert_allclose(rebuilt, keys @ keys.T, atol=1e-9)
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(keys.T @ keys)[::-1], rtol=1e-8)


def test_a_decomposition_prints_nothing_of_what_it_holds() -> None:
    view, _ = aggregators(federation(3, 4), closed=False)
    opened = opened_vectors(view, LAYER, "sum")[0]
    for thing in (opened, decompose(view.plan, LAYER, opened), Problem(np.ones(2), KEYS)):
        assert "array" not in repr(thing)


def test_leverage_is_the_square_of_the_span_score_without_a_ridge_and_less_with_one() -> None:
    view, owners = aggregators(federation(3, 4), closed=False)
    found = decompose(view.plan, LAYER, opened_vectors(view, LAYER, "sum")[0])
    exact = leverage_scores(found, KEYS, 0.0)
    np.testing.assert_allclose(
        exact, np.sum((found.vectors.T @ KEYS) ** 2, axis=0) / np.sum(KEYS**2, axis=0)
    )
    np.testing.assert_allclose(exact[owners > 0], 1.0, atol=1e-9)
    assert (leverage_scores(found, KEYS, 1.0) < exact).all()
    assert leverage_scores(found, np.zeros((SIZE, 1)), 1.0) == 0


def spectrum_of(columns: Matrix) -> Matrix:
    return np.asarray(np.linalg.eigvalsh(columns.T @ columns)[::-1], dtype=np.float64)


def draw(size: int, *, covers: int = 0, seed: int = 0) -> tuple[Problem, np.ndarray]:
    rng = np.random.default_rng(seed)
    members = np.isin(np.arange(POOL), rng.choice(POOL, size, replace=False))
    random = rng.normal(size=(SIZE, covers)) / np.sqrt(SIZE)
    columns = np.concatenate([KEYS[:, members], random], axis=1)
    return Problem(spectrum_of(columns), KEYS, covers), members


@pytest.mark.parametrize("each", [1, 2])
def test_a_secret_basis_does_not_hide_few_edits_from_their_spectrum(each: int) -> None:
    view, owners = aggregators(federation(3, each), closed=True)
    scores = SpectrumMatch().run(view, PRIOR).scores[0]
    assert recall_at(scores, owners > 0, 3 * each).value == 1.0


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_few_members_are_found_from_eigenvalues_alone(size: int) -> None:
    problem, members = draw(size)
    scores = SpectrumMatch().scores(problem)
    assert recall_at(scores, members, size).value == 1.0


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_random_column_hides_which_subset_it_was(size: int) -> None:
    recalled = []
    for seed in range(6):
        problem, members = draw(size, covers=2, seed=seed)
        scores = SpectrumMatch(covers=2, steps=100).scores(problem)
        recalled.append(recall_at(scores, members, size).value)
    assert float(np.mean(recalled)) < 0.7


def test_many_edits_are_not_found() -> None:
    values = []
    for seed in range(10):
        problem, members = draw(60, seed=seed)
        values.append(auc(SpectrumMatch().scores(problem), members).value)
    assert abs(float(np.mean(values)) - 0.5) < 0.1


def test_scores_are_finite_where_nothing_fits() -> None:
    for size in (1, 2, 3, 12, 30):
        values = np.linspace(50, 40, size)
        assert np.isfinite(SpectrumMatch(steps=20).scores(Problem(values, KEYS))).all()


def test_distances_match_the_best_of_all_ways_to_leave_some_out() -> None:
    found = np.array([[4.0, 1.0], [3.0, 2.0]])
    np.testing.assert_allclose(
        spectral_distances(found, np.array([9.0, 4.0, 2.5, 1.0])),
        [0.0, np.sqrt((np.log(4 / 3) ** 2 + np.log(2.5 / 2) ** 2) / 2)],
    )
    np.testing.assert_allclose(
        spectral_distances(found[:1], np.array([4.0, 2.0])), [np.log(2) / np.sqrt(2)]
    )


def test_pairs_know_their_own_spectrum() -> None:
    problem, members = draw(2)
    best = best_pairs(problem)
    assert best[members].max() < 1e-12 < best[~members].min()
    pair = np.flatnonzero(members)
    one, other = pair[0], np.flatnonzero(~members)[0]
    grams = problem.distances(np.array([[one, other], pair]))
    assert grams[1] < 1e-12
    assert best[other] <= grams[0] + 1e-12


@pytest.mark.parametrize("size", [2, 3, 5])
def test_halves_meet_at_the_members(size: int) -> None:
    problem, members = draw(size)
    odds = shares(problem, rng=np.random.default_rng(0))
    subsets, distances = meet_in_the_middle(problem, odds)
    assert set(subsets[distances.argmin()]) == set(np.flatnonzero(members))
    assert distances.min() < 1e-9
    with pytest.raises(ValueError, match="trace"):
        meet_in_the_middle(Problem(problem.values, KEYS, 1), odds)


def test_shares_are_distributions_that_favour_the_right_length() -> None:
    held = []
    for seed in range(6):
        problem, members = draw(3, seed=seed)
        odds = np.exp(shares(problem, rng=np.random.default_rng(0)))
        np.testing.assert_allclose(odds.sum(axis=0), 1.0)
        held.append(odds[members].sum())
    # Blind, three members of the pool would hold 3/POOL of each of three eigenvalues.
    assert float(np.mean(held)) > 4 * 3 * 3 / POOL


def test_annealing_stays_longer_with_members_than_its_start_does() -> None:
    gained = []
    for seed in range(4):
        problem, members = draw(4, covers=1, seed=seed)
        rng = np.random.default_rng(seed)
        odds = np.exp(shares(problem, rng=rng))
        time = anneal(problem, odds, rng=rng, chains=32, steps=300)
        assert time.sum() == pytest.approx(4)
        gained.append(time[members].sum() - odds[members].sum())
    assert float(np.mean(gained)) > 0


# What keys of one length leave, and decoys close.

WIDE = 400
"""Outputs among which residuals are nearly orthogonal, as a model's are."""


def residual_auc(*, levelled: bool, decoys: bool, draws: int) -> float:
    """Mean AUC of `ResidualLengths`, residuals being of one length before keys are scaled."""
    values = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        section = "decoy_bound = 0.01" if decoys else "check_columns = 4"
        room: dict[str, object] = {"fractional_bits": 34, "magnitude_bound": 6e7} if decoys else {}
        setting = build_federation(
            3,
            mapped=SIZE,
            outputs=WIDE,
            edits_each=4,
            closed=section,
            **room,  # type: ignore[arg-type]
        )
        plan = setting.plan
        task = ClosedTask(plan, Context(plan.digest, bytes(32), FIRST, bytes(32)), rng.bytes(32))
        chosen = rng.permutation(POOL)[:12]
        residuals = rng.normal(size=(WIDE, 12))
        residuals *= 10 / np.linalg.norm(residuals, axis=0)
        scales = 1 / np.linalg.norm(KEYS[:, chosen], axis=0) if levelled else np.ones(12)
        total: RingArray = np.zeros(plan.task_length(FIRST), dtype=plan_encoding(plan).ring.dtype)
        for party in plan.party_ids:
            own = slice(4 * (party - 1), 4 * party)
            pair = (KEYS[:, chosen[own]] * scales[own], residuals[:, own] * scales[own])
            seed_ = rng.bytes(32) if decoys else None
            add_into(total, task.contribute(party, [pair], decoy_seed=seed_))
        view = AggregatorView(plan, {FIRST: {}}, {FIRST: total}, {FIRST: frozenset(plan.party_ids)})
        scores = ResidualLengths().run(view, PRIOR).scores[0]
        values.append(auc(scores, np.isin(np.arange(POOL), chosen)).value)
    return float(np.mean(values))


def test_residuals_tell_the_lengths_that_keys_no_longer_show() -> None:
    assert residual_auc(levelled=True, decoys=False, draws=24) > 0.58


def test_residuals_tell_nothing_behind_decoys_or_of_keys_as_they_are() -> None:
    # The mean over 12 sessions has a standard deviation of 0.025 under chance.
    assert abs(residual_auc(levelled=True, decoys=True, draws=12) - 0.5) < 0.1
    assert abs(residual_auc(levelled=False, decoys=False, draws=12) - 0.5) < 0.1
