"""Which rings are used, and which are refused.

A ciphertext is a pair of polynomials modulo X^n + 1 and a product of primes. The primes have roles,
by their place:

    data        the first: holds the fixed-point sum, and below it `shift_bits` of the guard
    guard       those between: the rest of the guard
    key-switch  the last: SEAL asks for it, it never gets into a ciphertext

The guard Γ = 2^shift_bits · Π guard primes is the room below the sum in which noise is drowned
(`flooding`). An upload encrypts z·Γ for the integer z = round(x·2^f): in the words of CKKS its
scale is 2^f·Γ, and opening rescales by Γ. Each of the n coefficients holds one number, not each of
the n/2 slots: sums need no products, which is what slots are for.
"""

import functools
import math
from dataclasses import dataclass
from typing import Final

from collabedit.crypto.kdf import transcript_hash
from collabedit.errors import InputError

STANDARD_128: Final = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}
"""Ring degree to the largest log2 of the modulus, key-switching prime included.

Albrecht et al., Homomorphic Encryption Standard (HomomorphicEncryption.org, 2018; ePrint 2019/939),
table 1: 128-bit classical security, ternary secret, error deviation 3.2."""

MIN_PRIME_BITS: Final = 20
MAX_PRIME_BITS: Final = 60
"""SEAL's own limits for coefficient primes are 2 and 60 bits."""

FRESH_NOISE: Final = 21
"""Largest |error| of a coefficient of a fresh symmetric ciphertext, by construction.

SEAL draws an error as the ones among 21 random bits less the ones among 21 others: six bytes, of
which the third and the last are cut to five bits (`native/src/seal/util/rlwe.cpp`,
`sample_poly_cbd`). Built with SEAL_USE_GAUSSIAN_NOISE, it would draw from a normal distribution cut
at 6·3.2 = 19.2 (`globals.h`), so the bound holds in either case. LIMITATIONS says which the wheel
does, and how that is known."""

_WITNESSES: Final = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
"""Miller-Rabin with these is exact below 3.3·10^24 (Sorenson and Webster 2015)."""


