"""`collabedit party`: an institution's side."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from collabedit.api.checks import check_ckks
from collabedit.api.credentials import Credentials
from collabedit.api.joining import JoinOptions
from collabedit.api.party import Party
from collabedit.api.places import check_address
from collabedit.cli import apply, export, undo
from collabedit.cli.configuration import ConfigOption, PartyCommand
from collabedit.cli.console import ConsoleReporter, PreviousOption
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
from collabedit.cli.memory import MemoryOption
from collabedit.cli.memory import app as memory_app
from collabedit.cli.metering import MeteredReporter
from collabedit.cli.ranks import check_alone, use_ranks
from collabedit.cli.reassertion import ReassertCountOption, ReassertOption
from collabedit.cli.recording import RecordOption
from collabedit.cli.review import OVERLAP_FILE, overlap_review
from collabedit.cli.web import MetricsOption, WebNameOption, WebRemoteOption
from collabedit.errors import InputError
from collabedit.party.editing.means import parse_means
from collabedit.party.journal import ABANDON_OPTION, KEY_OPTION
from collabedit.party.ledger import ACCEPT_OPTION
from collabedit.plan import load_plan

app = typer.Typer(help="Take part with an institution's own edits.", no_args_is_help=True)
app.add_typer(memory_app, name="memory")
app.command("apply")(apply.run)
app.command("export")(export.run)
app.command("undo")(undo.run)

NameOption: TypeAlias = Annotated[str, typer.Option("--name", help="Own name in the plan.")]
ModelOption: TypeAlias = Annotated[
    Path, typer.Option("--model", help="Model directory, or name on the hub.")
]
EditsOption: TypeAlias = Annotated[
    Path, typer.Option("--edits", help="Edits file: JSON, JSONL, CSV or TSV (docs/edits-files.md).")
]
WorkOption: TypeAlias = Annotated[
    Path, typer.Option("--work", help="Private directory for targets, update and report.")
]
DeviceOption: TypeAlias = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda ...; spread: over all GPUs.")
]
ThreadsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, help="CPU threads, and processes that encrypt; default: all cores."
    ),
]


AutocastOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--autocast",
        help="bfloat16: search targets with products in it, on a model in float32; for GPUs.",
    ),
]
MemoryMibOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--memory-mib", min=1, help="Bound of a target search's memory beside the model, MiB."
    ),
]


@app.callback()
def _root(context: typer.Context) -> None:
    check_alone(context, except_for=frozenset({"prepare"}))


@app.command("prepare")
def prepare(
    plan_file: PlanOption,
    name: NameOption,
    model: ModelOption,
    edits: EditsOption,
    work: WorkOption,
    reassert: ReassertOption = None,
    reassert_count: ReassertCountOption = None,
    previous: PreviousOption = None,
    device: DeviceOption = "auto",
    autocast: AutocastOption = "off",
    memory_mib: MemoryMibOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Compute the targets of one's edits offline, the longest part of taking part.

    Several processes share the edits if `torchrun` starts them (docs/several-devices.md).
    """
    ranks, device = use_ranks(device)
    party = Party(
        load_plan(plan_file), name, work=work, reporter=ConsoleReporter(LogObserver(name))
    )
    party.prepare(
        model,
        edits,
        previous=previous or (),
        reassert=reassert,
        reassert_count=reassert_count,
        device=device,
        threads=threads,
        ranks=ranks,
        means=parse_means(autocast, memory_mib),
    )


@app.command("join", cls=PartyCommand)
def join(
    plan_file: PlanOption,
    name: NameOption,
    model: ModelOption,
    edits: EditsOption,
    identity: IdentityOption,
    tls_cert: CertificateOption,
    tls_key: TlsKeyOption,
    tls_ca: AuthorityOption,
    connect: Annotated[str, typer.Option(help="HOST:PORT of the aggregator.")],
    work: WorkOption,
    covariance: Annotated[
        Path | None, typer.Option(help="The plan's covariance file, if it has one.")
    ] = None,
    reassert: ReassertOption = None,
    reassert_count: ReassertCountOption = None,
    previous: PreviousOption = None,
    memory: MemoryOption = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the edited checkpoint here; must not exist.")
    ] = None,
    assessment_text: Annotated[
        Path | None,
        typer.Option(help="Private text for a vote on the update; default: the project's own."),
    ] = None,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds to keep trying an aggregator that is silent.")
    ] = 60.0,
    upload_rate: Annotated[
        float | None, typer.Option(min=1, help="Limit of the upload, bytes per second.")
    ] = None,
    accept_repeated_opening: Annotated[
        bool,
        typer.Option(ACCEPT_OPTION, help="Join although a sum over these edits was opened before."),
    ] = False,
    journal_key: Annotated[
        Path | None,
        typer.Option(
            KEY_OPTION,
            help="Key of what is kept for a restart, made if missing; default: in --work.",
        ),
    ] = None,
    abandon: Annotated[
        bool,
        typer.Option(ABANDON_OPTION, help="Give up an unfinished session instead of resuming it."),
    ] = False,
    record: RecordOption = None,
    review: Annotated[
        bool,
        typer.Option(help="Ask before going on, once copies and conflicts of edits are known."),
    ] = False,
    device: DeviceOption = "auto",
    autocast: AutocastOption = "off",
    memory_mib: MemoryMibOption = None,
    threads: ThreadsOption = None,
    metrics: MetricsOption = None,
    web_remote: WebRemoteOption = False,
    web_name: WebNameOption = None,
    log_format: LogFormatOption = LogFormat.CONSOLE,
    log_level: LogLevelOption = LogLevel.INFO,
    json_logs: JsonLogsOption = False,
    debug: DebugOption = False,
    _config: ConfigOption = None,
) -> None:
    """Take part in one session and write the merged update.

    Everything that can be checked is checked before the first call. A session whose process died is
    resumed by the same command; Ctrl-C leaves it.
    """
    configure_logs(log_format, log_level, as_json=json_logs, debug=debug)
    check_address("--connect", connect)
    plan = load_plan(plan_file)
    check_ckks(plan.aggregation.backend)
    credentials = Credentials.read(
        plan, name, identity=identity, certificate=tls_cert, key=tls_key, authority=tls_ca
    )
    if review and plan.overlap is None:
        raise InputError("--review: the plan counts no overlap, there is nothing to look at")
    options = JoinOptions(
        covariance=covariance,
        previous=previous or (),
        output=output,
        reassert=reassert,
        reassert_count=reassert_count,
        memory=memory,
        assessment_text=assessment_text,
        patience=patience,
        upload_rate=upload_rate,
        accept_repeated_opening=accept_repeated_opening,
        journal_key=journal_key,
        abandon=abandon,
        record=record,
        review=overlap_review(work / OVERLAP_FILE, ask=review),
        device=device,
        threads=threads,
        means=parse_means(autocast, memory_mib),
    )
    reporter = MeteredReporter(plan, name)
    with reporter.served(metrics, names=web_name, is_remote=web_remote):
        Party(plan, name, work=work, reporter=reporter).join(
            connect, credentials, model=model, edits=edits, options=options
        )
