"""proto.json: every message, packet and refusal by the hand-written protobuf. No project code."""

import hashlib
from collections.abc import Callable

from independent import wire
from independent.primitives import identity_of, sign
from independent.wire import Json, Malformed, un


def verify_proto(given: Json) -> list[str]:
    seeds = {end: pseudo(f"identity {end}") for end in given["identities"]}
    lines = [
        f"identities.{end}: {public} is not the seed's"
        for end, public in given["identities"].items()
        if identity_of(seeds[end]).hex() != public
    ]
    for i, case in enumerate(given["bodies"]):
        lines += guarded(check_body, f"bodies[{i}]", case)
    for i, case in enumerate(given["packets"]):
        lines += guarded(check_packet, f"packets[{i}]", case, seeds)
    lines += check_collect(given)
    for i, case in enumerate(given["refused"]):
        if decodes(case["decodes as"], un(case["bytes"])):
            lines.append(f"refused[{i}] {case['name']}: decodes")
    if not given["bodies"] or {case["kind"] for case in given["bodies"]} != set(wire.SCHEMAS):
        lines.append("bodies: not every kind")
    return lines


def guarded(check: Callable[..., list[str]], path: str, *given: object) -> list[str]:
    """Name the case that cannot even be read."""
    try:
        return check(path, *given)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        return [f"{path}: {type(error).__name__}: {error}"]


def pseudo(name: str) -> bytes:
    return hashlib.shake_256(f"collabedit test vector: {name}".encode()).digest(32)


def check_body(path: str, case: Json) -> list[str]:
    data, lines = un(case["bytes"]), []
    if wire.KINDS.get(case["message"]["type"]) != case["kind"]:
        lines.append(f"{path}.kind: {case['kind']}")
    if wire.encode_body(case["message"]) != data:
        lines.append(f"{path}.bytes: not what the message encodes to")
    try:
        if wire.decode_body(case["kind"], data) != case["message"]:
            lines.append(f"{path}.message: not what the bytes decode to")
    except Malformed as error:
        lines.append(f"{path}.bytes: refused: {error}")
    return lines


def check_packet(path: str, case: Json, seeds: dict[str, bytes]) -> list[str]:
    data, shown, lines = un(case["bytes"]), case["packet"], []
    envelope = wire.envelope_of(shown["envelope"])
    attachments = tuple(un(each) for each in shown["attachments"])
    if wire.encode_packet(wire.Packet(envelope, attachments)) != data:
        lines.append(f"{path}.bytes: not what the packet encodes to")
    signed = (envelope.context, envelope.kind, envelope.sender, envelope.body)
    seed = seeds.get(str(envelope.sender), b"")
    if not seed or sign(seed, wire.signed_bytes(*signed)) != envelope.signature:
        lines.append(f"{path}.packet.envelope.signature: not the sender's")
    try:
        if show_packet(wire.decode_packet(data)) != shown:
            lines.append(f"{path}.packet: not what the bytes decode to")
    except Malformed as error:
        lines.append(f"{path}.bytes: refused: {error}")
    return lines


def show_packet(packet: wire.Packet) -> Json:
    attachments = [each.hex() for each in packet.attachments]
    return {"type": "Packet", "envelope": packet.envelope.show(), "attachments": attachments}


def check_collect(given: Json) -> list[str]:
    collect, lines = given["collect"], []
    for name in ("request", "last_request"):
        request = collect[name]
        wait, finished = float.fromhex(request["wait_seconds"]), int(request["finished"])
        data = wire.encode_request(un(request["session_id"]), request["cursor"], wait, finished)
        if data.hex() != request["bytes"]:
            lines.append(f"collect.{name}: not what its fields encode to")
    first = [un(case["bytes"]) for case in given["packets"][:3]]
    if wire.encode_reply(first).hex() != collect["reply"]:
        lines.append("collect.reply: not the first three packets")
    if collect["empty reply"] or collect["receipt"]:
        lines.append("collect: an empty message has no bytes")
    return lines


def decodes(name: str, data: bytes) -> bool:
    readers: dict[str, Callable[[bytes], object]] = {
        "Packet": wire.decode_packet,
        "CollectRequest": wire.decode_request,
        "CollectReply": wire.decode_reply,
    }
    try:
        if name in readers:
            readers[name](data)
        else:
            wire.decode_body(wire.KINDS[name], data)
    except Malformed:
        return False
    return True
