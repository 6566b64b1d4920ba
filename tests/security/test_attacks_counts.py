"""Numbers of edits from sizes, times and ranks: told where nothing hides them, at chance else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from collabedit.attacks.attack import Prior
from collabedit.attacks.counts import EDITS_IN_ALL, CountsByRank
from collabedit.attacks.network import CountsAndSizes, NetworkView, edits_of
from collabedit.attacks.scoring import score
from collabedit.attacks.truth import Truth
from collabedit.attacks.views import AggregatorView
from collabedit.exchange import plan_encoding
from collabedit.ids import PartyId, TaskIndex
from collabedit.recorder import Recorder
from collabedit.recording import Recording, Sighting
from collabedit.simulation import Outcome
from tests.support.federations import TestFederation, build_federation

FIRST = TaskIndex(0)
MOST = 8
COUNTS = {PartyId(1): 3, PartyId(2): 8, PartyId(3): 1, PartyId(4): 5}
NOTHING = Prior({})


def with_counts(counts: dict[PartyId, int], **changes: str) -> TestFederation:
    federation = build_federation(len(counts), edits_each=MOST, tile_bytes=512, **changes)  # type: ignore[arg-type]
    for (party, task), (keys, residuals) in federation.edits.items():
        count = counts[party]
        federation.edits[party, task] = keys[:, :count], residuals[:, :count]
    return federation


def truth_of(federation: TestFederation, counts: dict[PartyId, int]) -> Truth:
    quantities = {edits_of(federation.plan, party): n for party, n in counts.items()}
    quantities[EDITS_IN_ALL] = sum(counts.values())
    return Truth(0, {}, quantities=quantities)


def play(federation: TestFederation, directory: Path) -> Outcome:
    closed = federation.plan.closed is not None
    contribute = federation.statistics if closed else federation.contribute
    return federation.simulation(directory).run(contribute)


def unpadded(federation: TestFederation) -> dict[PartyId, int]:
    """What keys and residuals themselves would weigh."""
    return {
        party: keys.nbytes + residuals.nbytes
        for (party, _), (keys, residuals) in federation.edits.items()
    }


def test_sizes_are_the_same_whoever_edits_how_much(tmp_path: Path) -> None:
    federation = with_counts(COUNTS)
    view = NetworkView.of(federation.plan, play(federation, tmp_path / "one"))
    turned = {party: COUNTS[PartyId(5 - party)] for party in COUNTS}
    other = with_counts(turned)
    second = NetworkView.of(other.plan, play(other, tmp_path / "two"))
    # Every message of every party, not only the uploads.
    assert view == second
    claim = CountsAndSizes().run(view, NOTHING)
    assert set(claim.values.values()) == {MOST}
    (figure,) = score(claim, truth_of(federation, COUNTS))
    assert (figure.value, figure.chance) == (1 / len(COUNTS), 1 / MOST)
    assert figure.low < 1 / MOST < figure.high


def test_sizes_of_uploads_that_are_not_padded_tell_every_number(tmp_path: Path) -> None:
    federation = with_counts(COUNTS)
    view = NetworkView.of(federation.plan, play(federation, tmp_path))
    control = view.with_uploads(unpadded(federation))
    (figure,) = score(CountsAndSizes().run(control, NOTHING), truth_of(federation, COUNTS))
    assert figure.value == 1.0
    # Only the uploads were exchanged.
    assert len(view.sightings) > len(control.sightings) > 10 * len(COUNTS) - 10


def test_times_tell_what_sizes_hide(tmp_path: Path) -> None:
    # Not defended (docs/THREAT_MODEL.md, network): 40 ms for each edit before the first message.
    federation = with_counts(COUNTS)
    view = NetworkView.of(federation.plan, play(federation, tmp_path))
    begun = Sighting(PartyId(0), PartyId(1), 1, 0)
    late = [
        replace(each, at=each.at + 40 * COUNTS.get(each.sender, max(COUNTS.values())))
        for each in view.sightings
    ]
    slow = replace(view, sightings=(begun, *late))
    truth = truth_of(federation, COUNTS)
    (figure,) = score(CountsAndSizes(by="times").run(slow, NOTHING), truth)
    assert figure.value == 1.0
    # In a simulation nobody computes, and all begin at once.
    claim = CountsAndSizes(by="times").run(view, NOTHING)
    assert len(set(claim.values.values())) == 1


def test_the_view_of_a_recording_is_that_of_the_session(tmp_path: Path) -> None:
    federation = with_counts(COUNTS)
    with Recorder(tmp_path / "r", federation.plan, role="simulation") as recorder:
        simulation = federation.simulation(tmp_path, recorder=recorder)
        outcome = simulation.run(federation.contribute)
    with Recording(tmp_path / "r") as recording:
        view = NetworkView.of_recording(recording)
    assert view == NetworkView.of(federation.plan, outcome)
    assert view.parties == tuple(COUNTS)
    assert "Sighting" not in repr(view)


@pytest.mark.parametrize("statistics", ['"sketch"', '"dense"'])
def test_ranks_of_masked_uploads_are_at_chance_and_of_plain_ones_exact(
    statistics: str, tmp_path: Path
) -> None:
    federation = with_counts(COUNTS, statistics=statistics)
    view = AggregatorView.of(federation.plan, play(federation, tmp_path))
    truth = truth_of(federation, COUNTS)
    claim = CountsByRank().run(view, NOTHING)
    assert set(claim.values.values()) == {MOST}
    plain = {
        party: plan_encoding(federation.plan).encode(federation.contribute(party, FIRST))
        for party in COUNTS
    }
    (figure,) = score(CountsByRank().run(view.with_uploads({FIRST: plain}), NOTHING), truth)
    assert figure.value == 1.0


@pytest.mark.parametrize("closed", [None, "check_columns = 3\ncover_edits = 2\nmin_edits = 5"])
def test_the_sum_tells_the_number_of_all_edits_closed_or_not(
    closed: str | None, tmp_path: Path
) -> None:
    changes = {} if closed is None else {"closed": closed}
    federation = with_counts(COUNTS, capacity=str(4 * (MOST + 2) + 8), **changes)
    view = AggregatorView.of(federation.plan, play(federation, tmp_path))
    claim = CountsByRank(source="sum").run(view, NOTHING)
    (figure,) = score(claim, truth_of(federation, COUNTS))
    assert claim.values == {EDITS_IN_ALL: 17.0}
    assert figure.value == 1.0


@pytest.mark.parametrize("attack", [CountsAndSizes, CountsByRank])
def test_unknown_settings_are_refused(attack: type) -> None:
    name = {CountsAndSizes: "by", CountsByRank: "source"}[attack]
    with pytest.raises(ValueError, match="must be"):
        attack(**{name: "guess"})


def test_numbers_are_within_what_the_plan_allows(tmp_path: Path) -> None:
    federation = with_counts(COUNTS)
    view = NetworkView.of(federation.plan, play(federation, tmp_path))
    for size in (0, 1 << 30):
        claim = CountsAndSizes().run(view.with_uploads(dict.fromkeys(COUNTS, size)), NOTHING)
        assert set(claim.values.values()) <= set(np.arange(1.0, MOST + 1))
