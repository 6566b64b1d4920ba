"""Write tests/vectors/refusals.json with the code under test.

    python tests/vectors/generate_refusals.py [folder]

Takes the session of `generate_session.py` and, before a receiver takes a packet, shows it altered
ones. Each entry of the table below says what has to refuse it; the generator stops if the machines
that are deployed do something else.
"""

import copy
import dataclasses
import hashlib
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import generate_session as session
from generate_session import KEYS, Run, pseudo

from collabedit.crypto.sealed import seal
from collabedit.errors import (
    AbortReason,
    CryptoError,
    InvalidSignatureError,
    MalformedMessageError,
    UnexpectedMessageError,
)
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body, decode_packet, encode_packet
from collabedit.proto.envelope import _signed_bytes as signed_bytes
from collabedit.proto.envelope import sign_message, verify_signature
from collabedit.proto.statements import RefusalError, share_associated_data

T = TypeVar("T", bound=m.Message)
Outcome: TypeAlias = dict[str, Any]
Altered: TypeAlias = m.Packet | bytes

ME, LIAR = PartyId(2), PartyId(3)
NOBODY = PartyId(5)
"""A party id that the plan does not have."""

OTHER = pseudo("another digest")
LOW_ORDER = bytes(32)
NOT_CANONICAL = (2**255 - 19 + 9).to_bytes(32, "little")
"""The base point u = 9 with the field's prime added."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """A packet on its way, and whatever helps to alter it."""

    run: Run
    packet: m.Packet

    @property
    def envelope(self) -> m.Envelope:
        return self.packet.envelope

    @property
    def context(self) -> m.Context:
        return self.run.context

    def sign(self, message: m.Message, sender: int = 0, key: int | None = None) -> m.Envelope:
        identity = KEYS[PartyId(sender if key is None else key)]
        return sign_message(message, context=self.context, sender=PartyId(sender), key=identity)

    def sign_body(self, body: bytes, kind: int, sender: int = 0) -> m.Envelope:
        """Sign bytes that no message encodes to."""
        identity = KEYS[PartyId(sender)]
        signature = identity.sign(signed_bytes(self.context, PartyId(sender), kind, body))
        return m.Envelope(self.context, PartyId(sender), kind, body, signature)

    def body(self, expected: type[T]) -> T:
        message = decode_body(self.envelope.kind, self.envelope.body)
        assert isinstance(message, expected)
        return message

    def entries(self) -> dict[int, m.Envelope]:
        """The list's entries by sender."""
        message = decode_body(self.envelope.kind, self.envelope.body)
        (listed,) = (getattr(message, name) for name in message.__slots__)
        return {each.sender: each for each in listed}

    def relist(self, entries: Mapping[int, m.Envelope], *attachments: bytes) -> m.Packet:
        """The same list with other entries, signed by the aggregator."""
        kind = session.TYPES[self.envelope.kind]
        listed: Any = tuple(entries[sender] for sender in sorted(entries))
        envelope = self.sign(kind(listed))
        return m.Packet(envelope, attachments or self.packet.attachments)

    def with_entry(self, entry: m.Envelope, *attachments: bytes) -> m.Packet:
        return self.relist({**self.entries(), entry.sender: entry}, *attachments)

    def without(self, *senders: int) -> m.Packet:
        kept = {k: v for k, v in self.entries().items() if k not in senders}
        return self.relist(kept)

    def again(self, expected: type[m.Message]) -> m.Packet:
        """A second list of the aggregator of a kind that it sent before, one entry shorter."""
        for shown in reversed(self.run.packets):
            packet = decode_packet(bytes.fromhex(shown["bytes"]))
            if packet.envelope.kind == m.KINDS[expected]:
                return Scene(self.run, packet).without(4)
        raise AssertionError(expected)

    def reshare(self, **changes: Any) -> m.Envelope:  # noqa: ANN401  fields of ShareKeys
        """The liar's ShareKeys with other fields."""
        return self.sign(dataclasses.replace(entry_of(self, LIAR, m.ShareKeys), **changes), LIAR)

    def replace_share(self, sealed: bytes) -> m.Packet:
        """The liar signs `sealed` as its share for the receiver."""
        keys = entry_of(self, LIAR, m.ShareKeys)
        digests = {**keys.digests, ME: hashlib.sha256(sealed).digest()}
        attachments = list(self.packet.attachments)
        attachments[1] = sealed  # of 1, 3 and 4
        return self.with_entry(self.reshare(digests=digests), *attachments)

    def liar_seals(self, plaintext: bytes) -> bytes:
        sharing = self.run.seen[LIAR, self.context.task, s.AwaitingShares]
        assert isinstance(sharing, s.AwaitingShares)
        return seal(
            sender=sharing.seal_key,
            receiver_public=sharing.roster[ME].seal_public,
            plaintext=plaintext,
            associated_data=share_associated_data(self.context, sender=LIAR, receiver=ME),
            randomness=session.SessionIds(),
        )


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def moved(envelope: m.Envelope, **changes: Any) -> m.Context:  # noqa: ANN401  fields of Context
    return dataclasses.replace(envelope.context, **changes)


