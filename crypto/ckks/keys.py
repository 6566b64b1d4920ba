"""The secret key of one task, its public form, and their bytes.

A task's parties derive its key from their group secret, or one draws it and seals it to the others;
it serves one task and one opening. Deleting
the last reference lets SEAL overwrite the polynomial (`seal::SecretKey` clears on destruction);
copies that Python made of the bytes are not overwritten, see THREAT_MODEL on memory.
"""

import threading
from typing import Final

import numpy as np
import numpy.typing as npt

from collabedit.crypto.ckks.flooding import uniform_residues
from collabedit.crypto.ckks.modular import Residues, to_centred, to_residues
from collabedit.crypto.ckks.parameters import CkksParameters
from collabedit.crypto.ckks.seal import Handle, seal_context
from collabedit.crypto.kdf import DIGEST_BYTES, transcript_hash
from collabedit.crypto.keystream import Keystream
from collabedit.errors import CryptoError, MalformedMessageError, UnexpectedMessageError

_TERNARY: Final = 3
"""Codes 0, 1, 2 stand for 0, 1, -1."""
_CODES_IN_BYTE: Final = 4


def secret_key_bytes(parameters: CkksParameters) -> int:
    """Return the length of a serialised secret key: a fingerprint and two bits a coefficient."""
    return DIGEST_BYTES + parameters.ring_degree // _CODES_IN_BYTE


def pack_ternary(parameters: CkksParameters, coefficients: npt.NDArray[np.int64]) -> bytes:
    """Write a secret polynomial, [n] of -1, 0, 1, as `SecretKey.from_bytes` reads it."""
    codes = (coefficients % _TERNARY).astype(np.uint8).reshape(-1, _CODES_IN_BYTE)
    packed = sum(codes[:, place] << 2 * place for place in range(_CODES_IN_BYTE))
    return parameters.fingerprint() + np.asarray(packed, np.uint8).tobytes()


