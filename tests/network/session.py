"""Files of a federation without a model, and its processes at the ends of a `Lab`."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from collabedit.crypto.certificates import create_authority, issue_certificate
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.plan import load_plan
from collabedit.simulation import Faults
from tests.network.lab import AGGREGATOR_ADDRESS, Lab, Shape
from tests.support.federations import TestFederation, build_federation, plan_text

ROOT = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-c", "from collabedit.cli import main; main()")
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


def write_federation(directory: Path, parties: int) -> TestFederation:
    """Write plan, keys and certificates of a federation that `read_federation` rebuilds."""
    directory.mkdir(parents=True)
    federation = build_federation(parties, layers=LAYERS, capacity=CAPACITY)
    text = plan_text(parties, identities=federation.identities, layers=LAYERS, capacity=CAPACITY)
    timing = "\n".join(f"{name} = {value}" for name, value in TIMING.items())
    (directory / "plan.toml").write_text(f"{text}\n[timing]\n{timing}\n")
    authority = create_authority("network tests")
    (directory / "ca.pem").write_bytes(authority.certificate_pem)
    names = [federation.plan.party_name(party) for party in federation.plan.party_ids]
    for name in ("aggregator", *names):
        hosts = [AGGREGATOR_ADDRESS] if name == "aggregator" else []
        issued = issue_certificate(authority, name=name, hosts=hosts, lifetime_days=2)
        (directory / f"{name}.pem").write_bytes(issued.certificate_pem)
        _write_private(directory / f"{name}-key.pem", issued.key_pem)
    _write_private(directory / "identity.pem", federation.identities[AGGREGATOR].to_pem())
    return read_federation(directory)


def _write_private(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)


def read_federation(directory: Path) -> TestFederation:
    """Rebuild the federation: its edits and identities come from seeds, its plan from the file."""
    plan = load_plan(directory / "plan.toml")
    built = build_federation(len(plan.party_ids), layers=LAYERS, capacity=CAPACITY)
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
        self.federation = write_federation(self.directory / "files", self.parties)
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
        files = self.directory / "files"
        port_file = self.directory / "port"
        port_file.unlink(missing_ok=True)
        options = {
            "plan": files / "plan.toml",
            "identity": files / "identity.pem",
            "tls-cert": files / "aggregator.pem",
            "tls-key": files / "aggregator-key.pem",
            "tls-ca": files / "ca.pem",
            "state": self.directory / "state",
            "listen": f"{AGGREGATOR_ADDRESS}:{PORT}",
            "port-file": port_file,
            "linger": 20,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [*PROGRAM, "aggregator", "serve", *words, "--json-logs"]
        self.aggregator = self._start(HUB_END, command)
        deadline = time.monotonic() + SESSION_SECONDS
        while not port_file.exists():
            if self.aggregator.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(self.aggregator.log.read_text())
            time.sleep(_POLL_SECONDS)

    def _start_party(self, party: int) -> Running:
        command = [sys.executable, "-m", "tests.network.worker"]
        options = {
            "--directory": self.directory / "files",
            "--party": party,
            "--connect": f"{AGGREGATOR_ADDRESS}:{PORT}",
            "--patience": self.patience,
        }
        words = [str(word) for option in options.items() for word in option]
        return self._start(party_end(party), [*command, *words])

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

    def sums(self, party: int) -> list[str]:
        last = self.last(party)
        assert last["event"] == "finished", self.running[party].log.read_text()
        return [task["sum"] for task in last["tasks"]]
