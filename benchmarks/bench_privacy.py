"""What differential privacy costs an update: error and edits that hold, against ε.

One layer of SmolLM2-135M's shape. Keys are random directions of the energy that the demo's edits
have on average in whitened coordinates (3 times d'/λ = 0.44), residuals random directions of one
length. That length cancels: noise in T is in proportion to its cap. All is chosen in favour of the
noise:

* caps are exactly the edits' energies; `plan new` proposes 33 times the energy of such a key;
* one layer is released, not five, and no survivor adds noise beyond what the plan counts on;
* beside the merge of a session, which drops what lies below the noise, the update is taken with the
  ridge that comes closest to the exact update, chosen with that update at hand (`tuned`).

Two kinds of sums of n edits: all different, and 100 facts with n/100 copies each. An edit holds if
the update takes the layer's output at its key at least half the way along its residual,
⟨ΔWk, r⟩ ≥ ‖r‖²/2; `chance` counts the same for edits that nobody brought. Noise is drawn as a
continuous Gaussian: at 2³⁰ steps and more nothing tells it from a discrete one.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from timing import write_record

from collabedit.accounting import calibrate
from collabedit.privacy import Noise, Statistics, sensitivity
from collabedit.sketch import (
    OVERSAMPLING,
    DenseStatistics,
    GramSketch,
    LowRankUpdate,
    Matrix,
    expand_test_matrix,
    merge_dense,
    merge_sketch,
)

MAPPED, OUTPUTS = 1536, 576
KEY_ENERGY = 3 * 0.44
RESIDUAL_ENERGY = 1.0
DELTA = 1e-6
FACTS = 100
EPSILONS = (1.0, 10.0, 100.0, 1000.0, 10_000.0, 100_000.0)
SIZES = (100, 1000, 10_000, 100_000)
SKETCHED = (100, 1000)
"""Beyond, a sketch of n + 8 columns is larger than the dense statistics."""

RIDGES = np.logspace(-1, 7, 161)
BLOCK = 10_000
SAMPLE = 200


@dataclass(frozen=True)
class Population:
    """Edits and their exact sums.

    Attributes:
        keys: K̃ of up to `SAMPLE` of the edits, [d', s].
        residuals: R of the same, [d_out, s].
        total: S and T of all.
        exact: ΔW without noise.
    """

    edits: int
    copies: int
    keys: Matrix
    residuals: Matrix
    total: DenseStatistics
    exact: Matrix

    @classmethod
    def of(cls, edits: int, copies: int) -> "Population":
        """Draw n edits, each of which `copies` parties bring."""
        rng = np.random.default_rng(edits + copies)
        gram, cross = np.zeros((MAPPED, MAPPED)), np.zeros((OUTPUTS, MAPPED))
        distinct = edits // copies
        first: list[tuple[Matrix, Matrix]] = []
        for start in range(0, distinct, BLOCK):
            count = min(BLOCK, distinct - start)
            keys = columns(rng, MAPPED, KEY_ENERGY, count)
            residuals = columns(rng, OUTPUTS, RESIDUAL_ENERGY, count)
            gram += copies * keys @ keys.T
            cross += copies * residuals @ keys.T
            first.append((keys[:, :SAMPLE], residuals[:, :SAMPLE]))
        exact = np.linalg.solve(np.eye(MAPPED) + gram, cross.T).T
        return cls(edits, copies, *first[0], DenseStatistics(gram, cross), exact.astype(np.float64))


def columns(rng: np.random.Generator, rows: int, energy: float, count: int) -> Matrix:
    made = rng.normal(size=(rows, count))
    scaled: Matrix = made * np.sqrt(energy) / np.linalg.norm(made, axis=0)
    return scaled


def deviations(multiplier: float, *, edits: int, sketched: bool) -> Noise:
    """Of an entry of the sums: one layer, so two parts (`privacy.party_noise`)."""
    statistics = Statistics(
        mapped=MAPPED,
        outputs=OUTPUTS,
        columns=edits + OVERSAMPLING if sketched else None,
        key_energy=KEY_ENERGY,
        residual_energy=RESIDUAL_ENERGY,
        edits=edits,
        step=2.0**-40,
    )
    return sensitivity("edit", statistics) * (multiplier * math.sqrt(2))


def noisy_dense(population: Population, scale: Noise, rng: np.random.Generator) -> DenseStatistics:
    upper = np.triu(rng.normal(size=(MAPPED, MAPPED))) * scale.gram
    gram = population.total.gram + upper + np.triu(upper, 1).T
    cross = population.total.cross + scale.cross * rng.normal(size=(OUTPUTS, MAPPED))
    return DenseStatistics(gram, cross)


def tuned(population: Population, total: DenseStatistics) -> Matrix:
    """Solve with the ridge whose update is nearest to the exact one."""
    values, vectors = np.linalg.eigh(total.gram)
    rotated, aim = total.cross @ vectors, population.exact @ vectors
    sizes, along = (rotated**2).sum(axis=0), (rotated * aim).sum(axis=0)
    scales = [1 / (ridge + np.maximum(values, 0)) for ridge in RIDGES]
    best = min(scales, key=lambda scale: float(sizes @ scale**2 - 2 * along @ scale))
    update: Matrix = (rotated * best) @ vectors.T
    return update


def scores(population: Population, update: Matrix) -> dict[str, object]:
    rng = np.random.default_rng(1)
    count = population.keys.shape[1]
    others = columns(rng, MAPPED, KEY_ENERGY, count), columns(rng, OUTPUTS, RESIDUAL_ENERGY, count)
    error = np.linalg.norm(update - population.exact) / np.linalg.norm(population.exact)

    def pulls(keys: Matrix, residuals: Matrix) -> Matrix:
        found: Matrix = np.einsum("on,on->n", update @ keys, residuals) / RESIDUAL_ENERGY
        return found

    own = pulls(population.keys, population.residuals)
    return {
        "error": float(f"{error:.3g}"),
        "pull": round(float(own.mean()), 4),
        "hold": round(float((own >= 0.5).mean()), 3),
        "chance": round(float((pulls(*others) >= 0.5).mean()), 3),
    }


def dense_of(update: LowRankUpdate) -> Matrix:
    return update.dense() if update.rank else np.zeros((OUTPUTS, MAPPED))


def sketched_update(
    population: Population, multiplier: float, rng: np.random.Generator
) -> LowRankUpdate:
    size = population.edits + OVERSAMPLING
    omega = expand_test_matrix(bytes(32), layer=0, rows=MAPPED, columns=size)
    scale = deviations(multiplier, edits=population.edits, sketched=True)
    noisy = GramSketch(
        population.total.gram @ omega + scale.gram * rng.normal(size=(MAPPED, size)),
        population.total.cross @ omega + scale.cross * rng.normal(size=(OUTPUTS, size)),
    )
    return merge_sketch(noisy, omega, ridge=1.0, noise=scale.gram, cross_noise=scale.cross)


def measure(population: Population, epsilon: float | None) -> Iterator[dict[str, object]]:
    base: dict[str, object] = {
        "edits": population.edits,
        "copies": population.copies,
        "epsilon": epsilon,
    }
    if epsilon is None:
        yield {**base, "way": "no noise", "kept": None, **scores(population, population.exact)}
        return
    multiplier = calibrate(epsilon, DELTA)
    base["multiplier"] = multiplier
    rng = np.random.default_rng(7)
    scale = deviations(multiplier, edits=population.edits, sketched=False)
    total = noisy_dense(population, scale, rng)
    merged = merge_dense(total, ridge=1.0, noise=scale.gram, cross_noise=scale.cross)
    # What the noise has to be below: its own norm, and the mean eigenvalue of a direction in use.
    spectrum = {
        "noise_norm": round(2 * scale.gram * np.sqrt(MAPPED), 2),
        "signal": round(
            population.copies
            * KEY_ENERGY
            * max(1.0, population.edits / population.copies / MAPPED),
            2,
        ),
    }
    yield {
        **base,
        **spectrum,
        "way": "merge, dense",
        "kept": merged.rank,
        **scores(population, dense_of(merged)),
    }
    yield {
        **base,
        "way": "tuned, dense",
        "kept": None,
        **scores(population, tuned(population, total)),
    }
    if population.copies == 1 and population.edits in SKETCHED:
        sketched = sketched_update(population, multiplier, rng)
        yield {
            **base,
            "way": "merge, sketch",
            "kept": sketched.rank,
            **scores(population, dense_of(sketched)),
        }


def main() -> None:
    started = time.process_time()
    rows = []
    for edits in SIZES:
        for copies in sorted({1, edits // FACTS}):
            population = Population.of(edits, copies)
            for epsilon in (*EPSILONS, None):
                rows += list(measure(population, epsilon))
    write_record(
        "privacy",
        rows,
        delta=DELTA,
        mapped=MAPPED,
        outputs=OUTPUTS,
        key_energy=KEY_ENERGY,
        layers=1,
        cpu_seconds=round(time.process_time() - started),
    )


if __name__ == "__main__":
    main()
