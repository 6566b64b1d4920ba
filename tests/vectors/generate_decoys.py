"""Write tests/vectors/decoys.json with the code under test.

    python tests/vectors/generate_decoys.py [folder]

The only task of a session of four parties (threshold 3) with closed sums and decoys, keys of one
length and a memory, run with the machines that are deployed, in a ring of 64 bits. Party 3 falls
silent in r3 after two tiles. Besides, bundles that parties refuse, or accept in spite of what was
done to them. `README.md` says what the fields are.

Deterministic as `generate_closed.py` is.
"""

import math
import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from generate_closed import (
    SURVIVORS,
    TASK,
    ClosedRun,
    keep_recorded,
    recorded_content,
    shown_cases,
)
from generate_session import FOLDER, PLAN, content, floats, pseudo, recorded_bundles, write

from collabedit.aggregator.opening import OpenedTask
from collabedit.crypto.kdf import SECRET_BYTES
from collabedit.crypto.ring import RingArray, add_into
from collabedit.editing import Layer
from collabedit.exchange import (
    decode_bundle,
    encode_bundle,
    encode_checks,
    plan_encoding,
    statistics_vector,
)
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party.basis import Rotation
from collabedit.party.closing import Statistics
from collabedit.party.contribution import bring
from collabedit.party.decoys import with_decoys
from collabedit.party.editing.key_map import key_scales
from collabedit.plan import Plan
from collabedit.sketch import LowRankUpdate, Matrix

DECOY_PLAN = (
    PLAN.replace('"session-vector"', '"decoy-vector"')
    .replace("  { index = 3, inputs = 9, outputs = 4, mapped = 7 },\n", "")
    .replace("capacity = 13", "capacity = 21")
    .replace("tile_bytes = 256", "tile_bytes = 1024")
    .replace("fractional_bits = 24", "fractional_bits = 22")
    .replace("magnitude_bound = 1000", "magnitude_bound = 4000")
    .replace("ridge = 1\n", "ridge = 1\nkey_length = 3\n")
    + """
[memory]
weight = 4
max_edits = 1

[closed]
check_columns = 2
cover_edits = 1
min_edits = 4
decoy_bound = 0.5
"""
)
PAST = PartyId(2)
"""Who brings an edit of a past session."""


@dataclass(frozen=True)
class Decoys:
    """The randomness of a party as far as its decoys go."""

    party: PartyId

    def random_bytes(self, count: int) -> bytes:
        return pseudo(f"decoys of party {self.party}", count)


@dataclass(frozen=True)
class Brought:
    """One layer's edits of a party before their keys are given the plan's length, in eighths.

    Attributes:
        keys: mapped, [d', n].
        residuals: [d_out, n].
        past: mapped keys of past edits, [d', p].
        cover: as summed, [d', C].
    """

    keys: Matrix
    residuals: Matrix
    past: Matrix
    cover: Matrix


def edits_of(plan: Plan, party: PartyId, layer: Layer, *, edits: int | None) -> Brought:
    count = plan.federation.parties[party - 1].max_edits if edits is None else edits

    def numbers(what: str, rows: int, columns: int) -> Matrix:
        data = pseudo(f"decoy session, {what} of party {party}", rows * columns)
        return np.array([byte % 33 - 16 for byte in data]).reshape(rows, columns) / 8

    return Brought(
        numbers("keys", layer.mapped, count),
        numbers("residuals", layer.outputs, count),
        numbers("past keys", layer.mapped, int(party == PAST)),
        numbers("cover", layer.mapped, plan.cover_edits),
    )


