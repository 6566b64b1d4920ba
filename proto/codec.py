"""Messages to bytes and back. The only module that sees generated protobuf code.

Decoding is strict (SPEC 3.3): after a message is parsed it is encoded again, without what the
parser does not know, and must give the very bytes that came in. That one rule refuses unknown
fields, trailing bytes, repeated singular fields and non-minimal encodings, so that one message has
one encoding. Lengths, ranges and ascending order are checked besides. Everything that is wrong with
a peer's bytes is a `MalformedMessageError`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage

from collabedit.acceptance import Vote
from collabedit.errors import AbortReason, MalformedMessageError
from collabedit.ids import PartyId, TaskIndex
from collabedit.proto import messages as m
from collabedit.proto.v1 import messages_pb2 as pb
from collabedit.proto.v1 import service_pb2 as service
from collabedit.threat_model import MAXIMUM_PARTIES

MAXIMUM_PACKET_BYTES = 16 << 20
"""Largest control packet: `RelayShares` of 500 parties has 500 envelopes of about 21 kB."""

MAXIMUM_ATTACHMENT_BYTES = 1024
"""A sealed share has 126 bytes (SPEC 4.2); nothing else is attached."""

_UINT32 = 2**32 - 1

_Proto = TypeVar("_Proto", bound=ProtoMessage)


def _require(condition: bool, what: str) -> None:  # noqa: FBT001  a guard reads best so
    if not condition:
        raise MalformedMessageError(what)


def _sized(value: bytes, size: int, what: str) -> bytes:
    _require(len(value) == size, f"{what} has {len(value)} bytes, must have {size}")
    return value


def _digest(value: bytes, what: str) -> bytes:
    return _sized(value, m.DIGEST_BYTES, what)


def _party(value: int, what: str) -> PartyId:
    _require(1 <= value <= MAXIMUM_PARTIES, f"{what} is {value}, not a party id")
    return PartyId(value)


def _ascending(parties: Iterable[PartyId], what: str) -> None:
    listed = list(parties)
    _require(
        listed == sorted(set(listed)), f"{what} does not list parties in ascending order, each once"
    )


def _parse(proto: type[_Proto], data: bytes) -> _Proto:
    try:
        parsed = proto.FromString(data)
    except DecodeError as error:
        raise MalformedMessageError(f"bytes are not a {proto.DESCRIPTOR.name}") from error
    # SPEC 3.3(a): one message has one encoding.
    parsed.DiscardUnknownFields()
    canonical = parsed.SerializeToString(deterministic=True)
    _require(canonical == data, f"{proto.DESCRIPTOR.name} is not in its canonical encoding")
    return parsed


def _to_proto(envelope: m.Envelope) -> pb.Envelope:
    return pb.Envelope(
        version=m.PROTOCOL_VERSION,
        kind=envelope.kind,
        sender=envelope.sender,
        plan_digest=envelope.context.plan_digest,
        session_id=envelope.context.session_id,
        task=envelope.context.task,
        chain=envelope.context.chain,
        body=envelope.body,
        signature=envelope.signature,
    )


def _from_proto(proto: pb.Envelope) -> m.Envelope:
    _require(
        proto.version == m.PROTOCOL_VERSION,
        f"protocol version {proto.version}, this is version {m.PROTOCOL_VERSION}",
    )
    _require(proto.kind in _BODIES, f"message kind {proto.kind} is unknown")
    _require(proto.sender <= MAXIMUM_PARTIES, f"sender {proto.sender} is not a party id")
    context = m.Context(
        plan_digest=_digest(proto.plan_digest, "plan digest"),
        session_id=_sized(proto.session_id, m.SESSION_ID_BYTES, "session id"),
        task=TaskIndex(proto.task),
        chain=_digest(proto.chain, "chain"),
    )
    signature = _sized(proto.signature, m.SIGNATURE_BYTES, "signature")
    return m.Envelope(context, PartyId(proto.sender), proto.kind, proto.body, signature)


def _envelopes_to_proto(envelopes: Sequence[m.Envelope]) -> list[pb.Envelope]:
    return [_to_proto(envelope) for envelope in envelopes]


def _envelopes_from_proto(protos: Sequence[pb.Envelope], what: str) -> tuple[m.Envelope, ...]:
    _require(len(protos) <= MAXIMUM_PARTIES, f"{what} lists {len(protos)} parties")
    envelopes = tuple(_from_proto(proto) for proto in protos)
    _ascending((envelope.sender for envelope in envelopes), what)
    return envelopes


# One pair of functions for each kind of body, in the order of SPEC 3.2.


def _encode_advertise(message: m.Advertise) -> ProtoMessage:
    return pb.Advertise(mask_public=message.mask_public, seal_public=message.seal_public)


def _decode_advertise(proto: pb.Advertise) -> m.Advertise:
    return m.Advertise(
        _sized(proto.mask_public, m.KEY_BYTES, "mask key"),
        _sized(proto.seal_public, m.KEY_BYTES, "sealing key"),
    )


def _encode_share_keys(message: m.ShareKeys) -> ProtoMessage:
    return pb.ShareKeys(
        self_mask_commitment=message.self_mask_commitment,
        group_commitment=message.group_commitment,
        digests=[
            pb.ShareDigest(receiver=receiver, sha256=digest)
            for receiver, digest in sorted(message.digests.items())
        ],
    )


def _decode_share_keys(proto: pb.ShareKeys) -> m.ShareKeys:
    _require(len(proto.digests) <= MAXIMUM_PARTIES, f"{len(proto.digests)} share digests")
    entries = [(PartyId(entry.receiver), entry.sha256) for entry in proto.digests]
    receivers = [receiver for receiver, _ in entries]
    _ascending(receivers, "ShareKeys")
    # Ascending, so the ends bound the rest: a list of N of these has N² entries.
    for receiver in {*receivers[:1], *receivers[-1:]}:
        _party(receiver, "receiver of a share")
    for size in {len(sha256) for _, sha256 in entries} - {m.DIGEST_BYTES}:
        raise MalformedMessageError(
            f"digest of a sealed share has {size} bytes, must have {m.DIGEST_BYTES}"
        )
    return m.ShareKeys(
        _digest(proto.self_mask_commitment, "self-mask commitment"),
        _digest(proto.group_commitment, "group commitment"),
        dict(entries),
    )


def _encode_contribute(message: m.Contribute) -> ProtoMessage:
    return pb.Contribute(
        elements=message.elements, tiles=message.tiles, root=message.root, seeds=message.seeds
    )


def _decode_contribute(proto: pb.Contribute) -> m.Contribute:
    root = _digest(proto.root, "root of the tiles")
    if proto.seeds:
        _digest(proto.seeds, "digest of the seeds")
    return m.Contribute(proto.elements, proto.tiles, root, proto.seeds)


def _encode_offer_sum(message: m.OfferSum) -> ProtoMessage:
    return pb.OfferSum(sum_digest=message.sum_digest, sum_bytes=message.sum_bytes)


def _decode_offer_sum(proto: pb.OfferSum) -> m.OfferSum:
    return m.OfferSum(_digest(proto.sum_digest, "digest of the offered sum"), proto.sum_bytes)


def _encode_sum_opened(message: m.SumOpened) -> ProtoMessage:
    return pb.SumOpened(
        sum_digest=message.sum_digest,
        elements=message.elements,
        tiles=message.tiles,
        root=message.root,
    )


def _decode_sum_opened(proto: pb.SumOpened) -> m.SumOpened:
    return m.SumOpened(
        _digest(proto.sum_digest, "digest of the offered sum"),
        proto.elements,
        proto.tiles,
        _digest(proto.root, "root of the tiles"),
    )


def _encode_unmask(message: m.Unmask) -> ProtoMessage:
    entries = []
    for owner, share in sorted(message.shares.items()):
        if isinstance(share, m.SelfMaskShare):
            entries.append(pb.RevealedShare(owner=owner, self_mask_share=share.value))
        else:
            entries.append(pb.RevealedShare(owner=owner, mask_key_share=share.value))
    return pb.Unmask(shares=entries)


def _decode_share(proto: pb.RevealedShare) -> m.Share:
    kind = proto.WhichOneof("share")
    if kind == "self_mask_share":
        return m.SelfMaskShare(_sized(proto.self_mask_share, m.SHARE_BYTES, "self-mask share"))
    _require(kind is not None, f"no share of party {proto.owner} in its entry")
    return m.MaskKeyShare(_sized(proto.mask_key_share, m.SHARE_BYTES, "mask-key share"))


def _decode_unmask(proto: pb.Unmask) -> m.Unmask:
    _require(len(proto.shares) <= MAXIMUM_PARTIES, f"Unmask holds {len(proto.shares)} shares")
    owners = [_party(entry.owner, "owner of a share") for entry in proto.shares]
    _ascending(owners, "Unmask")
    shares = (_decode_share(entry) for entry in proto.shares)
    return m.Unmask(dict(zip(owners, shares, strict=True)))


def _encode_release(message: m.Release) -> ProtoMessage:
    return pb.Release(
        update_digest=message.update_digest,
        update_bytes=message.update_bytes,
        sum_digest=message.sum_digest,
    )


def _decode_release(proto: pb.Release) -> m.Release:
    return m.Release(
        _digest(proto.update_digest, "digest of the update"),
        proto.update_bytes,
        _digest(proto.sum_digest, "digest of the sum"),
    )


def _encode_verify_update(message: m.VerifyUpdate) -> ProtoMessage:
    return pb.VerifyUpdate(
        update_digest=message.update_digest, sum_digest=message.sum_digest, vote=message.vote
    )


def _decode_verify_update(proto: pb.VerifyUpdate) -> m.VerifyUpdate:
    _require(proto.vote in set(Vote), f"vote {proto.vote} is unknown")
    return m.VerifyUpdate(
        _digest(proto.update_digest, "digest of the update"),
        _digest(proto.sum_digest, "digest of the sum"),
        Vote(proto.vote),
    )


def _encode_abort(message: m.Abort) -> ProtoMessage:
    culprit = -1 if message.culprit is None else message.culprit
    return pb.Abort(reason=message.reason, culprit=culprit)


def _decode_abort(proto: pb.Abort) -> m.Abort:
    _require(proto.reason in set(AbortReason), f"abort reason {proto.reason} is unknown")
    _require(-1 <= proto.culprit <= MAXIMUM_PARTIES, f"culprit {proto.culprit} is no party id")
    culprit = None if proto.culprit == -1 else PartyId(proto.culprit)
    return m.Abort(AbortReason(proto.reason), culprit)


_Body: TypeAlias = tuple[type[ProtoMessage], Callable[[Any], ProtoMessage], Callable[[Any], Any]]


def _empty(proto: type[ProtoMessage], domain: Callable[[], m.Message]) -> _Body:
    return proto, lambda _message: proto(), lambda _proto: domain()


def _list(proto: type[ProtoMessage], domain: Callable[..., m.Message], field: str) -> _Body:
    what = proto.DESCRIPTOR.name
    return (
        proto,
        lambda message: proto(**{field: _envelopes_to_proto(getattr(message, field))}),
        lambda parsed: domain(_envelopes_from_proto(getattr(parsed, field), what)),
    )


def _single(proto: type[ProtoMessage], domain: Callable[..., m.Message], field: str) -> _Body:
    what = f"{field} of {proto.DESCRIPTOR.name}"
    return (
        proto,
        lambda message: proto(**{field: getattr(message, field)}),
        lambda parsed: domain(_digest(getattr(parsed, field), what)),
    )


_BODIES_BY_TYPE: Mapping[type, _Body] = {
    m.Join: _empty(pb.Join, m.Join),
    m.Welcome: _empty(pb.Welcome, m.Welcome),
    m.Advertise: (pb.Advertise, _encode_advertise, _decode_advertise),
    m.Roster: _list(pb.Roster, m.Roster, "advertisements"),
    m.ShareKeys: (pb.ShareKeys, _encode_share_keys, _decode_share_keys),
    m.RelayShares: _list(pb.RelayShares, m.RelayShares, "commitments"),
    m.Confirm: _single(pb.Confirm, m.Confirm, "transcript"),
    m.Confirmed: _list(pb.Confirmed, m.Confirmed, "confirmations"),
    m.Contribute: (pb.Contribute, _encode_contribute, _decode_contribute),
    m.ProposeSurvivors: _list(pb.ProposeSurvivors, m.ProposeSurvivors, "contributions"),
    m.ConfirmSurvivors: _single(pb.ConfirmSurvivors, m.ConfirmSurvivors, "transcript"),
    m.SurvivorsConfirmed: _list(pb.SurvivorsConfirmed, m.SurvivorsConfirmed, "confirmations"),
    m.Unmask: (pb.Unmask, _encode_unmask, _decode_unmask),
    m.OfferSum: (pb.OfferSum, _encode_offer_sum, _decode_offer_sum),
    m.SumOpened: (pb.SumOpened, _encode_sum_opened, _decode_sum_opened),
    m.Release: (pb.Release, _encode_release, _decode_release),
    m.VerifyUpdate: (pb.VerifyUpdate, _encode_verify_update, _decode_verify_update),
    m.UpdateVerified: _list(pb.UpdateVerified, m.UpdateVerified, "confirmations"),
    m.Abort: (pb.Abort, _encode_abort, _decode_abort),
}
_BODIES = {m.KINDS[domain]: body for domain, body in _BODIES_BY_TYPE.items()}


def encode_body(message: m.Message) -> bytes:
    """Serialise a message's body, without sender or signature."""
    _, encode, _ = _BODIES[m.KINDS[type(message)]]
    return encode(message).SerializeToString(deterministic=True)


