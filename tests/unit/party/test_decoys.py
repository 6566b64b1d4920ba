"""Decoy outputs: the update stays what it was, a lie about it is noticed, residuals do not show."""

from dataclasses import replace

import numpy as np
import pytest

from collabedit.attacks.views import statistics_of
from collabedit.errors import PlanError
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party.closing import UnverifiedError
from collabedit.party.contribution import bring
from collabedit.party.cover import with_cover
from collabedit.party.decoys import with_decoys
from collabedit.sketch import LowRankUpdate, Matrix
from tests.support.federations import OUTPUTS, TestFederation
from tests.support.randomness import InsecureTestRandomness
from tests.unit.party.test_closing import FORMS, TASK, Merging, closed, closed_federation

COVERS = 2
SECTION = f"decoy_bound = 0.01\ncover_edits = {COVERS}"
ROOM = {"fractional_bits": 34, "magnitude_bound": 9e7}
FIRST = LayerIndex(0)


def decoyed(*, section: str = SECTION, **changes: object) -> TestFederation:
    layers = int(str(changes.pop("layers", 1)))
    room = {"capacity": 12 + 4 * COVERS + 8, **ROOM, **changes}
    return closed_federation(layers=layers, section=section, **room)  # type: ignore[arg-type]


def merged(federation: TestFederation) -> Merging:
    def covered(party: PartyId) -> list[tuple[Matrix, Matrix]]:
        own = federation.statistics(party, TASK)
        return with_cover(federation.plan, own, InsecureTestRandomness(party))

    return Merging.of(federation, statistics=covered)


def cover_free(federation: TestFederation, layer: int) -> Matrix:
    return federation.centralised(frozenset(federation.plan.party_ids), TaskIndex(layer))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layers", [1, 2])
def test_the_update_is_what_it_is_without_decoys(form: str, layers: int) -> None:
    federation = decoyed(section="decoy_bound = 0.01", statistics=form, layers=layers)
    opened = Merging.of(federation).open()
    for index, update in opened.updates.items():
        want = cover_free(federation, int(index))
        assert update.left.shape[0] == OUTPUTS
        assert np.linalg.norm(update.dense() - want) < 1e-7 * np.linalg.norm(want)
    assert all(check.miss < 1e-7 < check.tolerance < 1e-2 for check in opened.checks)


def test_an_opened_update_has_the_rank_of_its_edits() -> None:
    federation = decoyed()
    merging = merged(federation)
    released = merging.updates()[FIRST]
    assert released.rank == 12 + 4 * COVERS
    opened = merging.open()
    assert opened.updates[FIRST].rank == 12 == opened.checks[0].edits


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_a_lie_about_the_residuals_rows_is_noticed(share: float) -> None:
    federation = decoyed()
    merging = merged(federation)
    true = merging.updates()[FIRST]
    scaled = LowRankUpdate(true.left * (1 + share), true.right)
    with pytest.raises(UnverifiedError, match="not the merge"):
        merging.open({FIRST: scaled})
    # Below the size of the decoys, and beyond that of the update.
    rng = np.random.default_rng(0)
    lie = rng.normal(size=true.left.shape) * share * np.linalg.norm(true.left, axis=0)
    lie /= np.sqrt(len(true.left))
    with pytest.raises(UnverifiedError):
        merging.open({FIRST: LowRankUpdate(true.left + lie, true.right)})


def test_decoys_of_a_lie_do_not_matter() -> None:
    """What the aggregator makes of the noise is no part of any update, and not checked."""
    federation = decoyed()
    merging = merged(federation)
    true = merging.updates()[FIRST]
    plan = federation.plan
    _, outputs = closed(plan)._rotations(plan.editing.layers[0])
    turned = outputs.undo(true.left)
    turned[OUTPUTS:] *= 1.01
    released = LowRankUpdate(outputs.apply(turned), true.right).canonical()
    opened = merging.open({FIRST: released}).updates[FIRST].dense()
    want = merging.open().updates[FIRST].dense()
    np.testing.assert_allclose(opened, want, atol=1e-6 * np.abs(want).max())


def test_an_update_that_hides_its_size_behind_decoys_is_refused() -> None:
    """Within what decoys allow the released one to be, and beyond what edits allow."""
    federation = decoyed(residual_energy=4000.0)
    plan = federation.plan
    limits = plan.summed_limits(plan.party_ids)
    assert limits.residuals > 1e4 * plan.energy_limits(plan.party_ids).residuals
    merging = merged(federation)
    true = merging.updates()[FIRST]
    _, outputs = closed(plan)._rotations(plan.editing.layers[0])
    turned = outputs.undo(true.left)
    turned[:OUTPUTS] *= 100
    grown = LowRankUpdate(outputs.apply(turned), true.right).canonical()
    with pytest.raises(UnverifiedError):
        merging.open({FIRST: grown})


