"""How far one edit, or one party, can move what is sent, and how much noise that takes."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit import privacy as pr
from collabedit import sketch as sk
from collabedit.bounds import check_projections
from collabedit.errors import BoundsError
from collabedit.exchange import contribution_vector, noise_room, plan_encoding
from collabedit.ids import TaskIndex
from collabedit.plan import Plan
from collabedit.sketch import Matrix
from tests.support.federations import MAPPED, OUTPUTS, build_federation

FIRST = TaskIndex(0)
KEY, RESIDUAL = 4.0, 9.0
WIDE = 200
"""d' for which some key of length 1 projects further on Ω than √m + 7."""
CAPS: dict[str, Any] = {"key_energy": KEY, "residual_energy": RESIDUAL, "magnitude_bound": 1000.0}
UNITS: tuple[pr.Unit, ...] = ("edit", "party")


def private(form: str, **changes: Any) -> Plan:  # noqa: ANN401  TOML values
    return build_federation(
        3, statistics=f'"{form}"', epsilon=10.0, noise_multiplier=0.57, **CAPS, **changes
    ).plan


def columns(rng: np.random.Generator, rows: int, energy: float, count: int) -> Matrix:
    made: Matrix = rng.normal(size=(rows, count))
    # A little inside, since float64 may round a norm beyond the cap.
    scaled: Matrix = made * np.sqrt(energy * (1 - 1e-12)) / np.linalg.norm(made, axis=0)
    return scaled


def moved(plan: Plan, before: tuple[Matrix, Matrix], after: tuple[Matrix, Matrix]) -> pr.Noise:
    """ℓ2 distances of two encoded contributions, as the ring has them, in reals."""
    encoding = plan_encoding(plan)
    one, two = (
        encoding.encode(contribution_vector(plan, FIRST, [pair])) for pair in (before, after)
    )
    difference = encoding.decode(one - two)
    split = plan.statistics_of(plan.editing.layers[0]).elements[0]
    return pr.Noise(
        float(np.linalg.norm(difference[:split])), float(np.linalg.norm(difference[split:]))
    )


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("form", ["sketch", "dense"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), bits=st.sampled_from([8, 12, 40]))
def test_one_unit_moves_a_contribution_no_further_than_its_sensitivity(
    form: str, unit: pr.Unit, seed: int, bits: int
) -> None:
    plan = private(form, fractional_bits=bits, unit=f'"{unit}"')
    rng = np.random.default_rng(seed)
    keys, residuals = columns(rng, MAPPED, KEY, 3), columns(rng, OUTPUTS, RESIDUAL, 3)
    if unit == "party":
        without = np.zeros((MAPPED, 0)), np.zeros((OUTPUTS, 0))
    else:
        without = keys[:, 1:], residuals[:, 1:]
    bound = pr.sensitivity(unit, plan.statistics_of(plan.editing.layers[0]))
    found = moved(plan, (keys, residuals), without)
    assert found.gram <= bound.gram
    assert found.cross <= bound.cross


@pytest.mark.parametrize("form", ["sketch", "dense"])
def test_the_sensitivity_is_not_far_from_what_an_edit_can_do(form: str) -> None:
    plan = private(form, mapped=WIDE)
    layer = plan.editing.layers[0]
    omega = sk.expand_test_matrix(bytes(32), layer=0, rows=WIDE, columns=plan.aggregation.capacity)
    rng = np.random.default_rng(1)
    if form == "dense":
        # The triangle of k̃k̃ᵀ is as long as the whole for a key along an axis.
        key = np.zeros((WIDE, 1))
        key[5] = 1.0
    else:
        # The longest projection that a party still contributes.
        left, values, _ = np.linalg.svd(omega)
        assert values[0] > pr.projection_bound(plan.aggregation.capacity)
        share = pr.projection_bound(plan.aggregation.capacity) ** 2 * (1 - 1e-9)
        low = (values[0] ** 2 - share) / (values[0] ** 2 - values[-1] ** 2)
        key = np.sqrt(1 - low) * left[:, :1] + np.sqrt(low) * left[:, len(values) - 1 :][:, :1]
    key *= np.sqrt(KEY * (1 - 1e-12)) / np.linalg.norm(key)
    residual = columns(rng, OUTPUTS, RESIDUAL, 1)
    empty = np.zeros((WIDE, 0)), np.zeros((OUTPUTS, 0))
    found = moved(plan, (key, residual), empty)
    bound = pr.sensitivity("edit", plan.statistics_of(layer))
    assert 0.999 * bound.gram < found.gram <= bound.gram
    assert 0.999 * bound.cross < found.cross <= bound.cross


def test_rounding_counts_where_steps_are_coarse() -> None:
    plan = private("sketch", fractional_bits=40)
    fine = plan.statistics_of(plan.editing.layers[0])
    coarse = replace(fine, step=0.5)
    more = pr.sensitivity("edit", coarse).gram - pr.sensitivity("edit", fine).gram
    assert more == pytest.approx(0.5 * math.sqrt(fine.elements[0]), rel=1e-6)


def test_all_parts_of_a_session_together_spend_its_multiplier() -> None:
    # Σ Δ²/(hσ²) = 1/z²: one Gaussian mechanism of that multiplier.
    for form in ("sketch", "dense"):
        plan = build_federation(
            5, layers=3, statistics=f'"{form}"', epsilon=1.0, noise_multiplier=4.6, honest=3, **CAPS
        ).plan
        spent = 0.0
        for layer in plan.editing.layers:
            scale = plan.noise(layer)
            change = pr.sensitivity("edit", plan.statistics_of(layer))
            spent += (change.gram / scale.gram) ** 2 + (change.cross / scale.cross) ** 2
        assert spent / 3 == pytest.approx(4.6**-2)


def test_a_plan_without_privacy_has_no_noise() -> None:
    plan = build_federation(3).plan
    assert plan.noise(plan.editing.layers[0]) == pr.NO_NOISE
    assert noise_room(plan, FIRST, parties=3) == 0.0


def test_a_key_that_projects_too_far_is_refused_and_only_with_privacy() -> None:
    plan = private("sketch", mapped=WIDE)
    capacity = plan.aggregation.capacity
    omega = sk.expand_test_matrix(bytes(32), layer=0, rows=WIDE, columns=capacity)
    left, values, _ = np.linalg.svd(omega)
    assert values[0] > pr.projection_bound(capacity)
    keys = np.sqrt(KEY * (1 - 1e-12)) * left[:, :1]
    pair = [(keys, np.zeros((OUTPUTS, 1)))]
    with pytest.raises(BoundsError, match="layer 0: the key of edit 1 of 1"):
        contribution_vector(plan, FIRST, pair)
    contribution_vector(plan.model_copy(update={"privacy": None}), FIRST, pair)
    contribution_vector(private("dense", mapped=WIDE), FIRST, pair)


def test_honest_keys_project_no_further_than_the_noise_is_made_for() -> None:
    rng = np.random.default_rng(3)
    omega = sk.expand_test_matrix(bytes(32), layer=0, rows=200, columns=64)
    keys = columns(rng, 200, KEY, 20_000)
    check_projections(
        keys,
        omega,
        reach=pr.projection_bound(64),
        key_energy=KEY,
    )
    # √m is where they are: without the seven deviations half of them would be refused.
    with pytest.raises(BoundsError):
        check_projections(keys, omega, reach=math.sqrt(64), key_energy=KEY)
