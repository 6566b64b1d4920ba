"""The secret basis: Haar-distributed rotations that a group of parties has in common. float64.

Parties contribute the statistics of QK̃ and UR instead of K̃ and R, with Q [d', d'] and U [d_out,
d_out] orthogonal and known to nobody else. The merge commutes with both (docs/closed-sums.md), so
the aggregator computes UΔQᵀ from sums that show it no direction of the model's.

Q is the product of d' - 1 random reflections and a diagonal of signs (Stewart 1980, SIAM J. Numer.
Anal. 17(3), section 3): what Householder's QR makes of a matrix of independent normals, with
the signs of R's diagonal moved into Q (Mezzadri 2007, Notices of the AMS 54(5)), but without the
matrix. The k-th reflection of that QR sends a vector of d' - k normals, independent of all before,
to an axis, so these vectors are drawn at once. Applying Q to n columns takes 2·d'²·n operations,
and d'²/2 normals that are drawn block by block: Q is exactly Haar at every size, and never formed.

Reflections go through BLAS-3 in blocks of b: a product of b of them is I - V T Vᵀ with T⁻¹ = ½I +
striu(VᵀV) for unit columns V (Schreiber and Van Loan 1989; Puglisi 1992).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from collabedit.crypto.keystream import Keystream
from collabedit.crypto.ring import Ring
from collabedit.sketch import Matrix, normals

_BLOCK = 64
"""Reflections applied at once: VᵀV adds b/2n to the operations on n columns."""


@dataclass(frozen=True, slots=True)
class _Reflections:
    """A block of consecutive ones: H_k … H_{k+b-1} = I - V T Vᵀ on rows k and below.

    Attributes:
        first: k.
        vectors: V, [d' - k, b], unit columns, zero above the diagonal.
        inverse: T⁻¹, [b, b], upper triangular.
        signs: of the diagonal, [b].
    """

    first: int
    vectors: Matrix
    inverse: Matrix
    signs: Matrix


class Rotation:
    """An orthogonal matrix of `size` rows, given by a key. Equal keys give equal matrices.

    Args:
        key: 32 bytes, for this matrix alone.
        size: d, at least 1.
    """

    def __init__(self, key: bytes, size: int) -> None:
        self._stream = Keystream(key)
        self.size = size

    def __repr__(self) -> str:
        return f"Rotation({self.size})"

    def apply(self, columns: Matrix) -> Matrix:
        """Return Q·`columns`, [d, n]."""
        rotated = np.array(columns, dtype=np.float64)
        rotated[-1] *= self._last_sign()
        for block in self._blocks(reverse=True):
            rows = rotated[block.first :]
            # The signs of a block commute with all later reflections.
            rows[: len(block.signs)] *= block.signs[:, None]
            rows -= block.vectors @ np.linalg.solve(block.inverse, block.vectors.T @ rows)
        return rotated

    def undo(self, columns: Matrix) -> Matrix:
        """Return Qᵀ·`columns`, [d, n]."""
        rotated = np.array(columns, dtype=np.float64)
        for block in self._blocks():
            rows = rotated[block.first :]
            rows -= block.vectors @ np.linalg.solve(block.inverse.T, block.vectors.T @ rows)
            rows[: len(block.signs)] *= block.signs[:, None]
        rotated[-1] *= self._last_sign()
        return rotated

    def _last_sign(self) -> float:
        return float(np.copysign(1.0, self._normals(self.size - 1, 1)[0, 0]))

    def _blocks(self, *, reverse: bool = False) -> Iterator[_Reflections]:
        starts = range(0, self.size - 1, _BLOCK)
        for start in reversed(starts) if reverse else starts:
            yield self._block(start, min(_BLOCK, self.size - 1 - start))

    def _block(self, start: int, count: int) -> _Reflections:
        vectors = np.tril(self._normals(start, count))
        lengths = np.linalg.norm(vectors, axis=0)
        places = np.arange(count)
        heads = vectors[places, places]
        # x + sign(x₁)‖x‖e₁: the reflection that sends x to -sign(x₁)‖x‖e₁, without cancellation.
        vectors[places, places] = heads + np.copysign(lengths, heads)
        vectors /= np.linalg.norm(vectors, axis=0)
        inverse = np.triu(vectors.T @ vectors, 1) + 0.5 * np.eye(count)
        return _Reflections(start, vectors, inverse, -np.copysign(1.0, heads))

    def _normals(self, start: int, count: int) -> Matrix:
        """Draw rows `start` to the end of reflections `start` … `start + count - 1`."""
        rows = self.size - start
        pairs = (rows * count + 1) // 2
        words = self._stream.tile(start, 2 * pairs, Ring.from_bits(64))
        return normals(words, rows=rows, columns=count)
