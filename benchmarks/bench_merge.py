"""Sketch and merge against the dense statistics of the CollabEdit paper.

The peer forms S = K̃K̃ᵀ and T = RK̃ᵀ in full for each party and solves (I + S) once, as the published
CollabEdit code does (arXiv 2410.09508). Both run in float64 on the same keys; the error is against
T(I + S)⁻¹ of all edits in one place. Times are for one party's statistics, and for the merge.
"""

import numpy as np
from timing import Timed, milliseconds, time_in_turn, write_record

from collabedit.sketch import (
    OVERSAMPLING,
    GramSketch,
    Matrix,
    dense_statistics,
    expand_test_matrix,
    merge_sketch,
    sketch,
)

PARTIES = 4
EDITS = 200
SHAPES = ((1536, 576), (4096, 1024))
"""(d', d_out): SmolLM2-135M's, and that of a model with 1024-wide residuals (GPT-2 medium)."""


def compare(mapped: int, outputs: int) -> list[dict[str, object]]:
    rng = np.random.default_rng(mapped)
    capacity = EDITS + OVERSAMPLING
    keys = 0.3 * rng.normal(size=(mapped, EDITS))
    residuals = rng.normal(size=(outputs, EDITS))
    parts = np.array_split(np.arange(EDITS), PARTIES)
    omega = expand_test_matrix(bytes(32), layer=0, rows=mapped, columns=capacity)
    sketches = [sketch(keys[:, part], residuals[:, part], omega) for part in parts]
    total = GramSketch(
        np.sum([part.gram_sketch for part in sketches], axis=0),
        np.sum([part.cross_sketch for part in sketches], axis=0),
    )
    dense = [dense_statistics(keys[:, part], residuals[:, part]) for part in parts]
    gram = np.sum([part.gram for part in dense], axis=0)
    cross = np.sum([part.cross for part in dense], axis=0)
    first = keys[:, parts[0]], residuals[:, parts[0]]
    eye = np.eye(mapped)

    def merge_peer() -> Matrix:
        solution: Matrix = np.linalg.solve(gram + eye, cross.T).T
        return solution

    statistics = time_in_turn(
        {
            "sketch": lambda: sketch(*first, omega).to_vector(),
            "dense": lambda: dense_statistics(*first).to_vector(),
        },
        runs=5,
    )
    merges = time_in_turn(
        {
            "sketch": lambda: merge_sketch(total, omega, ridge=1.0, noise=0.0),
            "dense": merge_peer,
        },
        runs=3,
    )
    expansion = time_in_turn(
        {"expand": lambda: expand_test_matrix(bytes(32), layer=0, rows=mapped, columns=capacity)},
        runs=3,
    )["expand"]
    # Push-through: T(I + S)⁻¹ = R(I + K̃ᵀK̃)⁻¹K̃ᵀ, well conditioned and independent of both ways.
    exact = residuals @ np.linalg.solve(np.eye(EDITS) + keys.T @ keys, keys.T)
    merged = merge_sketch(total, omega, ridge=1.0, noise=0.0).dense()
    numbers = {
        "sketch": (mapped + outputs) * capacity,
        "dense": mapped * (mapped + 1) // 2 + outputs * mapped,
    }
    errors = {"sketch": merged, "dense": merge_peer()}

    def row(step: str, way: str, timed: Timed, peer: Timed) -> dict[str, object]:
        return {
            "shape": f"{mapped}x{outputs}",
            "step": step,
            "way": way,
            **milliseconds(timed),
            "ratio_to_dense": round(timed.wall / peer.wall, 4),
        }

    rows = [row("one party", way, statistics[way], statistics["dense"]) for way in statistics]
    rows.append(row("expand test matrix", "sketch", expansion, statistics["dense"]))
    for way, timed in merges.items():
        error = np.linalg.norm(errors[way] - exact) / np.linalg.norm(exact)
        rows.append(
            {
                **row("merge", way, timed, merges["dense"]),
                "upload_bytes": 8 * numbers[way],
                "upload_ratio": round(numbers[way] / numbers["dense"], 4),
                "relative_error": float(f"{error:.2e}"),
            }
        )
    return rows


def main() -> None:
    rows = [row for mapped, outputs in SHAPES for row in compare(mapped, outputs)]
    write_record("merge", rows, parties=PARTIES, edits=EDITS)


if __name__ == "__main__":
    main()
