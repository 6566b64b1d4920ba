"""Recompute tests/vectors/crypto/*.json without any code of this project.

    python tests/vectors/verify_crypto.py [folder]

Written from the module docstrings and the standards, with other means than the code under test:
HKDF from `hmac`, X25519 and the order of Ed25519 points from plain integers, GCM's keystream from
AES-CTR, Shamir's sums without cached weights, fixed point from `Fraction`. Exits with 1 and one
line per case that disagrees.
"""

import hashlib
import hmac
import json
import math
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Json: TypeAlias = dict[str, Any]

FIELD = 2**255 - 19
EDWARDS_D = -121665 * pow(121666, -1, FIELD) % FIELD
SHAMIR = 2**256 + 297
DOMAIN = "collabedit/v1/"

un = bytes.fromhex


class Refused(Exception):  # noqa: N818 - an outcome, not an error
    """The input must be refused, with an error of this name."""


def require(condition: object, error: str) -> None:
    if not condition:
        raise Refused(error)


# Encoding and hashing


def encode(fields: list[list[str]]) -> bytes:
    out = b""
    for kind, text in fields:
        require(kind != "bool", "TypeError")
        if kind == "int":
            require(0 <= int(text) < 2**64, "ValueError")
            out += b"\x03" + int(text).to_bytes(8, "big")
        else:
            data = un(text) if kind == "bytes" else text.encode("utf-8")
            out += (b"\x01" if kind == "bytes" else b"\x02") + len(data).to_bytes(8, "big") + data
    return out


def labelled(label: str, fields: list[list[str]]) -> bytes:
    return encode([["str", DOMAIN + label], *fields])


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    extracted = hmac.digest(salt or bytes(32), secret, "sha256")
    out = block = b""
    counter = 1
    while len(out) < length:
        block = hmac.digest(extracted, block + info + bytes([counter]), "sha256")
        out += block
        counter += 1
    return out[:length]


def derive(secret: bytes, label: str, context: bytes, length: int = 32) -> bytes:
    require(len(secret) >= 16 and 1 <= length <= 255 * 32, "ValueError")
    return hkdf(secret, b"", labelled(label, [["bytes", context.hex()]]), length)


def transcript(given: Json) -> Json:
    return {"digest": hashlib.sha256(labelled(given["label"], given["fields"])).hexdigest()}


def commit(given: Json) -> Json:
    require(len(un(given["secret"])) == 32, "ValueError")
    fields = [["str", given["label"]], ["bytes", given["context"]], ["bytes", given["secret"]]]
    return transcript({"label": "commit", "fields": fields})


def derive_key(given: Json) -> Json:
    key = derive(un(given["secret"]), given["label"], un(given["context"]), given["length"])
    return {"key": key.hex()}


def plain_hkdf(given: Json) -> Json:
    secret, salt, info = (un(given[name]) for name in ("secret", "salt", "info"))
    return {"key": hkdf(secret, salt, info, given["length"]).hex()}


# X25519: RFC 7748, section 5, with plain integers


def ladder(scalar: bytes, u: int) -> bytes:
    k = int.from_bytes(scalar, "little")
    k = k & ~7 & ~(1 << 255) | 1 << 254
    x2, z2, x3, z3 = 1, 0, u, 1
    for bit in range(254, -1, -1):
        if k >> bit & 1:
            x2, x3, z2, z3 = x3, x2, z3, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        x3, z3 = (d * a + c * b) ** 2 % FIELD, u * (d * a - c * b) ** 2 % FIELD
        aa, bb = a * a % FIELD, b * b % FIELD
        x2, z2 = aa * bb % FIELD, (aa - bb) * (aa + 121665 * (aa - bb)) % FIELD
        if k >> bit & 1:
            x2, x3, z2, z3 = x3, x2, z3, z2
    return (x2 * pow(z2, -1, FIELD) % FIELD if z2 else 0).to_bytes(32, "little")


def public_of(secret: str) -> bytes:
    return ladder(un(secret), 9)


def exchange(secret: str, public: bytes) -> bytes:
    u = int.from_bytes(public, "little")
    require(len(public) == 32 and u < FIELD, "InvalidPublicKeyError")
    shared = ladder(un(secret), u)
    require(any(shared), "InvalidPublicKeyError")
    return shared


