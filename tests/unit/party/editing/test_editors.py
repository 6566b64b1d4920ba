"""Every editor against its own published closed form, and what happens if editors are mixed.

The closed forms are those of `baselines.py`; here they are first held against the least squares
problem that each paper states, so that formula and implementation are not one person's slip.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from collabedit.editing import EditorName
from collabedit.errors import InputError, NumericError, PlanError
from collabedit.exchange import contribution_vector, merge_vector, plan_encoding
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party.editing.baselines import (
    PastKeys,
    centralised,
    centralised_alphaedit,
    centralised_emmet,
    centralised_ridge,
)
from collabedit.party.editing.covariance import Covariance
from collabedit.party.editing.editor import key_maps
from collabedit.party.editing.key_map import KeyMap, null_space_size
from collabedit.plan import Plan
from collabedit.sketch import Matrix
from tests.support.editors import (
    EDITORS,
    L2,
    SHIFT,
    Statistics,
    middle_eigenvalue,
    random_second_moment,
    with_editor,
)
from tests.support.federations import build_federation

SIZE, OUTPUTS, PARTIES, EDITS_EACH = 64, 24, 4, 3
MOMENT = random_second_moment(7, SIZE)
MOMENTS = {0: MOMENT}
THRESHOLD = middle_eigenvalue(MOMENTS)
TASK, LAYER = TaskIndex(0), LayerIndex(0)


def relative_error(got: Matrix, want: Matrix) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def projector() -> Matrix:
    values, vectors = np.linalg.eigh(MOMENT)
    small = vectors[:, values < THRESHOLD]
    made: Matrix = small @ small.T
    return made


@dataclass
class Scene:
    """Keys and residuals by party, and the plan of an editor over them."""

    plan: Plan
    keys: list[Matrix]
    residuals: list[Matrix]
    past: list[Matrix] = field(default_factory=list)

    def without_last(self) -> "Scene":
        keys = [keys[:, :-1] for keys in self.keys]
        return replace(self, keys=keys, residuals=[wanted[:, :-1] for wanted in self.residuals])

    @property
    def pooled(self) -> tuple[Matrix, Matrix]:
        return np.concatenate(self.keys, axis=1), np.concatenate(self.residuals, axis=1)

    def maps(self) -> list[KeyMap]:
        """Φ as each party computes it for itself."""
        covariance = None if self.plan.editing.covariance is None else Covariance(MOMENTS, 1, {})
        return [key_maps(self.plan, covariance)[0] for _ in self.keys]

    def merged(self, maps: Sequence[KeyMap]) -> list[Matrix]:
        """Sketch, fixed point, ring sum, merge; then ΔW as each party maps it back."""
        encoding = plan_encoding(self.plan)
        total = np.zeros(self.plan.task_length(TASK), dtype=encoding.ring.dtype)
        for party, key_map in enumerate(maps):
            mapped = key_map.map_keys(self.keys[party])
            if self.past and self.plan.memory is not None:
                root = np.sqrt(self.plan.memory.weight)
                mapped = np.hstack([mapped, root * key_map.map_keys(self.past[party])])
            statistics = [(mapped, self.residuals[party])]
            total += encoding.encode(contribution_vector(self.plan, TASK, statistics))
        updates = merge_vector(
            self.plan,
            TASK,
            encoding.decode(total),
            survivors=[PartyId(party) for party in range(1, PARTIES + 1)],
            noise=encoding.step * np.sqrt(PARTIES / 12),
        )
        update = updates[LAYER]
        return [update.left @ key_map.unmap_rows(update.right) for key_map in maps]

    def centralised(self) -> Matrix:
        past = None
        if self.past and self.plan.memory is not None:
            past = PastKeys(np.concatenate(self.past, axis=1), self.plan.memory.weight)
        return centralised(self.plan.editing, 0, *self.pooled, MOMENT, past=past)


def scene(editor: EditorName, statistics: Statistics = "sketch", *, seed: int = 3) -> Scene:
    base = build_federation(
        PARTIES,
        mapped=SIZE,
        outputs=OUTPUTS,
        edits_each=EDITS_EACH,
        statistics=f'"{statistics}"',
        key_energy=1e5,
    )
    rng = np.random.default_rng(seed)
    return Scene(
        with_editor(base.plan, editor, MOMENTS),
        [rng.normal(size=(SIZE, EDITS_EACH)) for _ in range(PARTIES)],
        [rng.normal(size=(OUTPUTS, EDITS_EACH)) for _ in range(PARTIES)],
    )


# The published forms solve the problems that their papers state.


@pytest.fixture
def edits() -> tuple[Matrix, Matrix]:
    return scene("memit").pooled


def test_ridge_is_least_squares_with_a_ridge(edits: tuple[Matrix, Matrix]) -> None:
    keys, residuals = edits
    update = centralised_ridge(keys, residuals, SHIFT)
    # Half the gradient of ‖ΔW K - R‖² + e^λ ‖ΔW‖².
    gradient = (update @ keys - residuals) @ keys.T + np.exp(SHIFT) * update
    np.testing.assert_allclose(gradient, 0, atol=1e-11)


def test_alphaedit_is_ridge_inside_the_null_space(edits: tuple[Matrix, Matrix]) -> None:
    keys, residuals = edits
    update = centralised_alphaedit(keys, residuals, MOMENT, threshold=THRESHOLD, l2=L2)
    inside = projector()
    # Half the gradient of ‖ΔW P K - R‖² + L₂ ‖ΔW P‖² along matrices of the form XP, with ΔW = ΔW P.
    np.testing.assert_allclose(update @ inside, update, atol=1e-12)
    gradient = ((update @ keys - residuals) @ keys.T + L2 * update) @ inside
    np.testing.assert_allclose(gradient, 0, atol=1e-11)


def test_alphaedit_s_paper_and_code_agree(edits: tuple[Matrix, Matrix]) -> None:
    keys, residuals = edits
    inside = projector()
    # arXiv 2410.02355 without earlier edits, with L₂ in place of 1.
    paper = residuals @ keys.T @ inside @ np.linalg.inv(keys @ keys.T @ inside + L2 * np.eye(SIZE))
    code = centralised_alphaedit(keys, residuals, MOMENT, threshold=THRESHOLD, l2=L2)
    assert relative_error(code, paper) < 1e-11


def test_emmet_is_the_least_change_that_meets_every_edit(edits: tuple[Matrix, Matrix]) -> None:
    keys, residuals = edits
    update = centralised_emmet(keys, residuals, MOMENT)
    np.testing.assert_allclose(update @ keys, residuals, atol=1e-9)
    # Lagrange: the gradient ΔW C₀ of half tr(ΔW C₀ ΔWᵀ) is ΛKᵀ, so its rows are in K's range.
    rows = (update @ MOMENT).T
    fitted = keys @ np.linalg.lstsq(keys, rows, rcond=None)[0]
    np.testing.assert_allclose(fitted, rows, atol=1e-9)
    assert relative_error(centralised_emmet(keys, residuals, 50 * MOMENT), update) < 1e-10


def test_emmet_with_a_repeated_key_takes_the_pseudo_inverse(edits: tuple[Matrix, Matrix]) -> None:
    keys, residuals = edits
    twice = centralised_emmet(
        np.concatenate([keys, keys[:, :2]], axis=1),
        np.concatenate([residuals, residuals[:, :2]], axis=1),
        MOMENT,
    )
    assert relative_error(twice, centralised_emmet(keys, residuals, MOMENT)) < 1e-9


def test_a_closed_form_without_its_parameters_is_refused() -> None:
    plan = scene("alphaedit").plan
    with pytest.raises(ValueError, match="alphaedit"):
        centralised(plan.editing, 0, np.ones((SIZE, 1)), np.ones((OUTPUTS, 1)), None)


# Merged by several parties.


@pytest.mark.parametrize("statistics", ["sketch", "dense"])
@pytest.mark.parametrize("editor", EDITORS)
def test_the_merge_of_parties_is_the_editor_s_own_closed_form(
    editor: EditorName, statistics: Statistics
) -> None:
    several = scene(editor, statistics)
    want = several.centralised()
    for update in several.merged(several.maps()):
        assert relative_error(update, want) < 1e-8


@pytest.mark.parametrize("statistics", ["sketch", "dense"])
def test_emmet_s_constraints_hold_where_a_party_repeats_another_s_edit(
    statistics: Statistics,
) -> None:
    several = scene("emmet", statistics)
    several.keys[1][:, 0] = several.keys[0][:, 0]
    several.residuals[1][:, 0] = several.residuals[0][:, 0]
    update = several.merged(several.maps())[0]
    assert relative_error(update, several.centralised()) < 1e-8
    keys, residuals = several.pooled
    np.testing.assert_allclose(update @ keys, residuals, atol=1e-7)


# With past edits.


def remembering(editor: EditorName, weight: float, statistics: Statistics = "sketch") -> Scene:
    """A scene in which the last key of each party is a past one."""
    several = scene(editor, statistics)
    values = several.plan.model_dump(mode="json", exclude_none=True)
    values["aggregation"] |= {"capacity": PARTIES * (EDITS_EACH + 1) + 8, "magnitude_bound": 1e6}
    plan = Plan.model_validate({**values, "memory": {"weight": weight, "max_edits": 1}})
    return replace(several, plan=plan, past=[keys[:, -1:] for keys in several.keys]).without_last()


@pytest.mark.parametrize("statistics", ["sketch", "dense"])
@pytest.mark.parametrize("weight", [1.0, 30.0])
@pytest.mark.parametrize("editor", EDITORS)
def test_past_keys_are_left_alone_as_each_editor_s_own_memory_does(
    editor: EditorName, weight: float, statistics: Statistics
) -> None:
    several = remembering(editor, weight, statistics)
    want = several.centralised()
    forgetful = replace(several, past=[]).centralised()
    new, wanted = several.pooled
    (past,) = [np.concatenate(several.past, axis=1)]
    for update in several.merged(several.maps()):
        assert relative_error(update, want) < 1e-8
        assert np.linalg.norm(update @ past) < 0.9 * np.linalg.norm(forgetful @ past)
        if editor == "emmet":
            np.testing.assert_allclose(update @ past, 0, atol=1e-7)
            np.testing.assert_allclose(update @ new, wanted, atol=1e-7)
    # The normal equations as the papers write them, by a plain inverse.
    gram = new @ new.T + weight * past @ past.T
    if editor == "alphaedit":
        matrix = projector() @ gram + L2 * np.eye(SIZE)
        plain = wanted @ new.T @ projector() @ np.linalg.inv(matrix).T
    elif editor == "emmet":
        both, zeros = np.hstack([new, past]), np.zeros((OUTPUTS, past.shape[1]))
        white = np.linalg.inv(MOMENT) @ both
        plain = np.hstack([wanted, zeros]) @ np.linalg.inv(both.T @ white) @ white.T
    else:
        mass = several.plan.editing.covariance_weight
        base = np.exp(SHIFT) * np.eye(SIZE) if mass is None else mass * MOMENT
        plain = wanted @ new.T @ np.linalg.inv(base + gram)
    assert relative_error(want, plain) < 1e-8


def test_emmet_s_weight_decides_only_where_a_past_key_is_a_new_one() -> None:
    light, heavy = (remembering("emmet", weight) for weight in (1.0, 100.0))
    assert relative_error(heavy.centralised(), light.centralised()) < 1e-9
    for several, weight in ((light, 1.0), (heavy, 100.0)):
        several.past[0] = several.keys[0][:, :1].copy()
        update = several.merged(several.maps())[0]
        assert relative_error(update, several.centralised()) < 1e-7
        # Least squares over the two columns of one key: its residual once, zero w times.
        share = several.residuals[0][:, 0] / (1 + weight)
        np.testing.assert_allclose(update @ several.keys[0][:, 0], share, atol=1e-6)


# Mixing editors.


def test_naive_mixtures_of_alphaedit_are_wrong_where_the_merge_is_right() -> None:
    several = scene("alphaedit")
    want = several.centralised()
    alone = [
        centralised_alphaedit(keys, residuals, MOMENT, threshold=THRESHOLD, l2=L2)
        for keys, residuals in zip(several.keys, several.residuals, strict=True)
    ]
    grams = [keys @ keys.T for keys in several.keys]
    covariance = 30.0 * MOMENT
    # CollabEdit's rule, which is exact for MEMIT: (Σ ΔW_i (C + S_i)) (C + Σ S_i)⁻¹.
    pushes = [update @ (covariance + gram) for update, gram in zip(alone, grams, strict=True)]
    mixed = np.linalg.solve(covariance + np.sum(grams, axis=0), np.sum(pushes, axis=0).T).T
    outside = np.eye(SIZE) - projector()
    for name, update, least in (
        ("MEMIT's rule", mixed, 0.2),
        ("average", np.mean(alone, axis=0), 0.5),
        ("sum", np.sum(alone, axis=0), 0.1),
    ):
        assert relative_error(update, want) > least, name
    # MEMIT's rule also leaves the null space, which is what AlphaEdit is for.
    assert np.linalg.norm(mixed @ outside) > 0.01 * np.linalg.norm(mixed)
    merged = several.merged(several.maps())[0]
    assert relative_error(merged, want) < 1e-8
    assert np.linalg.norm(merged @ outside) < 1e-12 * np.linalg.norm(merged)


def test_memit_s_rule_is_exact_for_memit() -> None:
    # So the rule in the test above is the published one, and what fails there is the mixture.
    several = scene("memit")
    weight = several.plan.editing.covariance_weight
    assert weight is not None
    covariance = weight * MOMENT
    total, grams = np.zeros((OUTPUTS, SIZE)), np.zeros((SIZE, SIZE))
    for keys, residuals in zip(several.keys, several.residuals, strict=True):
        own = centralised(several.plan.editing, 0, keys, residuals, MOMENT)
        total += own @ (covariance + keys @ keys.T)
        grams += keys @ keys.T
    merged = np.asarray(np.linalg.solve(covariance + grams, total.T).T, dtype=np.float64)
    assert relative_error(merged, several.centralised()) < 1e-10


# Other machines.


Eigh = Callable[[Matrix], tuple[Matrix, Matrix]]


def other_solver(seed: int, *, kept: int) -> Eigh:
    """An eigensolver of another machine: off by rounding, with another basis of the null space.

    Within the kept eigenvectors, and within the others, any rotation at all: more than a solver
    may do, and just what the projector must not see.
    """
    rng = np.random.default_rng(seed)
    true = np.linalg.eigh

    def solve(matrix: Matrix) -> tuple[Matrix, Matrix]:
        noise = rng.normal(size=matrix.shape) * np.finfo(np.float64).eps * np.linalg.norm(matrix, 2)
        values, vectors = true(matrix + (noise + noise.T) / 2)
        for part in (slice(0, kept), slice(kept, None)):
            size = vectors[:, part].shape[1]
            turn, _ = np.linalg.qr(rng.normal(size=(size, size)))
            vectors[:, part] = vectors[:, part] @ turn
        return values, vectors

    return solve


def test_another_eigensolver_at_each_party_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    several = scene("alphaedit")
    want = several.centralised()
    kept = several.plan.editing.layers[0].kept
    assert kept is not None
    maps = []
    for party in range(PARTIES):
        with monkeypatch.context() as patch:
            patch.setattr(np.linalg, "eigh", other_solver(party, kept=kept))
            maps.append(several.maps()[0])
    first, second = (key_map._basis for key_map in maps[:2])
    assert first is not None
    assert second is not None
    assert relative_error(first, second) > 0.5  # the bases have nothing in common
    for update in several.merged(maps):
        assert relative_error(update, want) < 1e-8
    # In coordinates of these bases the sums would mean nothing.
    in_bases = [key_map._basis.T for key_map in maps if key_map._basis is not None]
    gram, cross = np.zeros((kept, kept)), np.zeros((OUTPUTS, kept))
    for basis, keys, residuals in zip(in_bases, several.keys, several.residuals, strict=True):
        mapped = basis @ keys / np.sqrt(L2)
        gram += mapped @ mapped.T
        cross += residuals @ mapped.T
    wrong = np.linalg.solve(np.eye(kept) + gram, cross.T).T @ in_bases[0] / np.sqrt(L2)
    assert relative_error(wrong, want) > 0.5


@pytest.mark.parametrize("editor", ["memit", "emmet"])
def test_a_cholesky_factor_that_is_off_by_rounding_changes_nothing(
    editor: EditorName, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = scene(editor)
    true, maps = np.linalg.cholesky, []
    for party in range(PARTIES):
        rng = np.random.default_rng(party)

        def other(matrix: Matrix, rng: np.random.Generator = rng) -> Matrix:
            noise = rng.normal(size=matrix.shape) * np.finfo(np.float64).eps
            return np.asarray(true(matrix * (1 + (noise + noise.T) / 2)), dtype=np.float64)

        with monkeypatch.context() as patch:
            patch.setattr(np.linalg, "cholesky", other)
            maps.append(several.maps()[0])
    first, second = (key_map._lower for key_map in maps[:2])
    assert first is not None
    assert second is not None
    assert not np.array_equal(first, second)
    for update in several.merged(maps):
        assert relative_error(update, several.centralised()) < 1e-8


def test_the_null_space_is_cut_where_the_plan_says() -> None:
    kept = null_space_size(MOMENT, THRESHOLD)
    assert kept == SIZE // 2
    with pytest.raises(PlanError, match=f"keeps {kept + 1} .* has {kept} eigenvalues"):
        KeyMap.from_null_space(MOMENT, kept=kept + 1, threshold=THRESHOLD, l2=L2)
    with pytest.raises(PlanError, match=f"keeps {kept - 1} "):
        KeyMap.from_null_space(MOMENT, kept=kept - 1, threshold=THRESHOLD, l2=L2)
    with pytest.raises(PlanError, match="keeps 100 "):
        KeyMap.from_null_space(MOMENT, kept=100, threshold=THRESHOLD, l2=L2)


def test_an_eigenvalue_at_the_threshold_belongs_where_the_plan_has_it() -> None:
    # Rounding puts it on either side; the plan's number decides, and no party differs.
    moment = np.diag([1e-3, 1e-2, 0.5, 1.0])
    for kept in (1, 2):
        key_map = KeyMap.from_null_space(moment, kept=kept, threshold=1e-2, l2=1.0)
        np.testing.assert_allclose(np.diag(key_map.map_keys(np.eye(4))), np.arange(4) < kept)


@pytest.mark.parametrize(
    ("threshold", "said"), [(1e-9, "no eigenvalues"), (1e9, "all eigenvalues")]
)
def test_a_threshold_that_cuts_nothing_is_refused_with_the_spectrum(
    threshold: float, said: str
) -> None:
    with pytest.raises(NumericError, match=said):
        null_space_size(MOMENT, threshold)


def test_a_cut_between_equal_eigenvalues_is_refused() -> None:
    moment = np.diag([1e-3, 1e-2, 1e-2 * (1 + 1e-12), 1.0])
    with pytest.raises(NumericError, match="apart"):
        null_space_size(moment, 1e-2 * (1 + 5e-13))
    with pytest.raises(NumericError, match="not finite"):
        null_space_size(np.full((3, 3), np.nan), 1e-2)


def test_key_maps_without_their_covariance_are_refused() -> None:
    with pytest.raises(InputError, match="memit"):
        key_maps(scene("memit").plan, None)
    with pytest.raises(InputError, match="ridge"):
        key_maps(scene("ridge").plan, Covariance(MOMENTS, 1, {}))
