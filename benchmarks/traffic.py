"""What the messages of a real session weigh, counted as they cross the simulated network.

Parties and aggregator are the deployed machines (`collabedit.simulation`), every packet passes the
wire codec. Only the vector is tiny: what depends on its length, the frames of an upload and the
update, follows from the plan's own layout; all other messages have the same bytes with any vector.
"""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from plans import create_identities, create_plan

from collabedit.crypto.rng import SystemRandomness
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.proto.codec import decode_packet
from collabedit.simulation import Faults, Simulation
from collabedit.sketch import OVERSAMPLING, Matrix

MAPPED = OUTPUTS = 4


@dataclass(frozen=True, slots=True)
class Round:
    """The control messages of one round.

    Attributes:
        up: bytes of the largest message of a party.
        down: bytes of the largest answer to a party.
        total: bytes of all messages, both ways.
        messages: how many.
    """

    up: int
    down: int
    total: int
    messages: int


def count(
    parties: int,
    *,
    closed: bool,
    corruptions: int | None,
    dropouts: int,
    mapped: int = MAPPED,
) -> dict[str, Round]:
    """Run a session of one task and weigh its control messages, by round: `r0` to `r6`.

    Args:
        parties: N.
        closed: whether sums are closed, which takes the full graph.
        corruptions: of a sparse graph, None for the full one.
        dropouts: parties that send nothing from the end of their upload on.
        mapped: d'.

    Raises:
        RuntimeError: the session did not end well.
    """
    identities = create_identities(parties)
    plan = create_plan(
        identities,
        mapped=mapped,
        outputs=OUTPUTS,
        capacity=parties + OVERSAMPLING,
        corruptions=corruptions,
        closed=closed,
    )
    rng = np.random.default_rng(parties)

    def contribute(_party: PartyId, _task: TaskIndex) -> list[tuple[Matrix, Matrix]]:
        return [(rng.normal(size=(mapped, 1)), rng.normal(size=(OUTPUTS, 1)))]

    with tempfile.TemporaryDirectory(prefix="collabedit-") as folder:
        outcome = Simulation(
            plan,
            identities=identities,
            directory=Path(folder),
            randomness={member: SystemRandomness() for member in (AGGREGATOR, *plan.party_ids)},
            faults=Faults(crash_before={PartyId(1 + i): "r3" for i in range(dropouts)}),
        ).run(contribute)
    if outcome.aborted is not None or len(outcome.records[0].survivors) != parties - dropouts:
        raise RuntimeError("the session that was to be counted did not end as it should")
    heaviest: defaultdict[tuple[str, bool], int] = defaultdict(int)
    total: Counter[str] = Counter()
    messages: Counter[str] = Counter()
    for delivery in outcome.transcript:
        if delivery.kind != "packet":
            continue
        # The tens digit of a kind is the round, plus one; 90 tells who is late that it is out.
        tens = decode_packet(delivery.data).envelope.kind // 10
        if tens > 7:
            continue
        name, size = f"r{tens - 1}", len(delivery.data)
        place = name, delivery.receiver == AGGREGATOR
        heaviest[place] = max(heaviest[place], size)
        total[name] += size
        messages[name] += 1
    return {
        name: Round(heaviest[name, True], heaviest[name, False], total[name], messages[name])
        for name in sorted(total)
    }


def control_bytes(rounds: Mapping[str, Round]) -> int:
    """Add up all rounds, both ways."""
    return sum(each.total for each in rounds.values())
