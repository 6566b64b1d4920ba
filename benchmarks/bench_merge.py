"""Sketch and merge against the dense statistics and the merge of the CollabEdit paper.

The peer's party sends S = K̃K̃ᵀ in float64 and its own ΔW in float32; its merge forms
Σ ΔWᵢ(I + Sᵢ) and multiplies by the explicit inverse of I + ΣSᵢ, in float64, as the published code
does (arXiv 2410.09508). Between the two stands one solve with the dense sums S and T. All run in
float64 on the same keys; the error is against T(I + S)⁻¹ of all edits in one place. Ours checks the
sums and the update against a plan's bounds, as an aggregator does; the peers check nothing. Memory
is what a merge allocates beyond the uploads, by tracemalloc.

    python benchmarks/bench_merge.py [--large]

`--large` adds Llama-3-8B's and GPT-J's shapes, with two parties: tens of minutes, and 24 GiB.
"""

import argparse
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from plans import create_identities, create_plan
from timing import Timed, milliseconds, time_in_turn, write_record

from collabedit.bounds import EnergyLimits
from collabedit.exchange import TileLayout
from collabedit.ids import TaskIndex
from collabedit.sketch import (
    OVERSAMPLING,
    GramSketch,
    Matrix,
    dense_statistics,
    expand_test_matrix,
    merge_sketch,
    sketch,
)

OURS, SOLVE, PAPER = "sketch", "dense, one solve", "peer: the paper's rule"


HEADROOM = 10.0
"""Between what edits weigh and what a plan allows: `bounds.KEY_FACTOR` over what edits have."""


@dataclass(frozen=True)
class Shape:
    """A layer, and who edits how much."""

    name: str
    mapped: int
    outputs: int
    parties: int
    edits: int


SHAPES = (
    Shape("SmolLM2-135M", 1536, 576, 4, 200),
    Shape("GPT2-XL", 6400, 1600, 10, 1000),
)
LARGE = (
    Shape("Llama-3-8B", 14336, 4096, 2, 1000),
    Shape("GPT-J", 16384, 4096, 2, 1000),
)
UPLOADS = (*SHAPES, *LARGE)


class Federation:
    """Everybody's uploads of one layer, and what they should merge to."""

    def __init__(self, shape: Shape) -> None:
        rng = np.random.default_rng(shape.mapped)
        self.shape = shape
        self.keys = 0.3 * rng.normal(size=(shape.mapped, shape.edits))
        self.residuals = rng.normal(size=(shape.outputs, shape.edits))
        self.parts = np.array_split(np.arange(shape.edits), shape.parties)
        self.omega = expand_test_matrix(
            bytes(32), layer=0, rows=shape.mapped, columns=shape.edits + OVERSAMPLING
        )
        sketches = [
            sketch(self.keys[:, part], self.residuals[:, part], self.omega) for part in self.parts
        ]
        self.total = GramSketch(
            np.sum([each.gram_sketch for each in sketches], axis=0),
            np.sum([each.cross_sketch for each in sketches], axis=0),
        )
        self.grams = [self.keys[:, part] @ self.keys[:, part].T for part in self.parts]
        self.own = [self.update(part).astype(np.float32) for part in self.parts]
        self.cross = self.residuals @ self.keys.T
        self.exact = self.update(np.arange(shape.edits))
        self.limits = EnergyLimits(
            HEADROOM * float(np.square(self.keys).sum()),
            HEADROOM * float(np.square(self.residuals).sum()),
        )

    def update(self, part: NDArray[np.int64]) -> Matrix:
        """Push-through: T(I + S)⁻¹ = R(I + K̃ᵀK̃)⁻¹K̃ᵀ, well conditioned, and a way of its own."""
        keys = self.keys[:, part]
        inner = np.linalg.solve(np.eye(keys.shape[1]) + keys.T @ keys, keys.T)
        return np.asarray(self.residuals[:, part] @ inner, dtype=np.float64)

    def merge_sketch(self) -> object:
        """Merge as an aggregator does."""
        return merge_sketch(self.total, self.omega, ridge=1.0, noise=0.0, limits=self.limits)

    def merge_solve(self) -> Matrix:
        """Solve with the dense sums."""
        gram = self.summed_grams()
        return np.asarray(np.linalg.solve(gram, self.cross.T).T, dtype=np.float64)

    def merge_paper(self) -> Matrix:
        """Merge everybody's own updates by the explicit inverse."""
        weighted = np.zeros((self.shape.outputs, self.shape.mapped))
        for own, gram in zip(self.own, self.grams, strict=True):
            wide = own.astype(np.float64)
            weighted += wide
            weighted += wide @ gram
        merged: Matrix = weighted @ np.linalg.inv(self.summed_grams())
        return merged

    def summed_grams(self) -> Matrix:
        """Return I + ΣSᵢ, made anew."""
        total = np.eye(self.shape.mapped)
        for gram in self.grams:
            total += gram
        return total


