"""How a party takes part in one session, from its files to its files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from collabedit.api.checks import check_ckks
from collabedit.api.credentials import Credentials
from collabedit.api.evidence import evidence_sink
from collabedit.api.memory import OwnMemory, selection_report
from collabedit.api.places import check_address
from collabedit.api.publishing import load_to_edit, write_joined
from collabedit.api.reassertion import read_wish, reasserted_items, reassertion_report
from collabedit.api.recording import recorded
from collabedit.api.reporting import Reporter
from collabedit.api.requests import Edits, Requests, own_edits, take_requests
from collabedit.api.results import check_output, check_previous, save_update, write_report
from collabedit.api.stopwatch import Stopwatch
from collabedit.crypto.kdf import transcript_hash
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import CollabEditError, InputError
from collabedit.ids import LayerIndex
from collabedit.party.client import POLL_SECONDS, ClientTls, GrpcChannel
from collabedit.party.editing.means import OWN_MEANS, Means
from collabedit.party.edits import edits_digest
from collabedit.party.items import edit_items
from collabedit.party.journal import PartyJournal
from collabedit.party.ledger import Ledger
from collabedit.party.member import Member, SessionReport
from collabedit.party.overlap import Review, accept
from collabedit.party.session import run_session
from collabedit.party.sessions import EnteredSessions
from collabedit.plan import Plan
from collabedit.proto.evidence_file import EvidenceFolder
from collabedit.sketch import LowRankUpdate

if TYPE_CHECKING:
    from collabedit.party.editing.editor import ModelEditor
    from collabedit.party.editing.model import EditableModel
    from collabedit.party.editing.reassertion import Wish

UPDATE_FILE = "update.safetensors"
LEDGER_FILE = "ledger.jsonl"
SESSIONS_FILE = "sessions.txt"
REPORT_FILE = "report.json"


@dataclass(frozen=True, slots=True)
class JoinOptions:
    """How to take part, beyond model and edits. All have a default.

    Attributes:
        covariance: the plan's covariance file, if the plan has one.
        previous: updates of earlier sessions that the model continues, oldest first.
        output: write the edited checkpoint here; must not exist.
        reassert: file of true facts, some to be re-asserted beside the edits.
        reassert_count: how many; None for as many as edits.
        memory: file of past edits; None for the one in the party's directory.
        assessment_text: private text for a vote on the update; None for the project's own.
        patience: seconds to keep trying an aggregator that is silent.
        upload_rate: limit of the upload, bytes per second; None for none.
        accept_repeated_opening: join although a sum over these edits was opened before.
        journal_key: key of what is kept for a restart; None for the one in the party's directory.
        abandon: give up an unfinished session instead of resuming it.
        record: private directory for a transcript, for audits.
        review: shown what is decided about copies and conflicts of edits; may raise to leave.
        device: `auto`, `cpu`, `cuda` and so on; `spread` is over all GPUs.
        threads: of the processor, and processes that encrypt; None for all cores.
        means: of the search of targets: its memory, its precision.
    """

    covariance: Path | None = None
    previous: Sequence[Path] = ()
    output: Path | None = None
    reassert: Path | None = None
    reassert_count: int | None = None
    memory: Path | None = None
    assessment_text: Path | None = None
    patience: float = 60.0
    upload_rate: float | None = None
    accept_repeated_opening: bool = False
    journal_key: Path | None = None
    abandon: bool = False
    record: Path | None = None
    review: Review = accept
    device: str = "auto"
    threads: int | None = None
    means: Means = OWN_MEANS


@dataclass(frozen=True, slots=True)
class Joined:
    """A finished session at a party's end.

    Attributes:
        report: tasks, survivors, votes, checks.
        updates: what was applied, by layer, in the model's own coordinates.
        model: edited, in memory.
        update_file: the update, for `party apply` and for later sessions.
        report_file: JSON, for the party itself.
        seconds: by phase.
    """

    report: SessionReport
    updates: Mapping[LayerIndex, LowRankUpdate] = field(repr=False)
    model: "EditableModel" = field(repr=False)
    update_file: Path
    report_file: Path
    seconds: Mapping[str, float]


def join(
    plan: Plan,
    name: str,
    work: Path,
    address: str,
    credentials: Credentials,
    *,
    model: Path,
    edits: Edits,
    options: JoinOptions,
    reporter: Reporter,
) -> Joined:
    """Take part in one session; see `Party.join`."""
    check_address("the aggregator's address", address)
    watch = Stopwatch()
    reporter.follow(watch.so_far)
    check_ckks(plan.aggregation.backend)
    member = Member(plan, plan.party_id(name), credentials.identity, SystemRandomness())
    records = own_edits(plan, name, edits)
    check_previous(options.previous, work / UPDATE_FILE)
    text = _assessment_text(plan, options.assessment_text)
    wish = read_wish(plan, name, records, work, file=options.reassert, count=options.reassert_count)
    prepare_directory(work)
    memory = OwnMemory.open(plan, work, records, file=options.memory, key_file=options.journal_key)
    with _open_journal(member, memory, wish, work, options) as journal:
        unfinished = journal.unfinished
        memory.check(unfinished)
        finished = unfinished is not None and len(unfinished.completed) == len(plan.tasks)
        if not finished:
            check_output(options.output)
        ledger = Ledger(
            work / LEDGER_FILE,
            edits=records,
            weights=plan.model.weights,
            accept_repeated=options.accept_repeated_opening,
        )
        ledger.check(resuming=b"" if unfinished is None else unfinished.start.session_id)
        with watch.phase("load"):
            use_threads(options.threads)
            from collabedit.party.editing.editor import (
                ModelEditor,
                key_maps,
                load_plan_covariance,
            )

            maps = key_maps(plan, load_plan_covariance(plan, options.covariance))
            loaded, layout = load_to_edit(
                plan, model, device=options.device, previous=options.previous
            )
        with watch.phase("targets"):
            requests = take_requests(
                loaded,
                memory,
                wish,
                work,
                resumes=unfinished is not None,
                means=options.means,
                reporter=reporter,
            )
        editor = ModelEditor(
            plan,
            loaded,
            requests.chosen.edits,
            requests.chosen.targets,
            maps,
            past=requests.past.edits,
            text=text,
            reassertions=requests.reassertions,
            means=options.means,
        )
        channel = _open_channel(plan, address, credentials, options)
        reporter.connect(channel)
        with watch.phase("session"):
            session = _run(
                member,
                channel,
                editor,
                requests,
                work=work,
                ledger=ledger,
                journal=journal,
                options=options,
                reporter=reporter,
            )
        with watch.phase("save"):
            save_update(work / UPDATE_FILE, editor, session, reporter=reporter)
            # A process that died between saving and the end of its journal has written it.
            if options.output is not None and not (finished and options.output.exists()):
                write_joined(
                    plan,
                    loaded,
                    layout,
                    options.output,
                    session=session,
                    updates=editor.updates,
                    reporter=reporter,
                )
            memory.remember(session, requests.chosen.edits, requests.past)
        write_report(
            work / REPORT_FILE,
            plan,
            name,
            session,
            seconds=watch.seconds,
            channel=channel,
            selected={
                **selection_report(plan, requests.chosen.held, requests.past, session),
                **reassertion_report(requests.reassertions, session),
                "target_search": {"autocast": requests.chosen.targets.autocast},
            },
        )
        journal.end()
    reporter.say(f"update written to {work / UPDATE_FILE}")
    if options.output is not None:
        reporter.say(f"edited model written to {options.output}")
    return Joined(
        session,
        dict(editor.updates),
        loaded,
        work / UPDATE_FILE,
        work / REPORT_FILE,
        dict(watch.seconds),
    )


def _run(
    member: Member,
    channel: GrpcChannel,
    editor: "ModelEditor",
    requests: Requests,
    *,
    work: Path,
    ledger: Ledger,
    journal: PartyJournal,
    options: JoinOptions,
    reporter: Reporter,
) -> SessionReport:
    plan = member.plan
    evidence = EvidenceFolder(work, plan)
    counts = plan.overlap is not None

    def observe(event: str, fields: Mapping[str, object]) -> None:
        if event == "resumed":
            reporter.say(
                f"resuming session {fields['session']} at task {fields['task']}, "
                f"state {fields['state']}"
            )
        reporter.observe(event, fields)

    try:
        with recorded(options.record, plan, member.me, channel) as (through, verified):
            return run_session(
                member,
                through,
                editor,
                ledger=ledger,
                enter=EnteredSessions(work / SESSIONS_FILE).enter,
                evidence=evidence_sink(evidence, observe),
                journal=journal,
                items=edit_items(requests.chosen.edits) if counts else None,
                past_items=edit_items(requests.past.edits) if counts else (),
                reasserted_items=reasserted_items(plan, requests.reassertions),
                review=options.review,
                verified=verified,
                observer=observe,
                processes=options.threads,
            )
    except CollabEditError as error:
        for path in evidence.written:
            error.add_note(f"evidence for others is in {path}")
        raise


def _open_channel(
    plan: Plan, address: str, credentials: Credentials, options: JoinOptions
) -> GrpcChannel:
    tls = credentials.tls
    return GrpcChannel(
        address,
        tls=ClientTls(tls.certificate, tls.key, tls.authority),
        server_name=plan.federation.aggregator.name,
        patience=options.patience,
        upload_seconds=plan.timing.upload,
        poll_seconds=min(POLL_SECONDS, plan.timing.liveness / 3),
        rate_limit=options.upload_rate,
    )


def prepare_directory(work: Path) -> None:
    """Make a party's directory, which nobody else may read.

    Raises:
        InputError: it cannot be made.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
        work.chmod(0o700)
    except OSError as error:
        raise InputError(f"{work}: cannot be made private: {error.strerror}") from error


def use_threads(threads: int | None) -> None:
    """Give torch so many threads; None leaves the number to it."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _open_journal(
    member: Member, memory: OwnMemory, wish: "Wish | None", work: Path, options: JoinOptions
) -> PartyJournal:
    past = (edits_digest(memory.past),) if memory.past else ()
    brought = (edits_digest(memory.edits), *past)
    if wish is not None:
        brought += ("reassertions", wish.digest)
    journal = PartyJournal(
        work,
        randomness=SystemRandomness(),
        key_file=options.journal_key,
        inputs=transcript_hash("journal", *brought),
        abandon=options.abandon,
    )
    try:
        journal.check(member.plan.digest, member.me)
    except BaseException:
        journal.close()
        raise
    return journal


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
