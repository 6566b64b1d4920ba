"""Small sessions that really run, over gRPC on loopback, and what `session_model` says of them."""

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench_scale import CAPACITY, MAPPED, OUTPUTS, aggregate, take_part
from bench_scale import session as real_session
from link_tasks import task_of
from plans import create_identities, create_plan
from session_model import Task, memory, on_one_machine, phases
from sessions import Setting
from unit_costs import MIB, Costs, Shape

from collabedit.crypto.certificates import create_authority
from collabedit.ids import PartyId

VALIDATED = (10, 25)
HELD, STRAGGLER = 16e6, 1.6e6
"""Bytes per second to which parties of one real session hold their uploads; one, a tenth."""


@dataclass(frozen=True)
class HeldSetting(Setting):
    """A setting whose parties hold their uploads to a rate, the first one to a tenth of it."""

    def rate_limit(self, party: PartyId) -> float | None:
        """See `Setting`."""
        return STRAGGLER if party == 1 else HELD


def held_session(parties: int) -> dict[str, object]:
    """Run a session over gRPC with uploads held to a rate."""
    identities = create_identities(parties)
    plan = create_plan(identities, mapped=MAPPED, outputs=OUTPUTS, capacity=CAPACITY)
    pems = {party: key.to_pem() for party, key in identities.items()}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="collabedit-") as folder:
        setting = HeldSetting(plan, pems, create_authority("benchmark"), Path(folder))
        here, there = context.Pipe()
        own, other = context.Pipe()
        server = context.Process(target=aggregate, args=(setting, there))
        server.start()
        everybody = context.Process(
            target=take_part, args=(setting, plan.party_ids, here.recv(), other)
        )
        everybody.start()
        used, _ = own.recv()
        _, aggregator, rounds = here.recv()
        for process in (server, everybody):
            process.join()
    return {
        "party_cpu_s": used / parties,
        "aggregator_cpu_s": aggregator,
        "rounds": json.dumps(rounds),
    }


PARTS = {
    "r1, r2": (("r1-share", "r2-confirm"), ("r0", "r1", "r2")),
    "r3": (("r3-contribute",), ("upload", "r3")),
    "r4, r5": (("r4-survivors", "r5-unmask"), ("r4", "r5")),
    "open and merge": (("opened",), ("open", "merge")),
    "r6": (("r6-verify",), ("download", "check", "r6")),
}
"""What is compared: rounds as the session reports them, and phases of the model. r0 has the
start of processes in it, which the model has not."""


class Shared:
    """How much of the machine other processes took while a block ran."""

    def __enter__(self) -> Self:
        self._before = self._times()
        return self

    def __exit__(self, *_: object) -> None:
        own, busy, whole = (
            after - before for before, after in zip(self._before, self._times(), strict=True)
        )
        self.others = min(max(busy - own, 0.0) / whole, 0.95)

    @staticmethod
    def _times() -> tuple[float, float, float]:
        """Processor seconds of this process and those that ended, of everybody, and of idling too.

        Linux alone has /proc/stat: elsewhere nobody else is seen.
        """
        own = sum(os.times()[:4])
        try:
            line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
        except OSError:
            return own, own, time.monotonic()
        ticks = [int(field) for field in line.split()[1:9]]
        idle = ticks[3] + ticks[4]
        per_second = os.sysconf("SC_CLK_TCK")
        return own, (sum(ticks) - idle) / per_second, sum(ticks) / per_second


def validate(
    task: Task,
    costs: Costs,
    measured: dict[str, object],
    *,
    others: float,
    rates: Sequence[float] = (),
) -> list[dict[str, object]]:
    """Compare what the model says of this machine with what happened.

    Twice: as if the machine were free, and as if others kept what they took of it. They would give
    way to more threads than theirs, so on a busy machine the truth lies between the two.

    Args:
        task: what the session did.
        costs: measured here.
        measured: as `bench_scale.session` reports.
        others: share of the machine that other processes took meanwhile.
        rates: to which uploads were held.
    """
    cores = os.cpu_count() or 1
    steps = {step.name: step for step in phases(task, costs)}
    took = json.loads(str(measured["rounds"]))
    case = f"{task.parties} parties" + (", uploads held, one at a tenth" if rates else "")

    def said(names: Sequence[str], free: float) -> float:
        return sum(on_one_machine(steps[name], cores=free, rates=rates) for name in names)

    compared: list[tuple[str, float, float, float]] = [
        (
            part,
            said(names, cores),
            said(names, cores * (1 - others)),
            sum(float(took[name]) for name in rounds),
        )
        for part, (rounds, names) in PARTS.items()
    ]
    compared.append(
        (
            "r1 to r6",
            sum(alone for _, alone, _, _ in compared),
            sum(shared for _, _, shared, _ in compared),
            sum(found for _, _, _, found in compared),
        )
    )
    for who, total in (
        ("party", sum(step.party for step in steps.values())),
        ("aggregator", sum(step.aggregator for step in steps.values())),
    ):
        used = float(str(measured[f"{who}_cpu_s"]))
        compared.append((f"processor seconds, {who}", total, total, used))
    return [
        {
            "table": "validation",
            "case": case,
            "what": what,
            "predicted_s": round(alone, 3),
            "predicted_beside_others_s": round(shared, 3),
            "measured_s": round(found, 3),
            "predicted_over_measured": round(alone / found, 2),
            "beside_others_over_measured": round(shared / found, 2),
            "others_took": round(others, 2),
        }
        for what, alone, shared, found in compared
    ]


@dataclass(frozen=True, slots=True)
class Found:
    """What sessions that ran say, beside rows for the record.

    Attributes:
        rows: predictions and measurements.
        connection: bytes of the aggregator's memory for each party.
        margin: by how much the aggregator's processor seconds exceed the prediction, 1 or more.
    """

    rows: list[dict[str, object]]
    connection: float
    margin: float


def validation(costs: Costs) -> Found:
    """Run real sessions; the largest one says what a connection costs beyond its bytes."""
    shape = Shape(MAPPED, OUTPUTS, CAPACITY)
    rows = []
    connection, margin = 0.0, 1.0
    # Costs are of one thread of linear algebra: so are these sessions, whose processes inherit it.
    os.environ["OMP_NUM_THREADS"] = "1"
    for parties in VALIDATED:
        task = task_of(parties, "open", shape=shape, dropouts=0, edits=1)
        with Shared() as shared:
            found = real_session(parties)
        rows += validate(task, costs, found, others=shared.others)
        said = sum(step.aggregator for step in phases(task, costs))
        margin = max(float(str(found["aggregator_cpu_s"])) / said, 1.0)
        arrays = memory(task, costs, connection=0.0) / MIB
        held = float(str(found["aggregator_mib"]))
        connection = max((held - arrays) / parties, 0.0) * MIB
        rows.append(
            {
                "table": "memory of sessions that ran",
                "case": f"{parties} parties",
                "what": "memory of the aggregator",
                "predicted_arrays_mib": round(arrays, 1),
                "measured_mib": held,
            }
        )
        if parties == VALIDATED[0]:
            rates = [STRAGGLER, *[HELD] * (parties - 1)]
            with Shared() as shared:
                found = held_session(parties)
            rows += validate(task, costs, found, others=shared.others, rates=rates)
    return Found(rows, connection, margin)
