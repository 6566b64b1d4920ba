"""Rounds r0 to r2, the key phase, and r3 to r6 with a tiny vector: processor time of both roles.

The real machines exchange encoded packets in this process; nothing waits. Rosters above 32 parties
run with the full graph and with the sparse one that a proposed plan gets. The limit is the public
key cryptography that these rounds cannot do without, timed in the same run with the bare library:
at a party, for each peer one verified signature in each of the three lists, for each neighbour two
X25519 agreements (one for what is sealed in both directions, one for the mask), and the two
polynomials of Shamir's scheme; at the aggregator three verified signatures for each party.
"""

import hashlib
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from plans import create_identities, create_plan
from timing import write_record

from collabedit.aggregator.coordinator import Coordinator
from collabedit.crypto.graph import FULL_GRAPH_PARTIES, plan_neighbourhood
from collabedit.crypto.rng import SystemRandomness
from collabedit.crypto.shamir import split
from collabedit.exchange import contribution_vector, plan_encoding
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.party.contribution import masked_upload
from collabedit.party.task import advance, receive, start_task
from collabedit.proto.codec import decode_packet, encode_packet
from collabedit.proto.envelope import first_chain
from collabedit.proto.messages import Context, Packet
from collabedit.sketch import OVERSAMPLING
from collabedit.threat_model import proposed_corruptions

SIZES = (10, 32, 33, 100, 200)
TASK = TaskIndex(0)
MAPPED = OUTPUTS = 4
BUDGET_SECONDS = 150.0
"""Sizes that would begin later than this are left out, and the record says so."""


def microseconds(call: Callable[[], object], *, repeats: int = 200) -> float:
    values = []
    for _ in range(5):
        started = time.process_time()
        for _ in range(repeats):
            call()
        values.append(time.process_time() - started)
    return 1e6 * statistics.median(values) / repeats


@dataclass
class Clock:
    """Processor seconds of parties (all together) and aggregator, by phase."""

    phase: str = "r0-r2"
    party: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    aggregator: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


class Federation:
    """All machines of one task in this process."""

    def __init__(self, parties: int, directory: Path, *, corruptions: int | None) -> None:
        identities = create_identities(parties)
        self.plan = create_plan(
            identities,
            mapped=MAPPED,
            outputs=OUTPUTS,
            capacity=parties + OVERSAMPLING,
            corruptions=corruptions,
        )
        self.neighbours: list[int] = []
        self.clock = Clock()
        self.coordinator = Coordinator(
            self.plan,
            identities[AGGREGATOR],
            directory=directory,
            randomness=SystemRandomness(),
        )
        chain = first_chain(self.plan.digest, self.coordinator.session_id)
        self._context = Context(self.plan.digest, self.coordinator.session_id, TASK, chain)
        self._identities = identities
        self._states: dict[PartyId, s.State] = {}
        self._cursor = 0
        rng = np.random.default_rng(parties)
        self._vectors = {
            party: plan_encoding(self.plan).encode(
                contribution_vector(
                    self.plan, TASK, [(rng.normal(size=(MAPPED, 1)), rng.normal(size=(OUTPUTS, 1)))]
                )
            )
            for party in self.plan.party_ids
        }

    def run(self) -> None:
        """Take the task from the first advertisement to the last verification."""
        outbound: list[Packet] = []
        for party in self.plan.party_ids:
            setup = s.TaskSetup(
                self.plan, self._context, party, self._identities[party], SystemRandomness()
            )
            outbound += self._step(party, partial(start_task, setup))
        while not self.coordinator.finished:
            self._deliver(outbound)
            outbound = []
            if self.coordinator.round_name == "r5-open":
                with self._charging(self.clock.aggregator):
                    self.coordinator.open_pending()
            for party in self.plan.party_ids:
                outbound += self._collect(party)
            self._cursor += 1
            if self.coordinator.round_name.startswith("r3"):
                self.clock.phase = "r3-r6"
        for party in self.plan.party_ids:
            self._collect(party)
            if not isinstance(self._states[party], s.Completed):
                raise TypeError(f"party {party} ended as {type(self._states[party]).__name__}")

    def _deliver(self, packets: list[Packet]) -> None:
        for packet in packets:
            data = encode_packet(packet)
            with self._charging(self.clock.aggregator):
                self.coordinator.deliver(decode_packet(data))

    def _collect(self, party: PartyId) -> list[Packet]:
        with self._charging(self.clock.aggregator):
            packets = self.coordinator.mailbox(party, cursor=self._cursor)
            encoded = [encode_packet(packet) for packet in packets]
        outbound: list[Packet] = []
        for data in encoded:
            outbound += self._step(
                party,
                lambda data=data: receive(self._states[party], decode_packet(data)),  # type: ignore[misc]
            )
        state = self._states[party]
        if isinstance(state, s.Contributing):
            upload = masked_upload(self.plan, TASK, self._vectors[party], state.masks)
            for frame in upload.frames():
                self.coordinator.put_frame(party, TASK, frame)
            outbound += self._step(party, lambda: advance(state, upload.uploaded()))
        elif isinstance(state, s.FetchingUpdate):
            digest = hashlib.sha256(self.coordinator.bundle(TASK)).digest()
            outbound += self._step(party, lambda: advance(state, s.UpdateFetched(digest)))
        return outbound

    def _step(self, party: PartyId, call: Callable[[], s.Step]) -> tuple[Packet, ...]:
        with self._charging(self.clock.party):
            step = call()
        if isinstance(step.state, s.Aborted):
            raise TypeError(f"party {party} aborted: {step.state.detail}")
        self._states[party] = step.state
        if isinstance(step.state, s.AwaitingConfirmations):
            self.neighbours.append(len(step.state.neighbours))
        return step.outbound

    @contextmanager
    def _charging(self, account: defaultdict[str, float]) -> Iterator[None]:
        started = time.process_time()
        yield
        account[self.clock.phase] += time.process_time() - started


