"""`make dropout-matrix`: every round x every number of lost parties, on the real machines.

Run as `python -m tests.audit.dropout_matrix`. Writes a JSON record, prints a table, and exits 1 if
any cell is not what `tests.audit.dropouts` says it must be.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.table import Table

from collabedit.crypto.graph import plan_neighbourhood
from collabedit.encrypted import CHUNK_BYTES
from collabedit.errors import AbortReason
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.threat_model import proposed_corruptions
from tests.audit import dropouts
from tests.audit.branching import (
    ENCRYPTED_MOMENTS,
    MOMENTS,
    Branches,
    BranchingSimulation,
    Case,
    transcript_digest,
)
from tests.audit.consoles import wide_console
from tests.support.federations import TestFederation, build_federation
from tests.support.randomness import InsecureTestRandomness

PARTIES = (3, 5, 10, 40, 100)
MAPPED, OUTPUTS, EDITS_EACH = 6, 4, 1
"""Small matrices: the cells are about who is in the sum, not about its size."""

TILES = 4
"""Frames of an upload, about; at least two, so that there is a half."""


GRAPHS = ("full", "sparse")

SPARSE_FROM = 40
"""Parties from which on the sparse graph is run, too: below 33 it is the full one."""

ALL_COUNTS_TO = 40
"""Parties up to which the sparse graph gets every number of lost parties; above, five of them. The
full graph always gets all."""


BACKENDS = ("masked", "ckks")

ENCRYPTED_PARTIES = (3, 5, 10, 40)
"""How many parties the encrypted federations have, of those that are asked for."""


def build_encrypted(parties: int, *, seed: int) -> TestFederation:
    """Build a federation whose parties upload ciphertexts: one chunk, in about `TILES` frames."""
    return build_federation(
        parties,
        seed=seed,
        mapped=MAPPED,
        outputs=OUTPUTS,
        edits_each=EDITS_EACH,
        tile_bytes=64 * -(-CHUNK_BYTES // (64 * TILES)),
        backend='"ckks"',
        closed="check_columns = 2",
        fractional_bits=34,
    )


def build(parties: int, *, seed: int, corruptions: int | None = None) -> TestFederation:
    """Build a federation whose uploads have about `TILES` frames.

    Args:
        parties: how many.
        seed: of the matrices.
        corruptions: of the plan; None for the full graph.
    """
    upload = 8 * (MAPPED + OUTPUTS) * (parties * EDITS_EACH + 8)
    return build_federation(
        parties,
        seed=seed,
        mapped=MAPPED,
        outputs=OUTPUTS,
        edits_each=EDITS_EACH,
        tile_bytes=64 * -(-upload // (64 * TILES)),
        corruptions=corruptions,
    )


def counts_of(federation: TestFederation) -> list[int]:
    """List the numbers of lost parties: 0 to N - t + 1."""
    parties = len(federation.plan.party_ids)
    spare = parties - federation.plan.threshold
    if federation.plan.federation.corruptions is None or parties <= ALL_COUNTS_TO:
        return list(range(spare + 2))
    return [0, 1, spare // 2, spare, spare + 1]


def cases_of(federation: TestFederation, *, seed: int) -> list[Case]:
    """List the cells: every moment with every number of lost parties, drawn from the seed."""
    everybody = federation.plan.party_ids
    cases = []
    for number, moment in enumerate(moments_of(federation)):
        for count in counts_of(federation):
            rng = np.random.default_rng([seed, len(everybody), number, count])
            lost = _draw(rng, everybody, count)
            if not federation.plan.is_encrypted or moment < "r4" or not count:
                cases.append(Case(moment, lost))
                continue
            # Of an encrypted sum that is fixed once with its opener among them, and once without.
            opener, *others = everybody
            cases.append(Case(moment, _draw(rng, others, count)))
            cases.append(Case(moment, _draw(rng, others, count - 1) | {opener}))
    return cases


def moments_of(federation: TestFederation) -> Mapping[str, str]:
    """When parties can fall silent."""
    return ENCRYPTED_MOMENTS if federation.plan.is_encrypted else MOMENTS


def _draw(rng: np.random.Generator, parties: Sequence[PartyId], count: int) -> frozenset[PartyId]:
    lost = rng.choice(np.array(parties), size=count, replace=False)
    return frozenset(PartyId(int(party)) for party in lost)


@contextmanager
def _inside(directory: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


def run_cells(federation: TestFederation, *, seed: int, jobs: int) -> list[dict[str, object]]:
    """Run every cell of one federation; each as the record shows it."""
    branches = Branches(cases_of(federation, seed=seed), jobs)
    witness = dropouts.Witness()
    with tempfile.TemporaryDirectory(prefix="collabedit-matrix-") as place:
        trunk = Path(place) / "trunk"
        (trunk / "spool").mkdir(parents=True)
        with _inside(trunk):
            simulation = BranchingSimulation(
                federation.plan,
                identities=federation.identities,
                directory=Path("spool"),
                randomness={
                    party: InsecureTestRandomness(1000 * seed + party)
                    for party in (AGGREGATOR, *federation.plan.party_ids)
                },
                observer=witness.observe,
            )
            simulation.branches = branches
            try:
                closed = federation.plan.is_closed(dropouts.TASK)
                contribute = federation.statistics if closed else federation.contribute
                outcome = simulation.run(contribute, witness.apply)
            except BaseException as error:
                if branches.case is not None:
                    failure = f"{type(error).__name__}: {error}"
                    branches.end(lambda: {"failures": [failure]})
                raise
            if (case := branches.case) is not None:
                branches.end(
                    lambda: {
                        "reason": outcome.aborted.reason.name if outcome.aborted else None,
                        "opened": len(outcome.sums),
                        "survivors": dropouts.survivors(federation, case, outcome),
                        "applied": len(witness.applied),
                        # Ciphertexts have the library's randomness.
                        "transcript": None
                        if federation.plan.is_encrypted
                        else transcript_digest(outcome.transcript),
                        "failures": dropouts.failures(
                            federation,
                            case,
                            simulation=simulation,
                            outcome=outcome,
                            witness=witness,
                            spool=Path("spool"),
                        ),
                        "seconds": round(time.monotonic() - branches.started, 3),
                    }
                )
            results = branches.results()
    assert len(results) == len(branches.cases)
    order = list(moments_of(federation))
    results.sort(key=lambda result: (order.index(result[0].moment), len(result[0].lost)))
    return [_cell(federation, case, result) for case, result in results]


def _cell(federation: TestFederation, case: Case, result: dict[str, object]) -> dict[str, object]:
    reason, opened = result.get("reason"), result.get("opened")
    outcome = "failed" if result["failures"] else f"aborted: {reason}" if reason else "exact"
    return {
        "parties": len(federation.plan.party_ids),
        "threshold": federation.plan.threshold,
        "graph": _graph(federation),
        "backend": federation.plan.aggregation.backend,
        "round": case.moment[:2],
        "moment": moments_of(federation)[case.moment],
        "opener_lost": _loses_opener(federation, case),
        "dropped": len(case.lost),
        "dropped_parties": sorted(case.lost),
        "outcome": outcome,
        "sums_opened": opened,
        "survivors": result.get("survivors"),
        "applied": result.get("applied"),
        "transcript_sha256": result.get("transcript"),
        "ok": not result["failures"],
        "failures": result["failures"],
        "seconds": result.get("seconds"),
    }


def _loses_opener(federation: TestFederation, case: Case) -> bool | None:
    """Whether who is to open the sum is lost when that is fixed; None where there is nobody."""
    if not federation.plan.is_encrypted or case.moment < "r4":
        return None
    return min(federation.plan.party_ids) in case.lost


def _graph(federation: TestFederation) -> str:
    return "full" if federation.plan.federation.corruptions is None else "sparse"


def _totals(cells: Sequence[dict[str, object]]) -> dict[str, int]:
    outcomes = [str(cell["outcome"]) for cell in cells]
    return {"cells": len(cells), **{name: outcomes.count(name) for name in sorted(set(outcomes))}}


def _table(cells: Sequence[dict[str, object]]) -> Table:
    table = Table(title="dropout matrix: cells by round and number of lost parties")
    for heading in (
        "N",
        "t",
        "graph",
        "backend",
        "lost",
        "0 .. N-t lost",
        "N-t+1 lost",
        "sums after that",
        "seconds",
    ):
        table.add_column(heading, justify="right" if heading in {"N", "t"} else "left")
    rows: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for cell in cells:
        names = ("parties", "threshold", "graph", "backend", "round", "moment")
        # Without any loss the opener is there.
        key = *(cell[name] for name in names), bool(cell["opener_lost"])
        rows.setdefault(key, []).append(cell)
    last = None
    for (parties, threshold, graph, backend, round_name, moment, opener), row in rows.items():
        if last not in {None, (parties, graph, backend)}:
            table.add_section()
        last = parties, graph, backend
        *within, beyond = row
        table.add_row(
            str(parties),
            str(threshold),
            str(graph),
            str(backend),
            f"{round_name} {moment}" + (", opener too" if opener else ""),
            _summary(within),
            _summary([beyond]),
            str(beyond["sums_opened"]),
            f"{sum(float(str(cell['seconds'] or 0)) for cell in row):.1f}",
        )
    return table


def _summary(cells: Sequence[dict[str, object]]) -> str:
    outcomes = [str(cell["outcome"]) for cell in cells]
    return ", ".join(
        f"{outcomes.count(name)} x {name}" if len(cells) > 1 else name
        for name in dict.fromkeys(outcomes)
    )


def _cpu_seconds() -> float:
    """Processor time of this process and of every branch that has ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _federations(chosen: argparse.Namespace) -> Iterator[TestFederation]:
    if "masked" in chosen.backends:
        if "full" in chosen.graphs:
            for parties in chosen.parties:
                yield build(parties, seed=chosen.seed)
        if "sparse" in chosen.graphs:
            for parties in chosen.parties:
                if parties >= SPARSE_FROM:
                    corruptions = proposed_corruptions(parties)
                    yield build(parties, seed=chosen.seed, corruptions=corruptions)
    # Ciphertexts are for the full graph.
    if "ckks" in chosen.backends and "full" in chosen.graphs:
        for parties in chosen.parties:
            if parties in ENCRYPTED_PARTIES:
                yield build_encrypted(parties, seed=chosen.seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the matrix; return the exit status."""
    parser = argparse.ArgumentParser(description="Lose parties in every round and check the sum.")
    parser.add_argument("--parties", type=int, nargs="+", default=PARTIES, metavar="N")
    parser.add_argument("--graphs", nargs="+", choices=GRAPHS, default=GRAPHS)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--seed", type=int, default=0, help="of keys, matrices and lost parties")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells at once")
    parser.add_argument("--out", type=Path, default=Path("out/dropout-matrix.json"))
    chosen = parser.parse_args(arguments)
    console, problems = wide_console(), wide_console(stderr=True)
    cells: list[dict[str, object]] = []
    federations = []
    began, used = time.monotonic(), _cpu_seconds()
    for federation in _federations(chosen):
        started = time.monotonic()
        parties = len(federation.plan.party_ids)
        cells += run_cells(federation, seed=chosen.seed, jobs=chosen.jobs)
        seconds = round(time.monotonic() - started, 1)
        federations.append(
            {
                "parties": parties,
                "threshold": federation.plan.threshold,
                "graph": _graph(federation),
                "backend": federation.plan.aggregation.backend,
                "corruptions": federation.plan.federation.corruptions,
                "degree": plan_neighbourhood(federation.plan, parties, task=dropouts.TASK).degree,
                "seconds": seconds,
            }
        )
        kind = f"{_graph(federation)} graph, {federation.plan.aggregation.backend}"
        problems.print(f"N = {parties}, {kind}: {seconds} s", style="dim")
    failed = [cell for cell in cells if not cell["ok"]]
    record = {
        "record": "dropout-matrix",
        "seed": chosen.seed,
        "parameters": {
            "mapped": MAPPED,
            "outputs": OUTPUTS,
            "edits_each": EDITS_EACH,
            "relative_error_bound": dropouts.RELATIVE_ERROR,
            "relative_error_bound_ckks": dropouts.ENCRYPTED_ERROR,
            "aborts_expected": [
                AbortReason.BELOW_THRESHOLD.name,
                AbortReason.OPENER_GONE.name,
            ],
            "jobs": chosen.jobs,
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        },
        "expected": dropouts.__doc__,
        "federations": federations,
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(_cpu_seconds() - used, 1),
        "totals": {**_totals(cells), "failed": len(failed)},
        "cells": cells,
    }
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    console.print(_table(cells))
    console.print(f"{len(cells)} cells, {len(failed)} failed, {record['seconds']} s; {chosen.out}")
    for cell in failed:
        kind = f"{cell['graph']} {cell['backend']}"
        where = f"N={cell['parties']} {kind} {cell['moment']} {cell['dropped_parties']} lost"
        problems.print(f"{where}: {cell['failures']}", style="red", markup=False)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
