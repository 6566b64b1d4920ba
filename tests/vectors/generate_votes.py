"""Write tests/vectors/votes.json with the code under test.

    python tests/vectors/generate_votes.py [folder]

A session of a plan with `acceptance`: four parties, two tasks, three of four have to accept, and
party 2 is overruled. Then what differs of the same session if two parties reject and all take the
update back; altered packets of the first one; and evidence of its statements.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import generate_session as session
from generate_refusals import (
    ME,
    OTHER,
    R,
    Scene,
    aborts,
    at_aggregator,
    at_party,
    breaks,
    check_tried,
    collect,
    entry_of,
    refused,
)

from collabedit.acceptance import Vote
from collabedit.aggregator import states as a
from collabedit.errors import InvalidEvidenceError
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.party import states as s
from collabedit.plan import Plan, parse_plan
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_packet, encode_body
from collabedit.proto.evidence import Evidence, EvidenceKind, verify
from collabedit.proto.evidence_file import format_evidence

OVERRULED, REJECTING = (
    {PartyId(party): Vote(vote) for party, vote in enumerate(votes, 1)}
    for votes in ((1, 4, 1, 1), (1, 2, 5, 1))
)
LAST = 1
VOTED = m.KINDS[m.VerifyUpdate]


def plan_text() -> str:
    """The plan of `session.json`, smaller and with a vote."""
    text = session.PLAN.replace('name = "session-vector"', 'name = "votes-vector"')
    text = text.replace("outputs = 4, mapped = 7", "outputs = 2, mapped = 3")
    text = text.replace("outputs = 5, mapped = 6", "outputs = 2, mapped = 3")
    # Not in the order of the fields, and whole numbers for reals.
    return text + (
        "\n[acceptance]\nperplexity_ratio = 2\nneighbourhood_drop = 0.125\n"
        "efficacy = 1\nvotes = 3\n"
    )


def revote(x: Scene, vote: Vote, sender: int = 4) -> m.Envelope:
    """A party's statement with another vote."""
    own = entry_of(x, sender, m.VerifyUpdate)
    return x.sign(m.VerifyUpdate(own.update_digest, own.sum_digest, vote), sender)


def own_vote(x: Scene, vote: Vote) -> m.VerifyUpdate:
    own = x.body(m.VerifyUpdate)
    return m.VerifyUpdate(own.update_digest, own.sum_digest, vote)


def unknown_vote(x: Scene) -> m.Packet:
    body = encode_body(own_vote(x, Vote.UNUSABLE))
    return m.Packet(x.sign_body(body[:-1] + b"\x06", VOTED, ME))


def of_other_update(x: Scene) -> m.Envelope:
    own = entry_of(x, 4, m.VerifyUpdate)
    return x.sign(m.VerifyUpdate(OTHER, own.sum_digest, own.vote), 4)


LIES = [
    *at_party(
        m.UpdateVerified,
        (
            "a vote where none is asked",
            "4.7(e)",
            lambda x: x.with_entry(revote(x, Vote.ACCEPT)),
            aborts(R.MALFORMED_MESSAGE),
        ),
    ),
    *at_aggregator(
        m.VerifyUpdate,
        (
            "a vote where none is asked",
            "4.7(d)",
            lambda x: m.Packet(x.sign(own_vote(x, Vote.ACCEPT), ME)),
            breaks(R.MALFORMED_MESSAGE),
        ),
    ),
    *at_party(
        m.UpdateVerified,
        (
            "no vote where one is asked",
            "4.7(e)",
            lambda x: x.with_entry(revote(x, Vote.NONE)),
            aborts(R.MALFORMED_MESSAGE),
        ),
        (
            "a vote on another update",
            "4.7(e)",
            lambda x: x.with_entry(of_other_update(x)),
            aborts(R.UPDATE_FORK),
        ),
        (
            "without the receiver's own vote",
            "L6",
            lambda x: x.without(ME),
            aborts(R.MISSING_SELF),
        ),
        (
            "another vote of the receiver",
            "L6",
            lambda x: x.with_entry(revote(x, Vote.ACCEPT, ME)),
            aborts(R.ALTERED_OWN_MESSAGE),
        ),
        (
            "a vote under another key",
            "L4",
            lambda x: x.with_entry(
                x.sign(entry_of(x, 4, m.VerifyUpdate), 4, 1),
            ),
            aborts(R.INVALID_SIGNATURE),
        ),
        (
            "another party rejects, which is one too many",
            "4.7(i)",
            lambda x: x.with_entry(revote(x, Vote.NEIGHBOURHOOD)),
            aborts(R.UPDATE_REJECTED, None),
        ),
        (
            "a vote left out, which is one too few",
            "4.7(i)",
            lambda x: x.without(4),
            aborts(R.UPDATE_REJECTED, None),
        ),
        (
            "a rejection without votes",
            "4.7(i)",
            lambda x: m.Packet(x.sign(m.Abort(R.UPDATE_REJECTED, None))),
            aborts(R.MALFORMED_MESSAGE),
        ),
        task=LAST,
    ),
    *at_aggregator(
        m.VerifyUpdate,
        (
            "no vote where one is asked",
            "4.7(d)",
            lambda x: m.Packet(x.sign(own_vote(x, Vote.NONE), ME)),
            breaks(R.MALFORMED_MESSAGE),
        ),
        ("a vote that nobody knows", "3.3(b)", unknown_vote, refused("malformed")),
        (
            "a vote on another update",
            "4.7(d)",
            lambda x: m.Packet(x.sign(m.VerifyUpdate(OTHER, OTHER, Vote.ACCEPT), ME)),
            breaks(R.UPDATE_FORK),
        ),
        task=LAST,
    ),
]