def decode_body(kind: int, body: bytes) -> m.Message:
    """Parse a body of the given kind.

    Raises:
        MalformedMessageError: unknown kind, or not the one encoding of a valid message.
    """
    if kind not in _BODIES:
        raise MalformedMessageError(f"message kind {kind} is unknown")
    proto, _, decode = _BODIES[kind]
    message: m.Message = decode(_parse(proto, body))
    return message


_WITH_ATTACHMENTS = frozenset({m.KINDS[m.ShareKeys], m.KINDS[m.RelayShares]})


def _packet_to_proto(packet: m.Packet) -> pb.Packet:
    return pb.Packet(envelope=_to_proto(packet.envelope), attachments=packet.attachments)


def _packet_from_proto(proto: pb.Packet) -> m.Packet:
    attachments = tuple(proto.attachments)
    _require(len(attachments) <= MAXIMUM_PARTIES, f"{len(attachments)} attachments")
    _require(
        not attachments or proto.envelope.kind in _WITH_ATTACHMENTS,
        f"attachments to kind {proto.envelope.kind}, which binds none",
    )
    for attachment in attachments:
        size = len(attachment)
        _require(size <= MAXIMUM_ATTACHMENT_BYTES, f"attachment of {size} bytes")
    return m.Packet(_from_proto(proto.envelope), attachments)


