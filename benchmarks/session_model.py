"""How long one task of a session takes over given links, phase by phase, from measured parts.

A phase is work at the parties, a transfer to the aggregator, work there, and a transfer back; in an
upload and a download these overlap. Bytes come from `traffic` and the plan's layout, seconds of
processors from `unit_costs`, times of transfers from `star`. A phase ends when its last party is
done, as rounds do.

Not modelled: lost packets, other traffic, several tasks at once, searching the targets and
applying the update (they need the model, and no aggregator), and that a processor with more cores
may be slower in each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from star import Flow, Link, finish
from traffic import Round
from unit_costs import Costs, Shape

from collabedit.ahead import MOST_THREADS
from collabedit.exchange import FRAME_OVERHEAD, TileLayout, bundle_limit
from collabedit.ids import TaskIndex
from collabedit.plan import Plan, Timing
from collabedit.sketch import OVERSAMPLING

TASK = TaskIndex(0)

Form: TypeAlias = Literal["closed", "open", "dense"]

ROUNDS_OF_KEYS: Final = ("r0", "r1", "r2")
ROUNDS_AFTER: Final = ("r3", "r4", "r5", "r6")


@dataclass(frozen=True)
class Computing:
    """Seconds of one processor for control messages, with the real machines.

    Attributes:
        neighbours: of a party, with whom it shares masks.
        party_keys: of a party in r0 to r2.
        aggregator_keys: of the aggregator.
        party_after: of a party in r3 to r6.
        aggregator_after: of the aggregator.
    """

    neighbours: float
    party_keys: float
    aggregator_keys: float
    party_after: float
    aggregator_after: float


@dataclass(frozen=True)
class Task:
    """What is to be done.

    Attributes:
        plan: with the layer, of any number of parties.
        form: of the sums.
        parties: N.
        dropouts: parties that vanish when uploads begin.
        edits: of a party.
        control: messages of each round.
        computing: for them.
    """

    plan: Plan
    form: Form
    parties: int
    dropouts: int
    edits: int
    control: Mapping[str, Round]
    computing: Computing

    @property
    def shape(self) -> Shape:
        """The layer's."""
        (layer,) = self.plan.editing.layers
        return Shape(layer.mapped, layer.outputs, self.plan.aggregation.capacity)

    @property
    def survivors(self) -> int:
        """Whose contributions are summed."""
        return self.parties - self.dropouts

    @property
    def rank(self) -> int:
        """Of the update: as many as there are edits."""
        return min(self.survivors * self.edits, self.shape.capacity - OVERSAMPLING)

    @property
    def stored(self) -> int:
        """Bytes of one party's upload on the aggregator's disk."""
        layout = TileLayout.of(self.plan, TASK)
        return layout.elements * layout.element_bytes

    @property
    def upload(self) -> int:
        """Bytes of one party's frames."""
        return self.stored + TileLayout.of(self.plan, TASK).tiles * FRAME_OVERHEAD

    @property
    def bundle(self) -> int:
        """Bytes of the released update."""
        unused = self.plan.rank_limit - self.rank
        return bundle_limit(self.plan, TASK) - 8 * unused * (self.shape.mapped + self.shape.outputs)

    @property
    def masks_of_sum(self) -> float:
        """Keystreams of a whole vector that the aggregator takes off the sum."""
        others = self.parties - 1
        lost = self.dropouts * self.computing.neighbours * self.survivors / others
        return self.survivors + lost


@dataclass(frozen=True, slots=True)
class Phase:
    """One step of a task.

    Attributes:
        name: for people.
        party: seconds of one processor, of each party.
        aggregator: seconds of one processor.
        up: bytes from each party.
        down: bytes to each party.
        trips: round-trip times that pass without a transfer.
        senders: parties that take part.
        party_threads: processors that a party's work can use.
        threads: that the aggregator's work can use.
        streams: work and transfers overlap.
        waits: seconds at least, whatever the parties do.
        reads: bytes that come from the aggregator's disk meanwhile.
    """

    name: str
    party: float = 0.0
    aggregator: float = 0.0
    up: float = 0.0
    down: float = 0.0
    trips: float = 0.0
    senders: int = 0
    party_threads: int = 1
    threads: int = 1
    streams: bool = False
    waits: float = 0.0
    reads: float = 0.0


