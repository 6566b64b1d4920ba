"""SPEC 6: frames, test matrix, contributions, merge, bundle. numpy, no project code."""

import hashlib
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from independent.plan import Plan
from independent.primitives import sha256
from independent.wire import Json, require

Matrix: TypeAlias = NDArray[np.float64]
EPSILON = 2.0**-52


def frame(index: int, payload: bytes) -> bytes:
    """SPEC 6.1."""
    header = b"CET1" + struct.pack("<III", index, len(payload), 0)
    return header + sha256(header + payload) + payload


def tiles_root(digests: list[bytes]) -> bytes:
    return sha256(b"collabedit/v1/tiles" + b"".join(digests))


def read_frame(data: bytes, sizes: list[int], width: int) -> tuple[int, bytes]:
    """Return tile index and payload of a frame, or refuse."""
    require(len(data) >= 48 and data[:4] == b"CET1" and data[12:16] == bytes(4), "not a frame")
    index, size = struct.unpack("<II", data[4:12])
    require(index < len(sizes) and size == sizes[index] * width == len(data) - 48, "length")
    require(data[16:48] == sha256(data[:16] + data[48:]), "digest")
    return index, data[48:]


def matrix(rows: list[list[str]]) -> Matrix:
    """Read a matrix of C99 hexadecimal floats, row by row."""
    return np.array([[float.fromhex(number) for number in row] for row in rows], dtype=np.float64)


