"""SPEC 1 and 7: encoding, hashes, keys, seals, shares, masks, fixed point. No project code.

Written from the text of docs/SPEC.md. Only `hashlib`, `hmac` and the package `cryptography` are
behind it; fields and fixed point are plain integers and fractions.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from fractions import Fraction

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SHAMIR_PRIME = 2**256 + 297
CURVE_PRIME = 2**255 - 19


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def encode(*fields: bytes | str | int) -> bytes:
    """SPEC 1.3."""
    out = b""
    for value in fields:
        if isinstance(value, int):
            out += b"\x03" + value.to_bytes(8, "big")
        else:
            data = value.encode() if isinstance(value, str) else value
            tag = b"\x02" if isinstance(value, str) else b"\x01"
            out += tag + len(data).to_bytes(8, "big") + data
    return out


def labelled_hash(label: str, *fields: bytes | str | int) -> bytes:
    """H of SPEC 1.4."""
    return sha256(encode("collabedit/v1/" + label, *fields))


def derive(secret: bytes, label: str, context: bytes) -> bytes:
    """KDF of SPEC 1.4: 32 bytes are one block of HKDF-Expand."""
    extracted = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(extracted, encode("collabedit/v1/" + label, context) + b"\x01", "sha256")


def commit(label: str, context: bytes, secret: bytes) -> bytes:
    return labelled_hash("commit", label, context, secret)


def sign(seed: bytes, data: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).sign(data)


def identity_of(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def verifies(public: bytes, signature: bytes, data: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except InvalidSignature:
        return False
    return True


def public_of(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def is_usable_key(public: bytes) -> bool:
    """SPEC 7.1: canonical and not of low order."""
    if len(public) != 32 or int.from_bytes(public, "little") >= CURVE_PRIME:
        return False
    try:
        X25519PrivateKey.from_private_bytes(bytes(32)).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError:
        return False  # the shared point is zero
    return True


def agree(secret: bytes, peer: bytes, label: str, context: bytes) -> bytes:
    """SPEC 7.1."""
    low, high = sorted((public_of(secret), peer))
    shared = X25519PrivateKey.from_private_bytes(secret).exchange(
        X25519PublicKey.from_public_bytes(peer)
    )
    return derive(shared, label, encode(context, low, high))


def seal_key(secret: bytes, peer: bytes, *, is_sender: bool) -> bytes:
    """SPEC 7.2: the key of one direction, from either end."""
    own = public_of(secret)
    ends = (own, peer) if is_sender else (peer, own)
    return agree(secret, peer, "seal", encode(*ends))


def seal(key: bytes, nonce: bytes, plaintext: bytes, data: bytes) -> bytes:
    return nonce + AESGCM(key).encrypt(nonce, plaintext, data)


def open_sealed(key: bytes, sealed: bytes, data: bytes) -> bytes | None:
    if len(sealed) < 12 + 16:
        return None
    try:
        return AESGCM(key).decrypt(sealed[:12], sealed[12:], data)
    except InvalidTag:
        return None


def share_at(secret: bytes, coefficients: Sequence[int], x: int) -> bytes:
    """SPEC 7.3: the polynomial's value, term by term."""
    terms = (int.from_bytes(secret, "big"), *coefficients)
    value = sum(term * pow(x, power, SHAMIR_PRIME) for power, term in enumerate(terms))
    value %= SHAMIR_PRIME
    return value.to_bytes(33, "big")


def reconstruct(shares: Mapping[int, bytes]) -> bytes | None:
    """Interpolate all of `shares` at 0; None if no 32 bytes come out."""
    if any(int.from_bytes(share, "big") >= SHAMIR_PRIME for share in shares.values()):
        return None
    total = 0
    for x, share in shares.items():
        term = int.from_bytes(share, "big")
        for other in shares:
            if other != x:
                term = term * other * pow(other - x, -1, SHAMIR_PRIME) % SHAMIR_PRIME
        total = (total + term) % SHAMIR_PRIME
    return None if total >= 2**256 else total.to_bytes(32, "big")


def keystream(key: bytes, tile: int, size: int) -> bytes:
    """SPEC 7.4, block by block: AES(key, nonce || counter), counter from 2."""
    encryptor = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()  # noqa: S305
    blocks = -(-size // 16)
    counters = b"".join(
        tile.to_bytes(12, "big") + (2 + block).to_bytes(4, "big") for block in range(blocks)
    )
    return encryptor.update(counters)[:size]


def counter_mode(key: bytes, size: int) -> bytes:
    """The first bytes of AES-256-CTR of zeros, block by block."""
    encryptor = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()  # noqa: S305
    blocks = b"".join(block.to_bytes(16, "big") for block in range(-(-size // 16)))
    return encryptor.update(blocks)[:size]


def to_ring(value: float, *, fractional_bits: int, ring_bits: int) -> int:
    """SPEC 7.6; `round` of a fraction rounds half to even."""
    return round(Fraction(value) * (1 << fractional_bits)) % (1 << ring_bits)


def from_ring(element: int, *, fractional_bits: int, ring_bits: int) -> float:
    if element >= 2 ** (ring_bits - 1):
        element -= 2**ring_bits
    return float(Fraction(element, 2**fractional_bits))


def elements_of(data: bytes, width: int) -> list[int]:
    """Read little-endian ring elements of `width` bytes."""
    return [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]


def bytes_of(elements: Sequence[int], width: int) -> bytes:
    return b"".join(element.to_bytes(width, "little") for element in elements)