def resigned(scene: Scene, context: m.Context) -> m.Packet:
    """The same body by the same sender in another context."""
    envelope = scene.envelope
    message = decode_body(envelope.kind, envelope.body)
    signed = sign_message(
        message, context=context, sender=envelope.sender, key=KEYS[envelope.sender]
    )
    return m.Packet(signed, scene.packet.attachments)


def transplanted(scene: Scene, **changes: Any) -> m.Packet:  # noqa: ANN401  fields of Context
    """The same list in another context, entries included: an honest one of another session."""
    context = moved(scene.envelope, **changes)
    entries = {
        sender: resigned(Scene(scene.run, m.Packet(entry)), context).envelope
        for sender, entry in scene.entries().items()
    }
    return resigned(Scene(scene.run, scene.relist(entries)), context)


def aborts(reason: AbortReason, culprit: int | None = 0) -> Outcome:
    return {"outcome": "aborts", "reason": reason.name, "culprit": culprit}


def refused(how: str) -> Outcome:
    return {"outcome": "refused", "how": how}


def breaks(reason: AbortReason, culprit: int = ME) -> Outcome:
    return {"outcome": "refused", "how": "rule", "reason": reason.name, "culprit": culprit}


R = AbortReason


@dataclasses.dataclass(frozen=True)
class Lie:
    """`make` alters the packet with `message` that `receiver` is about to take in `task`."""

    name: str
    rule: str
    message: type[m.Message]
    make: Callable[[Scene], Altered]
    outcome: Outcome
    receiver: int = ME
    sender: int = 0
    task: int = 0


def at_party(
    message: type[m.Message],
    *rows: tuple[str, str, Callable[[Scene], Altered], Outcome],
    task: int = 0,
) -> list[Lie]:
    return [
        Lie(f"{message.__name__}: {row[0]}", row[1], message, *row[2:], task=task) for row in rows
    ]


def at_aggregator(
    message: type[m.Message],
    *rows: tuple[str, str, Callable[[Scene], Altered], Outcome],
    task: int = 0,
) -> list[Lie]:
    return [
        Lie(
            f"{message.__name__} of a party: {row[0]}",
            row[1],
            message,
            *row[2:],
            receiver=0,
            sender=ME,
            task=task,
        )
        for row in rows
    ]


def entry_of(x: Scene, sender: int, expected: type[T]) -> T:
    entry = x.entries()[sender]
    message = decode_body(entry.kind, entry.body)
    assert isinstance(message, expected)
    return message


def keys_of(x: Scene, sender: int) -> m.Advertise:
    return entry_of(x, sender, m.Advertise)