def test_matrix(plan: Plan, layer: Json) -> Matrix:
    """SPEC 6.2."""
    rows, columns = int(layer["mapped"]), int(plan.aggregation["capacity"])
    seed = bytes.fromhex(plan.aggregation["test_matrix_seed"])
    blocks = []
    for start in range(0, rows, 4096):
        count = min(4096, rows - start) * columns
        pairs = -(-count // 2)
        place = struct.pack("<III", layer["index"], start, columns)
        stream = hashlib.shake_256(b"collabedit/v1/test-matrix" + seed + place).digest(16 * pairs)
        words = struct.unpack(f"<{2 * pairs}Q", stream)
        uniform = np.array([((word >> 11) + 1) * 2.0**-53 for word in words])
        radius, angle = np.sqrt(-2 * np.log(uniform[:pairs])), 2 * np.pi * uniform[pairs:]
        normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        blocks.append(normal[:count].reshape(-1, columns))
    return np.concatenate(blocks)


def exact_product(left: list[list[Fraction]], right: list[list[Fraction]]) -> list[list[Fraction]]:
    columns = list(zip(*right, strict=True))
    return [
        [sum((a * b for a, b in zip(row, column, strict=True)), Fraction()) for column in columns]
        for row in left
    ]


def exact_contribution(plan: Plan, task: int, statistics: list[Json]) -> list[Fraction]:
    """Y and Z of SPEC 6.4 without any rounding but that of Ω: what every float64 comes close to."""
    out: list[Fraction] = []
    for layer, given in zip(plan.tasks[task], statistics, strict=True):
        keys, residuals, omega = (
            [[Fraction(float(number)) for number in row] for row in each]
            for each in (
                matrix(given["keys"]),
                matrix(given["residuals"]),
                test_matrix(plan, layer),
            )
        )
        projected = exact_product([list(column) for column in zip(*keys, strict=True)], omega)
        for statistic in (exact_product(keys, projected), exact_product(residuals, projected)):
            out += [number for row in statistic for number in row]
    return out


@dataclass(frozen=True)
class Update:
    left: Matrix
    right: Matrix


def read_bundle(plan: Plan, task: int, data: bytes) -> dict[int, Update]:
    """SPEC 6.3, with every refusal."""
    layers = plan.tasks[task]
    require(len(data) <= plan.largest_bundle(task), "a large bundle")
    require(data[:8] == b"CEB1" + struct.pack("<I", len(layers)), "not a bundle")
    updates, at = {}, 8
    for layer in layers:
        rows, columns = plan.rows(layer), layer["mapped"]
        require(len(data) >= at + 32, "truncated")
        index, size = struct.unpack("<IQ", data[at : at + 12])
        magic, version, d_out, rank, mapped = struct.unpack("<4sIIII", data[at + 12 : at + 32])
        require((index, magic, version) == (layer["index"], b"CEU1", 1), "update")
        require((d_out, mapped) == (rows, columns), "shape")
        require(size == 20 + 8 * rank * (rows + columns), "length")
        require(len(data) >= at + 12 + size, "truncated")
        numbers = np.array(list(struct.unpack_from(f"<{(size - 20) // 8}d", data, at + 32)))
        require(bool(np.isfinite(numbers).all()), "not finite")
        cut = rows * rank
        left, right = numbers[:cut].reshape(rows, rank), numbers[cut:].reshape(rank, columns)
        updates[index] = Update(left, right)
        at += 12 + size
    require(at == len(data), "trailing bytes")
    return updates


def write_bundle(updates: dict[int, Update]) -> bytes:
    out = b"CEB1" + struct.pack("<I", len(updates))
    for index in sorted(updates):
        left, right = updates[index].left, updates[index].right
        (rows, rank), columns = left.shape, right.shape[1]
        numbers = [float(number) for each in (left, right) for row in each for number in row]
        body = b"CEU1" + struct.pack(f"<IIII{len(numbers)}d", 1, rows, rank, columns, *numbers)
        out += struct.pack("<IQ", index, len(body)) + body
    return out


def summed_statistics(plan: Plan, task: int, total: list[float]) -> list[tuple[Matrix, Matrix]]:
    """Cut a decoded sum into Y and Z of each layer."""
    capacity, at, out = int(plan.aggregation["capacity"]), 0, []
    for layer in plan.tasks[task]:
        middle = at + layer["mapped"] * capacity
        end = middle + plan.rows(layer) * capacity
        parts = (np.array(total[at:middle]), np.array(total[middle:end]))
        out.append((parts[0].reshape(-1, capacity), parts[1].reshape(-1, capacity)))
        at = end
    return out


def merge(plan: Plan, layer: Json, sums: tuple[Matrix, Matrix], survivors: int) -> Update:
    """SPEC 6.5 step by step: sketch, released factors."""
    gram, cross = sums
    omega = test_matrix(plan, layer)
    mapped, columns = gram.shape
    ridge = float(plan.values["editing"]["ridge"])
    sigma = 2.0 ** -plan.aggregation["fractional_bits"] * (survivors / 12) ** 0.5
    width = mapped**0.5 + columns**0.5
    delta = sigma * width
    overlap = omega.T @ gram
    norm = float(np.linalg.norm(overlap, 2))
    tau = 8 * width * delta + 64 * mapped * EPSILON * norm
    require(float(np.linalg.norm(overlap - overlap.T, 2)) <= 2 * tau, "not symmetric")
    overlap = (overlap + overlap.T) / 2
    require(float(np.linalg.eigvalsh(overlap)[0]) >= -tau, "not positive semidefinite")
    if ridge == 0:
        u, singular, vt = np.linalg.svd(gram, full_matrices=False)
        kept = singular > 2 * delta + mapped * EPSILON * singular[0]
        product = (cross @ (vt[kept].T / singular[kept])) @ u[:, kept].T
        return factors(product, min(int(kept.sum()), *product.shape))
    values, vectors = np.linalg.eigh(ridge * overlap + gram.T @ gram)
    cutoff = (
        ridge * width * delta
        + 2 * float(np.linalg.norm(gram, 2)) * delta
        + columns * EPSILON * float(values[-1])
    )
    basis = vectors[:, values > cutoff] / np.sqrt(values[values > cutoff])
    product = (cross @ basis) @ (gram @ basis).T
    return factors(product, min(basis.shape[1], *product.shape))


def factors(product: Matrix, rank: int) -> Update:
    """The released factors of SPEC 6.5 by one singular value decomposition of ΔW itself."""
    u, values, vt = np.linalg.svd(product, full_matrices=False)
    u, values, vt = u[:, :rank], values[:rank], vt[:rank]
    signs = np.array([np.sign(column[np.abs(column).argmax()]) for column in u.T])
    root = np.sqrt(values) * signs
    return Update(u * root, vt * root[:, None])


def dense_solution(plan: Plan, layer: Json, sums: tuple[Matrix, Matrix]) -> Matrix:
    """T (ρI + S)⁻¹ by another way: S = YΩ⁺, T = ZΩ⁺, which needs m ≥ d', and a linear solve."""
    gram, cross = sums
    omega = test_matrix(plan, layer)
    inverse = omega.T @ np.linalg.inv(omega @ omega.T)
    covariance = gram @ inverse
    shifted = float(plan.values["editing"]["ridge"]) * np.eye(len(gram)) + covariance
    solution: Matrix = np.linalg.solve(shifted.T, (cross @ inverse).T).T.astype(np.float64)
    return solution


def respects_bounds(
    plan: Plan, sums: tuple[Matrix, Matrix], layer: Json, update: Update, survivors: list[int]
) -> bool:
    """SPEC 6.6(c) and (e), from W alone."""
    gram, cross = sums
    omega = test_matrix(plan, layer)
    sigma = 2.0 ** -plan.aggregation["fractional_bits"] * (len(survivors) / 12) ** 0.5
    mapped, columns = gram.shape
    width = mapped**0.5 + columns**0.5
    overlap = omega.T @ gram
    tau = 8 * width**2 * sigma + 64 * mapped * EPSILON * float(np.linalg.norm(overlap, 2))
    lifted = (overlap + overlap.T) / 2 + 2 * tau * np.eye(columns)
    q = sigma * float(np.trace(np.linalg.inv(lifted))) ** 0.5
    keys = plan.key_edits(survivors) * plan.values["bounds"]["key_energy"]
    residuals = plan.summed_energy(survivors)
    for part, energy in ((gram, keys), (cross, residuals)):
        found = float(np.trace(part @ np.linalg.solve(lifted, part.T))) ** 0.5
        if found > (energy**0.5 + 8 * q * len(part) ** 0.5) * (1 + 1e-6):
            return False
    size = float(np.linalg.norm(update.left @ update.right)) ** 2
    ridge = float(plan.values["editing"]["ridge"])
    return bool(4 * ridge * size <= residuals * (1 + 1e-6) ** 2)
