"""A hundred parties at GPT-J's shape over stated links, by simulation: bytes, seconds, memory.

No machine here has a hundred parties, so their session is computed: from the messages of real
sessions (`traffic.py`), costs measured in this run with the product's own code (`unit_costs.py`)
and a model of shared links (`star.py`, `session_model.py`). The same model predicts small sessions
that then really run, over gRPC on loopback; rows of `validation` have both.

Every party brings an equal part of 1,992 edits of one layer: d' = 16384, d_out = 4096, m = 2000.
`closed` is what `plan new` proposes, over the full graph; `open` has open sums and the sparse
graph, for rosters above 32; `dense` masks S and T whole; `paper` sends S and ΔW in the clear.

    python benchmarks/bench_links.py [--large]

`--large` measures the merge at m = 2000 instead of following it up from m = 1000.
"""

import argparse
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from link_tasks import task_of
from link_validation import Found, validation
from plans import create_identities, create_plan
from session_model import (
    Phase,
    Site,
    Task,
    disk,
    memory,
    paper_phases,
    paper_upload,
    phases,
    wall,
)
from star import WINDOW, Link
from timing import write_record
from traffic import control_bytes
from unit_costs import MIB, Costs, Shape, measure

from collabedit.crypto.graph import FULL_GRAPH_PARTIES
from collabedit.plan import Timing

SHAPE = Shape(16384, 4096, 2000)
EDITS = SHAPE.capacity - 8
SIZES = (10, 25, 50, 100)
MERGE_AT = (250, 500, 1000)

MEGABIT, GIGABIT = 1e6, 1e9
LINKS = (100 * MEGABIT, GIGABIT, 10 * GIGABIT)
TRIPS = (0.005, 0.05, 0.2)
PARTY_CORES = 4
AGGREGATOR = Site(links=(), bits=10 * GIGABIT, party_cores=PARTY_CORES, cores=8, disk=1e9)
"""A server with an NVMe disk. `sizing` asks how much less will do."""

TARGET_SECONDS = 600.0
USUAL = Link(100 * MEGABIT, 0.05)
LINES = (100 * MEGABIT, GIGABIT, 10 * GIGABIT, 25 * GIGABIT)
CORES = (2, 4, 8, 16, 32)
DISKS = (100e6, 200e6, 500e6, 1e9, 2e9)
"""Bytes per second, from one spinning disk to NVMe."""


def gptj_tasks() -> list[Task]:
    """Describe the tasks at GPT-J's shape; the dense form has the messages of the closed one."""
    tasks = []
    for parties in SIZES:
        edits = EDITS // parties
        full = task_of(parties, "closed", shape=SHAPE, dropouts=0, edits=edits)
        tasks.append(full)
        if parties > FULL_GRAPH_PARTIES:
            tasks.append(task_of(parties, "open", shape=SHAPE, dropouts=0, edits=edits))
        plan = create_plan(
            create_identities(parties),
            mapped=SHAPE.mapped,
            outputs=SHAPE.outputs,
            capacity=SHAPE.capacity,
            statistics="dense",
        )
        tasks.append(replace(full, plan=plan, form="dense"))
    return tasks