def is_prime(number: int) -> bool:
    """Test an integer below 2^64 for primality, exactly."""
    if number < 2 or any(number % small == 0 for small in _WITNESSES):
        return number in _WITNESSES
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for witness in _WITNESSES:
        power = pow(witness, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


@functools.lru_cache
def choose_primes(ring_degree: int, moduli_bits: tuple[int, ...]) -> tuple[int, ...]:
    """Choose the primes that SEAL chooses (`CoeffModulus::Create`).

    Of each size the largest primes that are 1 modulo 2n, so that the ring has a number-theoretic
    transform; those of one size are handed out from the smallest up.

    Raises:
        InputError: there are not as many primes of that size.
    """
    step = 2 * ring_degree
    tables: dict[int, list[int]] = {}
    for bits in set(moduli_bits):
        wanted, found = moduli_bits.count(bits), list[int]()
        candidate = (1 << bits) - step + 1
        while len(found) < wanted and candidate > 1 << (bits - 1):
            if is_prime(candidate):
                found.append(candidate)
            candidate -= step
        if len(found) < wanted:
            raise InputError(
                f"there are not {wanted} primes of {bits} bits for a ring of {ring_degree}"
            )
        tables[bits] = found
    return tuple(tables[bits].pop() for bits in moduli_bits)


@dataclass(frozen=True, slots=True)
class CkksParameters:
    """A ring, its primes and the scale. Only those of at least 128-bit security can be constructed.

    Attributes:
        ring_degree: n, coefficients of a polynomial: numbers in a chunk.
        moduli_bits: sizes of the primes in bits: data, guards, key-switch.
        scale_bits: f, fractional bits of a number; the step is 2^-f.
        shift_bits: bits of the data prime that belong to the guard.

    Raises:
        InputError: not a ring of the standard's table, more modulus than it allows at this degree,
            or primes that do not exist.
    """

    ring_degree: int = 8192
    moduli_bits: tuple[int, ...] = (60, 60, 60)
    scale_bits: int = 32
    shift_bits: int = 12

    def __post_init__(self) -> None:
        if self.ring_degree not in STANDARD_128:
            known = ", ".join(map(str, STANDARD_128))
            raise InputError(f"ring degree {self.ring_degree} is not in the standard: {known}")
        if len(self.moduli_bits) < 2:
            raise InputError("moduli_bits has a data prime and a key-switching prime at least")
        for bits in self.moduli_bits:
            if not MIN_PRIME_BITS <= bits <= MAX_PRIME_BITS:
                raise InputError(
                    f"a prime of {bits} bits: sizes are {MIN_PRIME_BITS} to {MAX_PRIME_BITS}"
                )
        total, allowed = sum(self.moduli_bits), STANDARD_128[self.ring_degree]
        if total > allowed:
            raise InputError(
                f"moduli of {total} bits together are below 128-bit security at ring degree "
                f"{self.ring_degree}, which allows {allowed}; use a larger ring or smaller primes"
            )
        room = self.moduli_bits[0] - 4
        if min(self.scale_bits, self.shift_bits) < 0 or self.scale_bits + self.shift_bits > room:
            raise InputError(
                f"scale_bits and shift_bits are 0 or more, and {room} together at most: the data "
                f"prime holds both"
            )
        choose_primes(self.ring_degree, self.moduli_bits)

    @property
    def primes(self) -> tuple[int, ...]:
        """All primes, the key-switching one last."""
        return choose_primes(self.ring_degree, self.moduli_bits)

    @property
    def data_prime(self) -> int:
        """The prime that holds the sum."""
        return self.primes[0]

    @property
    def guard_primes(self) -> tuple[int, ...]:
        """The primes that hold noise and nothing else; there may be none."""
        return self.primes[1:-1]

    @property
    def guard(self) -> int:
        """Γ, an integer; 1 is the plain CKKS of tutorials, which `opening` refuses."""
        return math.prod(self.guard_primes) << self.shift_bits

    @property
    def wire_primes(self) -> tuple[int, ...]:
        """The primes of a ciphertext: data and guards."""
        return self.primes[:-1]

    @property
    def word_bytes(self) -> tuple[int, ...]:
        """Bytes of a residue on the wire, for each prime of a ciphertext."""
        return tuple(-(-bits // 8) for bits in self.moduli_bits[:-1])

    @property
    def polynomial_bytes(self) -> int:
        """Bytes of one polynomial on the wire."""
        return self.ring_degree * sum(self.word_bytes)

    @property
    def seal_scale(self) -> float:
        """The scale as CKKS counts it: 2^f·Γ, rounded to a float64."""
        return math.ldexp(float(self.guard), self.scale_bits)

    @property
    def largest_sum(self) -> int:
        """Largest |Σ z| that the data prime holds, with a step to spare for noise and rounding."""
        return ((self.data_prime - 1) // 2 >> self.shift_bits) - 1

    @property
    def largest_real_sum(self) -> float:
        """`largest_sum` as a real: |Σ x| that fits, roughly, whatever the parties."""
        return math.ldexp(float(self.largest_sum), -self.scale_bits)

    def chunks(self, values: int) -> int:
        """Return how many chunks a vector of `values` numbers makes."""
        return -(-values // self.ring_degree)

    def fresh_noise(self, *, public_key: bool = False) -> int:
        """Bound |error| of a coefficient of one upload, in the worst case.

        Under the secret key it is `FRESH_NOISE`. Under the public key the error is e·u + e₁ + e₂·s
        modulo all primes, with ternary u and s, so at most 21·(2n + 1); SEAL then divides by the
        key-switching prime P and rounds (`encrypt_zero_internal`), which adds at most 1/2 for c₀
        and n/2 for c₁·s:

            ⌈21·(2n + 1)/P⌉ + ⌈(n + 1)/2⌉
        """
        if not public_key:
            return FRESH_NOISE
        degree = self.ring_degree
        scaled = -(-FRESH_NOISE * (2 * degree + 1) // self.primes[-1])
        return scaled + -(-(degree + 1) // 2)

    def fingerprint(self) -> bytes:
        """Return 32 bytes that name these parameters and this packing; public."""
        return transcript_hash(
            "ckks-parameters",
            self.ring_degree,
            self.scale_bits,
            self.shift_bits,
            len(self.primes),
            *self.primes,
        )


LEAN: Final = CkksParameters(moduli_bits=(60, 60), scale_bits=40, shift_bits=0)
"""What a tutorial on additions would use: no guard, 8 bytes a number, one opening gives the key.
For comparisons and attacks only: `opening` refuses it."""