def peak(run: Callable[[], object]) -> int:
    tracemalloc.start()
    run()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def compare(shape: Shape) -> list[dict[str, object]]:
    federation = Federation(shape)
    ways: dict[str, Callable[[], object]] = {
        OURS: federation.merge_sketch,
        SOLVE: federation.merge_solve,
        PAPER: federation.merge_paper,
    }
    times = time_in_turn(ways, runs=3, warm_up=False)
    peaks = {way: peak(run) for way, run in ways.items()}
    merged = merge_sketch(
        federation.total, federation.omega, ridge=1.0, noise=0.0, limits=federation.limits
    ).dense()
    found = {OURS: merged, SOLVE: federation.merge_solve(), PAPER: federation.merge_paper()}
    errors = {
        way: float(np.linalg.norm(update - federation.exact) / np.linalg.norm(federation.exact))
        for way, update in found.items()
    }
    first = federation.keys[:, federation.parts[0]], federation.residuals[:, federation.parts[0]]

    def paper_party() -> Matrix:
        gram = first[0] @ first[0].T
        gram[np.diag_indices_from(gram)] += 1.0
        return np.asarray(np.linalg.solve(gram, first[0] @ first[1].T), dtype=np.float64)

    party = time_in_turn(
        {
            OURS: lambda: sketch(*first, federation.omega).to_vector(),
            SOLVE: lambda: dense_statistics(*first).to_vector(),
            PAPER: paper_party,
        },
        runs=1,
    )

    def row(step: str, way: str, timed: Timed, peer: Timed) -> dict[str, object]:
        return {
            "shape": f"{shape.name} {shape.mapped}x{shape.outputs}",
            "parties": shape.parties,
            "edits": shape.edits,
            "step": step,
            "way": way,
            **milliseconds(timed),
            "times_faster_than_peer": round(peer.wall / timed.wall, 2),
        }

    rows = [row("one party", way, timed, party[PAPER]) for way, timed in party.items()]
    for way, timed in times.items():
        rows.append(
            {
                **row("merge", way, timed, times[PAPER]),
                "peak_mib": round(peaks[way] / 2**20, 1),
                "memory_over_peer": round(peaks[way] / peaks[PAPER], 3),
                "relative_error": float(f"{errors[way]:.2e}"),
            }
        )
    return rows


def uploads(shape: Shape) -> dict[str, object]:
    """Count what a party uploads of a layer: ours by the plan's own layout of tiles."""
    plan = create_plan(
        create_identities(max(shape.parties, 3)),
        mapped=shape.mapped,
        outputs=shape.outputs,
        capacity=shape.edits + OVERSAMPLING,
    )
    ours = TileLayout.of(plan, TaskIndex(0)).elements * 8
    paper = 8 * shape.mapped**2 + 4 * shape.mapped * shape.outputs
    return {
        "shape": f"{shape.name} {shape.mapped}x{shape.outputs}",
        "edits": shape.edits,
        "step": "upload of a party and layer",
        "way": OURS,
        "megabytes": round(ours / 1e6, 1),
        "peer_megabytes": round(paper / 1e6, 1),
        "times_less_than_peer": round(paper / ours, 1),
        "triangle_and_T_megabytes": round(
            8 * (shape.mapped * (shape.mapped + 1) // 2 + shape.mapped * shape.outputs) / 1e6, 1
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="also Llama-3-8B's and GPT-J's shapes")
    shapes = (*SHAPES, *LARGE) if parser.parse_args().large else SHAPES
    rows = [uploads(shape) for shape in UPLOADS]
    rows += [row for shape in shapes for row in compare(shape)]
    write_record("merge", rows)


if __name__ == "__main__":
    main()
