"""What a key that no party has alone would cost: a prototype, for docs/adr/0020.

Additive n-of-n shares over the same ring (Mouchet et al., PoPETs 2021, ePrint 2020/304): a public
polynomial a from a seed, party i has sᵢ and shows bᵢ = -(a·sᵢ + eᵢ), uploads are made under Σbᵢ,
and the sum (c₀, c₁) opens to c₀ + Σ(c₁·sᵢ + fᵢ) with fᵢ uniform. SEAL has no interface for a given
a, but its decryption computes c₀ + c₁·s for any two polynomials: products come from there. The
errors are drawn here.

A prototype, and not in the package: no party checks c₁, so a malicious aggregator gets every sᵢ.
"""

import os
import time

import numpy as np
import numpy.typing as npt
from timing import write_record

from collabedit.crypto.ckks.flooding import uniform_residues
from collabedit.crypto.ckks.keys import SecretKey
from collabedit.crypto.ckks.modular import Residues, add_mod, subtract_mod, to_residues
from collabedit.crypto.ckks.packing import Packing, rescale_flooded
from collabedit.crypto.ckks.parameters import CkksParameters
from collabedit.crypto.ckks.seal import SealContext, seal_context
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.ring import Ring

PARAMETERS = CkksParameters()
PARTIES = 3
CHUNKS = 16
BOUND = 8.0
PRIMES = PARAMETERS.wire_primes


def small(context: SealContext) -> Residues:
    """A fresh error, centred binomial of 42 bits, in NTT form: [primes, n]."""
    drawn = Keystream(os.urandom(32)).tile(0, PARAMETERS.ring_degree, Ring.Z64)
    bits = (1 << 21) - 1
    low = np.bitwise_count(drawn & np.uint64(bits)).astype(np.int64)
    high = np.bitwise_count((drawn >> np.uint64(21)) & np.uint64(bits)).astype(np.int64)
    return transformed(context, low - high)


def transformed(context: SealContext, integers: npt.NDArray[np.int64]) -> Residues:
    return np.stack(
        [
            context.to_ntt(to_residues(integers, prime)[None], prime=place)[0]
            for place, prime in enumerate(PRIMES)
        ]
    )


def added(left: Residues, right: Residues) -> Residues:
    return np.stack([add_mod(*rows) for rows in zip(left, right, PRIMES, strict=True)])


def negated(values: Residues) -> Residues:
    zeros = np.zeros_like(values)
    return np.stack([subtract_mod(*rows) for rows in zip(zeros, values, PRIMES, strict=True)])


def flood(stream: Keystream, tile: int) -> Residues:
    """Uniform below the guard prime, the same integer modulo both primes, in NTT form."""
    drawn = uniform_residues(stream, tile << 16, PARAMETERS.ring_degree, PRIMES[1] // PARTIES)
    return transformed(seal_context(PARAMETERS), drawn.astype(np.int64))


def main() -> None:
    context = seal_context(PARAMETERS)
    packing = Packing(PARAMETERS, BOUND, PARTIES)
    common = context.expand_seed(os.urandom(64))
    shares = [SecretKey.generate(PARAMETERS) for _ in range(PARTIES)]
    parts = [negated(context.phase(s.seal_key(), small(context), common)) for s in shares]
    public = added(added(parts[0], parts[1]), parts[2])
    values = CHUNKS * PARAMETERS.ring_degree
    rng = np.random.default_rng(0)
    vectors = [rng.uniform(-BOUND, BOUND, values) for _ in shares]
    spent = dict.fromkeys(("upload", "partial decryption", "combine"), 0.0)
    stream, worst = Keystream(os.urandom(32)), 0.0
    for index in range(CHUNKS):
        part = slice(index * PARAMETERS.ring_degree, (index + 1) * PARAMETERS.ring_degree)
        started = time.process_time()
        pairs = []
        for vector in vectors:
            u = context.generate_key()
            message = np.zeros_like(common)
            message[0] = context.to_ntt(packing.encode(vector[part]))[0]
            first = context.phase(u, added(small(context), message), public)
            pairs.append((first, context.phase(u, small(context), common)))
        spent["upload"] += time.process_time() - started
        first, second = pairs[0]
        for more in pairs[1:]:
            first, second = added(first, more[0]), added(second, more[1])
        started = time.process_time()
        partials = [
            context.phase(share.seal_key(), flood(stream, index * PARTIES + place), second)
            for place, share in enumerate(shares)
        ]
        spent["partial decryption"] += time.process_time() - started
        started = time.process_time()
        phase = first
        for partial in partials:
            phase = added(phase, partial)
        coefficients = np.stack(
            [context.from_ntt(row[None], prime=place)[0] for place, row in enumerate(phase)]
        )
        opened = packing.decode(rescale_flooded(PARAMETERS, coefficients, stream, 1 << 20 | index))
        spent["combine"] += time.process_time() - started
        exact = sum(vector[part] for vector in vectors)
        worst = max(worst, float(np.abs(opened - exact).max()))
    rows: list[dict[str, object]] = []
    for what, seconds in spent.items():
        people = 1 if what == "combine" else PARTIES
        rows.append({"what": what, "s": round(seconds * 1e6 / values / people, 4)})
    word = sum(PARAMETERS.word_bytes)
    write_record(
        "ckks_threshold",
        rows,
        values=values,
        parties=PARTIES,
        largest_error=worst,
        bytes_up=f"{2 * word} + {word} a number",
        bytes_down=f"{word} a number, the sum's second polynomial",
        unit="seconds of processor time of one party, per 10^6 numbers",
    )


if __name__ == "__main__":
    main()
