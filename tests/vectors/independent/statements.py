"""SPEC 4: lists of statements, what is read out of them, and transcripts. No project code."""

from collections.abc import Collection, Iterable, Mapping

from independent import primitives as p
from independent.plan import Plan
from independent.wire import (
    KINDS,
    LISTS,
    Envelope,
    Json,
    Malformed,
    context_bytes,
    decode_body,
    envelope_of,
    is_signed,
)


class Refused(Exception):  # noqa: N818 - an outcome, not an error
    """`how` is `malformed`, `signature`, `unexpected`, or `rule` with reason and culprit."""

    def __init__(self, how: str, reason: str | None = None, culprit: int | None = None) -> None:
        self.how, self.reason, self.culprit = how, reason, culprit
        super().__init__(how, reason, culprit)


class Aborts(Exception):  # noqa: N818 - an outcome, not an error
    def __init__(self, reason: str, culprit: int | None) -> None:
        self.reason, self.culprit = reason, culprit
        super().__init__(reason, culprit)


def entries(message: Json) -> list[Envelope]:
    """The envelopes of a list."""
    (name,) = (key for key in message if key != "type")
    return [envelope_of(each) for each in message[name]]


def listing(envelopes: Iterable[Envelope]) -> bytes:
    """SPEC 4.3(a)."""
    return b"".join(p.encode(each.sender, p.sha256(each.body)) for each in envelopes)


def roster_transcript(
    context: Json, advertisements: list[Envelope], commitments: list[Envelope]
) -> bytes:
    ctx = context_bytes(context)
    return p.labelled_hash("roster", ctx, listing(advertisements), listing(commitments))


def survivor_transcript(context: Json, roster: bytes, contributions: list[Envelope]) -> bytes:
    ctx = context_bytes(context)
    return p.labelled_hash("survivors", ctx, roster, listing(contributions))


def owner_bytes(context: Json, party: int) -> bytes:
    return p.encode(context_bytes(context), party)


def receivers_of(keys: Json) -> set[int]:
    return {int(receiver) for receiver in keys["digests"]}


def owners_held_by(party: int, sharers: Mapping[int, Json]) -> list[int]:
    """SPEC 4.2(i): of whom `party` is a holder."""
    return sorted(o for o, keys in sharers.items() if o == party or party in receivers_of(keys))


def neighbours_of(party: int, sharers: Mapping[int, Json]) -> list[int]:
    chosen = receivers_of(sharers[party]) & sharers.keys()
    return sorted((chosen | set(owners_held_by(party, sharers))) - {party})


def breaks_receivers(keys: Json, sender: int, roster: Collection[int], degree: int) -> bool:
    """SPEC 4.2(c), first half."""
    receivers = receivers_of(keys)
    return sender in receivers or not receivers <= set(roster) or len(receivers) != degree


def is_another_update(statement: Json, own: Json) -> bool:
    """Whether a VerifyUpdate is about another update or sum than `own`, whatever it votes."""
    return any(statement[name] != own[name] for name in ("update_digest", "sum_digest"))


def breaks_vote(plan: Plan, context: Json, statement: Json) -> bool:
    """SPEC 4.7(c): a vote exactly where one is asked."""
    asked = plan.is_voted(context["task"])
    return asked if statement.get("vote", 0) == 0 else not asked


def holds_shares(envelope: Envelope) -> bool:
    """SPEC 11.1(b): an Unmask as an entry of a list that decodes."""
    if envelope.kind not in LISTS:
        return False
    try:
        listed = entries(decode_body(envelope.kind, envelope.body))
    except Malformed:
        return False
    return any(entry.kind == KINDS["Unmask"] for entry in listed)


def fault(plan: Plan, envelope: Envelope) -> bool:
    """Whether an honest aggregator would not have relayed this list."""
    try:
        listed = entries(decode_body(envelope.kind, envelope.body))
        for entry in listed:
            if entry.sender not in plan.parties or entry.context != envelope.context:
                return True
            if entry.kind != LISTS[envelope.kind] or not is_signed(entry, plan.identities):
                return True
            said = decode_body(entry.kind, entry.body)
            if said["type"] == "VerifyUpdate" and breaks_vote(plan, envelope.context, said):
                return True
    except Malformed:
        return True
    return False


def is_invalid_relay(plan: Plan, envelope: Envelope) -> bool:
    return envelope.kind in LISTS and not holds_shares(envelope) and fault(plan, envelope)


def relayed(
    plan: Plan, context: Json, message: Json, allowed: Collection[int]
) -> dict[int, tuple[Envelope, Json]]:
    """L1 to L5 of SPEC 4."""
    expected = LISTS[KINDS[message["type"]]]
    opened: dict[int, tuple[Envelope, Json]] = {}
    for envelope in entries(message):
        if envelope.sender not in allowed:
            raise Aborts("UNKNOWN_PARTY", 0)
        if envelope.sender in opened:
            raise Aborts("REPEATED_PARTY", 0)
        if envelope.context != context or envelope.kind != expected:
            raise Aborts("MALFORMED_MESSAGE", 0)
        if not is_signed(envelope, plan.identities):
            raise Aborts("INVALID_SIGNATURE", 0)
        try:
            opened[envelope.sender] = envelope, decode_body(expected, envelope.body)
        except Malformed:
            raise Aborts("MALFORMED_MESSAGE", 0) from None
    if len(opened) < plan.threshold:
        raise Aborts("BELOW_THRESHOLD", None)
    return opened
