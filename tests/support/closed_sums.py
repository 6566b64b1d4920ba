"""Edits, rotations and the sums that an aggregator opens, for the tests of docs/closed-sums.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from collabedit.crypto.fixedpoint import FixedPoint
from collabedit.crypto.ring import Ring
from collabedit.party.basis import Rotation
from collabedit.sketch import GramSketch, Matrix, sketch

PARTIES = 3
ENCODING = FixedPoint(Ring.Z64, fractional_bits=40, magnitude_bound=1e4, parties=PARTIES)


@dataclass(frozen=True)
class Edits:
    """Columns of one party or of all: K̃ [d', n] and R [d_out, n]."""

    keys: Matrix
    residuals: Matrix

    @property
    def gram(self) -> Matrix:
        """S, [d', d']."""
        return self.keys @ self.keys.T

    @property
    def cross(self) -> Matrix:
        """T, [d_out, d']."""
        return self.residuals @ self.keys.T

    def turned(self, left: Matrix, outputs: Matrix, mixing: Matrix) -> "Edits":
        """Return other edits with equal invariants: Q₀K̃O and U₀RO."""
        return Edits(left @ self.keys @ mixing, outputs @ self.residuals @ mixing)

    def split(self, sizes: Sequence[int]) -> list["Edits"]:
        """Deal the columns out to parties."""
        borders = np.cumsum(sizes)[:-1]
        keys = np.split(self.keys, borders, axis=1)
        residuals = np.split(self.residuals, borders, axis=1)
        return [Edits(k, r) for k, r in zip(keys, residuals, strict=True)]


def joined(parts: Sequence[Edits]) -> Edits:
    return Edits(
        np.concatenate([part.keys for part in parts], axis=1),
        np.concatenate([part.residuals for part in parts], axis=1),
    )


def random_edits(
    rng: np.random.Generator, *, mapped: int, outputs: int, edits: int, spread: float = 0.0
) -> Edits:
    """Draw edits whose keys have length about 1, and residuals about 3.

    Args:
        rng: seeded.
        mapped: d'.
        outputs: d_out.
        edits: n.
        spread: of the logarithms of the lengths, for keys that differ in length.
    """
    keys = rng.normal(size=(mapped, edits)) / np.sqrt(mapped)
    residuals = 3 * rng.normal(size=(outputs, edits)) / np.sqrt(outputs)
    return Edits(
        keys * np.exp(spread * rng.normal(size=edits)),
        residuals * np.exp(spread * rng.normal(size=edits)),
    )


def orthogonal(rng: np.random.Generator, size: int) -> Matrix:
    """Return a random orthogonal matrix that shares no code with `Rotation`."""
    q, r = np.linalg.qr(rng.normal(size=(size, size)))
    signed: Matrix = q * np.sign(np.diag(r))
    return signed


def block_orthogonal(rng: np.random.Generator, sizes: Sequence[int]) -> Matrix:
    """Return an O that mixes no two parties' columns."""
    mixing = np.zeros((sum(sizes), sum(sizes)))
    start = 0
    for size in sizes:
        mixing[start : start + size, start : start + size] = orthogonal(rng, size)
        start += size
    return mixing


class Orthogonal(Protocol):
    """What `Rotation` does, for bases that are not Haar as well."""

    def apply(self, columns: Matrix) -> Matrix: ...

    def undo(self, columns: Matrix) -> Matrix: ...


@dataclass(frozen=True)
class Basis:
    """Q and U of one task."""

    keys: Orthogonal
    values: Orthogonal

    @classmethod
    def fresh(cls, rng: np.random.Generator, *, mapped: int, outputs: int) -> "Basis":
        return cls(Rotation(rng.bytes(32), mapped), Rotation(rng.bytes(32), outputs))

    def rotate(self, edits: Edits) -> Edits:
        return Edits(self.keys.apply(edits.keys), self.values.apply(edits.residuals))

    def restore(self, update: Matrix) -> Matrix:
        """Undo both on an update in the aggregator's coordinates: UᵀΔ'Q, [d_out, d']."""
        return self.values.undo(self.keys.undo(update.T).T)


def opened(
    parts: Sequence[Edits],
    omega: Matrix,
    *,
    basis: Basis | None = None,
    encoding: FixedPoint = ENCODING,
) -> GramSketch:
    """Return what the aggregator opens: each party's sketch rounded to fixed point, then added."""
    rotated = parts if basis is None else [basis.rotate(part) for part in parts]
    vectors = [
        encoding.encode(sketch(part.keys, part.residuals, omega).to_vector()) for part in rotated
    ]
    total = encoding.decode(np.sum(vectors, axis=0, dtype=vectors[0].dtype))
    return GramSketch.from_vector(total, mapped=len(parts[0].keys), outputs=len(parts[0].residuals))


def statistics_from(view: GramSketch, omega: Matrix, *, rank: int) -> tuple[Matrix, Matrix]:
    """Return S' and T' of a view: YW⁺Yᵀ and ZW⁺Yᵀ with the `rank` largest eigenvalues of W."""
    overlap = omega.T @ view.gram_sketch
    values, vectors = np.linalg.eigh((overlap + overlap.T) / 2)
    basis = view.gram_sketch @ (vectors[:, -rank:] / np.sqrt(values[-rank:]))
    other = view.cross_sketch @ (vectors[:, -rank:] / np.sqrt(values[-rank:]))
    return basis @ basis.T, other @ basis.T
