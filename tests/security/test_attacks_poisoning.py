"""Poisoning: what the bounds let through succeeds, and is said to; what they do not is refused."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from collabedit.acceptance import Vote
from collabedit.attacks.attack import Prior
from collabedit.attacks.claims import Attempt
from collabedit.attacks.poisoning import ADDITIONS, EXCESSES, SUPPRESSIONS, Poisoning
from collabedit.attacks.stage import Voting
from collabedit.bounds import EnergyLimits
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.plan import Plan
from collabedit.sketch import LowRankUpdate
from tests.support.federations import TestFederation, build_federation
from tests.support.stages import stage_of

CLOSED = "check_columns = 3\nmin_edits = 3"
# About twice of what honest edits have: the caps of a plan that means them.
CAPS = {"key_energy": 20.0, "residual_energy": 400.0}


def attempts(
    federation: TestFederation, directory: Path, vote: Voting | None = None
) -> dict[str, Attempt]:
    claim = Poisoning().run(stage_of(federation, directory, vote=vote), Prior({}))
    return {each.label: each for each in claim.attempts}


def build(**changes: object) -> TestFederation:
    return build_federation(4, **{**CAPS, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"closed": CLOSED},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"statistics": '"dense"'}, marks=pytest.mark.slow),
    ],
)
def test_within_the_bounds_a_party_suppresses_and_adds_and_no_more(
    changes: dict[str, object], tmp_path: Path
) -> None:
    found = attempts(build(**changes), tmp_path)
    assert len(found) == 2 * len({**SUPPRESSIONS, **ADDITIONS, **EXCESSES})
    # Not defended (docs/THREAT_MODEL.md, party): a contribution cannot be looked at.
    for label in (*SUPPRESSIONS, *ADDITIONS):
        for how in ("within the bounds", "without checks"):
            assert found[f"{label}, {how}"].succeeded, found[f"{label}, {how}"]
    for label in EXCESSES:
        own = found[f"{label}, within the bounds"]
        assert not own.succeeded
        assert own.outcome.endswith("of its own software")
        # Software that checks nothing: the sum is refused, and nothing is released.
        assert found[f"{label}, without checks"].outcome == "BOUNDS_EXCEEDED"


def test_without_bounds_a_blow_up_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the sums would take it, it is the caps that do not."""
    nothing = EnergyLimits(1e12, 1e12)
    monkeypatch.setattr(Plan, "summed_limits", lambda _plan, _parties: nothing)
    monkeypatch.setattr(Plan, "energy_limits", lambda _plan, _parties: nothing)
    found = attempts(build(), tmp_path)
    for label in ("blow up by a huge key", "blow up by many times the edits allowed"):
        attempt = found[f"{label}, without checks"]
        assert attempt.succeeded
        assert attempt.outcome.startswith("released")


def holding(federation: TestFederation) -> Voting:
    """A vote on one's own edits: three of four must get at least half of their residual."""

    def vote(party: PartyId, updates: Mapping[LayerIndex, LowRankUpdate]) -> Vote:
        if party == Poisoning().poisoner:
            return Vote.ACCEPT
        keys, residuals = federation.edits[party, TaskIndex(0)]
        moved = updates[LayerIndex(0)].dense() @ keys
        held = (moved * residuals).sum(axis=0) / (residuals**2).sum(axis=0) >= 0.5
        return Vote.ACCEPT if held.mean() >= 0.75 else Vote.OWN_EDITS

    return vote


@pytest.mark.parametrize(("votes", "stops"), [(4, True), (3, False)])
def test_a_vote_stops_suppression_if_the_victims_vote_counts(
    votes: int, stops: bool, tmp_path: Path
) -> None:
    federation = build(votes=votes)
    found = attempts(federation, tmp_path, holding(federation))
    for label in SUPPRESSIONS:
        attempt = found[f"{label}, within the bounds"]
        assert attempt.succeeded is not stops
        if stops:
            assert attempt.outcome == "UPDATE_REJECTED"
    # A fact that nobody else is about costs no vote.
    for label in ADDITIONS:
        assert found[f"{label}, within the bounds"].succeeded


@pytest.mark.slow
def test_caps_bound_how_much_one_key_weighs(tmp_path: Path) -> None:
    """Where caps are what honest edits need, long keys leave more of the victim's edit."""
    tight = build_federation(4, key_energy=12.0, residual_energy=400.0)
    for place, (keys, residuals) in tight.edits.items():
        lengths = np.linalg.norm(keys, axis=0)
        tight.edits[place] = keys * (np.sqrt(12.0) * 0.98 / lengths), residuals
    label = "suppress by long keys without a residual, within the bounds"
    shares = []
    for number, caps in enumerate((12.0, 1200.0)):
        federation = build_federation(4, key_energy=caps, residual_energy=400.0)
        federation.edits.update(tight.edits)
        outcome = attempts(federation, tmp_path / str(number))[label].outcome
        shares.append(int(outcome.partition("%")[0]))
    assert shares[0] > 5 * shares[1]
