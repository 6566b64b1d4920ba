"""Write tests/vectors/evidence.json with the code under test.

    python tests/vectors/generate_evidence.py [folder]

Files of evidence (SPEC 11.3) from the packets of `session.json` and lies about them, each with the
verdict. The generator stops if the code under test comes to another one.
"""

import base64
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import generate_session as session
from generate_refusals import LIAR, NOBODY, OTHER, Scene, flip, moved, resigned

from collabedit.errors import AbortReason, EvidenceFileError, InvalidEvidenceError
from collabedit.ids import PartyId, TaskIndex
from collabedit.plan import parse_plan
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_packet
from collabedit.proto.evidence import Evidence, EvidenceKind, verify
from collabedit.proto.evidence_file import format_evidence, parse_evidence

PLAN = parse_plan(session.PLAN, source="session vector")
REPEATED, ROSTER = EvidenceKind.REPEATED_STATEMENT, EvidenceKind.ROSTER_FORK
SURVIVORS, UPDATE = EvidenceKind.SURVIVOR_FORK, EvidenceKind.UPDATE_FORK
RELAY = EvidenceKind.INVALID_RELAY


@dataclasses.dataclass(frozen=True)
class _Place:
    """What `Scene` needs of a run: the context."""

    context: m.Context


class Statements:
    """The session's packets, and lies about them."""

    def __init__(self, path: Path) -> None:
        listed = json.loads(path.read_text(encoding="utf-8"))["packets"]
        self._packets = [decode_packet(bytes.fromhex(shown["bytes"])) for shown in listed]

    def scene(self, message: type[m.Message], sender: int = 0, task: int = 0) -> Scene:
        for packet in self._packets:
            envelope = packet.envelope
            found = (envelope.kind, envelope.sender, envelope.context.task)
            if found == (m.KINDS[message], sender, task):
                place: Any = _Place(envelope.context)
                return Scene(place, packet)
        raise AssertionError(message)

    def get(self, message: type[m.Message], sender: int = 0, task: int = 0) -> m.Envelope:
        return self.scene(message, sender, task).envelope

    def lists(self, *messages: type[m.Message]) -> tuple[m.Envelope, ...]:
        return tuple(self.get(message) for message in messages)


def with_other(x: Scene, message: m.Message, sender: int = LIAR) -> m.Envelope:
    """The same list with another statement of `sender`."""
    return x.with_entry(x.sign(message, sender)).envelope


def claims(of: Statements) -> list[tuple[str, EvidenceKind, int, tuple[m.Envelope, ...], str]]:
    """(name, kind, accused, envelopes, verdict)."""
    roster, advertise = of.scene(m.Roster), of.scene(m.Advertise, 3)
    confirmed, survivors = of.scene(m.Confirmed), of.scene(m.SurvivorsConfirmed)
    verified, release = of.scene(m.UpdateVerified), of.scene(m.Release)
    shorter = roster.without(4).envelope
    other_keys = advertise.sign(m.Advertise(OTHER, session.pseudo("x")), 3)
    to_shares = of.lists(m.Roster, m.RelayShares)
    to_survivors = of.lists(m.Roster, m.RelayShares, m.ProposeSurvivors)
    fork = with_other(confirmed, m.Confirm(OTHER))
    unsigned = dataclasses.replace(shorter, signature=flip(shorter.signature, 1))
    unmask, confirm = of.get(m.Unmask, 1), of.get(m.Confirm, 3)
    undecodable = release.sign_body(b"\x10\x01", m.KINDS[m.Release])
    yes, no = "proven", "not proven"
    return [
        ("two Roster", REPEATED, 0, (roster.envelope, shorter), yes),
        ("two Advertise of a party", REPEATED, 3, (advertise.envelope, other_keys), yes),
        ("two Release, one undecodable", REPEATED, 0, (release.envelope, undecodable), yes),
        ("shares of a party outside of the roster", ROSTER, 0, (shorter, to_shares[1]), yes),
        ("a Confirm of another transcript", ROSTER, 0, (*to_shares, fork), yes),
        (
            "another survivor transcript",
            SURVIVORS,
            0,
            (*to_survivors, with_other(survivors, m.ConfirmSurvivors(OTHER), 4)),
            yes,
        ),
        (
            "another update",
            UPDATE,
            0,
            (release.envelope, with_other(verified, m.VerifyUpdate(OTHER, OTHER), 4)),
            yes,
        ),
        (
            "a list that does not decode",
            RELAY,
            0,
            (roster.sign_body(b"\x0a\x00", m.KINDS[m.Roster]),),
            yes,
        ),
        (
            "an entry of nobody",
            RELAY,
            0,
            (roster.with_entry(roster.sign(m.Advertise(OTHER, OTHER), NOBODY, 1)).envelope,),
            yes,
        ),
        (
            "an entry under another key",
            RELAY,
            0,
            (roster.with_entry(roster.sign(m.Advertise(OTHER, OTHER), 3, 1)).envelope,),
            yes,
        ),
        (
            "an entry of another kind",
            RELAY,
            0,
            (roster.with_entry(confirm).envelope,),
            yes,
        ),
        (
            "an entry of another task",
            RELAY,
            0,
            (
                roster.with_entry(
                    resigned(advertise, moved(advertise.envelope, task=TaskIndex(1))).envelope
                ).envelope,
            ),
            yes,
        ),
        ("the same Roster twice", REPEATED, 0, (roster.envelope, roster.envelope), no),
        ("one Roster", REPEATED, 0, (roster.envelope,), no),
        ("two different kinds", REPEATED, 0, to_shares, no),
        (
            "Release of two tasks",
            REPEATED,
            0,
            (release.envelope, of.get(m.Release, task=1)),
            no,
        ),
        ("a second Roster that is not signed", REPEATED, 0, (roster.envelope, unsigned), no),
        ("statements of two parties", REPEATED, 3, (of.get(m.Confirm, 1), confirm), no),
        ("another accused", REPEATED, 1, (advertise.envelope, other_keys), no),
        (
            "Abort may be signed twice",
            REPEATED,
            3,
            tuple(advertise.sign(m.Abort(reason, None), 3) for reason in REASONS),
            no,
        ),
        (
            "Unmask is never evidence",
            REPEATED,
            1,
            (unmask, of.scene(m.Unmask, 1).sign(m.Unmask({}), 1)),
            no,
        ),
        (
            "a list with an Unmask is never evidence",
            RELAY,
            0,
            (confirmed.with_entry(unmask).envelope,),
            no,
        ),
        ("honest lists", ROSTER, 0, to_shares, no),
        ("honest lists and confirmations", ROSTER, 0, (*to_shares, confirmed.envelope), no),
        ("honest survivors", SURVIVORS, 0, (*to_survivors, survivors.envelope), no),
        ("an honest update", UPDATE, 0, (release.envelope, verified.envelope), no),
        ("an honest Roster", RELAY, 0, (roster.envelope,), no),
        ("a kind that relays nothing", RELAY, 0, (release.envelope,), no),
        ("lists in another order", ROSTER, 0, to_shares[::-1], no),
        (
            "a fork that is an invalid relay",
            ROSTER,
            0,
            (
                *to_shares,
                confirmed.with_entry(confirmed.sign(m.Confirm(OTHER), 3, 1)).envelope,
            ),
            no,
        ),
        ("a party's fork", UPDATE, 3, (advertise.envelope, other_keys), no),
    ]


