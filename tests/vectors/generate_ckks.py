"""Write tests/vectors/ckks.json with the code under test (SPEC 7.8). Deterministic.

    python tests/vectors/generate_ckks.py [folder]

Polynomials are too long to list: they are made from SHAKE-256 of a name, and what comes out is
pinned by SHA-256 of its words, uint64 little-endian.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from collabedit.crypto.ckks.adding import Adder
from collabedit.crypto.ckks.flooding import flooding_plan
from collabedit.crypto.ckks.keys import SecretKey, pack_ternary
from collabedit.crypto.ckks.packing import Packing, rescale_flooded
from collabedit.crypto.ckks.parameters import CkksParameters
from collabedit.crypto.ckks.seal import seal_context
from collabedit.crypto.ckks.wire import Chunk, Form, decode_chunk, encode_chunk
from collabedit.crypto.keystream import Keystream
from collabedit.errors import InputError, MalformedMessageError
from collabedit.ids import PartyId

SETTINGS: tuple[dict[str, Any], ...] = (
    {"ring_degree": 8192, "moduli_bits": [60, 60, 60], "scale_bits": 32, "shift_bits": 12},
    {"ring_degree": 8192, "moduli_bits": [56, 40, 32, 56], "scale_bits": 40, "shift_bits": 0},
    {"ring_degree": 4096, "moduli_bits": [40, 20, 40], "scale_bits": 16, "shift_bits": 8},
    {"ring_degree": 8192, "moduli_bits": [60, 60], "scale_bits": 40, "shift_bits": 0},
)
REFUSED: tuple[dict[str, Any], ...] = (
    {"ring_degree": 8192, "moduli_bits": [60, 60, 60, 60], "scale_bits": 32, "shift_bits": 12},
    {"ring_degree": 8192, "moduli_bits": [55, 55, 55, 54], "scale_bits": 32, "shift_bits": 0},
    {"ring_degree": 8192, "moduli_bits": [60], "scale_bits": 32, "shift_bits": 0},
    {"ring_degree": 8192, "moduli_bits": [61, 60], "scale_bits": 32, "shift_bits": 0},
    {"ring_degree": 8192, "moduli_bits": [60, 60], "scale_bits": 40, "shift_bits": 17},
    {"ring_degree": 8000, "moduli_bits": [60, 60], "scale_bits": 40, "shift_bits": 0},
    {"ring_degree": 32768, "moduli_bits": [20] * 12, "scale_bits": 2, "shift_bits": 0},
)
WORD = 8


def setting(given: dict[str, Any]) -> CkksParameters:
    """Return the parameters of a case."""
    return CkksParameters(**{**given, "moduli_bits": tuple(given["moduli_bits"])})


def words(name: str, count: int) -> np.ndarray:
    """Return reproducible uint64: SHAKE-256 of the name."""
    stream = hashlib.shake_256(f"collabedit ckks vector: {name}".encode()).digest(WORD * count)
    return np.frombuffer(stream, "<u8").astype(np.uint64)


def polynomials(parameters: CkksParameters, name: str, count: int) -> np.ndarray:
    """Return reproducible polynomials: words modulo each prime, [count, primes, n]."""
    degree, primes = parameters.ring_degree, parameters.wire_primes
    drawn = words(name, count * len(primes) * degree).reshape(count, len(primes), degree)
    return np.stack([drawn[:, j] % np.uint64(p) for j, p in enumerate(primes)], axis=1)


def digest(values: np.ndarray) -> str:
    """Pin an array of words."""
    return hashlib.sha256(np.ascontiguousarray(values).astype("<u8").tobytes()).hexdigest()


def sha(data: bytes) -> str:
    """Pin bytes."""
    return hashlib.sha256(data).hexdigest()


def is_refused(given: dict[str, Any]) -> bool:
    """Try to construct the parameters."""
    try:
        setting(given)
    except InputError:
        return True
    return False


def parameter_case(given: dict[str, Any]) -> dict[str, Any]:
    """Primes, sizes, flooding, and the transform of X."""
    made = setting(given)
    context = seal_context(made)
    root = np.zeros((1, made.ring_degree), np.uint64)
    root[0, 1] = 1
    ternary = (words("key", made.ring_degree) % np.uint64(3)).astype(np.int64)
    packed = pack_ternary(made, np.where(ternary == 2, -1, ternary))
    secret = SecretKey.from_bytes(made, packed)
    plan = flooding_plan(made, parties=5, values=1 << 20, statistical_bits=0)
    return {
        **given,
        "primes": [str(prime) for prime in made.primes],
        "guard": str(made.guard),
        "largest_sum": str(made.largest_sum),
        "fingerprint": made.fingerprint().hex(),
        "transform_of_x": digest(context.to_ntt(root)),
        "expanded_seed": digest(context.expand_seed(bytes(range(64)))),
        "secret_key": sha(secret.to_bytes()),
        "secret_key_fingerprint": secret.fingerprint().hex(),
        "derived_key": sha(SecretKey.derive(made, bytes(range(32))).to_bytes()),
        "flooding_margin": plan.margin.hex(),
    }


def chunk_case(given: dict[str, Any], form: Form) -> dict[str, Any]:
    """Three uploads and their sum."""
    made = setting(given)
    parties = [PartyId(number) for number in (1, 2, 3)]
    uploads = {}
    for party in parties:
        residues = polynomials(made, f"{form.name} {party}", form.polynomials)
        seed = words(f"seed {party}", 8).tobytes()[: form.seed_bytes]
        uploads[party] = encode_chunk(made, Chunk(form, 1, 0, 1, residues, seed))
    adder = Adder(made, values=made.ring_degree, contributors=parties, form=form)
    for party, data in uploads.items():
        adder.add(party, 0, data)
    return {
        "parameters": given,
        "form": form.value,
        "header": uploads[parties[0]][:32].hex(),
        "uploads": [sha(data) for data in uploads.values()],
        "sum": sha(adder.take(0).data),
    }


def refused_chunks(given: dict[str, Any]) -> list[dict[str, Any]]:
    """Alterations of the first upload, each with whether it is refused."""
    made = setting(given)
    good = encode_chunk(
        made, Chunk(Form.SEEDED, 1, 0, 1, polynomials(made, "SEEDED 1", 1), bytes(64))
    )
    cases = []
    for length, offset, patch in (
        (len(good), 0, ""),
        (len(good) - 1, 0, ""),
        (31, 0, ""),
        (0, 0, ""),
        (len(good) + 1, 0, ""),
        (len(good), 0, "63"),
        (len(good), 4, "02"),
        (len(good), 5, "02"),
        (len(good), 6, "02"),
        (len(good), 8, "01"),
        (len(good), 12, "02"),
        (len(good), 31, "ee"),
        (len(good), 32, "ff"),
        (len(good), 96, "ffffffffffffffff"),
        (len(good), 96, made.data_prime.to_bytes(8, "little").hex()),
        (len(good), 96, (made.data_prime - 1).to_bytes(8, "little").hex()),
        (len(good), len(good) - 8, "ffffffffffffffff"),
    ):
        data = bytearray(good[:length].ljust(length, b"\0"))
        data[offset : offset + len(patch) // 2] = bytes.fromhex(patch)
        try:
            decode_chunk(made, bytes(data), form=Form.SEEDED, index=0, chunks=1)
        except MalformedMessageError:
            refused = True
        else:
            refused = False
        cases.append({"length": length, "offset": offset, "patch": patch, "refused": refused})
    return cases


def opening_case(given: dict[str, Any], tile: int) -> dict[str, Any]:
    """A phase, flooded and rounded."""
    made = setting(given)
    phase = polynomials(made, f"phase {tile}", 1)[0]
    key = bytes(range(32))
    released = rescale_flooded(made, phase, Keystream(key), tile)
    return {
        "parameters": given,
        "key": key.hex(),
        "tile": tile,
        "released": digest(released.view(np.uint64)),
        "first": [str(value) for value in released[:4].tolist()],
    }


def message_case(given: dict[str, Any]) -> dict[str, Any]:
    """Reals as a message polynomial."""
    made = setting(given)
    reals = [0.0, 1.0, -1.0, 0.3, -0.7, made.largest_real_sum / 4, 2.0**-17, -(2.0**-33)]
    packing = Packing(made, made.largest_real_sum / 4, 3)
    message = packing.encode(np.array(reals))[0]
    return {
        "parameters": given,
        "reals": [value.hex() for value in reals],
        "residues": [str(value) for value in message[: len(reals)].tolist()],
        "polynomial": digest(message),
    }


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    content = {
        "generator": "tests/vectors/generate_ckks.py",
        "parameters": [parameter_case(given) for given in SETTINGS],
        "refused_parameters": [{**given, "refused": is_refused(given)} for given in REFUSED],
        "chunks": [
            chunk_case(given, form) for given in SETTINGS[:2] for form in (Form.SEEDED, Form.PAIR)
        ],
        "refused_chunks": {"parameters": SETTINGS[0], "cases": refused_chunks(SETTINGS[0])},
        "messages": [message_case(given) for given in SETTINGS],
        "openings": [opening_case(given, tile) for given in SETTINGS[:3] for tile in (0, 7)],
    }
    (folder / "ckks.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
