"""Caps on the energy of edits: honest sums pass whatever they are, the others are held to them."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit import bounds
from collabedit import sketch as sk
from collabedit.bounds import EnergyLimits
from collabedit.errors import BoundsError, MalformedMessageError, NumericError
from collabedit.exchange import contribution_vector, decode_bundle, encode_bundle, merge_vector
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.plan import Plan
from collabedit.sketch import LowRankUpdate, Matrix
from tests.support.federations import EDITS_EACH, MAPPED, OUTPUTS, build_federation

STEP = 2.0**-40
D, OUT, EDITS = 64, 24, 12
COLUMNS = EDITS + sk.OVERSAMPLING
OMEGA = sk.expand_test_matrix(bytes(32), layer=0, rows=D, columns=COLUMNS)
LIMITS = EnergyLimits(keys=EDITS * 4.0, residuals=EDITS * 9.0)
NOISE = STEP * float(np.sqrt(3 / 12))


def columns(rng: np.random.Generator, rows: int, energy: float, count: int = EDITS) -> Matrix:
    """Columns whose squared norm is exactly `energy`."""
    made: Matrix = rng.normal(size=(rows, count))
    scaled: Matrix = made * np.sqrt(energy) / np.linalg.norm(made, axis=0)
    return scaled


def rounded(vector: Matrix) -> Matrix:
    made: Matrix = np.round(vector / STEP) * STEP
    return made


@dataclass(frozen=True)
class Form:
    """Either form of the statistics, summed and merged as in a session."""

    dense: bool

    def total(self, keys: Matrix, residuals: Matrix) -> sk.GramSketch | sk.DenseStatistics:
        if self.dense:
            vector = rounded(sk.dense_statistics(keys, residuals).to_vector())
            return sk.DenseStatistics.from_vector(vector, mapped=D, outputs=OUT)
        vector = rounded(sk.sketch(keys, residuals, OMEGA).to_vector())
        return sk.GramSketch.from_vector(vector, mapped=D, outputs=OUT)

    def merge(
        self,
        total: sk.GramSketch | sk.DenseStatistics,
        *,
        limits: EnergyLimits | None = LIMITS,
        noise: float = NOISE,
        ridge: float = 1.0,
    ) -> LowRankUpdate:
        if isinstance(total, sk.DenseStatistics):
            return sk.merge_dense(total, ridge=ridge, noise=noise, limits=limits)
        return sk.merge_sketch(total, OMEGA, ridge=ridge, noise=noise, limits=limits)


FORMS = pytest.mark.parametrize(
    "form", [Form(dense=False), Form(dense=True)], ids=["sketch", "dense"]
)


# Sums within the caps.


@FORMS
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, EDITS),
    spread=st.sampled_from([0.0, 1e-3, 1e-9]),
    ridge=st.sampled_from([0.0, 1e-3, 1.0]),
)
def test_edits_at_their_caps_always_pass(
    form: Form, seed: int, count: int, spread: float, ridge: float
) -> None:
    """Parallel keys and residuals, nearly parallel ones, none at all: nothing honest is refused."""
    rng = np.random.default_rng(seed)
    keys = columns(rng, D, 4.0, max(count, 1))
    keys = keys[:, :1] + spread * keys
    keys = (
        keys[:, :count]
        if not spread
        else keys[:, :count] * 2 / np.linalg.norm(keys, axis=0)[:count]
    )
    residuals = np.repeat(columns(rng, OUT, 9.0, 1), count, axis=1)
    form.merge(form.total(keys, residuals), ridge=ridge)


@FORMS
def test_orthogonal_edits_at_their_caps_pass(form: Form) -> None:
    rng = np.random.default_rng(0)
    keys = 2 * np.linalg.qr(rng.normal(size=(D, EDITS)))[0]
    residuals = 3 * np.linalg.qr(rng.normal(size=(OUT, EDITS)))[0]
    form.merge(form.total(keys, residuals))
    # ... and the caps are tight: a little less is refused.
    for limits in (
        replace(LIMITS, keys=LIMITS.keys * 0.999),
        replace(LIMITS, residuals=LIMITS.residuals * 0.999),
    ):
        with pytest.raises(BoundsError):
            form.merge(form.total(keys, residuals), limits=limits)


@pytest.mark.parametrize("rank", [5, EDITS, COLUMNS, COLUMNS + 1, D])
def test_the_sketch_never_sees_more_energy_than_there_is(rank: int) -> None:
    """Below the width it sees all of tr(S), above it less: rank never refuses an honest sum."""
    rng = np.random.default_rng(rank)
    keys = rng.normal(size=(D, rank)) * rng.uniform(0.01, 1, size=rank)
    residuals = rng.normal(size=(OUT, rank))
    trace = float(np.trace(keys @ keys.T))
    wanted = float(np.linalg.norm(residuals) ** 2)
    seen = visible_energy(sk.sketch(keys, residuals, OMEGA))
    assert seen[0] <= trace * (1 + 1e-9)
    assert seen[1] <= wanted * (1 + 1e-9)
    if rank <= COLUMNS:
        assert seen[0] == pytest.approx(trace, rel=1e-6)
        assert seen[1] == pytest.approx(wanted, rel=1e-4)
    else:
        assert seen[0] < trace


def visible_energy(total: sk.GramSketch) -> tuple[float, float]:
    """The smallest caps under which sums pass, by bisection."""

    def smallest(which: str) -> float:
        low, high = 0.0, 1e9
        for _ in range(80):
            middle = (low + high) / 2
            limits = replace(EnergyLimits(1e18, 1e18), **{which: middle})
            try:
                # ρ = 0, so that the check of the update has no say.
                sk.merge_sketch(total, OMEGA, ridge=0.0, noise=0.0, limits=limits)
                high = middle
            except BoundsError:
                low = middle
        return high

    allowance = (1 + bounds.SLACK) ** 2
    return smallest("keys") * allowance, smallest("residuals") * allowance


# Sums beyond them.


@FORMS
@pytest.mark.parametrize("factor", [1.5, 1e3, 1e9])
def test_one_huge_key_is_refused(form: Form, factor: float) -> None:
    rng = np.random.default_rng(1)
    keys, residuals = columns(rng, D, 4.0), columns(rng, OUT, 9.0)
    keys[:, 3] *= np.sqrt(EDITS * factor)
    with pytest.raises(BoundsError, match="key_energy"):
        form.merge(form.total(keys, residuals))


@FORMS
def test_many_small_keys_beyond_the_declared_number_are_refused(form: Form) -> None:
    rng = np.random.default_rng(2)
    keys, residuals = columns(rng, D, 4.0, 3 * EDITS), np.zeros((OUT, 3 * EDITS))
    with pytest.raises(BoundsError, match="key_energy"):
        form.merge(form.total(keys, residuals))


@FORMS
@pytest.mark.parametrize("key_norm", [2.0, 1e-3])
def test_one_huge_residual_is_refused_however_small_its_key(form: Form, key_norm: float) -> None:
    rng = np.random.default_rng(3)
    keys, residuals = columns(rng, D, 4.0), columns(rng, OUT, 9.0)
    keys[:, 0] *= key_norm / 2
    residuals[:, 0] *= 10
    with pytest.raises(BoundsError, match="residual_energy"):
        form.merge(form.total(keys, residuals))


@FORMS
def test_a_negative_direction_is_refused(form: Form) -> None:
    rng = np.random.default_rng(4)
    keys, residuals = columns(rng, D, 4.0), columns(rng, OUT, 9.0)
    honest, theirs = (
        form.total(keys, residuals),
        form.total(columns(rng, D, 4.0, 1), residuals[:, :1]),
    )
    if isinstance(honest, sk.DenseStatistics):
        assert isinstance(theirs, sk.DenseStatistics)
        bad = sk.DenseStatistics(honest.gram - 1e-3 * theirs.gram, honest.cross)
        with pytest.raises(NumericError, match="positive semidefinite"):
            form.merge(bad)
        return
    assert isinstance(honest, sk.GramSketch)
    assert isinstance(theirs, sk.GramSketch)
    with pytest.raises(NumericError, match="positive semidefinite"):
        form.merge(
            sk.GramSketch(honest.gram_sketch - 1e-3 * theirs.gram_sketch, honest.cross_sketch)
        )


def test_an_asymmetric_contribution_is_refused() -> None:
    rng = np.random.default_rng(5)
    keys, residuals = columns(rng, D, 4.0), columns(rng, OUT, 9.0)
    twisted = keys @ rng.normal(size=(EDITS, D)) @ OMEGA
    total = Form(dense=False).total(keys, residuals)
    assert isinstance(total, sk.GramSketch)
    bad = sk.GramSketch(total.gram_sketch + 1e-6 * twisted, total.cross_sketch)
    with pytest.raises(NumericError, match="not symmetric") as caught:
        Form(dense=False).merge(bad)
    assert not isinstance(caught.value, BoundsError)


def unseen(scale: float) -> Matrix:
    """A change of Y that ΩᵀY does not show: orthogonal to Ω's columns."""
    rng = np.random.default_rng(6)
    basis = np.linalg.qr(OMEGA)[0]
    change = rng.normal(size=(D, COLUMNS))
    made: Matrix = scale * (change - basis @ (basis.T @ change))
    return made


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_what_the_overlap_does_not_show_is_still_held_to_the_caps(scale: float) -> None:
    """W stays symmetric and semidefinite, but YᵀY ⪯ θW no longer holds."""
    rng = np.random.default_rng(7)
    total = Form(dense=False).total(columns(rng, D, 4.0), columns(rng, OUT, 9.0))
    assert isinstance(total, sk.GramSketch)
    for gram in (total.gram_sketch + unseen(scale), unseen(scale)):
        bad = sk.GramSketch(gram, total.cross_sketch)
        Form(dense=False).merge(bad, limits=None)
        with pytest.raises(BoundsError):
            Form(dense=False).merge(bad)