def agreed(secret: str, peer: bytes, label: str, context: bytes) -> bytes:
    mine = public_of(secret)
    require(peer != mine, "InvalidPublicKeyError")
    shared = exchange(secret, peer)
    ends = [["bytes", end.hex()] for end in sorted([mine, peer])]
    return derive(shared, label, encode([["bytes", context.hex()], *ends]))


def agree(given: Json) -> Json:
    peer, context = un(given["peer_public"]), un(given["context"])
    return {"key": agreed(given["secret"], peer, given["label"], context).hex()}


def x25519(given: Json) -> Json:
    shared = exchange(given["secret"], un(given["peer_public"]))
    return {"public": public_of(given["secret"]).hex(), "shared": shared.hex()}


def check_public(given: Json) -> Json:
    exchange("00" * 32, un(given["public"]))
    return {}


# Sealed messages


def seal_key(secret: str, peer: bytes, sender: bytes, receiver: bytes) -> bytes:
    direction = encode([["bytes", sender.hex()], ["bytes", receiver.hex()]])
    return agreed(secret, peer, "seal", direction)


def seal(given: Json) -> Json:
    receiver = un(given["receiver_public"])
    key = seal_key(given["sender_secret"], receiver, public_of(given["sender_secret"]), receiver)
    worker = Cipher(algorithms.AES256(key), modes.GCM(un(given["nonce"]))).encryptor()
    worker.authenticate_additional_data(un(given["associated_data"]))
    text = worker.update(un(given["plaintext"])) + worker.finalize()
    return {"sealed": given["nonce"] + text.hex() + worker.tag.hex()}


def open_sealed(given: Json) -> Json:
    text, sender = un(given["sealed"]), un(given["sender_public"])
    require(len(text) >= 28, "InvalidSealError")
    try:
        mine = given["receiver_secret"]
        key = seal_key(mine, sender, sender, public_of(mine))
        worker = Cipher(algorithms.AES256(key), modes.GCM(text[:12], text[-16:])).decryptor()
        worker.authenticate_additional_data(un(given["associated_data"]))
        return {"plaintext": (worker.update(text[12:-16]) + worker.finalize()).hex()}
    except (Refused, InvalidTag):
        raise Refused("InvalidSealError") from None


# Ed25519


def sign(given: Json) -> Json:
    key = Ed25519PrivateKey.from_private_bytes(un(given["seed"]))
    return {
        "verify_key": key.public_key().public_bytes_raw().hex(),
        "signature": key.sign(un(given["message"])).hex(),
    }


def add_points(p: tuple[int, int], q: tuple[int, int]) -> tuple[int, int]:
    """Add on -x^2 + y^2 = 1 + d x^2 y^2 (RFC 8032, section 5.1.4)."""
    cross = EDWARDS_D * p[0] * q[0] * p[1] * q[1]
    x = (p[0] * q[1] + p[1] * q[0]) * pow(1 + cross, -1, FIELD)
    y = (p[1] * q[1] + p[0] * q[0]) * pow(1 - cross, -1, FIELD)
    return x % FIELD, y % FIELD


