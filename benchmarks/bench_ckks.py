"""The CKKS backend beside TenSEAL as others use it, and beside a masked sum.

2^20 numbers each of three parties: what a party does (encrypt, serialise), what the aggregator does
with one upload (read, add; of masks, add alone), what happens to the sum (decrypt; of ours,
flooded), on one core. The largest error is that of the opened sum of three, against the float64
sum.

TenSEAL's `ckks_vector` is timed with the parameters of its tutorial and of NVFlare's `HEBuilder`.
Both publish what they decrypt with its error, so both lose the key by it (`attacks.ckks_key`).
"""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tenseal as ts
from plans import create_identities, create_plan
from timing import Timed, time_in_turn, write_record

from collabedit.crypto.ckks.adding import Adder, SummedChunk
from collabedit.crypto.ckks.encryption import encrypt_vector
from collabedit.crypto.ckks.keys import SecretKey
from collabedit.crypto.ckks.opening import Opening
from collabedit.crypto.ckks.packing import Packing
from collabedit.crypto.ckks.parameters import CkksParameters
from collabedit.crypto.ckks.wire import Form
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.masking import SignedMask, unmask_tile
from collabedit.crypto.ring import add_into
from collabedit.crypto.rng import SystemRandomness
from collabedit.exchange import TileLayout, plan_encoding
from collabedit.ids import PartyId, TaskIndex
from collabedit.party.contribution import masked_upload

VALUES = 1 << 20
PARTIES = tuple(PartyId(number) for number in (1, 2, 3))
BOUND = 8.0
MASKED_PARTIES = 10
RUNS = 3
PHASES = ("encrypt", "add", "open")
OURS = "CKKS of this project, secret key"

Vector = npt.NDArray[np.float64]


@dataclass
class Way:
    """One way to sum: three steps, each repeatable, and what came out."""

    encrypt: Callable[[], object]
    add: Callable[[], object]
    open: Callable[[], Vector]
    bytes_a_number: float


@contextmanager
def silence() -> Iterator[None]:
    """TenSEAL's C++ prints a warning for every long vector."""
    sys.stdout.flush()
    kept, sink = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(sink)


def inputs() -> list[Vector]:
    rng = np.random.default_rng(0)
    return [np.clip(rng.standard_normal(VALUES), -BOUND, BOUND) for _ in PARTIES]


def ours(vectors: list[Vector], *, public: bool) -> Way:
    parameters = CkksParameters()
    secret = SecretKey.generate(parameters)
    key = secret.public_key() if public else secret
    packing = Packing(parameters, BOUND, len(PARTIES))
    form = Form.PAIR if public else Form.SEEDED
    uploads = [list(encrypt_vector(key, vector, packing)) for vector in vectors]

    def adder() -> Adder:
        return Adder(parameters, values=VALUES, contributors=PARTIES, form=form)

    def summed() -> list[SummedChunk]:
        total = adder()
        for party, upload in zip(PARTIES, uploads, strict=True):
            for index, chunk in enumerate(upload):
                total.add(party, index, chunk)
        return [total.take(index) for index in range(total.chunks)]

    chunks = summed()
    filled = adder()
    for index, chunk in enumerate(uploads[0]):
        filled.add(PARTIES[0], index, chunk)

    def add_one() -> None:
        # Onto the same sum, each time as a new one: the first upload is in it, the second is added.
        filled._seeds = {index: {PARTIES[0]: b""} for index in range(filled.chunks)}  # noqa: SLF001
        for index, chunk in enumerate(uploads[1]):
            filled.add(PARTIES[1], index, chunk)

    def open_sum() -> Vector:
        fresh = SecretKey.from_bytes(parameters, secret.to_bytes())
        opening = Opening(
            fresh,
            packing,
            values=VALUES,
            contributors=PARTIES,
            randomness=SystemRandomness(),
            statistical_bits=38,
            public_key=public,
        )
        return np.concatenate(
            [
                opening.open_pair(chunk.index, chunk.data)
                if public
                else opening.open(chunk.index, chunk.data, chunk.seeds)
                for chunk in chunks
            ]
        )

    return Way(
        lambda: sum(map(len, encrypt_vector(key, vectors[0], packing))),
        add_one,
        open_sum,
        sum(map(len, uploads[0])) / VALUES,
    )


