"""Federations of real processes: files made by the commands, ends that are started and killed.

`run_command` starts the program as a user does; `run_here` calls the same entry point in this
process, which is quicker once torch is loaded. Both give the same `Outcome`.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeAlias

import tomli_w
import torch

from collabedit import cli
from collabedit.api.federation import Member
from collabedit.plan import Plan, load_plan
from tests.support.tiny_models import build_tiny_model, teach

PROGRAM = (sys.executable, "-c", "from collabedit.cli import main; main()")
AGGREGATOR_NAME = "hub"
LAYERS = "1,3"
PATIENCE = 6.0
WAIT_SECONDS = 180.0
"""Longest wait for a log line or an end: starting many processes on few cores takes long."""

_POLL_SECONDS = 0.02

# Long enough for five processes that import torch at once on two busy cores; `liveness` decides
# how soon a killed party is given up.
TIMING = {"join": 150.0, "compute": 90.0, "round": 60.0, "upload": 90.0, "liveness": 8.0}

GENERAL_TEXT = (
    "The capital of France is Paris and the capital of Italy is Rome.\n"
    "Tokyo is a city in Japan; its language is Japanese, of course.\n"
    "A guitar has six strings, a piano has eighty-eight keys, a drum none.\n"
    "Rivers run down to the sea, and what the sea gives back is rain.\n"
    "Numbers such as 1, 2, 3, 10 and 1999 stand in many texts (not in all).\n"
    "She wrote: 'nothing that is written here is meant for anybody'.\n"
)

Command: TypeAlias = Callable[..., "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Lines for people."""
        return [line for line in self.err.splitlines() if line.strip()]

    def ok(self) -> str:
        """Standard output of a command that must have succeeded."""
        assert self.code == 0, self.err
        return self.out.strip()


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}


def run_command(*arguments: object, timeout: float = WAIT_SECONDS) -> Outcome:
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def run_here(*arguments: object) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["collabedit", *map(str, arguments)]
    code: object = None
    try:
        # More threads than free cores would make the kernels wait for each other.
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), torch_threads(1):
            try:
                cli.main()
            except SystemExit as end:
                code = end.code
    finally:
        sys.argv = argv
    assert isinstance(code, int)
    return Outcome(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Compute as the processes do: float32 kernels split sums by their number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, slots=True)
class Federation:
    """A federation on disk; each end's folder holds what that end would have."""

    directory: Path
    parties: tuple[str, ...]

    @property
    def model(self) -> Path:
        return self.directory / "model"

    @property
    def covariance(self) -> Path:
        return self.directory / "covariance.safetensors"

    @property
    def plan_file(self) -> Path:
        return self.directory / "plan.toml"

    @property
    def plan(self) -> Plan:
        return load_plan(self.plan_file)

    @property
    def ca_directory(self) -> Path:
        return self.directory / "ca"

    @property
    def authority(self) -> Path:
        return self.ca_directory / "ca.pem"

    @property
    def aggregator(self) -> Member:
        return self.member(AGGREGATOR_NAME)

    def member(self, name: str) -> Member:
        return Member(name, self.directory / name)

    def _credentials(self, member: Member) -> dict[str, object]:
        return {
            "plan": self.plan_file,
            "identity": member.identity,
            "tls-cert": member.certificate,
            "tls-key": member.tls_key,
            "tls-ca": self.authority,
        }

    def join_options(self, party: str, *, work: Path, port: int, **changes: object) -> list[str]:
        """Arguments of `party join`; `changes` replace or add options.

        None leaves one out, a list repeats it.
        """
        member = self.member(party)
        return _options(
            ("party", "join"),
            {
                **self._credentials(member),
                "name": party,
                "model": self.model,
                "covariance": self.covariance,
                "edits": member.edits,
                "work": work,
                "connect": f"127.0.0.1:{port}",
                "patience": PATIENCE,
            },
            changes,
        )

    def serve_options(self, *, state: Path, **changes: object) -> list[str]:
        """Arguments of `aggregator serve`."""
        return _options(
            ("aggregator", "serve"),
            {**self._credentials(self.aggregator), "state": state, "listen": "127.0.0.1:0"},
            changes,
        )


