"""Key recovery from the opening of a CKKS sum, and what a key opens.

Li and Micciancio, "On the Security of Homomorphic Encryption on Approximate Numbers" (EUROCRYPT
2021, ePrint 2020/1533): a decryption is m' = c₀ + c₁·s, error and all. Who sees the ciphertext and
m' has one linear equation in a ring where c₁ is invertible but with probability n/q:

    s = (m' - c₀)/c₁

An additive protocol hands both to the aggregator: it made the ciphertext, and it is given the sum.
Points of the NTT decouple the equation. It need be solved modulo one prime only, since s is
ternary; a solution that is not ternary says that m' was not the whole truth.

* `key_from_coefficients`: numbers packed into coefficients, as `collabedit.crypto.ckks` does, but
  published with their error.
* `key_from_slots`: `tenseal.ckks_vector` as it is. It publishes the real parts of the slots only,
  so half an equation for each ciphertext: m'(ζ) + m'(1/ζ). Two ciphertexts of a vector give two
  equations for s(ζ) and s(1/ζ).
* `key_from_chosen_pair`: against an opener that takes c₁ from the aggregator. Flooding does not
  help; seeds do (`crypto.ckks.opening`).
* `read_upload`: one key for all parties means that the aggregator and *any* of them read everybody.

`ckks_sessions` runs these on transcripts of whole sessions.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from collabedit.crypto.ckks.keys import SecretKey, pack_ternary
from collabedit.crypto.ckks.modular import Residues, add_mod, subtract_mod, to_centred
from collabedit.crypto.ckks.parameters import CkksParameters
from collabedit.crypto.ckks.seal import SealContext, seal_context
from collabedit.crypto.ckks.wire import Form, decode_chunk
from collabedit.threat_model import Adversary

ADVERSARIES: Final = {
    "ckks-key-from-opening": Adversary.HONEST_AGGREGATOR,
    "ckks-key-from-chosen-pair": Adversary.MALICIOUS_AGGREGATOR,
    "ckks-upload-by-key": Adversary.COLLUDING,
}
"""Which adversary each of them needs."""


def key_from_coefficients(
    parameters: CkksParameters,
    pair: Residues,
    released: npt.NDArray[np.float64],
) -> SecretKey | None:
    """Solve for the key from one chunk whose numbers were published.

    Args:
        parameters: public.
        pair: the chunk that was opened, [2, primes, n]; of seeded uploads the second polynomial is
            the sum of what the seeds expand to.
        released: all n numbers that were opened. It works if they carry the error of the sum, so if
            the scale 2^f·Γ leaves it above float64's last bit.

    Returns:
        The key, or None: the solution is not ternary.
    """
    scaled = np.ldexp(released, parameters.scale_bits).astype(object)
    return key_from_phase(parameters, pair, [round(value) for value in scaled * parameters.guard])


def key_from_phase(
    parameters: CkksParameters, pair: Residues, phase: Sequence[int]
) -> SecretKey | None:
    """Solve m' = c₀ + c₁·s for the key.

    Args:
        parameters: public.
        pair: the chunk that was opened, see `key_from_coefficients`.
        phase: m', all n coefficients, as far as it is known.

    Returns:
        The key, or None: the solution is not ternary, so m' was not the whole truth.
    """
    prime = parameters.data_prime
    message = np.array([value % prime for value in phase], np.uint64)
    transformed = seal_context(parameters).to_ntt(message[None])[0]
    difference = subtract_mod(transformed, pair[0, 0], prime)
    inverses = _invert(pair[1, 0].tolist(), prime)
    if inverses is None:
        return None
    secret = [
        value * inverse % prime
        for value, inverse in zip(difference.tolist(), inverses, strict=True)
    ]
    return _key_of(parameters, secret)


def key_from_slots(
    parameters: CkksParameters,
    pairs: Sequence[Residues],
    released: Sequence[npt.NDArray[np.float64]],
    *,
    scale: float,
) -> SecretKey | None:
    """Solve for the key from two ciphertexts whose real slots were published.

    Writing m̄ for m(1/X), the real parts are those of (m' + m̄')/2, whose coefficients are half
    integers; twice of them, encoded, is rounded to the right integers.

    Args:
        parameters: the primes of the context; their scale and guard are not used.
        pairs: two ciphertexts under one key, [2, primes, n] each.
        released: the n/2 numbers that each of them opened to.
        scale: of the ciphertexts.

    Returns:
        The key, or None: the solution is not ternary.
    """
    context, prime = seal_context(parameters), parameters.data_prime
    rows = []
    for (first, second), values in zip(pairs, released, strict=True):
        twice = context.encode_slots(2.0 * values, scale)[0]
        # SEAL keeps ζ and 1/ζ at places j and n-1-j.
        known = add_mod(first[0], first[0, ::-1].copy(), prime)
        right = subtract_mod(twice, known, prime)
        rows.append(
            (second[0].astype(object), second[0, ::-1].astype(object), right.astype(object))
        )
    (a, a_bar, r), (b, b_bar, t) = rows
    inverses = _invert(((a * b_bar - a_bar * b) % prime).tolist(), prime)
    if inverses is None:
        return None
    solution = (r * b_bar - t * a_bar) * np.array(inverses, object) % prime
    return _key_of(parameters, solution.tolist())


def chosen_pair(parameters: CkksParameters) -> Residues:
    """Return a ciphertext whose opening is the key: c₀ = 0, c₁ = Γ. [2, primes, n]."""
    shape = (2, len(parameters.wire_primes), parameters.ring_degree)
    pair = np.zeros(shape, np.uint64)
    # A constant is the same at every point of the transform.
    pair[1] = np.array([parameters.guard % prime for prime in parameters.wire_primes])[:, None]
    return pair


def key_from_chosen_pair(
    parameters: CkksParameters, released: npt.NDArray[np.float64]
) -> SecretKey | None:
    """Read the key off the opening of `chosen_pair`, flooded or not: n numbers."""
    integers = np.rint(np.ldexp(released, parameters.scale_bits)).astype(np.int64)
    return _key_of_ternary(parameters, integers)


def read_upload(
    key: SecretKey, upload: bytes, *, index: int, chunks: int
) -> npt.NDArray[np.float64]:
    """Open a chunk of one party's upload with the key that every party has: n numbers."""
    integers = read_integers(key, upload, index=index, chunks=chunks)
    return np.ldexp(integers.astype(np.float64), -key.parameters.scale_bits)


