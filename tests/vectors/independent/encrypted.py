"""SPEC 6.11, on top of 7.8: key, upload, offer and opening of a task. No project code.

The ring is worked in Python's integers, held in numpy arrays of objects. One chunk only.
"""

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from independent import ckks
from independent import primitives as p
from independent.plan import Plan
from independent.wire import Json, context_bytes

DEGREE = 8192
SEED, HEADER = 64, 32
CHUNK = HEADER + SEED + 2 * 8 * DEGREE
LARGEST_ERROR = 21
Residues: TypeAlias = NDArray[Any]
"""Python's integers, [n]."""


def setting(plan: Plan) -> ckks.Setting:
    """(a): the guard follows from the longest statistics of any task."""
    longest = max(map(plan.statistics_elements, range(len(plan.tasks))))
    given = {
        "ring_degree": DEGREE,
        "moduli_bits": [60, 60, 60],
        "scale_bits": plan.aggregation["fractional_bits"],
        "shift_bits": 0,
    }
    guard = ckks.Setting(given).primes[1]
    numbers = -(-longest // DEGREE) * DEGREE
    while numbers * len(plan.parties) * LARGEST_ERROR * 2**40 > 2 ** given["shift_bits"] * guard:
        given["shift_bits"] += 1
    return ckks.Setting(given)


class Ring:
    """Polynomials modulo X^n + 1 and a prime, and their values as SPEC 7.8 sends them."""

    def __init__(self, prime: int) -> None:
        self.prime = prime
        root, self.powers = ckks.smallest_root(DEGREE, prime), [1]
        for _ in range(2 * DEGREE - 1):
            self.powers.append(self.powers[-1] * root % prime)

    def roots(self, exponents: list[int]) -> Residues:
        return np.array([self.powers[k // 2] for k in exponents], dtype=object)[:, None]

    def split(self) -> list[list[int]]:
        """Exponents k of the factors X^m - psi^k of X^n + 1, level by level."""
        levels = [[DEGREE]]
        while levels[-1][0] > 1:
            levels.append([half for k in levels[-1] for half in (k // 2, k // 2 + DEGREE)])
        return levels

    def values(self, coefficients: Residues) -> Residues:
        parts = coefficients.reshape(1, -1) % self.prime
        for exponents in self.split()[:-1]:
            low, high = np.split(parts, 2, axis=1)
            turned = high * self.roots(exponents) % self.prime
            parts = np.stack([low + turned, low - turned], axis=1) % self.prime
            parts = parts.reshape(-1, low.shape[1])
        return parts.reshape(-1)

    def coefficients(self, values: Residues) -> Residues:
        parts, half = values.reshape(-1, 1), pow(2, -1, self.prime)
        for exponents in reversed(self.split()[:-1]):
            left, right = parts[0::2], parts[1::2]
            inverses = np.array(
                [pow(int(root), -1, self.prime) for root in self.roots(exponents)[:, 0]],
                dtype=object,
            )[:, None]
            parts = np.hstack([left + right, (left - right) * inverses]) * half % self.prime
        return parts.reshape(-1)


@dataclass
class Key:
    """(b), and what is computed under it."""

    plan: Plan
    context: Json
    secret: bytes

    def __post_init__(self) -> None:
        self.setting = setting(self.plan)
        self.rings = [Ring(prime) for prime in self.setting.wire]
        self.seed = p.derive(self.secret, "ckks-secret", context_bytes(self.context))
        self.codes = ckks.draw(self.seed, 0, DEGREE, 3)
        self.data = ckks.pack_key(self.setting, self.codes)

    @cached_property
    def values(self) -> list[Residues]:
        trits = np.array([(0, 1, -1)[code] for code in self.codes], dtype=object)
        return [ring.values(trits) for ring in self.rings]

    def expanded(self, seed: bytes) -> list[Residues]:
        """a, which a seed stands for."""
        numbers = np.array(ckks.expand(self.setting, seed), dtype=object)
        return list(numbers.reshape(len(self.rings), DEGREE))

    def chunk(self, integers: list[int], seed: bytes, error: list[int]) -> bytes:
        """(c): c0 = m - (a s + e)."""
        message = np.array(integers + [0] * (DEGREE - len(integers)), dtype=object)
        plain = message * self.setting.guard - np.array(error, dtype=object)
        first = [
            (ring.values(plain) - mask * key) % ring.prime
            for ring, mask, key in zip(self.rings, self.expanded(seed), self.values, strict=True)
        ]
        return self.write(ckks.SEEDED, 1, seed, first)

    def write(self, form: int, terms: int, seed: bytes, residues: list[Residues]) -> bytes:
        return ckks.write_chunk(self.setting, form, terms, seed, [[list(row) for row in residues]])

    def is_chunk(self, data: bytes, form: int, terms: int) -> bool:
        """Whether this is the only chunk of a vector, in this form (SPEC 7.8)."""
        seed = SEED if form == ckks.SEEDED else 0
        header = b"CKKS" + struct.pack("<BBHII", 1, form, terms, 0, 1)
        if len(data) != CHUNK - SEED + seed:
            return False
        if data[:HEADER] != header + self.setting.fingerprint[:16]:
            return False
        rows = zip(self.residues(data[HEADER + seed :]), self.rings, strict=True)
        return all(max(row) < ring.prime for row, ring in rows)

    def residues(self, data: bytes) -> list[Residues]:
        """Words of a polynomial, prime by prime."""
        words = np.array(p.elements_of(data, 8), dtype=object)
        return list(words.reshape(len(self.rings), DEGREE))

    def summed(self, chunks: list[bytes]) -> bytes:
        """(d), but for the seeds."""
        parts = [self.residues(chunk[HEADER + SEED :]) for chunk in chunks]
        total = [
            sum(rows) % ring.prime
            for rows, ring in zip(zip(*parts, strict=True), self.rings, strict=True)
        ]
        return self.write(ckks.FIRST, len(chunks), b"", total)

    def open(self, chunk: bytes, seeds: list[bytes], noise: bytes) -> list[int]:
        """SPEC 7.8, *Opening*: all released integers of the chunk."""
        masks = [self.expanded(seed) for seed in seeds]
        phase = [
            ring.coefficients((first + sum(own) * key) % ring.prime)
            for ring, first, own, key in zip(
                self.rings,
                self.residues(chunk[HEADER:]),
                zip(*masks, strict=True),
                self.values,
                strict=True,
            )
        ]
        return ckks.release(self.setting, noise, 0, [list(row) for row in phase])

    def largest_sum(self) -> int:
        """Beyond this no released integer can be honest."""
        section = self.plan.aggregation
        bound = int(section["magnitude_bound"] * 2 ** section["fractional_bits"])
        return len(self.plan.parties) * (bound + 1) + 1


def seeds_digest(seeds: bytes) -> bytes:
    """(c)."""
    return p.labelled_hash("ckks-seeds", seeds)
