"""What a plan with `backend = "ckks"` fixes besides its fields: ring, guard and room.

The ring is one that suits every plan, so there is nothing to choose: degree 8192, three primes of
60 bits, of which SEAL keeps the last to itself (SPEC 7.8). How many bits of the first belong to the
guard follows from the size of the sums. Plain arithmetic; `crypto.ckks` has the same rules for any
parameters, and a test holds the two together.
"""

from typing import Final

RING_DEGREE: Final = 8192
"""Numbers in a chunk."""

PRIME_BITS: Final = (60, 60, 60)
DATA_PRIME: Final = 1152921504606683137
GUARD_PRIME: Final = 1152921504606748673
"""As `choose_primes` finds them."""

UPLOAD_NOISE: Final = 21
"""Largest error of a number of one upload: what SEAL's sampler cannot exceed
(`crypto.ckks.parameters.FRESH_NOISE`)."""

STATISTICAL_BITS: Final = 40
"""What a released sum tells of the key is within 2^-40 of nothing."""

RING_BITS: Final = 64
CHUNK_BYTES: Final = 32 + 64 + 2 * 8 * RING_DEGREE
"""Of an upload: header, seed, one polynomial modulo two primes."""

CHUNK_WORDS: Final = CHUNK_BYTES * 8 // RING_BITS
SUM_CHUNK_BYTES: Final = CHUNK_BYTES - 64
"""Of a sum, which has no seed of its own."""

SEED_BYTES: Final = 64


def chunks(values: int) -> int:
    """Return how many chunks `values` numbers make."""
    return -(-values // RING_DEGREE)


def guard_bits(values: int, parties: int) -> int:
    """Return h: the fewest bits of the data prime with which a sum is flooded enough.

    n·N·21/Γ ≤ 2^-40 with Γ = 2^h·p, p the guard prime and n filled up to whole chunks.

    Args:
        values: numbers of the longest vector.
        parties: N.
    """
    noise = chunks(values) * RING_DEGREE * parties * UPLOAD_NOISE << STATISTICAL_BITS
    return max(0, -(-noise // GUARD_PRIME) - 1).bit_length()


def check_room(*, values: int, parties: int, fractional_bits: int, magnitude_bound: float) -> None:
    """Refuse numbers that the data prime has no room for beside the guard.

    Args:
        values: numbers of the longest vector.
        parties: N.
        fractional_bits: f.
        magnitude_bound: B.

    Raises:
        ValueError: says what to lower.
    """
    guard = guard_bits(values, parties)
    most = PRIME_BITS[0] - 4 - guard
    if fractional_bits > most:
        raise ValueError(
            f"aggregation.fractional_bits {fractional_bits}: with backend ckks and {guard} bits "
            f"that hide the key, {most} at most"
        )
    numerator, denominator = magnitude_bound.as_integer_ratio()
    largest = (numerator << fractional_bits) // denominator + 1
    room = ((DATA_PRIME - 1) // 2 >> guard) - 1
    if parties * largest > room:
        raise ValueError(
            f"{parties} parties with aggregation.magnitude_bound {magnitude_bound:g} and "
            f"{fractional_bits} fractional bits exceed what a ciphertext holds, "
            f"{0.999 * room / parties / 2**fractional_bits:.5g} each: lower one of the two"
        )
