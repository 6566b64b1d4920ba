"""The aggregator's part: add uploads, with the public parameters and nothing else.

No key, no TenSEAL: the sum of two ciphertexts is the sum of their residues. Sums are made for a set
of contributors that is fixed before, chunk by chunk, and a chunk is handed out once.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from collabedit.crypto.ckks.modular import Residues, add_mod
from collabedit.crypto.ckks.parameters import CkksParameters
from collabedit.crypto.ckks.wire import MAX_TERMS, Chunk, Form, decode_chunk, encode_chunk
from collabedit.errors import UnexpectedMessageError
from collabedit.ids import PartyId


@dataclass(frozen=True, slots=True)
class SummedChunk:
    """A chunk of the sum, for who opens it.

    Attributes:
        index: its place in the vector.
        data: its bytes.
        seeds: of each contributor, in an upload under the secret key; else empty.
    """

    index: int
    data: bytes = field(repr=False)
    seeds: Mapping[PartyId, bytes] = field(repr=False)


class Adder:
    """Adds the uploads of one task.

    It holds the sums of chunks that were begun and not taken. Who feeds it chunk by chunk, all
    contributors' first chunks and so on, and takes each as it completes, holds one.

    Args:
        parameters: of the plan.
        values: n, numbers of the vector.
        contributors: whose uploads are added, all of them.
        form: how they upload: SEEDED or PAIR.

    Raises:
        ValueError: no contributor, or too many.
    """

    def __init__(
        self,
        parameters: CkksParameters,
        *,
        values: int,
        contributors: Collection[PartyId],
        form: Form = Form.SEEDED,
    ) -> None:
        if not 1 <= len(set(contributors)) <= MAX_TERMS:
            raise ValueError(f"a sum has 1 to {MAX_TERMS} contributors")
        self._parameters = parameters
        self._form = form
        self._contributors = frozenset(contributors)
        self.chunks = parameters.chunks(values)
        self._sums: dict[int, Residues] = {}
        self._seeds: dict[int, dict[PartyId, bytes]] = {}
        self._done: set[int] = set()

    def add(self, contributor: PartyId, index: int, data: bytes) -> None:
        """Add a chunk of an upload.

        Args:
            contributor: whose it is, as its signature says.
            index: which chunk it is said to be.
            data: as it came.

        Raises:
            MalformedMessageError: it is not a chunk of these parameters, or another one.
            UnexpectedMessageError: not a contributor's, or added before.
        """
        if contributor not in self._contributors:
            raise UnexpectedMessageError(f"party {contributor} is not in this sum")
        if index in self._done or contributor in self._seeds.get(index, {}):
            raise UnexpectedMessageError(f"chunk {index} of party {contributor} was added before")
        if not 0 <= index < self.chunks:
            raise UnexpectedMessageError(f"there is no chunk {index} of {self.chunks}")
        chunk = decode_chunk(
            self._parameters, data, form=self._form, index=index, chunks=self.chunks
        )
        if index in self._sums:
            held = self._sums[index]
            for place, prime in enumerate(self._parameters.wire_primes):
                held[:, place] = add_mod(held[:, place], chunk.residues[:, place], prime)
        else:
            self._sums[index] = chunk.residues
        self._seeds.setdefault(index, {})[contributor] = chunk.seed

    def missing(self, index: int) -> frozenset[PartyId]:
        """Return whose chunk is still to come."""
        if index in self._done:
            return frozenset()
        return self._contributors - set(self._seeds.get(index, {}))

    def take(self, index: int) -> SummedChunk:
        """Return a chunk of the sum, and forget it.

        Raises:
            UnexpectedMessageError: it is not complete, or was taken before.
        """
        if index in self._done:
            raise UnexpectedMessageError(f"chunk {index} of the sum was taken before")
        if missing := self.missing(index):
            raise UnexpectedMessageError(
                f"chunk {index} of the sum lacks {len(missing)} of its contributors"
            )
        residues, seeds = self._sums.pop(index), self._seeds.pop(index)
        self._done.add(index)
        form = Form.FIRST if self._form is Form.SEEDED else Form.PAIR
        data = encode_chunk(
            self._parameters,
            Chunk(form, len(self._contributors), index, self.chunks, residues),
        )
        return SummedChunk(index, data, seeds if form is Form.FIRST else {})