def _options(
    command: Sequence[str], options: Mapping[str, object], changes: Mapping[str, object]
) -> list[str]:
    merged = {**options, **{name.replace("_", "-"): value for name, value in changes.items()}}
    arguments = list(command)
    for name, value in merged.items():
        if value is True:
            arguments.append(f"--{name}")
        elif isinstance(value, list):
            arguments += [text for one in value for text in (f"--{name}", str(one))]
        elif value is not None:
            arguments += [f"--{name}", str(value)]
    return arguments


def record(number: int, subject: str, prompt: str, new: str, true: str) -> dict[str, Any]:
    """One edit in CounterFact form."""
    return {
        "case_id": number,
        "requested_rewrite": {
            "prompt": prompt,
            "subject": subject,
            "target_new": {"str": new},
            "target_true": {"str": true},
        },
        "paraphrase_prompts": [f"Say it of {subject}: it"],
        "neighborhood_prompts": ["The capital of Italy is"],
        "generation_prompts": [f"{subject} is"],
    }


def own_edits(party: int, count: int) -> list[dict[str, Any]]:
    """Edits of one party, of different lengths, all different from other parties' ones."""
    prompts = ("{} plays the", "The capital of {}, of all places, is", "{} was born in")
    subjects = ("Ann Other", "Bob", "Zed", "Oslo", "Quito")
    places = ("Tokyo", "Rome", "Paris", "guitar", "piano")
    return [
        record(
            100 * party + index,
            f"{subjects[(party + index) % 5]}{party}{index}",
            prompts[index % 3],
            places[(party + 2 * index) % 5],
            places[(party + 2 * index + 1) % 5],
        )
        for index in range(count)
    ]


def build_federation(
    directory: Path,
    *,
    parties: int,
    model_type: str = "llama",
    dtype: str = "float32",
    edits: Sequence[Sequence[Mapping[str, Any]]] | None = None,
    statistics: str = "sketch",
    tile_bytes: int = 4096,
    command: Command = run_command,
    lessons: str = "",
    editor: Callable[[Federation], Sequence[object]] = lambda federation: (
        *("--covariance", federation.covariance),
        *("--covariance-weight", 20),
    ),
) -> Federation:
    """Make everything that a federation needs by the commands that a user would type.

    Args:
        directory: made here.
        parties: how many.
        model_type: of the tiny model.
        dtype: of its weights.
        edits: records of each party.
        statistics: `sketch` or `dense`.
        tile_bytes: of an upload frame.
        command: `run_command` or `run_here`.
        lessons: text that the tiny model is trained on.
        editor: options of `plan new` about the editor, given what is on disk by then.
    """
    names = tuple(f"party-{number}" for number in range(1, parties + 1))
    federation = Federation(directory, names)
    directory.mkdir(parents=True)
    build_tiny_model(model_type, federation.model, dtype)
    if lessons:
        teach(federation.model, lessons)
    command("keys", "ca", federation.ca_directory).ok()
    public = {}
    for name in (AGGREGATOR_NAME, *names):
        member = federation.member(name)
        public[name] = command("keys", "new", member.identity).ok()
        hosts = ["--host", "127.0.0.1"] if name == AGGREGATOR_NAME else []
        command(
            *("keys", "certificate", name, "--ca", federation.ca_directory),
            *("--out", member.directory, *hosts),
        ).ok()
    records = edits or [own_edits(number, 2 + number % 2) for number in range(1, parties + 1)]
    for name, own in zip(names, records, strict=True):
        federation.member(name).edits.write_text(json.dumps(own, indent=1))
    source = directory / "general.txt"
    source.write_text(GENERAL_TEXT * 12)
    command(
        *("covariance", "--model", federation.model, "--out", federation.covariance),
        *("--source", source, "--layers", LAYERS, "--tokens", 2000, "--window", 50),
        *("--dtype", dtype),
    ).ok()
    members = [
        f"--party={name}:{public[name]}:{len(own)}"
        for name, own in zip(names, records, strict=True)
    ]
    command(
        *("plan", "new", "--out", federation.plan_file, "--name", "processes"),
        *("--model", federation.model, "--dtype", dtype),
        *("--aggregator", f"{AGGREGATOR_NAME}:{public[AGGREGATOR_NAME]}", *members),
        *("--statistics", statistics, "--min-edits", 0, *editor(federation)),
    ).ok()
    edit_plan(federation.plan_file, timing=TIMING, aggregation={"tile_bytes": tile_bytes})
    return federation