def losing(task: Task) -> Task:
    """Let every tenth party of a task vanish."""
    return replace(task, dropouts=task.parties // 10)


def seconds(steps: Sequence[Phase], site: Site) -> float:
    """Add up all phases."""
    return sum(wall(step, site) for step in steps)


def at(site: Site, link: Link, parties: int, *, straggler: bool = False) -> Site:
    """Give every party a link; one, a tenth of it."""
    links = [link] * parties
    if straggler:
        links[0] = replace(link, bits=link.bits / 10)
    return replace(site, links=links)


def byte_rows(tasks: Sequence[Task], costs: Costs, connection: float) -> list[dict[str, object]]:
    """Say what is sent, kept and computed in a task, whatever the links."""
    rows: list[dict[str, object]] = []
    for task in tasks:
        steps = phases(task, costs)
        control = control_bytes(task.control)
        lost = phases(losing(task), costs)
        rows.append(
            {
                "table": "a task",
                "parties": task.parties,
                "form": task.form,
                "edits_each": task.edits,
                "neighbours": round(task.computing.neighbours, 1),
                "upload_mb": round(task.upload / 1e6, 1),
                "download_mb": round(task.bundle / 1e6, 1),
                "control_kb_a_party": round(control / task.parties / 1e3, 1),
                "received_gb": round(task.parties * task.upload / 1e9, 2),
                "disk_gb": round(disk(task) / 1e9, 2),
                "memory_gib": round(memory(task, costs, connection=connection) / 2**30, 2),
                "party_cpu_s": round(sum(step.party for step in steps), 1),
                "aggregator_cpu_s": round(sum(step.aggregator for step in steps), 1),
                "open_cpu_s": round(named(steps, "open").aggregator, 1),
                "open_cpu_s_a_tenth_lost": round(named(lost, "open").aggregator, 1),
                "merge_cpu_s": round(named(steps, "merge").aggregator, 1),
            }
        )
    upload = paper_upload(SHAPE)
    for parties in SIZES:
        steps = paper_phases(SHAPE, parties, costs)
        rows.append(
            {
                "table": "a task",
                "parties": parties,
                "form": "paper",
                "edits_each": EDITS // parties,
                "upload_mb": round(upload / 1e6, 1),
                "download_mb": round(4 * SHAPE.mapped * SHAPE.outputs / 1e6, 1),
                "received_gb": round(parties * upload / 1e9, 2),
                "disk_gb": round(parties * upload / 1e9, 2),
                # The sum, its inverse, one party's S, the weighted sum and the result.
                "memory_gib": round(
                    8 * (3 * SHAPE.mapped**2 + 2 * SHAPE.mapped * SHAPE.outputs) / 2**30, 2
                ),
                "aggregator_cpu_s": round(sum(step.aggregator for step in steps), 1),
                "merge_cpu_s": round(named(steps, "merge").aggregator, 1),
            }
        )
    return rows


def named(steps: Sequence[Phase], name: str) -> Phase:
    """Find a phase."""
    (found,) = [step for step in steps if step.name == name]
    return found


def wall_row(
    name: str, steps: Sequence[Phase], site: Site, parties: int, case: str
) -> dict[str, object]:
    """Say how long a task takes, and where the time goes."""
    link = site.links[-1]
    parts = {step.name: wall(step, site) for step in steps}
    shown = ("statistics", "upload", "open", "merge", "download", "check")
    return {
        "table": "seconds of a task",
        "parties": parties,
        "form": name,
        "link_mbit": round(link.bits / MEGABIT),
        "rtt_ms": round(1e3 * link.rtt),
        "case": case,
        "wall_s": round(sum(parts.values()), 1),
        **{f"{part}_s": round(parts[part], 1) for part in shown if part in parts},
        "messages_s": round(sum(parts[part] for part in parts if part not in shown), 1),
    }


def wall_rows(tasks: Sequence[Task], costs: Costs) -> list[dict[str, object]]:
    """Go through links and round trips, then through what goes wrong."""
    rows = []
    for task in tasks:
        steps = phases(task, costs)
        for bits in LINKS:
            for rtt in TRIPS if task.form == "closed" else (USUAL.rtt,):
                site = at(AGGREGATOR, Link(bits, rtt), task.parties)
                rows.append(wall_row(task.form, steps, site, task.parties, "all there"))
        if task.form != "closed":
            continue
        lost = phases(losing(task), costs)
        for bits in LINKS:
            link = replace(USUAL, bits=bits)
            whole = at(AGGREGATOR, link, task.parties)
            slow = at(AGGREGATOR, link, task.parties, straggler=True)
            for case, cast, site in (
                ("one at a tenth", steps, slow),
                ("a tenth lost", lost, whole),
                ("both", lost, slow),
            ):
                rows.append(wall_row(task.form, cast, site, task.parties, case))
    for parties in SIZES:
        for bits in LINKS:
            site = at(AGGREGATOR, Link(bits, USUAL.rtt), parties)
            steps = paper_phases(SHAPE, parties, costs)
            rows.append(wall_row("paper", steps, site, parties, "all there"))
            same = {key: rows[-1][key] for key in ("parties", "link_mbit", "rtt_ms", "case")}
            ours = {"form": "closed", **same}.items()
            (closed,) = [row for row in rows if ours <= row.items()]
            closed["paper_over_ours"] = round(
                float(str(rows[-1]["wall_s"])) / float(str(closed["wall_s"])), 1
            )
    return rows


def sizing_row(task: Task, costs: Costs, ran: Found) -> dict[str, object]:
    """Find the least line, then disk, then processors, with which a task ends in time.

    A tenth of the parties is lost, the others have the usual link. The aggregator's work takes as
    much longer than predicted as it did in the session that ran.
    """
    lost = losing(task)
    steps = [replace(step, aggregator=ran.margin * step.aggregator) for step in phases(lost, costs)]
    row: dict[str, object] = {
        "table": "sizing of the aggregator",
        "parties": task.parties,
        "form": task.form,
        "within_s": TARGET_SECONDS,
        "party_link_mbit": round(USUAL.bits / MEGABIT),
        "disk_gb": round(disk(task) / 1e9, 1),
        "memory_gib": round(memory(lost, costs, connection=ran.connection) / 2**30, 1),
    }
    total = math.inf
    for bits, disk_rate, cores in itertools.product(LINES, DISKS, CORES):
        machine = replace(AGGREGATOR, bits=bits, cores=cores, disk=disk_rate)
        site = at(machine, USUAL, task.parties)
        total = seconds(steps, site)
        if total <= TARGET_SECONDS:
            return {
                **row,
                "line_mbit": round(bits / MEGABIT),
                "disk_mb_per_s": round(disk_rate / 1e6),
                "cores": cores,
                "wall_s": round(total, 1),
                "slowest_party_mbit": slowest(task, steps, site),
            }
    return {**row, "line_mbit": "none will do", "wall_s": round(total, 1)}


def slowest(task: Task, steps: Sequence[Phase], site: Site) -> float:
    """Find the slowest link, in Mbit/s, that one party may have for the task to end in time."""
    low, high = 0.1 * MEGABIT, USUAL.bits
    while high - low > 0.05 * MEGABIT:
        middle = (low + high) / 2
        links = [Link(middle, USUAL.rtt), *[USUAL] * (task.parties - 1)]
        if seconds(steps, replace(site, links=links)) > TARGET_SECONDS:
            low = middle
        else:
            high = middle
    return round(high / MEGABIT, 1)


def cost_rows(costs: Costs) -> list[dict[str, object]]:
    """Show what was measured, at the full size where it depends on one."""
    mapped, outputs, capacity = SHAPE.mapped, SHAPE.outputs, SHAPE.capacity
    numbers = (mapped + outputs) * capacity
    edits = EDITS // SIZES[-1]
    shown = {
        "mask, ns a byte": 1e9 * costs.mask,
        "encode, ns a number": 1e9 * costs.encode,
        "decode, ns a number": 1e9 * costs.decode,
        "frame with SHA-256, ns a byte": 1e9 * costs.frame,
        "send over gRPC and TLS, ns a byte": 1e9 * costs.send,
        "receive, check, write and sync, ns a byte": 1e9 * costs.receive,
        "read, check and add a stored byte, ns": 1e9 * costs.add,
        "small call at a party, ms": 1e3 * costs.call_client,
        "small call at the aggregator, ms": 1e3 * costs.call_server,
        f"sketch and encode {edits} edits, s": costs.bring.at(numbers, numbers * edits),
        "memory of that, MiB": costs.bring_mib,
    }
    fitted = {
        f"rotate {edits} keys, s": (costs.rotate, (mapped**2, mapped**2 * edits)),
        f"turn an update of rank {capacity} back, s": (
            costs.rotate,
            (mapped**2 + outputs**2, (mapped**2 + outputs**2) * capacity),
        ),
        f"size of an update of rank {capacity}, s": (
            costs.check,
            ((mapped + outputs) * capacity**2,),
        ),
        f"merge at m = {capacity}, s": (costs.merge, (mapped * capacity**2, capacity**3)),
        "merge of dense sums, s": (costs.merge_dense, (mapped**3,)),
        "paper: products of a party, s": (costs.paper_products, (mapped**2 * outputs,)),
        "paper: inverse, s": (costs.paper_inverse, (mapped**3,)),
    }
    rows: list[dict[str, object]] = [
        {"table": "measured on one processor", "what": what, "value": float(f"{value:.3g}")}
        for what, value in shown.items()
    ]
    rows += [
        {
            "table": "followed up from smaller sizes",
            "what": what,
            "value": float(f"{fit.at(*terms):.3g}"),
            "fit_misses_by": round(fit.miss, 3),
        }
        for what, (fit, terms) in fitted.items()
    ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="merge at m = 2000 (a minute, 4 GiB)")
    capacities = MERGE_AT + ((SHAPE.capacity,) if parser.parse_args().large else ())
    costs = measure(SHAPE, merge_at=capacities)
    ran = validation(costs)
    tasks = gptj_tasks()
    sketched = [task for task in tasks if task.form != "dense"]
    write_record(
        "links",
        [
            *[sizing_row(task, costs, ran) for task in sketched],
            *wall_rows(tasks, costs),
            *byte_rows(tasks, costs, ran.connection),
            *ran.rows,
            *cost_rows(costs),
        ],
        shape=f"{SHAPE.mapped}x{SHAPE.outputs}",
        capacity=SHAPE.capacity,
        edits=EDITS,
        merges_measured_at=capacities,
        aggregator=f"{AGGREGATOR.bits / GIGABIT:g} Gbit/s, {AGGREGATOR.cores} cores, disk "
        f"{AGGREGATOR.disk / 1e6:g} MB/s",
        party_cores=PARTY_CORES,
        window_bytes=WINDOW,
        liveness_s=Timing().liveness,
        connection_mib=round(ran.connection / MIB, 2),
        sizing_margin=round(ran.margin, 2),
    )


if __name__ == "__main__":
    main()
