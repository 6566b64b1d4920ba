"""Identities: Ed25519 keys that sign every protocol message, and the files that hold them.

Implements RFC 8032 (Ed25519, no prehash) through `cryptography`. Departs from it by refusing public
keys of small order and non-canonical ones: under a small-order key anybody can make signatures that
verify, so a plan that pins one would pin nobody. What is signed (domain label, plan, session,
round) is the caller's business: see `kdf`.
"""

import os
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from collabedit.crypto.rng import Randomness
from collabedit.errors import InvalidPublicKeyError, InvalidSignatureError, KeyFileError

SEED_BYTES: Final = 32
VERIFY_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

_FIELD_PRIME: Final = 2**255 - 19
_SIGN_BIT: Final = 1 << 255

# y of the eight points of small order: (0, 1), (0, -1), (±sqrt(-1), 0), and the four of order 8,
# two for each y.
_ORDER_8_Y: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER_Y: Final = frozenset({0, 1, _FIELD_PRIME - 1, _ORDER_8_Y, _FIELD_PRIME - _ORDER_8_Y})


class VerifyKey:
    """A public Ed25519 key: who an institution is. Equal and hashable by its bytes."""

    __slots__ = ("_public", "_raw")

    def __init__(self, public: Ed25519PublicKey) -> None:
        self._public = public
        self._raw = public.public_bytes_raw()

    @classmethod
    def from_bytes(cls, data: bytes) -> "VerifyKey":
        """Load a key from its 32 bytes.

        Raises:
            InvalidPublicKeyError: wrong length, not canonical, or of small order.
        """
        if len(data) != VERIFY_KEY_BYTES:
            raise InvalidPublicKeyError(
                f"an Ed25519 public key has {VERIFY_KEY_BYTES} bytes, not {len(data)}"
            )
        y = int.from_bytes(data, "little") & ~_SIGN_BIT
        if y >= _FIELD_PRIME:
            raise InvalidPublicKeyError("an Ed25519 public key is not in its canonical encoding")
        if y in _SMALL_ORDER_Y:
            raise InvalidPublicKeyError("an Ed25519 public key is of small order")
        return cls(Ed25519PublicKey.from_public_bytes(data))

    def to_bytes(self) -> bytes:
        """Return the key's 32 bytes (RFC 8032, section 5.1.5)."""
        return self._raw

    def verify(self, signature: bytes, message: bytes) -> None:
        """Return if the signature is this key's on this message.

        Raises:
            InvalidSignatureError: it is not, or it does not have 64 bytes.
        """
        try:
            self._public.verify(signature, message)
        except InvalidSignature as error:
            raise InvalidSignatureError("a signature does not verify") from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, VerifyKey):
            return NotImplemented
        return self._raw == other._raw

    def __hash__(self) -> int:
        return hash(self._raw)

    def __repr__(self) -> str:
        """Show the key: it is public, and plans are compared by eye."""
        return f"VerifyKey({self._raw.hex()})"


class SigningKey:
    """A private Ed25519 key."""

    __slots__ = ("_private",)

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @classmethod
    def generate(cls, randomness: Randomness) -> "SigningKey":
        """Draw a fresh key."""
        return cls.from_seed(randomness.random_bytes(SEED_BYTES))

    @classmethod
    def from_seed(cls, seed: bytes) -> "SigningKey":
        """Build a key from its 32-byte seed, the private key of RFC 8032, section 5.1.5.

        Raises:
            ValueError: the seed does not have 32 bytes.
        """
        if len(seed) != SEED_BYTES:
            raise ValueError(f"an Ed25519 seed has {SEED_BYTES} bytes, not {len(seed)}")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_pem(cls, pem: bytes) -> "SigningKey":
        """Load an unencrypted PKCS #8 PEM.

        Raises:
            KeyFileError: not a PEM private key, encrypted, or not Ed25519.
        """
        try:
            private = load_pem_private_key(pem, password=None)
        except TypeError as error:
            raise KeyFileError(
                "the private key is encrypted with a password; store it unencrypted"
            ) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise KeyFileError("not a private key in PEM form") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise KeyFileError(
                "the private key is not Ed25519; make one with `collabedit keys new`"
            )
        return cls(private)

    @property
    def verify_key(self) -> VerifyKey:
        """The public half."""
        return VerifyKey(self._private.public_key())

    def sign(self, message: bytes) -> bytes:
        """Sign: 64 bytes, deterministic (RFC 8032, section 5.1.6)."""
        return self._private.sign(message)

    def to_pem(self) -> bytes:
        """Return the *private* key as unencrypted PKCS #8 PEM, for `write_private`."""
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def __repr__(self) -> str:
        return "SigningKey(<secret>)"


def write_private(path: Path, pem: bytes) -> None:
    """Create a private file, readable and writable by its owner only. Never overwrites.

    The mode is set on creation, so that there is no moment at which others could open the file.

    Raises:
        KeyFileError: the file exists already (a dangling link counts), or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise KeyFileError(
            f"{path}: exists already; a private key is never overwritten, move it away first"
        ) from error
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be created: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        # Half a key would be refused on reading and block the next attempt: leave nothing.
        path.unlink(missing_ok=True)
        raise KeyFileError(f"{path}: cannot be written: {error.strerror}") from error


def read_private(path: Path) -> bytes:
    """Read a private file that nobody but its owner can read.

    Raises:
        KeyFileError: missing, not a regular file, or accessible to group or others.
    """
    try:
        with path.open("rb") as file:
            # The opened file is judged, not the name: the name could be exchanged in between.
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise KeyFileError(f"{path}: not a regular file")
            if status.st_mode & 0o077:
                raise KeyFileError(
                    f"{path}: other users can access this private key; run: chmod 600 {path}"
                )
            return file.read()
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from error


def read_signing_key(path: Path) -> SigningKey:
    """Read an identity key from its PEM file.

    Raises:
        KeyFileError: missing, malformed, not Ed25519, or accessible to group or others; names the
            file.
    """
    pem = read_private(path)
    try:
        return SigningKey.from_pem(pem)
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error}") from error
