"""The codec: whatever decodes, encodes to the very bytes that came in; all else is malformed.

The first byte chooses the decoder: a packet, the two halves of the long poll, or a kind of body.
"""

import json
from pathlib import Path

from collabedit.errors import MalformedMessageError
from collabedit.proto import codec
from collabedit.proto import messages as m

VECTORS = Path(__file__).parents[2] / "vectors" / "proto.json"
KINDS = tuple(m.KINDS.values())
PACKET, REQUEST, REPLY, FIRST_BODY = 0, 1, 2, 3
UNKNOWN_KIND = 99


def run(data: bytes) -> None:
    """Decode, and encode what came out."""
    choice = (data[0] if data else 0) % (FIRST_BODY + len(KINDS) + 1)
    data = data[1:]
    try:
        again = _round_trip(choice, data)
    except MalformedMessageError:
        return
    assert again == data, "two encodings decode to one message"


def _round_trip(choice: int, data: bytes) -> bytes:
    if choice == PACKET:
        return codec.encode_packet(codec.decode_packet(data))
    if choice == REQUEST:
        session_id, cursor, wait, finished = codec.decode_collect_request(data)
        return codec.encode_collect_request(
            session_id, cursor=cursor, wait_seconds=wait, finished=finished
        )
    if choice == REPLY:
        return codec.encode_collect_reply(codec.decode_collect_reply(data))
    kind = (*KINDS, UNKNOWN_KIND)[choice - FIRST_BODY]
    message = codec.decode_body(kind, data)
    assert m.KINDS[type(message)] == kind
    return codec.encode_body(message)


def seeds() -> dict[str, bytes]:
    """Return the vectors: every kind of body and packet, the long poll, and what is refused."""
    content = json.loads(VECTORS.read_text(encoding="utf-8"))
    names = {message.__name__: kind for message, kind in m.KINDS.items()}
    decoders = {"Packet": PACKET, "CollectRequest": REQUEST, "CollectReply": REPLY}
    made = {
        "collect-request": bytes([REQUEST]) + bytes.fromhex(content["collect"]["request"]["bytes"]),
        "collect-reply": bytes([REPLY]) + bytes.fromhex(content["collect"]["reply"]),
    }
    for case in content["bodies"]:
        choice = FIRST_BODY + KINDS.index(case["kind"])
        name = case["message"]["type"]
        made[f"body-{name}"] = bytes([choice]) + bytes.fromhex(case["bytes"])
    for case in content["packets"]:
        kind = case["packet"]["envelope"]["kind"]
        made[f"packet-{kind}"] = bytes([PACKET]) + bytes.fromhex(case["bytes"])
    for number, case in enumerate(content["refused"]):
        what = case["decodes as"]
        choice = decoders[what] if what in decoders else FIRST_BODY + KINDS.index(names[what])
        made[f"refused-{number:02}"] = bytes([choice]) + bytes.fromhex(case["bytes"])
    return {name: data for name, data in made.items() if len(data) <= 4096}
