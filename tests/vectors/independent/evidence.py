"""SPEC 11: is a file evidence, and does it prove what it says? No project code."""

import base64
import binascii
import json
import re

from independent.plan import Plan
from independent.statements import (
    entries,
    fault,
    holds_shares,
    is_another_update,
    is_invalid_relay,
    receivers_of,
    roster_transcript,
    survivor_transcript,
)
from independent.wire import (
    KINDS,
    LISTS,
    SCHEMAS,
    Envelope,
    Json,
    Malformed,
    decode_body,
    decode_envelope,
    is_signed,
)

ONCE_BY_AGGREGATOR = frozenset({*LISTS, KINDS["OfferSum"], KINDS["Release"]})
ONCE_BY_PARTY = frozenset({*LISTS.values(), KINDS["SumOpened"]})
LARGEST = 89_544_021
FORKS = {
    "roster-fork": (["Roster", "RelayShares"], ["Roster", "RelayShares", "Confirmed"]),
    "survivor-fork": (["Roster", "RelayShares", "ProposeSurvivors", "SurvivorsConfirmed"],),
    "update-fork": (["Release", "UpdateVerified"],),
}


class Unusable(Exception):  # noqa: N818 - an outcome, not an error
    """SPEC 11.3 refuses the file."""


def judge(plan: Plan, data: bytes) -> Json:
    """Return the verdict on a file, as the vectors show it."""
    try:
        kind, accused, envelopes = read(plan, data)
    except (Unusable, Malformed):
        return {"verdict": "unusable"}
    if not proves(plan, kind, accused, envelopes):
        return {"verdict": "not proven"}
    task = envelopes[0].context["task"]
    return {"verdict": "proven", "kind": kind, "accused": accused, "task": task}


def read(plan: Plan, data: bytes) -> tuple[str, int, list[Envelope]]:
    """Parse, write again, compare."""
    try:
        document = json.loads(data.decode("ascii"))
        accused, texts = document["accused"], document["envelopes"]
        envelopes = [decode_envelope(base64.b64decode(text, validate=True)) for text in texts]
        again = {
            "format": "collabedit-evidence/1",
            "plan": f"sha256:{plan.digest.hex()}",
            "kind": document["kind"],
            "accused": {"id": accused["id"], "name": plan.name(accused["id"])},
            "envelopes": texts,
            "note": document["note"],
        }
    except (ValueError, KeyError, TypeError, IndexError, binascii.Error):
        raise Unusable from None
    written = json.dumps(again, indent=2).encode() + b"\n"
    known = again["kind"] in {*FORKS, "repeated-statement", "invalid-relay"}
    printable = re.fullmatch(r"[ -~]{0,500}", again["note"])
    if written != data or not known or not printable or not 1 <= len(envelopes) <= 4:
        raise Unusable
    canonical = all(base64.b64encode(base64.b64decode(text)).decode() == text for text in texts)
    if not canonical or len(data) > LARGEST or type(accused["id"]) is not int:
        raise Unusable
    return again["kind"], accused["id"], envelopes


def proves(plan: Plan, kind: str, accused: int, envelopes: list[Envelope]) -> bool:
    """SPEC 11.1 and 11.2."""
    context = envelopes[0].context
    if not all(is_statement(plan, each, accused, context) for each in envelopes):
        return False
    if kind == "repeated-statement":
        return is_repetition(accused, envelopes)
    if accused != 0:
        return False
    if kind == "invalid-relay":
        return len(envelopes) == 1 and is_invalid_relay(plan, envelopes[0])
    if [SCHEMAS[each.kind][0] for each in envelopes] not in FORKS[kind]:
        return False
    try:
        opened = [decode_body(each.kind, each.body) for each in envelopes]
    except Malformed:
        return False
    lists = [each for each in envelopes if each.kind in LISTS]
    if any(fault(plan, each) or holds_shares(each) for each in lists):
        return False
    return is_fork(kind, context, opened)


def is_statement(plan: Plan, envelope: Envelope, accused: int, context: Json) -> bool:
    """SPEC 11.1 for one envelope."""
    if envelope.kind == KINDS["Unmask"] or envelope.sender != accused:
        return False
    if envelope.context != context or context["plan_digest"] != plan.digest.hex():
        return False
    return is_signed(envelope, plan.identities)


def is_repetition(accused: int, envelopes: list[Envelope]) -> bool:
    if len(envelopes) != 2 or envelopes[0].kind != envelopes[1].kind:
        return False
    allowed = ONCE_BY_PARTY if accused else ONCE_BY_AGGREGATOR
    if envelopes[0].kind not in allowed or envelopes[0].body == envelopes[1].body:
        return False
    return not any(holds_shares(each) for each in envelopes)


def bodies(message: Json) -> list[Json]:
    return [decode_body(entry.kind, entry.body) for entry in entries(message)]


def is_fork(kind: str, context: Json, opened: list[Json]) -> bool:
    if kind == "update-fork":
        release, verified = opened
        own = {name: release[name] for name in ("update_digest", "sum_digest")}
        return any(is_another_update(seen, own) for seen in bodies(verified))
    roster, shares = entries(opened[0]), entries(opened[1])
    if len(opened) == 2:
        listed = {entry.sender for entry in roster}
        pairs = zip(shares, bodies(opened[1]), strict=True)
        return any(not {entry.sender, *receivers_of(keys)} <= listed for entry, keys in pairs)
    transcript = roster_transcript(context, roster, shares)
    if kind == "survivor-fork":
        transcript = survivor_transcript(context, transcript, entries(opened[2]))
    return any(seen["transcript"] != transcript.hex() for seen in bodies(opened[-1]))
