"""The one door through which randomness comes in.

Everything that draws randomness takes a `Randomness`, so that tests can be reproducible. In
production there are two: the system's generator, and the expansion of a 32-byte seed which came
from the system's generator and is kept as secretly as everything that is drawn from it. Only
`party.replay` may use the second, and `audit` for federations that it makes up and throws away, see
`ReplayableRandomness`. The tests' seeded twin lives in `tests/support/randomness.py`, out of the
installed package.
"""

import os
import threading
from typing import Final, Protocol

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from collabedit.crypto.kdf import SECRET_BYTES, derive_key

_FIRST_COUNTER: Final = bytes(16)


class Randomness(Protocol):
    """A source of independent, uniform, unpredictable bytes."""

    def random_bytes(self, count: int) -> bytes:
        """Draw `count` bytes (0 or more). Safe to call from several threads."""
        ...


class SystemRandomness:
    """The operating system's generator (`os.urandom`). What production code draws from."""

    def random_bytes(self, count: int) -> bytes:
        """Draw `count` bytes.

        Raises:
            ValueError: `count` is negative.
        """
        return os.urandom(count)


class ReplayableRandomness:
    """The same draws again for whoever has the seed: AES-256-CTR of zeros, from counter 0.

    WARNING: this is for two things alone. The state machine of one task at one party draws in a
    fixed order and must come to the same keys after a restart (ADR 0009). Two machines with one
    seed and context would share every key. A machine whose inputs differ after a restart draws the
    same bytes for other purposes; `party.replay` refuses that. And an audit's own federations must
    come out the same when the audit is repeated (ADR 0022): nobody else's edits are in them, and
    their keys serve nowhere else. Their seed is public, so they hide nothing from whoever has it.

    Args:
        seed: 32 bytes of the system's generator, drawn for this task; of an audit, derived from
            what the session is.
        context: what it is bound to, encoded injectively.

    Raises:
        ValueError: the seed does not have 32 bytes.
    """

    __slots__ = ("_lock", "_stream")

    def __init__(self, seed: bytes, context: bytes) -> None:
        if len(seed) != SECRET_BYTES:
            raise ValueError(f"a seed has {SECRET_BYTES} bytes, not {len(seed)}")
        key = derive_key(seed, label="task-randomness", context=context)
        self._stream = Cipher(AES(key), CTR(_FIRST_COUNTER)).encryptor()
        self._lock = threading.Lock()

    def random_bytes(self, count: int) -> bytes:
        """Draw the next `count` bytes of the stream.

        Raises:
            ValueError: `count` is negative.
        """
        if count < 0:
            raise ValueError("cannot draw a negative number of bytes")
        with self._lock:
            return self._stream.update(bytes(count))

    def __repr__(self) -> str:
        return "ReplayableRandomness(<secret>)"
