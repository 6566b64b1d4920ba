"""Replay: refused by name of every message, and taken where the binding to the session is off."""

from pathlib import Path

import pytest

from collabedit.attacks.attack import Prior
from collabedit.attacks.claims import Attempts
from collabedit.attacks.replay import Replay
from collabedit.attacks.scoring import score
from collabedit.attacks.truth import Truth
from collabedit.crypto.rng import Randomness
from collabedit.ids import PartyId
from collabedit.proto import messages as m
from tests.support.federations import TestFederation, build_federation
from tests.support.randomness import InsecureTestRandomness
from tests.support.stages import stage_of

STATEMENTS = {"Advertise", "ShareKeys", "Confirm", "Contribute", "ConfirmSurvivors", "VerifyUpdate"}
UPLOADS = {
    "upload in the place of the later one",
    "earlier upload added to the later sum",
    "earlier upload summed in the place of the later one",
}
FEDERATIONS = {
    "open": lambda: build_federation(4),
    "closed": lambda: build_federation(4, closed="check_columns = 3\nmin_edits = 5"),
    "dense": lambda: build_federation(3, statistics='"dense"'),
}


def run(federation: TestFederation, directory: Path, **changes: object) -> Attempts:
    return Replay().run(stage_of(federation, directory, **changes), Prior({}))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", FEDERATIONS)
def test_nothing_of_an_earlier_session_is_taken(kind: str, tmp_path: Path) -> None:
    claim = run(FEDERATIONS[kind](), tmp_path)
    outcomes = {each.label: each.outcome for each in claim.attempts}
    relayed = {f"{name} relayed again" for name in STATEMENTS}
    handed_in = {f"{name} handed in again" for name in (*STATEMENTS, "Unmask")}
    assert outcomes.keys() == relayed | handed_in | UPLOADS
    for label in relayed | handed_in:
        assert outcomes[label] == "MALFORMED_MESSAGE" or outcomes[label] == "MalformedMessageError"
    assert "DIGEST_MISMATCH" in outcomes["upload in the place of the later one"]
    (figure,) = score(claim, Truth(0, {}))
    assert (figure.name, figure.value, figure.trials) == ("success", 0.0, len(outcomes))


def test_without_a_binding_to_the_session_statements_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: keys are fresh, but signatures of other sessions count."""

    def same_plan(one: m.Context, other: object) -> bool:
        return isinstance(other, m.Context) and one.plan_digest == other.plan_digest

    monkeypatch.setattr(m.Context, "__eq__", same_plan)
    outcomes = {each.label: each for each in run(build_federation(4), tmp_path).attempts}
    # The keys of another session go into a roster, and an upload is signed for.
    for taken in ("Advertise relayed again", "Contribute relayed again"):
        assert outcomes[taken].succeeded, outcomes[taken]
    # What confirms a transcript has its digest in it, and masks are of other keys.
    assert outcomes["Confirm relayed again"].outcome == "ROSTER_FORK"
    for label in UPLOADS:
        assert not outcomes[label].succeeded


def test_without_anything_fresh_a_party_is_counted_twice(tmp_path: Path) -> None:
    """Control: session id and keys come out the same again, so there is nothing to bind to."""

    def repeated(play: int, end: PartyId) -> Randomness:
        del play
        return InsecureTestRandomness(end)

    federation = build_federation(4)
    outcomes = {
        each.label: each for each in run(federation, tmp_path, randomness=repeated).attempts
    }
    for label in ("Unmask handed in again", "upload in the place of the later one"):
        assert outcomes[label].succeeded, outcomes[label]
    assert outcomes["earlier upload summed in the place of the later one"].outcome == "opened"
