"""Who may enter a session: a party of the plan, by its pinned identity (SPEC 5.1)."""

from collabedit.errors import AbortReason
from collabedit.ids import PartyId, TaskIndex
from collabedit.plan import Plan, format_digest
from collabedit.proto import messages as m
from collabedit.proto.envelope import open_envelope
from collabedit.proto.statements import RefusalError

NO_CHAIN = bytes(m.DIGEST_BYTES)
NO_SESSION = bytes(m.SESSION_ID_BYTES)


def admit(plan: Plan, packet: m.Packet) -> PartyId:
    """Check a `Join` and return whose it is.

    Raises:
        RefusalError: PLAN_MISMATCH, UNKNOWN_PARTY.
        InvalidSignatureError: not signed by the identity that the plan pins.
        MalformedMessageError: not a `Join`.
    """
    envelope = packet.envelope
    if envelope.context.plan_digest != plan.digest:
        raise RefusalError(
            AbortReason.PLAN_MISMATCH,
            f"your plan has digest {format_digest(envelope.context.plan_digest)}, this "
            f"session's has {format_digest(plan.digest)}: compare the files",
            culprit=envelope.sender,
        )
    if envelope.sender not in plan.party_ids:
        raise RefusalError(
            AbortReason.UNKNOWN_PARTY, f"party {envelope.sender} is not in the plan", culprit=None
        )
    context = m.Context(plan.digest, NO_SESSION, TaskIndex(0), NO_CHAIN)
    open_envelope(envelope, m.Join, context=context, identities=plan.identity)
    return envelope.sender