MANY: Final = 1 << 10
"""Calls of parties are served beside each other, by as many processors as there are."""


def phases(task: Task, costs: Costs) -> list[Phase]:
    """List what one task consists of, in order."""
    shape, parts, survivors = task.shape, task.computing, task.survivors
    elements = task.stored / 8
    numbers = (shape.mapped + shape.outputs) * shape.capacity
    prepare = costs.bring.at(numbers, numbers * task.edits)
    check = costs.check.at((shape.mapped + shape.outputs) * task.rank**2)
    if task.form == "closed":
        # What it brings is checked in the model's coordinates, and sketched again in the secret
        # basis; in `hold` the size of two pairs of factors counts beside that of the bundle.
        prepare = 2 * prepare + _turn(shape, task.edits, costs)
        check = 3 * check + _turn(shape, task.rank, costs)
    keys = [
        _control(
            task,
            name,
            costs,
            party=parts.party_keys / len(ROUNDS_OF_KEYS),
            aggregator=parts.aggregator_keys / len(ROUNDS_OF_KEYS),
            senders=task.parties,
        )
        for name in ROUNDS_OF_KEYS
    ]
    after = {
        name: _control(
            task,
            name,
            costs,
            party=parts.party_after / len(ROUNDS_AFTER),
            aggregator=parts.aggregator_after / len(ROUNDS_AFTER),
            senders=survivors,
        )
        for name in ROUNDS_AFTER
    }
    masking = costs.mask * (parts.neighbours + 1) + costs.frame + costs.send
    return [
        Phase("statistics", party=prepare, senders=task.parties),
        *keys,
        Phase(
            "upload",
            party=task.stored * masking,
            aggregator=survivors * task.stored * costs.receive,
            up=task.upload,
            trips=2,  # which tiles are there already, and the last one's receipt
            senders=survivors,
            party_threads=MOST_THREADS,
            threads=MANY,
            streams=True,
            waits=Timing().liveness if task.dropouts else 0.0,
        ),
        after["r3"],
        after["r4"],
        after["r5"],
        Phase(
            "open",
            aggregator=task.stored * (survivors * costs.add + task.masks_of_sum * costs.mask),
            threads=MOST_THREADS,
            reads=survivors * task.stored,
        ),
        Phase("merge", aggregator=elements * costs.decode + _merge(task, costs)),
        Phase(
            "download",
            party=task.bundle * costs.receive,
            aggregator=survivors * task.bundle * costs.send,
            down=task.bundle,
            trips=1,
            senders=survivors,
            threads=MANY,
            streams=True,
        ),
        Phase("check", party=check, senders=survivors),
        after["r6"],
    ]


def _turn(shape: Shape, columns: int, costs: Costs) -> float:
    sizes = (shape.mapped, shape.outputs)
    return sum(costs.rotate.at(size**2, size**2 * columns) for size in sizes)


def _merge(task: Task, costs: Costs) -> float:
    shape = task.shape
    if task.form == "dense":
        return costs.merge_dense.at(shape.mapped**3)
    return costs.merge.at(shape.mapped * shape.capacity**2, shape.capacity**3)


def _control(
    task: Task, name: str, costs: Costs, *, party: float, aggregator: float, senders: int
) -> Phase:
    sizes = task.control[name]
    return Phase(
        name,
        party=party + 2 * costs.call_client,  # one to deliver, one to collect
        aggregator=aggregator + 2 * senders * costs.call_server,
        up=sizes.up,
        down=sizes.down,
        senders=senders,
    )


@dataclass(frozen=True, slots=True)
class Site:
    """The machines and the lines between them.

    Attributes:
        links: of each party.
        bits: per second, of the aggregator's line, each way.
        party_cores: of each party.
        cores: of the aggregator.
        disk: bytes per second that the aggregator's takes or gives.
    """

    links: Sequence[Link]
    bits: float
    party_cores: int
    cores: int
    disk: float


