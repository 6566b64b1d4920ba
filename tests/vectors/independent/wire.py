"""SPEC 3: protobuf by hand, messages, envelopes, signatures. No project code.

A message is the JSON object that the vectors show: bytes as hexadecimal, lists of envelopes as
objects. Encoding follows the tables of SPEC 3.2 and 5.1; decoding follows 3.3 and refuses with
`Malformed`.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from independent.primitives import encode, sign, verifies

Json: TypeAlias = dict[str, Any]
un = bytes.fromhex

MOST_PARTIES = 500
REASONS = [
    "UNSPECIFIED",
    "BELOW_THRESHOLD",
    "INVALID_SIGNATURE",
    "UNKNOWN_PARTY",
    "REPEATED_PARTY",
    "MISSING_SELF",
    "ALTERED_OWN_MESSAGE",
    "INVALID_SEAL",
    "INVALID_PUBLIC_KEY",
    "DIGEST_MISMATCH",
    "ROSTER_FORK",
    "SURVIVOR_FORK",
    "UPDATE_FORK",
    "INVALID_SHARE",
    "REPEATED_OPENING",
    "PLAN_MISMATCH",
    "INPUT_REFUSED",
    "MERGE_FAILED",
    "PARTY_LEFT",
    "TIMEOUT",
    "MALFORMED_MESSAGE",
    "INTERNAL",
    "BOUNDS_EXCEEDED",
    "UPDATE_REJECTED",
    "COUNTS_REFUSED",
    "MERGE_UNVERIFIED",
    "TOO_FEW_EDITS",
    "OPENER_GONE",
]
"""Abort reasons by value."""

VOTES = 6
"""Values of a vote; the vectors show none where it is 0."""

NUMBERS = {"u32", "u64", "reason", "culprit", "vote"}

# Field number, name, type. A number behind a type is the exact length in bytes.
SCHEMAS: dict[int, tuple[str, tuple[tuple[int, str, str], ...]]] = {
    1: ("Join", ()),
    2: ("Welcome", ()),
    10: ("Advertise", ((1, "mask_public", "bytes 32"), (2, "seal_public", "bytes 32"))),
    11: ("Roster", ((1, "advertisements", "envelopes"),)),
    20: (
        "ShareKeys",
        (
            (1, "self_mask_commitment", "bytes 32"),
            (2, "group_commitment", "bytes 32"),
            (3, "digests", "digests"),
        ),
    ),
    21: ("RelayShares", ((1, "commitments", "envelopes"),)),
    30: ("Confirm", ((1, "transcript", "bytes 32"),)),
    31: ("Confirmed", ((1, "confirmations", "envelopes"),)),
    40: (
        "Contribute",
        (
            (1, "elements", "u64"),
            (2, "tiles", "u32"),
            (3, "root", "bytes 32"),
            (4, "seeds", "optional 32"),
        ),
    ),
    41: ("ProposeSurvivors", ((1, "contributions", "envelopes"),)),
    50: ("ConfirmSurvivors", ((1, "transcript", "bytes 32"),)),
    51: ("SurvivorsConfirmed", ((1, "confirmations", "envelopes"),)),
    60: ("Unmask", ((1, "shares", "shares"),)),
    61: (
        "Release",
        (
            (1, "update_digest", "bytes 32"),
            (2, "update_bytes", "u64"),
            (3, "sum_digest", "bytes 32"),
        ),
    ),
    62: ("OfferSum", ((1, "sum_digest", "bytes 32"), (2, "sum_bytes", "u64"))),
    63: (
        "SumOpened",
        (
            (1, "sum_digest", "bytes 32"),
            (2, "elements", "u64"),
            (3, "tiles", "u32"),
            (4, "root", "bytes 32"),
        ),
    ),
    70: (
        "VerifyUpdate",
        ((1, "update_digest", "bytes 32"), (2, "sum_digest", "bytes 32"), (3, "vote", "vote")),
    ),
    71: ("UpdateVerified", ((1, "confirmations", "envelopes"),)),
    90: ("Abort", ((1, "reason", "reason"), (2, "culprit", "culprit"))),
}
KINDS = {name: kind for kind, (name, _) in SCHEMAS.items()}
LISTS = {11: 10, 21: 20, 31: 30, 41: 40, 51: 50, 71: 70}
"""For each list of the aggregator the kind of its entries."""


class Malformed(Exception):  # noqa: N818 - an outcome, not an error
    """SPEC 3.3(e)."""


def require(condition: object, what: str) -> None:
    if not condition:
        raise Malformed(what)


# Protobuf: varints (wire type 0), fixed64 (1) and length-delimited fields (2).


def varint(value: int) -> bytes:
    value %= 2**64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value) if value else b""


def block(field: int, data: bytes, *, always: bool = False) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data if data or always else b""


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        require(at < len(data) and shift < 70, "a varint that does not end")
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def read_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        if tag & 7 == 0:
            value, at = read_varint(data, at)
            yield tag >> 3, value
            continue
        require(tag & 7 in {1, 2}, "a wire type that no message has")
        size, at = (8, at) if tag & 7 == 1 else read_varint(data, at)
        require(at + size <= len(data), "truncated")
        yield tag >> 3, data[at : at + size]
        at += size


def gather(data: bytes, numbers: set[int], blocks: set[int]) -> dict[int, list[Any]]:
    """Collect the values of known fields; what else there is makes the encoding not canonical."""
    found: dict[int, list[Any]] = {field: [] for field in numbers | blocks}
    for field, value in read_fields(data):
        known = numbers if isinstance(value, int) else blocks
        require(field in known, f"field {field}")
        found[field].append(value)
    return found


def last(values: list[Any], default: int | bytes) -> Any:  # noqa: ANN401
    return values[-1] if values else default


# Envelopes and packets


@dataclass(frozen=True)
class Envelope:
    context: Json
    kind: int
    sender: int
    body: bytes
    signature: bytes

    def show(self) -> Json:
        return {
            "type": "Envelope",
            "context": self.context,
            "sender": self.sender,
            "kind": self.kind,
            "body": self.body.hex(),
            "signature": self.signature.hex(),
        }


def envelope_of(shown: Json) -> Envelope:
    return Envelope(
        shown["context"], shown["kind"], shown["sender"], un(shown["body"]), un(shown["signature"])
    )


def make_context(plan: bytes, session: bytes, task: int, chain: bytes) -> Json:
    return {
        "type": "Context",
        "plan_digest": plan.hex(),
        "session_id": session.hex(),
        "task": task,
        "chain": chain.hex(),
    }


def context_bytes(context: Json) -> bytes:
    """Return `ctx` of SPEC 2.3."""
    return encode(
        1,
        un(context["plan_digest"]),
        un(context["session_id"]),
        context["task"],
        un(context["chain"]),
    )


def signed_bytes(context: Json, kind: int, sender: int, body: bytes) -> bytes:
    """SPEC 3.1: the fields of the context one by one, not `ctx`."""
    return encode(
        "collabedit/v1/envelope",
        1,
        un(context["plan_digest"]),
        un(context["session_id"]),
        context["task"],
        un(context["chain"]),
        kind,
        sender,
        body,
    )


def is_signed(envelope: Envelope, identities: dict[int, bytes]) -> bool:
    data = signed_bytes(envelope.context, envelope.kind, envelope.sender, envelope.body)
    public = identities.get(envelope.sender)
    return public is not None and verifies(public, envelope.signature, data)


def make_envelope(message: Json, context: Json, sender: int, seed: bytes) -> Envelope:
    kind, body = KINDS[message["type"]], encode_body(message)
    return Envelope(
        context, kind, sender, body, sign(seed, signed_bytes(context, kind, sender, body))
    )


def encode_envelope(envelope: Envelope) -> bytes:
    context = envelope.context
    return (
        number(1, 1)
        + number(2, envelope.kind)
        + number(3, envelope.sender)
        + block(4, un(context["plan_digest"]))
        + block(5, un(context["session_id"]))
        + number(6, context["task"])
        + block(7, un(context["chain"]))
        + block(8, envelope.body)
        + block(9, envelope.signature)
    )


def decode_envelope(data: bytes) -> Envelope:
    found = gather(data, {1, 2, 3, 6}, {4, 5, 7, 8, 9})
    kind, sender, task = (last(found[field], 0) for field in (2, 3, 6))
    require(last(found[1], 0) == 1, "version")
    require(kind in SCHEMAS, "kind")
    require(sender <= MOST_PARTIES and task < 2**32, "sender or task")
    digest, session, chain, body, signature = (last(found[field], b"") for field in (4, 5, 7, 8, 9))
    require((len(digest), len(session), len(chain), len(signature)) == (32, 32, 32, 64), "length")
    context = make_context(digest, session, task, chain)
    envelope = Envelope(context, kind, sender, body, signature)
    require(encode_envelope(envelope) == data, "not canonical")
    return envelope


@dataclass(frozen=True)
class Packet:
    envelope: Envelope
    attachments: tuple[bytes, ...] = ()


def encode_packet(packet: Packet) -> bytes:
    attached = (block(2, data, always=True) for data in packet.attachments)
    return block(1, encode_envelope(packet.envelope), always=True) + b"".join(attached)


def decode_packet(data: bytes) -> Packet:
    require(len(data) <= 1 << 24, "more than 16 MiB")
    found = gather(data, set(), {1, 2})
    require(len(found[1]) == 1, "one envelope")
    packet = Packet(decode_envelope(found[1][0]), tuple(found[2]))
    require(encode_packet(packet) == data, "not canonical")
    if packet.attachments:
        require(packet.envelope.kind in {20, 21}, "attachments that nothing binds")
        require(len(packet.attachments) <= MOST_PARTIES, "too many attachments")
        require(all(len(each) <= 1024 for each in packet.attachments), "a large attachment")
    return packet


# Bodies


def encode_body(message: Json) -> bytes:
    _, fields = SCHEMAS[KINDS[message["type"]]]
    values = {"vote": 0, "seeds": "", **message}
    return b"".join(_encode_field(field, kind, values[name]) for field, name, kind in fields)


def _encode_field(field: int, kind: str, value: Any) -> bytes:  # noqa: ANN401
    match kind.split(maxsplit=1)[0]:
        case "bytes" | "optional":
            return block(field, un(value))
        case "u32" | "u64" | "reason" | "vote":
            return number(field, value)
        case "culprit":
            return number(field, -1 if value is None else value)
        case "envelopes":
            return b"".join(
                block(field, encode_envelope(envelope_of(each)), always=True) for each in value
            )
        case "digests":
            entries = sorted((int(party), un(digest)) for party, digest in value.items())
            return b"".join(
                block(field, number(1, party) + block(2, digest)) for party, digest in entries
            )
        case _:
            shares = sorted((int(owner), share) for owner, share in value.items())
            return b"".join(block(field, _encode_share(owner, share)) for owner, share in shares)


def _encode_share(owner: int, share: Json) -> bytes:
    field = 2 if share["type"] == "SelfMaskShare" else 3
    return number(1, owner) + block(field, un(share["value"]), always=True)


def decode_body(kind: int, data: bytes) -> Json:
    """Decode as the message of `kind`, or refuse."""
    require(kind in SCHEMAS, "kind")
    name, fields = SCHEMAS[kind]
    numbers = {field for field, _, what in fields if what in NUMBERS}
    found = gather(data, numbers, {field for field, _, _ in fields} - numbers)
    message: Json = {"type": name}
    for field, called, what in fields:
        value = _decode_field(what, found[field])
        if not what.startswith(("vote", "optional")) or value:
            message[called] = value
    require(encode_body(message) == data, "not canonical")
    return message


def _decode_field(kind: str, values: list[Any]) -> Any:  # noqa: ANN401
    word, *size = kind.split()
    if word in {"bytes", "optional"}:
        value: bytes = last(values, b"")
        require(len(value) == int(size[0]) or (word == "optional" and not value), "length")
        return value.hex()
    if word in NUMBERS:
        found: int = last(values, 0)
        require(found < 2 ** (32 if word == "u32" else 64), "range")
        require(word != "reason" or found < len(REASONS), "reason")
        require(word != "vote" or found < VOTES, "vote")
        if word == "culprit":
            found = found - 2**64 if found >= 2**63 else found
            require(-1 <= found <= MOST_PARTIES, "culprit")
            return None if found == -1 else found
        return found
    require(len(values) <= MOST_PARTIES, "a long list")
    if word == "envelopes":
        envelopes = [decode_envelope(each) for each in values]
        _ascending([each.sender for each in envelopes])
        return [each.show() for each in envelopes]
    return _decode_entries(word, values)


def _ascending(parties: list[int]) -> None:
    require(parties == sorted(set(parties)), "a list that does not ascend")


def _decode_entries(word: str, values: list[bytes]) -> Json:
    entries: list[tuple[int, Any]] = []
    for data in values:
        found = gather(data, {1}, {2, 3} if word == "shares" else {2})
        party = last(found[1], 0)
        require(1 <= party <= MOST_PARTIES, "party")
        if word == "digests":
            digest = last(found[2], b"")
            require(len(digest) == 32, "length")
            entries.append((party, digest.hex()))
            continue
        require(len(found[2]) + len(found[3]) == 1, "one share")
        kind = "SelfMaskShare" if found[2] else "MaskKeyShare"
        value = (found[2] or found[3])[0]
        require(len(value) == 33, "length")
        entries.append((party, {"type": kind, "value": value.hex()}))
    _ascending([party for party, _ in entries])
    return {str(party): value for party, value in entries}


# The long poll, SPEC 5.1


def encode_request(session: bytes, cursor: int, wait: float, finished: int) -> bytes:
    seconds = struct.pack("<d", wait)
    poll = block(1, session) + number(2, cursor) + (b"\x19" + seconds if any(seconds) else b"")
    return poll + number(4, finished)


def decode_request(data: bytes) -> tuple[bytes, int, float, int]:
    found = gather(data, {2, 4}, {1, 3})
    session, cursor = last(found[1], b""), last(found[2], 0)
    packed = last(found[3], bytes(8))
    require(len(session) == 32 and cursor < 2**32 and len(packed) == 8, "request")
    (wait,) = struct.unpack("<d", packed)
    require(0 <= wait < float("inf"), "wait")
    finished = last(found[4], 0)
    require(finished in {0, 1}, "a truth value")
    require(encode_request(session, cursor, wait, finished) == data, "not canonical")
    return session, cursor, wait, finished


def encode_reply(packets: list[bytes]) -> bytes:
    return b"".join(block(1, packet, always=True) for packet in packets)


def decode_reply(data: bytes) -> list[Packet]:
    return [decode_packet(each) for each in gather(data, set(), {1})[1]]