def is_small(y: int) -> bool:
    """Say whether eight times a point with this y is the neutral element."""
    square = (y * y - 1) * pow(EDWARDS_D * y * y + 1, -1, FIELD) % FIELD
    x = pow(square, (FIELD + 3) // 8, FIELD)
    if x * x % FIELD != square:
        x = x * pow(2, (FIELD - 1) // 4, FIELD) % FIELD
    if x * x % FIELD != square:
        return False  # no such point: no signature will verify
    point = (x, y)
    for _ in range(3):
        point = add_points(point, point)
    return point == (0, 1)


def verify(given: Json) -> Json:
    key = un(given["verify_key"])
    y = int.from_bytes(key, "little") % 2**255
    require(len(key) == 32 and y < FIELD and not is_small(y), "InvalidPublicKeyError")
    try:
        loaded = Ed25519PublicKey.from_public_bytes(key)
        loaded.verify(un(given["signature"]), un(given["message"]))
    except InvalidSignature:
        raise Refused("InvalidSignatureError") from None
    return {}


# Keystream and masks


def stream(key: bytes, index: int, size: int) -> bytes:
    counter = index.to_bytes(12, "big") + (2).to_bytes(4, "big")
    return Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor().update(bytes(size))


def tile(given: Json) -> Json:
    index, size = int(given["index"]), given["elements"] * given["bits"] // 8
    fits = 0 <= index < 2**96 and 0 <= size <= 2**30
    require(len(un(given["key"])) == 32 and fits, "ValueError")
    return {"tile": stream(un(given["key"]), index, size).hex()}


def split_elements(data: bytes, bits: int) -> list[int]:
    step = bits // 8
    return [int.from_bytes(data[i : i + step], "little") for i in range(0, len(data), step)]


def join_elements(elements: list[int], bits: int) -> str:
    return b"".join((e % 2**bits).to_bytes(bits // 8, "little") for e in elements).hex()


def masked(values: str, bits: int, index: int, masks: list[tuple[int, bytes]]) -> str:
    total = split_elements(un(values), bits)
    for sign_, key in masks:
        pad = split_elements(stream(key, index, len(un(values))), bits)
        total = [a + sign_ * b for a, b in zip(total, pad, strict=True)]
    return join_elements(total, bits)


def mask_tile(given: Json) -> Json:
    require(all(sign_ in (1, -1) for sign_, _ in given["masks"]), "ValueError")
    masks = [(sign_, un(key)) for sign_, key in given["masks"]]
    return {"masked": masked(given["values"], given["bits"], int(given["tile_index"]), masks)}


def pair_sign(given: Json) -> Json:
    require(given["me"] != given["peer"], "ValueError")
    return {"sign": 1 if given["me"] < given["peer"] else -1}


def self_mask_key(given: Json) -> Json:
    require(len(un(given["seed"])) == 32, "ValueError")
    return {"key": derive(un(given["seed"]), "self-mask", un(given["context"])).hex()}


def pair_mask_key(given: Json) -> Json:
    return agree(given | {"label": "pair-mask"})


def masked_vectors(given: Json) -> Json:
    bits, index, context = given["bits"], int(given["tile_index"]), un(given["context"])
    everybody = given["parties"]
    out, sums, plain = [], [], []
    for me in everybody:
        own = derive(un(me["seed"]), "self-mask", context)
        pairs = [
            (
                1 if me["id"] < peer["id"] else -1,
                agreed(me["mask_secret"], public_of(peer["mask_secret"]), "pair-mask", context),
            )
            for peer in everybody
            if peer is not me
        ]
        out.append([me["id"], masked(me["values"], bits, index, [(1, own), *pairs])])
        # What the aggregator does with everybody alive: only self masks are taken off.
        sums.append(split_elements(un(masked(out[-1][1], bits, index, [(-1, own)])), bits))
        plain.append(split_elements(un(me["values"]), bits))
    opened = [sum(column) for column in zip(*sums, strict=True)]
    wanted = [sum(column) for column in zip(*plain, strict=True)]
    if join_elements(opened, bits) != join_elements(wanted, bits):
        raise AssertionError("pairwise masks do not cancel")
    return {"masked": out}


# Shamir


def check_places(places: list[int], error: str) -> None:
    distinct = len(set(places)) == len(places)
    require(distinct and all(1 <= x < 2**16 for x in places), error)


def split(given: Json) -> Json:
    places, threshold = given["abscissas"], given["threshold"]
    require(len(un(given["secret"])) == 32 and 2 <= threshold <= len(places), "ValueError")
    check_places(places, "ValueError")
    drawn = un(given["randomness"])
    coefficients = [int(given["secret"], 16)]
    while len(coefficients) < threshold:
        candidate, drawn = int.from_bytes(drawn[:33], "big") % 2**257, drawn[33:]
        coefficients += [candidate] if candidate < SHAMIR else []
    values = {x: sum(c * x**i for i, c in enumerate(coefficients)) % SHAMIR for x in places}
    return {"shares": [[x, value.to_bytes(33, "big").hex()] for x, value in values.items()]}


def at(points: list[tuple[int, int]], x: int) -> int:
    """Evaluate the polynomial through these points (Lagrange, as a sum of fractions)."""
    total = 0
    for i, (xi, yi) in enumerate(points):
        others = [xj for j, (xj, _) in enumerate(points) if j != i]
        top = math.prod(x - xj for xj in others)
        total += yi * top * pow(math.prod(xi - xj for xj in others), -1, SHAMIR)
    return total % SHAMIR


def combine(given: Json) -> Json:
    threshold, shares = given["threshold"], sorted(given["shares"])
    require(threshold >= 2, "ValueError")
    bad = "InvalidShareError"
    require(len(shares) >= threshold, bad)
    check_places([x for x, _ in shares], bad)
    require(all(len(un(y)) == 33 and int(y, 16) < SHAMIR for _, y in shares), bad)
    points = [(x, int(y, 16)) for x, y in shares]
    require(all(at(points[:threshold], x) == y for x, y in points), bad)
    secret = at(points[:threshold], 0)
    require(secret < 2**256, bad)
    return {"secret": secret.to_bytes(32, "big").hex()}


def weights(given: Json) -> Json:
    places = given["abscissas"]
    check_places(places, "ValueError")
    # The weight of a place is the value at 0 of the polynomial that is 1 there and 0 elsewhere.
    units = [[(x, int(x == one)) for x in places] for one in places]
    return {"weights": [str(at(unit, 0)) for unit in units]}


# Fixed point


def setting(given: Json) -> Json:
    bits, fraction, parties = given["bits"], given["fractional_bits"], given["parties"]
    bound = float.fromhex(given["magnitude_bound"])
    require(0 <= fraction <= bits - 2 and 0 < bound < math.inf and parties >= 1, "ValueError")
    largest = math.ceil(Fraction(bound) * 2**fraction + Fraction(1, 2))
    require(parties * largest < 2 ** (bits - 1), "NumericError")
    return {"step": (2.0**-fraction).hex()}


def encode_reals(given: Json) -> Json:
    setting(given)
    bound = float.fromhex(given["magnitude_bound"])
    values = [float.fromhex(text) for text in given["values"]]
    require(all(math.isfinite(v) and abs(v) <= bound for v in values), "NumericError")
    # `round` of a Fraction goes half to even.
    integers = [round(Fraction(v) * 2 ** given["fractional_bits"]) for v in values]
    return {"elements": join_elements(integers, given["bits"])}


def decode_reals(given: Json) -> Json:
    setting(given)
    bits = given["bits"]
    elements = split_elements(un(given["elements"]), bits)
    signed = [e - 2**bits if e >= 2 ** (bits - 1) else e for e in elements]
    # Division of integers in Python rounds correctly, half to even.
    return {"values": [(e / 2 ** given["fractional_bits"]).hex() for e in signed]}


OPERATIONS: dict[str, Callable[[Json], Json]] = {
    "encode_fields": lambda given: {"encoded": encode(given["fields"]).hex()},
    "transcript_hash": transcript,
    "commit": commit,
    "hkdf": plain_hkdf,
    "derive_key": derive_key,
    "agree": agree,
    "x25519": x25519,
    "check_public": check_public,
    "seal": seal,
    "open": open_sealed,
    "sign": sign,
    "verify": verify,
    "tile": tile,
    "split": split,
    "combine": combine,
    "weights": weights,
    "setting": setting,
    "encode": encode_reals,
    "decode": decode_reals,
    "pair_sign": pair_sign,
    "self_mask_key": self_mask_key,
    "pair_mask_key": pair_mask_key,
    "mask_tile": mask_tile,
    "masked_vectors": masked_vectors,
}


def outcome(case: Json) -> Json:
    try:
        return {"output": OPERATIONS[case["operation"]](case["input"])}
    except Refused as refusal:
        return {"error": str(refusal)}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "crypto"
    wrong, seen = [], 0
    for path in sorted(folder.glob("*.json")):
        for case in json.loads(path.read_text(encoding="utf-8"))["cases"]:
            seen += 1
            stated = {key: case[key] for key in ("output", "error") if key in case}
            if outcome(case) != stated:
                wrong.append(f"{path.name}: {case['operation']}, {case['name']}")
    if wrong or not seen:
        raise SystemExit("\n".join(wrong) or f"no vectors in {folder}")
    sys.stdout.write(f"{seen} cases agree\n")


if __name__ == "__main__":
    main()
