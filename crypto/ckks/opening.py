"""Open one sum under one key, once, flooded.

*Who chooses what.* A ciphertext is a pair (c₀, c₁), and its phase c₀ + c₁·s. The aggregator hands
over Σc₀. Σc₁ it does not: the opener expands it from the seeds of the contributors, which they
signed. So the phase is that of a sum over exactly these contributors, up to an offset of c₀ which
the aggregator knows. It cannot have a single upload opened, nor a c₁ of its own making, with which
one opening would read the key off. What an offset gives it, flooding takes (`flooding`).

Under the public key there are no seeds: c₁ comes from the aggregator and from those who uploaded,
who must then be trusted to have encrypted and added honestly. `Opening.open_pair` is for that.
"""

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt

from collabedit.crypto.ckks.flooding import DEFAULT_STATISTICAL_BITS, FloodingPlan, flooding_plan
from collabedit.crypto.ckks.keys import SecretKey
from collabedit.crypto.ckks.modular import Residues
from collabedit.crypto.ckks.packing import Packing, rescale_flooded
from collabedit.crypto.ckks.seal import seal_context
from collabedit.crypto.ckks.wire import SEED_BYTES, Form, decode_chunk
from collabedit.crypto.keystream import KEY_BYTES, Keystream
from collabedit.crypto.rng import Randomness
from collabedit.errors import CryptoError, MalformedMessageError, UnexpectedMessageError
from collabedit.ids import PartyId
from collabedit.threat_model import MINIMUM_PARTIES


class Opening:
    """The one opening of a key.

    Args:
        key: the task's; it is claimed, and opens nothing else afterwards.
        packing: of the task.
        values: n, numbers of the vector.
        contributors: whose uploads are in the sum.
        randomness: gives a key for the noise.
        statistical_bits: δ ≤ 2^-s over the whole vector.
        public_key: uploads were made under the public key.

    Attributes:
        plan: what the flooding achieves.

    Raises:
        NumericError: the guard is too small for that; nothing is claimed.
        UnexpectedMessageError: the key has opened a sum before.
        CryptoError: fewer contributors than the floor, or the key was deleted.
        ValueError: parameters or counts do not fit together.
    """

    def __init__(
        self,
        key: SecretKey,
        packing: Packing,
        *,
        values: int,
        contributors: Collection[PartyId],
        randomness: Randomness,
        statistical_bits: float = DEFAULT_STATISTICAL_BITS,
        public_key: bool = False,
    ) -> None:
        if packing.parameters != key.parameters:
            raise ValueError("the packing and the key have different parameters")
        self._contributors = frozenset(contributors)
        if len(self._contributors) < MINIMUM_PARTIES:
            raise CryptoError(
                f"a sum of {len(self._contributors)} parties is not opened: "
                f"{MINIMUM_PARTIES} is the least"
            )
        if len(self._contributors) > packing.parties:
            raise ValueError("more contributors than the packing has room for")
        self.plan: FloodingPlan = flooding_plan(
            packing.parameters,
            parties=len(self._contributors),
            values=packing.parameters.chunks(values) * packing.parameters.ring_degree,
            statistical_bits=statistical_bits,
            public_key=public_key,
        )
        key.seal_key()
        key.claim_opening()
        self._key, self._packing, self._values = key, packing, values
        self._is_public = public_key
        self._stream = Keystream(randomness.random_bytes(KEY_BYTES))
        self._opened: set[int] = set()
        self.chunks = packing.parameters.chunks(values)

    def open(
        self, index: int, data: bytes, seeds: Mapping[PartyId, bytes]
    ) -> npt.NDArray[np.float64]:
        """Open a chunk of a sum of uploads under the secret key, as reals.

        Arguments and errors as of `open_integers`.
        """
        return self._packing.decode(self.open_integers(index, data, seeds))

    def open_integers(
        self, index: int, data: bytes, seeds: Mapping[PartyId, bytes]
    ) -> npt.NDArray[np.int64]:
        """Open a chunk of a sum of uploads under the secret key.

        Args:
            index: which chunk.
            data: Σc₀, from the aggregator.
            seeds: of every contributor, as each of them signed it: this method cannot tell.

        Returns:
            The sums of fixed-point integers of the chunk: n of them, fewer in the last.

        Raises:
            MalformedMessageError: not a chunk of these parameters, or another one.
            CryptoError: seeds of other parties than the contributors, or one seed twice.
            UnexpectedMessageError: this chunk was opened before.
            NumericError: the sum is beyond what the parties may contribute.
        """
        if self._is_public:
            raise CryptoError("these uploads were made under the public key: use open_pair")
        if set(seeds) != self._contributors:
            raise CryptoError("the seeds are not those of the contributors")
        if len(set(seeds.values())) != len(seeds):
            raise CryptoError("two contributors have one seed: an upload is in the sum twice")
        if any(len(seed) != SEED_BYTES for seed in seeds.values()):
            raise MalformedMessageError(f"a seed has {SEED_BYTES} bytes")
        first = self._decode(index, data, Form.FIRST)[0]
        phase = seal_context(self._packing.parameters).phase_of_seeds(
            self._key.seal_key(), first, list(seeds.values())
        )
        return self._release(index, phase)

    def open_pair(self, index: int, data: bytes) -> npt.NDArray[np.float64]:
        """Open a chunk of a sum of uploads under the public key, trusting who made and added them.

        A dishonest upload or sum tells its maker the key, whatever the flooding.

        Raises:
            MalformedMessageError: not a chunk of these parameters, or another one.
            CryptoError: the opening was not made for the public key.
            UnexpectedMessageError: this chunk was opened before.
            NumericError: the sum is beyond what the parties may contribute.
        """
        if not self._is_public:
            raise CryptoError("these uploads were made under the secret key: use open")
        first, second = self._decode(index, data, Form.PAIR)
        phase = seal_context(self._packing.parameters).phase(self._key.seal_key(), first, second)
        return self._packing.decode(self._release(index, phase))

    def _decode(self, index: int, data: bytes, form: Form) -> Residues:
        if index in self._opened:
            raise UnexpectedMessageError(f"chunk {index} of the sum was opened before")
        if not 0 <= index < self.chunks:
            raise UnexpectedMessageError(f"there is no chunk {index} of {self.chunks}")
        return decode_chunk(
            self._packing.parameters,
            data,
            form=form,
            index=index,
            chunks=self.chunks,
            terms=len(self._contributors),
        ).residues

    def _release(self, index: int, phase: Residues) -> npt.NDArray[np.int64]:
        # Before anything depends on the phase: a chunk that is refused below is spent too.
        self._opened.add(index)
        parameters = self._packing.parameters
        context = seal_context(parameters)
        coefficients = np.stack(
            [
                context.from_ntt(residues[None], prime=place)[0]
                for place, residues in enumerate(phase)
            ]
        )
        integers = rescale_flooded(parameters, coefficients, self._stream, index)
        # What fills up the last chunk is checked, too: nobody contributed to it.
        self._packing.check_sum(integers)
        return integers[: self._values - index * parameters.ring_degree]

    def __repr__(self) -> str:
        return f"Opening({self.plan!r})"

    def __reduce__(self) -> str:
        raise TypeError("an opening is not pickled")
