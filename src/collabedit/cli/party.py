"""`collabedit party`: an institution's side."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from collabedit.cli import apply, export, undo
from collabedit.cli.console import (
    PreviousOption,
    check_address,
    configure_logs,
    evidence_sink,
    log_observer,
    progress_bar,
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
from collabedit.cli.memory import MemoryOption, OwnMemory, selection_report, tell_selection
from collabedit.cli.memory import app as memory_app
from collabedit.cli.plan import check_ckks, check_count
from collabedit.cli.publishing import load_to_edit, write_joined
from collabedit.cli.ranks import check_alone, use_ranks
from collabedit.cli.reassertion import FILE as REASSERTIONS_FILE
from collabedit.cli.reassertion import (
    ReassertCountOption,
    ReassertOption,
    read_wish,
    reasserted_items,
    reassertion_report,
    take_reassertions,
)
from collabedit.cli.recording import RecordOption, recorded
from collabedit.cli.results import check_output, check_previous, save_update, write_report
from collabedit.cli.review import OVERLAP_FILE, overlap_review
from collabedit.crypto.kdf import transcript_hash
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import CollabEditError, InputError
from collabedit.party.client import POLL_SECONDS, ClientTls, GrpcChannel
from collabedit.party.edits import Edit, edits_digest, load_edits
from collabedit.party.entries import OpenSession
from collabedit.party.items import edit_items
from collabedit.party.journal import ABANDON_OPTION, KEY_OPTION, PartyJournal
from collabedit.party.ledger import ACCEPT_OPTION, Ledger
from collabedit.party.member import Member, Observer
from collabedit.party.memory import Recollection
from collabedit.party.session import run_session
from collabedit.party.sessions import EnteredSessions
from collabedit.plan import Plan, load_plan
from collabedit.proto.evidence_file import EvidenceFolder

if TYPE_CHECKING:
    from collabedit.party.editing.model import EditableModel
    from collabedit.party.editing.ranks import Ranks
    from collabedit.party.editing.reassertion import Reassertions, Wish
    from collabedit.party.editing.selection import Selection
    from collabedit.party.editing.targets import Targets

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

TARGETS_FILE = "targets.safetensors"
UPDATE_FILE = "update.safetensors"
LEDGER_FILE = "ledger.jsonl"
SESSIONS_FILE = "sessions.txt"
REPORT_FILE = "report.json"


class _Stopwatch:
    """Seconds by phase, in the order in which phases were entered."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


def _prepare_directory(work: Path) -> None:
    try:
        work.mkdir(parents=True, exist_ok=True)
        work.chmod(0o700)
    except OSError as error:
        raise InputError(f"{work}: cannot be made private: {error.strerror}") from error


def _open_journal(
    work: Path,
    plan: Plan,
    name: str,
    edits: tuple[Edit, ...],
    past: tuple[Edit, ...],
    wish: "Wish | None",
    *,
    key: Path | None,
    abandon: bool,
) -> PartyJournal:
    brought = (edits_digest(edits), *((edits_digest(past),) if past else ()))
    if wish is not None:
        brought += ("reassertions", wish.digest)
    journal = PartyJournal(
        work,
        randomness=SystemRandomness(),
        key_file=key,
        inputs=transcript_hash("journal", *brought),
        abandon=abandon,
    )
    try:
        journal.check(plan.digest, plan.party_id(name))
    except BaseException:
        journal.close()
        raise
    return journal


def _with_resumption(observer: Observer) -> Observer:
    """Tell the person, too, where a session goes on."""

    def observe(event: str, fields: Mapping[str, object]) -> None:
        if event == "resumed":
            say(
                f"resuming session {fields['session']} at task {fields['task']}, "
                f"state {fields['state']}"
            )
        observer(event, fields)

    return observe


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _usable_plan(path: Path) -> Plan:
    """Read a plan that this installation can take part in."""
    plan = load_plan(path)
    check_ckks(plan.aggregation.backend)
    return plan


def _own_edits(plan: Plan, name: str, path: Path) -> tuple[Edit, ...]:
    edits = load_edits(path)
    check_count(plan, name=name, edits=len(edits), source=path)
    if plan.overlap is not None:
        edit_items(edits)  # refuses a text that has no digest, before anything is computed
    return edits


