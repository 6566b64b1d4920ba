"""Upload a vector: chunk by chunk, in one process or several.

TenSEAL holds Python's lock while it works, so threads do not help; worker processes do. They are
started afresh (`spawn`): a fork would copy SEAL's generators and locks.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import numpy.typing as npt

from collabedit.crypto.ckks.keys import PublicKey, SecretKey
from collabedit.crypto.ckks.modular import Residues, add_mod
from collabedit.crypto.ckks.packing import Packing
from collabedit.crypto.ckks.parameters import CkksParameters
from collabedit.crypto.ckks.seal import seal_context
from collabedit.crypto.ckks.wire import Chunk, Form, encode_chunk
from collabedit.errors import CryptoError

BATCH = 8
"""Chunks that are transformed together; 16 is SEAL's limit, and memory is what they cost."""


class Uploader:
    """Encrypts under one key. Under the secret key an upload is half as long, and less noisy."""

    __slots__ = ("_encryptor", "form", "parameters")

    def __init__(self, key: SecretKey | PublicKey) -> None:
        self.parameters: CkksParameters = key.parameters
        self.form = Form.SEEDED if isinstance(key, SecretKey) else Form.PAIR
        self._encryptor = seal_context(self.parameters).encryptor(key.seal_key())

    def encrypt_integers(
        self, integers: npt.NDArray[np.int64], packing: Packing, *, first: int, chunks: int
    ) -> list[bytes]:
        """Encrypt part of a vector: at most `BATCH` chunks.

        Args:
            integers: fixed-point, whole chunks, but for the vector's last one.
            packing: of the task.
            first: place of the first chunk.
            chunks: of the whole vector.

        Raises:
            NumericError: an integer is beyond the bound.
        """
        transformed = seal_context(self.parameters).to_ntt(packing.encode_integers(integers))
        return [
            self._encrypt_chunk(message, first + place, chunks)
            for place, message in enumerate(transformed)
        ]

    def _encrypt_chunk(self, message: Residues, index: int, chunks: int) -> bytes:
        context, seed = seal_context(self.parameters), b""
        if self.form is Form.SEEDED:
            zero, seed = context.encrypt_zero(self._encryptor)
            polynomials = zero[None]
        else:
            polynomials = context.encrypt_zero_public(self._encryptor)
        polynomials[0, 0] = add_mod(polynomials[0, 0], message, self.parameters.data_prime)
        return encode_chunk(self.parameters, Chunk(self.form, 1, index, chunks, polynomials, seed))

    def __repr__(self) -> str:
        return "Uploader(<secret>)"

    def __reduce__(self) -> str:
        raise TypeError("an uploader is not pickled")


def encrypt_vector(
    key: SecretKey | PublicKey,
    values: npt.NDArray[np.float64],
    packing: Packing,
    *,
    processes: int = 0,
) -> Iterator[bytes]:
    """Encrypt a vector, one chunk after another; every call draws fresh randomness.

    The whole vector is checked before the first chunk: nothing of a vector that is beyond its bound
    leaves.

    Args:
        key: the task's secret key, or its public one.
        values: float64, [n].
        packing: of the task, with the key's parameters.
        processes: workers; 0 is this process. A worker is handed the key's bytes through a pipe.

    Raises:
        NumericError: a value is not finite or beyond the bound; at the first chunk.
        CryptoError: a worker process died.
        ValueError: parameters differ, or the vector is empty.
    """
    _check_vector(key, values, packing)
    size = BATCH * packing.parameters.ring_degree
    for start in range(0, len(values), size):
        packing.fixed_point.check(values[start : start + size])

    def encode(part: slice) -> npt.NDArray[np.int64]:
        return packing.fixed_point.encode(values[part]).view(np.int64)

    yield from _encrypt(key, encode, len(values), packing, processes)


def encrypt_integers(
    key: SecretKey, integers: npt.NDArray[np.int64], packing: Packing, *, processes: int = 0
) -> Iterator[bytes]:
    """Encrypt a vector of fixed-point integers like `encrypt_vector`.

    Raises:
        NumericError: an integer is beyond the bound; at the first chunk.
        CryptoError: a worker process died.
        ValueError: parameters differ, or the vector is empty.
    """
    _check_vector(key, integers, packing)
    packing.check_integers(integers)
    yield from _encrypt(key, lambda part: integers[part], len(integers), packing, processes)


def _check_vector(
    key: SecretKey | PublicKey,
    vector: npt.NDArray[np.float64] | npt.NDArray[np.int64],
    packing: Packing,
) -> None:
    if packing.parameters != key.parameters:
        raise ValueError("the packing and the key have different parameters")
    if vector.ndim != 1 or not len(vector):
        raise ValueError("a vector with one number at least is encrypted")


def _encrypt(
    key: SecretKey | PublicKey,
    encode: Callable[[slice], npt.NDArray[np.int64]],
    values: int,
    packing: Packing,
    processes: int,
) -> Iterator[bytes]:
    """Encrypt part after part; with workers, two parts ahead for each."""
    degree, chunks = packing.parameters.ring_degree, packing.parameters.chunks(values)
    parts = (
        (encode(slice(first * degree, min((first + BATCH) * degree, values))), first)
        for first in range(0, chunks, BATCH)
    )
    if not processes:
        uploader = Uploader(key)
        for part, first in parts:
            yield from uploader.encrypt_integers(part, packing, first=first, chunks=chunks)
        return
    pool = ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(key.parameters, isinstance(key, SecretKey), key.to_bytes()),
    )
    try:
        waiting: deque[Future[list[bytes]]] = deque()
        for part, first in parts:
            waiting.append(pool.submit(_work, part, packing, first, chunks))
            if len(waiting) > 2 * processes:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise CryptoError(
            "a worker process that encrypts ended early, for want of memory perhaps: use fewer"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_WORKERS: list[Uploader] = []
"""Of a worker process: its one uploader."""


def _start_worker(parameters: CkksParameters, is_secret: bool, key: bytes) -> None:  # noqa: FBT001
    # Ctrl-C reaches the whole group; the parent ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    kind = SecretKey if is_secret else PublicKey
    _WORKERS.append(Uploader(kind.from_bytes(parameters, key)))


def _end_with_parent() -> None:
    """End this worker, which has the key, when its parent is gone: a killed one cannot say so."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(
    integers: npt.NDArray[np.int64], packing: Packing, first: int, chunks: int
) -> list[bytes]:
    return _WORKERS[0].encrypt_integers(integers, packing, first=first, chunks=chunks)
