"""X25519 keys of one task, and the keys that two of them agree on.

Implements RFC 7748, section 6.1, through `cryptography`. Departs from it in what is accepted and in
what is returned:

- Public keys must be the canonical encoding of their point (u < 2^255 - 19, top bit clear). RFC
  7748 has receivers reduce other encodings silently; we bind keys by their bytes, and two encodings
  of one point would be two keys.
- The all-zero check, optional in section 6.1, is mandatory: low-order points would let a relay fix
  the shared key. `check_public` looks the points up instead, which costs no exchange.
- The raw shared point is never handed out. HKDF binds it to both public keys, as section 7
  recommends.
"""

from collections.abc import Sequence
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from collabedit.crypto.kdf import SECRET_BYTES, derive_key, encode_fields
from collabedit.crypto.rng import Randomness
from collabedit.errors import InvalidPublicKeyError

PUBLIC_BYTES: Final = 32

_FIELD_PRIME: Final = 2**255 - 19

# u of the canonical points whose order divides 8 on the curve or 4 on its twist: exactly those that
# a clamped scalar, a multiple of 8, sends to zero. The last two are the points of order 8.
_LOW_ORDER_U: Final = frozenset(
    {
        0,
        1,
        _FIELD_PRIME - 1,
        0x00B8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
        0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
    }
)


def _exchange(private: X25519PrivateKey, public: bytes) -> bytes:
    check_public(public)
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        # OpenSSL refuses the all-zero result itself (RFC 7748, section 6.1); nothing else can fail
        # for a loaded key.
        raise InvalidPublicKeyError("an X25519 public key is of low order") from error


def check_public(public: bytes) -> None:
    """Refuse a public key with which no exchange must be made. Needs no secret.

    Raises:
        InvalidPublicKeyError: wrong length, not canonical, or of low order.
    """
    if len(public) != PUBLIC_BYTES:
        raise InvalidPublicKeyError(
            f"an X25519 public key has {PUBLIC_BYTES} bytes, not {len(public)}"
        )
    u = int.from_bytes(public, "little")
    if u >= _FIELD_PRIME:
        raise InvalidPublicKeyError("an X25519 public key is not in its canonical encoding")
    if u in _LOW_ORDER_U:
        raise InvalidPublicKeyError("an X25519 public key is of low order")


class AgreementKey:
    """A private X25519 key. One per task and purpose, never reused across tasks."""

    __slots__ = ("_private", "_public")

    def __init__(self, private: X25519PrivateKey) -> None:
        self._private = private
        self._public = private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, randomness: Randomness) -> "AgreementKey":
        """Draw a fresh key: 32 uniform bytes, clamped only in use (RFC 7748, section 5)."""
        return cls.from_secret(randomness.random_bytes(SECRET_BYTES))

    @classmethod
    def from_secret(cls, secret: bytes) -> "AgreementKey":
        """Rebuild a key from what `secret` returned, for example after Shamir reconstruction.

        Raises:
            ValueError: the secret does not have 32 bytes.
        """
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"an X25519 private key has {SECRET_BYTES} bytes, not {len(secret)}")
        return cls(X25519PrivateKey.from_private_bytes(secret))

    @property
    def public(self) -> bytes:
        """The public key: 32 bytes, u little-endian."""
        return self._public

    def secret(self) -> bytes:
        """Return the 32 private bytes, the value that is Shamir-shared. Hand it to nothing else."""
        return self._private.private_bytes_raw()

    def agree(self, peer_public: bytes, *, label: str, context: bytes) -> bytes:
        """Derive the 32-byte key that only the owners of the two key pairs can derive.

        It is `derive_key(X25519, label, encode_fields(context, smaller public, larger public))`, so
        both ends get the same key, whichever asks.

        Args:
            peer_public: the other end's public key.
            label: the purpose; different labels give independent keys.
            context: everything else the key is bound to (session, task), encoded injectively.

        Raises:
            InvalidPublicKeyError: the peer's key is malformed, of low order, or our own.
        """
        (key,) = self.agree_all(peer_public, label=label, contexts=(context,))
        return key

    def agree_all(
        self, peer_public: bytes, *, label: str, contexts: Sequence[bytes]
    ) -> tuple[bytes, ...]:
        """Derive what `agree` gives for each context, from one exchange.

        Raises:
            InvalidPublicKeyError: the peer's key is malformed, of low order, or our own.
        """
        if peer_public == self._public:
            # Nobody honest draws our key; a relay that reflects it would have us agree with
            # ourselves.
            raise InvalidPublicKeyError("a peer presented our own X25519 public key")
        shared = _exchange(self._private, peer_public)
        low, high = sorted((self._public, peer_public))
        return tuple(
            derive_key(shared, label=label, context=encode_fields(context, low, high))
            for context in contexts
        )

    def __repr__(self) -> str:
        """Show the class only: the public half would suggest that the rest is safe to print."""
        return "AgreementKey(<secret>)"
