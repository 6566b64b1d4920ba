"""Inputs of the session as the journal keeps them: a kind and bytes."""

import struct

from collabedit.aggregator.journal import Input, InputKind
from collabedit.aggregator.states import Event, Merged, MergeRefused, RoundClosed, Summed
from collabedit.errors import AbortReason, MalformedMessageError
from collabedit.ids import TaskIndex
from collabedit.proto.codec import decode_packet, encode_packet
from collabedit.proto.messages import KINDS, Packet

_MERGED = struct.Struct(">32sQ32s")
"""Update digest, bytes of the update, sum digest."""

_SUMMED = struct.Struct(">32sQ")
"""Digest and bytes of what the opener is offered."""

_REFUSED = struct.Struct(">I")
"""Abort reason; then the detail in UTF-8."""


_NAMES = {kind: message.__name__ for message, kind in KINDS.items()}


def describe(change: Event | Packet, *, task: TaskIndex, round_name: str) -> str:
    """Return one line for people: who sent what, or what the driver did."""
    if isinstance(change, Packet):
        envelope = change.envelope
        return f"{_NAMES[envelope.kind]} of party {envelope.sender} in task {task}, {round_name}"
    return f"{type(change).__name__} in task {task}, {round_name}"


def pack(change: Event | Packet) -> tuple[InputKind, bytes]:
    """Serialise an input."""
    match change:
        case Packet():
            return InputKind.PACKET, encode_packet(change)
        case RoundClosed():
            return InputKind.ROUND_CLOSED, b""
        case Merged():
            data = _MERGED.pack(change.update_digest, change.update_bytes, change.sum_digest)
            return InputKind.MERGED, data
        case Summed():
            return InputKind.SUMMED, _SUMMED.pack(change.sum_digest, change.sum_bytes)
        case MergeRefused():
            data = _REFUSED.pack(change.reason) + change.detail.encode()
            return InputKind.MERGE_REFUSED, data


def unpack(entry: Input) -> Event | Packet:
    """Parse an input.

    Raises:
        MalformedMessageError: not what its kind says, or erased.
    """
    data = entry.data
    if data is None:
        raise MalformedMessageError("its data was erased")
    try:
        match entry.kind:
            case InputKind.PACKET:
                return decode_packet(data)
            case InputKind.ROUND_CLOSED:
                return RoundClosed()
            case InputKind.MERGED:
                return Merged(*_MERGED.unpack(data))
            case InputKind.SUMMED:
                return Summed(*_SUMMED.unpack(data))
            case InputKind.MERGE_REFUSED:
                (reason,) = _REFUSED.unpack_from(data)
                return MergeRefused(data[_REFUSED.size :].decode(), AbortReason(reason))
    except (struct.error, ValueError) as error:
        raise MalformedMessageError(f"not a {entry.kind.name}") from error
