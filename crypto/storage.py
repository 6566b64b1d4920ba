"""Sealed records: what an end of the protocol keeps on its own disk for a restart.

AES-256-GCM (NIST SP 800-38D) with random 96-bit nonces. Each file has a key of its own, derived by
HKDF from the owner's storage key and a salt in the file, so one key seals far fewer than the 2^32
records that random nonces allow (SP 800-38D, section 8.3).

Record i binds i and the digest of record i - 1 as associated data. Records can therefore neither be
exchanged, left out nor moved to another file; what cannot be seen is that records at the end are
missing, that is, an older copy of the file.
"""

import hashlib
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from collabedit.crypto.kdf import SECRET_BYTES, derive_key, encode_fields, is_equal
from collabedit.crypto.rng import Randomness
from collabedit.errors import InvalidSealError

NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = NONCE_BYTES + TAG_BYTES
"""A sealed record is this much longer than its plaintext."""

CHECK_BYTES: Final = 16
"""Length of a file's key check: enough to tell the right key from another one."""


class FileKey:
    """The key of one file.

    Args:
        storage_key: 32 bytes, the owner's.
        name: of the file, so that files cannot stand for each other.
        salt: 32 random bytes, drawn when the file was made.

    Raises:
        ValueError: key or salt do not have 32 bytes.
    """

    __slots__ = ("_check", "_cipher")

    def __init__(self, storage_key: bytes, *, name: str, salt: bytes) -> None:
        if len(storage_key) != SECRET_BYTES or len(salt) != SECRET_BYTES:
            raise ValueError(f"a storage key and a salt have {SECRET_BYTES} bytes")
        context = encode_fields(name, salt)
        self._cipher = AESGCM(derive_key(storage_key, label="storage", context=context))
        self._check = derive_key(
            storage_key, label="storage-check", context=context, length=CHECK_BYTES
        )

    @property
    def check(self) -> bytes:
        """16 public bytes that tell whether a key is the file's, independent of the key itself."""
        return self._check

    def fits(self, check: bytes) -> bool:
        """Tell whether `check` was made by this key."""
        return is_equal(self._check, check)

    def seal(
        self, plaintext: bytes, *, index: int, previous: bytes, randomness: Randomness
    ) -> bytes:
        """Encrypt and authenticate record `index`: nonce, ciphertext, tag.

        Args:
            plaintext: any length up to 2^31 - 1 bytes.
            index: from 0.
            previous: `record_digest` of the record before, of the file's header for the first.
            randomness: gives the nonce.
        """
        nonce = randomness.random_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plaintext, _associated_data(index, previous))

    def open(self, sealed: bytes, *, index: int, previous: bytes) -> bytes:
        """Open what `seal` made, or refuse it.

        Raises:
            InvalidSealError: altered, of another place, another file or another key.
        """
        if len(sealed) < OVERHEAD_BYTES:
            raise InvalidSealError("a sealed record is shorter than its nonce and tag")
        try:
            return self._cipher.decrypt(
                sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _associated_data(index, previous)
            )
        except InvalidTag as error:
            raise InvalidSealError("a sealed record does not open in its place") from error

    def __repr__(self) -> str:
        return "FileKey(<secret>)"


def record_digest(stored: bytes) -> bytes:
    """Return the digest of a header or of a record as it is stored, which the next one binds."""
    return hashlib.sha256(stored).digest()


def _associated_data(index: int, previous: bytes) -> bytes:
    return encode_fields("collabedit/v1/record", index, previous)
