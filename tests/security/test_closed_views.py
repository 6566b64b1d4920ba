"""Views of equal invariants cannot be told apart, others can (docs/closed-sums.md, section 3).

Two parties hold fixed edits, A or B, a third one fresh random edits in every view. B = (Q₀K̃O,
U₀RO) has other keys, other uploads and A's invariants. Whoever looks knows A and B, has labelled
views of both to learn from, and is asked which of the two a new view holds. Each control has the
same lookers. All randomness is seeded: these tests do not fail by chance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from scipy.fft import dct

from collabedit.party.basis import Rotation
from collabedit.sketch import GramSketch, Matrix, expand_test_matrix
from tests.support.closed_sums import (
    Basis,
    Edits,
    block_orthogonal,
    joined,
    opened,
    orthogonal,
    random_edits,
    statistics_from,
)
from tests.support.two_samples import (
    accuracy_on_others,
    energy_p_value,
    is_chance,
    linear,
    mmd_p_value,
    nearest,
    quadratic,
)

MAPPED, OUTPUTS = 12, 8
SIZES = (2, 2)
FRESH = 2
RANK = sum(SIZES) + FRESH
OMEGA = expand_test_matrix(bytes(32), layer=0, rows=MAPPED, columns=RANK + 8)[:, : RANK + 2]
VIEWS = 3000
COMPARED = 500

pytestmark = pytest.mark.slow

_RNG = np.random.default_rng(20)
_LENGTHS = np.array([1.6, 0.6, 1.1, 0.8])
_FIXED = random_edits(_RNG, mapped=MAPPED, outputs=OUTPUTS, edits=sum(SIZES))
A = Edits(_FIXED.keys * _LENGTHS, _FIXED.residuals)
LEFT, UPPER = orthogonal(_RNG, MAPPED), orthogonal(_RNG, OUTPUTS)
B = A.turned(LEFT, UPPER, block_orthogonal(_RNG, SIZES))
"""Other directions; what each party holds has the invariants of what it holds in A."""
MIXED = A.turned(LEFT, UPPER, orthogonal(_RNG, sum(SIZES)))
"""Only the sums have A's invariants: no party's part has those of its part in A."""
EVEN = Edits(
    LEFT @ _FIXED.keys * np.linalg.norm(A.keys) / np.linalg.norm(_FIXED.keys),
    UPPER @ A.residuals,
)
"""Of another spectrum, with A's trace."""
SETS = {"A": A, "B": B, "mixed": MIXED, "even": EVEN}


@dataclass(frozen=True)
class Mixed:
    """A matrix that is orthogonal, but not Haar-distributed."""

    matrix: Matrix

    @classmethod
    def plain(cls, size: int) -> "Mixed":
        return cls(np.eye(size))

    @classmethod
    def fresh(cls, rng: np.random.Generator, size: int) -> "Mixed":
        """Random signs, a cosine transform, and a permutation: the usual cheap mixing."""
        signs = rng.choice([-1.0, 1.0], size)
        return cls((dct(np.eye(size), norm="ortho", axis=0) * signs)[rng.permutation(size)])

    def apply(self, columns: Matrix) -> Matrix:
        return self.matrix @ columns

    def undo(self, columns: Matrix) -> Matrix:
        return self.matrix.T @ columns


def draw(fixed: Edits, rng: np.random.Generator, basis: Callable[[], Basis | None]) -> GramSketch:
    fresh = random_edits(rng, mapped=MAPPED, outputs=OUTPUTS, edits=FRESH)
    fresh = Edits(0.3 * fresh.keys, fresh.residuals)
    return opened([*fixed.split(SIZES), fresh], OMEGA, basis=basis())


@cache
def views(name: str, basis: str = "fresh") -> list[GramSketch]:
    """Draw views of the named edits; of A and of others from different seeds."""
    rng = np.random.default_rng(1 if name == "A" else 2)
    stale = Basis.fresh(np.random.default_rng(5), mapped=MAPPED, outputs=OUTPUTS)
    choices: dict[str, Callable[[], Basis | None]] = {
        "fresh": lambda: Basis.fresh(rng, mapped=MAPPED, outputs=OUTPUTS),
        "stale": lambda: stale,
        "none": lambda: None,
        "keys alone": lambda: Basis(Rotation(rng.bytes(32), MAPPED), Mixed.plain(OUTPUTS)),
        "residuals alone": lambda: Basis(Mixed.plain(MAPPED), Rotation(rng.bytes(32), OUTPUTS)),
        "mixed": lambda: Basis(Mixed.fresh(rng, MAPPED), Mixed.fresh(rng, OUTPUTS)),
    }
    return [draw(SETS[name], rng, choices[basis]) for _ in range(VIEWS)]


