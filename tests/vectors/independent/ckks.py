"""SPEC 7.8: CKKS sums. Python's integers throughout, and no SEAL. No project code."""

import hashlib
import math
import struct
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from independent.wire import Json

STANDARD = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}
SEEDED, PAIR, FIRST = 1, 2, 3


class Refused(Exception):  # noqa: N818  it is a verdict, not a fault
    pass


def is_prime(n: int) -> bool:
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        x = pow(base, odd, n)
        if x in (1, n - 1):
            continue
        if not any((x := x * x % n) == n - 1 for _ in range(twos - 1)):
            return False
    return True


class Setting:
    def __init__(self, given: Json) -> None:
        self.n, self.bits = given["ring_degree"], given["moduli_bits"]
        self.f, self.shift = given["scale_bits"], given["shift_bits"]
        if self.n not in STANDARD or sum(self.bits) > STANDARD[self.n] or len(self.bits) < 2:
            raise Refused
        if any(not 20 <= b <= 60 for b in self.bits):
            raise Refused
        if self.f + self.shift > self.bits[0] - 4:
            raise Refused
        chosen: dict[int, list[int]] = {}
        for b in sorted(set(self.bits)):
            candidates = range(2**b - 2 * self.n + 1, 2 ** (b - 1), -2 * self.n)
            primes = (p for p in candidates if is_prime(p))
            chosen[b] = [p for p, _ in zip(primes, range(self.bits.count(b)), strict=False)]
            if len(chosen[b]) < self.bits.count(b):
                raise Refused
        self.primes = [chosen[b].pop() for b in self.bits]
        self.wire, self.guards = self.primes[:-1], self.primes[1:-1]
        self.guard = math.prod(self.guards) * 2**self.shift
        fields = [self.n, self.f, self.shift, len(self.primes), *self.primes]
        self.fingerprint = transcript("ckks-parameters", *fields)
        self.widths = [(b + 7) // 8 for b in self.bits[:-1]]


def transcript(label: str, *fields: int | bytes) -> bytes:
    text = f"collabedit/v1/{label}".encode()
    out = struct.pack(">BQ", 2, len(text)) + text
    for field in fields:
        if isinstance(field, int):
            out += struct.pack(">BQ", 3, field)
        else:
            out += struct.pack(">BQ", 1, len(field)) + field
    return hashlib.sha256(out).digest()


def words(name: str, count: int) -> list[int]:
    stream = hashlib.shake_256(f"collabedit ckks vector: {name}".encode()).digest(8 * count)
    return list(struct.unpack(f"<{count}Q", stream))


def polynomials(s: Setting, name: str, count: int) -> list[list[list[int]]]:
    drawn = iter(words(name, count * len(s.wire) * s.n))
    return [[[next(drawn) % p for _ in range(s.n)] for p in s.wire] for _ in range(count)]


def digest(values: list[int]) -> str:
    return hashlib.sha256(struct.pack(f"<{len(values)}Q", *(v % 2**64 for v in values))).hexdigest()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def smallest_root(n: int, p: int) -> int:
    """The smallest primitive 2n-th root of unity."""
    base = next(r for g in range(2, p) if pow(r := pow(g, (p - 1) // (2 * n), p), n, p) == p - 1)
    square, power, smallest = base * base % p, base, base
    for _ in range(n):
        smallest, power = min(smallest, power), power * square % p
    return smallest


def transform_of_x(s: Setting) -> list[int]:
    """The odd powers of the smallest primitive root, exponents in bit-reversed order."""
    p = s.primes[0]
    smallest = smallest_root(s.n, p)
    width = s.n.bit_length() - 1
    order = [int(f"{j:0{width}b}"[::-1], 2) for j in range(s.n)]
    return [pow(smallest, 2 * k + 1, p) for k in order]


IV = [
    0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
    0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
]  # fmt: skip
SIGMA = """
0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
14 10 4 8 9 15 13 6 1 12 0 2 11 7 5 3
11 8 12 0 5 2 15 13 10 14 3 6 7 1 9 4
7 9 3 1 13 12 11 14 2 6 5 10 4 0 15 8
9 0 5 7 2 4 10 15 14 1 11 12 6 8 3 13
2 12 6 10 0 11 8 3 4 13 7 5 15 14 1 9
12 5 1 15 14 13 4 10 0 7 6 3 9 2 8 11
13 11 7 14 12 1 3 9 5 0 15 4 8 6 2 10
6 15 14 9 11 3 0 8 12 2 13 7 1 4 10 5
10 2 8 4 7 6 1 5 15 11 9 14 3 12 13 0
"""
LANES = [
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
]  # fmt: skip
BUFFER = 4096
Words = npt.NDArray[np.uint64]


def blake2b_leaves(roots: Words, offsets: Words) -> Words:
    """BLAKE2b (RFC 7693) of 64-byte roots as BLAKE2X's leaves: [blocks, 8] words each.

    Parameters: digest and inner length 64, leaf length 64, fanout and depth 0, the node offset of
    each block. hashlib does not take a depth of 0.
    """
    zeros = np.zeros(len(roots), np.uint64)
    block = [roots[:, i] if i < 8 else zeros for i in range(16)]
    parameters = [zeros + np.uint64(64 | 64 << 32), offsets, zeros + np.uint64(64 << 8)]
    state = [zeros + np.uint64(iv) for iv in IV]
    for i, word in enumerate(parameters):
        state[i] = state[i] ^ word
    v = [*state, *(zeros + np.uint64(iv) for iv in IV)]
    v[12] = v[12] ^ np.uint64(64)
    v[14] = ~v[14]
    schedule = [[int(x) for x in line.split()] for line in SIGMA.split("\n") if line]

    def turn(x: Words, bits: int) -> Words:
        return x >> np.uint64(bits) | x << np.uint64(64 - bits)

    for number in range(12):
        order = schedule[number % 10]
        for lane, (a, b, c, d) in enumerate(LANES):
            v[a] = v[a] + v[b] + block[order[2 * lane]]
            v[d] = turn(v[d] ^ v[a], 32)
            v[c] = v[c] + v[d]
            v[b] = turn(v[b] ^ v[c], 24)
            v[a] = v[a] + v[b] + block[order[2 * lane + 1]]
            v[d] = turn(v[d] ^ v[a], 16)
            v[c] = v[c] + v[d]
            v[b] = turn(v[b] ^ v[c], 63)
    return np.stack([state[i] ^ v[i] ^ v[i + 8] for i in range(8)], axis=1)


def blake2xb(seed: bytes, buffers: int) -> list[int]:
    """Words of BLAKE2Xb, 4096 bytes at a time, of a counter and keyed by the seed."""
    roots, offsets = [], []
    for counter in range(buffers):
        root = hashlib.blake2b(
            struct.pack("<Q", counter), digest_size=64, key=seed, node_offset=BUFFER << 32
        ).digest()
        for i in range(BUFFER // 64):
            roots.append(struct.unpack("<8Q", root))
            offsets.append(BUFFER << 32 | i)
    words: list[int] = (
        blake2b_leaves(np.array(roots, np.uint64), np.array(offsets, np.uint64))
        .reshape(-1)
        .tolist()
    )
    return words


def expand(s: Setting, seed: bytes) -> list[int]:
    count = len(s.wire) * s.n
    # Rejections are rare: fewer than a fifth of the words for any prime, and a buffer to spare.
    stream = iter(blake2xb(seed, 8 * count * 6 // 5 // BUFFER + 2))
    drawn = [next(stream) for _ in range(count)]
    out = []
    for j, p in enumerate(s.wire):
        limit = 2**64 - 1 - (2**64 - 1) % p - 1
        for value in drawn[j * s.n : (j + 1) * s.n]:
            word = value
            while word >= limit:
                word = next(stream)
            out.append(word % p)
    return out


def secret_key(s: Setting) -> bytes:
    return pack_key(s, [word % 3 for word in words("key", s.n)])


def pack_key(s: Setting, codes: list[int]) -> bytes:
    packed = [sum(codes[i + k] << 2 * k for k in range(4)) for i in range(0, s.n, 4)]
    return s.fingerprint + bytes(packed)


def write_chunk(
    s: Setting, form: int, terms: int, seed: bytes, polys: list[list[list[int]]]
) -> bytes:
    out = b"CKKS" + struct.pack("<BBHII", 1, form, terms, 0, 1) + s.fingerprint[:16] + seed
    for poly in polys:
        for row, width in zip(poly, s.widths, strict=True):
            out += b"".join(value.to_bytes(width, "little") for value in row)
    return out


def is_refused(s: Setting, data: bytes) -> bool:
    if len(data) != 96 + s.n * sum(s.widths):
        return True
    if data[:16] != b"CKKS" + struct.pack("<BBHII", 1, SEEDED, 1, 0, 1):
        return True
    if data[16:32] != s.fingerprint[:16]:
        return True
    at = 96
    for p, width in zip(s.wire, s.widths, strict=True):
        for _ in range(s.n):
            if int.from_bytes(data[at : at + width], "little") >= p:
                return True
            at += width
    return False


def tile(key: bytes, index: int, count: int) -> list[int]:
    counter = index.to_bytes(12, "big") + struct.pack(">I", 2)
    cipher = Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor()
    return list(struct.unpack(f"<{count}Q", cipher.update(bytes(8 * count))))


def draw(key: bytes, index: int, count: int, p: int) -> list[int]:
    kept: list[int] = []
    while len(kept) < count:
        masked = (w % 2 ** p.bit_length() for w in tile(key, index, count - len(kept)))
        kept += [w for w in masked if w < p]
        index += 1
    return kept


def release(s: Setting, key: bytes, chunk: int, phase: list[list[int]]) -> list[int]:
    first = chunk * (len(s.guards) + 1) * 65536
    digits = [draw(key, first + j * 65536, s.n, p) for j, p in enumerate(s.guards)]
    low = tile(key, first + len(s.guards) * 65536, s.n)
    q, product = math.prod(s.wire), math.prod(s.guards)
    basis = [q // p * pow(q // p, -1, p) for p in s.wire]
    out = []
    for i in range(s.n):
        value = sum(row[i] * b for row, b in zip(phase, basis, strict=True)) % q
        target, radix = 0, 1
        for digit, p in zip(digits, s.guards, strict=True):
            target, radix = target + digit[i] * radix, radix * p
        # (value + F - target)/product modulo the data prime, centred.
        flood = (target - value) % product
        y = (value + flood - target) // product % s.primes[0]
        y -= s.primes[0] if y > s.primes[0] // 2 else 0
        out.append((y + low[i] % 2**s.shift) >> s.shift)
    return out


def message(s: Setting, reals: list[str]) -> list[int]:
    integers = [round(Fraction(float.fromhex(x)) * 2**s.f) for x in reals]
    return [z * s.guard % s.primes[0] for z in integers] + [0] * (s.n - len(reals))


def recompute(content: Json) -> Json:
    """Return the whole file as it should be."""
    parameters = []
    for given in content["parameters"]:
        s = Setting(given)
        key = secret_key(s)
        parameters.append(
            {
                **{k: given[k] for k in ("ring_degree", "moduli_bits", "scale_bits", "shift_bits")},
                "primes": [str(p) for p in s.primes],
                "guard": str(s.guard),
                "largest_sum": str((s.primes[0] - 1) // 2 // 2**s.shift - 1),
                "fingerprint": s.fingerprint.hex(),
                "transform_of_x": digest(transform_of_x(s)),
                "expanded_seed": digest(expand(s, bytes(range(64)))),
                "secret_key": sha(key),
                "secret_key_fingerprint": transcript("ckks-key", key).hex(),
                "derived_key": sha(pack_key(s, draw(bytes(range(32)), 0, s.n, 3))),
                "flooding_margin": (math.log2(s.guard) - math.log2((1 << 20) * 5 * 21)).hex(),
            }
        )
    chunks = []
    for case in content["chunks"]:
        s, form = Setting(case["parameters"]), case["form"]
        name, count = ("SEEDED", 1) if form == SEEDED else ("PAIR", 2)
        polys = {i: polynomials(s, f"{name} {i}", count) for i in (1, 2, 3)}
        seeds = {
            i: struct.pack("<8Q", *words(f"seed {i}", 8)) if form == SEEDED else b"" for i in polys
        }
        uploads = [write_chunk(s, form, 1, seeds[i], polys[i]) for i in polys]
        total = [
            [
                [sum(values) % p for values in zip(*(polys[i][k][j] for i in polys), strict=True)]
                for j, p in enumerate(s.wire)
            ]
            for k in range(count)
        ]
        summed = write_chunk(s, FIRST if form == SEEDED else PAIR, 3, b"", total)
        chunks.append(
            {
                "parameters": case["parameters"],
                "form": form,
                "header": uploads[0][:32].hex(),
                "uploads": [sha(data) for data in uploads],
                "sum": sha(summed),
            }
        )
    given = content["refused_chunks"]["parameters"]
    s = Setting(given)
    good = write_chunk(s, SEEDED, 1, bytes(64), polynomials(s, "SEEDED 1", 1))
    cases = []
    for case in content["refused_chunks"]["cases"]:
        data = bytearray(good[: case["length"]].ljust(case["length"], b"\0"))
        patch = bytes.fromhex(case["patch"])
        data[case["offset"] : case["offset"] + len(patch)] = patch
        cases.append({**case, "refused": is_refused(s, bytes(data))})
    messages = []
    for case in content["messages"]:
        s = Setting(case["parameters"])
        poly = message(s, case["reals"])
        residues = [str(value) for value in poly[: len(case["reals"])]]
        messages.append({**case, "residues": residues, "polynomial": digest(poly)})
    openings = []
    for case in content["openings"]:
        s = Setting(case["parameters"])
        phase = polynomials(s, f"phase {case['tile']}", 1)[0]
        out = release(s, bytes.fromhex(case["key"]), case["tile"], phase)
        openings.append({**case, "released": digest(out), "first": [str(v) for v in out[:4]]})
    return {
        "generator": content["generator"],
        "parameters": parameters,
        "refused_parameters": [
            {**given, "refused": _refused(given)} for given in content["refused_parameters"]
        ],
        "chunks": chunks,
        "refused_chunks": {"parameters": given, "cases": cases},
        "messages": messages,
        "openings": openings,
    }


def _refused(given: Json) -> bool:
    try:
        Setting(given)
    except Refused:
        return True
    return False


def _differences(found: object, expected: object, path: str) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(found, dict) and found.keys() == expected.keys():
        for key in expected:
            yield from _differences(found[key], expected[key], f"{path}.{key}".removeprefix("."))
    elif isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        for i, pair in enumerate(zip(found, expected, strict=True)):
            yield from _differences(*pair, f"{path}[{i}]")
    elif found != expected:
        yield f"{path}: {expected} expected"


def verify_ckks(content: Json) -> list[str]:
    """Return one line for each disagreement."""
    return list(_differences(content, recompute(content), ""))
