"""Write tests/vectors/proto.json with the code under test. Deterministic.

    python tests/vectors/generate_proto.py [file]

`bodies` has one message of every kind, `packets` one signed packet of every kind, `collect` the
long poll, `refused` bytes that must not decode. Bytes are hexadecimal; a message is shown field by
field, so that another implementation can build it. Keys are SHAKE-256 of a name, so no secret in
here is anybody's.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from collabedit.acceptance import Vote
from collabedit.crypto.signing import SigningKey
from collabedit.errors import AbortReason, MalformedMessageError
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.proto import codec
from collabedit.proto import messages as m
from collabedit.proto.envelope import sign_message


def pseudo(name: str, count: int = 32) -> bytes:
    """Return reproducible bytes: SHAKE-256 of the name."""
    return hashlib.shake_256(f"collabedit test vector: {name}".encode()).digest(count)


KEYS = {PartyId(i): SigningKey.from_seed(pseudo(f"identity {i}")) for i in range(4)}
CONTEXT = m.Context(pseudo("plan"), pseudo("session"), TaskIndex(1), pseudo("chain"))
PARTIES = (PartyId(1), PartyId(2), PartyId(3))


def signed(message: m.Message, sender: PartyId) -> m.Envelope:
    """Sign as `sender` in the context of all vectors."""
    return sign_message(message, context=CONTEXT, sender=sender, key=KEYS[sender])


def lists(message: m.Message) -> tuple[m.Envelope, ...]:
    """Let every party sign the same message."""
    return tuple(signed(message, party) for party in PARTIES)


ADVERTISE = m.Advertise(pseudo("mask"), pseudo("seal"))
SEALED = (pseudo("sealed for 2", 126), pseudo("sealed for 3", 126))
SHARE_KEYS = m.ShareKeys(
    pseudo("self-mask commitment"),
    pseudo("group commitment"),
    {
        party: hashlib.sha256(sealed).digest()
        for party, sealed in zip((PartyId(2), PartyId(3)), SEALED, strict=True)
    },
)
CONTRIBUTE = m.Contribute(2**40, 3, pseudo("root"))
ENCRYPTED = m.Contribute(2**40, 3, pseudo("root"), pseudo("seeds"))
MESSAGES: tuple[tuple[m.Message, PartyId], ...] = (
    (m.Join(), PartyId(1)),
    (m.Welcome(), AGGREGATOR),
    (ADVERTISE, PartyId(1)),
    (m.Roster(lists(ADVERTISE)), AGGREGATOR),
    (SHARE_KEYS, PartyId(1)),
    (m.RelayShares(lists(SHARE_KEYS)), AGGREGATOR),
    (m.Confirm(pseudo("transcript")), PartyId(1)),
    (m.Confirmed(lists(m.Confirm(pseudo("transcript")))), AGGREGATOR),
    (CONTRIBUTE, PartyId(1)),
    (m.ProposeSurvivors(lists(CONTRIBUTE)), AGGREGATOR),
    (m.ConfirmSurvivors(pseudo("survivors")), PartyId(1)),
    (m.SurvivorsConfirmed(lists(m.ConfirmSurvivors(pseudo("survivors")))), AGGREGATOR),
    (
        m.Unmask(
            {
                PartyId(1): m.SelfMaskShare(pseudo("share 1", 33)),
                PartyId(2): m.MaskKeyShare(pseudo("share 2", 33)),
                PartyId(3): m.SelfMaskShare(pseudo("share 3", 33)),
            }
        ),
        PartyId(1),
    ),
    (m.Release(pseudo("update"), 123_456, pseudo("sum")), AGGREGATOR),
    (m.VerifyUpdate(pseudo("update"), pseudo("sum")), PartyId(1)),
    (m.UpdateVerified(lists(m.VerifyUpdate(pseudo("update"), pseudo("sum")))), AGGREGATOR),
    (m.Abort(AbortReason.ROSTER_FORK, AGGREGATOR), PartyId(1)),
    (m.Abort(AbortReason.TIMEOUT, None), AGGREGATOR),
    (m.VerifyUpdate(pseudo("update"), pseudo("sum"), Vote.PERPLEXITY), PartyId(1)),
    (ENCRYPTED, PartyId(1)),
    (m.OfferSum(pseudo("offered sum"), 2**33), AGGREGATOR),
    (m.SumOpened(pseudo("offered sum"), 2**40, 3, pseudo("root")), PartyId(1)),
    (m.Abort(AbortReason.OPENER_GONE, PartyId(1)), AGGREGATOR),
)


def shown(thing: object) -> Any:  # noqa: ANN401  whatever JSON can hold
    """Write a message field by field."""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        values = {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing)}
        if values.get("seeds") == b"":
            del values["seeds"]
        fields = {name: shown(value) for name, value in values.items() if value is not Vote.NONE}
        return {"type": type(thing).__name__, **fields}
    if isinstance(thing, Mapping):
        return {str(key): shown(value) for key, value in thing.items()}
    if isinstance(thing, tuple):
        return [shown(item) for item in thing]
    return thing.hex() if isinstance(thing, bytes) else thing


def body_cases() -> list[dict[str, Any]]:
    return [
        {
            "kind": m.KINDS[type(message)],
            "message": shown(message),
            "bytes": codec.encode_body(message).hex(),
        }
        for message, _ in MESSAGES
    ]


def packets() -> list[m.Packet]:
    return [
        m.Packet(
            signed(message, sender),
            SEALED if isinstance(message, m.ShareKeys | m.RelayShares) else (),
        )
        for message, sender in MESSAGES
    ]


def refused() -> dict[str, tuple[str, bytes]]:
    """Bytes that a lenient parser would take, by what is wrong with them."""
    body = codec.encode_body(m.Confirm(pseudo("transcript")))
    packet = codec.encode_packet(packets()[0])
    roster = codec.encode_body(m.Roster(lists(ADVERTISE)))
    first = len(roster) // 3
    share_keys = codec.encode_body(SHARE_KEYS)
    contribute = codec.encode_body(CONTRIBUTE)
    request = codec.encode_collect_request(pseudo("session"), cursor=7, wait_seconds=1.5)
    abort = codec.encode_body(m.Abort(AbortReason.TIMEOUT, PartyId(2)))
    verified = codec.encode_body(m.VerifyUpdate(pseudo("update"), pseudo("sum")))
    return {
        "unknown field": ("Confirm", body + b"\x78\x01"),
        "trailing byte": ("Confirm", body + b"\x00"),
        "field twice": ("Confirm", body + body),
        "truncated": ("Confirm", body[:-1]),
        "empty": ("Confirm", b""),
        "transcript of 31 bytes": ("Confirm", b"\x0a\x1f" + bytes(31)),
        "transcript of 33 bytes": ("Confirm", b"\x0a\x21" + bytes(33)),
        "length as a long varint": ("Confirm", b"\x0a\xa0\x00" + bytes(32)),
        "tag as a long varint": ("Confirm", b"\x8a\x00\x20" + bytes(32)),
        "default written out": ("Abort", b"\x08\x13\x10\x00"),
        "unknown reason": ("Abort", b"\x08\x63\x10\x02"),
        "culprit -2": ("Abort", b"\x08\x13\x10\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        "culprit 1001": ("Abort", b"\x08\x13\x10\xe9\x07"),
        "fields in another order": ("Abort", abort[2:] + abort[:2]),
        "elements as a long varint": (
            "Contribute",
            contribute.replace(
                b"\x08\x80\x80\x80\x80\x80\x20", b"\x08\x80\x80\x80\x80\x80\xa0\x00"
            ),
        ),
        "list not ascending": ("Roster", roster[first:] + roster[:first]),
        "party listed twice": ("Roster", roster[:first] + roster),
        "receivers not ascending": (
            "ShareKeys",
            share_keys[:68] + share_keys[68 + 38 :] + share_keys[68 : 68 + 38],
        ),
        "receiver 0": ("ShareKeys", share_keys.replace(b"\x24\x08\x02", b"\x22", 1)),
        "owner 0": ("Unmask", b"\x0a\x23\x12\x21" + bytes(33)),
        "share of no kind": ("Unmask", b"\x0a\x02\x08\x01"),
        "share of 32 bytes": ("Unmask", b"\x0a\x24\x08\x01\x12\x20" + bytes(32)),
        "both kinds of share": (
            "Unmask",
            b"\x0a\x48\x08\x01\x12\x21" + bytes(33) + b"\x1a\x21" + bytes(33),
        ),
        "version 2": ("Packet", packet.replace(b"\x08\x01\x10\x01", b"\x08\x02\x10\x01", 1)),
        "kind 3": ("Packet", packet.replace(b"\x08\x01\x10\x01", b"\x08\x01\x10\x03", 1)),
        "no envelope": ("Packet", b""),
        "unknown field of a packet": ("Packet", packet + b"\x78\x01"),
        "attachment that nothing binds": ("Packet", packet + b"\x12\x01\x00"),
        "unknown field of a request": ("CollectRequest", request + b"\x78\x01"),
        "session id of 31 bytes": ("CollectRequest", b"\x0a\x1f" + bytes(31)),
        "wait of minus one": (
            "CollectRequest",
            codec.encode_collect_request(pseudo("session"), cursor=7, wait_seconds=-1.0),
        ),
        "wait that is no number": (
            "CollectRequest",
            codec.encode_collect_request(pseudo("session"), cursor=7, wait_seconds=float("nan")),
        ),
        "finished, twice over": ("CollectRequest", request + b"\x20\x02"),
        "not finished, written out": ("CollectRequest", request + b"\x20\x00"),
        "cursor of 2^32": (
            "CollectRequest",
            codec.encode_collect_request(pseudo("session"), cursor=2**32, wait_seconds=0.0),
        ),
        "unknown field of a reply": (
            "CollectReply",
            codec.encode_collect_reply(packets()[:1]) + b"\x78\x01",
        ),
        "digest of seeds of 31 bytes": ("Contribute", contribute + b"\x22\x1f" + bytes(31)),
        "no seeds written out": ("Contribute", contribute + b"\x22\x00"),
        "unknown vote": ("VerifyUpdate", verified + b"\x18\x06"),
        "no vote written out": ("VerifyUpdate", verified + b"\x18\x00"),
    }


def decode(what: str, data: bytes) -> object:
    """Decode as a packet, a long poll, or the body of the message of that name."""
    if what == "Packet":
        return codec.decode_packet(data)
    if what == "CollectRequest":
        return codec.decode_collect_request(data)
    if what == "CollectReply":
        return codec.decode_collect_reply(data)
    kind = next(kind for message, kind in m.KINDS.items() if message.__name__ == what)
    return codec.decode_body(kind, data)


def refused_cases() -> list[dict[str, str]]:
    cases = []
    for name, (what, data) in refused().items():
        try:
            decode(what, data)
        except MalformedMessageError:
            cases.append({"name": name, "decodes as": what, "bytes": data.hex()})
        else:
            raise SystemExit(f"{name}: decodes")
    return cases


def shown_request(*, finished: bool) -> dict[str, Any]:
    session_id = pseudo("session")
    request = codec.encode_collect_request(
        session_id, cursor=7, wait_seconds=1.5, finished=finished
    )
    return {
        "session_id": session_id.hex(),
        "cursor": 7,
        "wait_seconds": (1.5).hex(),
        "finished": finished,
        "bytes": request.hex(),
    }


def content() -> dict[str, Any]:
    return {
        "generator": "tests/vectors/generate_proto.py",
        "identities": {str(i): key.verify_key.to_bytes().hex() for i, key in KEYS.items()},
        "bodies": body_cases(),
        "packets": [
            {"packet": shown(packet), "bytes": codec.encode_packet(packet).hex()}
            for packet in packets()
        ],
        "collect": {
            "request": shown_request(finished=False),
            "last_request": shown_request(finished=True),
            "reply": codec.encode_collect_reply(packets()[:3]).hex(),
            "empty reply": codec.encode_collect_reply([]).hex(),
            "receipt": codec.encode_receipt().hex(),
        },
        "refused": refused_cases(),
    }


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "proto.json"
    text = json.dumps(content(), indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