class SecretKey:
    """A ternary secret key of one task. Whoever has it opens every upload of the task.

    Not pickled, not compared, not shown.
    """

    __slots__ = ("_key", "_lock", "_opened", "parameters")

    def __init__(self, parameters: CkksParameters, key: Handle) -> None:
        self.parameters = parameters
        self._key: Handle = key
        self._opened = False
        self._lock = threading.Lock()

    @classmethod
    def generate(cls, parameters: CkksParameters) -> "SecretKey":
        """Draw a fresh key; SEAL draws it, from the system's generator."""
        return cls(parameters, seal_context(parameters).generate_key())

    @classmethod
    def derive(cls, parameters: CkksParameters, seed: bytes) -> "SecretKey":
        """Expand a key from a secret, the same key each time (SPEC 7.8).

        Uniform trits, as SEAL's own sampler gives, by rejection from a keystream.

        Args:
            parameters: of the plan.
            seed: 32 uniformly random bytes that serve nothing else.
        """
        codes = uniform_residues(Keystream(seed), 0, parameters.ring_degree, _TERNARY)
        return cls.from_bytes(parameters, pack_ternary(parameters, to_centred(codes, _TERNARY)))

    @classmethod
    def from_bytes(cls, parameters: CkksParameters, data: bytes) -> "SecretKey":
        """Rebuild a key from what `to_bytes` returned, after it was unsealed.

        Raises:
            MalformedMessageError: wrong length, of other parameters, or no ternary polynomial.
        """
        if len(data) != secret_key_bytes(parameters):
            raise MalformedMessageError(
                f"a secret key has {secret_key_bytes(parameters)} bytes, not {len(data)}"
            )
        if data[:DIGEST_BYTES] != parameters.fingerprint():
            raise MalformedMessageError("a secret key of other parameters than the plan's")
        packed = np.frombuffer(data, np.uint8, offset=DIGEST_BYTES)
        codes = np.stack([packed >> shift & 3 for shift in range(0, 8, 2)], axis=1).reshape(-1)
        if codes.max() >= _TERNARY or not codes.any():
            raise MalformedMessageError("a secret key is not a ternary polynomial")
        ternary = np.array([0, 1, -1], np.int64)[codes]
        context = seal_context(parameters)
        residues = np.stack(
            [
                context.to_ntt(to_residues(ternary, prime)[None], prime=place)[0]
                for place, prime in enumerate(parameters.primes)
            ]
        )
        return cls(parameters, context.load_key(residues))

    def to_bytes(self) -> bytes:
        """Return the key's bytes. Hand them to a sealed message and to nothing else."""
        prime = self.parameters.data_prime
        context = seal_context(self.parameters)
        residues = context.save_key(self.seal_key())[0]
        coefficients = context.from_ntt(residues[None])[0]
        return pack_ternary(self.parameters, to_centred(coefficients, prime))

    def fingerprint(self) -> bytes:
        """Return 32 bytes by which parties see that they hold the same key.

        SHA-256 of more than 2^12 uniform trits tells nothing about them.
        """
        return transcript_hash("ckks-key", self.to_bytes())

    def public_key(self) -> "PublicKey":
        """Draw a public key of it."""
        residues = seal_context(self.parameters).generate_public(self.seal_key())
        return PublicKey(self.parameters, residues)

    def seal_key(self) -> Handle:
        """Return SEAL's object, for this package.

        Raises:
            CryptoError: the key was deleted.
        """
        if self._key is None:
            raise CryptoError("the CKKS key of this task was deleted")
        return self._key

    def claim_opening(self) -> None:
        """Note that the one opening of this key is being made.

        Raises:
            UnexpectedMessageError: it was made already.
        """
        with self._lock:
            if self._opened:
                raise UnexpectedMessageError(
                    "a CKKS key opens one sum; a second opening would tell about the key"
                )
            self._opened = True

    def delete(self) -> None:
        """Forget the key. Every later use is refused."""
        self._key = None

    def __repr__(self) -> str:
        return "SecretKey(<secret>)"

    def __reduce__(self) -> str:
        raise TypeError("a secret key is not pickled")


class PublicKey:
    """A public key: who has it can upload, and open nothing."""

    __slots__ = ("_residues", "parameters")

    def __init__(self, parameters: CkksParameters, residues: Residues) -> None:
        self.parameters = parameters
        self._residues = residues

    @classmethod
    def from_bytes(cls, parameters: CkksParameters, data: bytes) -> "PublicKey":
        """Read what `to_bytes` returned.

        Raises:
            MalformedMessageError: wrong length, of other parameters, or a residue that is not below
                its prime.
        """
        shape = (2, len(parameters.primes), parameters.ring_degree)
        expected = DIGEST_BYTES + 8 * shape[0] * shape[1] * shape[2]
        if len(data) != expected:
            raise MalformedMessageError(f"a public key has {expected} bytes, not {len(data)}")
        if data[:DIGEST_BYTES] != parameters.fingerprint():
            raise MalformedMessageError("a public key of other parameters than the plan's")
        residues = np.frombuffer(data, "<u8", offset=DIGEST_BYTES).astype(np.uint64).reshape(shape)
        for place, prime in enumerate(parameters.primes):
            if int(residues[:, place].max()) >= prime:
                raise MalformedMessageError("a residue in a public key is not below its prime")
        return cls(parameters, residues)

    def to_bytes(self) -> bytes:
        """Return the fingerprint of the parameters and the residues as uint64, little-endian."""
        return self.parameters.fingerprint() + self._residues.astype("<u8").tobytes()

    def fingerprint(self) -> bytes:
        """Return 32 bytes that name this key."""
        return transcript_hash("ckks-public-key", self.to_bytes())

    def seal_key(self) -> Handle:
        """Return SEAL's object, for this package."""
        return seal_context(self.parameters).load_public(self._residues)