def tenseal(vectors: list[Vector], moduli: list[int], *, symmetric: bool) -> Way:
    kind = ts.ENCRYPTION_TYPE.SYMMETRIC if symmetric else ts.ENCRYPTION_TYPE.ASYMMETRIC
    context = ts.context(
        ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=moduli, encryption_type=kind
    )
    context.global_scale = 2.0**40
    with silence():
        uploads = [ts.ckks_vector(context, vector).serialize() for vector in vectors]
        total: Any = ts.ckks_vector_from(context, uploads[0])
        for upload in uploads[1:]:
            total.add_(ts.ckks_vector_from(context, upload))
        running: Any = ts.ckks_vector_from(context, uploads[0])

    def encrypt() -> None:
        with silence():
            ts.ckks_vector(context, vectors[0]).serialize()

    def add() -> None:
        with silence():
            running.add_(ts.ckks_vector_from(context, uploads[1]))

    return Way(encrypt, add, lambda: np.array(total.decrypt()), len(uploads[0]) / VALUES)


def masked(vectors: list[Vector]) -> Way:
    plan = create_plan(
        create_identities(MASKED_PARTIES),
        mapped=768,
        outputs=256,
        capacity=VALUES // 1024,
    )
    encoding, layout = plan_encoding(plan), TileLayout.of(plan, TaskIndex(0))
    masks = tuple(
        SignedMask(1 if number % 2 else -1, Keystream(os.urandom(32)))
        for number in range(MASKED_PARTIES)
    )
    encoded = [encoding.encode(vector) for vector in vectors]
    total = sum(encoded[1:], encoded[0].copy())
    running, size = encoded[0].copy(), 0
    for frame in masked_upload(plan, TaskIndex(0), encoded[0].copy(), masks).frames():
        size += len(frame)

    def encrypt() -> None:
        for _ in masked_upload(plan, TaskIndex(0), encoding.encode(vectors[0]), masks).frames():
            pass

    def open_sum() -> Vector:
        # The aggregator's work for ten survivors: a self mask of each.
        scratch = total.copy()
        for index in range(layout.tiles):
            unmask_tile(scratch[layout.bounds(index)], tile_index=index, masks=masks)
        return encoding.decode(total)

    return Way(encrypt, lambda: add_into(running, encoded[1]), open_sum, size / VALUES)


def main() -> None:
    vectors = inputs()
    ways = {
        OURS: ours(vectors, public=False),
        "CKKS of this project, public key": ours(vectors, public=True),
        "TenSEAL tutorial [60,40,40,60]": tenseal(vectors, [60, 40, 40, 60], symmetric=False),
        "NVFlare [60,40,40]": tenseal(vectors, [60, 40, 40], symmetric=True),
        "masked sum, ten parties": masked(vectors),
    }
    steps = {
        (name, phase): functools.partial(getattr(way, phase))
        for name, way in ways.items()
        for phase in PHASES
    }
    labels = {f"{name}/{phase}": step for (name, phase), step in steps.items()}
    times = time_in_turn(labels, runs=RUNS)
    exact = vectors[0] + vectors[1] + vectors[2]

    def million(timed: Timed) -> float:
        return round(timed.cpu * 1e6 / VALUES, 4)

    rows: list[dict[str, object]] = []
    for name, way in ways.items():
        seconds = {phase: million(times[f"{name}/{phase}"]) for phase in PHASES}
        rows.append(
            {
                "what": name,
                **{f"{phase}_s": second for phase, second in seconds.items()},
                "bytes_a_number": round(way.bytes_a_number, 3),
                "largest_error": float(np.abs(way.open() - exact).max()),
                "encrypt_over_ours": round(
                    times[f"{name}/encrypt"].cpu / times[f"{OURS}/encrypt"].cpu, 3
                ),
                "bytes_over_ours": round(way.bytes_a_number / ways[OURS].bytes_a_number, 3),
            }
        )
    write_record(
        "ckks",
        rows,
        values=VALUES,
        parties=len(PARTIES),
        masked_parties=MASKED_PARTIES,
        moduli_bits=list(CkksParameters().moduli_bits),
        scale_bits=CkksParameters().scale_bits,
        shift_bits=CkksParameters().shift_bits,
        tenseal=ts.__version__,
        unit="seconds of processor time per 10^6 numbers, median",
    )


if __name__ == "__main__":
    main()
