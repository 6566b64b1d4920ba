"""Tasks of `session_model`, with what real sessions of as many parties say and compute."""

import statistics
import tempfile
from pathlib import Path

from bench_protocol import Federation
from plans import create_identities, create_plan
from session_model import Computing, Form, Task
from traffic import count
from unit_costs import Shape

from collabedit.threat_model import proposed_corruptions


def computing(parties: int, corruptions: int | None) -> Computing:
    """Run the control rounds of a task in this process, and see what they cost."""
    with tempfile.TemporaryDirectory(prefix="collabedit-") as folder:
        federation = Federation(parties, Path(folder), corruptions=corruptions)
        federation.run()
    clock = federation.clock
    return Computing(
        neighbours=statistics.mean(federation.neighbours),
        party_keys=clock.party["r0-r2"] / parties,
        aggregator_keys=clock.aggregator["r0-r2"],
        party_after=clock.party["r3-r6"] / parties,
        aggregator_after=clock.aggregator["r3-r6"],
    )


def task_of(parties: int, form: Form, *, shape: Shape, dropouts: int, edits: int) -> Task:
    """Describe a task, from a real session of as many parties."""
    closed = form == "closed"
    corruptions = proposed_corruptions(parties) if form == "open" else None
    plan = create_plan(
        create_identities(parties),
        mapped=shape.mapped,
        outputs=shape.outputs,
        capacity=shape.capacity,
        corruptions=corruptions,
        closed=closed,
        statistics="dense" if form == "dense" else "sketch",
    )
    control = count(parties, closed=closed, corruptions=corruptions, dropouts=parties // 10)
    return Task(plan, form, parties, dropouts, edits, control, computing(parties, corruptions))
