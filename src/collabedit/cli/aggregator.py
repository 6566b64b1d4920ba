"""`collabedit aggregator`: the coordinator of a session."""

import json
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.aggregator.health import is_serving
from collabedit.aggregator.journal import Journal
from collabedit.aggregator.service import ServerTls
from collabedit.aggregator.traffic import Traffic
from collabedit.api.aggregator import JOURNAL_FILE, Aggregator
from collabedit.api.credentials import Credentials, read_tls
from collabedit.api.places import check_address, check_place
from collabedit.cli.configuration import AggregatorCommand, ConfigOption
from collabedit.cli.console import ConsoleReporter, say
from collabedit.cli.credentials import (
    AuthorityOption,
    CertificateOption,
    IdentityOption,
    PlanOption,
    TlsKeyOption,
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
from collabedit.errors import InputError, TransportError
from collabedit.operations.progress import SessionProgress
from collabedit.plan import format_digest, load_plan

if TYPE_CHECKING:
    from collabedit.operations.web import Pages

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
    credentials = Credentials.read(
        plan,
        plan.federation.aggregator.name,
        identity=identity,
        certificate=tls_cert,
        key=tls_key,
        authority=tls_ca,
    )
    if port_file is not None:
        check_place(port_file)
    progress = SessionProgress()
    traffic = Traffic() if metrics or status else None
    reporter = _Reporter(progress)
    aggregator = Aggregator(
        plan,
        credentials,
        state=state,
        listen=listen,
        abandon=abandon,
        record=record,
        traffic=traffic,
        grace=grace,
        reflection=reflection,
        reporter=reporter,
    )
    with (
        aggregator,
        served_pages(
            _pages(aggregator, progress, traffic, metrics, status),
            names=web_name,
            is_remote=web_remote,
            observe=reporter.observe,
        ),
    ):
        stopped_by = _heed_signals(aggregator)
        if port_file is not None:
            _write_port(port_file, aggregator.server.port)
        served = aggregator.run(linger=linger)
    if served is None:
        say("stopped before the session was over; the same command resumes it")
        # Whoever asked for the end by SIGTERM got what was asked for; Ctrl-C broke something off.
        raise typer.Exit(0 if signal.SIGTERM in stopped_by else 130)
    say(f"session finished: {len(served.records)} sums opened and merged")


class _Reporter(ConsoleReporter):
    """Logs events as of their session, and keeps what pages show of them."""

    def __init__(self, progress: SessionProgress) -> None:
        self._log = LogObserver("aggregator", is_held=True)
        super().__init__(progress.before(self._log))

    def begin(self, session_id: bytes) -> None:
        """Log what was held back as of this session."""
        self._log.begin(session_id)


def _heed_signals(aggregator: Aggregator) -> list[int]:
    """Stop by SIGTERM and SIGINT, read TLS files by SIGHUP; the list says which one stopped it."""
    stopped_by: list[int] = []

    def stop(number: int, _frame: object) -> None:
        stopped_by.append(number)
        aggregator.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.signal(signal.SIGHUP, lambda _number, _frame: aggregator.renew_certificate())
    return stopped_by


def _write_port(path: Path, port: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(f"{port}\n")
    partial.replace(path)


def _pages(
    aggregator: Aggregator,
    progress: SessionProgress,
    traffic: Traffic | None,
    metrics: str | None,
    status: str | None,
) -> "dict[str, tuple[str | None, Pages]]":
    if traffic is None:
        return {}
    from collabedit.operations.aggregator_metrics import AggregatorCollector
    from collabedit.operations.metrics import MetricsPage
    from collabedit.operations.watched import Watched

    watched = Watched.at(aggregator.server, aggregator.coordinator, progress, traffic)
    collector = AggregatorCollector(watched, state=aggregator.state, port=aggregator.server.port)
    wanted: dict[str, tuple[str | None, Pages]] = {
        "--metrics": (metrics, {"/metrics": MetricsPage(collector)})
    }
    if status is not None:
        from collabedit.operations.status import StatusPages

        pages = StatusPages(watched)
        wanted["--status"] = status, {"/": pages.html, "/status.json": pages.json}
    return wanted


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
