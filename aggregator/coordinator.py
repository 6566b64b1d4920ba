"""A whole session at the aggregator: tasks one after the other, mailboxes, uploads, updates.

The `Coordinator` drives the state machine of `task` and knows no network and no clock: the gRPC
service and the in-memory simulation both stand on it, so what is simulated is what is deployed.
Every method may be called from any thread. The slow part, opening and merging a sum, happens in
`open_pending`, outside the lock.

Every input is in the journal before anybody sees what it caused (`journal`). A coordinator that is
given a journal with an unfinished session replays it and goes on where the other one stopped. An
input that the disk refuses is refused to whoever brought it, and changes nothing.
"""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from collabedit.aggregator import inputs
from collabedit.aggregator import states as s
from collabedit.aggregator.admission import admit
from collabedit.aggregator.bundles import Bundles
from collabedit.aggregator.encrypted import EncryptedUploads
from collabedit.aggregator.journal import Journal
from collabedit.aggregator.mailboxes import Mailboxes
from collabedit.aggregator.opening import OpenedTask, open_and_merge
from collabedit.aggregator.records import TaskRecord
from collabedit.aggregator.reporting import Observer, Reporter, ignore
from collabedit.aggregator.rounds import ROUNDS, waiting_for
from collabedit.aggregator.task import advance, receive, start_task
from collabedit.aggregator.tiles import TileStore
from collabedit.aggregator.transcript import Transcript
from collabedit.aggregator.witness import Witness
from collabedit.ciphertexts import opened_layout
from collabedit.crypto.rng import Randomness
from collabedit.crypto.signing import SigningKey
from collabedit.errors import (
    AbortReason,
    CollabEditError,
    CryptoError,
    DamagedUploadError,
    JournalError,
    PlanError,
    ProtocolError,
    UnexpectedMessageError,
)
from collabedit.exchange import TileLayout, decode_frame
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.plan import Plan, format_digest
from collabedit.proto import messages as m
from collabedit.proto.envelope import (
    check_identities,
    first_chain,
    next_chain,
    open_envelope,
    sign_message,
)
from collabedit.proto.evidence import EvidenceSink
from collabedit.recorder import Recorder
from collabedit.recording import Kind

_OPENED = 1 << 32
"""The journal keeps the tiles of a task's opened integers under its index and this: their owner has
tiles of its contribution there, too."""


