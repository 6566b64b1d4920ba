"""What the invariants of closed sums are, and what they tell (docs/closed-sums.md, 3 to 7)."""

from itertools import combinations

import numpy as np
import pytest

from collabedit.attacks.metrics import auc
from collabedit.attacks.span import range_basis, span_scores
from collabedit.crypto.fixedpoint import FixedPoint
from collabedit.crypto.ring import Ring
from collabedit.sketch import Matrix, expand_test_matrix, merge_sketch, sketch
from tests.support.closed_sums import (
    ENCODING,
    PARTIES,
    Basis,
    Edits,
    joined,
    opened,
    orthogonal,
    random_edits,
    statistics_from,
)

MAPPED, OUTPUTS = 48, 24
CAPACITY = 24
OMEGA = expand_test_matrix(bytes(32), layer=0, rows=MAPPED, columns=CAPACITY)
NOISE = ENCODING.step * np.sqrt(PARTIES / 12)


def fresh(seed: int, *, outputs: int = OUTPUTS) -> Basis:
    return Basis.fresh(np.random.default_rng(seed), mapped=MAPPED, outputs=outputs)


def some(seed: int, edits: int, *, spread: float = 0.0) -> Edits:
    return random_edits(
        np.random.default_rng(seed), mapped=MAPPED, outputs=OUTPUTS, edits=edits, spread=spread
    )