def entries(sample: list[GramSketch]) -> Matrix:
    return np.stack([view.to_vector() for view in sample])


def projections(sample: list[GramSketch]) -> Matrix:
    """k̃ᵀS'k̃, rᵀT'k̃, ‖T'k̃‖² and ‖T'ᵀr‖² for the keys k̃ and residuals r of both known edit sets."""
    known = joined([A, B])
    rows = []
    for view in sample:
        gram, cross = statistics_from(view, OMEGA, rank=RANK)
        images = cross @ known.keys
        rows.append(
            np.concatenate(
                [
                    np.einsum("dn,de,en->n", known.keys, gram, known.keys),
                    np.einsum("on,on->n", known.residuals, images),
                    (images**2).sum(axis=0),
                    ((cross.T @ known.residuals) ** 2).sum(axis=0),
                ]
            )
        )
    return np.stack(rows)


def invariants(sample: list[GramSketch]) -> Matrix:
    """The spectrum of S', and lengths of T'·v over its eigenvectors v."""
    rows = []
    for view in sample:
        gram, cross = statistics_from(view, OMEGA, rank=RANK)
        values, vectors = np.linalg.eigh(gram)
        lengths = np.linalg.norm(cross @ vectors[:, -RANK:], axis=0)
        rows.append(np.concatenate([values[-RANK:], lengths]))
    return np.stack(rows)


LOOKERS = {
    "linear on entries": (entries, linear),
    "quadratic on entries": (entries, quadratic),
    "neighbours of entries": (entries, nearest),
    "linear on projections": (projections, linear),
    "quadratic on projections": (projections, quadratic),
    "neighbours of projections": (projections, nearest),
    "quadratic on invariants": (invariants, quadratic),
    "neighbours of invariants": (invariants, nearest),
}


def accuracies(first: list[GramSketch], second: list[GramSketch]) -> dict[str, tuple[int, int]]:
    features = {show: (show(first), show(second)) for show in (entries, projections, invariants)}
    return {
        name: accuracy_on_others(*features[show], learn) for name, (show, learn) in LOOKERS.items()
    }


@pytest.mark.parametrize("other", ["B", "mixed"])
def test_equal_invariants_cannot_be_told_apart(other: str) -> None:
    first, second = views("A"), views(other)
    for name, (right, count) in accuracies(first, second).items():
        assert is_chance(right, count), (name, right / count)
    for show in (entries, projections, invariants):
        rows, others = show(first[:COMPARED]), show(second[:COMPARED])
        scale = rows.std(axis=0)
        assert mmd_p_value(rows / scale, others / scale, seed=3) > 0.005, show
        assert energy_p_value(rows / scale, others / scale, seed=4) > 0.005, show


@pytest.mark.parametrize("basis", ["none", "stale"])
def test_without_a_fresh_basis_they_are_told_apart(basis: str) -> None:
    # A basis that is used again hides nothing from who has seen labelled views in it.
    first, second = views("A", basis), views("B", basis)
    found = accuracies(first, second)
    assert found["linear on entries"][0] == found["linear on entries"][1]
    assert found["neighbours of entries"][0] == found["neighbours of entries"][1]
    rows, others = entries(first[:COMPARED]), entries(second[:COMPARED])
    scale = rows.std(axis=0)
    assert mmd_p_value(rows / scale, others / scale, seed=3) == 1 / 500
    assert energy_p_value(rows / scale, others / scale, seed=4) == 1 / 500


@pytest.mark.parametrize("basis", ["none", "keys alone", "residuals alone"])
def test_known_directions_tell_everything_without_both_rotations(basis: str) -> None:
    found = accuracies(views("A", basis), views("B", basis))
    for name in ("quadratic on projections", "neighbours of projections"):
        right, count = found[name]
        assert right > 0.99 * count, name


def test_cheap_mixing_is_noticed() -> None:
    # It is no Haar matrix, and the lookers see that: they would see a basis that is not.
    found = accuracies(views("A", "mixed"), views("B", "mixed"))
    right, count = found["linear on entries"]
    assert right > 0.54 * count
    assert not is_chance(right, count)


def test_other_invariants_are_told_apart_in_spite_of_the_basis() -> None:
    first, second = views("A"), views("even")
    found = accuracies(first, second)
    for name in ("quadratic on invariants", "neighbours of invariants"):
        right, count = found[name]
        assert right > 0.97 * count, (name, right / count)
    # The trace is equal, so the mean of every entry is, too.
    assert is_chance(*found["linear on entries"])
    rows, others = invariants(first[:COMPARED]), invariants(second[:COMPARED])
    scale = rows.std(axis=0)
    assert mmd_p_value(rows / scale, others / scale, seed=3) == 1 / 500
    assert energy_p_value(rows / scale, others / scale, seed=4) == 1 / 500
