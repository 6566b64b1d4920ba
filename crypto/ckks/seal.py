"""The bridge to Microsoft SEAL, and the only module that imports TenSEAL.

`tenseal.sealapi` binds SEAL's objects, but reads and writes them as files only, and shows no
coefficient. So objects pass through an anonymous file in memory (`memfd_create`), which never has a
name on a disk, and is overwritten and emptied after every use. The stream of an object is

    header      16 bytes: magic a15e, header size, version of SEAL (2), compression, 0, length
    parms id    32 bytes; a hash of the parameters at this level
    NTT form    1 byte
    size, degree, primes, scale (float64), correction factor: 8 bytes each
    array       header, count (8), that many uint64: polynomial, then prime, then coefficient
    seed        header, type (1), 64 bytes; instead of the second polynomial

SEAL writes it compressed (zstd), which random residues are not helped by. It is unpacked here, and
what is handed to SEAL is never compressed: foreign bytes reach SEAL as the contents of the array
and of the seed only, in a frame that this module wrote, so neither lengths, levels, scales nor a
decompressor are a peer's to choose. SEAL's `load` checks the frame against the context once more,
and that each residue is below its prime.

Arrays are uint64, [polynomials, primes, n] or parts of that. Polynomials are in SEAL's NTT form
unless said.
"""

import functools
import os
import struct
import sys
import threading
import weakref
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from collabedit.crypto.ckks.modular import Residues, to_centred
from collabedit.crypto.ckks.parameters import FRESH_NOISE, CkksParameters
from collabedit.errors import CryptoError, InputError

try:
    import zstandard
    from tenseal import sealapi
except ImportError as error:  # pragma: no cover  # the development environment has it
    raise InputError("the CKKS backend needs TenSEAL: pip install 'collabedit[ckks]'") from error

Handle: TypeAlias = Any
"""An object of SEAL. Its bindings have no types."""

SEED_BYTES: Final = 64
"""SEAL expands the second polynomial of a symmetric ciphertext from 512 bits (BLAKE2xb)."""

_HEADER: Final = struct.Struct("<HBBBBHQ")
_MAGIC: Final = 0xA15E
_NO_COMPRESSION: Final = 0
_ZSTD: Final = 2
_CIPHERTEXT: Final = struct.Struct("<32s?QQQdQ")
_PLAINTEXT: Final = struct.Struct("<32sQd")
_COUNT: Final = struct.Struct("<Q")
_BLAKE2XB: Final = 1
_CORRECTION_FACTOR: Final = 1
"""Used by BGV only."""
_PAIR: Final = 2

_VARIANCES: Final = (7.0, 14.0)
"""Of the n errors of one polynomial. SEAL's own is 10.5, and at n = 1024 these are more than seven
standard deviations, 10.5·√(2/n), away."""


