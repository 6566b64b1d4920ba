"""`collabedit verify-evidence`: what a third person with the plan and a file gets to see."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from collabedit.ids import AGGREGATOR, PartyId
from collabedit.plan import format_digest
from collabedit.proto import messages as m
from collabedit.proto.evidence import Evidence, EvidenceKind
from collabedit.proto.evidence_file import EvidenceFolder
from tests.protocol.stage import Walk, parties, walk
from tests.support.federations import build_federation
from tests.support.processes import run_here

PROVEN, UNUSABLE, NOT_PROVEN = 0, 2, 4


@dataclass
class Desk:
    """The third person's: the plan and what was handed over."""

    directory: Path
    honest: Walk

    @property
    def plan_file(self) -> Path:
        path = self.directory / "plan.toml"
        path.write_text(self.honest.federation.plan.to_toml())
        return path

    def hand_over(self, kind: EvidenceKind, *envelopes: m.Envelope, accused: int = 0) -> Path:
        folder = EvidenceFolder(self.directory, self.honest.federation.plan)
        return folder.save(Evidence(kind, PartyId(accused), envelopes, "handed over"))

    def shown(self, *messages: type) -> tuple[m.Envelope, ...]:
        return tuple(self.honest.shown[PartyId(1), message].envelope for message in messages)

    def sent(self, message: type, *ids: int) -> tuple[m.Envelope, ...]:
        return tuple(self.honest.envelope(party, message) for party in ids)


@pytest.fixture(scope="module")
def honest() -> Walk:
    return walk(contributors=parties(1, 2, 3, 4, 5))


@pytest.fixture
def desk(tmp_path: Path, honest: Walk) -> Desk:
    return Desk(tmp_path, honest)


def proof(desk: Desk, kind: EvidenceKind) -> tuple[Path, str, str]:
    """A file that proves `kind`, with the reason and the round that belong to it."""
    walk = desk.honest
    other = (
        m.Confirm(bytes(32)),
        m.ConfirmSurvivors(bytes(32)),
        m.VerifyUpdate(bytes(32), bytes(32)),
    )
    confirm, survivors, update = (walk.sign(said, sender=5) for said in other)
    forged = walk.sign(walk.message(5, m.Advertise), sender=5, key=0)
    lists = {
        EvidenceKind.REPEATED_STATEMENT: (
            *desk.shown(m.SurvivorsConfirmed),
            walk.sign(m.SurvivorsConfirmed(desk.sent(m.ConfirmSurvivors, 1, 2, 3, 4))),
        ),
        EvidenceKind.ROSTER_FORK: (
            *desk.shown(m.Roster, m.RelayShares),
            walk.sign(m.Confirmed((*desk.sent(m.Confirm, 1, 2, 3, 4), confirm))),
        ),
        EvidenceKind.SURVIVOR_FORK: (
            *desk.shown(m.Roster, m.RelayShares, m.ProposeSurvivors),
            walk.sign(
                m.SurvivorsConfirmed((*desk.sent(m.ConfirmSurvivors, 1, 2, 3, 4), survivors))
            ),
        ),
        EvidenceKind.UPDATE_FORK: (
            *desk.shown(m.Release),
            walk.sign(m.UpdateVerified((*desk.sent(m.VerifyUpdate, 1, 2, 3, 4), update))),
        ),
        EvidenceKind.INVALID_RELAY: (
            walk.sign(m.Roster((*desk.sent(m.Advertise, 1, 2, 3, 4), forged))),
        ),
    }
    said = {
        EvidenceKind.REPEATED_STATEMENT: ("REPEATED_OPENING", "r4"),
        EvidenceKind.ROSTER_FORK: ("ROSTER_FORK", "r2"),
        EvidenceKind.SURVIVOR_FORK: ("SURVIVOR_FORK", "r4"),
        EvidenceKind.UPDATE_FORK: ("UPDATE_FORK", "r6"),
        EvidenceKind.INVALID_RELAY: ("INVALID_SIGNATURE", "r0"),
    }
    return desk.hand_over(kind, *lists[kind]), *said[kind]


