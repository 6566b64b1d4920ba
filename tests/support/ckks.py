"""A CKKS task in one process: encrypt, add, open."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from collabedit.crypto.ckks.adding import Adder, SummedChunk
from collabedit.crypto.ckks.encryption import encrypt_vector
from collabedit.crypto.ckks.keys import PublicKey, SecretKey
from collabedit.crypto.ckks.opening import Opening
from collabedit.crypto.ckks.packing import Packing
from collabedit.crypto.ckks.parameters import CkksParameters
from collabedit.crypto.ckks.wire import Form
from collabedit.ids import PartyId
from tests.support.randomness import InsecureTestRandomness

Vectors = Mapping[PartyId, npt.NDArray[np.float64]]
SETTING = CkksParameters()
BOUND = 100.0


@dataclass(frozen=True)
class Task:
    packing: Packing
    key: SecretKey
    uploads: Mapping[PartyId, list[bytes]]
    values: int
    form: Form

    @property
    def contributors(self) -> tuple[PartyId, ...]:
        return tuple(self.uploads)

    def summed(self, *of: PartyId) -> list[SummedChunk]:
        contributors = of or self.contributors
        adder = Adder(
            self.packing.parameters,
            values=self.values,
            contributors=contributors,
            form=self.form,
        )
        for party in contributors:
            for index, chunk in enumerate(self.uploads[party]):
                adder.add(party, index, chunk)
        return [adder.take(index) for index in range(adder.chunks)]

    def opening(self, *of: PartyId, bits: float = 40) -> Opening:
        return Opening(
            self.key,
            self.packing,
            values=self.values,
            contributors=of or self.contributors,
            randomness=InsecureTestRandomness(5),
            statistical_bits=bits,
            public_key=self.form is Form.PAIR,
        )


def vectors(parties: int, values: int, *, seed: int = 1) -> dict[PartyId, npt.NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    return {PartyId(party): rng.uniform(-BOUND, BOUND, values) for party in range(1, parties + 1)}


def upload(inputs: Vectors, *, parameters: CkksParameters = SETTING, public: bool = False) -> Task:
    key = SecretKey.generate(parameters)
    packing = Packing(parameters, BOUND, len(inputs))
    used: SecretKey | PublicKey = key.public_key() if public else key
    uploads = {
        party: list(encrypt_vector(used, vector, packing)) for party, vector in inputs.items()
    }
    values = len(next(iter(inputs.values())))
    return Task(packing, key, uploads, values, Form.PAIR if public else Form.SEEDED)


def open_all(opening: Opening, summed: list[SummedChunk]) -> npt.NDArray[np.float64]:
    return np.concatenate(
        [
            opening.open(chunk.index, chunk.data, chunk.seeds)
            if chunk.seeds
            else opening.open_pair(chunk.index, chunk.data)
            for chunk in summed
        ]
    )


def exact_sum(inputs: Vectors, parameters: CkksParameters = SETTING) -> npt.NDArray[np.float64]:
    """The sum of the rounded inputs, which is what fixed point promises."""
    scale = 2.0**parameters.scale_bits
    total = sum(np.rint(vector * scale).astype(np.int64) for vector in inputs.values())
    return np.asarray(total, np.float64) / scale
