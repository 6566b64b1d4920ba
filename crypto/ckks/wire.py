"""The bytes of a chunk: what parties upload, and what the aggregator hands to who opens.

Little-endian:

    header  32 bytes
        magic         4   b"CKKS"
        version       1   1
        form          1   see `Form`
        terms         2   uploads in it, 1 or more
        index         4   place of the chunk in its vector
        chunks        4   chunks of the vector
        fingerprint  16   first half of `CkksParameters.fingerprint`
    seed    64 bytes, in an upload under the secret key only
    body    polynomials; of each the primes in order; of each n residues of `word_bytes`

A chunk has one length that parameters and form fix, so bytes of a peer are bounded before they are
read. What is in it is refused by name; nothing of it reaches SEAL before (`seal`).
"""

import enum
import struct
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from collabedit.crypto.ckks.modular import Residues
from collabedit.crypto.ckks.parameters import CkksParameters
from collabedit.errors import MalformedMessageError

MAGIC: Final = b"CKKS"
VERSION: Final = 1
SEED_BYTES: Final = 64
FINGERPRINT_BYTES: Final = 16
MAX_TERMS: Final = (1 << 16) - 1
_HEADER: Final = struct.Struct(f"<4sBBHII{FINGERPRINT_BYTES}s")
HEADER_BYTES: Final = _HEADER.size


class Form(enum.IntEnum):
    """What a chunk holds."""

    SEEDED = 1
    """An upload under the secret key: c₀, and the seed of c₁."""
    PAIR = 2
    """An upload under the public key, or a sum of such: c₀ and c₁."""
    FIRST = 3
    """A sum of uploads under the secret key: Σc₀. The seeds go with it apart."""

    @property
    def polynomials(self) -> int:
        """How many polynomials it carries."""
        return 2 if self is Form.PAIR else 1

    @property
    def seed_bytes(self) -> int:
        """How long its seed is."""
        return SEED_BYTES if self is Form.SEEDED else 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk, taken apart.

    Attributes:
        form: what it holds.
        terms: uploads in it.
        index: place in its vector.
        chunks: chunks of the vector.
        residues: [polynomials, primes, n].
        seed: 64 bytes, or none.
    """

    form: Form
    terms: int
    index: int
    chunks: int
    residues: Residues = field(repr=False)
    seed: bytes = field(repr=False, default=b"")


def chunk_bytes(parameters: CkksParameters, form: Form) -> int:
    """Return the length of a chunk."""
    return HEADER_BYTES + form.seed_bytes + form.polynomials * parameters.polynomial_bytes


def encode_chunk(parameters: CkksParameters, chunk: Chunk) -> bytes:
    """Write a chunk."""
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        chunk.form,
        chunk.terms,
        chunk.index,
        chunk.chunks,
        parameters.fingerprint()[:FINGERPRINT_BYTES],
    )
    parts = [header, chunk.seed]
    for polynomial in chunk.residues:
        for residues, width in zip(polynomial, parameters.word_bytes, strict=True):
            octets = residues.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)
            parts.append(octets[:, :width].tobytes())
    return b"".join(parts)


def decode_chunk(
    parameters: CkksParameters,
    data: bytes,
    *,
    form: Form,
    index: int,
    chunks: int,
    terms: int = 1,
) -> Chunk:
    """Read a chunk of a peer.

    Args:
        parameters: of the plan.
        data: what came.
        form: what is expected.
        index: likewise.
        chunks: likewise.
        terms: likewise.

    Raises:
        MalformedMessageError: truncated or too long, no chunk, of another version, of other
            parameters (ring, primes, level or scale), not the expected one, or a residue that is
            not below its prime.
    """
    expected = chunk_bytes(parameters, form)
    if len(data) != expected:
        raise MalformedMessageError(
            f"a chunk has {expected} bytes, not {len(data)}: truncated, or of other parameters"
        )
    _check_header(parameters, data, form=form, index=index, chunks=chunks, terms=terms)
    body = HEADER_BYTES + form.seed_bytes
    residues = _read_residues(parameters, data, body, form.polynomials)
    return Chunk(form, terms, index, chunks, residues, data[HEADER_BYTES:body])


def _check_header(
    parameters: CkksParameters, data: bytes, *, form: Form, index: int, chunks: int, terms: int
) -> None:
    magic, version, found, count, place, total, fingerprint = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise MalformedMessageError("the bytes are no chunk of a CKKS upload")
    if version != VERSION:
        raise MalformedMessageError(f"a chunk of version {version}, this program reads {VERSION}")
    if fingerprint != parameters.fingerprint()[:FINGERPRINT_BYTES]:
        raise MalformedMessageError(
            "a chunk of other parameters: ring, primes or scale are not the plan's"
        )
    if found != form:
        raise MalformedMessageError(f"a chunk of form {found}, expected {form.value}")
    if (place, total) != (index, chunks):
        raise MalformedMessageError(f"chunk {place} of {total}, expected {index} of {chunks}")
    if count != terms:
        raise MalformedMessageError(f"a chunk of {count} uploads, expected {terms}")


def _read_residues(
    parameters: CkksParameters, data: bytes, offset: int, polynomials: int
) -> Residues:
    residues = np.empty(
        (polynomials, len(parameters.wire_primes), parameters.ring_degree), np.uint64
    )
    octets = residues.view(np.uint8).reshape(*residues.shape, 8)
    for which in range(polynomials):
        for place, (prime, width) in enumerate(
            zip(parameters.wire_primes, parameters.word_bytes, strict=True)
        ):
            size = parameters.ring_degree * width
            words = np.frombuffer(data, np.uint8, count=size, offset=offset).reshape(-1, width)
            octets[which, place, :, :width] = words
            octets[which, place, :, width:] = 0
            if int(residues[which, place].max()) >= prime:
                raise MalformedMessageError("a residue in a chunk is not below its prime")
            offset += size
    return residues
