"""Sufficient statistics of an edit, their sketch, and the merge. float64 throughout.

Editors of the MEMIT family (Meng et al. 2022, arXiv 2210.07229, eq. 14) compute, per layer,

    ΔW = T (ρI + S)⁺ Φ,   S = Σ K̃K̃ᵀ [d', d'],  T = Σ RK̃ᵀ [d_out, d'],  K̃ = ΦK

with a public linear map Φ that fixes the editor (for MEMIT Φ = L⁻¹ where LLᵀ = λE[kkᵀ], ρ = 1).
S and T are sums over edits, so a secure sum over parties yields the update of all edits together
(CollabEdit, arXiv 2410.09508). The mapped space is also what makes the sketch well conditioned.

The sketch replaces S and T by Y = SΩ and Z = TΩ with a public Gaussian Ω [d', m]. With
W = ΩᵀY = ΩᵀSΩ the Nyström identity S = Y W⁺ Yᵀ holds exactly whenever rank(S) ≤ m and Ω is generic
(Halko, Martinsson, Tropp 2011, section 5.4), T = Z W⁺ Yᵀ likewise since T's rows lie in S's range,
and the push-through identity gives

    ΔW = Z (ρW + YᵀY)⁺ Yᵀ Φ.

Nothing of size d'×d' is formed, sent or solved. Only numpy is needed: the aggregator imports this.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from collabedit.bounds import EnergyLimits, check_dense, check_sketch, check_update
from collabedit.errors import MalformedMessageError, NumericError
from collabedit.factors import balance

Matrix: TypeAlias = NDArray[np.float64]

OVERSAMPLING = 8
"""Columns of Ω beyond the number of edits; keeps ΩᵀK̃ well conditioned (Halko et al., section 4)."""

_ROW_BLOCK = 4096
_UPDATE_HEADER = struct.Struct("<4sIIII")
_UPDATE_MAGIC = b"CEU1"


@dataclass(frozen=True, slots=True)
class GramSketch:
    """Y and Z of one party or of a sum of parties.

    Attributes:
        gram_sketch: Y = SΩ, [d', m].
        cross_sketch: Z = TΩ, [d_out, m].
    """

    gram_sketch: Matrix
    cross_sketch: Matrix

    def __repr__(self) -> str:
        return f"GramSketch(d'={len(self.gram_sketch)}, d_out={len(self.cross_sketch)})"

    def to_vector(self) -> Matrix:
        """Concatenate Y and Z, row-major: [(d' + d_out)·m]."""
        return np.concatenate([self.gram_sketch.ravel(), self.cross_sketch.ravel()])

    @classmethod
    def from_vector(cls, vector: Matrix, *, mapped: int, outputs: int) -> "GramSketch":
        """Undo `to_vector` for d' = `mapped` and d_out = `outputs`."""
        columns, rest = divmod(vector.size, mapped + outputs)
        if rest:
            raise ValueError(f"{vector.size} numbers do not fill {mapped + outputs} equal rows")
        matrix = vector.reshape(mapped + outputs, columns)
        return cls(matrix[:mapped], matrix[mapped:])


@dataclass(frozen=True, slots=True)
class DenseStatistics:
    """S and T in full: the paper's form and the reference. It travels as S's upper triangle and T.

    Attributes:
        gram: S, [d', d'], symmetric.
        cross: T, [d_out, d'].
    """

    gram: Matrix
    cross: Matrix

    def __repr__(self) -> str:
        return f"DenseStatistics(d'={len(self.gram)}, d_out={len(self.cross)})"

    def to_vector(self) -> Matrix:
        """Concatenate the upper triangle of S, row by row, and T, row-major."""
        return np.concatenate([self.gram[np.triu_indices(len(self.gram))], self.cross.ravel()])

    @classmethod
    def from_vector(cls, vector: Matrix, *, mapped: int, outputs: int) -> "DenseStatistics":
        """Undo `to_vector` for d' = `mapped` and d_out = `outputs`."""
        triangle = mapped * (mapped + 1) // 2
        if vector.size != triangle + outputs * mapped:
            raise ValueError(f"{vector.size} numbers are not a triangle and a matrix of that shape")
        upper = np.zeros((mapped, mapped))
        upper[np.triu_indices(mapped)] = vector[:triangle]
        gram = upper + np.triu(upper, 1).T
        return cls(gram, vector[triangle:].reshape(outputs, mapped))


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """ΔW = left · right, never multiplied out until it meets a weight.

    Attributes:
        left: [d_out, r].
        right: [r, d'] as merged, [r, d_in] once a party has applied its key map.
    """

    left: Matrix
    right: Matrix

    def __post_init__(self) -> None:
        if self.left.ndim != 2 or self.right.ndim != 2 or self.left.shape[1] != len(self.right):
            raise ValueError(f"factors {self.left.shape} and {self.right.shape} do not chain")

    def __repr__(self) -> str:
        return f"LowRankUpdate(d_out={len(self.left)}, rank={self.rank})"

    @property
    def rank(self) -> int:
        """Number of columns of `left`; an upper bound of the matrix rank."""
        return len(self.right)

    def dense(self) -> Matrix:
        """Multiply out: [d_out, d'] or [d_out, d_in]."""
        return self.left @ self.right

    def canonical(self, rank: int | None = None) -> "LowRankUpdate":
        """Return the same ΔW in factors that depend on ΔW alone: UΣ^½ and Σ^½Vᵀ of its SVD.

        The factors of `merge_sketch` would tell their receiver Y and Z themselves, since Ω is
        public: left·E^½ = ZV, and so on. Columns are ordered by singular value; the largest entry
        of each left column is positive (`factors.balance`).

        Args:
            rank: keep so many of the largest singular values; None keeps all.
        """
        if not self.rank:
            return self
        return LowRankUpdate(*balance(self.left, self.right, rank=rank))

    def to_bytes(self) -> bytes:
        """Encode as SPEC 6.3: header, `left` and `right` as little-endian float64, row-major."""
        rows, columns = len(self.left), self.right.shape[1]
        header = _UPDATE_HEADER.pack(_UPDATE_MAGIC, 1, rows, self.rank, columns)
        return b"".join(
            (header, self.left.astype("<f8").tobytes(), self.right.astype("<f8").tobytes())
        )

    @classmethod
    def from_bytes(
        cls, data: bytes, *, outputs: int, mapped: int, capacity: int
    ) -> "LowRankUpdate":
        """Decode `to_bytes` output of a peer.

        Args:
            data: as received.
            outputs: d_out that the plan states for the layer.
            mapped: d' that the plan states for the layer.
            capacity: largest rank that the plan allows.

        Raises:
            MalformedMessageError: wrong magic, version, shape or length, or a number not finite.
        """
        if len(data) < _UPDATE_HEADER.size:
            raise MalformedMessageError(f"update of {len(data)} bytes is shorter than its header")
        magic, version, rows, rank, columns = _UPDATE_HEADER.unpack_from(data)
        if magic != _UPDATE_MAGIC or version != 1:
            raise MalformedMessageError("update does not start with CEU1, version 1")
        if (rows, columns) != (outputs, mapped) or rank > capacity:
            raise MalformedMessageError(
                f"update of shape [{rows}, {rank}, {columns}] where the plan has "
                f"[{outputs}, <= {capacity}, {mapped}]"
            )
        if len(data) != _UPDATE_HEADER.size + 8 * rank * (rows + columns):
            raise MalformedMessageError(f"update has {len(data)} bytes, not what its header says")
        numbers = np.frombuffer(data, dtype="<f8", offset=_UPDATE_HEADER.size).astype(np.float64)
        if not np.isfinite(numbers).all():
            raise MalformedMessageError("update holds a number that is not finite")
        split = rows * rank
        return cls(numbers[:split].reshape(rows, rank), numbers[split:].reshape(rank, columns))


def expand_test_matrix(seed: bytes, *, layer: int, rows: int, columns: int) -> Matrix:
    """Expand the plan's public seed to Ω, [rows, columns], independent standard normals.

    SHAKE-256 in blocks of 4096 rows, 64-bit words to (0, 1] with 53 bits, Box-Muller in pairs. All
    ends derive it alike; a platform whose `log` or `cos` differs in the last bit only moves that
    party's contribution by as much. Ω is public and needs no cryptographic property beyond being
    fixed by the signed plan before anybody computes a key.
    """
    omega = np.empty((rows, columns))
    for start in range(0, rows, _ROW_BLOCK):
        block = min(_ROW_BLOCK, rows - start)
        pairs = (block * columns + 1) // 2
        xof = hashlib.shake_256(
            b"collabedit/v1/test-matrix" + seed + struct.pack("<III", layer, start, columns)
        )
        words = np.frombuffer(xof.digest(16 * pairs), dtype="<u8")
        omega[start : start + block] = normals(words, rows=block, columns=columns)
    return omega


def normals(words: NDArray[np.uint64], *, rows: int, columns: int) -> Matrix:
    """Turn uniform words into independent standard normals, [rows, columns].

    The first half of the words, of which the upper 53 bits count, gives radii and the second half
    angles of pairs (Box and Muller 1958); cosines come before sines.

    Args:
        words: rows·columns of them, one more if that is odd.
        rows: of the result.
        columns: of the result.
    """
    uniform = ((words >> np.uint64(11)) + np.uint64(1)).reshape(2, -1) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log(uniform[0]))
    angle = 2.0 * np.pi * uniform[1]
    drawn = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return drawn[: rows * columns].reshape(rows, columns)


def sketch(mapped_keys: Matrix, residuals: Matrix, omega: Matrix) -> GramSketch:
    """Sketch one party's statistics: P = K̃ᵀΩ, Y = K̃P, Z = RP.

    Args:
        mapped_keys: K̃, [d', n].
        residuals: R, [d_out, n].
        omega: Ω, [d', m].
    """
    projected = mapped_keys.T @ omega
    return GramSketch(mapped_keys @ projected, residuals @ projected)


def dense_statistics(mapped_keys: Matrix, residuals: Matrix) -> DenseStatistics:
    """Form S = K̃K̃ᵀ and T = RK̃ᵀ in full, from K̃ [d', n] and R [d_out, n]."""
    return DenseStatistics(mapped_keys @ mapped_keys.T, residuals @ mapped_keys.T)


def merge_sketch(
    total: GramSketch,
    omega: Matrix,
    *,
    ridge: float,
    noise: float,
    cross_noise: float | None = None,
    limits: EnergyLimits | None = None,
) -> LowRankUpdate:
    """Merge summed sketches: ΔW = (Z V E^-½)(E^-½ Vᵀ Yᵀ) with ρW + YᵀY = V E Vᵀ.

    Cut-off. Summed fixed-point rounding moves each entry of Y by an independent error of standard
    deviation σ = `noise`, so ‖δY‖₂ ≲ σ(√d' + √m) =: δ and the matrix moves by at most
    ρ‖Ω‖₂δ + 2‖Y‖₂δ; float64 adds m·ε·λ_max. Eigenvalues below the sum of these carry no signal and
    are dropped; a true direction that small changes ΔW by no more than the rounding itself does.

    Without a ridge ΔW = Z Y⁺, and Y = UΣVᵀ itself is decomposed: YᵀY would square its condition and
    cost up to half the digits. Singular values up to 2δ + d'·ε·‖Y‖₂ are dropped: rounding alone
    reaches δ. There is no ridge to damp a direction just above.

    Args:
        total: Y and Z summed over the survivors.
        omega: Ω, [d', m].
        ridge: ρ >= 0.
        noise: standard deviation of an entry of Y, 0 for exact sums.
        cross_noise: likewise of Z, for `limits`; None if it is that of Y.
        limits: what the survivors' edits may weigh; None checks no caps.

    Returns:
        The update in mapped coordinates, [d_out, r] and [r, d'], r <= m.

    Raises:
        NumericError: the sums are not finite, or W is not symmetric positive semidefinite within
            the tolerance above: they are not sums of sketches under this Ω.
        BoundsError: they are, but exceed `limits`.
    """
    gram, cross = total.gram_sketch, total.cross_sketch
    if not (np.isfinite(gram).all() and np.isfinite(cross).all()):
        raise NumericError("opened sums are not finite")
    if not gram.any():
        return LowRankUpdate(np.zeros((len(cross), 0)), np.zeros((0, len(gram))))
    overlap = omega.T @ gram
    mapped, columns = gram.shape
    wobble = noise * (np.sqrt(mapped) + np.sqrt(columns))
    omega_norm = np.sqrt(mapped) + np.sqrt(columns)
    skew = overlap - overlap.T
    overlap = (overlap + overlap.T) / 2
    weights, directions = np.linalg.eigh(overlap)
    scale = max(-float(weights[0]), float(weights[-1]))
    tolerance = 8 * omega_norm * wobble + 64 * mapped * np.finfo(np.float64).eps * scale
    # ‖·‖_F, which costs next to nothing, is never below ‖·‖₂.
    asymmetry = float(np.linalg.norm(skew))
    if asymmetry > 2 * tolerance:
        asymmetry = _spectral_norm(skew)
    if asymmetry > 2 * tolerance:
        raise NumericError(
            "opened sums are no sketch under the plan's test matrix: not symmetric "
            f"({asymmetry:.1e} against a tolerance of {2 * tolerance:.1e})"
        )
    if float(weights[0]) < -tolerance:
        raise NumericError("opened sums are no sketch: not positive semidefinite")
    del skew
    square = gram.T @ gram
    if limits is not None:
        check_sketch(
            gram,
            cross,
            square=square,
            values=weights,
            vectors=directions,
            tolerance=tolerance,
            noise=noise,
            cross_noise=noise if cross_noise is None else cross_noise,
            limits=limits,
        )
    if not ridge:
        left_vectors, singular, right_vectors = np.linalg.svd(gram, full_matrices=False)
        keep = singular > 2 * wobble + mapped * np.finfo(np.float64).eps * float(singular[0])
        left = cross @ (right_vectors[keep].T / singular[keep])
        return _released(left, left_vectors[:, keep].T, ridge=ridge, limits=limits)
    del directions
    gram_norm = float(np.sqrt(np.linalg.eigvalsh(square)[-1]))
    square += ridge * overlap
    del overlap
    values, vectors = np.linalg.eigh(square)
    del square
    cutoff = (
        ridge * omega_norm * wobble
        + 2 * gram_norm * wobble
        + columns * np.finfo(np.float64).eps * float(values[-1])
    )
    keep = values > cutoff
    basis = vectors[:, keep] / np.sqrt(values[keep])
    del vectors
    return _released(cross @ basis, basis.T @ gram.T, ridge=ridge, limits=limits)


def _spectral_norm(matrix: Matrix) -> float:
    """Return ‖M‖₂ of a square matrix by the eigenvalues of MᵀM, which are cheaper than its SVD."""
    return float(np.sqrt(max(np.linalg.eigvalsh(matrix.T @ matrix)[-1], 0.0)))


def _released(
    left: Matrix, right: Matrix, *, ridge: float, limits: EnergyLimits | None
) -> LowRankUpdate:
    """Balance the factors, whose memory is given up, and hold the update against the caps."""
    if not len(right):
        return LowRankUpdate(left, right)
    update = LowRankUpdate(*balance(left, right, overwrite=True))
    if limits is not None:
        check_update(update.left, update.right, ridge=ridge, limits=limits, balanced=True)
    return update


def merge_dense(
    total: DenseStatistics,
    *,
    ridge: float,
    noise: float,
    cross_noise: float | None = None,
    limits: EnergyLimits | None = None,
) -> LowRankUpdate:
    """Merge dense statistics: left = T V (ρ + Λ)⁻¹, right = Vᵀ over S's range, S = V Λ Vᵀ.

    T's rows lie in the range of S, so restricting to eigenvalues above the cut-off
    σ(2√d') + d'·ε·λ_max (rounding of S, and float64) loses nothing that the sums determine. σ is
    `noise`, of an entry of S; `cross_noise`, of one of T, matters for `limits` and is σ if None.

    Raises:
        NumericError: the sums are not finite, or S is not positive semidefinite within tolerance.
        BoundsError: they exceed `limits`, what the survivors' edits may weigh.
    """
    if not (np.isfinite(total.gram).all() and np.isfinite(total.cross).all()):
        raise NumericError("opened sums are not finite")
    values, vectors = np.linalg.eigh(total.gram)
    size = len(values)
    largest = max(float(values[-1]), 0.0)
    cutoff = 4 * noise * np.sqrt(size) + size * np.finfo(np.float64).eps * largest
    if float(values[0]) < -8 * cutoff:
        raise NumericError("opened sums are not positive semidefinite")
    if limits is not None:
        check_dense(
            values,
            vectors,
            total.cross,
            tolerance=8 * cutoff,
            noise=noise,
            cross_noise=noise if cross_noise is None else cross_noise,
            limits=limits,
        )
    keep = values > cutoff
    basis = vectors[:, keep]
    left = (total.cross @ basis) / (ridge + values[keep])
    return _released(left, basis.T, ridge=ridge, limits=limits)
