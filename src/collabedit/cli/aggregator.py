"""`collabedit aggregator`: the coordinator of a session."""

import json
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.health import is_serving
from collabedit.aggregator.journal import Journal
from collabedit.aggregator.records import describe_dropout
from collabedit.aggregator.rotation import RotatedTls
from collabedit.aggregator.service import AggregatorServer, ServerTls
from collabedit.aggregator.states import Aborted, Completed
from collabedit.aggregator.traffic import Traffic
from collabedit.cli.configuration import AggregatorCommand, ConfigOption
from collabedit.cli.console import (
    check_address,
    check_place,
    evidence_sink,
    say,
)
from collabedit.cli.credentials import (
    AuthorityOption,
    CertificateOption,
    IdentityOption,
    PlanOption,
    TlsKeyOption,
    read_identity,
    read_tls,
)
from collabedit.cli.logs import (
    DebugOption,
    JsonLogsOption,
    LogFormat,
    LogFormatOption,
    LogLevel,
    LogLevelOption,
    LogObserver,
    configure_logs,
)
from collabedit.cli.recording import RecordOption
from collabedit.cli.web import (
    MetricsOption,
    StatusOption,
    WebNameOption,
    WebRemoteOption,
    served_pages,
)
from collabedit.crypto.certificates import certificate_name
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import InputError, TransportError
from collabedit.ids import AGGREGATOR
from collabedit.operations.progress import SessionProgress
from collabedit.plan import format_digest, load_plan
from collabedit.proto.evidence_file import EvidenceFolder
from collabedit.proto.votes import name_votes
from collabedit.recorder import Recorder

if TYPE_CHECKING:
    from collabedit.operations.web import Pages

JOURNAL_FILE = "journal.sqlite"

app = typer.Typer(help="Coordinate a session; sees no edit and no model.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command("serve", cls=AggregatorCommand)
def serve(
    plan_file: PlanOption,
    identity: IdentityOption,
    tls_cert: CertificateOption,
    tls_key: TlsKeyOption,
    tls_ca: AuthorityOption,
    state: Annotated[
        Path, typer.Option(help="Directory for journal, spool files and report.json.")
    ],
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 lets the system choose.")] = (
        "127.0.0.1:7443"
    ),
    port_file: Annotated[
        Path | None, typer.Option(help="Write the port here once listening.")
    ] = None,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Give up an unfinished session and start a new one.")
    ] = False,
    record: RecordOption = None,
    linger: Annotated[float, typer.Option(min=0, help="Seconds to stay after the end.")] = 15.0,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds that calls have to end after SIGTERM.")
    ] = 10.0,
    reflection: Annotated[
        bool, typer.Option("--reflection", help="Let parties' tools ask which methods there are.")
    ] = False,
    metrics: MetricsOption = None,
    status: StatusOption = None,
    web_remote: WebRemoteOption = False,
    web_name: WebNameOption = None,
    log_format: LogFormatOption = LogFormat.CONSOLE,
    log_level: LogLevelOption = LogLevel.INFO,
    json_logs: JsonLogsOption = False,
    debug: DebugOption = False,
    _config: ConfigOption = None,
) -> None:
    """Run one session of a plan, then exit: 0 if it finished, 5 if it was aborted.

    SIGTERM lets calls end, and exits with 0. Started again with the same --state after a crash or a
    stop, it resumes the session. SIGHUP reads the TLS files anew, as their change does.
    """
    configure_logs(log_format, log_level, as_json=json_logs, debug=debug)
    check_address("--listen", listen)
    plan = load_plan(plan_file)
    key = read_identity(identity, plan, AGGREGATOR)

    def read_own_tls() -> ServerTls:
        read = read_tls(tls_cert, tls_key, tls_ca, name=plan.federation.aggregator.name)
        return ServerTls(read.certificate, read.key, read.authority)

    read_own_tls()  # before anything is made
    if port_file is not None:
        check_place(port_file)
    observe = LogObserver("aggregator", is_held=True)
    progress = SessionProgress()
    journal = _open_journal(state, abandon=abandon)
    recorder = None if record is None else Recorder(record, plan, role="aggregator")
    coordinator = Coordinator(
        plan,
        key,
        directory=state / "spool",
        randomness=SystemRandomness(),
        evidence=evidence_sink(EvidenceFolder(state, plan), observe),
        observer=progress.before(observe),
        journal=journal,
        recorder=recorder,
    )
    observe.begin(coordinator.session_id)
    if coordinator.replayed:
        say(
            f"resuming session {coordinator.session_id.hex()[:16]} in round "
            f"{coordinator.round_name} of task {coordinator.position[0]}"
        )
    tls = RotatedTls(read_own_tls, (tls_cert, tls_key, tls_ca), observe)
    traffic = Traffic() if metrics or status else None
    with (
        tls,
        AggregatorServer(
            coordinator,
            address=listen,
            tls=tls.current,
            traffic=traffic,
            renewed=tls.renewed,
            grace=grace,
            reflection=reflection,
        ) as server,
        served_pages(
            _pages(coordinator, progress, traffic, server, state, metrics, status),
            names=web_name,
            is_remote=web_remote,
            observe=observe,
        ),
    ):
        stopped_by = _heed_signals(server, tls)
        host = listen.rpartition(":")[0]
        observe("listening", {"address": f"{host}:{server.port}", "plan": plan.name})
        if port_file is not None:
            _write_port(port_file, server.port)
        ended = server.run(linger=linger)
    if recorder is not None:
        recorder.close()
    _write_report(state / "report.json", coordinator)
    if not ended:
        journal.close()
        say("stopped before the session was over; the same command resumes it")
        # Whoever asked for the end by SIGTERM got what was asked for; Ctrl-C broke something off.
        raise typer.Exit(0 if signal.SIGTERM in stopped_by else 130)
    coordinator.retire()
    journal.close()
    coordinator.raise_if_aborted()
    say(f"session finished: {len(coordinator.records)} sums opened and merged")


