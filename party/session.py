"""A party's whole session: join, one secure sum after the other, apply each verified update.

The protocol is `task`, and `driver` takes it through one sum. This module owns the order of things
that matter: a contribution is encoded, and so checked against the plan's bounds, before the party's
first message of the task; an update is applied only after at least a threshold of parties signed
the same one, but for a trial before a vote; and if the session ends early, everything that was
applied is taken back. With a journal (`replay`) a session whose process died goes on where it was.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from collabedit.errors import (
    AbortReason,
    CollabEditError,
    InputError,
    MalformedMessageError,
    NumericError,
    ProtocolError,
    SessionAbortedError,
    StorageError,
)
from collabedit.ids import AGGREGATOR, LayerIndex, TaskIndex
from collabedit.party import states as s
from collabedit.party.candidate import Candidate, has_voted
from collabedit.party.channel import Channel
from collabedit.party.closing import Released
from collabedit.party.contribution import bring
from collabedit.party.cover import with_cover
from collabedit.party.decisions import Decision
from collabedit.party.driver import TaskDriver
from collabedit.party.entries import EditsCounted, TaskCompleted
from collabedit.party.items import Item
from collabedit.party.journal import PartyJournal
from collabedit.party.member import (
    Editor,
    Member,
    Observer,
    OpeningRecord,
    SessionReport,
    TaskReport,
)
from collabedit.party.merge_check import CheckedLayer
from collabedit.party.overlap import OwnEdits, Review, accept
from collabedit.party.replay import InputLog, Replayed, replay_task
from collabedit.party.witness import Witness
from collabedit.plan import format_digest
from collabedit.proto import messages as m
from collabedit.proto.envelope import (
    first_chain,
    next_chain,
    open_envelope,
    sign_message,
)
from collabedit.proto.evidence import EvidenceSink
from collabedit.proto.votes import name_votes
from collabedit.sketch import LowRankUpdate

Verified: TypeAlias = Callable[[TaskIndex, Mapping[LayerIndex, LowRankUpdate]], None]
"""Told of the updates of a task, once a threshold of parties signed them."""


def _ignore(event: str, fields: Mapping[str, object]) -> None:
    del event, fields


def forget(task: TaskIndex, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
    """Keep nothing."""
    del task, updates


def run_session(
    member: Member,
    channel: Channel,
    editor: Editor,
    *,
    ledger: OpeningRecord | None = None,
    evidence: EvidenceSink | None = None,
    enter: Callable[[bytes], None] | None = None,
    journal: PartyJournal | None = None,
    items: Sequence[Item] | None = None,
    past_items: Sequence[Item] = (),
    reasserted_items: Sequence[Item] = (),
    review: Review = accept,
    verified: Verified = forget,
    observer: Observer = _ignore,
    processes: int | None = None,
) -> SessionReport:
    """Take part in one session, to its end, or go on with the one in the journal.

    Args:
        member: who we are.
        channel: to the aggregator; closed at the end.
        editor: our model and edits, as they were before the session.
        ledger: told before each opening; None for throw-away sessions.
        enter: told the session id before anything is signed in the session, and refuses one that
            was entered before; None for throw-away identities.
        evidence: given proof of each lie of the aggregator that a third person can check.
        journal: of our work directory; None if the session need not survive this process. After
            success it still holds the updates: end it once they are stored elsewhere. After an
            error it is ended, unless the session can be resumed.
        items: of our edits, in order; needed if the plan counts overlap.
        past_items: of our past edits, in order, if the plan counts overlap.
        reasserted_items: of our re-assertions, likewise.
        review: told what is decided about our edits before anything that depends on it is sent; may
            raise to leave the session.
        verified: told of each update that was verified, in the model's mapped coordinates, before
            it is applied; again if the session is resumed.
        observer: told of every event.
        processes: most worker processes that encrypt a long upload; None for one for each core.

    Raises:
        ValueError: the plan counts overlap, and there are no `items` to count.
        SessionAbortedError: the session ended early; `editor` is as it was before.
        NumericError: our own statistics break the plan's bounds; nothing of them was sent.
        TransportError, StorageError: network or disk fail; `editor` is as it was before, and with a
            journal the session can be resumed: no farewell was said.
        ProtocolError: see `Channel`.
    """
    if member.plan.overlap is not None and items is None:
        raise ValueError("the plan counts overlap: the session needs the items of our edits")
    session = _Session(
        member,
        channel,
        ledger=ledger,
        enter=enter,
        witness=Witness(member.plan, evidence),
        journal=journal,
        own=OwnEdits(
            member.plan, member.me, items or (), past=past_items, reasserted=reasserted_items
        ),
        review=review,
        verified=verified,
        observer=observer,
        processes=processes,
    )
    try:
        reports = session.run(editor)
    except BaseException as error:
        try:
            editor.rollback()
        finally:
            session.leave(error)
        raise
    finally:
        channel.close(finished=session.is_over)
    return SessionReport(
        session.session_id.hex(),
        tuple(reports),
        format_digest(session.chain),
        session.decisions,
        session.past_claims,
        session.reasserted_claims,
    )


class _Session:
    def __init__(
        self,
        member: Member,
        channel: Channel,
        *,
        ledger: OpeningRecord | None,
        enter: Callable[[bytes], None] | None,
        witness: Witness,
        journal: PartyJournal | None,
        own: OwnEdits,
        review: Review,
        verified: Verified,
        observer: Observer,
        processes: int | None,
    ) -> None:
        self._member = member
        self._plan = member.plan
        self._channel = channel
        self._ledger = ledger
        self._enter_once = enter
        self._witness = witness
        self._journal = journal
        self._log = InputLog(journal)
        self._own = own
        self._review = review
        self._verified = verified
        self._observer = observer
        self._driver = TaskDriver(
            self._plan,
            channel,
            log=self._log,
            witness=witness,
            ledger=ledger,
            observer=observer,
            processes=processes,
        )
        self._resuming = False
        self._entered = False
        self.is_over = False
        self.chain = b""
        self._context: m.Context | None = None
        self._farewell = m.Abort(AbortReason.PARTY_LEFT, member.me)
        self.session_id = b""
        self.decisions: tuple[Decision, ...] = ()
        self.past_claims: tuple[int, ...] = ()
        self.reasserted_claims: tuple[int, ...] = ()

    def run(self, editor: Editor) -> tuple[TaskReport, ...]:
        tasks = len(self._plan.tasks)
        if self._journal is not None:
            self._journal.check(self._plan.digest, self._member.me)
        if self._finished_before() < tasks:
            self._join()
        unfinished = None if self._journal is None else self._journal.unfinished
        candidate = Candidate(self._plan, editor, has_voted=has_voted(unfinished))
        reports = self._reapply(editor, candidate)
        if self._resuming and self._journal is not None:
            self._tell_where(self._journal)
        reports += [
            self._run_task(TaskIndex(task), editor, candidate)
            for task in range(len(reports), tasks)
        ]
        self.is_over = True
        return tuple(reports)

    def _finished_before(self) -> int:
        journal = self._journal
        if journal is None or journal.unfinished is None:
            return 0
        finished = len(journal.unfinished.completed)
        if finished == len(self._plan.tasks):
            # Nothing is left to be agreed on; the aggregator may be gone.
            self._resuming = True
            self.session_id = journal.unfinished.start.session_id
            self.chain = first_chain(self._plan.digest, self.session_id)
        return finished

    def _tell_where(self, journal: PartyJournal) -> None:
        session = journal.unfinished
        if session is not None and session.task is None:
            finished = len(session.completed)
            over = finished == len(self._plan.tasks)
            self._observe_resumed(finished - over, "Completed" if over else "Computing")

    def _observe_resumed(self, task: int, state: str) -> None:
        session = self.session_id.hex()[:16]
        self._observer("resumed", {"session": session, "task": task, "state": state})

    def _join(self) -> None:
        plan, member = self._plan, self._member
        nowhere = m.Context(
            plan.digest, bytes(m.SESSION_ID_BYTES), TaskIndex(0), bytes(m.DIGEST_BYTES)
        )
        request = sign_message(m.Join(), context=nowhere, sender=member.me, key=member.identity)
        answer = self._channel.join(m.Packet(request)).envelope
        if answer.sender != AGGREGATOR:
            raise MalformedMessageError("the welcome is not the aggregator's")
        self.session_id = answer.context.session_id
        self.chain = first_chain(plan.digest, self.session_id)
        context = m.Context(plan.digest, self.session_id, TaskIndex(0), self.chain)
        open_envelope(answer, m.Welcome, context=context, identities=plan.identity)
        self._enter(context)
        self._channel.open(self.session_id, cursor=self._driver.cursor)
        self._observer("joined", {"session": self.session_id.hex()[:16]})

    def _enter(self, context: m.Context) -> None:
        """Resume the journal's session if this is it, else begin a journal of this one."""
        journal = self._journal
        if journal is None:
            self._note(context)
            return
        unfinished = journal.unfinished
        if unfinished is not None and unfinished.start.session_id == self.session_id:
            self._driver.cursor = unfinished.cursor
            self._resuming = self._entered = True
            if unfinished.task is None and not unfinished.completed:
                # The process may have died before it noted the session; nothing is signed yet.
                with contextlib.suppress(ProtocolError):
                    self._note(context)
            self._context = context
            return
        if unfinished is not None:
            # The aggregator was started anew, the old session is gone. If it opened something, that
            # is a matter for the operator, and the journal stays as it is.
            if self._ledger is not None:
                try:
                    self._ledger.check()
                except InputError:
                    self._note(context)  # to say farewell there
                    raise
            self._observer("superseded", {"session": unfinished.start.session_id.hex()[:16]})
        journal.begin(self.session_id, self._plan.digest, self._member.me)
        self._entered = True
        self._note(context)

    def _note(self, context: m.Context) -> None:
        """Write the session down; from here on something may be signed in it."""
        if self._enter_once is not None:
            self._enter_once(self.session_id)
        self._context = context

    def _reapply(self, editor: Editor, candidate: Candidate) -> list[TaskReport]:
        """Apply the updates of tasks that were finished before this process began."""
        journal = self._journal
        if journal is None or journal.unfinished is None:
            return []
        reports = []
        session = journal.unfinished
        for done in session.completed:
            checks: tuple[CheckedLayer, ...] = ()
            context = self._context_of(done.task)
            self.chain = next_chain(self.chain, done.update_digest)
            if self._context is not None:
                self._context = self._context_of(TaskIndex(done.task + 1))
            if self._plan.counting(done.task) is None:
                data = journal.update(done.task, done.update_digest)
                survivors = frozenset(done.survivors)
                released = Released(self._plan, context, data, survivors, done.group_secret)
                self._verified(done.task, released.opened.updates)
                candidate.apply(released)
                checks = released.opened.checks
            else:
                # Whoever has begun to contribute has said yes before.
                is_new = session.task is None and len(session.completed) == 1
                self._weigh(editor, session.counted, review=self._review if is_new else accept)
            reports.append(self._report(done, checks))
        return reports

    def _context_of(self, task: TaskIndex) -> m.Context:
        return m.Context(self._plan.digest, self.session_id, task, self.chain)

    def _run_task(self, task: TaskIndex, editor: Editor, candidate: Candidate) -> TaskReport:
        plan, layers = self._plan, self._plan.tasks[task]
        self._context = self._context_of(task)
        self._driver.reset()
        started = time.monotonic()
        replayed = self._replay()
        brought = self._bring(task, editor) if replayed is None else replayed.brought
        computed = time.monotonic()
        self._observer("computed", {"task": task, "layers": [layer.index for layer in layers]})
        setup = self._setup()
        completed, released, assessment = self._driver.run(setup, brought, replayed, candidate)
        self.chain = next_chain(self.chain, completed.update_digest)
        # The aggregator is at the next task by now: a farewell from here on belongs there.
        self._context = self._context_of(TaskIndex(task + 1))
        counted = None
        if plan.counting(task) is not None:
            counted = self._count(setup, completed, brought, released.data)
        done = TaskCompleted(
            task,
            self._driver.cursor,
            completed.update_digest,
            completed.sum_digest,
            computed - started,
            time.monotonic() - computed,
            tuple(sorted(completed.survivors)),
            tuple(sorted(completed.votes.items())),
            assessment,
            completed.group_secret if counted is None else None,
        )
        self._log.completed(done, counted)
        report = self._report(done, released.opened.checks if counted is None else ())
        if counted is None:
            self._verified(task, released.opened.updates)
            candidate.apply(released)
        else:
            self._weigh(editor, counted, review=self._review)
        event = "applied" if counted is None else "counted"
        self._observer(event, {"task": task, "survivors": list(report.survivors)})
        return report

    def _count(
        self, setup: s.TaskSetup, completed: s.Completed, brought: bytes | memoryview, data: bytes
    ) -> EditsCounted:
        try:
            return self._own.read(setup, completed, brought=brought, data=data)
        except SessionAbortedError as error:
            self._farewell = m.Abort(error.reason, None)
            raise

    def _weigh(self, editor: Editor, counted: EditsCounted | None, *, review: Review) -> None:
        counts = () if counted is None else counted.counts
        self.decisions = self._own.decide(counts)
        self.past_claims = self._own.past_claims(counts)
        self.reasserted_claims = self._own.reasserted_claims(counts)
        review(self.decisions)
        editor.weigh(self.decisions, (*self.past_claims, *self.reasserted_claims))

    def _report(self, done: TaskCompleted, checks: tuple[CheckedLayer, ...]) -> TaskReport:
        return TaskReport(
            task=done.task,
            layers=tuple(layer.index for layer in self._plan.tasks[done.task]),
            survivors=tuple(self._plan.party_name(party) for party in done.survivors),
            sum_digest=format_digest(done.sum_digest),
            update_digest=format_digest(done.update_digest),
            compute_seconds=done.compute_seconds,
            protocol_seconds=done.protocol_seconds,
            votes=name_votes(self._plan, dict(done.votes)),
            assessment=done.assessment,
            checks=checks,
        )

    def _setup(self) -> s.TaskSetup:
        assert self._context is not None  # noqa: S101  for mypy
        member = self._member
        return s.TaskSetup(self._plan, self._context, member.me, member.identity, member.randomness)

    def _replay(self) -> Replayed | None:
        if self._journal is None or self._context is None:
            return None
        replayed = replay_task(self._journal, self._setup(), self._witness.receive)
        if replayed is not None:
            state = type(replayed.step.state).__name__
            self._observe_resumed(self._context.task, state)
        return replayed

    def _bring(self, task: TaskIndex, editor: Editor) -> bytes | memoryview:
        """Fix what this task gets from us, checked against the plan, before its first message."""
        plan, member = self._plan, self._member
        try:
            if plan.counting(task) is not None:
                return self._own.brought()
            statistics = editor.statistics(plan.tasks[task])
            covered = with_cover(plan, statistics, member.randomness)
            return bring(plan, member.me, task, covered, member.randomness)
        except NumericError:
            self._farewell = m.Abort(AbortReason.INPUT_REFUSED, self._member.me)
            raise

    def leave(self, error: BaseException) -> None:
        """End the session on our side, unless it can be resumed after `error`."""
        if self._log.keeps(error):
            return
        self.is_over = True
        try:
            self._say_farewell()
        finally:
            if self._journal is not None and self._entered:
                # An error of the disk must not hide why the session ended.
                with contextlib.suppress(StorageError):
                    self._journal.end()

    def _say_farewell(self) -> None:
        """Tell the aggregator that we are gone, if it can still be told and doesn't know."""
        if self._context is None or not self.session_id or self._driver.is_over:
            return
        with contextlib.suppress(CollabEditError):
            if self._driver.leave(self._farewell.reason):
                return
            # Between two tasks no state machine runs that could say it.
            farewell = sign_message(
                self._farewell,
                context=self._context,
                sender=self._member.me,
                key=self._member.identity,
            )
            self._channel.deliver(m.Packet(farewell))
