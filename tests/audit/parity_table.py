"""`make parity-table`: every editor's merged update against its own centralised closed form.

Run as `python -m tests.audit.parity_table`. Each row is a session of the in-memory federation with
the deployed state machines, masks and fixed point. *model* rows edit a tiny transformers model in
float64, each party a copy of its own; *random* rows have random keys and residuals at every layer.
*Hidden* rows have keys of one length, decoys under the residuals.
In rows with a *memory* each party brings past edits besides its new ones, weighted by `WEIGHT`.
The reference is the editor's published closed form (`party/editing/baselines.py`) in one process
that holds all edits, dense, without sketch, key map or secure sum; in model rows it runs its own
passes over its own model. It writes a JSON record and exits 1 if the first layer of a row misses
`LIMIT`. Later layers of a sequential session are read on edited models, so their keys already
differ by what the editor makes of the error below; they are reported, and held to `LATER_LIMIT`.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from collabedit.editing import EditorName
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId, TaskIndex
from collabedit.memory import Memory
from collabedit.party.editing.baselines import PastKeys, centralised
from collabedit.party.editing.covariance import Covariance
from collabedit.party.editing.editor import key_maps
from collabedit.plan import Plan
from collabedit.simulation import Apply, Contribute, Simulation
from collabedit.sketch import LowRankUpdate, Matrix
from tests.audit.consoles import wide_console
from tests.support.editors import (
    EDITORS,
    Schedule,
    Statistics,
    TinyFederation,
    random_second_moment,
    tiny_federation,
    with_editor,
    with_memory,
)
from tests.support.federations import TestFederation, build_federation
from tests.support.randomness import InsecureTestRandomness

LIMIT = 1e-8
LATER_LIMIT = 1e-8
PARTIES = 4
EDITS_EACH = 4
SIZE, OUTPUTS = 96, 40
RANDOM_LAYERS = 2
PAST_EACH = 2
WEIGHT = 5.0

STATISTICS: tuple[Statistics, ...] = ("sketch", "dense")
SCHEDULES: tuple[Schedule, ...] = ("sequential", "parallel")


@dataclass(frozen=True, slots=True)
class Row:
    """One session. `errors` are relative, Frobenius, by ascending layer; `seconds` of the row.

    `hidden` has keys of one length, decoys under the residuals.
    """

    data: str
    editor: EditorName
    memory: bool
    statistics: Statistics
    schedule: Schedule
    errors: list[float]
    seconds: float
    hidden: bool = False

    @property
    def ok(self) -> bool:
        first, *later = self.errors
        return first <= LIMIT and all(error <= LATER_LIMIT for error in later)


def relative_error(got: Matrix, want: Matrix) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def model_errors(federation: TinyFederation, directory: Path, plan: Plan) -> list[float]:
    """One session over the tiny model; the parties' models come back unedited."""
    editors = federation.editors(plan)
    want = federation.centralised(plan)

    def contribute(party: PartyId, task: TaskIndex) -> list[tuple[Matrix, Matrix]]:
        return editors[party].statistics(plan.tasks[task])

    def apply(party: PartyId, task: TaskIndex, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
        editors[party].apply(updates)

    _run(_session(plan, federation, directory), contribute, apply)
    found = [
        max(
            relative_error(editor.updates[LayerIndex(layer)].dense(), update)
            for editor in editors.values()
        )
        for layer, update in sorted(want.items())
    ]
    for editor in editors.values():
        editor.rollback()
    return found


def random_errors(
    directory: Path,
    editor: EditorName,
    statistics: Statistics,
    schedule: Schedule,
    *,
    seed: int,
    memory: Memory | None = None,
) -> list[float]:
    """One session over random matrices."""
    moments = {layer: random_second_moment(seed + layer, SIZE) for layer in range(RANDOM_LAYERS)}
    base = build_federation(
        PARTIES,
        layers=RANDOM_LAYERS,
        mapped=SIZE,
        outputs=OUTPUTS,
        edits_each=EDITS_EACH,
        statistics=f'"{statistics}"',
        schedule=f'"{schedule}"',
        capacity=PARTIES * (EDITS_EACH + (0 if memory is None else memory.max_edits)) + 8,
        key_energy=1e4,
        magnitude_bound=1e6,
    )
    plan = with_memory(with_editor(base.plan, editor, moments), memory)
    covariance = None if editor == "ridge" else Covariance(moments, 1, {})
    rng = np.random.default_rng(seed)
    edits = {
        (party, layer): (
            rng.normal(size=(SIZE, EDITS_EACH)),
            rng.normal(size=(OUTPUTS, EDITS_EACH)) * 3,
        )
        for party, layer in product(plan.party_ids, moments)
    }
    past = {
        (party, layer): rng.normal(size=(SIZE, plan.max_past_edits))
        for party, layer in product(plan.party_ids, moments)
    }
    root = 1.0 if memory is None else np.sqrt(memory.weight)
    maps = {party: key_maps(plan, covariance) for party in plan.party_ids}
    merged: dict[int, Matrix] = {}

    def contribute(party: PartyId, task: TaskIndex) -> list[tuple[Matrix, Matrix]]:
        statistics = []
        for layer in plan.tasks[task]:
            keys, wanted = edits[party, layer.index]
            both = np.hstack([keys, root * past[party, layer.index]])
            statistics.append((maps[party][layer.index].map_keys(both), wanted))
        return statistics

    def apply(party: PartyId, task: TaskIndex, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
        for layer, update in updates.items():
            merged[layer] = update.left @ maps[party][layer].unmap_rows(update.right)

    _run(_session(plan, base, directory), contribute, apply)
    found = []
    for layer, moment in moments.items():
        keys, wanted = (
            np.concatenate([edits[party, layer][part] for party in plan.party_ids], axis=1)
            for part in (0, 1)
        )
        remembered = None
        if memory is not None:
            pooled = np.concatenate([past[party, layer] for party in plan.party_ids], axis=1)
            remembered = PastKeys(pooled, memory.weight)
        want = centralised(plan.editing, layer, keys, wanted, moment, past=remembered)
        found.append(relative_error(merged[layer], want))
    return found


def _session(
    plan: Plan, federation: TinyFederation | TestFederation, directory: Path
) -> Simulation:
    return Simulation(
        plan,
        identities=federation.identities,
        directory=directory,
        randomness={p: InsecureTestRandomness(p) for p in (AGGREGATOR, *plan.party_ids)},
    )


def _run(simulation: Simulation, contribute: Contribute, apply: Apply) -> None:
    """Run a session in which nobody may drop out: the reference has everybody's edits."""
    outcome = simulation.run(contribute, apply)
    for _, error in outcome.refusals:
        raise error
    simulation.coordinator.raise_if_aborted()


def rows(directory: Path) -> Iterator[Row]:
    """Run all sessions."""
    # GPT-2, whose norms compute in the model's own float64; Llama's would round to float32.
    everything = tiny_federation(
        directory, parties=PARTIES, edits_each=EDITS_EACH + PAST_EACH, model_type="gpt2"
    )
    federations = {False: everything.first(EDITS_EACH), True: everything.remembering(PAST_EACH)}
    count = 0
    for data, editor, remembers, statistics, schedule in product(
        ("random", "model"), EDITORS, (False, True), STATISTICS, SCHEDULES
    ):
        began, count = time.perf_counter(), count + 1
        spool = directory / f"session-{count}"
        memory = Memory(weight=WEIGHT, max_edits=PAST_EACH) if remembers else None
        if data == "model":
            federation = federations[remembers]
            plan = federation.plan(editor, statistics=statistics, schedule=schedule, memory=memory)
            errors = model_errors(federation, spool, plan)
        else:
            errors = random_errors(spool, editor, statistics, schedule, seed=100, memory=memory)
        seconds = time.perf_counter() - began
        yield Row(data, editor, remembers, statistics, schedule, errors, seconds)
    for editor, remembers in product(EDITORS, (False, True)):
        began, count = time.perf_counter(), count + 1
        memory = Memory(weight=WEIGHT, max_edits=PAST_EACH) if remembers else None
        plan = federations[remembers].plan(editor, memory=memory, hidden=True)
        errors = model_errors(federations[remembers], directory / f"session-{count}", plan)
        seconds = time.perf_counter() - began
        yield Row("model", editor, remembers, "sketch", "sequential", errors, seconds, hidden=True)


def _table(made: Sequence[Row]) -> Table:
    table = Table(title="merged updates against the centralised closed form, relative error")
    for heading in (
        *("data", "editor", "memory", "hidden", "statistics", "schedule"),
        *("first layer", "later layers", ""),
    ):
        table.add_column(heading)
    for row in made:
        first, *later = row.errors
        table.add_row(
            *(row.data, row.editor, "yes" if row.memory else "", "yes" if row.hidden else ""),
            *(row.statistics, row.schedule),
            f"{first:.1e}",
            ", ".join(f"{error:.1e}" for error in later),
            "ok" if row.ok else "[red]MISSED[/red]",
        )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sessions and write the table; return the exit status."""
    parser = argparse.ArgumentParser(description="Compare merged updates with centralised ones.")
    parser.add_argument("--out", type=Path, default=Path("out/parity-table.json"))
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="collabedit-") as directory:
        made = list(rows(Path(directory)))
    missed = sum(not row.ok for row in made)
    record = {
        "record": "parity-table",
        "limit_first_layer": LIMIT,
        "limit_later_layers": LATER_LIMIT,
        "parties": PARTIES,
        "edits_each": EDITS_EACH,
        "past_edits_each": PAST_EACH,
        "memory_weight": WEIGHT,
        "totals": {
            "rows": len(made),
            "missed": missed,
            "worst_first_layer": max(row.errors[0] for row in made),
            "worst_later_layer": max(max(row.errors[1:]) for row in made),
        },
        "rows": [{**asdict(row), "ok": row.ok} for row in made],
    }
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    console = wide_console()
    console.print(_table(made))
    console.print(f"{len(made)} rows, {missed} missed; {chosen.out}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
