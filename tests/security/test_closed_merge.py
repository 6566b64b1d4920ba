"""The merge of rotated sums, rotated back, is the merge of plain sums (docs/closed-sums.md, 2).

Each editor's published closed form, dense and over all edits in one place, is the reference.
"""

from dataclasses import dataclass

import numpy as np
import pytest

from collabedit.sketch import (
    DenseStatistics,
    GramSketch,
    Matrix,
    dense_statistics,
    expand_test_matrix,
    merge_dense,
    merge_sketch,
    sketch,
)
from tests.support.closed_sums import ENCODING, PARTIES, Basis, Edits, joined, opened, random_edits

INPUTS, OUTPUTS, EACH = 64, 24, 4
CAPACITY = PARTIES * EACH + 8
OMEGA = expand_test_matrix(bytes(32), layer=0, rows=INPUTS, columns=CAPACITY)
LIMIT = 1e-9


@dataclass(frozen=True)
class Case:
    """An editor: Φ [d', d_in], ρ, and its own formula of K and R."""

    key_map: Matrix
    ridge: float
    expected: Matrix


def raw_edits() -> list[Edits]:
    rng = np.random.default_rng(7)
    return [random_edits(rng, mapped=INPUTS, outputs=OUTPUTS, edits=EACH) for _ in range(PARTIES)]


def case_of(editor: str) -> Case:
    rng = np.random.default_rng(8)
    text = rng.normal(size=(INPUTS, 4 * INPUTS)) * np.geomspace(1.0, 0.05, INPUTS)[:, None]
    moment = text @ text.T / text.shape[1]
    edits, eye = joined(raw_edits()), np.eye(INPUTS)
    keys, residuals = edits.keys, edits.residuals
    inverse = np.linalg.inv(np.linalg.cholesky(moment))
    if editor == "memit":
        system = moment + edits.gram
        return Case(inverse, 1.0, np.linalg.solve(system, edits.cross.T).T)
    if editor == "ridge":
        shift = 0.7
        system = edits.gram + np.exp(shift) * eye
        return Case(np.exp(-shift / 2) * eye, 1.0, np.linalg.solve(system, edits.cross.T).T)
    if editor == "alphaedit":
        values, vectors = np.linalg.eigh(moment)
        projector = vectors[:, values < 0.05] @ vectors[:, values < 0.05].T
        system = edits.gram @ projector + 2.0 * eye
        return Case(
            projector / np.sqrt(2.0), 1.0, np.linalg.solve(system.T, (edits.cross @ projector).T).T
        )
    scaled = np.linalg.solve(moment, keys)
    return Case(inverse, 0.0, residuals @ np.linalg.solve(keys.T @ scaled, scaled.T))


def relative(got: Matrix, want: Matrix) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.fixture
def basis() -> Basis:
    return Basis.fresh(np.random.default_rng(9), mapped=INPUTS, outputs=OUTPUTS)


def added(parts: list[Edits]) -> GramSketch:
    sketches = [sketch(part.keys, part.residuals, OMEGA) for part in parts]
    return GramSketch(
        np.sum([s.gram_sketch for s in sketches], axis=0),
        np.sum([s.cross_sketch for s in sketches], axis=0),
    )


@pytest.mark.parametrize("editor", ["memit", "ridge", "alphaedit", "emmet"])
def test_sketched_merge_commutes_with_the_basis(editor: str, basis: Basis) -> None:
    case = case_of(editor)
    parts = [Edits(case.key_map @ part.keys, part.residuals) for part in raw_edits()]
    plain = merge_sketch(added(parts), OMEGA, ridge=case.ridge, noise=0.0).dense()
    rotated = merge_sketch(
        added([basis.rotate(part) for part in parts]), OMEGA, ridge=case.ridge, noise=0.0
    ).dense()
    assert relative(rotated, plain) > 0.5
    assert relative(basis.restore(rotated), plain) < LIMIT
    assert relative(basis.restore(rotated) @ case.key_map, case.expected) < LIMIT


@pytest.mark.parametrize("editor", ["memit", "ridge", "alphaedit", "emmet"])
def test_dense_merge_commutes_with_the_basis(editor: str, basis: Basis) -> None:
    case = case_of(editor)
    parts = [Edits(case.key_map @ part.keys, part.residuals) for part in raw_edits()]
    total = joined([basis.rotate(part) for part in parts])
    statistics = dense_statistics(total.keys, total.residuals)
    rotated = merge_dense(statistics, ridge=case.ridge, noise=0.0).dense()
    assert relative(basis.restore(rotated) @ case.key_map, case.expected) < LIMIT


@pytest.mark.parametrize("editor", ["memit", "ridge", "alphaedit", "emmet"])
def test_it_does_so_through_fixed_point(editor: str, basis: Basis) -> None:
    case = case_of(editor)
    parts = [Edits(case.key_map @ part.keys, part.residuals) for part in raw_edits()]
    noise = ENCODING.step * np.sqrt(PARTIES / 12)
    total = opened(parts, OMEGA, basis=basis)
    merged = merge_sketch(total, OMEGA, ridge=case.ridge, noise=noise).dense()
    assert relative(basis.restore(merged) @ case.key_map, case.expected) < LIMIT
    vectors = [
        ENCODING.encode(dense_statistics(part.keys, part.residuals).to_vector())
        for part in map(basis.rotate, parts)
    ]
    dense = DenseStatistics.from_vector(
        ENCODING.decode(np.sum(vectors, axis=0, dtype=np.uint64)), mapped=INPUTS, outputs=OUTPUTS
    )
    merged = merge_dense(dense, ridge=case.ridge, noise=noise).dense()
    assert relative(basis.restore(merged) @ case.key_map, case.expected) < LIMIT


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 1.0, 30.0])
def test_past_keys_and_covers_commute_as_well(ridge: float, basis: Basis) -> None:
    rng = np.random.default_rng(10)
    parts = raw_edits()
    past = random_edits(rng, mapped=INPUTS, outputs=OUTPUTS, edits=6)
    silent = Edits(past.keys, np.zeros_like(past.residuals))
    total = joined([*parts, silent])
    want = merge_sketch(added([total]), OMEGA, ridge=ridge, noise=0.0).dense()
    got = merge_sketch(added([basis.rotate(total)]), OMEGA, ridge=ridge, noise=0.0).dense()
    assert relative(basis.restore(got), want) < LIMIT
    assert relative(want, merge_sketch(added(parts), OMEGA, ridge=ridge, noise=0.0).dense()) > 1e-4


def test_a_test_matrix_against_one_key_loses_the_key_but_not_in_a_basis(basis: Basis) -> None:
    # Ω is the plan's. One that is orthogonal to a key leaves this edit out, whatever m is; in a
    # basis that nobody knew when Ω was written, no Ω of full rank does.
    parts = raw_edits()
    key = parts[0].keys[:, :1]
    blind = OMEGA - key @ (key.T @ OMEGA) / float((key**2).sum())
    want = merge_sketch(added(parts), OMEGA, ridge=1.0, noise=0.0).dense()

    def merged(used: list[Edits]) -> Matrix:
        sketches = [sketch(part.keys, part.residuals, blind) for part in used]
        total = GramSketch(
            np.sum([s.gram_sketch for s in sketches], axis=0),
            np.sum([s.cross_sketch for s in sketches], axis=0),
        )
        return merge_sketch(total, blind, ridge=1.0, noise=0.0).dense()

    assert relative(merged(parts), want) > 0.05
    assert relative(basis.restore(merged([basis.rotate(part) for part in parts])), want) < LIMIT