def end_of(state: object) -> str:
    return state.reason.name if isinstance(state, a.Aborted | s.Aborted) else "completed"


def unprobed(_run: session.Run, _number: int, _receiver: PartyId, _packet: m.Packet) -> None:
    pass


def run_votes(
    directory: Path, votes: dict[PartyId, Vote], recorded: dict[int, bytes], probe: session.Probe
) -> dict[str, Any]:
    run = session.Run(
        directory, recorded, probe, plan_text=plan_text(), dropped=None, votes=votes
    ).run()
    ends = {AGGREGATOR: run.coordinator.state, **run.states}
    return {
        **session.content(run, generator="generate_votes.py"),
        "votes": {str(party): int(vote) for party, vote in votes.items()},
        "outcomes": {str(int(end)): end_of(state) for end, state in ends.items()},
    }


class _Place:
    def __init__(self, context: m.Context) -> None:
        self.context = context


def claims(of: dict[str, Any]) -> list[tuple[str, Evidence, bool]]:
    """(name, evidence, whether it proves something)."""
    packets = [decode_packet(bytes.fromhex(shown["bytes"])) for shown in of["packets"]]

    def scene(message: type[m.Message], sender: int = 0, task: int = LAST) -> Scene:
        for packet in packets:
            envelope = packet.envelope
            found = (envelope.kind, envelope.sender, envelope.context.task)
            if found == (m.KINDS[message], sender, task):
                place: Any = _Place(envelope.context)
                return Scene(place, packet)
        raise AssertionError(message)

    verified, release, own = scene(m.UpdateVerified), scene(m.Release), scene(m.VerifyUpdate, ME)
    repeated, relay = EvidenceKind.REPEATED_STATEMENT, EvidenceKind.INVALID_RELAY
    fork, unasked = EvidenceKind.UPDATE_FORK, scene(m.UpdateVerified, task=0)
    other_list = verified.with_entry(revote(verified, Vote.OWN_EDITS)).envelope
    other_vote = own.sign(own_vote(own, Vote.ACCEPT), ME)
    no_vote = verified.with_entry(revote(verified, Vote.NONE)).envelope
    a_vote = unasked.with_entry(revote(unasked, Vote.ACCEPT)).envelope
    other = verified.with_entry(of_other_update(verified)).envelope

    def against(end: int, kind: EvidenceKind, *envelopes: m.Envelope) -> Evidence:
        return Evidence(kind, PartyId(end), envelopes)

    return [
        ("two votes of a party", against(ME, repeated, own.envelope, other_vote), True),
        ("two lists of votes", against(0, repeated, verified.envelope, other_list), True),
        ("a relayed statement without a vote", against(0, relay, no_vote), True),
        ("a relayed vote that nobody asked for", against(0, relay, a_vote), True),
        ("a vote on another update", against(0, fork, release.envelope, other), True),
        (
            "different votes are no fork",
            against(0, fork, release.envelope, verified.envelope),
            False,
        ),
        ("an honest list of votes", against(0, relay, verified.envelope), False),
        ("a fork that is an invalid relay", against(0, fork, release.envelope, no_vote), False),
    ]


def judged(plan: Plan, name: str, evidence: Evidence, *, proves: bool) -> dict[str, Any]:
    data = format_evidence(evidence, plan)
    try:
        verdict = verify(evidence, plan)
    except InvalidEvidenceError:
        found: dict[str, Any] = {"verdict": "not proven"}
    else:
        found = {
            "verdict": "proven",
            "kind": verdict.kind.value,
            "accused": int(verdict.accused),
            "task": int(verdict.task),
        }
    if (found["verdict"] == "proven") != proves:
        raise SystemExit(f"{name}: {found}")
    return {"name": name, **found, "file": data.decode("ascii")}


def recorded_bundles(path: Path) -> dict[int, bytes]:
    """The released bundles, which both sessions share."""
    if not path.exists():
        return {}
    tasks = json.loads(path.read_text(encoding="utf-8"))["accepted"]["tasks"]
    return {task["task"]: bytes.fromhex(task["bundle"]) for task in tasks}


def differing(accepted: dict[str, Any], rejected: dict[str, Any]) -> dict[str, Any]:
    """What of the second session is not the first one's, which has to be its end."""
    pairs = zip(accepted["packets"], rejected["packets"], strict=True)
    first = next(i for i, (one, other) in enumerate(pairs) if one != other)
    own = ("votes", "outcomes", "packets")
    assert all(accepted[name] == rejected[name] for name in accepted if name not in own)
    return {
        "votes": rejected["votes"],
        "outcomes": rejected["outcomes"],
        "packets": rejected["packets"][first:],
    }


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else session.FOLDER
    recorded = recorded_bundles(session.FOLDER / "votes.json")
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        accepted = run_votes(Path(directory), OVERRULED, recorded, collect(cases, LIES))
    with tempfile.TemporaryDirectory() as directory:
        rejected = run_votes(Path(directory), REJECTING, recorded, unprobed)
    check_tried(cases, LIES)
    plan = parse_plan(plan_text(), source="votes vector")
    evidence = [
        judged(plan, name, claimed, proves=proves) for name, claimed, proves in claims(accepted)
    ]
    content = {
        "generator": "tests/vectors/generate_votes.py",
        "accepted": accepted,
        "rejected": differing(accepted, rejected),
        "refusals": {"cases": cases},
        "evidence": {"cases": evidence},
    }
    session.write(folder / "votes.json", content)


if __name__ == "__main__":
    main()