REASONS = (AbortReason.TIMEOUT, AbortReason.INTERNAL)


def altered(good: bytes) -> dict[str, bytes]:
    """Files that are no evidence, by what is wrong with them."""
    document = json.loads(good)

    def changed(**values: Any) -> bytes:  # noqa: ANN401  whatever JSON can hold
        return (json.dumps({**document, **values}, indent=2) + "\n").encode()

    first = document["envelopes"][0]
    reordered = {"kind": document["kind"], **document}
    longer = base64.b64encode(base64.b64decode(first) + b"\x78\x01").decode()
    return {
        "of another plan": changed(plan="sha256:" + "00" * 32),
        "another name": changed(accused={"id": 0, "name": "party-1"}),
        "a party that the plan does not have": changed(accused={"id": 5, "name": "#5"}),
        "another format": changed(format="collabedit-evidence/2"),
        "an unknown kind": changed(kind="hearsay"),
        "an unknown field": changed(more=1),
        "fields in another order": (json.dumps(reordered, indent=2) + "\n").encode(),
        "without the last line break": good[:-1],
        "one more blank": good.replace(b'"kind": ', b'"kind":  '),
        "a note that does not print": changed(note="\x1b[2J"),
        "a note of 501 characters": changed(note="n" * 501),
        "no envelope": changed(envelopes=[]),
        "five envelopes": changed(envelopes=[first] * 5),
        "an envelope with an unknown field": changed(envelopes=[longer]),
        "an envelope in base64 without padding": changed(envelopes=[first.rstrip("=") + "A"]),
        "not JSON": good[1:],
    }


def judge(data: bytes) -> dict[str, Any]:
    try:
        evidence = parse_evidence(data, PLAN)
    except EvidenceFileError:
        return {"verdict": "unusable"}
    try:
        verdict = verify(evidence, PLAN)
    except InvalidEvidenceError:
        return {"verdict": "not proven"}
    found = {"kind": verdict.kind.value, "accused": int(verdict.accused), "task": int(verdict.task)}
    return {"verdict": "proven", **found}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else session.FOLDER
    statements = Statements(session.FOLDER / "session.json")
    cases: list[tuple[str, bytes, str]] = []
    for name, kind, accused, envelopes, verdict in claims(statements):
        evidence = Evidence(kind, PartyId(accused), envelopes, f"a test vector: {name}")
        cases.append((name, format_evidence(evidence, PLAN), verdict))
    cases += [(name, data, "unusable") for name, data in altered(cases[0][1]).items()]
    shown = []
    for name, data, expected in cases:
        found = judge(data)
        if found["verdict"] != expected:
            raise SystemExit(f"{name}: {found}, not {expected}")
        shown.append({"name": name, **found, "file": data.decode("ascii")})
    content = {"generator": "tests/vectors/generate_evidence.py", "session": "session.json"}
    session.write(folder / "evidence.json", {**content, "cases": shown})


if __name__ == "__main__":
    main()
