"""The malicious party: what it says instead of what its machine says."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from collabedit.exchange import encode_frame
from collabedit.ids import PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.proto import messages as m
from collabedit.proto.envelope import open_envelope, sign_message
from tests.simulation.faults.member import Member
from tests.simulation.faults.ops import PartyLie

_TYPES = {kind: message for message, kind in m.KINDS.items()}
_NONSENSE = hashlib.sha256(b"nonsense").digest()
_SHARE = b"\0" + _NONSENSE


def _sign(member: Member, message: m.Message, *attachments: bytes) -> m.Packet:
    setup = member.setup
    envelope = sign_message(message, context=setup.context, sender=setup.me, key=setup.identity)
    return m.Packet(envelope, attachments)


def lie(member: Member, what: PartyLie, packet: m.Packet) -> tuple[m.Packet, ...]:  # noqa: C901, PLR0912
    """Return what a lying party sends instead of `packet`."""
    setup, envelope = member.setup, packet.envelope
    if envelope.context != setup.context:
        return (packet,)
    message: m.Message = open_envelope(
        envelope,
        _TYPES[envelope.kind],
        context=setup.context,
        identities=setup.plan.identity,
    )
    match what, message:
        case "bad-share", m.Unmask():
            spoilt = {o: type(share)(_SHARE) for o, share in message.shares.items()}
            return (_sign(member, m.Unmask(spoilt)),)
        case "wrong-kind", m.Unmask():
            return (_swap_kinds(member) or packet, packet)
        case "second-answer", _:
            return (packet, *_second(member, message))
        case "other-transcript", m.Confirm() | m.ConfirmSurvivors():
            return (_sign(member, type(message)(_NONSENSE)),)
        case "other-digest", m.VerifyUpdate():
            return (_sign(member, replace(message, update_digest=_NONSENSE)),)
        case "bad-seal", m.ShareKeys():
            sealed = [bytes(len(old)) for old in packet.attachments]
            digests = {
                to: hashlib.sha256(data).digest()
                for to, data in zip(sorted(message.digests), sealed, strict=True)
            }
            return (_sign(member, replace(message, digests=digests), *sealed),)
        case "bad-attachment", m.ShareKeys():
            return (_sign(member, message, *packet.attachments[::-1]),)
        case "stolen-key", m.Advertise():
            stolen = member.world.keys_of_another(member.party)
            return (_sign(member, replace(message, mask_public=stolen or message.seal_public)),)
        case "other-seeds", m.Contribute():
            return (_sign(member, replace(message, seeds=_NONSENSE)), packet)
        case "no-seeds", m.Contribute():
            return (_sign(member, replace(message, seeds=b"")), packet)
        case "other-sum", m.SumOpened():
            return (_sign(member, replace(message, sum_digest=_NONSENSE)), packet)
        case "wrong-length", m.SumOpened():
            return (_sign(member, replace(message, elements=message.elements + 1)), packet)
        case "wrong-length", m.Contribute():
            return (_sign(member, replace(message, elements=message.elements + 1)), packet)
        case "other-task", _:
            elsewhere = replace(setup.context, task=TaskIndex(setup.context.task + 1))
            key = setup.identity
            return (
                m.Packet(
                    sign_message(message, context=elsewhere, sender=setup.me, key=key),
                    packet.attachments,
                ),
                packet,
            )
        case _:
            return (packet,)


def _swap_kinds(member: Member) -> m.Packet | None:
    state = member.before
    if not isinstance(state, s.AwaitingSurvivorConfirmations):
        return None
    shares: dict[PartyId, m.Share] = {
        owner: m.MaskKeyShare(held.mask_key)
        if owner in state.survivors
        else m.SelfMaskShare(held.self_mask)
        for owner, held in state.shares.items()
    }
    return _sign(member, m.Unmask(shares))


def _second(member: Member, message: m.Message) -> Iterable[m.Packet]:
    match message:
        case m.Advertise():
            yield _sign(member, m.Advertise(message.seal_public, message.mask_public))
        case m.Confirm() | m.ConfirmSurvivors():
            yield _sign(member, type(message)(_NONSENSE))
        case m.Contribute():
            yield _sign(member, replace(message, root=_NONSENSE))
        case m.Unmask():
            swapped = _swap_kinds(member)
            if swapped is not None:
                yield swapped
        case m.SumOpened():
            yield _sign(member, replace(message, root=_NONSENSE))
        case m.VerifyUpdate():
            yield _sign(member, replace(message, sum_digest=_NONSENSE))
        case _:
            return


def spoil_frames(frames: list[bytes]) -> list[bytes]:
    """Return an upload with frames that are refused, among the right ones."""
    return [
        encode_frame(0, bytes(1 << 12)),
        encode_frame(1 << 20, bytes(64)),
        b"CET1",
        *frames[:1],
        encode_frame(0, bytes(64)),
        *frames[1:],
    ]