def test_residuals_outside_of_the_keys_directions_are_refused() -> None:
    rng = np.random.default_rng(8)
    for form in (Form(dense=False), Form(dense=True)):
        total = form.total(columns(rng, D, 4.0), columns(rng, OUT, 9.0))
        if isinstance(total, sk.DenseStatistics):
            bad: sk.GramSketch | sk.DenseStatistics = replace(
                total, cross=total.cross + 1e-3 * rng.normal(size=total.cross.shape)
            )
        else:
            change = 1e-2 * rng.normal(size=total.cross_sketch.shape)
            bad = replace(total, cross_sketch=total.cross_sketch + change)
        with pytest.raises(BoundsError, match="residual_energy"):
            form.merge(bad)


@FORMS
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rank=st.integers(1, D),
    scales=st.tuples(st.floats(-6, 3), st.floats(-3, 6), st.floats(-14, 2)),
)
def test_whatever_passes_makes_no_larger_update_than_honest_edits_could(
    form: Form, seed: int, rank: int, scales: tuple[float, float, float]
) -> None:
    """The containment itself: ‖ΔW‖_F² ≤ n·residual_energy/(4ρ) for everything that is released."""
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(D, rank)) * 10 ** scales[0]
    residuals = rng.normal(size=(OUT, rank)) * 10 ** scales[1]
    total = form.total(keys, residuals)
    if isinstance(total, sk.GramSketch):
        change = unseen(10 ** scales[2])
        total = replace(
            total,
            gram_sketch=total.gram_sketch + change,
            cross_sketch=total.cross_sketch + 10 ** scales[2] * rng.normal(size=(OUT, COLUMNS)),
        )
    else:
        total = replace(total, cross=total.cross + 10 ** scales[2] * rng.normal(size=(OUT, D)))
    try:
        update = form.merge(total)
    except NumericError:
        return
    assert np.linalg.norm(update.dense()) ** 2 <= LIMITS.residuals / 4 * (1 + 1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@FORMS
def test_numbers_that_are_none_are_no_question_of_caps(form: Form, value: float) -> None:
    rng = np.random.default_rng(9)
    total = form.total(columns(rng, D, 4.0), columns(rng, OUT, 9.0))
    field = "cross" if isinstance(total, sk.DenseStatistics) else "cross_sketch"
    broken = getattr(total, field).copy()
    broken[0, 0] = value
    with pytest.raises(NumericError, match="finite") as caught:
        form.merge(replace(total, **{field: broken}))
    assert not isinstance(caught.value, BoundsError)


@FORMS
def test_exact_sums_of_nothing_pass_and_residuals_without_keys_do_not_matter(form: Form) -> None:
    nothing = form.total(np.zeros((D, 0)), np.zeros((OUT, 0)))
    assert form.merge(nothing, noise=0.0).rank == 0
    assert form.merge(nothing).rank == 0
    if isinstance(nothing, sk.DenseStatistics):
        bad = replace(nothing, cross=np.ones_like(nothing.cross))
        for noise in (0.0, NOISE):
            with pytest.raises(BoundsError):
                form.merge(bad, noise=noise)


# A party's own columns, the plan, and what a party takes from the aggregator.

FEDERATION = build_federation(4)
PLAN = FEDERATION.plan
FIRST = TaskIndex(0)


@pytest.mark.parametrize(("which", "name"), [(0, "key"), (1, "residual")])
def test_a_party_finds_its_own_column_beyond_a_cap(which: int, name: str) -> None:
    pair = [part.copy() for part in FEDERATION.edits[PartyId(1), FIRST]]
    cap = getattr(PLAN.bounds, f"{name}_energy")
    pair[which][:, 1] *= np.sqrt(cap) / np.linalg.norm(pair[which][:, 1])
    pair[which][:, 1] *= 1 - 1e-12
    contribution_vector(PLAN, FIRST, [(pair[0], pair[1])])
    pair[which][:, 1] *= 1 + 1e-6
    with pytest.raises(BoundsError, match=f"layer 0: the {name} of edit 2 of {EDITS_EACH}"):
        contribution_vector(PLAN, FIRST, [(pair[0], pair[1])])


@pytest.mark.parametrize("statistics", ['"sketch"', '"dense"'])
def test_the_caps_of_a_sum_follow_from_who_is_in_it(statistics: str) -> None:
    federation = build_federation(
        4, statistics=statistics, key_energy=15.0, residual_energy=100000.0
    )
    plan, rng = federation.plan, np.random.default_rng(0)
    everybody = plan.energy_limits(plan.party_ids)
    assert everybody == EnergyLimits(4 * EDITS_EACH * 15.0, 4 * EDITS_EACH * 100000.0)
    keys = columns(rng, MAPPED, 15.0 * (1 - 1e-9), 4 * EDITS_EACH)
    total = sum(
        contribution_vector(plan, FIRST, [(keys[:, start : start + 3], np.zeros((OUTPUTS, 3)))])
        for start in range(0, 4 * EDITS_EACH, 3)
    )
    assert isinstance(total, np.ndarray)
    merge_vector(plan, FIRST, total, survivors=plan.party_ids, noise=1e-12)
    with pytest.raises(BoundsError, match=r"layer 0: .*key_energy"):
        merge_vector(plan, FIRST, total, survivors=plan.party_ids[:3], noise=1e-12)


def test_a_party_refuses_an_update_that_no_edits_within_the_caps_make() -> None:
    rng = np.random.default_rng(1)
    update = LowRankUpdate(rng.normal(size=(OUTPUTS, 2)), rng.normal(size=(2, MAPPED)))
    largest = np.sqrt(4 * EDITS_EACH * PLAN.bounds.residual_energy / 4)
    scale = largest / np.linalg.norm(update.dense())
    fits = LowRankUpdate(update.left * scale, update.right)
    decode_bundle(PLAN, FIRST, encode_bundle({LayerIndex(0): fits}))
    for factor in (1.001, 1e100, 1e300):
        beyond = LowRankUpdate(fits.left * factor, fits.right)
        with pytest.raises(MalformedMessageError, match="larger than edits"):
            decode_bundle(PLAN, FIRST, encode_bundle({LayerIndex(0): beyond}))


@pytest.mark.parametrize("parties", [3, 5])
def test_a_sum_beyond_what_its_parties_can_add_up_to_is_refused(parties: int) -> None:
    fits = np.array([0.0, -parties * 2.0])
    bounds.check_magnitude(fits, parties=parties, bound=2.0, step=STEP)
    for beyond in (fits * 1.001, np.array([np.nan])):
        with pytest.raises(BoundsError):
            bounds.check_magnitude(beyond, parties=parties, bound=2.0, step=STEP)


# Past edits.

WEIGHT, PAST = 40.0, 2


def remembering(statistics: str, weight: float = WEIGHT) -> Plan:
    base = build_federation(
        4,
        statistics=f'"{statistics}"',
        key_energy=15.0,
        residual_energy=100.0,
        magnitude_bound=100000.0,
        fractional_bits=36,
        capacity=4 * (EDITS_EACH + PAST) + sk.OVERSAMPLING,
    )
    values = base.plan.model_dump(mode="json", exclude_none=True)
    return Plan.model_validate({**values, "memory": {"weight": weight, "max_edits": PAST}})


@pytest.mark.parametrize("statistics", ["sketch", "dense"])
@pytest.mark.parametrize("weight", [WEIGHT, 0.01])
def test_past_edits_have_room_of_their_own_and_no_more(statistics: str, weight: float) -> None:
    plan, rng = remembering(statistics, weight), np.random.default_rng(1)
    limits = plan.energy_limits(plan.party_ids)
    assert limits.keys == pytest.approx(4 * EDITS_EACH * 15.0 + 4 * PAST * weight * 15.0)
    assert limits.residuals == pytest.approx(4 * EDITS_EACH * 100.0)
    root = np.sqrt(weight)

    def contribution(keys: Matrix, past: Matrix) -> Matrix:
        wanted = np.zeros((OUTPUTS, keys.shape[1]))
        return contribution_vector(plan, FIRST, [(np.hstack([keys, root * past]), wanted)])

    def filled() -> tuple[Matrix, Matrix]:
        return columns(rng, MAPPED, 15.0 * (1 - 1e-9), EDITS_EACH), columns(rng, MAPPED, 15.0, PAST)

    total = np.sum([contribution(*filled()) for _ in plan.party_ids], axis=0)
    merge_vector(plan, FIRST, total, survivors=plan.party_ids, noise=1e-12)
    with pytest.raises(BoundsError, match=r"layer 0: .*key_energy"):
        merge_vector(plan, FIRST, total, survivors=plan.party_ids[:3], noise=1e-12)
    keys, past = filled()
    past[:, 1] *= 1 + 1e-6
    with pytest.raises(BoundsError, match=f"layer 0: the key of past edit 2 of {PAST}"):
        contribution(keys, past)


def test_keys_without_residuals_need_a_memory() -> None:
    keys, residuals = FEDERATION.edits[PartyId(1), FIRST]
    with pytest.raises(ValueError, match="without a memory"):
        contribution_vector(PLAN, FIRST, [(keys, residuals[:, :-1])])
    with pytest.raises(ValueError, match="shape"):
        contribution_vector(remembering("sketch"), FIRST, [(keys[:, :-1], residuals)])


@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_no_update_passes_by_factors_that_cancel(ridge: float) -> None:
    """Rounding of large factors that come to nothing would hide an update of any size."""
    rng = np.random.default_rng(0)
    limits = EnergyLimits(100.0, 100.0)
    for exponent in (6, 10, 20):
        for pairs in [1, 2, 3, 4] * 10:
            scale, signs = 10.0**exponent, np.tile([1.0, -1.0], pairs)
            columns = scale * np.repeat(rng.normal(size=(20, pairs)), 2, axis=1) * signs
            rows = np.repeat(rng.normal(size=(pairs, 48)), 2, axis=0)
            hidden = rng.normal(size=(20, 1)) * scale * 1e-8
            left = np.hstack([columns, hidden])
            right = np.vstack([rows, rng.normal(size=(1, 48))])
            with pytest.raises(BoundsError, match=r"cancel|larger than edits"):
                bounds.check_update(left, right, ridge=ridge, limits=limits)
