"""Injective encoding, transcript hashes, derived keys and commitments.

Implements HKDF-SHA256 (RFC 5869) through `cryptography`, with an empty salt: every secret that goes
in is uniform or comes from X25519, the case for which RFC 5869, section 3.1, allows it. All domain
separation is in `info`.

Departs from the usual concatenation of a label and some fields: fields are encoded injectively
first, so that no two different lists of fields can be hashed to the same bytes by moving a boundary
between them.
"""

import hashlib
import hmac
import struct
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

DOMAIN: Final = "collabedit/v1/"
"""Prefix of every label. A change of any encoding below changes the version in it."""

DIGEST_BYTES: Final = 32
SECRET_BYTES: Final = 32
"""Size of a seed, a private X25519 key, and of what Shamir's scheme shares."""

MIN_KEY_MATERIAL_BYTES: Final = 16
MAX_DERIVED_BYTES: Final = 255 * 32
"""RFC 5869, section 2.3: L <= 255 * HashLen."""

_TAG_BYTES: Final = 1
_TAG_STR: Final = 2
_TAG_INT: Final = 3


def encode_fields(*fields: bytes | str | int) -> bytes:
    """Encode a list of fields so that different lists always give different bytes.

    One field is a tag byte and then, with numbers big-endian,

        1  bytes   u64 length, the bytes
        2  str     u64 length in bytes, UTF-8 (as given: no Unicode normalisation)
        3  int     u64 value

    Each field tells its own end, so the concatenation can be parsed in one way only; the tag keeps
    `b"a"`, `"a"` and numbers apart. Hence injective over lists of any length, the empty one
    included.

    Raises:
        TypeError: a field is none of these types. `bool` is refused: True would read as 1.
        ValueError: an int is not in 0..2^64-1, or a string is not encodable.
    """
    return b"".join(_encode_field(field) for field in fields)


def _encode_field(field: object) -> bytes:
    if isinstance(field, bytes):
        return struct.pack(">BQ", _TAG_BYTES, len(field)) + field
    if isinstance(field, str):
        text = field.encode()
        return struct.pack(">BQ", _TAG_STR, len(text)) + text
    if isinstance(field, int) and not isinstance(field, bool):
        if not 0 <= field < 1 << 64:
            raise ValueError("an integer field must be in 0..2^64-1")
        return struct.pack(">BQ", _TAG_INT, field)
    raise TypeError(f"a field is bytes, str or int, not {type(field).__name__}")


def transcript_hash(label: str, *fields: bytes | str | int) -> bytes:
    """Hash a labelled list of fields to 32 bytes.

    It is SHA-256 of `encode_fields("collabedit/v1/" + label, *fields)`. The label `commit` is
    taken by `commit`.
    """
    return hashlib.sha256(encode_fields(DOMAIN + label, *fields)).digest()


def derive_key(secret: bytes, *, label: str, context: bytes, length: int = SECRET_BYTES) -> bytes:
    """Derive a key for one purpose.

    It is HKDF-SHA256 with `info = encode_fields("collabedit/v1/" + label, context)`.

    Args:
        secret: at least 16 bytes with at least 128 bits of entropy, or a public seed where the
            result is public too.
        label: the purpose. Keys under different labels or contexts are independent.
        context: everything the key is bound to, already encoded injectively.
        length: bytes wanted, 1..8160. A shorter key is a prefix of a longer one.

    Raises:
        ValueError: the secret is too short or the length out of range.
    """
    if len(secret) < MIN_KEY_MATERIAL_BYTES:
        raise ValueError(f"key material must have at least {MIN_KEY_MATERIAL_BYTES} bytes")
    if not 1 <= length <= MAX_DERIVED_BYTES:
        raise ValueError(f"HKDF-SHA256 gives 1..{MAX_DERIVED_BYTES} bytes")
    info = encode_fields(DOMAIN + label, context)
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(secret)


def commit(label: str, context: bytes, secret: bytes) -> bytes:
    """Commit to a uniformly random 32-byte secret.

    It is `transcript_hash("commit", label, context, secret)`.

    A commitment usually needs extra randomness to hide a guessable value. This one is only for
    secrets that are themselves 256 uniform bits: finding the secret from the digest is then
    inverting SHA-256 on 2^256 candidates, so it hides (with SHA-256 as a random oracle). It binds
    because SHA-256 is collision resistant and the encoding injective. Never use it on a value that
    somebody could list.

    Raises:
        ValueError: the secret does not have 32 bytes.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a committed secret has {SECRET_BYTES} bytes")
    return transcript_hash("commit", label, context, secret)


def is_equal(a: bytes, b: bytes) -> bool:
    """Compare in a time that depends on the lengths only, never on where the two differ."""
    return hmac.compare_digest(a, b)