def _assessment_text(plan: Plan, path: Path | None) -> str | None:
    if path is None:
        return None
    if plan.acceptance is None:
        raise InputError(f"--assessment-text {path}: the plan asks for no vote")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text") from error
    if not text.strip():
        raise InputError(f"{path}: holds no text")
    return text


def _targets(
    plan: Plan, model: "EditableModel", edits: tuple[Edit, ...], path: Path, ranks: "Ranks"
) -> "Targets":
    """Read the targets that `prepare` left, or compute them now and leave them."""
    from collabedit.party.editing.editor import edited_layers, start_weights, target_settings
    from collabedit.party.editing.selection import distances
    from collabedit.party.editing.targets import compute_targets, load_targets, settings_digest

    layer = edited_layers(plan.editing)[-1]
    settings = target_settings(plan.editing)
    templates = plan.editing.context_templates
    weights = start_weights(plan)
    if ranks.decide(path.exists()):
        say(f"using the targets in {path}")
        targets = load_targets(
            path,
            edits_digest=edits_digest(edits),
            settings_digest=settings_digest(
                model, layer=layer, templates=templates, settings=settings, weights=weights
            ),
            ranks=ranks,
        )
    else:
        with progress_bar("targets") as advance:
            targets = compute_targets(
                model,
                edits,
                layer=layer,
                templates=templates,
                settings=settings,
                weights=weights,
                progress=advance,
                ranks=ranks,
            )
        if ranks.is_first:
            targets.save(path)
    if plan.editing.skip_residual is not None and targets.distances is None:
        found = distances(model, edits, targets, layer, ranks=ranks)
        targets = replace(targets, distances=found)
        if ranks.is_first:
            targets.save(path)
    return targets


def _requests(
    model: "EditableModel", memory: OwnMemory, wish: "Wish | None", work: Path, *, resumes: bool
) -> tuple["Selection", Recollection, "Reassertions | None"]:
    """Decide which edits are edited, which past ones and what else is brought, and say so."""
    from collabedit.party.editing.ranks import ALONE
    from collabedit.party.editing.selection import select_edits

    plan = memory.plan
    targets = _targets(plan, model, memory.edits, work / TARGETS_FILE, ALONE)
    chosen = select_edits(memory.edits, targets, plan.editing.skip_residual)
    recollection = memory.recall(chosen.held)
    tell_selection(plan, chosen.held, recollection)
    added = take_reassertions(plan, model, wish, chosen, work, past=memory.past, resumes=resumes)
    return chosen, recollection, added


def _checked_ledger(
    work: Path,
    plan: Plan,
    edits: tuple[Edit, ...],
    unfinished: OpenSession | None,
    *,
    accept_repeated: bool,
) -> Ledger:
    ledger = Ledger(
        work / LEDGER_FILE,
        edits=edits,
        weights=plan.model.weights,
        accept_repeated=accept_repeated,
    )
    ledger.check(resuming=b"" if unfinished is None else unfinished.start.session_id)
    return ledger


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
    threads: ThreadsOption = None,
) -> None:
    """Compute the targets of one's edits offline, the longest part of taking part.

    Several processes share the edits if `torchrun` starts them (docs/several-devices.md).
    """
    from collabedit.party.editing.editor import load_plan_model
    from collabedit.party.editing.selection import select_edits

    ranks, device = use_ranks(device)
    plan = load_plan(plan_file)
    records = _own_edits(plan, name, edits)
    wish = read_wish(plan, name, records, work, file=reassert, count=reassert_count)
    if ranks.is_first:
        _prepare_directory(work)
    _use_threads(threads)
    loaded = load_plan_model(plan, model, device=device, previous=previous or ())
    targets = _targets(plan, loaded, records, work / TARGETS_FILE, ranks)
    say(f"{len(records)} targets are in {work / TARGETS_FILE} (private)")
    chosen = select_edits(records, targets, plan.editing.skip_residual)
    made = take_reassertions(plan, loaded, wish, chosen, work, ranks=ranks)
    ranks.finish()
    if made is not None:
        say(f"{len(made.facts)} re-assertions are in {work / REASSERTIONS_FILE} (private)")


