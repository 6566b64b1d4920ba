"""One secure sum at a party: the state machine of `task` between the channel and the journal.

Whatever the machine accepts is durable before what it causes leaves (`replay`), and an opening is
written down before the shares that open it leave.
"""

import contextlib
import hashlib
import time
from collections.abc import Iterator

from collabedit.acceptance import Assessment, Vote, describe
from collabedit.ciphertexts import Words, task_chunks
from collabedit.crypto.ring import Ring
from collabedit.crypto.rng import Randomness
from collabedit.errors import (
    AbortReason,
    CollabEditError,
    MalformedMessageError,
    ProtocolError,
    SessionAbortedError,
    StorageError,
    TransportError,
    UnexpectedMessageError,
)
from collabedit.ids import TaskIndex
from collabedit.party import states as s
from collabedit.party.candidate import Candidate
from collabedit.party.channel import Channel
from collabedit.party.closing import Released, UnverifiedError
from collabedit.party.contribution import contributed_vector, masked_upload, upload_pieces
from collabedit.party.member import Observer, OpeningRecord
from collabedit.party.pieces import StoredVector
from collabedit.party.replay import InputLog, Replayed
from collabedit.party.task import advance, receive
from collabedit.party.witness import Witness
from collabedit.plan import Plan
from collabedit.proto import messages as m
from collabedit.proto.statements import RefusalError

_POLL_SECONDS = 1.0


