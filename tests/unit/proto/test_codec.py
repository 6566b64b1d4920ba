"""One message has one encoding, and nothing else decodes."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit.errors import AbortReason, MalformedMessageError
from collabedit.ids import PartyId, TaskIndex
from collabedit.proto import codec
from collabedit.proto import messages as m
from collabedit.proto.envelope import verify_signature
from collabedit.threat_model import MAXIMUM_PARTIES

VECTORS = Path(__file__).parents[2] / "vectors"
CONTENT: dict[str, Any] = json.loads((VECTORS / "proto.json").read_text(encoding="utf-8"))
CONTEXT = m.Context(bytes(32), bytes(32), TaskIndex(0), bytes(32))
BY_NAME = {message.__name__: kind for message, kind in m.KINDS.items()}
DECODERS = {
    "Packet": codec.decode_packet,
    "CollectRequest": codec.decode_collect_request,
    "CollectReply": codec.decode_collect_reply,
}


def decode(what: str, data: bytes) -> object:
    return DECODERS[what](data) if what in DECODERS else codec.decode_body(BY_NAME[what], data)


def build(shown: Any) -> Any:  # noqa: ANN401  whatever JSON holds
    """Build a domain object from what a vector shows of it."""
    if isinstance(shown, list):
        return tuple(build(item) for item in shown)
    if isinstance(shown, str):
        return bytes.fromhex(shown)
    if not isinstance(shown, dict):
        return shown
    values = {key: build(value) for key, value in shown.items() if key != "type"}
    if "type" not in shown:
        return {PartyId(int(key)): value for key, value in values.items()}
    if shown["type"] == "Abort":
        values["reason"] = AbortReason(values["reason"])
    return getattr(m, shown["type"])(**values)


# Vectors.


def test_the_code_still_produces_the_committed_vectors(tmp_path: Path) -> None:
    fresh = tmp_path / "proto.json"
    subprocess.run([sys.executable, VECTORS / "generate_proto.py", fresh], check=True)
    assert fresh.read_bytes() == (VECTORS / "proto.json").read_bytes()


def test_the_vectors_have_every_kind_of_message() -> None:
    assert {case["kind"] for case in CONTENT["bodies"]} == set(m.KINDS.values())
    kinds = {case["packet"]["envelope"]["kind"] for case in CONTENT["packets"]}
    assert kinds == set(m.KINDS.values())


@pytest.mark.parametrize("case", CONTENT["bodies"], ids=lambda case: case["message"]["type"])
def test_a_body_is_its_vector_both_ways(case: dict[str, Any]) -> None:
    message, data = build(case["message"]), bytes.fromhex(case["bytes"])
    assert codec.encode_body(message) == data
    assert codec.decode_body(case["kind"], data) == message


@pytest.mark.parametrize(
    "case", CONTENT["packets"], ids=lambda c: str(c["packet"]["envelope"]["kind"])
)
def test_a_packet_is_its_vector_both_ways_and_its_signature_verifies(case: dict[str, Any]) -> None:
    packet, data = build(case["packet"]), bytes.fromhex(case["bytes"])
    assert codec.encode_packet(packet) == data
    assert codec.decode_packet(data) == packet
    keys = {int(party): bytes.fromhex(key) for party, key in CONTENT["identities"].items()}
    verify_signature(packet.envelope, identities=lambda party: keys[party])


def test_the_long_poll_is_its_vector_both_ways() -> None:
    collect = CONTENT["collect"]
    for name, finished in (("request", False), ("last_request", True)):
        shown = collect[name]
        session_id, wait = bytes.fromhex(shown["session_id"]), float.fromhex(shown["wait_seconds"])
        data = bytes.fromhex(shown["bytes"])
        encoded = codec.encode_collect_request(
            session_id, cursor=7, wait_seconds=wait, finished=finished
        )
        assert encoded == data
        assert codec.decode_collect_request(data) == (session_id, 7, wait, finished)
    packets = tuple(build(case["packet"]) for case in CONTENT["packets"][:3])
    reply = bytes.fromhex(collect["reply"])
    assert codec.encode_collect_reply(packets) == reply
    assert codec.decode_collect_reply(reply) == packets
    assert codec.decode_collect_reply(bytes.fromhex(collect["empty reply"])) == ()
    assert not collect["receipt"]
    assert codec.encode_receipt().hex() == collect["receipt"]


@pytest.mark.parametrize("case", CONTENT["refused"], ids=lambda case: case["name"])
def test_what_a_lenient_parser_would_take_is_refused(case: dict[str, str]) -> None:
    with pytest.raises(MalformedMessageError):
        decode(case["decodes as"], bytes.fromhex(case["bytes"]))


# Wire numbers never change.


def test_kinds_keep_their_numbers() -> None:
    assert BY_NAME == {
        "Join": 1,
        "Welcome": 2,
        "Advertise": 10,
        "Roster": 11,
        "ShareKeys": 20,
        "RelayShares": 21,
        "Confirm": 30,
        "Confirmed": 31,
        "Contribute": 40,
        "ProposeSurvivors": 41,
        "ConfirmSurvivors": 50,
        "SurvivorsConfirmed": 51,
        "Unmask": 60,
        "Release": 61,
        "OfferSum": 62,
        "SumOpened": 63,
        "VerifyUpdate": 70,
        "UpdateVerified": 71,
        "Abort": 90,
    }
    assert m.PROTOCOL_VERSION == 1


# Strictness beyond the vectors.


BODIES = {
    case["message"]["type"]: (case["kind"], bytes.fromhex(case["bytes"]))
    for case in CONTENT["bodies"]
}
PACKET = bytes.fromhex(CONTENT["packets"][4]["bytes"])


@pytest.mark.parametrize("name", BODIES)
def test_an_unknown_field_is_refused_in_every_message(name: str) -> None:
    kind, data = BODIES[name]
    for extra in (b"\x78\x01", b"\x7a\x00", b"\x7d\x00\x00\x00\x00", b"\xf8\x07\x00"):
        for damaged in (data + extra, extra + data):
            with pytest.raises(MalformedMessageError):
                codec.decode_body(kind, damaged)


@pytest.mark.parametrize("name", [name for name in BODIES if name not in {"Join", "Welcome"}])
def test_every_truncation_and_every_repetition_is_refused(name: str) -> None:
    kind, data = BODIES[name]
    cuts = range(len(data)) if len(data) < 300 else range(0, len(data), 17)
    boundaries = 0
    for cut in cuts:
        try:
            codec.decode_body(kind, data[:cut])
        except MalformedMessageError:
            continue
        boundaries += 1
    # A list that ends between two entries is a shorter list, which is for the roles to judge.
    lists = {"Roster", "RelayShares", "Confirmed", "ProposeSurvivors", "SurvivorsConfirmed"}
    if name not in {*lists, "UpdateVerified", "Unmask", "ShareKeys"}:
        # An Abort without its last field blames the aggregator, a VerifyUpdate does not vote, a
        # Contribute has no seeds, an OfferSum no bytes: proto3 leaves zeros and empty fields out.
        shorter = {"VerifyUpdate", "Contribute", "OfferSum"}
        assert boundaries == 2 * (name == "Abort") + (name in shorter)
    with pytest.raises(MalformedMessageError):
        codec.decode_body(kind, data + data)


@pytest.mark.parametrize("kind", [0, 3, 9, 12, 99, 2**31])
def test_an_unknown_kind_is_refused(kind: int) -> None:
    with pytest.raises(MalformedMessageError, match="unknown"):
        codec.decode_body(kind, b"")


@pytest.mark.parametrize("name", BODIES)
def test_a_body_under_another_kind_is_refused_or_another_message(name: str) -> None:
    _, data = BODIES[name]
    for other, (kind, _) in BODIES.items():
        if other == name:
            continue
        try:
            message = codec.decode_body(kind, data)
        except MalformedMessageError:
            continue
        assert type(message).__name__ == other
        assert codec.encode_body(message) == data


def envelope(sender: int) -> m.Envelope:
    return m.Envelope(CONTEXT, PartyId(sender), m.KINDS[m.Confirm], b"", bytes(64))


def test_a_list_of_all_parties_that_a_plan_can_have_decodes() -> None:
    message = m.Confirmed(tuple(envelope(i + 1) for i in range(MAXIMUM_PARTIES)))
    assert codec.decode_body(m.KINDS[m.Confirmed], codec.encode_body(message)) == message


def test_a_longer_list_is_refused_before_its_entries_are_looked_at() -> None:
    entry = codec.encode_body(m.Confirmed((envelope(1),)))
    with pytest.raises(MalformedMessageError, match=f"lists {MAXIMUM_PARTIES + 1} parties"):
        codec.decode_body(m.KINDS[m.Confirmed], entry * (MAXIMUM_PARTIES + 1))
    digest = codec.encode_body(m.ShareKeys(bytes(32), bytes(32), {PartyId(1): bytes(32)}))[68:]
    with pytest.raises(MalformedMessageError, match=f"{MAXIMUM_PARTIES + 1} share digests"):
        codec.decode_body(m.KINDS[m.ShareKeys], digest * (MAXIMUM_PARTIES + 1))
    share = codec.encode_body(m.Unmask({PartyId(1): m.SelfMaskShare(bytes(33))}))
    with pytest.raises(MalformedMessageError, match=f"{MAXIMUM_PARTIES + 1} shares"):
        codec.decode_body(m.KINDS[m.Unmask], share * (MAXIMUM_PARTIES + 1))


@pytest.mark.parametrize("sender", [-1, MAXIMUM_PARTIES + 1, 2**32 - 1])
def test_a_sender_that_no_plan_can_have_is_refused(sender: int) -> None:
    if sender < 0:
        with pytest.raises(ValueError, match="range"):
            codec.encode_packet(m.Packet(envelope(sender)))
        return
    with pytest.raises(MalformedMessageError, match="not a party id"):
        codec.decode_packet(codec.encode_packet(m.Packet(envelope(sender))))


@pytest.mark.parametrize("what", ["plan_digest", "session_id", "chain", "signature"])
@pytest.mark.parametrize("size", [0, 31, 33, 63, 65])
def test_a_field_of_an_envelope_of_a_wrong_length_is_refused(what: str, size: int) -> None:
    context = {"plan_digest": bytes(32), "session_id": bytes(32), "chain": bytes(32)}
    signature = bytes(size) if what == "signature" else bytes(64)
    if what != "signature":
        context[what] = bytes(size)
    made = m.Envelope(
        m.Context(task=TaskIndex(0), **context), PartyId(1), m.KINDS[m.Join], b"", signature
    )
    with pytest.raises(MalformedMessageError, match="must have"):
        codec.decode_packet(codec.encode_packet(m.Packet(made)))


def share_keys(*attachments: bytes) -> m.Packet:
    made = m.Envelope(CONTEXT, PartyId(1), m.KINDS[m.ShareKeys], b"", bytes(64))
    return m.Packet(made, attachments)


def test_attachments_beyond_their_size_and_number_are_refused() -> None:
    largest = share_keys(bytes(codec.MAXIMUM_ATTACHMENT_BYTES))
    assert codec.decode_packet(codec.encode_packet(largest)) == largest
    for packet in (
        share_keys(bytes(codec.MAXIMUM_ATTACHMENT_BYTES + 1)),
        share_keys(*([b""] * (MAXIMUM_PARTIES + 1))),
    ):
        with pytest.raises(MalformedMessageError, match="attachment"):
            codec.decode_packet(codec.encode_packet(packet))


@pytest.mark.parametrize("message", m.KINDS, ids=lambda kind: kind.__name__)
def test_only_messages_that_bind_attachments_may_have_them(message: type) -> None:
    made = m.Envelope(CONTEXT, PartyId(1), m.KINDS[message], b"", bytes(64))
    data = codec.encode_packet(m.Packet(made, (b"x",)))
    if message in {m.ShareKeys, m.RelayShares}:
        assert codec.decode_packet(data).attachments == (b"x",)
    else:
        with pytest.raises(MalformedMessageError, match="binds none"):
            codec.decode_packet(data)


def test_a_packet_beyond_the_limit_is_refused_unparsed() -> None:
    with pytest.raises(MalformedMessageError, match="packet of"):
        codec.decode_packet(bytes(codec.MAXIMUM_PACKET_BYTES + 1))


def test_every_changed_byte_of_a_packet_changes_what_decodes_or_is_refused() -> None:
    honest = codec.decode_packet(PACKET)
    for position in range(len(PACKET)):
        damaged = bytearray(PACKET)
        damaged[position] ^= 0x01
        try:
            packet = codec.decode_packet(bytes(damaged))
        except MalformedMessageError:
            continue
        assert packet != honest


# Arbitrary bytes.

MESSAGE_TAGS = st.sampled_from(
    [b"\x08", b"\x0a", b"\x10", b"\x12", b"\x1a", b"\x20", b"\x22", b"\x42"]
)
BYTES = st.one_of(
    st.binary(max_size=300),
    st.lists(st.tuples(MESSAGE_TAGS, st.binary(max_size=40)), max_size=8).map(
        lambda parts: b"".join(tag + bytes([len(data)]) + data for tag, data in parts)
    ),
)


@settings(max_examples=150, deadline=None)
@given(data=BYTES, kind=st.sampled_from(sorted(m.KINDS.values())))
def test_arbitrary_bodies_are_canonical_or_malformed(data: bytes, kind: int) -> None:
    try:
        message = codec.decode_body(kind, data)
    except MalformedMessageError:
        return
    assert codec.encode_body(message) == data


@settings(max_examples=150, deadline=None)
@given(data=BYTES)
def test_arbitrary_packets_and_polls_are_canonical_or_malformed(data: bytes) -> None:
    with contextlib.suppress(MalformedMessageError):
        assert codec.encode_packet(codec.decode_packet(data)) == data
    with contextlib.suppress(MalformedMessageError):
        assert codec.encode_collect_reply(codec.decode_collect_reply(data)) == data
    with contextlib.suppress(MalformedMessageError):
        session_id, cursor, wait, finished = codec.decode_collect_request(data)
        again = codec.encode_collect_request(
            session_id, cursor=cursor, wait_seconds=wait, finished=finished
        )
        assert again == data


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(sorted(BODIES)),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 3),
)
def test_damaged_bodies_are_canonical_or_malformed(
    name: str, edits: list[tuple[int, int]], cut: int
) -> None:
    kind, honest = BODIES[name]
    data = bytearray(honest[: len(honest) - cut])
    for position, value in edits:
        if data:
            data[position % len(data)] = value
    try:
        message = codec.decode_body(kind, bytes(data))
    except MalformedMessageError:
        return
    assert codec.encode_body(message) == bytes(data)


@settings(max_examples=60, deadline=None)
@given(
    parties=st.sets(st.integers(1, MAXIMUM_PARTIES), max_size=12),
    self_mask=st.sets(st.integers(1, MAXIMUM_PARTIES)),
)
def test_any_set_of_shares_survives_the_wire(parties: set[int], self_mask: set[int]) -> None:
    shares: dict[PartyId, m.Share] = {
        PartyId(party): (m.SelfMaskShare if party in self_mask else m.MaskKeyShare)(
            party.to_bytes(33, "big")
        )
        for party in parties
    }
    message = m.Unmask(shares)
    assert codec.decode_body(m.KINDS[m.Unmask], codec.encode_body(message)) == message


def test_no_message_with_shares_prints_them() -> None:
    canary = b"\xde\xad\xbe\xef" * 8 + b"\x01"
    unmask = m.Unmask({PartyId(1): m.SelfMaskShare(canary), PartyId(2): m.MaskKeyShare(canary)})
    made = m.Envelope(CONTEXT, PartyId(1), m.KINDS[m.Unmask], codec.encode_body(unmask), bytes(64))
    packet = share_keys(canary)
    for thing in (unmask, *unmask.shares.values(), made, m.Packet(made), packet):
        text = repr(thing) + str(thing)
        assert "xde" not in text
        assert "dead" not in text