@app.command("join")
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
    threads: ThreadsOption = None,
    json_logs: Annotated[bool, typer.Option(help="Log JSON lines.")] = False,
    debug: Annotated[bool, typer.Option(help="Log every message.")] = False,
) -> None:
    """Take part in one session and write the merged update.

    Everything that can be checked is checked before the first call. A session whose process died is
    resumed by the same command; Ctrl-C leaves it.
    """
    configure_logs(as_json=json_logs, debug=debug)
    check_address("--connect", connect)
    watch = _Stopwatch()
    plan = _usable_plan(plan_file)
    party = plan.party_id(name)
    member = Member(plan, party, read_identity(identity, plan, party), SystemRandomness())
    tls = read_tls(tls_cert, tls_key, tls_ca, name=name)
    records = _own_edits(plan, name, edits)
    if review and plan.overlap is None:
        raise InputError("--review: the plan counts no overlap, there is nothing to look at")
    check_previous(previous or (), work / UPDATE_FILE)
    text = _assessment_text(plan, assessment_text)
    wish = read_wish(plan, name, records, work, file=reassert, count=reassert_count)
    _prepare_directory(work)
    own_memory = OwnMemory.open(plan, work, records, file=memory, key_file=journal_key)
    with _open_journal(
        work, plan, name, records, own_memory.past, wish, key=journal_key, abandon=abandon
    ) as journal:
        unfinished = journal.unfinished
        own_memory.check(unfinished)
        finished = unfinished is not None and len(unfinished.completed) == len(plan.tasks)
        if not finished:
            check_output(output)
        ledger = _checked_ledger(
            work, plan, records, unfinished, accept_repeated=accept_repeated_opening
        )
        with watch.phase("load"):
            _use_threads(threads)
            from collabedit.party.editing.editor import (
                ModelEditor,
                key_maps,
                load_plan_covariance,
            )

            maps = key_maps(plan, load_plan_covariance(plan, covariance))
            loaded, layout = load_to_edit(plan, model, device=device, previous=previous)
        with watch.phase("targets"):
            chosen, recollection, added = _requests(
                loaded, own_memory, wish, work, resumes=unfinished is not None
            )
        editor = ModelEditor(
            plan,
            loaded,
            chosen.edits,
            chosen.targets,
            maps,
            past=recollection.edits,
            text=text,
            reassertions=added,
        )
        channel = GrpcChannel(
            connect,
            tls=ClientTls(tls.certificate, tls.key, tls.authority),
            server_name=plan.federation.aggregator.name,
            patience=patience,
            upload_seconds=plan.timing.upload,
            poll_seconds=min(POLL_SECONDS, plan.timing.liveness / 3),
            rate_limit=upload_rate,
        )
        observe, evidence = _with_resumption(log_observer(role=name)), EvidenceFolder(work, plan)
        try:
            with (
                recorded(record, plan, party, channel) as (through, verified),
                watch.phase("session"),
            ):
                session = run_session(
                    member,
                    through,
                    editor,
                    ledger=ledger,
                    enter=EnteredSessions(work / SESSIONS_FILE).enter,
                    evidence=evidence_sink(evidence, observe),
                    journal=journal,
                    items=None if plan.overlap is None else edit_items(chosen.edits),
                    past_items=() if plan.overlap is None else edit_items(recollection.edits),
                    reasserted_items=reasserted_items(plan, added),
                    review=overlap_review(work / OVERLAP_FILE, ask=review),
                    verified=verified,
                    observer=observe,
                    processes=threads,
                )
        except CollabEditError as error:
            for path in evidence.written:
                error.add_note(f"evidence for others is in {path}")
            raise
        with watch.phase("save"):
            save_update(work / UPDATE_FILE, editor, session)
            # A process that died between saving and the end of its journal has written it.
            if output is not None and not (finished and output.exists()):
                write_joined(plan, loaded, layout, output, session=session, updates=editor.updates)
            own_memory.remember(session, chosen.edits, recollection)
        write_report(
            work / REPORT_FILE,
            plan,
            name,
            session,
            watch.seconds,
            channel,
            {
                **selection_report(plan, chosen.held, recollection, session),
                **reassertion_report(added, session),
            },
        )
        journal.end()
        say(f"update written to {work / UPDATE_FILE}")
        if output is not None:
            say(f"edited model written to {output}")
