"""Files of a federation without a model, and its processes at the ends of a `Lab`."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from collabedit.ids import PartyId
from collabedit.plan import Plan
from collabedit.simulation import Faults
from tests.network.lab import AGGREGATOR_ADDRESS, Lab, Shape
from tests.support.federations import TestFederation, build_federation
from tests.support.standins import PROGRAM, lay_out

ROOT = Path(__file__).parents[2]
HUB_END = "agg"
PORT = 7443
LAYERS = 2
CAPACITY = 256
"""Makes a contribution of 139,264 bytes in 34 tiles."""

TIMING = {"join": 60.0, "compute": 60.0, "round": 45.0, "upload": 90.0, "liveness": 15.0}
PATIENCE = 60.0
SESSION_SECONDS = 240.0
_POLL_SECONDS = 0.01


def party_end(party: int) -> str:
    return f"p{party}"


def create_federation(parties: int) -> TestFederation:
    """Make a federation whose deadlines fit links that are slow and cut."""
    built = build_federation(parties, layers=LAYERS, capacity=CAPACITY)
    plan = Plan.model_validate({**built.plan.model_dump(), "timing": TIMING})
    return TestFederation(plan, built.identities, built.edits)


def expected_sums(
    federation: TestFederation, directory: Path, *, lost: int | None = None, task: int = 0
) -> list[str]:
    """Return the digests of the sums that the in-memory simulation opens over the same edits.

    Args:
        federation: the federation.
        directory: for the simulated aggregator's files.
        lost: a party that falls silent in r3 of `task`.
        task: see `lost`.
    """
    faults = None
    if lost is not None:
        faults = Faults(crash_before={PartyId(lost): "r3"}, crash_task=task)  # type: ignore[arg-type]
    outcome = federation.simulation(directory, faults=faults).run(federation.contribute)
    assert len(outcome.records) == LAYERS
    return [f"sha256:{record.sum_digest.hex()}" for record in outcome.records]


@dataclass(slots=True)
class Running:
    """A process at an end, and its log of JSON lines."""

    end: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = self.log.read_text(errors="replace").split("\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def has(self, event: str, **fields: object) -> bool:
        return any(e["event"] == event and fields.items() <= e.items() for e in self.events)

    def await_event(self, event: str, **fields: object) -> None:
        """Return once this has been logged."""
        deadline = time.monotonic() + SESSION_SECONDS
        while not self.has(event, **fields):
            ended = self.process.poll() is not None and not self.has(event, **fields)
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"no {event} {fields} at {self.end}:\n{self.log.read_text()}")
            time.sleep(_POLL_SECONDS)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


@dataclass
class Session:
    """An aggregator and all parties in their namespaces. Leaving the context kills what runs."""

    directory: Path
    parties: int
    mechanism: str
    shapes: dict[str, Shape] = field(default_factory=dict)
    patience: float = PATIENCE
    running: dict[int, Running] = field(default_factory=dict)
    started: float = 0.0

    def __enter__(self) -> Self:
        self.federation = create_federation(self.parties)
        self.stands = lay_out(self.directory / "files", self.federation, hosts=[AGGREGATOR_ADDRESS])
        ends = [HUB_END, *(party_end(party) for party in self.party_numbers)]
        self.lab = Lab({end: self.shapes.get(end, Shape()) for end in ends}, self.mechanism)
        self.lab.__enter__()
        try:
            self.start_aggregator()
            self.started = time.monotonic()
            for party in self.party_numbers:
                self.running[party] = self._start_party(party)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for running in (self.aggregator, *self.running.values()):
            running.kill()
        self.lab.__exit__(*exception)

    @property
    def party_numbers(self) -> range:
        return range(1, self.parties + 1)

    def start_aggregator(self) -> None:
        """Start it, or start it again over the same state."""
        port_file = self.directory / "port"
        port_file.unlink(missing_ok=True)
        command = [
            *(*PROGRAM, "aggregator", "serve", *self.stands.credentials("aggregator")),
            *("--state", str(self.directory / "state"), "--port-file", str(port_file)),
            *("--listen", f"{AGGREGATOR_ADDRESS}:{PORT}", "--linger", "20", "--json-logs"),
        ]
        self.aggregator = self._start(HUB_END, command)
        deadline = time.monotonic() + SESSION_SECONDS
        while not port_file.exists():
            if self.aggregator.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(self.aggregator.log.read_text())
            time.sleep(_POLL_SECONDS)

    def _start_party(self, party: int) -> Running:
        name = self.name(party)
        command = [
            *self.stands.worker(name, work=self.directory / name),
            *("--connect", f"{AGGREGATOR_ADDRESS}:{PORT}", "--patience", str(self.patience)),
        ]
        return self._start(party_end(party), command)

    def _start(self, end: str, command: Sequence[str]) -> Running:
        log = self.directory / f"{end}.log"
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [*self.lab.enter(end), *command],
                cwd=ROOT,
                env={**os.environ, "COLUMNS": "100", "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        return Running(end, process, log)

    def wait(self, parties: Sequence[int] | None = None) -> float:
        """Wait until these parties' processes end; return the seconds since all were started."""
        deadline = self.started + SESSION_SECONDS
        for party in parties or self.party_numbers:
            running = self.running[party]
            try:
                running.process.wait(max(1.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                logs = [other.log for other in (self.aggregator, *self.running.values())]
                text = "\n".join(f"--- {log.name}\n{log.read_text()}" for log in logs)
                raise AssertionError(f"{running.end} does not end\n{text}") from None
        return time.monotonic() - self.started

    def last(self, party: int) -> dict[str, Any]:
        """Return what a party said at its end."""
        return self.running[party].events[-1]

    def name(self, party: int) -> str:
        return self.federation.plan.party_name(PartyId(party))

    def tasks(self, party: int) -> list[dict[str, Any]]:
        """Return what a party reports of each task; it must have finished."""
        assert self.last(party)["event"] == "finished", self.running[party].log.read_text()
        report = json.loads((self.directory / self.name(party) / "report.json").read_text())
        tasks: list[dict[str, Any]] = report["tasks"]
        return tasks
