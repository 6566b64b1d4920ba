"""The secret basis: rotating one party's keys, and rotating the merged update back.

The limit is what an exact Haar rotation of d' rows cannot do without: d'²/2 normals, and 2·d'²·n
operations on n columns. Both are timed in the same run: the normals from the fastest generator at
hand, numpy's PCG64 with its ziggurat, which is no secret; the operations as bare matrix products of
the shapes in which the blocks of reflections come. The normals of the keystream are a row of their
own, since they are most of the time. The peer is the textbook's way, QR of d'² normals, whose Q is
a matrix to multiply with. Beside them, the sketch of the same keys: what a party computes anyway.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from timing import Timed, milliseconds, time_in_turn, write_record

from collabedit.crypto.keystream import Keystream
from collabedit.crypto.ring import Ring
from collabedit.party.basis import Rotation
from collabedit.sketch import Matrix, expand_test_matrix, normals, sketch

EDITS = 20
CAPACITIES = (108, 1008, 2008)
"""m: an update has at most so many directions to rotate back."""

SHAPES = ((1536, 576), (4096, 1024), (6400, 1600), (14336, 4096), (16384, 4096))
"""(d', d_out): SmolLM2-135M's, GPT-2 medium's and XL's, Llama-3-8B's and GPT-J's."""

LARGEST_PEER = 1536
"""QR grows with d'³."""

LARGEST_UPDATE = 1 << 23
"""d'·m beyond which an update is left out for time."""

BLOCK = 64
"""Reflections that `Rotation` applies at once."""

KEY = bytes(32)


def draw(rows: int, *, secret: bool) -> None:
    """Draw the normals of the reflections of `rows` rows, a block at a time."""
    stream, generator = Keystream(KEY), np.random.Generator(np.random.PCG64(0))
    for start in range(0, rows - 1, BLOCK):
        wanted = BLOCK * (rows - start)
        if secret:
            normals(stream.tile(start, wanted, Ring.from_bits(64)), rows=wanted, columns=1)
        else:
            generator.standard_normal(wanted)


def products(rows: int, columns: Matrix, vectors: Matrix) -> None:
    """Multiply as the blocks do, Vᵀ·rows and V·(…), with nothing around it."""
    for start in range(0, rows - 1, BLOCK):
        part = columns[start:]
        vectors[start:] @ (vectors[start:].T @ part)


def textbook(rows: int, columns: Matrix) -> Matrix:
    words = Keystream(KEY).tile(0, rows * rows, Ring.from_bits(64))
    q, r = np.linalg.qr(normals(words, rows=rows, columns=rows))
    rotated: Matrix = (q * np.sign(np.diag(r))) @ columns
    return rotated


def compare(mapped: int, outputs: int) -> list[dict[str, object]]:
    rng = np.random.default_rng(mapped)
    runs = 3 if mapped <= 4096 else 1
    keys = rng.normal(size=(mapped, EDITS))
    residuals = rng.normal(size=(outputs, EDITS))
    vectors = rng.normal(size=(mapped, BLOCK)) / np.sqrt(mapped)
    omega = expand_test_matrix(KEY, layer=0, rows=mapped, columns=CAPACITIES[0])
    rotation, values = Rotation(KEY, mapped), Rotation(KEY, outputs)
    ways: dict[str, Callable[[], object]] = {
        "limit: normals by PCG64": lambda: draw(mapped, secret=False),
        "limit: products": lambda: products(mapped, keys, vectors),
        "normals of the keystream": lambda: draw(mapped, secret=True),
        "Q on keys": lambda: rotation.apply(keys),
        "U on residuals": lambda: values.apply(residuals),
        "sketch": lambda: sketch(keys, residuals, omega),
    }
    if mapped <= LARGEST_PEER:
        ways["peer: QR and product"] = lambda: textbook(mapped, keys)
    times = time_in_turn(ways, runs=runs, warm_up=runs > 1)
    drawn = times["limit: normals by PCG64"].cpu

    def row(what: str, columns: int, timed: Timed, limit: float | None = None) -> dict[str, object]:
        return {
            "shape": f"{mapped}x{outputs}",
            "what": what,
            "columns": columns,
            **milliseconds(timed),
            "ratio_to_limit": "" if limit is None else round(timed.cpu / limit, 3),
            "ratio_to_sketch": round(timed.cpu / times["sketch"].cpu, 2),
        }

    limit = drawn + times["limit: products"].cpu
    rows = [
        row(what, EDITS, timed, limit if what in {"Q on keys", "peer: QR and product"} else None)
        for what, timed in times.items()
    ]
    for capacity in CAPACITIES:
        if mapped * capacity > LARGEST_UPDATE:
            continue
        update = rng.normal(size=(mapped, capacity))
        found = time_in_turn(
            {
                "limit: products": partial(products, mapped, update, vectors),
                "undo Q on the update": partial(rotation.undo, update),
            },
            runs=runs,
            warm_up=False,
        )
        limit = drawn + found["limit: products"].cpu
        rows.append(row("limit: products", capacity, found["limit: products"]))
        rows.append(row("undo Q on the update", capacity, found["undo Q on the update"], limit))
    return rows


def main() -> None:
    rows = [row for mapped, outputs in SHAPES for row in compare(mapped, outputs)]
    write_record("basis", rows, edits=EDITS, capacities=list(CAPACITIES))


if __name__ == "__main__":
    main()