def encode_packet(packet: m.Packet) -> bytes:
    """Serialise a packet."""
    return _packet_to_proto(packet).SerializeToString(deterministic=True)


def decode_packet(data: bytes) -> m.Packet:
    """Parse a packet of a peer. Its body is checked by `decode_body`, its signature elsewhere.

    Raises:
        MalformedMessageError: too large, or not the one encoding of a valid packet.
    """
    _require(len(data) <= MAXIMUM_PACKET_BYTES, f"packet of {len(data)} bytes")
    return _packet_from_proto(_parse(pb.Packet, data))


def encode_envelope(envelope: m.Envelope) -> bytes:
    """Serialise one envelope on its own, as evidence holds it (SPEC 11.3)."""
    return _to_proto(envelope).SerializeToString(deterministic=True)


def decode_envelope(data: bytes) -> m.Envelope:
    """Parse one envelope. Its body is checked by `decode_body`, its signature elsewhere.

    Raises:
        MalformedMessageError: too large, or not the one encoding of a valid envelope.
    """
    _require(len(data) <= MAXIMUM_PACKET_BYTES, f"envelope of {len(data)} bytes")
    envelope = _from_proto(_parse(pb.Envelope, data))
    _require(encode_envelope(envelope) == data, "envelope is not in its canonical encoding")
    return envelope