def read_integers(
    key: SecretKey, upload: bytes, *, index: int, chunks: int
) -> npt.NDArray[np.int64]:
    """Open a chunk like `read_upload`, exactly: the n integers that were encrypted.

    The error is below half the guard by far, so rounding takes it off.
    """
    parameters = key.parameters
    chunk = decode_chunk(parameters, upload, form=Form.SEEDED, index=index, chunks=chunks)
    context = seal_context(parameters)
    phase = context.phase_of_seeds(key.seal_key(), chunk.residues[0], [chunk.seed])
    return _rounded(parameters, _coefficients(context, phase))


def published_with_error(key: SecretKey, pair: Residues) -> npt.NDArray[np.float64]:
    """Open a ciphertext as plain CKKS does, with its error: the control of the attacks.

    Args:
        key: of the opener.
        pair: [2, primes, n].

    Returns:
        (c₀ + c₁·s)/(2^f·Γ), rounded to float64: n numbers.
    """
    parameters = key.parameters
    context = seal_context(parameters)
    phase = lift(parameters, _coefficients(context, context.phase(key.seal_key(), *pair)))
    return np.array([value / parameters.guard for value in phase]) * 2.0**-parameters.scale_bits


def _coefficients(context: SealContext, phase: Residues) -> Residues:
    return np.stack(
        [context.from_ntt(row[None], prime=place)[0] for place, row in enumerate(phase)]
    )


def lift(parameters: CkksParameters, residues: Residues) -> list[int]:
    """Return the centred integers with these residues, [primes, n] (Chinese remainder theorem)."""
    modulus = 1
    for prime in parameters.wire_primes:
        modulus *= prime
    total = np.zeros(residues.shape[1], object)
    for prime, row in zip(parameters.wire_primes, residues, strict=True):
        rest = modulus // prime
        total += row.astype(object) * (rest * pow(rest, -1, prime))
    return [
        value - modulus if value > modulus // 2 else value for value in (total % modulus).tolist()
    ]


def _rounded(parameters: CkksParameters, residues: Residues) -> npt.NDArray[np.int64]:
    half = parameters.guard // 2
    return np.array(
        [(value + half) // parameters.guard for value in lift(parameters, residues)], np.int64
    )


def _invert(values: list[int], prime: int) -> list[int] | None:
    """Invert all values modulo a prime with one inversion, or none if one is zero."""
    prefixes, product = list[int](), 1
    for value in values:
        prefixes.append(product)
        product = product * value % prime
    if not product:
        return None
    inverse, inverses = pow(product, -1, prime), [0] * len(values)
    for place in range(len(values) - 1, -1, -1):
        inverses[place] = inverse * prefixes[place] % prime
        inverse = inverse * values[place] % prime
    return inverses


def _key_of(parameters: CkksParameters, secret: list[int]) -> SecretKey | None:
    points = np.array(secret, np.uint64)
    coefficients = seal_context(parameters).from_ntt(points[None])[0]
    return _key_of_ternary(parameters, to_centred(coefficients, parameters.data_prime))


def _key_of_ternary(
    parameters: CkksParameters, coefficients: npt.NDArray[np.int64]
) -> SecretKey | None:
    if np.abs(coefficients).max() > 1:
        return None
    return SecretKey.from_bytes(parameters, pack_ternary(parameters, coefficients))
