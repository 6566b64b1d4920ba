"""The sketch and the merge against the closed form, solved densely."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit import sketch as sk
from collabedit.errors import MalformedMessageError, NumericError

SEED = bytes(range(32))
FIXED_POINT_BITS = 40
PINNED_TEST_MATRIX = [
    ["-0x1.7cb54376b72a9p-1", "0x1.40f742d542d01p-1", "0x1.41ee4b5baca34p+0"],
    ["0x1.d46470422054fp-2", "0x1.e19f49b50fc9bp+0", "0x1.ffcad5fa4362dp-3"],
]


def random_edits(
    seed: int, *, mapped: int, outputs: int, counts: tuple[int, ...]
) -> list[tuple[sk.Matrix, sk.Matrix]]:
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=(mapped, n)) * 0.3, rng.normal(size=(outputs, n)) * 4.0) for n in counts
    ]


def closed_form(edits: list[tuple[sk.Matrix, sk.Matrix]], ridge: float) -> sk.Matrix:
    """T (ρI + S)⁻¹ by a plain dense solve over all edits pooled."""
    keys = np.concatenate([k for k, _ in edits], axis=1)
    residuals = np.concatenate([r for _, r in edits], axis=1)
    gram = keys @ keys.T + ridge * np.eye(len(keys))
    return np.linalg.solve(gram, keys @ residuals.T).T


def relative_error(got: sk.Matrix, want: sk.Matrix) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.lists(st.integers(0, 9), min_size=3, max_size=6).filter(any),
    ridge=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_merged_sketches_equal_the_pooled_closed_form(
    seed: int, counts: list[int], ridge: float
) -> None:
    mapped, outputs = 96, 40
    edits = random_edits(seed, mapped=mapped, outputs=outputs, counts=tuple(counts))
    columns = sum(counts) + sk.OVERSAMPLING
    omega = sk.expand_test_matrix(SEED, layer=4, rows=mapped, columns=columns)
    vector = np.sum([sk.sketch(k, r, omega).to_vector() for k, r in edits], axis=0)
    total = sk.GramSketch.from_vector(vector, mapped=mapped, outputs=outputs)
    update = sk.merge_sketch(total, omega, ridge=ridge, noise=0.0)
    assert update.rank <= sum(counts)
    assert relative_error(update.dense(), closed_form(edits, ridge)) < 1e-9


def test_sketch_survives_fixed_point_rounding() -> None:
    mapped, outputs = 512, 128
    edits = random_edits(1, mapped=mapped, outputs=outputs, counts=(10, 7, 12))
    omega = sk.expand_test_matrix(SEED, layer=0, rows=mapped, columns=29 + sk.OVERSAMPLING)
    step = 2.0**-FIXED_POINT_BITS
    rounded = [np.round(sk.sketch(k, r, omega).to_vector() / step) * step for k, r in edits]
    total = sk.GramSketch.from_vector(np.sum(rounded, axis=0), mapped=mapped, outputs=outputs)
    update = sk.merge_sketch(total, omega, ridge=1.0, noise=step * np.sqrt(3 / 12))
    assert relative_error(update.dense(), closed_form(edits, 1.0)) < 1e-9


def test_more_edits_than_capacity_is_wrong_which_is_why_the_plan_refuses_it() -> None:
    edits = random_edits(2, mapped=64, outputs=16, counts=(10, 10, 10))
    omega = sk.expand_test_matrix(SEED, layer=0, rows=64, columns=20)
    vector = np.sum([sk.sketch(k, r, omega).to_vector() for k, r in edits], axis=0)
    total = sk.GramSketch.from_vector(vector, mapped=64, outputs=16)
    update = sk.merge_sketch(total, omega, ridge=1.0, noise=0.0)
    assert relative_error(update.dense(), closed_form(edits, 1.0)) > 1e-2


def test_zero_ridge_interpolates_every_edit() -> None:
    edits = random_edits(3, mapped=80, outputs=20, counts=(5, 6, 4))
    omega = sk.expand_test_matrix(SEED, layer=0, rows=80, columns=15 + sk.OVERSAMPLING)
    vector = np.sum([sk.sketch(k, r, omega).to_vector() for k, r in edits], axis=0)
    total = sk.GramSketch.from_vector(vector, mapped=80, outputs=20)
    update = sk.merge_sketch(total, omega, ridge=0.0, noise=0.0)
    for keys, residuals in edits:
        np.testing.assert_allclose(update.dense() @ keys, residuals, atol=1e-8)


@pytest.mark.parametrize("spread", [1, 10, 100])
@pytest.mark.parametrize("form", ["sketch", "dense"])
def test_zero_ridge_survives_rounding_and_unequal_keys(spread: int, form: str) -> None:
    # ΔW = RK̃⁺ directly; the sketch's condition is the square of the keys', not its fourth power.
    edits = random_edits(11, mapped=128, outputs=32, counts=(9, 8, 9))
    lengths = np.geomspace(1, 1 / spread, 26)
    keys = np.concatenate([k for k, _ in edits], axis=1) * lengths
    residuals = np.concatenate([r for _, r in edits], axis=1)
    omega = sk.expand_test_matrix(SEED, layer=0, rows=128, columns=26 + sk.OVERSAMPLING)
    step = 2.0**-FIXED_POINT_BITS
    noise = step * np.sqrt(3 / 12)
    parts = [slice(0, 9), slice(9, 17), slice(17, 26)]
    if form == "sketch":
        vectors = [sk.sketch(keys[:, part], residuals[:, part], omega) for part in parts]
        total = np.sum([np.round(v.to_vector() / step) * step for v in vectors], axis=0)
        sketched = sk.GramSketch.from_vector(total, mapped=128, outputs=32)
        update = sk.merge_sketch(sketched, omega, ridge=0.0, noise=noise)
    else:
        sums = [sk.dense_statistics(keys[:, part], residuals[:, part]) for part in parts]
        total = np.sum([np.round(v.to_vector() / step) * step for v in sums], axis=0)
        dense = sk.DenseStatistics.from_vector(total, mapped=128, outputs=32)
        update = sk.merge_dense(dense, ridge=0.0, noise=noise)
    assert update.rank == 26
    assert relative_error(update.dense(), residuals @ np.linalg.pinv(keys)) < 5e-9


def test_zero_ridge_drops_what_only_rounding_made() -> None:
    (keys, residuals), *_ = random_edits(12, mapped=64, outputs=16, counts=(6,))
    edits = [(keys, residuals), (keys[:, :3], residuals[:, :3])]
    omega = sk.expand_test_matrix(SEED, layer=0, rows=64, columns=17)
    step = 2.0**-FIXED_POINT_BITS
    rounded = [np.round(sk.sketch(k, r, omega).to_vector() / step) * step for k, r in edits]
    total = sk.GramSketch.from_vector(np.sum(rounded, axis=0), mapped=64, outputs=16)
    update = sk.merge_sketch(total, omega, ridge=0.0, noise=step * np.sqrt(2 / 12))
    assert update.rank == 6
    np.testing.assert_allclose(update.dense() @ keys, residuals, atol=1e-8)


def test_duplicate_keys_leave_the_sketch_exact() -> None:
    (keys, residuals), *_ = random_edits(4, mapped=64, outputs=16, counts=(6,))
    edits = [(keys, residuals), (keys, residuals), (keys[:, :2], residuals[:, :2])]
    omega = sk.expand_test_matrix(SEED, layer=0, rows=64, columns=22)
    vector = np.sum([sk.sketch(k, r, omega).to_vector() for k, r in edits], axis=0)
    total = sk.GramSketch.from_vector(vector, mapped=64, outputs=16)
    update = sk.merge_sketch(total, omega, ridge=1.0, noise=0.0)
    assert update.rank == 6
    assert relative_error(update.dense(), closed_form(edits, 1.0)) < 1e-9


def test_dense_merge_equals_the_closed_form() -> None:
    edits = random_edits(5, mapped=64, outputs=24, counts=(7, 3, 9))
    vector = np.sum([sk.dense_statistics(k, r).to_vector() for k, r in edits], axis=0)
    total = sk.DenseStatistics.from_vector(vector, mapped=64, outputs=24)
    np.testing.assert_array_equal(total.gram, total.gram.T)
    update = sk.merge_dense(total, ridge=1.0, noise=0.0)
    assert relative_error(update.dense(), closed_form(edits, 1.0)) < 1e-11


def test_no_edits_anywhere_give_a_zero_update() -> None:
    omega = sk.expand_test_matrix(SEED, layer=0, rows=32, columns=8)
    total = sk.GramSketch(np.zeros((32, 8)), np.zeros((5, 8)))
    assert sk.merge_sketch(total, omega, ridge=1.0, noise=1e-12).rank == 0


def test_merge_refuses_what_is_no_sketch() -> None:
    omega = sk.expand_test_matrix(SEED, layer=0, rows=32, columns=16)
    (keys, residuals), *_ = random_edits(6, mapped=32, outputs=8, counts=(4,))
    honest = sk.sketch(keys, residuals, omega)
    tampered = honest.gram_sketch.copy()
    tampered[3, 5] += 0.5
    with pytest.raises(NumericError, match="not symmetric"):
        sk.merge_sketch(sk.GramSketch(tampered, honest.cross_sketch), omega, ridge=1.0, noise=1e-12)
    with pytest.raises(NumericError, match="positive semidefinite"):
        sk.merge_sketch(
            sk.GramSketch(-honest.gram_sketch, honest.cross_sketch), omega, ridge=1.0, noise=1e-12
        )
    broken = honest.cross_sketch.copy()
    broken[0, 0] = np.nan
    with pytest.raises(NumericError, match="finite"):
        sk.merge_sketch(sk.GramSketch(honest.gram_sketch, broken), omega, ridge=1.0, noise=0.0)


def test_test_matrix_is_standard_normal_and_depends_on_seed_and_layer() -> None:
    omega = sk.expand_test_matrix(SEED, layer=1, rows=5000, columns=20)
    assert abs(omega.mean()) < 0.02
    assert abs(omega.std() - 1.0) < 0.02
    assert abs((omega**4).mean() - 3.0) < 0.2
    np.testing.assert_array_equal(
        omega, sk.expand_test_matrix(SEED, layer=1, rows=5000, columns=20)
    )
    assert not np.array_equal(omega, sk.expand_test_matrix(SEED, layer=2, rows=5000, columns=20))
    assert not np.array_equal(
        omega, sk.expand_test_matrix(bytes(32), layer=1, rows=5000, columns=20)
    )


def test_test_matrix_vector() -> None:
    """Pinned so that a second implementation can check its expansion; see SPEC 6.2."""
    omega = sk.expand_test_matrix(SEED, layer=4, rows=2, columns=3)
    expected = [[float.fromhex(x) for x in row] for row in PINNED_TEST_MATRIX]
    np.testing.assert_allclose(omega, expected, rtol=1e-14)


def test_canonical_factors_depend_on_the_product_alone() -> None:
    rng = np.random.default_rng(7)
    left, right = rng.normal(size=(9, 4)), rng.normal(size=(4, 13))
    mixing = rng.normal(size=(4, 4))
    one = sk.LowRankUpdate(left, right).canonical()
    other = sk.LowRankUpdate(left @ np.linalg.inv(mixing), mixing @ right).canonical()
    np.testing.assert_allclose(one.dense(), left @ right, atol=1e-12)
    np.testing.assert_allclose(one.left, other.left, atol=1e-10)
    np.testing.assert_allclose(one.right, other.right, atol=1e-10)


def recover_gram_sketch(update: sk.LowRankUpdate, omega: sk.Matrix) -> sk.Matrix:
    """Y from the factors of the solve, by docs/mathematics.md section 7 (ρ = 1)."""
    right = update.right
    inner = np.linalg.pinv(right @ omega) @ (np.eye(len(right)) - right @ right.T)
    recovered: sk.Matrix = (np.linalg.pinv(inner.T) @ right).T
    return recovered


def test_released_factors_do_not_give_the_sums_back() -> None:
    edits = random_edits(10, mapped=64, outputs=24, counts=(4, 5, 3))
    omega = sk.expand_test_matrix(SEED, layer=0, rows=64, columns=12 + sk.OVERSAMPLING)
    vector = np.sum([sk.sketch(k, r, omega).to_vector() for k, r in edits], axis=0)
    total = sk.GramSketch.from_vector(vector, mapped=64, outputs=24)
    gram = total.gram_sketch
    values, vectors = np.linalg.eigh(omega.T @ gram + gram.T @ gram)
    basis = vectors[:, -12:] / np.sqrt(values[-12:])
    solved = sk.LowRankUpdate(total.cross_sketch @ basis, (gram @ basis).T)
    assert relative_error(recover_gram_sketch(solved, omega), gram) < 1e-8
    released = sk.merge_sketch(total, omega, ridge=1.0, noise=0.0)
    assert relative_error(released.dense(), solved.dense()) < 1e-10
    assert relative_error(recover_gram_sketch(released, omega), gram) > 0.1


def test_update_round_trips_and_refuses_damage() -> None:
    rng = np.random.default_rng(8)
    update = sk.LowRankUpdate(rng.normal(size=(5, 3)), rng.normal(size=(3, 7)))
    data = update.to_bytes()
    back = sk.LowRankUpdate.from_bytes(data, outputs=5, mapped=7, capacity=3)
    np.testing.assert_array_equal(back.left, update.left)
    np.testing.assert_array_equal(back.right, update.right)
    assert back.to_bytes() == data
    for bad in (data[:-1], data + b"\0", data[:10], b"XXXX" + data[4:]):
        with pytest.raises(MalformedMessageError):
            sk.LowRankUpdate.from_bytes(bad, outputs=5, mapped=7, capacity=3)
    with pytest.raises(MalformedMessageError, match="the plan has"):
        sk.LowRankUpdate.from_bytes(data, outputs=5, mapped=7, capacity=2)
    with pytest.raises(MalformedMessageError, match="the plan has"):
        sk.LowRankUpdate.from_bytes(data, outputs=6, mapped=7, capacity=3)
    infinite = sk.LowRankUpdate(np.full((5, 3), np.inf), update.right).to_bytes()
    with pytest.raises(MalformedMessageError, match="finite"):
        sk.LowRankUpdate.from_bytes(infinite, outputs=5, mapped=7, capacity=3)


def test_repr_shows_shapes_and_no_number() -> None:
    (keys, residuals), *_ = random_edits(9, mapped=8, outputs=4, counts=(2,))
    assert repr(sk.dense_statistics(keys, residuals)) == "DenseStatistics(d'=8, d_out=4)"
    omega = sk.expand_test_matrix(SEED, layer=0, rows=8, columns=3)
    assert repr(sk.sketch(keys, residuals, omega)) == "GramSketch(d'=8, d_out=4)"
