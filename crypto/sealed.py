"""Sealed messages: what one party sends another through the aggregator.

AES-256-GCM (NIST SP 800-38D) under a key from X25519 and HKDF. The format is

    nonce (12 random bytes) || ciphertext || tag (16 bytes)

Departs from HPKE (RFC 9180) in authenticated mode, which has the same shape: both keys here are
already ephemeral and signed, so there is no encapsulated key to carry. The key is *directional*:
sender and receiver stand in the context in that order, so a message reflected to its sender does
not open.

GCM does not commit to its key. Nothing here tries several keys on one ciphertext, so that does not
matter.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from collabedit.crypto.agreement import AgreementKey
from collabedit.crypto.kdf import encode_fields
from collabedit.crypto.rng import Randomness
from collabedit.errors import InvalidPublicKeyError, InvalidSealError

NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = NONCE_BYTES + TAG_BYTES
"""A sealed message is this much longer than its plaintext."""


class Channel:
    """The two directional keys between our sealing key and a peer's, from one agreement.

    `seal` and `open` are those of the module, for whoever does both with the same peer.
    """

    __slots__ = ("_inbound", "_outbound")

    def __init__(self, mine: AgreementKey, peer_public: bytes) -> None:
        """Agree with the peer.

        Raises:
            InvalidPublicKeyError: the peer's key is malformed, of low order, or our own.
        """
        to_peer = encode_fields(mine.public, peer_public)
        from_peer = encode_fields(peer_public, mine.public)
        keys = mine.agree_all(peer_public, label="seal", contexts=(to_peer, from_peer))
        self._outbound, self._inbound = (AESGCM(key) for key in keys)

    def seal(self, plaintext: bytes, *, associated_data: bytes, randomness: Randomness) -> bytes:
        """Encrypt and authenticate a message to the peer; arguments as of the function `seal`."""
        nonce = randomness.random_bytes(NONCE_BYTES)
        return nonce + self._outbound.encrypt(nonce, plaintext, associated_data)

    def open(self, sealed: bytes, *, associated_data: bytes) -> bytes:
        """Open a message of the peer, or refuse it.

        Raises:
            InvalidSealError: truncated or altered, from somebody else, or with other associated
                data.
        """
        if len(sealed) < OVERHEAD_BYTES:
            raise InvalidSealError("a sealed message is shorter than its nonce and tag")
        try:
            return self._inbound.decrypt(
                sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], associated_data
            )
        except InvalidTag as error:
            raise InvalidSealError(
                "a sealed message does not open under these keys and context"
            ) from error

    def __repr__(self) -> str:
        return "Channel(<secret>)"


def seal(
    *,
    sender: AgreementKey,
    receiver_public: bytes,
    plaintext: bytes,
    associated_data: bytes,
    randomness: Randomness,
) -> bytes:
    """Encrypt and authenticate a message from one party to another.

    Args:
        sender: the sender's sealing key of this task.
        receiver_public: the receiver's sealing key, already bound to its identity by a signature.
        plaintext: any length up to 2^31 - 1 bytes.
        associated_data: everything the message belongs to (session, task, from, to); must be equal
            on opening.
        randomness: gives the nonce. One pair of keys may seal at most 2^32 messages (SP 800-38D,
            section 8.3).

    Raises:
        InvalidPublicKeyError: the receiver's key is malformed, of low order, or the sender's own.
    """
    return Channel(sender, receiver_public).seal(
        plaintext, associated_data=associated_data, randomness=randomness
    )


def open_sealed(
    *, receiver: AgreementKey, sender_public: bytes, sealed: bytes, associated_data: bytes
) -> bytes:
    """Open what `seal` made, or refuse it. Nothing of an altered message is ever returned.

    Raises:
        InvalidSealError: truncated or altered, for another receiver, from another sender, with
            other associated data, or the sender's key itself is unusable. Which of these is not
            told.
    """
    try:
        channel = Channel(receiver, sender_public)
    except InvalidPublicKeyError as error:
        raise InvalidSealError(
            "a sealed message does not open under these keys and context"
        ) from error
    return channel.open(sealed, associated_data=associated_data)
