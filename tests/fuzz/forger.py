"""Real packets, altered below their signatures and signed again.

A forger holds the keys of the aggregator and of every party but `HONEST`, so what it sends reaches
the checks behind the signatures. It keeps a list of whose key it used: whoever is blamed for an
altered packet must be on it.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import replace

from collabedit.crypto.sealed import open_sealed, seal
from collabedit.errors import AbortReason, CollabEditError
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body, encode_body
from collabedit.proto.envelope import _signed_bytes, sign_message
from collabedit.proto.statements import share_associated_data
from tests.fuzz.choices import Choices
from tests.fuzz.scene import HONEST, PARTIES, Scene, with_field
from tests.support.randomness import InsecureTestRandomness

KINDS = tuple(m.KINDS.values())
NUMBERS = (0, 1, 2, 3, PARTIES, PARTIES + 1, 500, 501, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
LOW_ORDER = (bytes(32), b"\x01" + bytes(31), b"\xff" * 32)


class Forger:
    """Makes altered packets of one execution.

    Attributes:
        guilty: whose key signed something that its owner never said.
    """

    def __init__(self, choices: Choices, scene: Scene) -> None:
        self._choices = choices
        self._scene = scene
        self.guilty: set[PartyId] = set()

    def packet(self, packet: m.Packet, *, signer: PartyId) -> m.Packet:
        """Alter a packet in one to three places. `signer` signs what lost its signature."""
        for _ in range(1 + self._choices.below(3)):
            packet = self._once(packet, signer)
        return packet

    def _once(self, packet: m.Packet, signer: PartyId) -> m.Packet:
        choices, envelope = self._choices, packet.envelope
        match choices.below(9):
            case 0 | 1 | 2:
                return replace(packet, envelope=self._message(envelope, signer))
            case 3:
                return replace(packet, attachments=self._attachments(packet.attachments))
            case 4:
                return replace(packet, envelope=self._frame(envelope, signer))
            case 5:
                return replace(packet, envelope=choices.pick(self._scene.pool))
            case 6:
                return self._seal_lies(packet, signer)
            case 7:
                return self._without_a_party(packet, signer)
            case _:
                body = self._bytes(envelope.body)
                return replace(packet, envelope=self._sign(replace(envelope, body=body), signer))

    def _sign(self, envelope: m.Envelope, signer: PartyId) -> m.Envelope:
        assert signer != HONEST
        self.guilty.add(signer)
        data = _signed_bytes(envelope.context, envelope.sender, envelope.kind, envelope.body)
        key = self._scene.walk.federation.identities[signer]
        return replace(envelope, signature=key.sign(data))

    def _message(self, envelope: m.Envelope, signer: PartyId) -> m.Envelope:
        """Alter a field of the message inside and sign it again."""
        try:
            message = decode_body(envelope.kind, envelope.body)
        except CollabEditError:
            return envelope
        try:
            body = encode_body(self._fields(message))
        except (ValueError, OverflowError):
            return envelope  # a number that its field cannot hold does not travel
        return self._sign(replace(envelope, body=body), signer)

    def _fields(self, message: m.Message) -> m.Message:
        names = [field.name for field in dataclasses.fields(message)]
        if not names:
            return message
        name = self._choices.pick(names)
        return with_field(message, name, self._value(getattr(message, name)))

    def _value(self, value: object) -> object:
        choices = self._choices
        if isinstance(value, AbortReason):
            return choices.pick(tuple(AbortReason))
        if value is None:
            return PartyId(choices.below(PARTIES + 2))
        if isinstance(value, int):
            return (choices.pick(NUMBERS), value + 1, max(0, value - 1))[choices.below(3)]
        if isinstance(value, bytes):
            return self._bytes(value)
        if isinstance(value, m.SelfMaskShare | m.MaskKeyShare):
            other = m.MaskKeyShare if isinstance(value, m.SelfMaskShare) else m.SelfMaskShare
            return choices.pick((other(value.value), type(value)(self._bytes(value.value))))
        if isinstance(value, tuple):
            return self._envelopes(value)
        if isinstance(value, Mapping):
            return self._mapping(value)
        raise AssertionError(f"a message field of type {type(value).__name__} is new here")

    def _bytes(self, value: bytes) -> bytes:
        choices = self._choices
        match choices.below(6):
            case 0:
                flipped = bytearray(value or bytes(1))
                flipped[choices.below(len(flipped))] ^= 1 << choices.below(8)
                return bytes(flipped)
            case 1:
                return value[: choices.below(len(value) + 1)]
            case 2:
                return value + choices.take(1 + choices.below(4))
            case 3:
                return choices.take(len(value))
            case 4:
                return choices.pick(LOW_ORDER)
            case _:
                return hashlib.sha256(value).digest()

    def _envelopes(self, value: tuple[m.Envelope, ...]) -> tuple[m.Envelope, ...]:
        choices, items = self._choices, list(value)
        at = choices.below(max(1, len(items)))
        match choices.below(6) if items else 3:
            case 0:
                del items[at]
            case 1:
                items.insert(at, choices.pick(items))
            case 2:
                other = choices.below(len(items))
                items[at], items[other] = items[other], items[at]
            case 3:
                items[at : at + 1] = [choices.pick(self._scene.pool)]
            case _:
                items[at] = self._statement(items[at])
        return tuple(items)

    def _attachments(self, value: tuple[bytes, ...]) -> tuple[bytes, ...]:
        choices, items = self._choices, list(value)
        at = choices.below(max(1, len(items)))
        match choices.below(5) if items else 3:
            case 0:
                del items[at]
            case 1:
                items.insert(at, choices.pick(items))
            case 2:
                other = choices.below(len(items))
                items[at], items[other] = items[other], items[at]
            case 3:
                items[at : at + 1] = [choices.take(126)]
            case _:
                items[at] = self._bytes(items[at])
        return tuple(items)

    def _mapping(self, value: Mapping[object, object]) -> Mapping[object, object]:
        choices, items = self._choices, dict(value)
        if not items:
            return items
        at = choices.pick(tuple(items))
        match choices.below(3):
            case 0:
                del items[at]
            case 1:
                items[PartyId(1 + choices.below(PARTIES + 1))] = items[at]
            case _:
                items[at] = self._value(items[at])
        return items

    def _without_a_party(self, packet: m.Packet, signer: PartyId) -> m.Packet:
        """Leave one party out of a list, and what it attached: another view, in itself whole."""
        message = self._open(packet.envelope)
        names = [field.name for field in dataclasses.fields(message)] if message else []
        if message is None or len(names) != 1:
            return packet
        listed = getattr(message, names[0])
        if not isinstance(listed, tuple) or not listed:
            return packet
        left_out = listed[self._choices.below(len(listed))].sender
        kept = tuple(envelope for envelope in listed if envelope.sender != left_out)
        attachments = packet.attachments
        if len(attachments) == len(listed) - 1:
            peers = [envelope.sender for envelope in listed if envelope.sender != HONEST]
            attachments = tuple(
                sealed for peer, sealed in zip(peers, attachments, strict=False) if peer != left_out
            )
        body = encode_body(with_field(message, names[0], kept))
        return m.Packet(self._sign(replace(packet.envelope, body=body), signer), attachments)

    def _statement(self, envelope: m.Envelope) -> m.Envelope:
        """Alter a relayed statement: its owner colludes and signs again, or does not."""
        owner = envelope.sender
        if owner == HONEST or owner not in self._scene.seal_keys or not self._choices.below(2):
            return self._frame(envelope, None)
        if self._choices.below(2):
            return self._message(envelope, owner)
        return self._frame(envelope, owner)

    def _frame(self, envelope: m.Envelope, signer: PartyId | None) -> m.Envelope:
        """Alter what stands around the body; sign it again if there is a signer."""
        choices, context = self._choices, envelope.context
        match choices.below(8):
            case 0:
                context = replace(context, task=TaskIndex(choices.pick((0, 1, 2**32 - 1))))
            case 1:
                context = replace(context, chain=choices.take(32))
            case 2:
                context = replace(context, session_id=choices.take(32))
            case 3:
                context = replace(context, plan_digest=choices.take(32))
            case 4:
                envelope = replace(envelope, kind=choices.pick(KINDS))
            case 5:
                envelope = replace(envelope, sender=PartyId(choices.below(PARTIES + 2)))
            case 6:
                return replace(envelope, signature=self._bytes(envelope.signature))
            case _:
                envelope = replace(envelope, body=self._bytes(envelope.body))
        envelope = replace(envelope, context=context)
        return envelope if signer is None else self._sign(envelope, signer)

    def _seal_lies(self, packet: m.Packet, signer: PartyId) -> m.Packet:
        """Let a party seal something wrong to the honest one, with everything around it right."""
        kind = packet.envelope.kind
        if kind == m.KINDS[m.RelayShares]:
            return self._relayed_lie(packet, signer)
        if kind == m.KINDS[m.ShareKeys] and signer == packet.envelope.sender:
            message = self._open(packet.envelope)
            if not isinstance(message, m.ShareKeys) or HONEST not in message.digests:
                return packet
            place = sorted(message.digests).index(HONEST)
            if place >= len(packet.attachments):
                return packet
            sealed = self._sealed_lie(signer, packet.attachments[place])
            digests = {**message.digests, HONEST: hashlib.sha256(sealed).digest()}
            attachments = list(packet.attachments)
            attachments[place] = sealed
            envelope = self._resign(packet.envelope, replace(message, digests=digests))
            return m.Packet(envelope, tuple(attachments))
        return packet

    def _relayed_lie(self, packet: m.Packet, signer: PartyId) -> m.Packet:
        relayed = self._open(packet.envelope)
        if not isinstance(relayed, m.RelayShares):
            return packet
        peers = [e for e in relayed.commitments if e.sender not in {HONEST, AGGREGATOR}]
        if not peers or len(peers) != len(packet.attachments):
            return packet
        place = self._choices.below(len(peers))
        liar = peers[place]
        message = self._open(liar)
        if not isinstance(message, m.ShareKeys) or liar.sender not in self._scene.seal_keys:
            return packet
        sealed = self._sealed_lie(liar.sender, packet.attachments[place])
        digests = {**message.digests, HONEST: hashlib.sha256(sealed).digest()}
        lie = self._resign(liar, replace(message, digests=digests))
        commitments = tuple(lie if e is liar else e for e in relayed.commitments)
        attachments = list(packet.attachments)
        attachments[place] = sealed
        self.guilty.add(signer)
        key = self._scene.walk.federation.identities[signer]
        envelope = sign_message(
            m.RelayShares(commitments),
            context=packet.envelope.context,
            sender=packet.envelope.sender,
            key=key,
        )
        return m.Packet(envelope, tuple(attachments))

    def _sealed_lie(self, liar: PartyId, sealed: bytes) -> bytes:
        scene = self._scene
        associated = share_associated_data(scene.walk.context, sender=liar, receiver=HONEST)
        try:
            plaintext = open_sealed(
                receiver=scene.seal_keys[HONEST],
                sender_public=scene.seal_keys[liar].public,
                sealed=sealed,
                associated_data=associated,
            )
        except CollabEditError:
            plaintext = bytes(98)
        return seal(
            sender=scene.seal_keys[liar],
            receiver_public=scene.seal_keys[HONEST].public,
            plaintext=self._bytes(plaintext),
            associated_data=associated,
            randomness=InsecureTestRandomness(liar),
        )

    def _open(self, envelope: m.Envelope) -> m.Message | None:
        try:
            return decode_body(envelope.kind, envelope.body)
        except CollabEditError:
            return None

    def _resign(self, envelope: m.Envelope, message: m.Message) -> m.Envelope:
        self.guilty.add(envelope.sender)
        key = self._scene.walk.federation.identities[envelope.sender]
        return sign_message(message, context=envelope.context, sender=envelope.sender, key=key)
