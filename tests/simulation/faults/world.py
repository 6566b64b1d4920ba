"""Plays a scenario: real machines, real journal, a network and a disk that do as they are told."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from collabedit.aggregator import coordinator as coordinator_module
from collabedit.aggregator import states as a
from collabedit.aggregator import task as aggregator_task
from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.opening import OpenedTask, Outcome, open_and_merge
from collabedit.aggregator.tiles import TileStore
from collabedit.crypto.masking import SignedMask
from collabedit.crypto.ring import Ring, RingArray
from collabedit.crypto.signing import VerifyKey
from collabedit.errors import (
    AbortReason,
    CollabEditError,
    JournalError,
    MalformedMessageError,
    StorageError,
    UnexpectedMessageError,
)
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body, decode_packet, encode_packet
from tests.simulation.faults import ops
from tests.simulation.faults.audit import Audit, FindingError, fingerprint, snapshot
from tests.simulation.faults.bad_aggregator import BadAggregator
from tests.simulation.faults.bad_party import lie, spoil_frames
from tests.simulation.faults.contributions import countable
from tests.simulation.faults.disk import CrashError, Disk, MortalJournal
from tests.simulation.faults.member import Member
from tests.simulation.faults.network import Message, Network
from tests.support.randomness import InsecureTestRandomness

if TYPE_CHECKING:
    from collections.abc import Iterator

REST_LIMIT = 20_000
"""Steps after which a scenario that does not come to rest is an error."""


@dataclass
class Result:
    """What happened in a scenario.

    Attributes:
        finding: name and detail, if a rule was broken.
        counts: operations that applied, crashes, and how the session ended.
    """

    finding: FindingError | None = None
    counts: Counter[str] = field(default_factory=Counter)


class World:
    """One scenario.

    Args:
        scenario: what happens.
        directory: an empty one, for the aggregator's files.
    """

    def __init__(self, scenario: ops.Scenario, directory: Path) -> None:
        self.scenario = scenario
        self.federation = countable(
            scenario.parties, scenario.tasks, counts=scenario.counts, sums=scenario.sums
        )
        self.audit = Audit(self.federation)
        self.network = Network()
        self.liar = BadAggregator(self)
        self.counts: Counter[str] = Counter()
        self.directory = directory
        self._aggregator = directory / "aggregator"
        self._aggregator.mkdir()
        self._disk = Disk()
        self._lie: ops.PartyLie | None = None
        self._deaths: list[ops.CrashOpening] = []
        self._streams: dict[PartyId, set[int]] = {}
        self._receipts: set[bytes] = set()
        self._start_aggregator()
        plan = self.federation.plan
        self._cursors = dict.fromkeys(plan.party_ids, 0)
        self.members = {party: Member(self, party) for party in plan.party_ids}

    def _start_aggregator(self) -> None:
        self._journal = MortalJournal(self._aggregator / "journal.sqlite", self._disk)
        self.coordinator = Coordinator(
            self.federation.plan,
            self.federation.identities[AGGREGATOR],
            directory=self._aggregator,
            randomness=InsecureTestRandomness(1000 * self.scenario.seed),
            journal=self._journal,
        )

    @contextmanager
    def _installed(self) -> "Iterator[None]":
        real = TileStore.open_sum

        def open_sum(
            store: TileStore,
            survivors: Iterable[PartyId],
            *,
            ring: Ring,
            masks: tuple[SignedMask, ...],
        ) -> RingArray:
            survivors = frozenset(survivors)
            total = real(store, survivors, ring=ring, masks=masks)
            self.audit.summed(store._task, survivors, total)
            return total

        def merge(state: a.Opening, store: TileStore, opened: TileStore | None) -> Outcome:
            outcome = open_and_merge(state, store, opened)
            if isinstance(outcome, OpenedTask) and state.opener is not None:
                task = state.progress.setup.context.task
                self.audit.summed(task, state.survivors, outcome.total)
            return outcome

        with (
            self._disk.installed(),
            patch.object(TileStore, "open_sum", open_sum),
            patch.object(coordinator_module, "open_and_merge", merge),
            patch.object(os, "fsync", lambda _descriptor: None),
            patch.object(VerifyKey, "verify", _remembering(VerifyKey.verify)),
        ):
            yield

    def play(self) -> Result:
        """Do every operation, come to rest, and look at what is left."""
        finding = None
        try:
            with self._installed():
                for op in self.scenario.ops:
                    self.counts[f"op {type(op).__name__}"] += self._do(op)
                    self._settle_step()
                self._rest()
                self._retire()
        except FindingError as found:
            finding = found
        except Exception as error:  # noqa: BLE001  whatever it is, it is a finding
            finding = FindingError("error", f"{type(error).__name__}: {error}")
            finding.__cause__ = error
        finally:
            self._journal.close()
            for member in self.members.values():
                member.close()
        self._count_outcome()
        return Result(finding, self.counts)

    def _settle_step(self) -> None:
        self._collect()
        self.audit.look(self.coordinator)

    def _count_outcome(self) -> None:
        state = self.coordinator.state
        end = f"abort {state.reason.name}" if isinstance(state, a.Aborted) else type(state).__name__
        who = "aggregator lied" if self.audit.aggregator_lied else "aggregator honest"
        self.counts[f"end, {who}: {end}"] += 1
        self.counts["exact sums"] += len(self.audit.opened)
        self.counts[f"sums, {self.scenario.sums}"] += len(self.audit.opened)
        self.counts["sessions that opened something"] += bool(self.audit.opened)

    # Operations. Each returns whether it applied.

    def _do(self, op: ops.Op) -> bool:  # noqa: C901, PLR0912  a table of all that can happen
        match op:
            case ops.Flow():
                return sum(self._flow() for _ in range(op.count)) > 0
            case ops.Deliver() | ops.Lose() | ops.Duplicate() | ops.Damage():
                return self._in_flight(op)
            case ops.Replay():
                return self._replay(op)
            case ops.Cut():
                self.network.cut = frozenset(op.parties)
            case ops.Heal():
                self.network.cut = frozenset()
            case ops.CloseRound():
                return self._close_round()
            case ops.OpenSum():
                return self._open_sum()
            case ops.CrashAggregator():
                self._restart()
            case ops.CrashAtWrite():
                self._disk.kill_at(op.skip, op.moment)
            case ops.FillDisk():
                self._disk.refusals = op.writes
            case ops.ForgeAbort():
                return self._forge_abort(op)
            case (
                ops.Omit()
                | ops.Forge()
                | ops.Again()
                | ops.SpoilEntry()
                | ops.SwapShares()
                | ops.AlterRelease()
                | ops.AlterOffer()
            ):
                self.liar.adopt(op)
            case ops.LieAsParty():
                return self._lie_as_party(op)
            case ops.CrashOpening():
                self._deaths.append(op)
            case _:
                return self._do_member(op)
        return True

    def _do_member(
        self,
        op: ops.Join | ops.Resend | ops.Kill | ops.CrashParty | ops.Stall | ops.Wake | ops.Leave,
    ) -> bool:
        member = self.members.get(PartyId(op.party))
        if member is None or member.dead:
            return False
        match op:
            case ops.Join():
                member.join()
            case ops.Resend():
                member.resend()
            case ops.Kill():
                member.kill()
            case ops.CrashParty():
                self.counts["party restarts"] += 1
                member.crash()
            case ops.Stall():
                member.stalled = True
            case ops.Wake():
                member.wake()
            case ops.Leave():
                member.leave(AbortReason.PARTY_LEFT)
        return True

    def _lie_as_party(self, op: ops.LieAsParty) -> bool:
        party = PartyId(op.party)
        if party not in self.members or self.audit.liar not in (None, party):
            return False
        self.audit.liar, self._lie = party, op.what
        self.audit.hurt.add(party)
        return True

    def _forge_abort(self, op: ops.ForgeAbort) -> bool:
        made = self.liar.abort(op)
        if made is None:
            return False
        self.audit.aggregator_lied = True
        self._show(PartyId(op.to), made, is_lie=True)
        return True

    def _in_flight(self, op: ops.Deliver | ops.Lose | ops.Duplicate | ops.Damage) -> bool:
        chosen = self.network.choose(op.pick, op.place)
        if chosen is None:
            return False
        link, place = chosen
        match op:
            case ops.Duplicate():
                self.network.duplicate(link, place)
            case ops.Damage():
                self._harm(link)
                self.network.damage(link, place, op.bit)
            case ops.Lose() if link[2]:
                self._break_uploads(link[0])
            case ops.Lose():
                self._harm(link)
                self.network.take(link, place)
            case ops.Deliver():
                self._arrive(self.network.take(link, place))
        return True

    def _harm(self, link: tuple[PartyId, PartyId, bool]) -> None:
        self.audit.hurt.add(link[1] if link[0] == AGGREGATOR else link[0])

    def _replay(self, op: ops.Replay) -> bool:
        history = self.network.history
        if not history:
            return False
        message = replace(history[op.index % len(history)], genuine=False, reasons=frozenset())
        if message.kind == "end":
            return False
        if message.sender == AGGREGATOR and op.to is not None and op.to in self.members:
            message = replace(message, receiver=PartyId(op.to))
        self._arrive(message)
        return True

    def _flow(self) -> bool:
        message = self.network.next()
        if message is not None:
            self._arrive(message)
            self._settle_step()
        return message is not None

    # The network between the ends.

    def say(self, member: Member, packet: m.Packet) -> None:
        """Send what a party's machine says, or what its operator's malice makes of it."""
        self.audit.sent(member.party, packet)
        packets: tuple[m.Packet, ...] = (packet,)
        if member.party == self.audit.liar and self._lie is not None:
            packets = lie(member, self._lie, packet)
        for said in packets:
            self.transmit(member.party, said)

    def transmit(self, party: PartyId, packet: m.Packet, *, genuine: bool = True) -> None:
        """Put a party's packet on its way."""
        task, data = packet.envelope.context.task, encode_packet(packet)
        self._send(Message(party, AGGREGATOR, "packet", task, data, genuine=genuine))

    def stream(self, member: Member, frames: list[bytes]) -> None:
        """Begin an upload."""
        if member.party == self.audit.liar and self._lie == "bad-frames":
            frames = spoil_frames(frames)
        self._streams[member.party] = set()
        for frame in frames:
            self._send(Message(member.party, AGGREGATOR, "frame", member.task, frame))
        self._send(Message(member.party, AGGREGATOR, "end", member.task, b""))

    def lies(self, party: PartyId) -> ops.PartyLie | None:
        """Tell in which way a party lies about what it uploads."""
        return self._lie if party == self.audit.liar else None

    def dies_at(self, moment: ops.OpeningMoment) -> ops.CrashOpening | None:
        """Tell whether an opener ends here; it is told once. End the aggregator if that shall."""
        for op in tuple(self._deaths):
            if op.moment == moment:
                self._deaths.remove(op)
                self.counts[f"openers ended, {moment}"] += 1
                if not op.aggregator:
                    return op
                self._restart()
        return None

    def forget_stream(self, party: PartyId) -> None:
        """Break a party's connection off: frames in flight are lost."""
        self.network.break_uploads(party)
        self.members[party].needs_upload = False

    def _send(self, message: Message) -> None:
        if not self.members[message.party].dead:
            self.network.send(message)

    def _show(
        self,
        party: PartyId,
        packet: m.Packet,
        *,
        is_lie: bool,
        reasons: frozenset[AbortReason] = frozenset(),
    ) -> None:
        task, data = packet.envelope.context.task, encode_packet(packet)
        self._send(Message(AGGREGATOR, party, "packet", task, data, lie=is_lie, reasons=reasons))

    def _collect(self) -> None:
        for party, member in self.members.items():
            if not member.is_reading:
                continue
            for packet in self.coordinator.mailbox(party, cursor=self._cursors[party]):
                self._cursors[party] += 1
                shown, reasons = self.liar.show(party, packet)
                self._show(party, shown, is_lie=shown != packet, reasons=reasons)
                for second in self.liar.again(party, shown):
                    self._show(party, second, is_lie=True)
        for party, forged in self.liar.due():
            self._show(party, forged, is_lie=True)

    def _arrive(self, message: Message) -> None:
        member = self.members[message.party]
        if message.receiver != AGGREGATOR:
            if member.is_reading:
                member.hear(message)
            elif message.genuine and not member.dead:
                self.network.put_back(message)
            return
        if message.kind == "packet":
            self._to_aggregator(member, message)
        else:
            self._to_store(member, message)

    def _to_aggregator(self, member: Member, message: Message) -> None:
        before = self.coordinator.state
        packet = None
        try:
            packet = decode_packet(message.data)
            self.audit.reached(packet)
            self.liar.capture(packet)
            self.coordinator.deliver(packet)
            self._receipts.add(message.data)
        except CrashError:
            assert packet is not None
            self._restart(self._next(before, packet))
            # The party never got its receipt, and says it again.
            self.network.put_back(message)
        except StorageError:
            self._unchanged(before)
            self.network.put_back(message)
        except CollabEditError as error:
            self._unchanged(before)
            if message.data in self._receipts:
                raise FindingError("receipt-lost", f"party {member.party}: {error}") from error
            self.counts[f"refused {type(error).__name__}"] += 1
            if message.genuine or not isinstance(error, UnexpectedMessageError):
                if message.genuine and member.party != self.audit.liar:
                    self.counts["honest statements refused"] += 1
                    self._refusable(member, error)
                member.refused()

    def _refusable(self, member: Member, error: CollabEditError) -> None:
        late = isinstance(error, UnexpectedMessageError)
        if self.audit.must_complete and member.party not in self.audit.hurt:
            raise FindingError("liveness", f"party {member.party}, unhurt, was refused: {error}")
        if not late and not self.audit.aggregator_lied and member.party not in self.audit.hurt:
            raise FindingError("wrong-reason", f"party {member.party} was refused: {error}")

    def _unchanged(self, before: a.State) -> None:
        if self.coordinator.state is not before:
            raise FindingError("refusal-changed", f"{type(before).__name__}")

    def _next(self, before: a.State, packet: m.Packet) -> a.State | None:
        with suppress(CollabEditError):
            return aggregator_task.receive(before, packet).state
        return None

    def _to_store(self, member: Member, message: Message) -> None:
        party, task = message.sender, message.task
        opened = isinstance(self.coordinator.state, a.CollectingOpening)
        try:
            if message.kind == "frame":
                tile = self.coordinator.put_frame(party, task, message.data)
                if message.genuine:
                    self._streams[party].add(tile)
            else:
                self.coordinator.settle_upload(party, task)
                self.audit.acknowledged(task, party, self._streams[party], opened=opened)
                member.uploaded()
        except CrashError:
            member.needs_upload = True
            self._restart()
        except StorageError:
            self._break_uploads(party)
        except UnexpectedMessageError:
            if message.genuine:
                # No upload is due: it was complete, or the party is given up. There is no other
                # try.
                self.forget_stream(party)
                member.refused()
        except MalformedMessageError:
            if party != self.audit.liar:
                self._break_uploads(party)

    def _break_uploads(self, party: PartyId | None = None) -> None:
        broken = self.network.break_uploads(party)
        for member in self.members.values():
            if member.party in broken or member.party == party:
                member.needs_upload = isinstance(member.state, s.Contributing | s.OpeningSum)

    # What parties call.

    def welcome(self, packet: m.Packet) -> m.Packet:
        """Answer a Join."""
        return self.coordinator.welcome(packet)

    def stored(self, party: PartyId, task: TaskIndex) -> bytes:
        """Tell a party which tiles it need not send; nothing if none are due."""
        try:
            stored = self.coordinator.stored_tiles(party, task)
        except UnexpectedMessageError:
            return b""
        told = {8 * i + bit for i, byte in enumerate(stored) for bit in range(8) if byte >> bit & 1}
        opened = isinstance(self.coordinator.state, a.CollectingOpening)
        self.audit.acknowledged(task, party, told, opened=opened)
        return stored

    def offer(self, party: PartyId, task: TaskIndex) -> tuple[bytes, AbortReason | None]:
        """Serve a sum of ciphertexts, and say why its opener must refuse it, if it must."""
        return self.liar.offer(task, b"".join(self.coordinator.download(party, task)))

    def bundle(self, party: PartyId, task: TaskIndex) -> bytes | None:
        """Serve an update; None if the disk or the state does not give it."""
        try:
            return self.liar.bundle(party, self.coordinator.bundle(task))
        except CollabEditError:
            return None

    def keys_of_another(self, party: PartyId) -> bytes | None:
        """Return a key that another party has advertised already."""
        for message in self.network.history:
            if message.sender in (AGGREGATOR, party) or message.kind != "packet":
                continue
            envelope = decode_packet(message.data).envelope
            if envelope.kind == m.KINDS[m.Advertise]:
                advertised = decode_body(envelope.kind, envelope.body)
                assert isinstance(advertised, m.Advertise)
                return advertised.mask_public
        return None

    # The aggregator's process.

    def _close_round(self) -> bool:
        before = self.coordinator.state
        if isinstance(before, a.Summing | a.Opening | a.Completed | a.Aborted):
            return False
        waited = self.coordinator.waiting_for
        try:
            self.coordinator.close_round()
        except CrashError:
            self.audit.hurt |= waited
            self._restart(aggregator_task.advance(before, a.RoundClosed()).state)
        except StorageError:
            self._unchanged(before)
        else:
            self.audit.hurt |= waited
        return True

    def _open_sum(self) -> bool:
        before = self.coordinator.state
        if not isinstance(before, a.Summing | a.Opening):
            return False
        try:
            self.coordinator.open_pending()
        except CrashError:
            self._restart(opening=True)
        except StorageError:
            self._unchanged(before)
        return True

    def _restart(self, after: a.State | None = None, *, opening: bool = False) -> None:
        """End the process and start it again; what it knew must be there."""
        self.counts["crashes"] += 1
        before = snapshot(self.coordinator)
        self._scan_disk()
        self._restarted()
        self._break_uploads()
        found = snapshot(self.coordinator)
        self._kept(before, found)
        if opening:
            return
        states = [before["state"], *([] if after is None else [fingerprint(after)])]
        done = isinstance(after, a.Completed) and len(found["records"]) > len(before["records"])
        if found["state"] not in states and not done:
            raise FindingError("state-lost", f"{found['position']} after {before['position']}")
        if after is None and found["mailboxes"] != before["mailboxes"]:
            raise FindingError("state-lost", "mailboxes differ")

    def _restarted(self) -> None:
        while True:
            self._journal.close()
            try:
                self._start_aggregator()
            except CrashError:
                self.counts["crashes"] += 1
                continue
            except JournalError as error:
                raise FindingError("state-lost", str(error)) from error
            except StorageError:
                self._disk.spare()
                continue
            self.counts["restarts"] += 1
            return

    def _kept(self, before: dict[str, Any], found: dict[str, Any]) -> None:
        if found["session"] != before["session"]:
            raise FindingError("state-lost", "another session")
        if found["records"][: len(before["records"])] != before["records"]:
            raise FindingError("state-lost", "finished tasks differ")
        for old, new in zip(before["mailboxes"], found["mailboxes"], strict=True):
            if new[: len(old)] != old:
                raise FindingError("state-lost", "what was sent before differs")

    def _scan_disk(self, *, retired: bool = False) -> None:
        paths = (path for path in self._aggregator.rglob("*") if path.is_file())
        data = b"\0".join(path.read_bytes() for path in paths)
        self.audit.search(data, "the aggregator's disk", retired=retired)

    # The end.

    def _rest(self) -> None:
        """Let everything arrive that can, and every round end that waits in vain."""
        self.network.cut = frozenset()
        self._disk.spare()
        for member in self.members.values():
            member.join()
            member.wake()
        self._settle_step()
        for _ in range(REST_LIMIT):
            if self._flow() or self._retry():
                continue
            if self.coordinator.finished:
                break
            if not self._open_sum():
                self._starve()
            self._settle_step()
        else:
            raise FindingError("error", "the scenario does not come to rest")
        states = {party: member.state for party, member in self.members.items()}
        self.audit.finished(self.coordinator, states)

    def _retry(self) -> bool:
        retried = False
        for member in self.members.values():
            if member.dead:
                continue
            if member.needs_upload:
                member.upload()
                retried = True
            if member.needs_update:
                member.fetch()
                retried = retried or not member.needs_update
        return retried

    def _starve(self) -> None:
        unhurt = self.coordinator.waiting_for - self.audit.hurt
        if unhurt and self.audit.nobody_lied:
            raise FindingError(
                "waited-for", f"parties {sorted(unhurt)} in {self.coordinator.round_name}"
            )
        self._close_round()

    def _retire(self) -> None:
        self._scan_disk()
        self.coordinator.retire()
        self._scan_disk(retired=True)


def _remembering(
    verify: Callable[[VerifyKey, bytes, bytes], None],
) -> Callable[[VerifyKey, bytes, bytes], None]:
    """Check a signature once that everybody checks: half of a scenario's time otherwise."""
    good: set[tuple[bytes, bytes, bytes]] = set()

    def remembering(key: VerifyKey, signature: bytes, message: bytes) -> None:
        checked = (key.to_bytes(), signature, message)
        if checked not in good:
            verify(key, signature, message)
            good.add(checked)

    return remembering


def play(scenario: ops.Scenario, directory: Path) -> Result:
    """Play a scenario in an empty directory."""
    return World(scenario, directory).play()