def wall(phase: Phase, site: Site) -> float:
    """Return the seconds that a phase takes."""
    links = site.links[: phase.senders]
    line = Link(site.bits, 0.0).rate
    own = phase.party / min(phase.party_threads, site.party_cores)
    # As if nothing of the uploads were still in the system's cache.
    theirs = max(phase.aggregator / min(phase.threads, site.cores), phase.reads / site.disk)
    if not phase.streams:
        there = _transfer(phase.up, links, line, [link.rate for link in links])
        back = _transfer(phase.down, links, line, [link.rate for link in links])
        trips = phase.trips * max((link.rtt for link in links), default=0.0)
        return max(own + there + theirs + back + trips, phase.waits)
    size = phase.up or phase.down
    # Nobody sends faster than it masks, nor the aggregator takes more than it hashes and writes.
    rates = [min(link.rate, size / own if own else link.rate) for link in links]
    most = min(line, len(links) * size / theirs if theirs else line)
    if phase.up:
        most = min(most, site.disk)
    moving = _transfer(size, links, most, rates)
    return max(moving + phase.trips * max(link.rtt for link in links), phase.waits)


def _transfer(size: float, links: Sequence[Link], line: float, rates: Sequence[float]) -> float:
    if not size or not links:
        return 0.0
    flows = [
        Flow(link.rtt / 2 + link.slow_start(size), size, rate)
        for link, rate in zip(links, rates, strict=True)
    ]
    return max(finish(flows, capacity=line))


def on_one_machine(phase: Phase, *, cores: float, rates: Sequence[float] = ()) -> float:
    """Return the seconds of a phase if all ends share a machine: all processor time over `cores`.

    Args:
        phase: which.
        cores: of the machine, as far as it is free.
        rates: bytes per second to which uploads are held, of each party; none are.
    """
    busy = (phase.senders * phase.party + phase.aggregator) / cores
    if not (rates and phase.up and phase.streams):
        return busy
    return max(busy, *finish([Flow(0.0, phase.up, rate) for rate in rates]))


def memory(task: Task, costs: Costs, *, connection: float) -> float:
    """Return the most bytes that an aggregator's process holds.

    Args:
        task: which.
        costs: for the merge.
        connection: bytes of a party's connection.
    """
    shape, elements = task.shape, task.stored / 8
    sums = 16 * elements  # in the ring, and decoded
    if task.form == "dense":
        # S made whole, its eigenvectors, a copy that LAPACK works on.
        return task.parties * connection + sums + 3 * 8 * shape.mapped**2
    omega = 8 * shape.mapped * shape.capacity
    merge = costs.merge_memory.at(shape.mapped * shape.capacity, shape.capacity**2)
    return task.parties * connection + sums + omega + merge + task.bundle


def disk(task: Task) -> int:
    """Return the bytes that lie on the aggregator's disk at most: all uploads, and the update."""
    return task.parties * task.stored + task.bundle


def paper_upload(shape: Shape) -> int:
    """Return the bytes that a party of the CollabEdit paper sends: S in float64, ΔW in float32."""
    return 8 * shape.mapped**2 + 4 * shape.mapped * shape.outputs


def paper_phases(shape: Shape, parties: int, costs: Costs) -> list[Phase]:
    """List the paper's rule over the same transport, in the clear: no masks, no check, no dropouts.

    The merge is Σ ΔWᵢ(I + Sᵢ) and a product with the explicit inverse (`bench_merge.py`). What a
    party computes is left out.
    """
    size, update = paper_upload(shape), 4 * shape.mapped * shape.outputs
    products = costs.paper_products.at(shape.mapped**2 * shape.outputs)
    return [
        Phase(
            "upload",
            party=size * costs.send,
            aggregator=parties * size * costs.receive,
            up=size,
            trips=2,
            senders=parties,
            threads=MANY,
            streams=True,
        ),
        Phase(
            "merge",
            aggregator=(parties + 1) * products + costs.paper_inverse.at(shape.mapped**3),
        ),
        Phase(
            "download",
            party=update * costs.receive,
            aggregator=parties * update * costs.send,
            down=update,
            trips=1,
            senders=parties,
            threads=MANY,
            streams=True,
        ),
    ]
