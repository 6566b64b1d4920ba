"""One real session that forks: what happened so far is shared, everything after it is run.

A session of a hundred parties costs seconds of signatures before the first party can be lost in a
late round. So one honest session runs in this process, and at each moment of the protocol the
process forks once for each case that starts there. A branch owns a copy of every state, of every
packet in flight and of the spool files, loses its parties, and runs the same code to the end. There
is no copy of a state by hand and no path that the deployed session does not take.

A lost party's messages of that moment are taken out of the network, and it answers nothing after:
the same as `Faults.crash_before`, which withholds them.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collabedit.aggregator.states import CollectingOpening
from collabedit.crypto.ring import RingArray
from collabedit.exchange import FRAME_HEADER, TileLayout
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.party.contribution import contributed_vector
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_packet
from collabedit.recording import Delivery
from collabedit.simulation import Simulation

MOMENTS: Mapping[str, str] = {
    "r0": "before its Advertise",
    "r1": "before its ShareKeys",
    "r2": "before its Confirm",
    "r3-none": "before the first frame of its upload",
    "r3-half": "half-way through its upload",
    "r3-all": "after its upload, before its Contribute",
    "r4": "before its ConfirmSurvivors",
    "r5": "before its Unmask",
    "r6": "before its VerifyUpdate",
}
"""When a party falls silent. The name starts with the round."""

ENCRYPTED_MOMENTS: Mapping[str, str] = {
    **{name: when for name, when in MOMENTS.items() if name < "r5"},
    "r5-none": "before the opener's first frame of what it opened",
    "r5-all": "after the opener's upload, before its SumOpened",
    "r6": MOMENTS["r6"],
}
"""The same with encrypted sums, in whose r5 the opener alone says something."""

_STATEMENTS = {
    m.KINDS[m.Advertise]: ("r0",),
    m.KINDS[m.ShareKeys]: ("r1",),
    m.KINDS[m.Confirm]: ("r2",),
    m.KINDS[m.Contribute]: ("r3-all",),
    m.KINDS[m.ConfirmSurvivors]: ("r4",),
    m.KINDS[m.Unmask]: ("r5",),
    m.KINDS[m.SumOpened]: ("r5-all",),
    m.KINDS[m.VerifyUpdate]: ("r6",),
}


@dataclass(frozen=True, slots=True)
class Case:
    """Who falls silent, and when.

    Attributes:
        moment: a key of `MOMENTS`.
        lost: the parties.
    """

    moment: str
    lost: frozenset[PartyId]


def moments_of(delivery: Delivery) -> tuple[str, ...]:
    """Return the moments that end when this reaches the aggregator."""
    if delivery.kind == "frame":
        return ("r3-none", "r3-half")
    return _STATEMENTS.get(decode_packet(delivery.data).envelope.kind, ())


def transcript_digest(transcript: Sequence[Delivery]) -> str:
    """Digest everything that crossed the network, in order, as hex SHA-256."""
    digest = hashlib.sha256()
    for delivery in transcript:
        head = f"{delivery.sender} {delivery.receiver} {delivery.kind} {len(delivery.data)}\n"
        digest.update(head.encode() + delivery.data)
    return digest.hexdigest()


@dataclass
class Branches:
    """Forks the process for each case, a few at a time, and collects what the branches report.

    Attributes:
        cases: every case of this session.
        jobs: branches that run at once.
        case: in a branch its own case; None in the trunk.
        started: when this branch began, by the monotonic clock.
    """

    cases: Sequence[Case]
    jobs: int
    case: Case | None = None
    started: float = 0.0
    _running: dict[int, tuple[Case, Path]] = field(default_factory=dict)
    _results: list[tuple[Case, dict[str, object]]] = field(default_factory=list)

    def fork_at(self, moment: str) -> Case | None:
        """Fork for each case of `moment`; return the case in a branch, None in the trunk."""
        for case in self.cases:
            if case.moment != moment:
                continue
            self._wait(self.jobs - 1)
            place = Path(tempfile.mkdtemp(prefix="branch-", dir="..")).resolve()
            shutil.copytree("spool", place / "spool")
            sys.stdout.flush()
            sys.stderr.flush()
            child = os.fork()
            if child == 0:
                # Spool files are opened by relative paths: from here on they are the copies.
                os.chdir(place)
                self.case, self.started = case, time.monotonic()
                return case
            self._running[child] = (case, place)
        return None

    def _wait(self, at_most: int) -> None:
        while len(self._running) > at_most:
            child, status = os.wait()
            case, place = self._running.pop(child)
            result = place / "result.json"
            if result.exists():
                self._results.append((case, json.loads(result.read_text(encoding="utf-8"))))
            else:
                died = f"the branch ended with status {os.waitstatus_to_exitcode(status)}"
                self._results.append((case, {"failures": [died]}))
            shutil.rmtree(place)

    def results(self) -> list[tuple[Case, dict[str, object]]]:
        """Wait for all branches; each with what it reported."""
        self._wait(0)
        return self._results

    def end(self, report: Callable[[], dict[str, object]]) -> None:
        """In a branch: write what `report` returns, and end this process."""
        try:
            text = json.dumps(report())
        except BaseException:  # noqa: BLE001  the trunk prints it
            text = json.dumps({"failures": [traceback.format_exc()]})
        Path("result.json").write_text(text, encoding="utf-8")
        os._exit(0)


class RecordingSimulation(Simulation):
    """A simulation that keeps what each party contributes, before masks or encryption."""

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401  those of its base
        super().__init__(*arguments, **named)
        self.contributed: dict[PartyId, RingArray] = {}

    def _upload(
        self,
        task: TaskIndex,
        party: PartyId,
        state: s.Contributing,
        brought: bytes | memoryview,
    ) -> None:
        self.contributed[party] = contributed_vector(state.setup, brought, state.group_secret)
        super()._upload(task, party, state, brought)


class BranchingSimulation(RecordingSimulation):
    """A simulation whose process forks when the first answer of each moment arrives.

    By then every party's answer of that moment is in flight, for without delays all of them were
    sent before the first arrives.
    """

    branches: Branches
    _passed: frozenset[str] = frozenset()
    _lost: frozenset[PartyId] = frozenset()

    def _to_aggregator(self, delivery: Delivery) -> None:
        for moment in self._moments_of(delivery):
            if moment in self._passed or self.branches.case is not None:
                continue
            self._passed |= {moment}
            case = self.branches.fork_at(moment)
            if case is not None:
                self._lose(case, delivery)
        if delivery.sender in self._lost and not self._was_sent(delivery):
            self._transcript.pop()
            return
        super()._to_aggregator(delivery)

    def _moments_of(self, delivery: Delivery) -> tuple[str, ...]:
        if delivery.kind == "frame" and isinstance(self.coordinator.state, CollectingOpening):
            return ("r5-none",)
        return moments_of(delivery)

    def _was_sent(self, delivery: Delivery) -> bool:
        """Whether a lost party sent this before it fell silent."""
        case = self.branches.case
        if case is None:
            return True
        if case.moment != "r3-half" or delivery.kind != "frame":
            return False
        _, index, _, _ = FRAME_HEADER.unpack_from(delivery.data)
        return bool(index < TileLayout.of(self._plan, TaskIndex(0)).tiles // 2)

    def _lose(self, case: Case, arriving: Delivery) -> None:
        self._lost = case.lost
        in_flight = [arriving, *(delivery for _, _, delivery in self._queue)]
        unsent = {d.sender for d in in_flight if d.sender in case.lost and not self._was_sent(d)}
        # In r5 of an encrypted sum the opener alone has something to say.
        speaking = {arriving.sender} if case.moment.startswith("r5-") else case.lost
        assert unsent == case.lost & speaking, "a party had not come to this moment"
        assert all(d.receiver == AGGREGATOR for d in in_flight)
        for party in case.lost:
            self._parties[party].silent = True