def encode_receipt() -> bytes:
    """Serialise the empty answer to `Deliver`."""
    return service.Receipt().SerializeToString()


def encode_collect_request(
    session_id: bytes, *, cursor: int, wait_seconds: float, finished: bool = False
) -> bytes:
    """Serialise a long poll."""
    request = service.CollectRequest(
        session_id=session_id, cursor=cursor, wait_seconds=wait_seconds, finished=finished
    )
    return request.SerializeToString(deterministic=True)


def decode_collect_request(data: bytes) -> tuple[bytes, int, float, bool]:
    """Parse a long poll: session id, cursor, seconds to wait (finite, not negative), finished.

    Raises:
        MalformedMessageError: not a valid request.
    """
    request = _parse(service.CollectRequest, data)
    session_id = _sized(request.session_id, m.SESSION_ID_BYTES, "session id")
    _require(request.cursor <= _UINT32, f"cursor {request.cursor}")
    wait = request.wait_seconds
    _require(math.isfinite(wait) and wait >= 0, "wait_seconds is not a duration")
    return session_id, request.cursor, wait, request.finished


def encode_collect_reply(packets: Sequence[m.Packet]) -> bytes:
    """Serialise the packets of a mailbox after the cursor."""
    reply = service.CollectReply(packets=[_packet_to_proto(packet) for packet in packets])
    return reply.SerializeToString(deterministic=True)


def decode_collect_reply(data: bytes) -> tuple[m.Packet, ...]:
    """Parse the packets of a mailbox.

    Raises:
        MalformedMessageError: not a valid reply.
    """
    reply = _parse(service.CollectReply, data)
    return tuple(_packet_from_proto(proto) for proto in reply.packets)