class DecoyRun(ClosedRun):
    """That session."""

    def edits(self, party: PartyId, *, edits: int | None = None) -> list[Brought]:
        return [edits_of(self.plan, party, layer, edits=edits) for layer in self.plan.tasks[TASK]]

    def statistics(self, party: PartyId, *, edits: int | None = None) -> Statistics:
        memory, found = self.plan.memory, []
        assert memory is not None
        for own in self.edits(party, edits=edits):
            scales, past = (key_scales(self.plan.editing, keys) for keys in (own.keys, own.past))
            root = math.sqrt(memory.weight)
            keys = np.hstack([own.keys * scales, own.past * past * root, own.cover])
            found.append((keys, own.residuals * scales))
        return found

    def brought(self, party: PartyId) -> bytes | memoryview:
        return bring(self.plan, party, TASK, self.statistics(party), Decoys(party))

    def seed(self, party: PartyId) -> bytes:
        return bytes(self.brought(party)[:SECRET_BYTES])

    def summed(self, party: PartyId, statistics: Statistics) -> Statistics:
        seed, plan = self.seed(party), self.plan
        return [
            (keys, with_decoys(plan, layer, residuals, columns=keys.shape[1], seed=seed))
            for layer, (keys, residuals) in zip(plan.tasks[TASK], statistics, strict=True)
        ]

    def contributed(self, party: PartyId, statistics: Statistics) -> RingArray:
        return self.closed.contribute(party, statistics, decoy_seed=self.seed(party))

    def describe_statistics(self, party: PartyId) -> dict[str, Any]:
        plan, statistics = self.plan, self.statistics(party)
        summed = self.summed(party, statistics)
        return {
            "edits": [
                {name: floats(getattr(own, name)) for name in ("keys", "residuals", "past")}
                for own in self.edits(party)
            ],
            "statistics": [
                {
                    "keys": floats(keys),
                    "residuals": floats(residuals),
                    "decoys": floats(rows[layer.outputs :]),
                }
                for layer, (keys, residuals), (_, rows) in zip(
                    plan.tasks[TASK], statistics, summed, strict=True
                )
            ],
        }

    def describe_released(self, task: TaskIndex, opened: OpenedTask) -> dict[str, Any]:
        plan, shown = self.plan, super().describe_released(task, opened)
        survivors = sorted(self.coordinator.records[task].survivors)
        updates = self.closed.open(opened.bundle, survivors).updates
        for index, update in updates.items():
            shown["closed"][str(index)] |= {
                "left": floats(update.left),
                "right": floats(update.right),
            }
        everybody, present = plan.summed_limits(plan.party_ids), plan.summed_limits(survivors)
        return shown | {
            "decoys": {
                "rows": plan.decoys,
                "deviation": plan.decoy_deviation.hex(),
                "energy": float(present.residuals).hex(),
                "energy_of_all": float(everybody.residuals).hex(),
            }
        }

    def sum_with_larger_residuals(self, factor: float) -> RingArray:
        """Of the survivors, who say in their integers that residuals are what they were."""
        plan = self.plan
        total = np.zeros(plan.task_length(TASK), dtype=plan_encoding(plan).ring.dtype)
        for party in map(PartyId, SURVIVORS):
            own = self.statistics(party)
            grown = [(keys, factor * residuals) for keys, residuals in own]
            turned = self.turned(self.summed(party, grown))
            vector = plan_encoding(plan).encode(statistics_vector(plan, TASK, turned))
            checks = self.check.encode(turned, own=own, party=party)
            add_into(total, np.concatenate([vector, checks]))
        return total


def turned_rows(
    outputs: Rotation, update: LowRankUpdate, rows: slice, factor: float
) -> LowRankUpdate:
    """Multiply some rows, as they are before U, and release the update as an aggregator does."""
    left = outputs.undo(update.left)
    left[rows] *= factor
    return LowRankUpdate(outputs.apply(left), update.right).canonical()