class SealContext:
    """One set of parameters, ready for use. Safe to use from several threads, one after another.

    Raises:
        InputError: SEAL refuses the parameters, chooses other primes or draws other noise, or the
            system has no anonymous files.
    """

    def __init__(self, parameters: CkksParameters) -> None:
        if not hasattr(os, "memfd_create"):
            raise InputError(
                f"the CKKS backend needs Linux, not {sys.platform}: TenSEAL exchanges keys through "
                f"files, and only there are files that are never on a disk"
            )
        self.parameters = parameters
        self._lock = threading.RLock()
        self._file = os.memfd_create("collabedit-ckks", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        self._path = f"/proc/self/fd/{self._file}"
        if not Path(self._path).exists():
            raise InputError(
                "the CKKS backend needs /proc, to hand TenSEAL files that have no name"
            )
        chosen = sealapi.CoeffModulus.Create(parameters.ring_degree, list(parameters.moduli_bits))
        if tuple(prime.value() for prime in chosen) != parameters.primes:
            raise InputError("this version of SEAL chooses other primes; install the pinned one")
        self._context = _context(parameters.ring_degree, chosen)
        self._evaluator = sealapi.Evaluator(self._context)
        # One for each prime alone: a message is zero modulo the guards, and transforming zeros is
        # waste.
        self._single = [_context(parameters.ring_degree, [prime]) for prime in chosen]
        self._version = self._save(sealapi.Ciphertext())[3:5]
        self._check_noise()

    def _check_noise(self) -> None:
        """Refuse a SEAL whose noise is none, or is beyond what flooding is laid out for."""
        key = self.generate_key()
        errors = self.fresh_errors(key, self.encryptor(key))
        least, most = _VARIANCES
        if np.abs(errors).max() > FRESH_NOISE or not least < float(np.mean(errors**2)) < most:
            raise InputError("this version of SEAL draws other noise; install the pinned one")

    # Files and frames

    def _save(self, thing: Handle) -> bytes:
        with self._lock:
            try:
                thing.save(self._path)
                return os.pread(self._file, os.fstat(self._file).st_size, 0)
            finally:
                self._wipe()

    def _load(self, thing: Handle, context: Handle, stream: bytes) -> Handle:
        with self._lock:
            try:
                os.pwrite(self._file, stream, 0)
                thing.load(context, self._path)
            except (RuntimeError, ValueError) as error:
                raise CryptoError(
                    "SEAL refuses an object: a residue is not below its prime"
                ) from error
            finally:
                self._wipe()
        return thing

    def _wipe(self) -> None:
        size = os.fstat(self._file).st_size
        os.pwrite(self._file, bytes(size), 0)
        os.ftruncate(self._file, 0)

    def _frame(self, body: bytes) -> bytes:
        return (
            _HEADER.pack(
                _MAGIC, _HEADER.size, *self._version, _NO_COMPRESSION, 0, _HEADER.size + len(body)
            )
            + body
        )

    def _array(self, residues: Residues) -> bytes:
        return self._frame(
            _COUNT.pack(residues.size) + residues.astype("<u8", copy=False).tobytes()
        )

    def _ciphertext(
        self, context: Handle, head: Residues, *, is_ntt: bool, seed: bytes | None = None
    ) -> Handle:
        size = _PAIR if seed is not None else len(head)
        degree, primes = self.parameters.ring_degree, head.shape[1]
        body = _CIPHERTEXT.pack(
            _identity(context),
            is_ntt,
            size,
            degree,
            primes,
            self.parameters.seal_scale,
            _CORRECTION_FACTOR,
        ) + self._array(head)
        if seed is not None:
            body += self._frame(bytes([_BLAKE2XB]) + seed)
        return self._load(sealapi.Ciphertext(), context, self._frame(body))

    def _read_ciphertext(self, thing: Handle) -> tuple[Residues, bytes]:
        """Return what a ciphertext stores: polynomials, then a seed or nothing."""
        body = _unpack(self._save(thing))
        _, _, size, degree, primes, _, _ = _CIPHERTEXT.unpack_from(body)
        array, rest = _read_array(body[_CIPHERTEXT.size :])
        if size < _PAIR or array.size % (primes * degree):
            raise CryptoError("this version of SEAL writes ciphertexts in another form")
        return array.reshape(-1, primes, degree), rest

    # Transforms

    def to_ntt(self, polynomials: Residues, *, prime: int = 0) -> Residues:
        """Transform polynomials from coefficients: [k, n], k in 1..15.

        Args:
            polynomials: residues modulo one prime.
            prime: its place; 0 is the data prime, -1 the key-switching one.
        """
        return self._transform(polynomials, prime, is_ntt=False)

    def from_ntt(self, polynomials: Residues, *, prime: int = 0) -> Residues:
        """Transform polynomials back to coefficients; arguments as of `to_ntt`."""
        return self._transform(polynomials, prime, is_ntt=True)

    def _transform(self, polynomials: Residues, prime: int, *, is_ntt: bool) -> Residues:
        # They travel as a ciphertext. SEAL wants two polynomials at least, and stops on a result
        # whose last ones are all zero ("transparent"): hence one more, of ones.
        padded = np.ones((len(polynomials) + 1, 1, self.parameters.ring_degree), np.uint64)
        padded[:-1, 0] = polynomials
        context = self._single[prime]
        held = self._ciphertext(context, padded, is_ntt=is_ntt)
        evaluator = sealapi.Evaluator(context)
        if is_ntt:
            evaluator.transform_from_ntt_inplace(held)
        else:
            evaluator.transform_to_ntt_inplace(held)
        return self._read_ciphertext(held)[0][:-1, 0]

    # Keys

    def generate_key(self) -> Handle:
        """Draw a ternary secret key; SEAL draws from the system's generator."""
        return sealapi.KeyGenerator(self._context).secret_key()

    def save_key(self, key: Handle) -> Residues:
        """Return the residues of a secret key modulo all primes, [primes, n], in NTT form."""
        body = _unpack(self._save(key))
        array, _ = _read_array(body[_PLAINTEXT.size :])
        return array.reshape(len(self.parameters.primes), -1)

    def load_key(self, residues: Residues) -> Handle:
        """Return the secret key with these residues, [primes, n].

        Raises:
            CryptoError: a residue is not below its prime.
        """
        identity = _pack_identity(self._context.key_parms_id())
        body = _PLAINTEXT.pack(identity, residues.size, 1.0) + self._array(residues)
        return self._load(sealapi.SecretKey(), self._context, self._frame(body))

    def generate_public(self, key: Handle) -> Residues:
        """Draw a public key of a secret one: (b, a) modulo all primes, [2, primes, n]."""
        public = sealapi.PublicKey()
        sealapi.KeyGenerator(self._context, key).create_public_key(public)
        return self._read_ciphertext(public)[0]

    def load_public(self, residues: Residues) -> Handle:
        """Return the public key with these residues, [2, primes, n].

        Raises:
            CryptoError: a residue is not below its prime.
        """
        identity = _pack_identity(self._context.key_parms_id())
        _, primes, degree = residues.shape
        body = _CIPHERTEXT.pack(
            identity, True, _PAIR, degree, primes, 1.0, _CORRECTION_FACTOR
        ) + self._array(residues)
        return self._load(sealapi.PublicKey(), self._context, self._frame(body))

    # Encryption and decryption

    def encryptor(self, key: Handle) -> Handle:
        """Return SEAL's encryptor under a secret or a public key."""
        return sealapi.Encryptor(self._context, key)

    def encrypt_zero(self, encryptor: Handle) -> tuple[Residues, bytes]:
        """Encrypt zero under a secret key: the first polynomial, [primes, n], and the seed."""
        polynomials, rest = self._read_ciphertext(encryptor.encrypt_zero_symmetric())
        seed = rest[_HEADER.size + 1 :]
        if len(polynomials) != 1 or len(seed) != SEED_BYTES or rest[_HEADER.size] != _BLAKE2XB:
            raise CryptoError("this version of SEAL writes seeds in another form")
        return polynomials[0], seed

    def fresh_errors(self, key: Handle, encryptor: Handle) -> npt.NDArray[np.int64]:
        """Encrypt zero under a secret key and return the errors that were drawn for it, [n]."""
        zero, seed = self.encrypt_zero(encryptor)
        phase = self.phase_of_seeds(key, zero, [seed])[0]
        return to_centred(self.from_ntt(phase[None])[0], self.parameters.data_prime)

    def encrypt_zero_public(self, encryptor: Handle) -> Residues:
        """Encrypt zero under a public key: both polynomials, [2, primes, n]."""
        held = sealapi.Ciphertext()
        encryptor.encrypt_zero(held)
        return self._read_ciphertext(held)[0]

    def phase(self, key: Handle, first: Residues, second: Residues) -> Residues:
        """Return c₀ + c₁·s in NTT form, [primes, n].

        Raises:
            CryptoError: a residue is not below its prime.
        """
        held = self._ciphertext(self._context, np.stack([first, second]), is_ntt=True)
        return self._decrypt(key, held)

    def phase_of_seeds(self, key: Handle, first: Residues, seeds: list[bytes]) -> Residues:
        """Return c₀ + Σᵢ aᵢ·s in NTT form, [primes, n], with aᵢ expanded from the seeds.

        Raises:
            CryptoError: a residue is not below its prime.
        """
        head = first[None]
        held = self._ciphertext(self._context, head, is_ntt=True, seed=seeds[0])
        for seed in seeds[1:]:
            other = self._ciphertext(self._context, np.zeros_like(head), is_ntt=True, seed=seed)
            self._evaluator.add_inplace(held, other)
        return self._decrypt(key, held)

    def expand_seed(self, seed: bytes) -> Residues:
        """Return the second polynomial that a seed stands for, [primes, n]."""
        shape = (1, len(self.parameters.wire_primes), self.parameters.ring_degree)
        held = self._ciphertext(self._context, np.zeros(shape, np.uint64), is_ntt=True, seed=seed)
        expanded: Residues = self._read_ciphertext(held)[0][1]
        return expanded

    # CKKS as others use it: numbers in slots. For attacks and comparisons.

    def encode_slots(self, values: npt.NDArray[np.float64], scale: float) -> Residues:
        """Encode reals in the n/2 slots: the message in NTT form, [primes, n]."""
        plain = sealapi.Plaintext()
        sealapi.CKKSEncoder(self._context).encode(values.tolist(), scale, plain)
        array, _ = _read_array(_unpack(self._save(plain))[_PLAINTEXT.size :])
        return array.reshape(len(self.parameters.wire_primes), -1)

    def read_vector(self, vector: Handle) -> list[Residues]:
        """Return the ciphertexts of a `tenseal.ckks_vector` of these parameters: [2, primes, n]."""
        return [self._read_ciphertext(held)[0] for held in vector.ciphertext()]

    def _decrypt(self, key: Handle, held: Handle) -> Residues:
        plain = sealapi.Plaintext()
        sealapi.Decryptor(self._context, key).decrypt(held, plain)
        array, _ = _read_array(_unpack(self._save(plain))[_PLAINTEXT.size :])
        return array.reshape(len(self.parameters.wire_primes), -1)

    def __reduce__(self) -> str:
        raise TypeError("a context is rebuilt from its parameters, not pickled")


def seal_context(parameters: CkksParameters) -> SealContext:
    """Return this process's context of these parameters; building one is slow.

    A forked child gets its own: the file of its parent's is shared with the parent.
    """
    return _cached_context(parameters, os.getpid())


@functools.lru_cache(maxsize=4)
def _cached_context(parameters: CkksParameters, _process: int) -> SealContext:
    return SealContext(parameters)


def _context(degree: int, primes: Handle) -> Handle:
    settings = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    settings.set_poly_modulus_degree(degree)
    settings.set_coeff_modulus(primes)
    context = sealapi.SEALContext(settings, True, sealapi.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise InputError(f"SEAL refuses the parameters: {context.parameters_error_message()}")
    return context


def _pack_identity(words: list[int]) -> bytes:
    return struct.pack("<4Q", *words)


def _identity(context: Handle) -> bytes:
    return _pack_identity(context.first_parms_id())


def _unpack(stream: bytes) -> bytes:
    """Return the body of a stream that SEAL wrote here, without compression."""
    magic, _, _, _, compression, _, size = _HEADER.unpack_from(stream)
    if magic != _MAGIC or compression not in (_NO_COMPRESSION, _ZSTD) or size > len(stream):
        raise CryptoError("this version of SEAL writes streams in another form")
    body = stream[_HEADER.size : size]
    if compression == _ZSTD:
        return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    return body


def _read_array(body: bytes) -> tuple[Residues, bytes]:
    """Split a stored array from what follows it."""
    array = _unpack(body)
    (count,) = _COUNT.unpack_from(array)
    values = np.frombuffer(array, "<u8", count=count, offset=_COUNT.size).astype(np.uint64)
    return values, body[_HEADER.size + len(array) :]