class TaskDriver:
    """Drives the tasks of one session, one after the other.

    Args:
        plan: the plan.
        channel: to the aggregator.
        log: told of every input.
        witness: stands before the machine; sees contradictions of the aggregator.
        ledger: told before each opening.
        observer: told of every event.
        processes: most that encrypt; None for as many as there are cores.

    Attributes:
        cursor: packets of the mailbox that were taken so far.
    """

    def __init__(
        self,
        plan: Plan,
        channel: Channel,
        *,
        log: InputLog,
        witness: Witness,
        ledger: OpeningRecord | None,
        observer: Observer,
        processes: int | None = None,
    ) -> None:
        self._plan = plan
        self._channel = channel
        self._log = log
        self._witness = witness
        self._ledger = ledger
        self._observer = observer
        self._processes = processes
        self._state: s.State | None = None
        self.cursor = 0

    def run(
        self,
        setup: s.TaskSetup,
        brought: bytes | memoryview,
        replayed: Replayed | None,
        candidate: Candidate,
    ) -> tuple[s.Completed, Released, Assessment | None]:
        """Take part in one sum, to its end.

        Args:
            setup: of the task.
            brought: what it gets from us (`contribution.contributed_vector`).
            replayed: where the journal left the task; None to begin it.
            candidate: tries the update if the plan has it voted on.

        Returns:
            The last state, what was released, and what our vote rests on.

        Raises:
            SessionAbortedError: the task ended early, on either side.
            ProtocolError, TransportError, StorageError: see `session.run_session`.
        """
        released, assessment = None, None
        try:
            if replayed is None:
                self._take(self._log.start_task(setup, brought))
            else:
                assessment = replayed.assessment
                self._take(replayed.step, replayed=True)
            while not isinstance(self._state, s.Completed):
                state = self._state
                if isinstance(state, s.FetchingUpdate):
                    released, assessment = self._fetch(state, candidate)
                elif state is not None:
                    self._go_on(state, setup, brought)
        except SessionAbortedError:
            raise
        except ProtocolError:
            self._look_for_abort(seconds=_POLL_SECONDS)
            raise
        except TransportError:
            # Only what is here already: an abort that follows is the consequence, not the cause.
            self._look_for_abort(seconds=0.0)
            raise
        completed = self._state
        if released is None:
            assert replayed is not None  # noqa: S101  what was not fetched here was fetched before
            released = Released(
                self._plan,
                setup.context,
                replayed.bundle,
                completed.survivors,
                completed.group_secret,
            )
        return completed, released, assessment

    def _go_on(self, state: s.State, setup: s.TaskSetup, brought: bytes | memoryview) -> None:
        if isinstance(state, s.Contributing):
            self._upload(state, brought)
        elif isinstance(state, s.OpeningSum):
            # Noise is drawn from the system, not from what the machine replays.
            self._open(state, setup.randomness)
        else:
            self._receive(state)

    def _upload(self, state: s.Contributing, brought: bytes | memoryview) -> None:
        task = state.setup.context.task
        encoded = self._contribution(state, brought)
        upload = masked_upload(self._plan, task, encoded, state.masks)
        self._observer("uploading", {"task": task, "tiles": upload.layout.tiles})
        self._channel.upload(task, upload.frames)
        self._observer("uploaded", {"task": task})
        event = upload.uploaded()
        step = advance(state, event)
        self._log.uploaded(event, step)
        self._take(step)

    def _contribution(self, state: s.Contributing, brought: bytes | memoryview) -> Words:
        setup, secret = state.setup, state.group_secret
        task = setup.context.task
        if not self._plan.is_closed(task):
            # Whole numbers, which come out alike each time.
            return contributed_vector(setup, brought, secret)

        def make() -> Iterator[bytes]:
            vector = contributed_vector(setup, brought, secret)
            processes = self._encrypting(task)
            return upload_pieces(setup, vector, secret, processes=processes)

        ring = Ring.from_bits(self._plan.aggregation.ring_bits)
        return StoredVector(self._log.contribution(task, make), ring)

    def _encrypting(self, task: TaskIndex) -> int:
        """Tell the observer that encryption begins; return how many workers do it."""
        if not self._plan.is_encrypted:
            return 0
        from collabedit.party.decryption import worker_processes  # noqa: PLC0415  needs TenSEAL

        chunks = task_chunks(self._plan, task)
        processes = worker_processes(chunks, self._processes)
        self._observer("encrypting", {"task": task, "chunks": chunks, "processes": processes})
        return processes

    def _open(self, state: s.OpeningSum, randomness: Randomness) -> None:
        """Open the one sum that this task's key opens, and hand in what it says."""
        from collabedit.party.decryption import (  # noqa: PLC0415  needs TenSEAL
            open_chunks,
            opened_upload,
        )

        context = state.setup.context
        task = context.task
        self._observer("opening", {"task": task, "survivors": len(state.survivors)})
        was_begun = self._log.begin_opening(state.sum_digest)
        if self._ledger is not None:
            self._ledger.record_key(context.session_id, task, replayed=was_begun)

        def make() -> Iterator[bytes]:
            try:
                with self._log.scratch() as offer:
                    self._channel.fetch(task, limit=state.sum_bytes, file=offer)
                    yield from open_chunks(state, offer, randomness)
            except OSError as error:
                raise StorageError(
                    f"the sum of task {task} cannot be kept until it is opened: {error.strerror}"
                ) from error

        try:
            opened = StoredVector(self._log.opening(task, make), Ring.Z64)
        except RefusalError as refusal:
            detail = str(refusal).removeprefix(f"{refusal.reason.name}: ")
            self._take(advance(state, s.SumRefused(refusal.reason, detail, refusal.culprit)))
            raise
        upload = opened_upload(self._plan, task, opened)
        self._channel.upload(task, upload.frames)
        event = upload.uploaded()
        step = advance(state, event)
        self._log.uploaded(event, step)
        self._take(step)

    def _fetch(
        self, state: s.FetchingUpdate, candidate: Candidate
    ) -> tuple[Released, Assessment | None]:
        context = state.setup.context
        task = context.task
        bundle = self._channel.download(task, limit=state.update_bytes)
        digest = hashlib.sha256(bundle).digest()
        released = Released(self._plan, context, bundle, state.survivors, state.group_secret)
        assessment, vote = None, Vote.NONE
        # Bytes that are not the released ones are not even tried.
        if digest == state.update_digest:
            self._check(state, released)
            if self._plan.is_voted(task):
                assessment = candidate.assess(released)
                vote = assessment.vote
                self._observer("assessed", {"task": task, **describe(assessment)})
        step = advance(state, s.UpdateFetched(digest, vote))
        self._log.fetched(task, bundle, step, assessment)
        self._take(step)
        return released, assessment

    def _check(self, state: s.FetchingUpdate, released: Released) -> None:
        """Hold an update against the sums that it shall be the merge of, if they are closed."""
        task = released.context.task
        if not self._plan.is_closed(task):
            return
        try:
            checks = released.opened.checks
        except UnverifiedError as error:
            self._take(advance(state, s.UpdateRefused(error.reason, str(error))))
            raise
        except MalformedMessageError as error:
            refused = s.UpdateRefused(AbortReason.MALFORMED_MESSAGE, str(error))
            self._take(advance(state, refused))
            raise
        for check in checks:
            fields = {"layer": check.layer, "miss": check.miss, "tolerance": check.tolerance}
            self._observer("checked", {"task": task, **fields})

    def _look_for_abort(self, *, seconds: float) -> None:
        """Raise the abort that waits in the mailbox, if there is one.

        A call that was refused is often only the consequence: the aggregator ended the session, or
        went on without us, and the reason is still on its way.
        """
        while self._state is not None and not isinstance(self._state, s.Completed | s.Aborted):
            try:
                packet = self._channel.next_packet(seconds)
            except (ProtocolError, TransportError):
                return  # the first error says more
            if packet is None:
                return
            if packet.envelope.kind == m.KINDS[m.Abort]:
                self._take(receive(self._state, packet))

    def _receive(self, state: s.State) -> None:
        packet = self._next_packet()
        self.cursor += 1
        try:
            step = self._witness.receive(state, packet)
        except UnexpectedMessageError:
            # A repeated or late packet; the state stays as it is.
            self._observer("ignored", {"kind": packet.envelope.kind})
            return
        self._log.received(packet, self.cursor, step)
        self._take(step)

    def _next_packet(self) -> m.Packet:
        timing = self._plan.timing
        # The aggregator itself waits at most this long for the slowest peer, in any round.
        limit = timing.liveness + max(timing.join, timing.compute, timing.upload, timing.round)
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            packet = self._channel.next_packet(_POLL_SECONDS)
            if packet is not None:
                return packet
        raise SessionAbortedError(
            AbortReason.TIMEOUT, f"no message for {limit:.0f} s", culprit="aggregator"
        )

    def _take(self, step: s.Step, *, replayed: bool = False) -> None:
        self._state = step.state
        # An encrypted sum may be opened without us, once our upload is signed.
        opens = s.AwaitingSurvivors if self._plan.is_encrypted else s.AwaitingRelease
        if isinstance(step.state, opens) and self._ledger is not None:
            context = step.state.setup.context
            self._ledger.record(context.session_id, context.task, replayed=replayed)
        if isinstance(step.state, s.Aborted):
            with contextlib.suppress(CollabEditError):
                self._deliver(step)
            aborted = step.state
            culprit = aborted.culprit
            raise SessionAbortedError(
                aborted.reason,
                aborted.detail.removeprefix(f"{aborted.reason.name}: "),
                culprit="" if culprit is None else self._plan.party_name(culprit),
            )
        self._observer("state", {"state": type(step.state).__name__})
        self._deliver(step)

    def _deliver(self, step: s.Step) -> None:
        for packet in step.outbound:
            self._channel.deliver(packet)

    def reset(self) -> None:
        """Forget the task that is over; the next one has no state yet."""
        self._state = None

    @property
    def is_over(self) -> bool:
        """Whether the task ended early, so that the aggregator knows that we are gone."""
        return isinstance(self._state, s.Aborted)

    def leave(self, reason: AbortReason) -> bool:
        """Say farewell inside a task; return whether there was one to leave."""
        if self._state is None or isinstance(self._state, s.Completed):
            return False
        self._deliver(advance(self._state, s.LeaveSession(reason)))
        return True