def repeated_entry(x: Scene) -> m.Packet:
    body = x.envelope.body
    entry = body[: len(body) // len(x.entries())]
    return m.Packet(x.sign_body(entry + body, x.envelope.kind))


def foreign_entry(x: Scene) -> m.Packet:
    entry = x.entries()[LIAR]
    message = decode_body(entry.kind, entry.body)
    other = sign_message(
        message, context=moved(entry, task=TaskIndex(1)), sender=LIAR, key=KEYS[LIAR]
    )
    return x.with_entry(other)


def flipped_entry(x: Scene) -> m.Packet:
    entry = x.entries()[LIAR]
    return x.with_entry(dataclasses.replace(entry, signature=flip(entry.signature, 40)))


ROSTER = at_party(
    m.Roster,
    ("cut short", "3.3(a)", lambda x: encode_packet(x.packet)[:-1], refused("malformed")),
    (
        "an unknown field behind the envelope",
        "3.3(a)",
        lambda x: encode_packet(x.packet) + b"\x78\x01",
        refused("malformed"),
    ),
    (
        "an attachment that nothing binds",
        "3.3(d)",
        lambda x: encode_packet(x.packet) + b"\x12\x01\x00",
        refused("malformed"),
    ),
    (
        "one bit of the signature",
        "4.8(g)",
        lambda x: m.Packet(
            dataclasses.replace(x.envelope, signature=flip(x.envelope.signature, 3))
        ),
        refused("signature"),
    ),
    (
        "one bit of the body",
        "4.8(g)",
        lambda x: m.Packet(dataclasses.replace(x.envelope, body=flip(x.envelope.body, 60))),
        refused("signature"),
    ),
    (
        "another session, with entries of this one",
        "4.8(g)",
        lambda x: resigned(x, moved(x.envelope, session_id=OTHER)),
        aborts(R.MALFORMED_MESSAGE),
    ),
    ("another session", "3.1", lambda x: transplanted(x, session_id=OTHER), refused("malformed")),
    ("another chain", "3.1", lambda x: transplanted(x, chain=OTHER), refused("malformed")),
    (
        "another plan",
        "3.1",
        lambda x: resigned(x, moved(x.envelope, plan_digest=OTHER)),
        refused("malformed"),
    ),
    (
        "signed and sent by a party",
        "4.8(g)",
        lambda x: m.Packet(x.sign(x.body(m.Roster), 1)),
        refused("unexpected"),
    ),
    (
        "by the aggregator's id under a party's key",
        "4.8(g)",
        lambda x: m.Packet(x.sign(x.body(m.Roster), 0, 1)),
        refused("signature"),
    ),
    (
        "another kind than the state accepts",
        "4.8(g)",
        lambda x: m.Packet(x.sign(m.Confirmed(()))),
        refused("unexpected"),
    ),
    (
        "Abort of the aggregator",
        "4.8(e)",
        lambda x: m.Packet(x.sign(m.Abort(R.BELOW_THRESHOLD, None))),
        aborts(R.BELOW_THRESHOLD, None),
    ),
    (
        "an entry of nobody",
        "L1",
        lambda x: x.with_entry(x.sign(m.Advertise(OTHER, pseudo("x")), NOBODY, 1)),
        aborts(R.UNKNOWN_PARTY),
    ),
    (
        "an entry of the aggregator",
        "L1",
        lambda x: x.with_entry(x.sign(m.Advertise(OTHER, pseudo("x")), 0)),
        aborts(R.UNKNOWN_PARTY),
    ),
    ("an entry twice", "L2", repeated_entry, aborts(R.MALFORMED_MESSAGE)),
    ("an entry of another task", "L3", foreign_entry, aborts(R.MALFORMED_MESSAGE)),
    (
        "an entry of another kind",
        "L3",
        lambda x: x.with_entry(x.sign(m.Confirm(OTHER), LIAR)),
        aborts(R.MALFORMED_MESSAGE),
    ),
    (
        "a signed entry that does not decode",
        "L3",
        lambda x: x.with_entry(x.sign_body(b"\x0a\x01\x00", 10, LIAR)),
        aborts(R.MALFORMED_MESSAGE),
    ),
    ("one bit of an entry's signature", "L4", flipped_entry, aborts(R.INVALID_SIGNATURE)),
    (
        "an unsigned entry that does not decode",
        "L4",
        lambda x: x.with_entry(
            dataclasses.replace(x.entries()[LIAR], body=x.entries()[LIAR].body[:-1])
        ),
        aborts(R.INVALID_SIGNATURE),
    ),
    (
        "an entry under another party's key",
        "L4",
        lambda x: x.with_entry(x.sign(keys_of(x, 1), LIAR, 1)),
        aborts(R.INVALID_SIGNATURE),
    ),
    ("two entries", "L5", lambda x: x.without(3, 4), aborts(R.BELOW_THRESHOLD, None)),
    (
        "two entries without one's own",
        "L5",
        lambda x: x.without(2, 4),
        aborts(R.BELOW_THRESHOLD, None),
    ),
    ("without one's own", "L6", lambda x: x.without(2), aborts(R.MISSING_SELF)),
    (
        "another one of one's own",
        "L6",
        lambda x: x.with_entry(x.sign(keys_of(x, 1), ME)),
        aborts(R.ALTERED_OWN_MESSAGE),
    ),
    (
        "a key of low order",
        "4.1(e)",
        lambda x: x.with_entry(x.sign(m.Advertise(LOW_ORDER, pseudo("x")), LIAR)),
        aborts(R.INVALID_PUBLIC_KEY, 3),
    ),
    (
        "a key that is not canonical",
        "4.1(e)",
        lambda x: x.with_entry(x.sign(m.Advertise(keys_of(x, 3).mask_public, NOT_CANONICAL), LIAR)),
        aborts(R.INVALID_PUBLIC_KEY, 3),
    ),
    (
        "one key for both purposes",
        "4.1(f)",
        lambda x: x.with_entry(
            x.sign(m.Advertise(keys_of(x, 3).mask_public, keys_of(x, 3).mask_public), LIAR)
        ),
        aborts(R.INVALID_PUBLIC_KEY, 3),
    ),
    (
        "another party's key",
        "4.1(f)",
        lambda x: x.with_entry(
            x.sign(m.Advertise(keys_of(x, 1).seal_public, keys_of(x, 3).seal_public), LIAR)
        ),
        aborts(R.INVALID_PUBLIC_KEY),
    ),
)


def digests_of(x: Scene) -> dict[PartyId, bytes]:
    return dict(entry_of(x, LIAR, m.ShareKeys).digests)


RELAY = at_party(
    m.RelayShares,
    ("after another Roster", "11.4(a)", lambda x: x.again(m.Roster), aborts(R.ROSTER_FORK)),
    ("two entries", "L5", lambda x: x.without(3, 4), aborts(R.BELOW_THRESHOLD, None)),
    ("without one's own", "L6", lambda x: x.without(2), aborts(R.MISSING_SELF)),
    (
        "another one of one's own",
        "L6",
        lambda x: x.with_entry(
            x.sign(m.ShareKeys(OTHER, OTHER, {PartyId(p): OTHER for p in (1, 3, 4)}), ME)
        ),
        aborts(R.ALTERED_OWN_MESSAGE),
    ),
    (
        "shares for one party less",
        "4.2(c)",
        lambda x: x.with_entry(
            x.reshare(digests={p: d for p, d in digests_of(x).items() if p != 4})
        ),
        aborts(R.MALFORMED_MESSAGE),
    ),
    (
        "shares for somebody outside of the roster",
        "4.2(c)",
        lambda x: x.with_entry(
            x.reshare(digests={NOBODY if p == 4 else p: d for p, d in digests_of(x).items()})
        ),
        aborts(R.MALFORMED_MESSAGE),
    ),
    (
        "shares for the sender itself",
        "4.2(c)",
        lambda x: x.with_entry(
            x.reshare(digests={LIAR if p == 4 else p: d for p, d in digests_of(x).items()})
        ),
        aborts(R.MALFORMED_MESSAGE),
    ),
    (
        "one attachment less",
        "4.2(f)",
        lambda x: m.Packet(x.envelope, x.packet.attachments[:-1]),
        aborts(R.MALFORMED_MESSAGE),
    ),
    (
        "two attachments exchanged",
        "4.2(c)",
        lambda x: m.Packet(x.envelope, (*x.packet.attachments[1::-1], x.packet.attachments[2])),
        aborts(R.DIGEST_MISMATCH),
    ),
    (
        "a sealed share of other bytes",
        "4.2(d)",
        lambda x: x.replace_share(pseudo("junk", 126)),
        aborts(R.INVALID_SEAL, 3),
    ),
    (
        "a sealed share shorter than a tag",
        "4.2(d)",
        lambda x: x.replace_share(pseudo("junk", 27)),
        aborts(R.INVALID_SEAL, 3),
    ),
    (
        "the receiver's own sealed share sent back",
        "7.2",
        lambda x: x.replace_share(x.run.sealed(ME, LIAR)),
        aborts(R.INVALID_SEAL, 3),
    ),
    (
        "a plaintext of 97 bytes",
        "4.2(d)",
        lambda x: x.replace_share(x.liar_seals(bytes(97))),
        aborts(R.INVALID_SEAL, 3),
    ),
    (
        "another group part",
        "4.2(e)",
        lambda x: x.replace_share(x.liar_seals(bytes(98))),
        aborts(R.INVALID_SHARE, 3),
    ),
)

CONFIRMED = at_party(
    m.Confirmed,
    (
        "another transcript",
        "4.3(e)",
        lambda x: x.with_entry(x.sign(m.Confirm(OTHER), LIAR)),
        aborts(R.ROSTER_FORK),
    ),
    ("two entries", "L5", lambda x: x.without(3, 4), aborts(R.BELOW_THRESHOLD, None)),
    (
        "another RelayShares",
        "11.4(a)",
        lambda x: x.again(m.RelayShares),
        aborts(R.ROSTER_FORK),
    ),
)


def contribute(x: Scene, sender: int, **changes: Any) -> m.Envelope:  # noqa: ANN401
    entry = x.entries()[ME] if x.envelope.sender == 0 else x.envelope
    message = decode_body(entry.kind, entry.body)
    assert isinstance(message, m.Contribute)
    return x.sign(dataclasses.replace(message, **changes), sender)


PROPOSE = [
    *at_party(
        m.ProposeSurvivors,
        (
            "without one's own",
            "4.5(b)",
            lambda x: x.relist({1: x.entries()[1], 3: contribute(x, 3), 4: x.entries()[4]}),
            aborts(R.MISSING_SELF),
        ),
        (
            "another one of one's own",
            "4.5(b)",
            lambda x: x.with_entry(contribute(x, ME, root=OTHER)),
            aborts(R.ALTERED_OWN_MESSAGE),
        ),
        ("two entries", "L5", lambda x: x.without(4), aborts(R.BELOW_THRESHOLD, None)),
    ),
    *at_party(
        m.ProposeSurvivors,
        (
            "a party of the plan that is not in this task",
            "L1",
            lambda x: x.with_entry(contribute(x, 3)),
            aborts(R.UNKNOWN_PARTY),
        ),
        task=1,
    ),
]

LATER = [
    *at_party(
        m.SurvivorsConfirmed,
        (
            "another survivor transcript",
            "4.5(e)",
            lambda x: x.with_entry(x.sign(m.ConfirmSurvivors(OTHER), 4)),
            aborts(R.SURVIVOR_FORK),
        ),
        (
            "a dropped party",
            "L1",
            lambda x: x.with_entry(x.sign(entry_of(x, 4, m.ConfirmSurvivors), LIAR)),
            aborts(R.UNKNOWN_PARTY),
        ),
        (
            "another ProposeSurvivors",
            "11.4(a)",
            lambda x: x.again(m.ProposeSurvivors),
            aborts(R.REPEATED_OPENING),
        ),
    ),
    *at_party(
        m.Release,
        (
            "an update beyond the plan's size",
            "4.7(a)",
            lambda x: m.Packet(
                x.sign(
                    dataclasses.replace(x.body(m.Release), update_bytes=8 + 76 + 8 * 13 * 11 + 1)
                )
            ),
            aborts(R.MALFORMED_MESSAGE),
        ),
        (
            "another SurvivorsConfirmed",
            "11.4(a)",
            lambda x: x.again(m.SurvivorsConfirmed),
            aborts(R.REPEATED_OPENING),
        ),
    ),
    *at_party(
        m.UpdateVerified,
        (
            "another update",
            "4.7(e)",
            lambda x: x.with_entry(
                x.sign(m.VerifyUpdate(OTHER, entry_of(x, 4, m.VerifyUpdate).sum_digest), 4)
            ),
            aborts(R.UPDATE_FORK),
        ),
        (
            "another sum",
            "4.7(e)",
            lambda x: x.with_entry(
                x.sign(m.VerifyUpdate(entry_of(x, 4, m.VerifyUpdate).update_digest, OTHER), 4)
            ),
            aborts(R.UPDATE_FORK),
        ),
        (
            "another Release",
            "11.4(a)",
            lambda x: m.Packet(x.sign(m.Release(OTHER, 100, OTHER))),
            aborts(R.UPDATE_FORK),
        ),
    ),
]


def mine(x: Scene) -> m.Advertise:
    return x.body(m.Advertise)


def first_party_key(x: Scene) -> bytes:
    state = x.run.seen[PartyId(1), x.context.task, s.AwaitingRoster]
    assert isinstance(state, s.AwaitingRoster)
    return state.mask_key.public


DELIVERED = [
    *at_aggregator(
        m.Advertise,
        ("cut short", "3.3(a)", lambda x: encode_packet(x.packet)[:-1], refused("malformed")),
        (
            "another session",
            "4.8(j)",
            lambda x: resigned(x, moved(x.envelope, session_id=OTHER)),
            refused("unexpected"),
        ),
        (
            "another chain",
            "4.8(j)",
            lambda x: resigned(x, moved(x.envelope, chain=OTHER)),
            refused("malformed"),
        ),
        (
            "under another party's key",
            "4.8(j)",
            lambda x: m.Packet(x.sign(mine(x), ME, 1)),
            refused("signature"),
        ),
        (
            "a kind of a later round",
            "4.8(j)",
            lambda x: m.Packet(x.sign(m.Confirm(OTHER), ME)),
            refused("unexpected"),
        ),
        (
            "of nobody in the plan",
            "4.8(j)",
            lambda x: m.Packet(x.sign(mine(x), NOBODY, 1)),
            refused("unexpected"),
        ),
        (
            "that has answered",
            "4.8(j)",
            lambda x: m.Packet(x.sign(mine(x), 1)),
            refused("unexpected"),
        ),
        (
            "a body that does not decode",
            "3.3(b)",
            lambda x: m.Packet(x.sign_body(b"\x0a\x01\x00", 10, ME)),
            refused("malformed"),
        ),
        (
            "a key of low order",
            "4.1(b)",
            lambda x: m.Packet(x.sign(m.Advertise(LOW_ORDER, mine(x).seal_public), ME)),
            breaks(R.INVALID_PUBLIC_KEY),
        ),
        (
            "one key for both purposes",
            "4.1(b)",
            lambda x: m.Packet(x.sign(m.Advertise(mine(x).seal_public, mine(x).seal_public), ME)),
            breaks(R.INVALID_PUBLIC_KEY),
        ),
        (
            "a key that was advertised before",
            "4.1(b)",
            lambda x: m.Packet(x.sign(m.Advertise(mine(x).mask_public, first_party_key(x)), ME)),
            breaks(R.INVALID_PUBLIC_KEY),
        ),
    ),
    *at_aggregator(
        m.Advertise,
        (
            "that is not in this task",
            "4.8(d)",
            lambda x: m.Packet(x.sign(mine(x), LIAR)),
            refused("unexpected"),
        ),
        task=1,
    ),
    *at_aggregator(
        m.ShareKeys,
        (
            "for one party less",
            "4.2(g)",
            lambda x: m.Packet(
                x.sign(
                    dataclasses.replace(
                        x.body(m.ShareKeys),
                        digests={p: d for p, d in x.body(m.ShareKeys).digests.items() if p != 4},
                    ),
                    ME,
                ),
                x.packet.attachments[:2],
            ),
            breaks(R.MALFORMED_MESSAGE),
        ),
        (
            "another attachment",
            "4.2(g)",
            lambda x: m.Packet(
                x.envelope, (flip(x.packet.attachments[0], 20), *x.packet.attachments[1:])
            ),
            breaks(R.DIGEST_MISMATCH),
        ),
    ),
    *at_aggregator(
        m.Confirm,
        (
            "another transcript",
            "4.3(d)",
            lambda x: m.Packet(x.sign(m.Confirm(OTHER), ME)),
            breaks(R.ROSTER_FORK),
        ),
    ),
    *at_aggregator(
        m.Contribute,
        (
            "another root",
            "4.4(e)",
            lambda x: m.Packet(contribute(x, ME, root=OTHER)),
            breaks(R.DIGEST_MISMATCH),
        ),
        (
            "another number of tiles",
            "4.4(e)",
            lambda x: m.Packet(contribute(x, ME, tiles=4)),
            breaks(R.DIGEST_MISMATCH),
        ),
        (
            "another number of elements",
            "4.4(e)",
            lambda x: m.Packet(contribute(x, ME, elements=142)),
            breaks(R.MALFORMED_MESSAGE),
        ),
        (
            "whose tiles are missing",
            "4.4(e)",
            lambda x: m.Packet(contribute(x, 4)),
            breaks(R.MALFORMED_MESSAGE, 4),
        ),
    ),
    *at_aggregator(
        m.ConfirmSurvivors,
        (
            "another survivor transcript",
            "4.5(d)",
            lambda x: m.Packet(x.sign(m.ConfirmSurvivors(OTHER), ME)),
            breaks(R.SURVIVOR_FORK),
        ),
        (
            "that dropped out",
            "4.8(c)",
            lambda x: m.Packet(x.sign(x.body(m.ConfirmSurvivors), LIAR)),
            refused("unexpected"),
        ),
    ),
    *at_aggregator(
        m.Unmask,
        (
            "the other kind of a survivor's share",
            "4.6(b)",
            lambda x: m.Packet(
                x.sign(
                    m.Unmask({**x.body(m.Unmask).shares, PartyId(1): m.MaskKeyShare(bytes(33))}),
                    ME,
                )
            ),
            breaks(R.INVALID_SHARE),
        ),
        (
            "the other kind of a dropped party's share",
            "4.6(b)",
            lambda x: m.Packet(
                x.sign(m.Unmask({**x.body(m.Unmask).shares, LIAR: m.SelfMaskShare(bytes(33))}), ME)
            ),
            breaks(R.INVALID_SHARE),
        ),
        (
            "without an owner",
            "4.6(b)",
            lambda x: m.Packet(
                x.sign(
                    m.Unmask({p: v for p, v in x.body(m.Unmask).shares.items() if p != LIAR}),
                    ME,
                )
            ),
            breaks(R.INVALID_SHARE),
        ),
    ),
    *at_aggregator(
        m.VerifyUpdate,
        (
            "another update",
            "4.7(d)",
            lambda x: m.Packet(
                x.sign(m.VerifyUpdate(OTHER, x.body(m.VerifyUpdate).sum_digest), ME)
            ),
            breaks(R.UPDATE_FORK),
        ),
        (
            "another sum",
            "4.7(d)",
            lambda x: m.Packet(
                x.sign(m.VerifyUpdate(x.body(m.VerifyUpdate).update_digest, OTHER), ME)
            ),
            breaks(R.UPDATE_FORK),
        ),
    ),
]
LIES = (*ROSTER, *RELAY, *CONFIRMED, *PROPOSE, *LATER, *DELIVERED)


def observe(run: Run, receiver: PartyId, data: bytes) -> Outcome:
    """Show the bytes to the real machine, whose state stays as it is."""
    try:
        packet = decode_packet(data)
        if receiver == AGGREGATOR:
            run.coordinator.deliver(packet)
            return {"outcome": "accepted"}
        witness = copy.copy(run.witnesses[receiver])
        witness._first = dict(witness._first)
        step = witness.receive(run.states[receiver], packet)
    except RefusalError as error:
        culprit = None if error.culprit is None else int(error.culprit)
        return {**refused("rule"), "reason": error.reason.name, "culprit": culprit}
    except MalformedMessageError:
        return refused("malformed")
    except InvalidSignatureError:
        return refused("signature")
    except UnexpectedMessageError:
        return refused("unexpected")
    if isinstance(step.state, s.Aborted):
        culprit = step.state.culprit
        return aborts(step.state.reason, None if culprit is None else int(culprit))
    return {"outcome": "accepted"}


def is_signed(run: Run, data: bytes) -> bool | None:
    """Whether the outer signature verifies; None if the packet does not decode."""
    try:
        envelope = decode_packet(data).envelope
    except MalformedMessageError:
        return None
    try:
        verify_signature(envelope, identities=run.plan.identity)
    except (CryptoError, IndexError):
        return False
    return True


def collect(cases: list[dict[str, Any]], lies: Sequence[Lie]) -> session.Probe:
    """Probe a run with every lie, and keep what came of it."""

    def probe(run: Run, number: int, receiver: PartyId, packet: m.Packet) -> None:
        envelope = packet.envelope
        place = (session.TYPES[envelope.kind], receiver, envelope.sender, envelope.context.task)
        for lie in lies:
            if (lie.message, lie.receiver, lie.sender, lie.task) != place:
                continue
            made = lie.make(Scene(run, packet))
            data = made if isinstance(made, bytes) else encode_packet(made)
            observed = observe(run, receiver, data)
            if observed != lie.outcome:
                raise SystemExit(f"{lie.name}: {observed}, not {lie.outcome}")
            cases.append(
                {
                    "name": lie.name,
                    "rule": lie.rule,
                    "to": int(receiver),
                    "instead_of": number,
                    "is_signed": is_signed(run, data),
                    "outcome": observed,
                    "bytes": data.hex(),
                }
            )

    return probe


def check_tried(cases: list[dict[str, Any]], lies: Sequence[Lie]) -> None:
    missing = {lie.name for lie in lies} - {case["name"] for case in cases}
    if missing:
        raise SystemExit(f"never tried: {sorted(missing)}")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else session.FOLDER
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        session.run_session(Path(directory), collect(cases, LIES))
    check_tried(cases, LIES)
    content = {"generator": "tests/vectors/generate_refusals.py", "session": "session.json"}
    session.write(folder / "refusals.json", {**content, "cases": cases})


if __name__ == "__main__":
    main()