class Coordinator:
    """One session of one plan.

    Args:
        plan: the plan.
        identity: the key that the plan pins for the aggregator.
        directory: for spool files and updates.
        randomness: draws the session id.
        evidence: given proof of each lie of a party, under the lock; must not raise.
        observer: told of every event, under the lock; must be quick.
        journal: if it holds an unfinished session, that one goes on; by default one in memory.
        recorder: keeps a transcript for audits; None keeps none.

    Raises:
        PlanError: `identity` is not the plan's.
        JournalError: the journal holds an unfinished session of another plan, or does not replay.
        StorageError: the disk refuses.
    """

    def __init__(
        self,
        plan: Plan,
        identity: SigningKey,
        *,
        directory: Path,
        randomness: Randomness,
        evidence: EvidenceSink | None = None,
        observer: Observer = ignore,
        journal: Journal | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        check_identities(plan)
        if identity.verify_key.to_bytes() != plan.identity(AGGREGATOR):
            raise PlanError("the identity key is not the one that the plan pins for the aggregator")
        self.plan = plan
        self._journal = Journal.in_memory() if journal is None else journal
        stored = self._journal.session
        if stored is not None and stored.plan_digest != plan.digest:
            raise JournalError(
                f"{self._journal.path}: holds an unfinished session of another plan, "
                f"{format_digest(stored.plan_digest)}: end that one first, or give it up"
            )
        self._identity = identity
        self._bundles = Bundles(directory, is_durable=self._journal.is_durable)
        self._witness = Witness(plan, evidence, observer)
        self._changed = threading.Condition(threading.RLock())
        self._mailboxes = Mailboxes(plan.party_ids)
        self._accepted: set[bytes] = set()
        self._joined: frozenset[PartyId] = frozenset()
        self._records: list[TaskRecord] = []
        self._interrupted = False
        self._task = TaskIndex(0)
        if stored is None:
            self._bundles.clear()
            self.session_id = randomness.random_bytes(m.SESSION_ID_BYTES)
            self._journal.begin(self.session_id, plan.digest)
        else:
            self.session_id = stored.session_id
        self._transcript = Transcript(recorder)
        self._transcript.begin(self.session_id)
        self._chain = first_chain(plan.digest, self.session_id)
        self._report = Reporter(plan, observer)
        self._report.muted = stored is not None
        self._begin(frozenset(plan.party_ids))
        self.replayed = 0
        """Inputs that were taken up from the journal."""
        if stored is not None:
            with self._changed:
                self._replay()
                self._report.muted = False
                self._restore_uploads()
            self._report.resumed(self._task, self.round_name, self.replayed)

    def __repr__(self) -> str:
        return f"Coordinator(plan={self.plan.name!r}, task={self._task}, round={self.round_name!r})"

    def _begin(self, expected: frozenset[PartyId]) -> None:
        context = m.Context(self.plan.digest, self.session_id, self._task, self._chain)
        self._setup = s.TaskSetup(self.plan, context, self._identity, expected)
        self._state = start_task(self._setup)
        layout = TileLayout.of(self.plan, self._task)
        self._layout = layout
        spool = self._bundles.spool(self._task)
        self._store = TileStore(spool, layout, task=self._task, journal=self._journal)
        self._opened: TileStore | None = None
        self._encrypted: EncryptedUploads | None = None
        if self.plan.is_encrypted:
            self._encrypted = EncryptedUploads(self.plan, self._task, self._store)
            self._opened = TileStore(
                spool / "opened",
                opened_layout(self.plan, self._task),
                task=TaskIndex(_OPENED + self._task),
                journal=self._journal,
            )
        self._report.task_started(self._task)

    def _replay(self) -> None:
        for entry in self._journal.inputs():
            try:
                change = inputs.unpack(entry)
                if isinstance(change, m.Packet):
                    self._witness.see(self._setup.context, change.envelope)
                    self._accepted.add(change.envelope.signature)
                    step = receive(self._state, change)
                else:
                    if isinstance(change, s.Merged):
                        self._bundles.check(self._task, change.update_digest)
                        self._bundles.release(self._task)
                    step = advance(self._state, change)
            except (CryptoError, ProtocolError) as error:
                raise JournalError(
                    f"{self._journal.path}: input {entry.number} does not fit: {error}; the "
                    "journal was written by another version or under another key"
                ) from error
            self.replayed += 1
            self._transcript.stepped(self._task, change, step)
            self._take(step)

    def _restore_uploads(self) -> None:
        # What a crash kept from being removed.
        self._bundles.clear_spools(self._task)
        state = self._state
        if isinstance(state, s.CollectingVerifications | s.Completed | s.Aborted):
            self._delete_uploads()
            return
        if isinstance(state, s.CollectingOpening):
            self._bundles.check_sum(self._task, state.sum_digest)
        if self._opened is not None:
            kept = () if isinstance(state, s.CollectingOpening) else self.plan.party_ids
            for party in self._opened.restore(answered=kept):
                self._report.upload_lost(party)
        answered = (
            frozenset(state.answers)
            if isinstance(state, s.CollectingContributions)
            else frozenset(self.plan.party_ids)
        )
        for party in self._store.restore(answered=answered):
            self._report.upload_lost(party)

    def _keep(self, change: s.Event | m.Packet) -> None:
        """Write an input down; whatever it causes comes after."""
        what = inputs.describe(change, task=self._task, round_name=self.round_name)
        self._journal.append(*inputs.pack(change), what=what)

    @property
    def state(self) -> s.State:
        """The current task's state."""
        return self._state

    @property
    def round_name(self) -> str:
        """Name of the current round, or the terminal state."""
        return ROUNDS.get(type(self._state), type(self._state).__name__.lower())

    @property
    def position(self) -> tuple[TaskIndex, str]:
        """Task and round; changes exactly when a round ends."""
        with self._changed:
            return self._task, self.round_name

    @property
    def waiting_for(self) -> frozenset[PartyId]:
        """Who could still answer in this round."""
        with self._changed:
            return waiting_for(self._state)

    @property
    def records(self) -> tuple[TaskRecord, ...]:
        """Finished tasks."""
        return tuple(self._records)

    @property
    def finished(self) -> bool:
        """Whether the session is over, well or not."""
        return isinstance(self._state, s.Completed | s.Aborted)

    @property
    def dropouts(self) -> tuple[s.Dropout, ...]:
        """Who was dropped in this session so far, and in which round."""
        with self._changed:
            done = tuple(dropout for record in self._records for dropout in record.dropouts)
            if isinstance(self._state, s.Completed):
                return done  # the record of the last task has them
            if isinstance(self._state, s.Aborted):
                return done + self._state.dropouts
            return done + self._state.progress.dropouts

    def raise_if_aborted(self) -> None:
        """Raise if the session ended early.

        Raises:
            SessionAbortedError: with reason and culprit.
        """
        if isinstance(self._state, s.Aborted):
            raise self._state.to_error(self.plan)

    def welcome(self, packet: m.Packet) -> m.Packet:
        """Answer a `Join`.

        Raises:
            RefusalError: PLAN_MISMATCH, UNKNOWN_PARTY.
            InvalidSignatureError: not signed by the identity that the plan pins.
            MalformedMessageError: not a `Join`.
        """
        party = admit(self.plan, packet)
        with self._changed:
            if party not in self._joined:
                self._joined |= {party}
                self._report.joined(party)
        first = m.Context(
            self.plan.digest,
            self.session_id,
            TaskIndex(0),
            first_chain(self.plan.digest, self.session_id),
        )
        answer = sign_message(m.Welcome(), context=first, sender=AGGREGATOR, key=self._identity)
        return m.Packet(answer)

    def deliver(self, packet: m.Packet) -> None:
        """Take one message of a party. The same packet again is ignored.

        Raises:
            RefusalError, InvalidSignatureError, MalformedMessageError, UnexpectedMessageError: see
                `task.receive`; the session goes on without that message.
        """
        envelope = packet.envelope
        with self._changed:
            if envelope.signature in self._accepted:
                return
            if envelope.context.session_id != self.session_id:
                raise UnexpectedMessageError("this message belongs to another session")
            self._witness.see(self._setup.context, envelope)
            before = self.round_name
            if envelope.kind == m.KINDS[m.Contribute]:
                self._check_upload(envelope)
            elif envelope.kind == m.KINDS[m.SumOpened]:
                self._check_opened(envelope)
            step = receive(self._state, packet)
            self._transcript.stepped(self._task, packet, step)
            self._keep(packet)
            self._accepted.add(envelope.signature)
            self._report.received(self._task, before, envelope)
            self._take(step)

    def _check_upload(self, envelope: m.Envelope) -> None:
        if not isinstance(self._state, s.CollectingContributions):
            return  # `receive` refuses it with the right words
        if envelope.sender not in waiting_for(self._state):
            return
        message = open_envelope(
            envelope, m.Contribute, context=self._setup.context, identities=self.plan.identity
        )
        self._store.check(envelope.sender, message)
        # SPEC 4.12(b): without a digest of seeds it is malformed, which `receive` says.
        if self._encrypted is not None and message.seeds:
            self._encrypted.check(envelope.sender, message, self._state.answers)

    def _check_opened(self, envelope: m.Envelope) -> None:
        state = self._state
        if not isinstance(state, s.CollectingOpening) or self._opened is None:
            return  # as above
        if envelope.sender in waiting_for(state):
            message = open_envelope(
                envelope, m.SumOpened, context=self._setup.context, identities=self.plan.identity
            )
            self._opened.check(envelope.sender, message)

    def put_frame(self, party: PartyId, task: TaskIndex, frame: bytes) -> int:
        """Store one frame of a party's upload and return its tile index.

        Raises:
            UnexpectedMessageError: no upload of this party is due.
            MalformedMessageError: not a frame of this task.
            StorageError: the disk refuses.
        """
        store, layout = self._due(party, task)
        tile = decode_frame(frame, layout=layout)
        store.put(party, tile)
        self._transcript.frame(party, task, frame)
        return tile.index

    def settle_upload(self, party: PartyId, task: TaskIndex) -> None:
        """Make the frames that `put_frame` took survive a crash; only then acknowledge them.

        Raises:
            UnexpectedMessageError: no upload of this party is due.
            StorageError: the disk refuses.
        """
        self._due(party, task)[0].settle(party)

    def stored_tiles(self, party: PartyId, task: TaskIndex) -> bytes:
        """Return the bitmap of tiles that a party need not send again (SPEC 5.3).

        Raises:
            UnexpectedMessageError: no upload of this party is due.
        """
        return self._due(party, task)[0].stored(party)

    def _due(self, party: PartyId, task: TaskIndex) -> tuple[TileStore, TileLayout]:
        with self._changed:
            state = self._state
            if (
                isinstance(state, s.CollectingContributions)
                and task == self._task
                and party in waiting_for(state)
            ):
                return self._store, self._layout
            if (
                isinstance(state, s.CollectingOpening)
                and self._opened is not None
                and task == self._task
                and party in waiting_for(state)
            ):
                return self._opened, opened_layout(self.plan, task)
        raise UnexpectedMessageError(f"no upload of party {party} for task {task} is due")

    def close_round(self) -> None:
        """End the current round with who has answered. Does nothing once the session is over."""
        with self._changed:
            if self.finished or isinstance(self._state, s.Summing | s.Opening):
                return
            step = advance(self._state, s.RoundClosed())
            self._transcript.stepped(self._task, s.RoundClosed(), step)
            self._keep(s.RoundClosed())
            self._report.round_closed(self._task, self.round_name, self.waiting_for)
            self._take(step)

    def open_pending(self) -> OpenedTask | None:
        """Add, or open and merge the sum, if the current task has come that far.

        Raises:
            StorageError: the disk refuses the update; call again when it does not.
        """
        with self._changed:
            state, store, opened = self._state, self._store, self._opened
            encrypted = self._encrypted
        if isinstance(state, s.Summing) and encrypted is not None:
            self._add(state, encrypted)
            return None
        if not isinstance(state, s.Opening):
            return None
        outcome = open_and_merge(state, store, opened)
        event = outcome.event if isinstance(outcome, OpenedTask) else outcome
        if isinstance(outcome, OpenedTask):
            self._bundles.store(self._task, outcome.bundle)
        with self._changed:
            step = advance(self._state, event)
            if isinstance(outcome, OpenedTask):
                self._transcript.opened(self._task, state.survivors, outcome.total)
            self._transcript.stepped(self._task, event, step)
            self._keep(event)
            if isinstance(outcome, OpenedTask):
                self._bundles.release(self._task)
                self._report.opened(self._task, state.survivors, outcome.event.sum_digest)
            self._take(step)
            store.delete()
            if opened is not None:
                opened.delete()
            self._bundles.forget_sum(state.progress.setup.context.task)
        return outcome if isinstance(outcome, OpenedTask) else None

    def _add(self, state: s.Summing, uploads: EncryptedUploads) -> None:
        """Add ciphertexts, and offer the sum to its opener."""
        task = state.progress.setup.context.task
        event: s.Event
        try:
            event = s.Summed(*self._bundles.store_sum(task, uploads.offer(state.survivors)))
        except DamagedUploadError as error:
            event = s.MergeRefused(str(error), AbortReason.INTERNAL)
        with self._changed:
            step = advance(self._state, event)
            self._transcript.stepped(self._task, event, step)
            self._keep(event)
            self._take(step)

    def _delete_uploads(self) -> None:
        self._store.delete()
        if self._opened is not None:
            self._opened.delete()
        self._bundles.forget_sum(self._task)

    def _take(self, step: s.Step) -> None:
        self._state = step.state
        self._mailboxes.post(step.outbound)
        self._report.state(self._task, step.state)
        if isinstance(step.state, s.Completed):
            self._finish(step.state)
        elif isinstance(step.state, s.Aborted):
            self._delete_uploads()
        self._changed.notify_all()

    def _finish(self, done: s.Completed) -> None:
        self._records.append(
            TaskRecord(
                self._task, done.survivors, done.update_digest, done.sum_digest, done.dropouts
            )
        )
        if self._task + 1 == len(self.plan.tasks):
            self._report.session_finished(len(self._records))
            return
        self._chain = next_chain(self._chain, done.update_digest)
        self._task = TaskIndex(self._task + 1)
        self._begin(done.present)

    def mailbox(self, party: PartyId, *, cursor: int) -> tuple[m.Packet, ...]:
        """Return a party's packets after the first `cursor`.

        Raises:
            MalformedMessageError: the cursor is beyond the mailbox.
        """
        with self._changed:
            return self._mailboxes.after(party, cursor)

    def wait_mailbox(
        self,
        party: PartyId,
        *,
        cursor: int,
        seconds: float,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> tuple[m.Packet, ...]:
        """Like `mailbox`, but hold the call up to `seconds` while there is nothing new.

        Args:
            party: whose mailbox.
            cursor: packets that it has.
            seconds: longest hold.
            is_wanted: whether somebody still waits for the answer; looked at after `release_polls`.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._mailboxes.has_more(party, cursor) or self._interrupted or not is_wanted()
                ),
                timeout=seconds,
            )
            return self.mailbox(party, cursor=cursor)

    def note_refusal(self, error: CollabEditError) -> None:
        """Tell the observer that a call was refused, so that the operator sees faults of ours."""
        with self._changed:
            self._report.refused(self._task, self.round_name, error)

    def release_polls(self) -> None:
        """Let held calls look whether they are still wanted."""
        with self._changed:
            self._changed.notify_all()

    def interrupt(self) -> None:
        """Let every waiting call return now; the session is being shut down."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def wait_change(self, position: tuple[TaskIndex, str], seconds: float) -> None:
        """Hold the call up to `seconds` while task and round stay as they are."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.position != position or self.finished, timeout=seconds
            )

    def download(self, party: PartyId, task: TaskIndex) -> Iterator[bytes]:
        """Read what a party may fetch of a task: the sum that it is to open, else the update.

        Raises:
            UnexpectedMessageError: there is nothing yet.
            StorageError: the file cannot be read.
        """
        with self._changed:
            state = self._state
            if isinstance(state, s.CollectingOpening) and (party, task) == (
                state.opener,
                self._task,
            ):
                chunks = self._bundles.sum_chunks
                kind: Kind = "sum"
            else:
                chunks = self._bundles.chunks
                kind = "bundle"
            found = chunks(task)
        self._transcript.fetched(party, task, kind, lambda: chunks(task))
        return found

    def bundle(self, task: TaskIndex) -> bytes:
        """Return a released update bundle.

        Raises:
            UnexpectedMessageError: the task isn't released.
            StorageError: the file cannot be read.
        """
        with self._changed:
            chunks = self._bundles.chunks(task)
        return b"".join(chunks)

    def retire(self) -> None:
        """The session is over and told: erase what it kept. The log of what happened stays.

        Raises:
            StorageError: the disk refuses.
        """
        with self._changed:
            self._journal.end("finished" if isinstance(self._state, s.Completed) else "aborted")
            self._bundles.clear()