def floors() -> dict[str, float]:
    """Microseconds of the bare operations."""
    signer = Ed25519PrivateKey.generate()
    message = b"m" * 200
    signature, public = signer.sign(message), signer.public_key()
    private, other = X25519PrivateKey.generate(), X25519PrivateKey.generate().public_key()
    return {
        "verify": microseconds(lambda: public.verify(signature, message)),
        "agree": microseconds(lambda: private.exchange(other)),
    }


def rows_of(
    parties: int, corruptions: int | None, bare: dict[str, float]
) -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as directory:
        federation = Federation(parties, Path(directory), corruptions=corruptions)
        federation.run()
    graph = plan_neighbourhood(federation.plan, parties, task=TaskIndex(0))
    abscissas = tuple(federation.plan.party_ids)[: graph.degree + 1]
    shamir = microseconds(
        lambda: split(
            bytes(31) + b"\1",
            threshold=graph.threshold,
            abscissas=abscissas,
            randomness=SystemRandomness(),
        ),
        repeats=5,
    )
    clock = federation.clock
    neighbours = statistics.mean(federation.neighbours)
    verified, agreed = 3 * (parties - 1) * bare["verify"], 2 * neighbours * bare["agree"]
    floor = {
        "party": (verified + agreed + 2 * shamir) / 1e3,
        "aggregator": 3 * parties * bare["verify"] / 1e3,
    }
    rows: list[dict[str, object]] = []
    for role, account, heads in (
        ("party", clock.party, parties),
        ("aggregator", clock.aggregator, 1),
    ):
        key_phase = 1e3 * account["r0-r2"] / heads
        rows.append(
            {
                "parties": parties,
                "graph": "full" if graph.degree == parties - 1 else "sparse",
                "degree": graph.degree,
                "neighbours": round(neighbours, 1),
                "role": role,
                "key_phase_ms": round(key_phase, 2),
                "limit_ms": round(floor[role], 2),
                "ratio_to_limit": round(key_phase / floor[role], 2),
                "r3_to_r6_ms": round(1e3 * account["r3-r6"] / heads, 2),
            }
        )
    return rows


def main() -> None:
    bare = floors()
    began = time.monotonic()
    rows: list[dict[str, object]] = []
    left_out: list[tuple[int, int | None]] = []
    cases = [
        (parties, corruptions)
        for parties in SIZES
        for corruptions in (None, proposed_corruptions(parties))
        if corruptions is None or parties > FULL_GRAPH_PARTIES
    ]
    for parties, corruptions in cases:
        if time.monotonic() - began > BUDGET_SECONDS:
            left_out.append((parties, corruptions))
            continue
        repeats = 3 if parties <= 100 else 1
        measured = [rows_of(parties, corruptions, bare) for _ in range(repeats)]
        for runs in zip(*measured, strict=True):
            rows.append(
                sorted(runs, key=lambda row: float(str(row["key_phase_ms"])))[len(runs) // 2]
            )
            rows[-1]["runs"] = len(runs)
    write_record(
        "protocol",
        rows,
        left_out_for_time=left_out,
        verify_us=round(bare["verify"], 1),
        agree_us=round(bare["agree"], 1),
    )


if __name__ == "__main__":
    main()