@pytest.mark.parametrize("kind", list(EvidenceKind))
def test_a_proof_is_one_line_and_success(kind: EvidenceKind, desk: Desk) -> None:
    file, reason, round_name = proof(desk, kind)
    outcome = run_here("verify-evidence", file, "--plan", desk.plan_file)
    assert outcome.code == PROVEN, outcome
    assert not outcome.lines
    (line,) = outcome.out.splitlines()
    assert line.startswith(f"proven: aggregator (aggregator 0), {reason} by {kind}: ")
    session = desk.honest.context.session_id.hex()[:16]
    assert line.endswith(f"; session {session}, task 0, round {round_name}")
    assert "handed over" not in line


def test_a_verdict_as_json(desk: Desk) -> None:
    second = desk.honest.sign(m.Confirm(bytes(32)), sender=3)
    file = desk.hand_over(
        EvidenceKind.REPEATED_STATEMENT, *desk.sent(m.Confirm, 3), second, accused=3
    )
    outcome = run_here("verify-evidence", file, "--plan", desk.plan_file, "--json")
    assert json.loads(outcome.ok()) == {
        "kind": "repeated-statement",
        "accused": {"id": 3, "name": "party-3"},
        "plan": format_digest(desk.honest.federation.plan.digest),
        "session": desk.honest.context.session_id.hex(),
        "task": 0,
        "round": "r2",
        "reason": "ROSTER_FORK",
        "detail": "two different Confirm were signed where one is allowed",
    }


@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_not_proven_says_why_and_fails(as_json: bool, desk: Desk) -> None:
    file = desk.hand_over(EvidenceKind.UPDATE_FORK, *desk.shown(m.Release, m.UpdateVerified))
    options = ["--json"] if as_json else []
    outcome = run_here("verify-evidence", file, "--plan", desk.plan_file, *options)
    assert (outcome.code, outcome.out) == (NOT_PROVEN, "")
    (line,) = outcome.lines
    assert line == "error: UpdateVerified relays no statement of another update or sum"


def test_a_forged_accusation_fails(desk: Desk) -> None:
    forged = desk.honest.sign(m.Release(bytes(32), 1, bytes(32)), sender=0, key=2)
    file = desk.hand_over(EvidenceKind.REPEATED_STATEMENT, *desk.shown(m.Release), forged)
    outcome = run_here("verify-evidence", file, "--plan", desk.plan_file)
    assert outcome.code == NOT_PROVEN
    assert "Release is not signed by aggregator" in outcome.err


def test_another_plan_and_another_file_are_no_use(desk: Desk, tmp_path: Path) -> None:
    file, _, _ = proof(desk, EvidenceKind.ROSTER_FORK)
    other = tmp_path / "other.toml"
    other.write_text(build_federation(5, capacity=40).plan.to_toml())
    for arguments, said in (
        ((file, "--plan", other), "another plan"),
        ((desk.plan_file, "--plan", desk.plan_file), "not collabedit-evidence/1"),
        ((tmp_path / "gone.json", "--plan", desk.plan_file), "cannot be read"),
        ((tmp_path, "--plan", desk.plan_file), "cannot be read"),
    ):
        outcome = run_here("verify-evidence", *arguments)
        assert (outcome.code, outcome.out) == (UNUSABLE, ""), outcome
        (line,) = outcome.lines
        assert line.startswith("error: ")
        assert said in line
        assert str(arguments[0]) in line


def test_the_plan_that_judges_is_the_readers_own(desk: Desk, tmp_path: Path) -> None:
    # Whoever accuses with keys of its own making needs a plan of its own, too, which nobody has.
    keys = desk.honest.federation.identities
    stranger = replace(desk.honest.federation, identities={**keys, AGGREGATOR: keys[PartyId(2)]})
    walk = Walk(stranger, desk.honest.context)
    pair = [walk.sign(m.Release(bytes([n]) * 32, 1, bytes(32))) for n in (1, 2)]
    file = desk.hand_over(EvidenceKind.REPEATED_STATEMENT, *pair)
    assert run_here("verify-evidence", file, "--plan", desk.plan_file).code == NOT_PROVEN