def seen(edits: Edits, seed: int) -> tuple[Matrix, Matrix]:
    """S' and T' as the aggregator has them: rotated, sketched, rounded, added."""
    basis = fresh(seed, outputs=len(edits.residuals))
    count = edits.keys.shape[1]
    parts = edits.split([count - 2 * (count // 3), count // 3, count // 3])
    view = opened(parts, OMEGA, basis=basis)
    return statistics_from(view, OMEGA, rank=count)


def spectrum(gram: Matrix, rank: int) -> Matrix:
    return np.linalg.eigvalsh(gram)[-rank:].astype(np.float64)


def inverse(matrix: Matrix, rank: int) -> Matrix:
    """Invert a positive semidefinite matrix on the `rank` largest eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    kept = vectors[:, -rank:]
    inverted: Matrix = (kept / values[-rank:]) @ kept.T
    return inverted


def square_root(matrix: Matrix, rank: int) -> Matrix:
    values, vectors = np.linalg.eigh(matrix)
    root: Matrix = vectors[:, -rank:] * np.sqrt(values[-rank:])
    return root


# Maximality.


def test_equal_invariants_are_one_orbit() -> None:
    # The proof's own construction: match eigenvectors up to signs, then the images under T.
    edits, rng = some(1, 5), np.random.default_rng(2)
    other = edits.turned(orthogonal(rng, MAPPED), orthogonal(rng, OUTPUTS), orthogonal(rng, 5))
    frames, images = [], []
    for one in (edits, other):
        _, vectors = np.linalg.eigh(one.gram)
        frames.append(vectors[:, -5:])
        images.append(one.cross @ vectors[:, -5:])
    grams = [image.T @ image for image in images]
    signs = np.sign(grams[0][0] * grams[1][0])
    np.testing.assert_allclose(spectrum(edits.gram, 5), spectrum(other.gram, 5), rtol=1e-11)
    np.testing.assert_allclose(grams[0], grams[1] * signs * signs[:, None], atol=1e-12)
    turn = _completed(frames[0], frames[1] * signs)
    upper = _completed(np.linalg.qr(images[0])[0], (images[1] * signs) @ _unmix(images[0]))
    np.testing.assert_allclose(turn @ edits.gram @ turn.T, other.gram, atol=1e-11)
    np.testing.assert_allclose(upper @ edits.cross @ turn.T, other.cross, atol=1e-11)


def _unmix(images: Matrix) -> Matrix:
    return np.linalg.inv(np.linalg.qr(images)[1])


def _completed(source: Matrix, target: Matrix) -> Matrix:
    """Return an orthogonal matrix that sends orthonormal columns to others."""
    bases = [np.linalg.svd(frame)[0][:, frame.shape[1] :] for frame in (source, target)]
    turn: Matrix = target @ source.T + bases[1] @ bases[0].T
    np.testing.assert_allclose(turn @ turn.T, np.eye(len(turn)), atol=1e-11)
    return turn


def test_the_two_spectra_alone_are_not_all() -> None:
    # Equal spectra of S and of the residuals, another position of the two: the update differs.
    edits = some(3, 4, spread=0.5)
    other = Edits(edits.keys, edits.residuals @ orthogonal(np.random.default_rng(4), 4))
    np.testing.assert_allclose(spectrum(edits.gram, 4), spectrum(other.gram, 4))
    np.testing.assert_allclose(np.linalg.svd(edits.residuals)[1], np.linalg.svd(other.residuals)[1])
    traces = [np.trace(one.gram @ one.cross.T @ one.cross) for one in (edits, other)]
    assert abs(traces[0] - traces[1]) > 0.1 * traces[0]


def test_the_sums_give_the_pair_of_gram_matrices() -> None:
    gram, cross = seen(some(5, 6), 6)
    root = square_root(gram, 6)
    # K̃ is root·O for some O: R is T·K̃(K̃ᵀK̃)⁻¹.
    residuals = cross @ root @ np.linalg.inv(root.T @ root)
    pair = (root.T @ root, residuals.T @ residuals)
    true = (some(5, 6).keys.T @ some(5, 6).keys, some(5, 6).residuals.T @ some(5, 6).residuals)
    for word in ((0,), (1,), (0, 1), (0, 0, 1), (0, 1, 1), (0, 0, 1, 1), (0, 1, 0, 1)):
        found, want = (
            np.trace(np.linalg.multi_dot([p[i] for i in (*word, 0)])) for p in (pair, true)
        )
        assert abs(found - want) < 1e-8 * abs(want), word


def test_one_value_basis_for_two_layers_would_tell_how_their_residuals_lie() -> None:
    first, second = some(7, 4), some(8, 4)
    want = np.linalg.svd(first.cross.T @ second.cross)[1][:4]

    def found(values: tuple[int, int]) -> Matrix:
        crosses = []
        for layer, (edits, seed) in enumerate(zip((first, second), values, strict=True)):
            basis = Basis(fresh(20 + layer).keys, fresh(seed).values)
            crosses.append(basis.rotate(edits).cross)
        return np.linalg.svd(crosses[0].T @ crosses[1])[1][:4]

    np.testing.assert_allclose(found((30, 30)), want, rtol=1e-10)
    assert np.abs(found((30, 31)) / want - 1).max() > 0.2


# Rounding.


def test_rounding_moves_an_entry_by_at_most_half_a_step_per_party() -> None:
    coarse = FixedPoint(Ring.Z64, fractional_bits=12, magnitude_bound=1e4, parties=PARTIES)
    edits, basis = some(9, 9), fresh(10)
    exact = basis.rotate(edits)
    total = sketch(exact.keys, exact.residuals, OMEGA).to_vector()
    views = [
        opened(edits.split(sizes), OMEGA, basis=basis, encoding=coarse).to_vector()
        for sizes in ((3, 3, 3), (7, 1, 1), (9, 0, 0))
    ]
    for view in views:
        assert np.abs(view - total).max() <= PARTIES / 2 * coarse.step * (1 + 1e-9)
    for one, other in combinations(views, 2):
        gaps = np.abs(one - other) / coarse.step
        np.testing.assert_allclose(gaps, np.rint(gaps), atol=1e-6)
        assert 0 < gaps.max() <= PARTIES


def test_rounding_tells_how_many_parties_brought_something() -> None:
    # The exact theorem is about the sums. Their last digits depend on the parts: a party without
    # an edit rounds nothing, and W = ΩᵀY is the less asymmetric the fewer parties rounded.
    edits = some(11, 9)

    def asymmetry(sizes: tuple[int, int, int], seed: int) -> float:
        overlap = OMEGA.T @ opened(edits.split(sizes), OMEGA, basis=fresh(seed)).gram_sketch
        return float(np.linalg.norm(overlap - overlap.T))

    alone = np.array([asymmetry((9, 0, 0), seed) for seed in range(40)])
    spread = np.array([asymmetry((3, 3, 3), 100 + seed) for seed in range(40)])
    assert spread.min() > alone.max()
    assert 1.5 < spread.mean() / alone.mean() < 2.0  # √3


# Directions.


@pytest.mark.parametrize("statistic", ["sum", "update"])
def test_candidates_are_found_without_a_basis_and_not_with_one(statistic: str) -> None:
    edits, crowd = some(12, 9), some(13, 300)
    candidates = np.concatenate([edits.keys, crowd.keys], axis=1)
    members = np.arange(309) < 9

    def score(basis: Basis | None) -> float:
        view = opened(edits.split((3, 3, 3)), OMEGA, basis=basis)
        matrix, noise = view.gram_sketch, NOISE
        if statistic == "update":
            matrix = merge_sketch(view, OMEGA, ridge=1.0, noise=NOISE).right.T
            noise = 0.0
        found = span_scores(range_basis(matrix, noise=noise), candidates)
        return auc(found, members).value

    assert score(None) == 1.0
    values = np.array([score(fresh(seed)) for seed in range(60)])
    assert abs(values.mean() - 0.5) < 4 * values.std() / np.sqrt(60)
    assert values.std() / np.sqrt(60) < 0.02


# What is left.


def dictionary(seed: int, size: int) -> Matrix:
    return some(seed, size, spread=0.3).keys


def test_a_single_edit_is_named_by_its_length() -> None:
    keys = dictionary(14, 20_000)
    lengths = (keys**2).sum(axis=0)
    for member in (0, 777, 19_999):
        edit = Edits(keys[:, [member]], some(15, 1).residuals)
        gram, _ = seen(edit, member)
        assert np.abs(lengths - np.trace(gram)).argmin() == member


def test_two_edits_are_named_by_two_eigenvalues() -> None:
    keys = dictionary(16, 400)
    products = keys.T @ keys
    lengths = np.diag(products)
    gram, _ = seen(Edits(keys[:, [31, 257]], some(17, 2).residuals), 18)
    values = spectrum(gram, 2)
    misses = np.abs(lengths[:, None] + lengths - values.sum())
    misses += np.abs(lengths[:, None] * lengths - products**2 - values.prod())
    misses[np.tril_indices(400)] = np.inf
    best = np.unravel_index(misses.argmin(), misses.shape)
    assert best == (31, 257)
    assert np.sort(misses.ravel())[1] > 100 * misses.min()


def test_one_unknown_edit_among_known_ones_is_named_by_the_spectrum() -> None:
    known, keys = some(19, 7), dictionary(20, 2000)
    edits = joined([known, Edits(keys[:, [1234]], some(21, 1).residuals)])
    values = spectrum(seen(edits, 22)[0], 8)
    inner = np.tile(np.pad(known.keys.T @ known.keys, (0, 1)), (2000, 1, 1))
    inner[:, 7, :7] = inner[:, :7, 7] = (known.keys.T @ keys).T
    inner[:, 7, 7] = (keys**2).sum(axis=0)
    misses = np.abs(np.linalg.eigvalsh(inner) - values).max(axis=1)
    assert misses.argmin() == 1234


def test_orthogonal_residuals_give_every_key_s_length() -> None:
    # In the eigenbasis of RᵀR, if its vectors are the edits, K̃ᵀK̃ has their lengths on its diagonal:
    # n searches for one edit each, not one for n.
    keys, members = dictionary(23, 20_000), [5, 600, 7000, 8111, 9222, 19_000]
    rng = np.random.default_rng(24)
    residuals = orthogonal(rng, OUTPUTS)[:, :6] * np.linspace(1.0, 2.0, 6)
    gram, cross = seen(Edits(keys[:, members], residuals), 25)
    root = square_root(gram, 6)
    found = cross @ root @ np.linalg.inv(root.T @ root)
    _, vectors = np.linalg.eigh(found.T @ found)
    lengths = np.diag(vectors.T @ root.T @ root @ vectors)
    named = np.abs((keys**2).sum(axis=0)[:, None] - lengths).argmin(axis=0)
    assert set(named) == set(members)


# Columns without a residual, and decoy outputs.


def with_covers(edits: Edits, covers: int, seed: int) -> Edits:
    cover = some(seed, covers)
    return joined([edits, Edits(cover.keys, np.zeros_like(cover.residuals))])


def peeled(gram: Matrix, cross: Matrix, *, columns: int) -> tuple[int, Matrix]:
    """Return the number of edits with a residual, and S of them alone."""
    residual_gram = cross @ inverse(gram, columns) @ cross.T
    values = np.linalg.eigvalsh(residual_gram)
    edits = int((values > 1e-6 * values[-1]).sum())
    return edits, cross.T @ inverse(residual_gram, edits) @ cross


def test_columns_without_a_residual_are_peeled_off() -> None:
    edits = some(26, 6)
    gram, cross = seen(with_covers(edits, 9, 27), 28)
    count, own = peeled(gram, cross, columns=15)
    assert count == 6
    np.testing.assert_allclose(spectrum(own, 6), spectrum(edits.gram, 6), rtol=1e-7)
    # S itself has been changed by them, beyond recognition.
    assert np.abs(spectrum(gram, 6) / spectrum(edits.gram, 6) - 1).max() > 0.1


def decoyed(edits: Edits, rng: np.random.Generator, *, rows: int, size: float) -> Edits:
    """Append outputs that are nobody's: `rows` rows of independent normals under the residuals."""
    extra = size * rng.normal(size=(rows, edits.keys.shape[1]))
    return Edits(edits.keys, np.concatenate([edits.residuals, extra]))


def test_decoy_outputs_keep_the_covers_and_leave_the_update_as_it_is() -> None:
    edits = some(29, 6)
    total = with_covers(edits, 9, 30)
    hidden = decoyed(total, np.random.default_rng(31), rows=CAPACITY, size=30.0)
    count, own = peeled(*seen(hidden, 32), columns=15)
    assert count == 15
    np.testing.assert_allclose(spectrum(own, 15), spectrum(total.gram, 15), rtol=1e-6)
    basis = fresh(33, outputs=OUTPUTS + CAPACITY)
    view = opened(hidden.split((5, 5, 5)), OMEGA, basis=basis)
    merged = basis.restore(merge_sketch(view, OMEGA, ridge=1.0, noise=NOISE).dense())[:OUTPUTS]
    system = np.eye(MAPPED) + total.gram
    want = np.linalg.solve(system, total.cross.T).T
    assert np.linalg.norm(merged - want) < 1e-9 * np.linalg.norm(want)


@pytest.mark.parametrize("share", [0.1, 4.0])
def test_decoy_outputs_hide_the_residuals_as_far_as_their_bound_says(share: float) -> None:
    # Over the same keys, residuals or none: the total variation of what the aggregator sees is at
    # most ‖R‖/(2σ). No test of one statistic may do better; with too small a σ one does well.
    keys, residuals = some(34, 3).keys, some(35, 3).residuals
    draws, rows = 4000, 8
    size = share * float(np.linalg.norm(residuals))

    def statistics(scale: float, seed: int) -> Matrix:
        rng = np.random.default_rng(seed)
        found = []
        for _ in range(draws):
            total = decoyed(Edits(keys, scale * residuals), rng, rows=rows, size=size).residuals
            gram = total.T @ total / size**2
            found.append([np.linalg.slogdet(gram)[1], np.trace(gram), np.linalg.eigvalsh(gram)[-1]])
        return np.array(found)

    first, second = statistics(0.0, 36), statistics(1.0, 37)
    gaps = []
    for column in range(first.shape[1]):
        border = np.median(np.concatenate([first[:, column], second[:, column]]))
        gaps.append(abs((first[:, column] > border).mean() - (second[:, column] > border).mean()))
    if share < 1:
        assert min(gaps) > 0.9
    else:
        assert max(gaps) <= 1 / (2 * share) + 4 / np.sqrt(draws)
