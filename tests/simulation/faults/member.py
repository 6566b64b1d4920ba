"""A party of a scenario: the real machine, and what the deployed driver does around it."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from collabedit.crypto.ring import Ring, RingArray, from_bytes, to_bytes
from collabedit.errors import (
    AbortReason,
    CryptoError,
    MalformedMessageError,
    ProtocolError,
    SessionAbortedError,
    UnexpectedMessageError,
)
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.party.closing import Released, UnverifiedError
from collabedit.party.contribution import (
    MaskedUpload,
    contributed_vector,
    masked_upload,
    uploaded_vector,
)
from collabedit.party.decryption import open_offer, opened_upload
from collabedit.party.entries import EditsCounted, TaskCompleted
from collabedit.party.journal import PartyJournal
from collabedit.party.overlap import OwnEdits
from collabedit.party.pieces import SealedFile
from collabedit.party.replay import InputLog, replay_task
from collabedit.party.task import MESSAGES, advance
from collabedit.party.witness import Witness
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_packet, encode_packet
from collabedit.proto.envelope import first_chain, next_chain, open_envelope, sign_message
from collabedit.proto.evidence import Evidence, verify
from collabedit.proto.statements import RefusalError
from tests.simulation.faults import ops
from tests.simulation.faults.audit import FindingError, fingerprint
from tests.simulation.faults.bad_ciphertexts import spoil_integers, spoil_vector, spoil_words, waits
from tests.simulation.faults.network import Message
from tests.support.randomness import InsecureTestRandomness

if TYPE_CHECKING:
    from tests.simulation.faults.world import World

_PROVABLE = (AbortReason.SURVIVOR_FORK, AbortReason.UPDATE_FORK, AbortReason.REPEATED_OPENING)
_TYPES = {kind: message for message, kind in m.KINDS.items()}


def _content(file: SealedFile) -> bytes:
    return file.read(0, file.size)


class EndedError(BaseException):
    """The process of an opener is gone. Not an Exception: nothing may catch it and clean up."""

    def __init__(self, death: ops.CrashOpening) -> None:
        self.death = death
        super().__init__()


class Member:
    """One party.

    Args:
        world: where it lives.
        party: its id.

    Attributes:
        state: of its machine; None before it joined.
        before: the state before that, as a liar may remember it.
        stalled: computing, deaf.
        dead: gone for good.
        needs_upload: an upload broke off.
        needs_update: a download failed.
    """

    def __init__(self, world: "World", party: PartyId) -> None:
        self.world = world
        self.party = party
        self.state: s.State | None = None
        self.before: s.State | None = None
        self.task = TaskIndex(0)
        self.stalled = False
        self.dead = False
        self.needs_upload = False
        self.needs_update = False
        self.last: tuple[m.Packet, ...] = ()
        self._upload: MaskedUpload | None = None
        self._bundle = b""
        self._chain = b""
        self._session = b""
        self._between_tasks = False
        self._key = world.federation.identities[party]
        self._randomness = InsecureTestRandomness(1000 * world.scenario.seed + party)
        self._cursor = 0
        self.proofs = 0
        self._witness = Witness(world.federation.plan, self._prove)
        self._open_journal()

    def _open_journal(self) -> None:
        work = self.world.directory / f"party-{self.party}"
        work.mkdir(exist_ok=True)
        self._journal = PartyJournal(work, randomness=self._randomness)
        self._log = InputLog(self._journal)

    @property
    def setup(self) -> s.TaskSetup:
        """Of the current task."""
        plan = self.world.federation.plan
        context = m.Context(plan.digest, self._session, self.task, self._chain)
        return s.TaskSetup(plan, context, self.party, self._key, self._randomness)

    @property
    def is_reading(self) -> bool:
        """Whether packets for it are taken out of its mailbox."""
        return not (self.dead or self.stalled or self.state is None or self._between_tasks)

    def join(self) -> None:
        """Enter the session, and begin the first task."""
        if self.state is not None or self.dead:
            return
        plan = self.world.federation.plan
        nowhere = m.Context(plan.digest, bytes(32), TaskIndex(0), bytes(32))
        join = sign_message(m.Join(), context=nowhere, sender=self.party, key=self._key)
        data = encode_packet(m.Packet(join))
        welcome = decode_packet(encode_packet(self.world.welcome(decode_packet(data)))).envelope
        self._session = welcome.context.session_id
        self._chain = first_chain(plan.digest, self._session)
        open_envelope(welcome, m.Welcome, context=self.setup.context, identities=plan.identity)
        self._journal.begin(self._session, plan.digest, self.party)
        self._begin()

    def _begin(self) -> None:
        self._between_tasks = False
        brought = self.world.federation.brought(self.party, self.task)
        self.take(self._log.start_task(self.setup, brought))

    def wake(self) -> None:
        """Be done computing."""
        self.stalled = False
        if self._between_tasks:
            self._begin()

    def hear(self, message: Message) -> None:
        """Take a packet of the aggregator out of the network."""
        state = self.state
        assert state is not None
        try:
            packet = decode_packet(message.data)
            expects = (type(state), _TYPES[packet.envelope.kind]) in MESSAGES
            step = self._witness.receive(state, packet)
        except UnexpectedMessageError:
            return  # late or repeated; the driver goes on
        except (CryptoError, MalformedMessageError, ProtocolError):
            if message.genuine and not self.world.audit.aggregator_lied:
                raise FindingError(
                    "error", f"party {self.party} cannot read what it was sent"
                ) from None
            if self.world.scenario.strict:
                self.leave(AbortReason.PARTY_LEFT)
            return
        if isinstance(step.state, s.Aborted) and not message.genuine:
            self.world.audit.hurt.add(self.party)
        if isinstance(step.state, s.Aborted):
            self._must_prove(packet, step.state)
        if message.reasons and expects and self.party != self.world.audit.liar:
            reason = step.state.reason if isinstance(step.state, s.Aborted) else None
            if reason not in message.reasons:
                wanted = sorted(reason.name for reason in message.reasons)
                raise FindingError(
                    "lie-accepted", f"party {self.party} met {reason}, must be one of {wanted}"
                )
        self._cursor += 1
        self._log.received(packet, self._cursor, step)
        self.take(step)

    def _must_prove(self, packet: m.Packet, state: s.Aborted) -> None:
        if state.reason not in _PROVABLE or packet.envelope.kind == m.KINDS[m.Abort]:
            return
        if state.culprit == AGGREGATOR and not self.proofs:
            raise FindingError("no-evidence", f"party {self.party}: {state.detail}")

    def _prove(self, evidence: Evidence) -> None:
        self.proofs += 1
        if evidence.accused != AGGREGATOR or not self.world.audit.aggregator_lied:
            raise FindingError(
                "framed", f"party {self.party} proves something against an honest end"
            )
        verify(evidence, self.world.federation.plan)

    def close(self) -> None:
        """Let go of files."""
        self._journal.close()

    def crash(self) -> None:
        """Lose everything but the journal, and go on from there."""
        before, state = self.task, self.state
        if self.dead or state is None or isinstance(state, s.Aborted):
            return  # it has nothing to resume
        self._journal.close()
        self._witness = Witness(self.world.federation.plan, self._prove)
        self._open_journal()
        replayed = None
        if not isinstance(state, s.Completed):
            replayed = replay_task(self._journal, self.setup, self._witness.receive)
        unfinished = self._journal.unfinished
        if unfinished is None or unfinished.start.session_id != self._session:
            raise FindingError("party-lost", f"party {self.party} forgot its session")
        done = before + (isinstance(state, s.Completed) and not self._between_tasks)
        if len(unfinished.completed) != done:
            raise FindingError("party-lost", f"party {self.party} forgot a task")
        if replayed is None:
            return
        if fingerprint(replayed.step.state) != fingerprint(state):
            raise FindingError(
                "party-lost", f"party {self.party} was in {state!r}, is in {replayed.step.state!r}"
            )
        # Whether its last answer arrived it cannot know: it is said again, and an upload sent anew.
        self.world.forget_stream(self.party)
        self._upload = None
        self._bundle = replayed.bundle
        self.take(replayed.step)

    def take(self, step: s.Step) -> None:
        """Go to the state that follows, and say what it says."""
        self.before, self.state = self.state, step.state
        audit = self.world.audit
        audit.holds(step.state)
        if step.outbound:
            self.last = step.outbound
        for packet in step.outbound:
            self.world.say(self, packet)
        match step.state:
            case s.Contributing() | s.OpeningSum():
                self._upload = None
                self.upload()
            case s.FetchingUpdate():
                self.fetch()
            case s.Completed() | s.Aborted():
                audit.ended(self.party, step.state, self.task)
                self._end_task(step.state)

    def _end_task(self, state: s.Completed | s.Aborted) -> None:
        if isinstance(state, s.Aborted):
            self._journal.end()
            return
        survivors = tuple(sorted(state.survivors))
        digests = state.update_digest, state.sum_digest
        done = TaskCompleted(self.task, self._cursor, *digests, 0.0, 0.0, survivors)
        self._log.completed(done, self._count(state))
        if self.task + 1 == len(self.world.federation.plan.tasks):
            return
        self._chain = next_chain(self._chain, state.update_digest)
        self.task = TaskIndex(self.task + 1)
        self._between_tasks = True
        if not self.stalled:
            self._begin()

    def _count(self, state: s.Completed) -> EditsCounted | None:
        federation = self.world.federation
        if federation.plan.counting(self.task) is None:
            return None
        own = OwnEdits(federation.plan, self.party, federation.items[self.party])
        brought = federation.brought(self.party, self.task)
        try:
            counted = own.read(self.setup, state, brought=brought, data=self._bundle)
        except SessionAbortedError as error:
            raise FindingError("counts-refused", f"party {self.party}: {error}") from None
        if counted.counts != federation.counts(self.party, state.survivors):
            raise FindingError("counts-exact", f"party {self.party} read {counted.counts}")
        return counted

    def upload(self) -> None:
        """Send the frames that the aggregator has not stored, from the beginning of a stream."""
        state = self.state
        self.needs_upload = False
        stored = b""
        if isinstance(state, s.Contributing):
            if waits(self.world.lies(self.party), self.world):
                self.needs_upload = True
                return
            if self._upload is None:
                plan, encoded = self.world.federation.plan, self._contribution(state)
                self._upload = masked_upload(plan, self.task, encoded, state.masks)
            else:
                stored = self.world.stored(self.party, self.task)
        elif isinstance(state, s.OpeningSum):
            if self._upload is None:
                try:
                    self._open(state)
                except EndedError as ended:
                    self._end(ended.death)
                    return
            else:
                stored = self.world.stored(self.party, self.task)
        if self._upload is None:
            return
        frames = list(self._upload.frames())
        frames = [
            frame
            for index, frame in enumerate(frames)
            if not (stored and stored[index // 8] >> index % 8 & 1)
        ]
        self.world.stream(self, frames)

    def _contribution(self, state: s.Contributing) -> RingArray:
        """Return what is masked, as `party.driver` does: made once if it cannot be made again."""
        setup = state.setup
        plan, audit = setup.plan, self.world.audit
        brought = self.world.federation.brought(self.party, self.task)
        what = self.world.lies(self.party)

        def make() -> RingArray:
            vector = contributed_vector(setup, brought, state.group_secret)
            if plan.is_closed(self.task):
                vector = spoil_vector(what, vector)
                audit.contributes(self.party, self.task, vector)
            words = uploaded_vector(setup, vector, state.group_secret)
            return spoil_words(what, self.world, setup, vector, words)

        if not plan.is_closed(self.task):
            return make()
        file = self._log.contribution(self.task, lambda: [bytes(to_bytes(make()))])
        upload = from_bytes(Ring.from_bits(plan.aggregation.ring_bits), _content(file))
        audit.uploads(self.party, self.task, upload)
        return upload

    def _open(self, state: s.OpeningSum) -> None:
        """Open an encrypted sum as `party.driver` does, and end where the scenario says so."""
        self._log.begin_opening(state.sum_digest)
        self._may_end("begun")
        reason: AbortReason | None = None
        made = False

        def make() -> list[bytes]:
            nonlocal reason, made
            offer, reason = self.world.offer(self.party, self.task)
            integers = open_offer(state, offer, self._randomness)
            made = True
            self._may_end("fetched")
            return [bytes(to_bytes(integers))]

        try:
            opened = from_bytes(Ring.Z64, _content(self._log.opening(self.task, make)))
        except UnexpectedMessageError:
            return  # the session is over, and word of that on its way
        except RefusalError as refusal:
            if reason not in (None, refusal.reason):
                raise FindingError(
                    "lie-accepted", f"opener {self.party} met {refusal.reason}, must be {reason}"
                ) from None
            refused = s.SumRefused(refusal.reason, str(refusal), refusal.culprit)
            self.take(advance(state, refused))
            return
        if reason is not None:
            raise FindingError("lie-accepted", f"opener {self.party} opened, must meet {reason}")
        if made:
            self.world.audit.opens(self.party, self.task, state.sum_digest)
        self._may_end("opened")
        opened = spoil_integers(self.world.lies(self.party), np.array(opened))
        self._upload = opened_upload(state.setup.plan, self.task, opened)

    def _may_end(self, moment: ops.OpeningMoment) -> None:
        death = self.world.dies_at(moment)
        if death is not None:
            raise EndedError(death)

    def _end(self, death: ops.CrashOpening) -> None:
        if death.gone:
            self.kill()
        else:
            self.crash()

    def uploaded(self) -> None:
        """Go on after the aggregator's receipt for a whole stream."""
        if isinstance(self.state, s.OpeningSum) and self._upload is not None:
            death = self.world.dies_at("uploaded")
            if death is not None:
                self._end(death)
                return
        if isinstance(self.state, s.Contributing | s.OpeningSum) and self._upload is not None:
            event = self._upload.uploaded()
            step = advance(self.state, event)
            self._log.uploaded(event, step)
            self.take(step)

    def fetch(self) -> None:
        """Download the update."""
        state = self.state
        self.needs_update = False
        if not isinstance(state, s.FetchingUpdate):
            return
        bundle = self.world.bundle(self.party, self.task)
        if bundle is None:
            self.needs_update = True
            return
        self._bundle = bundle
        digest = hashlib.sha256(bundle).digest()
        if digest == state.update_digest:
            self._check(state, bundle)
        if self.state is not state:
            return
        step = advance(state, s.UpdateFetched(digest))
        self._log.fetched(self.task, bundle, step)
        self.take(step)
        aborted = isinstance(self.state, s.Aborted)
        if digest != state.update_digest and not aborted and self.party != self.world.audit.liar:
            raise FindingError("lie-accepted", f"party {self.party} took another update")

    def _check(self, state: s.FetchingUpdate, bundle: bytes) -> None:
        """Hold an update against closed sums, as `party.driver` does."""
        setup = state.setup
        plan = setup.plan
        if not plan.is_closed(self.task):
            return
        released = Released(plan, setup.context, bundle, state.survivors, state.group_secret)
        try:
            (update,) = released.opened.updates.values()
        except UnverifiedError as error:
            self.take(advance(state, s.UpdateRefused(error.reason, str(error))))
        except MalformedMessageError as error:
            reason = AbortReason.MALFORMED_MESSAGE
            self.take(advance(state, s.UpdateRefused(reason, str(error))))
        else:
            self.world.audit.applies(self.party, state, update.dense())

    def resend(self) -> None:
        """Say the last thing again."""
        if not self.dead:
            for packet in self.last:
                self.world.transmit(self.party, packet, genuine=False)

    def refused(self) -> None:
        """Hear that a message of its own was refused."""
        if self.world.scenario.strict and not self.world.audit.aggregator_lied:
            self.leave(AbortReason.PARTY_LEFT)

    def leave(self, reason: AbortReason) -> None:
        """End the session on this side."""
        if self.state is None or isinstance(self.state, s.Completed | s.Aborted) or self.dead:
            return
        self.world.audit.hurt.add(self.party)
        self.take(advance(self.state, s.LeaveSession(reason)))

    def kill(self) -> None:
        """Be gone, without a word."""
        self.dead = True
        self._journal.close()
        self.world.audit.hurt.add(self.party)
        self.world.network.silence(self.party)