def peeled(merging: Merging) -> Matrix:
    """Eigenvalues of Tᵀ(TS⁺Tᵀ)⁺T above rounding, descending: of the keys that have a residual.

    Proposition 5 of docs/closed-sums.md, from what the aggregator opens in its own coordinates.
    """
    gram, cross = statistics_of(merging.plan, FIRST, merging.total)
    values, vectors = np.linalg.eigh(gram)
    seen = values > 1e-6 * values[-1]
    inner = (cross @ vectors[:, seen] / np.sqrt(values[seen])).T
    energies, directions = np.linalg.eigh(inner @ inner.T)
    kept = directions[:, energies > 1e-8 * energies[-1]]
    basis = vectors[:, seen] * np.sqrt(values[seen]) @ kept
    found: Matrix = np.sort(np.linalg.eigvalsh(basis.T @ basis))[::-1]
    return found


def test_columns_with_a_residual_are_no_longer_told_apart() -> None:
    dense = {"statistics": '"dense"'}
    federation = decoyed(section=f"cover_edits = {COVERS}", **dense)
    own = [federation.statistics(party, TASK)[0][0] for party in federation.plan.party_ids]
    keys = np.concatenate(own, axis=1)
    edits = np.sort(np.linalg.eigvalsh(keys.T @ keys))[::-1]
    np.testing.assert_allclose(peeled(merged(federation)), edits, rtol=1e-5)

    hidden = merged(decoyed(**dense))
    gram, _ = statistics_of(hidden.plan, FIRST, hidden.total)
    everything = np.linalg.eigvalsh(gram)[::-1][: 12 + 4 * COVERS]
    np.testing.assert_allclose(peeled(hidden), everything, rtol=1e-5)


def test_a_contribution_is_the_same_from_the_same_seed_only() -> None:
    federation = decoyed()
    plan = federation.plan
    own = with_cover(plan, federation.statistics(PartyId(1), TASK), InsecureTestRandomness(1))
    one, again, other = (
        closed(plan).contribute(PartyId(1), own, decoy_seed=seed * 32)
        for seed in (b"a", b"a", b"b")
    )
    assert np.array_equal(one, again)
    length = plan.statistics_length(TASK)
    assert np.mean(one[:length] != other[:length]) > 0.3


def test_what_is_brought_holds_a_seed_of_the_partys_own() -> None:
    federation = decoyed()
    plan = federation.plan
    own = with_cover(plan, federation.statistics(PartyId(1), TASK), InsecureTestRandomness(1))
    first, second = (
        bytes(bring(plan, PartyId(1), TASK, own, InsecureTestRandomness(seed))) for seed in (1, 2)
    )
    assert first[:32] != second[:32]
    assert first[32:] == second[32:]


def test_decoy_rows_are_of_the_plans_deviation_and_under_every_column() -> None:
    federation = decoyed()
    plan, layer = federation.plan, federation.plan.editing.layers[0]
    residuals = federation.statistics(PartyId(1), TASK)[0][1]
    found = with_decoys(plan, layer, residuals, columns=5, seed=b"s" * 32)
    assert found.shape == (OUTPUTS + plan.decoys, 5)
    assert np.array_equal(found[:OUTPUTS, :3], residuals)
    assert not found[:OUTPUTS, 3:].any()
    assert found[OUTPUTS:].std() == pytest.approx(plan.decoy_deviation, rel=0.3)
    # ‖R‖_F/(2σ) is the plan's bound where every residual is at its cap.
    most = plan.energy_limits(plan.party_ids).residuals
    assert np.sqrt(most) / (2 * plan.decoy_deviation) == pytest.approx(0.01)
    assert plan.decoys == plan.max_columns(plan.party_ids) + 1


def test_a_plan_without_room_for_decoys_is_refused() -> None:
    with pytest.raises(PlanError, match="magnitude_bound 10000 has no room for decoys"):
        closed_federation(section="decoy_bound = 0.01")
    with pytest.raises(PlanError, match="decoy_bound"):
        closed_federation(section="decoy_bound = 0.0", **ROOM)  # type: ignore[arg-type]


def test_without_decoys_nothing_changes() -> None:
    plan = closed_federation().plan
    assert plan.decoys == 0
    assert plan.decoy_deviation == 0
    layer = plan.editing.layers[0]
    assert plan.summed_outputs(layer) == layer.outputs
    assert plan.summed_limits(plan.party_ids) == plan.energy_limits(plan.party_ids)
    residuals = np.ones((OUTPUTS, 2))
    assert with_decoys(plan, layer, residuals, columns=2, seed=None) is residuals
    assert replace(plan.summed_limits(plan.party_ids), keys=1.0).keys == 1.0