def refusals(run: DecoyRun, bundle: bytes) -> Iterator[tuple[str, bytes, list[int]]]:
    """Name, bytes, survivors of each case."""
    plan, survivors = run.plan, list(SURVIVORS)
    (layer,) = plan.tasks[TASK]
    index, length = LayerIndex(layer.index), plan.check_length(TASK)
    true, checks = decode_bundle(plan, TASK, bundle)[index], bundle[-8 * length :]
    _, outputs = run.closed._rotations(layer)
    wanted, decoys = slice(layer.outputs), slice(layer.outputs, None)
    integers = length - plan.check_tags - 4

    def shown(update: LowRankUpdate, elements: bytes = checks) -> bytes:
        return encode_bundle({index: update}) + elements

    def shifted(by: Mapping[int, int]) -> bytes:
        elements = list(struct.unpack(f"<{length}Q", checks))
        for place, shift in by.items():
            elements[place] = (elements[place] + shift) % 2**64
        return struct.pack(f"<{length}Q", *elements)

    def shifted_columns(direction: int, by: float) -> bytes:
        """Shift the first column of Tv along one output, as it is before U."""
        unit = np.zeros((plan.summed_outputs(layer), 1))
        unit[direction] = by
        step = 2.0**-plan.aggregation.fractional_bits
        return shifted(
            {
                2 * (layer.mapped + i): round(float(x) / step)
                for i, x in enumerate(outputs.apply(unit)[:, 0])
            }
        )

    def merged(total: RingArray) -> bytes:
        updates = run.merge(total, survivors)
        return encode_bundle(updates) + encode_checks(plan, TASK, total)

    yield "as released", bundle, survivors
    for name, share in (("just within what is allowed", 0.99), ("just beyond", 1.01)):
        yield f"residuals' rows {name}", shown(scaled(run, true, checks, share)), survivors
    yield "all rows larger by 1 in 50", shown(scaled_rows(true, 1.02)), survivors
    yield "residuals' rows 20 times", shown(turned_rows(outputs, true, wanted, 20)), survivors
    yield "decoys' rows larger", shown(turned_rows(outputs, true, decoys, 1.01)), survivors
    yield "decoys' rows negated", shown(turned_rows(outputs, true, decoys, -1)), survivors
    lesser = turned_rows(outputs, true, decoys, 0).canonical(rank=4)
    yield "no decoys' rows, of the rank of the edits", shown(lesser), survivors
    for name, share in (("just within 6.6(e)", 0.999), ("just beyond 6.6(e)", 1.001)):
        energy = plan.summed_limits(plan.party_ids).residuals
        size = share * math.sqrt(energy / (4 * plan.editing.ridge))
        yield f"decoys' rows {name}", shown(grown(outputs, true, decoys, size)), survivors
    opened = run.closed.open(bundle, map(PartyId, SURVIVORS)).updates[index]
    size = float(np.linalg.norm(opened.dense()))
    energy = plan.energy_limits(plan.party_ids).residuals
    for name, share in (("just within 6.6(e)", 0.999), ("just beyond 6.6(e)", 1.001)):
        factor = share * math.sqrt(energy / (4 * plan.editing.ridge)) / size
        total = run.sum_with_larger_residuals(factor)
        yield f"larger residuals than said, {name}", merged(total), survivors
    yield "a check column that is off in a decoy", shown(true, shifted_columns(-1, 1)), survivors
    yield "a check column that is off in a residual", shown(true, shifted_columns(0, 1)), survivors
    yield "one edit less", shown(true, shifted({integers + 1: -1})), survivors
    yield "more energy of residuals", shown(true, shifted({integers + 3: 1})), survivors
    yield "with the lost party as a survivor", bundle, [1, 2, 3, 4]
    yield "three edits", merged(run.sum_of({1: 1, 2: None, 4: None})), survivors
    yield "no update at all", shown(LowRankUpdate(true.left[:, :0], true.right[:0])), survivors
    without = LowRankUpdate(true.left[wanted], true.right)
    yield "an update without rows for decoys", shown(without), survivors
    less = checks[: 8 * 2 * (layer.mapped + layer.outputs)] + checks[8 * integers :]
    yield "check elements without rows for decoys", shown(true, less), survivors
    yield "a byte too many", bundle + bytes(1), survivors


def scaled_rows(update: LowRankUpdate, factor: float) -> LowRankUpdate:
    return LowRankUpdate(update.left * math.sqrt(factor), update.right * math.sqrt(factor))


def scaled(run: DecoyRun, true: LowRankUpdate, checks: bytes, share: float) -> LowRankUpdate:
    """Make the residuals' rows larger until their miss is `share` of what is allowed."""
    (layer,) = run.plan.tasks[TASK]
    _, outputs = run.closed._rotations(layer)
    sums, low, high = run.released_checks(checks), 1.0, 2.0
    for _ in range(60):
        middle = (low + high) / 2
        update = turned_rows(outputs, true, slice(layer.outputs), middle)
        low, high = (middle, high) if run.share(layer, sums, update) < share else (low, middle)
    return update


def grown(outputs: Rotation, true: LowRankUpdate, rows: slice, size: float) -> LowRankUpdate:
    """Make some rows larger until the whole update is of that size."""
    others = outputs.undo(true.left)
    mine = others[rows].copy()
    others[rows] = 0
    rest, own = (float(np.linalg.norm(left @ true.right)) for left in (others, mine))
    return turned_rows(outputs, true, rows, math.sqrt(size**2 - rest**2) / own)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    path = FOLDER / "decoys.json"
    old = recorded_content(path)
    with tempfile.TemporaryDirectory() as directory:
        run = DecoyRun(Path(directory), recorded_bundles(path), plan_text=DECOY_PLAN)
        run.run()
    cases = shown_cases(run, refusals(run, bytes.fromhex(run.tasks[0]["bundle"])), old)
    made = content(run, generator="generate_decoys.py") | {"refusals": cases}
    write(folder / "decoys.json", keep_recorded(made, old))


if __name__ == "__main__":
    main()
