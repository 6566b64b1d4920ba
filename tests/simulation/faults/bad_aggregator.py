"""The malicious aggregator: what it shows a party instead of what the real coordinator says.

It signs with the aggregator's key, knows everything that ever arrived, and has a lying party as its
accomplice if the scenario has one.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from collabedit.crypto.ckks.wire import HEADER_BYTES
from collabedit.encrypted import SEED_BYTES, SUM_CHUNK_BYTES
from collabedit.errors import AbortReason, UnexpectedMessageError
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.party.task import MESSAGES
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body
from collabedit.proto.envelope import sign_message
from tests.simulation.faults import ops

if TYPE_CHECKING:
    from tests.simulation.faults.world import World

_OTHER_UPDATE = b"\xffanother update"
_R = AbortReason
_LISTS: dict[str, tuple[type, str, type]] = {
    "Roster": (m.Roster, "advertisements", m.Advertise),
    "RelayShares": (m.RelayShares, "commitments", m.ShareKeys),
    "Confirmed": (m.Confirmed, "confirmations", m.Confirm),
    "ProposeSurvivors": (m.ProposeSurvivors, "contributions", m.Contribute),
    "SurvivorsConfirmed": (m.SurvivorsConfirmed, "confirmations", m.ConfirmSurvivors),
    "UpdateVerified": (m.UpdateVerified, "confirmations", m.VerifyUpdate),
}
_OFFERS: dict[ops.OfferLie, AbortReason] = {
    "flip": _R.DIGEST_MISMATCH,
    "cut": _R.DIGEST_MISMATCH,
    "length": _R.MALFORMED_MESSAGE,
    "old": _R.DIGEST_MISMATCH,
    "seeds": _R.DIGEST_MISMATCH,
    "header": _R.MALFORMED_MESSAGE,
    "residue": _R.BOUNDS_EXCEEDED,
}
"""Why an opener must refuse what it is offered."""
_OWN_ENTRY = ("Roster", "RelayShares", "ProposeSurvivors")

Shown: TypeAlias = tuple[m.Packet, frozenset[AbortReason]]
"""A packet, and why whoever expects it must abort."""


class BadAggregator:
    """The lies of one scenario.

    Args:
        world: where it lies.
    """

    def __init__(self, world: "World") -> None:
        self._world = world
        self._rules: list[ops.AggregatorLie] = []
        self._acted: set[ops.AggregatorLie] = set()
        self._captured: dict[tuple[TaskIndex, type, PartyId], list[m.Packet]] = {}
        self._offers: dict[TaskIndex, bytes] = {}

    def capture(self, packet: m.Packet) -> None:
        """Keep what arrived."""
        envelope = packet.envelope
        kinds = {kind: message for message, kind in m.KINDS.items()}
        key = (envelope.context.task, kinds[envelope.kind], envelope.sender)
        kept = self._captured.setdefault(key, [])
        if packet not in kept:
            kept.append(packet)

    def adopt(self, rule: ops.AggregatorLie) -> None:
        """Lie in this way from now on."""
        self._rules.append(rule)
        self._world.audit.aggregator_lied = True

    def bundle(self, party: PartyId, genuine: bytes) -> bytes:
        """Return the update that is served to a party."""
        for rule in self._rules:
            if isinstance(rule, ops.AlterRelease) and party in rule.group and rule.what != "sum":
                return _OTHER_UPDATE
        return genuine

    def offer(self, task: TaskIndex, genuine: bytes) -> tuple[bytes, AbortReason | None]:
        """Return what the opener is served, and why it must refuse that, if it must."""
        self._offers[task] = genuine
        served, reason = genuine, None
        for rule in self._rules:
            if isinstance(rule, ops.AlterOffer):
                altered = self._altered(rule, task, served)
                if altered != served or rule.what == "length":
                    served, reason = altered, _OFFERS[rule.what]
                    self._acted.add(rule)
        alone = len(self._acted) == 1 and self._world.audit.liar is None
        return served, reason if alone else None

    def _altered(self, rule: ops.AlterOffer, task: TaskIndex, data: bytes) -> bytes:
        altered = bytearray(data)
        first_chunk = len(data) - SUM_CHUNK_BYTES
        match rule.what:
            case "flip":
                altered[-1] ^= 1
            case "cut":
                del altered[-8:]
            case "old":
                return self._offers.get(TaskIndex(task - 1), data)
            case "seeds":
                altered[:SEED_BYTES] = bytes(SEED_BYTES)
            case "header":
                altered[first_chunk + 6] -= 1  # terms
            case "residue":
                altered[first_chunk + HEADER_BYTES + 5] ^= 1
            case "length":
                pass
        return bytes(altered)

    def _offered(self, rule: ops.AlterOffer, party: PartyId, packet: m.Packet) -> Shown | None:
        if packet.envelope.kind != m.KINDS[m.OfferSum] or rule.what in {"flip", "cut"}:
            return None
        message = decode_body(packet.envelope.kind, packet.envelope.body)
        assert isinstance(message, m.OfferSum)
        if rule.what == "length":
            longer = replace(message, sum_bytes=message.sum_bytes + 1)
            shown = self._sign(packet.envelope.context, longer)
            return shown, frozenset({_OFFERS["length"]})
        task = packet.envelope.context.task
        try:
            genuine = b"".join(self._world.coordinator.download(party, task))
        except UnexpectedMessageError:
            return None  # it is over
        digest = hashlib.sha256(self._altered(rule, task, genuine)).digest()
        if digest == message.sum_digest:
            return None
        other = m.OfferSum(digest, message.sum_bytes)
        return self._sign(packet.envelope.context, other), frozenset()

    def show(self, party: PartyId, packet: m.Packet) -> tuple[m.Packet, frozenset[AbortReason]]:
        """Return what a party is shown instead of the coordinator's packet."""
        reasons: frozenset[AbortReason] = frozenset()
        for rule in self._rules:
            altered = self._alter(rule, party, packet)
            if altered is not None:
                packet, reasons = altered
                self._acted.add(rule)
        # What two lies lead to together is anybody's guess; then only the rules for all hold.
        alone = len(self._acted) == 1 and self._world.audit.liar is None
        return packet, reasons if alone else frozenset()

    def _alter(self, rule: ops.AggregatorLie, party: PartyId, packet: m.Packet) -> Shown | None:
        match rule:
            case ops.Omit() if party in rule.group:
                return self._omit(rule, party, packet)
            case ops.SpoilEntry() if party == rule.to:
                return self._spoil(rule, packet)
            case ops.SwapShares() if party == rule.to:
                return self._swap(rule, party, packet)
            case ops.AlterRelease() if party in rule.group:
                return self._release(rule, packet)
            case ops.AlterOffer():
                return self._offered(rule, party, packet)
            case _:
                return None

    def _sign(self, context: m.Context, message: m.Message, *attachments: bytes) -> m.Packet:
        key = self._world.federation.identities[AGGREGATOR]
        signed = sign_message(message, context=context, sender=AGGREGATOR, key=key)
        return m.Packet(signed, attachments)

    def _entries(self, kind: str, packet: m.Packet) -> tuple[m.Envelope, ...] | None:
        message, field, _ = _LISTS[kind]
        if packet.envelope.kind != m.KINDS[message]:
            return None
        decoded = decode_body(packet.envelope.kind, packet.envelope.body)
        entries: tuple[m.Envelope, ...] = getattr(decoded, field)
        return entries

    def _omit(self, rule: ops.Omit, party: PartyId, packet: m.Packet) -> Shown | None:
        entries = self._entries(rule.kind, packet)
        if entries is None or rule.victim not in {entry.sender for entry in entries}:
            return None
        left = tuple(entry for entry in entries if entry.sender != rule.victim)
        attachments = packet.attachments
        if rule.kind == "RelayShares" and rule.victim != party:
            peers = [entry.sender for entry in entries if entry.sender != party]
            place = peers.index(PartyId(rule.victim))
            attachments = attachments[:place] + attachments[place + 1 :]
        reasons: frozenset[AbortReason] = frozenset()
        if len(left) < self._world.federation.plan.threshold:
            reasons = frozenset({_R.BELOW_THRESHOLD})
        elif rule.victim == party and rule.kind in _OWN_ENTRY:
            reasons = frozenset({_R.MISSING_SELF})
        message = _LISTS[rule.kind][0](left)
        return self._sign(packet.envelope.context, message, *attachments), reasons

    def _spoil(self, rule: ops.SpoilEntry, packet: m.Packet) -> Shown | None:
        entries = self._entries(rule.kind, packet)
        if entries is None:
            return None
        listed = [entry.sender for entry in entries]
        if rule.victim not in listed:
            return None
        place = listed.index(PartyId(rule.victim))
        entry = entries[place]
        if rule.stale:
            _, _, entry_type = _LISTS[rule.kind]
            task = entry.context.task
            old = self._captured.get((TaskIndex(task - 1), entry_type, entry.sender))
            if not old:
                return None
            spoilt = old[0].envelope
        else:
            body = bytearray(entry.body)
            body[-1] ^= 1
            spoilt = replace(entry, body=bytes(body))
        altered = (*entries[:place], spoilt, *entries[place + 1 :])
        message = _LISTS[rule.kind][0](altered)
        packet = self._sign(packet.envelope.context, message, *packet.attachments)
        return packet, frozenset({_R.INVALID_SIGNATURE, _R.MALFORMED_MESSAGE, _R.BELOW_THRESHOLD})

    def _swap(self, rule: ops.SwapShares, party: PartyId, packet: m.Packet) -> Shown | None:
        entries = self._entries("RelayShares", packet)
        if entries is None or rule.other == party:
            return None
        task = packet.envelope.context.task
        attachments = []
        for entry in entries:
            if entry.sender == party:
                continue
            sent = self._captured[task, m.ShareKeys, entry.sender][0]
            receivers = self._receivers(sent)
            to = PartyId(rule.other)
            if to not in receivers:
                to = party
            attachments.append(sent.attachments[receivers.index(to)])
        if tuple(attachments) == packet.attachments:
            return None
        return m.Packet(packet.envelope, tuple(attachments)), frozenset({_R.DIGEST_MISMATCH})

    def _receivers(self, packet: m.Packet) -> list[PartyId]:
        message = decode_body(packet.envelope.kind, packet.envelope.body)
        assert isinstance(message, m.ShareKeys)
        return sorted(message.digests)

    def _release(self, rule: ops.AlterRelease, packet: m.Packet) -> Shown | None:
        if packet.envelope.kind != m.KINDS[m.Release]:
            return None
        message = decode_body(packet.envelope.kind, packet.envelope.body)
        assert isinstance(message, m.Release)
        if rule.what == "sum":
            other = replace(message, sum_digest=bytes(32))
        elif rule.what == "update":
            other = replace(message, update_digest=hashlib.sha256(_OTHER_UPDATE).digest())
        else:
            return None  # another update under the right digest
        return self._sign(packet.envelope.context, other), frozenset()

    def again(self, party: PartyId, shown: m.Packet) -> Iterable[m.Packet]:
        """Yield second lists, other than the one that a party was just shown."""
        for rule in self._rules:
            if not isinstance(rule, ops.Again) or party not in rule.group:
                continue
            if shown.envelope.kind != m.KINDS[_LISTS[rule.kind][0]]:
                continue
            second = self.forge(ops.Forge(rule.kind, party, rule.members))
            if second is not None and second.envelope.body != shown.envelope.body:
                self._acted.add(rule)
                yield second

    def due(self) -> Iterable[tuple[PartyId, m.Packet]]:
        """Yield forged lists whose receivers wait for them."""
        for rule in [rule for rule in self._rules if isinstance(rule, ops.Forge)]:
            member = self._world.members.get(PartyId(rule.to))
            message, field, _ = _LISTS[rule.kind]
            if member is None or not member.is_reading:
                continue
            if not rule.hasty and (type(member.state), message) not in MESSAGES:
                continue
            made = self.forge(rule)
            if made is None:
                continue
            entries = getattr(decode_body(made.envelope.kind, made.envelope.body), field)
            if rule.hasty or len(entries) >= self._world.federation.plan.threshold:
                self._rules.remove(rule)
                self._acted.add(rule)
                yield PartyId(rule.to), made

    def forge(self, rule: ops.Forge) -> m.Packet | None:
        """Build a list for one party out of what was captured; None if nothing of it was."""
        member = self._world.members.get(PartyId(rule.to))
        if member is None or member.state is None:
            return None
        context = member.setup.context
        message, _, entry_type = _LISTS[rule.kind]
        entries, attachments = [], []
        for sender in sorted(set(rule.members)):
            packets = self._captured.get((context.task, entry_type, PartyId(sender)), [])
            made = self._made_to_fit(rule, PartyId(sender), context)
            candidates = [*made, *packets]
            if not candidates:
                continue
            chosen = candidates[0]
            if entry_type is m.ShareKeys and sender != rule.to:
                receivers = self._receivers(chosen)
                if rule.to not in receivers:
                    continue
                attachments.append(chosen.attachments[receivers.index(PartyId(rule.to))])
            entries.append(chosen.envelope)
        if not entries:
            return None
        return self._sign(context, message(tuple(entries)), *attachments)

    def _made_to_fit(
        self, rule: ops.Forge, sender: PartyId, context: m.Context
    ) -> Iterable[m.Packet]:
        """What the accomplice signs so that the receiver finds its own view confirmed."""
        if not rule.fit or sender != self._world.audit.liar:
            return
        statement: m.Message
        match rule.kind, self._world.members[PartyId(rule.to)].state:
            case "Confirmed", s.AwaitingConfirmations() as state:
                statement = m.Confirm(state.transcript)
            case "SurvivorsConfirmed", s.AwaitingSurvivorConfirmations() as state:
                statement = m.ConfirmSurvivors(state.survivor_transcript)
            case "UpdateVerified", s.AwaitingVerification() as state:
                statement = m.VerifyUpdate(state.update_digest, state.sum_digest)
            case _:
                return
        key = self._world.federation.identities[sender]
        yield m.Packet(sign_message(statement, context=context, sender=sender, key=key))

    def abort(self, rule: ops.ForgeAbort) -> m.Packet | None:
        """Build an end of the session for one party."""
        self._acted.add(rule)
        member = self._world.members.get(PartyId(rule.to))
        if member is None or member.state is None:
            return None
        reason = AbortReason(1 + rule.reason % 22)
        if reason is AbortReason.INTERNAL:
            reason = AbortReason.TIMEOUT
        return self._sign(member.setup.context, m.Abort(reason, None))