def _open_journal(state: Path, *, abandon: bool) -> Journal:
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{state}: cannot be made: {error.strerror}") from error
    journal = Journal(state / JOURNAL_FILE)
    if abandon and journal.session is not None:
        say(f"gave up the unfinished session {journal.session.session_id.hex()[:16]}")
        journal.end("abandoned")
    return journal


def _heed_signals(server: AggregatorServer, tls: RotatedTls) -> list[int]:
    """Stop by SIGTERM and SIGINT, read TLS files by SIGHUP; the list says which one stopped it."""
    stopped_by: list[int] = []

    def stop(number: int, _frame: object) -> None:
        stopped_by.append(number)
        server.request_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.signal(signal.SIGHUP, lambda _number, _frame: tls.ask())
    return stopped_by


def _write_port(path: Path, port: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(f"{port}\n")
    partial.replace(path)


def _pages(
    coordinator: Coordinator,
    progress: SessionProgress,
    traffic: Traffic | None,
    server: AggregatorServer,
    state: Path,
    metrics: str | None,
    status: str | None,
) -> "dict[str, tuple[str | None, Pages]]":
    if traffic is None:
        return {}
    from collabedit.operations.aggregator_metrics import AggregatorCollector
    from collabedit.operations.metrics import MetricsPage

    collector = AggregatorCollector(
        coordinator,
        progress,
        traffic,
        state=state,
        port=server.port,
        reachable=lambda: server.reachable,
        is_serving=lambda: server.is_serving,
    )
    wanted: dict[str, tuple[str | None, Pages]] = {
        "--metrics": (metrics, {"/metrics": MetricsPage(collector)})
    }
    if status is not None:
        from collabedit.operations.status import StatusPages

        pages = StatusPages(
            coordinator,
            progress,
            traffic,
            reachable=lambda: server.reachable,
            is_serving=lambda: server.is_serving,
        )
        wanted["--status"] = status, {"/": pages.html, "/status.json": pages.json}
    return wanted


def _write_report(path: Path, coordinator: Coordinator) -> None:
    plan, last = coordinator.plan, coordinator.state
    dropouts = last.dropouts if isinstance(last, Aborted) else ()
    votes = last.votes if isinstance(last, Completed | Aborted) else {}
    report: dict[str, object] = {
        "plan": format_digest(plan.digest),
        "session": coordinator.session_id.hex(),
        "tasks": [record.to_dict(plan) for record in coordinator.records],
        "aborted": last.reason.name if isinstance(last, Aborted) else None,
        "dropouts_of_aborted_task": [describe_dropout(plan, dropout) for dropout in dropouts],
    }
    if votes:
        report["votes"] = name_votes(plan, votes)
    path.write_text(json.dumps(report, indent=2) + "\n")


@app.command("health", cls=AggregatorCommand)
def health(
    tls_cert: CertificateOption,
    tls_key: TlsKeyOption,
    tls_ca: AuthorityOption,
    connect: Annotated[str, typer.Option(help="HOST:PORT of the aggregator.")] = "127.0.0.1:7443",
    server_name: Annotated[
        str | None, typer.Option(help="Name on its certificate; default: that of --tls-cert.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Longest wait.")] = 5.0,
) -> None:
    """Ask an aggregator whether it takes calls: 0 if so, 6 if not. For probes.

    Any certificate of the session's authority will do, such as the aggregator's own.
    """
    check_address("--connect", connect)
    name = certificate_name(tls_cert.read_bytes()) if tls_cert.is_file() else ""
    own = read_tls(tls_cert, tls_key, tls_ca, name=name)
    identity = ServerTls(own.certificate, own.key, own.authority)
    if not is_serving(connect, tls=identity, server_name=server_name or name, seconds=seconds):
        raise TransportError(f"{connect}: it is stopping, and takes no new calls")
    typer.echo("serving")


@app.command("log")
def log(
    state: Annotated[Path, typer.Option(help="Directory of `aggregator serve`.")],
) -> None:
    """List what the journal holds as JSON lines, and check that no entry is missing or altered."""
    path = state / JOURNAL_FILE
    if not path.exists():
        raise InputError(f"{path}: no such journal")
    journal = Journal(path)
    for session in journal.sessions():
        count = journal.check(session)
        header = {
            "session": session.session_id.hex(),
            "plan": format_digest(session.plan_digest),
            "outcome": session.outcome,
            "inputs": count,
        }
        typer.echo(json.dumps(header))
        for entry in journal.inputs(session):
            row = {
                "input": entry.number,
                "at": datetime.fromtimestamp(entry.at_ms / 1000, UTC).isoformat(),
                "kind": entry.kind.name.lower(),
                "what": entry.what,
                "sha256": entry.digest.hex(),
            }
            typer.echo(json.dumps(row))
    journal.close()
