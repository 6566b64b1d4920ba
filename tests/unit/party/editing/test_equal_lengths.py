"""Keys of one length: the weighted least squares problem that a trustee would solve as well."""

from typing import Any

import numpy as np
import pytest

from collabedit.closed import Closed
from collabedit.editing import EditorName
from collabedit.errors import NumericError
from collabedit.party.editing.baselines import PastKeys, centralised
from collabedit.party.editing.key_map import key_scales
from collabedit.party.editing.proposal import (
    LENGTH_REACH,
    MAGNITUDE,
    fractional_bits,
)
from collabedit.plan import Plan
from tests.support.editors import EDITORS, with_editor
from tests.support.federations import build_federation
from tests.unit.party.editing.conftest import LoadTiny
from tests.unit.party.editing.test_editors import MOMENT, MOMENTS, OUTPUTS, SIZE
from tests.unit.party.editing.test_proposal import moments, propose

LENGTH = 1.5


def levelled(editor: EditorName) -> Plan:
    plan = with_editor(build_federation(3, mapped=SIZE, outputs=OUTPUTS).plan, editor, MOMENTS)
    values: dict[str, Any] = plan.model_dump(mode="json", exclude_none=True)
    values["editing"]["key_length"] = LENGTH
    return Plan.model_validate(values)


@pytest.mark.parametrize("editor", EDITORS)
def test_an_edit_is_as_strong_however_long_its_key_and_residual_are(editor: EditorName) -> None:
    rng = np.random.default_rng(1)
    keys, residuals = rng.normal(size=(SIZE, 4)), rng.normal(size=(OUTPUTS, 4))
    past = PastKeys(rng.normal(size=(SIZE, 2)), 2.0)
    editing = levelled(editor).editing
    want = centralised(editing, 0, keys, residuals, MOMENT, past=past)
    factors = np.array([0.2, 1.0, 5.0, 30.0])
    longer = PastKeys(past.keys * np.array([3.0, 0.1]), past.weight)
    scaled = centralised(editing, 0, keys * factors, residuals * factors, MOMENT, past=longer)
    np.testing.assert_allclose(scaled, want, rtol=1e-7, atol=1e-9)
    plain = centralised(
        editing.model_copy(update={"key_length": None}), 0, keys, residuals, MOMENT, past=past
    )
    if editor != "emmet":  # whose edits are constraints, which weights do not move
        assert np.linalg.norm(plain - want) > 1e-2 * np.linalg.norm(want)


def test_scales_give_the_plans_length_and_are_ones_without_it() -> None:
    editing = levelled("memit").editing
    keys = np.random.default_rng(0).normal(size=(SIZE, 5)) * np.geomspace(1e-3, 1e3, 5)
    lengths = np.linalg.norm(keys * key_scales(editing, keys), axis=0)
    np.testing.assert_allclose(lengths, LENGTH, rtol=1e-12)
    plain = editing.model_copy(update={"key_length": None})
    assert np.array_equal(key_scales(plain, keys), np.ones(5))
    assert key_scales(editing, keys[:, :0]).size == 0


@pytest.mark.parametrize("flaw", [0.0, np.nan, np.inf])
def test_a_key_that_cannot_be_scaled_is_named(flaw: float) -> None:
    keys = np.ones((SIZE, 3))
    keys[:, 1] = flaw
    with pytest.raises(NumericError, match="the mapped key of edit 2 of 3"):
        key_scales(levelled("memit").editing, keys)


def test_a_proposed_plan_has_room_for_what_it_asks_for(load_tiny: LoadTiny) -> None:
    model = load_tiny("llama")
    plain = propose(model, moments(model))
    closed = Closed(decoy_bound=0.01, cover_edits=2)
    plan = propose(model, moments(model), length_units=3.0, closed=closed)
    assert plain.editing.key_length is None
    # The cap is 100 of the units that the length is 3 of.
    assert plan.editing.key_length is not None
    assert plan.editing.key_length**2 == pytest.approx(plan.bounds.key_energy * 3 / 100)
    assert plan.bounds.residual_energy == LENGTH_REACH * plain.bounds.residual_energy
    assert plan.decoys == 3 * (4 + 2) + 1
    assert plan.aggregation.fractional_bits < plain.aggregation.fractional_bits
    assert plan.aggregation.capacity == plain.aggregation.capacity + 6


def test_decoys_take_their_bits_from_the_fraction() -> None:
    assert fractional_bits(64, 3) == fractional_bits(64, 3, MAGNITUDE)
    assert fractional_bits(64, 3, MAGNITUDE * 2**12) == fractional_bits(64, 3) - 12 + 0
    assert fractional_bits(64, 3, 1e9) < 40