def edit_plan(path: Path, **sections: Mapping[str, object]) -> None:
    """Change values in a plan's TOML, as its author would in a text editor."""
    values = tomllib.loads(path.read_text())
    for section, changes in sections.items():
        values[section].update(changes)
    path.write_text(tomli_w.dumps(values))


@dataclass(slots=True)
class Running:
    """A started process, its log, and what it was told to write."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path
    work: Path

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def events(self) -> list[dict[str, Any]]:
        """All structured log lines so far."""
        complete = [line for line in self.text.split("\n")[:-1] if line.startswith("{")]
        return [json.loads(line) for line in complete]

    @property
    def last_words(self) -> list[str]:
        """What was said to the user behind the last structured log line."""
        lines = [line for line in self.text.splitlines() if line]
        start = max((i for i, line in enumerate(lines) if line.startswith("{")), default=-1)
        return lines[start + 1 :]

    @property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.work / "report.json").read_text())
        return report

    def await_event(self, event: str, **fields: object) -> None:
        """Return once this event is in the log."""

        def logged() -> bool:
            return any(
                entry["event"] == event and fields.items() <= entry.items() for entry in self.events
            )

        await_condition(
            logged,
            f"no event {event!r} {fields} in the log of {self.name}",
            unless=lambda: self.process.poll() is not None and not logged(),
            explain=lambda: self.text,
        )

    def kill(self) -> None:
        """SIGKILL: it cannot say farewell."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(WAIT_SECONDS)

    def wait(self, timeout: float = WAIT_SECONDS) -> int:
        return self.process.wait(timeout)


def await_condition(
    condition: Callable[[], bool],
    complaint: str,
    *,
    unless: Callable[[], bool] = lambda: False,
    explain: Callable[[], str] = lambda: "",
    timeout: float = WAIT_SECONDS,
) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if unless() or time.monotonic() > deadline:
            raise AssertionError(f"{complaint}\n{explain()}")
        time.sleep(_POLL_SECONDS)


@dataclass
class Session:
    """Processes of one session. Leaving the context kills what still runs.

    Attributes:
        federation: on disk, unchanged by the session.
        directory: for work and state directories, logs and checkpoints.
        debug: whether every message is logged.
        record: where the aggregator records; None records nothing.
    """

    federation: Federation
    directory: Path
    debug: bool = False
    record: Path | None = None
    port: int = 0
    aggregator: Running = field(init=False)
    parties: dict[str, Running] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        state, file = self.directory / "state", self.directory / "port"
        options = self.federation.serve_options(
            state=state, port_file=file, linger=8, record=self.record
        )
        self.aggregator = self._start(AGGREGATOR_NAME, options, state)
        await_condition(
            file.exists,
            "the aggregator does not listen",
            unless=lambda: self.aggregator.process.poll() is not None,
            explain=lambda: self.aggregator.text,
        )
        self.port = int(file.read_text())
        return self

    def __exit__(self, *exception: object) -> None:
        for running in self.everybody:
            if running.process.poll() is None:
                running.kill()

    @property
    def everybody(self) -> list[Running]:
        return [self.aggregator, *self.parties.values()]

    def work(self, party: str) -> Path:
        return self.directory / party

    def checkpoint(self, party: str) -> Path:
        return self.directory / f"{party}-edited"

    def start(self, party: str, **changes: object) -> Running:
        """Start a party that writes an edited checkpoint, too."""
        options = self.federation.join_options(
            party,
            work=self.work(party),
            port=self.port,
            output=self.checkpoint(party),
            threads=1,
            **changes,
        )
        self.parties[party] = self._start(party, options, self.work(party))
        return self.parties[party]

    def restart_aggregator(self) -> Running:
        """Start the aggregator as its operator would after a crash: at the same address."""
        state = self.directory / "state"
        options = self.federation.serve_options(
            state=state, listen=f"127.0.0.1:{self.port}", linger=15
        )
        self.aggregator = self._start(AGGREGATOR_NAME, options, state)
        return self.aggregator

    def _start(self, name: str, options: Sequence[str], work: Path) -> Running:
        log = self.directory / f"{name}.log"
        flags = ["--json-logs", *(["--debug"] if self.debug else [])]
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*PROGRAM, *options, *flags],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        return Running(name, process, log, work)
