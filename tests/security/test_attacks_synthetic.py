"""Each attack on transcripts of the real machines: it succeeds where it must, and only there.

The undefended control is the same session with the parties' vectors before masking.
"""

from pathlib import Path

import numpy as np
import pytest

from collabedit.attacks.attack import Attack, Prior
from collabedit.attacks.attribution import Attribution, best_parties
from collabedit.attacks.differencing import (
    Collusion,
    Differencing,
    subtract_own,
    subtract_sessions,
)
from collabedit.attacks.metrics import auc, proportion, recall_at, tpr_at_fpr
from collabedit.attacks.span import SumSpan, UpdateSpan, UploadSpan
from collabedit.attacks.views import AggregatorView, ColludingView, RecipientView, SessionPair
from collabedit.crypto.ring import RingArray
from collabedit.exchange import plan_encoding
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.simulation import Faults, Outcome
from collabedit.threat_model import Adversary
from tests.support.federations import EDITS_EACH, MAPPED, TestFederation, build_federation

FIRST = TaskIndex(0)
LAYER = LayerIndex(0)
OTHERS = 400


def encoded(federation: TestFederation, party: PartyId, task: TaskIndex = FIRST) -> RingArray:
    return plan_encoding(federation.plan).encode(federation.contribute(party, task))


def prior_of(federation: TestFederation, task: TaskIndex = FIRST) -> tuple[Prior, np.ndarray]:
    """Every party's keys in a crowd of others; whose each candidate is, 0 for nobody's."""
    rng = np.random.default_rng(77)
    columns = [federation.edits[party, task][0] for party in federation.plan.party_ids]
    owners = [party for party in federation.plan.party_ids for _ in range(EDITS_EACH)]
    crowd = 0.4 * rng.normal(size=(MAPPED, OTHERS))
    keys = np.concatenate([*columns, crowd], axis=1)
    labels = np.array([*owners, *[0] * OTHERS])
    order = rng.permutation(len(labels))
    return Prior({LayerIndex(task): keys[:, order]}), labels[order]


def play(
    federation: TestFederation, directory: Path, *, seed: int = 0, faults: Faults | None = None
) -> Outcome:
    outcome = federation.simulation(directory, seed=seed, faults=faults).run(federation.contribute)
    assert outcome.sums
    return outcome


@pytest.fixture(scope="module")
def federation() -> TestFederation:
    return build_federation(5)


@pytest.fixture(scope="module")
def outcome(federation: TestFederation, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return play(federation, tmp_path_factory.mktemp("session"))


@pytest.fixture(scope="module")
def view(federation: TestFederation, outcome: Outcome) -> AggregatorView:
    return AggregatorView.of(federation.plan, outcome)


@pytest.fixture(scope="module")
def unmasked(federation: TestFederation, view: AggregatorView) -> AggregatorView:
    plain = {party: encoded(federation, party) for party in federation.plan.party_ids}
    return view.with_uploads({FIRST: plain})


def test_the_opened_sum_tells_what_was_edited(
    federation: TestFederation, view: AggregatorView
) -> None:
    # Secure summation hides who, not what (docs/THREAT_MODEL.md, honest aggregator).
    prior, owners = prior_of(federation)
    scores = SumSpan().run(view, prior).scores[0]
    members = owners > 0
    assert recall_at(scores, members, int(members.sum())).value == 1.0
    assert auc(scores, members).value == 1.0
    assert tpr_at_fpr(scores, members, 0.001).value == 1.0
    assert scores[members].min() > 1 - 1e-6


def test_the_dense_sum_tells_the_same(tmp_path: Path) -> None:
    federation = build_federation(3, statistics='"dense"')
    dense = AggregatorView.of(federation.plan, play(federation, tmp_path))
    prior, owners = prior_of(federation)
    assert auc(SumSpan().run(dense, prior).scores[0], owners > 0).value == 1.0


def test_the_released_update_tells_what_was_edited(
    federation: TestFederation, outcome: Outcome
) -> None:
    prior, owners = prior_of(federation)
    view = RecipientView.of(federation.plan, outcome)
    scores = UpdateSpan().run(view, prior).scores[0]
    assert auc(scores, owners > 0).value == 1.0


def test_an_update_of_more_edits_than_outputs_tells_less(tmp_path: Path) -> None:
    # 30 edits on 20 outputs: the update's row space is a part of the keys' span only. The opened
    # sum goes on to tell everything.
    federation = build_federation(10)
    outcome = play(federation, tmp_path)
    prior, owners = prior_of(federation)
    update = UpdateSpan().run(RecipientView.of(federation.plan, outcome), prior).scores[0]
    total = SumSpan().run(AggregatorView.of(federation.plan, outcome), prior).scores[0]
    assert update[owners > 0].max() < 0.999
    assert auc(total, owners > 0).value == 1.0


def test_one_unmasked_contribution_tells_whose_edits_it_holds(
    federation: TestFederation, unmasked: AggregatorView
) -> None:
    prior, owners = prior_of(federation)
    finding = UploadSpan().run(unmasked, prior)
    for party, scores in zip(finding.about, finding.scores, strict=True):
        assert auc(scores, owners == party).value == 1.0
        assert recall_at(scores, owners == party, EDITS_EACH).value == 1.0


def test_one_masked_upload_tells_nothing(tmp_path: Path) -> None:
    # An AUC of 3 members and 412 others has a standard deviation of 0.167 under chance; the mean
    # over 40 uploads of 8 sessions 0.026.
    federation = build_federation(5)
    prior, owners = prior_of(federation)
    values, recalled = [], 0
    for seed in range(8):
        view = AggregatorView.of(federation.plan, play(federation, tmp_path / str(seed), seed=seed))
        finding = UploadSpan().run(view, prior)
        for party, scores in zip(finding.about, finding.scores, strict=True):
            values.append(auc(scores, owners == party).value)
            recalled += round(EDITS_EACH * recall_at(scores, owners == party, EDITS_EACH).value)
    assert abs(float(np.mean(values)) - 0.5) < 0.1
    found = proportion(recalled, 40 * EDITS_EACH, chance=EDITS_EACH / len(owners))
    assert found.is_chance


@pytest.fixture(scope="module")
def sums(
    tmp_path_factory: pytest.TempPathFactory,
) -> list[tuple[TestFederation, AggregatorView]]:
    """Four sessions of 40 secure sums each, every sum with fresh masks."""
    played = []
    for seed in range(4):
        federation = build_federation(5, layers=40, seed=seed)
        outcome = play(federation, tmp_path_factory.mktemp("sums"), seed=seed)
        played.append((federation, AggregatorView.of(federation.plan, outcome)))
    return played


def without_masks(federation: TestFederation, view: AggregatorView) -> AggregatorView:
    return view.with_uploads(
        {
            task: {party: encoded(federation, party, task) for party in uploads}
            for task, uploads in view.uploads.items()
        }
    )


def attribute(views: list[tuple[TestFederation, AggregatorView]]) -> tuple[int, int]:
    """Attribute one known edit in each secure sum; its owner changes from sum to sum."""
    right = count = 0
    for federation, view in views:
        for task in view.uploads:
            owner = PartyId(1 + count % 5)
            known = federation.edits[owner, task][0][:, :1]
            layer = LayerIndex(task)
            finding = Attribution(layer).run(view, Prior({layer: known}))
            right += best_parties(finding) == (owner,)
            count += 1
    return right, count


def test_attribution_is_certain_without_masks(
    sums: list[tuple[TestFederation, AggregatorView]],
) -> None:
    right, count = attribute([(f, without_masks(f, view)) for f, view in sums])
    assert right == count == 160


def test_attribution_is_chance_under_masks(
    sums: list[tuple[TestFederation, AggregatorView]],
) -> None:
    right, count = attribute(sums)
    accuracy = proportion(right, count, chance=1 / 5)
    assert accuracy.is_chance
    assert accuracy.high < 0.35


def test_two_sessions_that_differ_by_one_party_give_its_contribution(tmp_path: Path) -> None:
    federation = build_federation(5)
    plan = federation.plan
    everybody = AggregatorView.of(plan, play(federation, tmp_path / "a", seed=1))
    faults = Faults(crash_before={PartyId(2): "r3"})
    without = AggregatorView.of(plan, play(federation, tmp_path / "b", seed=2, faults=faults))
    for pair in (SessionPair(everybody, without), SessionPair(without, everybody)):
        remainder = subtract_sessions(pair, FIRST)
        assert remainder.parties == {2}
        np.testing.assert_array_equal(remainder.vector, encoded(federation, PartyId(2)))
    prior, owners = prior_of(federation)
    finding = Differencing().run(SessionPair(everybody, without), prior)
    assert finding.about == (2,)
    assert auc(finding.scores[0], owners == 2).value == 1.0


def test_a_failed_session_counts_as_the_first_of_two(tmp_path: Path) -> None:
    # No malice needed: the sum was opened, the session ended below the threshold in r6, and was
    # repeated with one party less.
    federation = build_federation(5)
    plan = federation.plan
    late = Faults(crash_before={PartyId(1): "r6", PartyId(4): "r6"})
    failed = play(federation, tmp_path / "a", seed=1, faults=late)
    assert failed.aborted is not None
    faults = Faults(crash_before={PartyId(3): "r0"})
    repeated = play(federation, tmp_path / "b", seed=2, faults=faults)
    pair = SessionPair(AggregatorView.of(plan, failed), AggregatorView.of(plan, repeated))
    remainder = subtract_sessions(pair, FIRST)
    assert remainder.parties == {3}
    np.testing.assert_array_equal(remainder.vector, encoded(federation, PartyId(3)))


def test_differencing_refuses_what_is_no_difference(tmp_path: Path) -> None:
    federation = build_federation(5)
    views = []
    for number, party in enumerate((2, 3)):
        faults = Faults(crash_before={PartyId(party): "r3"})
        directory = tmp_path / str(number)
        views.append(AggregatorView.of(federation.plan, play(federation, directory, faults=faults)))
    for pair in (SessionPair(*views), SessionPair(views[0], views[0])):
        with pytest.raises(ValueError, match="proper part"):
            subtract_sessions(pair, FIRST)
    other = build_federation(4)
    foreign = AggregatorView.of(other.plan, play(other, tmp_path / "other"))
    with pytest.raises(ValueError, match="different plans"):
        subtract_sessions(SessionPair(views[0], foreign), FIRST)


def colluding(federation: TestFederation, view: AggregatorView, *parties: int) -> ColludingView:
    own = {PartyId(party): encoded(federation, PartyId(party)) for party in parties}
    return ColludingView(view, {FIRST: own})


def test_all_but_one_party_and_the_aggregator_open_the_last_one(
    federation: TestFederation, view: AggregatorView
) -> None:
    together = colluding(federation, view, 1, 2, 4, 5)
    remainder = subtract_own(together, FIRST)
    assert remainder.parties == {3}
    np.testing.assert_array_equal(remainder.vector, encoded(federation, PartyId(3)))
    prior, owners = prior_of(federation)
    finding = Collusion().run(together, prior)
    assert finding.about == (3,)
    assert auc(finding.scores[0], owners == 3).value == 1.0


def test_with_two_honest_parties_left_only_their_sum_opens(
    federation: TestFederation, view: AggregatorView
) -> None:
    together = colluding(federation, view, 1, 2, 4)
    remainder = subtract_own(together, FIRST)
    assert remainder.parties == {3, 5}
    for party in (3, 5):
        assert not np.array_equal(remainder.vector, encoded(federation, PartyId(party)))
    prior, owners = prior_of(federation)
    finding = Collusion().run(together, prior)
    scores = finding.scores[0]
    assert finding.about == (None,)
    # What the two edited is in the open, which of them did is not: both fit equally well.
    assert auc(scores, np.isin(owners, (3, 5))).value == 1.0
    gap = scores[owners == 3].mean() - scores[owners == 5].mean()
    assert abs(gap) < 1e-6


def test_colluders_gain_nothing_on_a_single_masked_upload(
    federation: TestFederation, view: AggregatorView
) -> None:
    # Their own vectors are no help against another's masks.
    upload = view.uploads[FIRST][PartyId(3)]
    for party in (1, 2, 4, 5):
        assert not np.array_equal(upload - encoded(federation, PartyId(party)), view.sums[FIRST])
    prior, owners = prior_of(federation)
    scores = UploadSpan().run(view, prior).scores[2]
    assert auc(scores, owners == 3).is_chance


def test_every_attack_names_its_adversary() -> None:
    attacks: list[Attack[AggregatorView]] = [SumSpan(), UploadSpan(), Attribution()]
    assert {attack.adversary for attack in attacks} == {Adversary.HONEST_AGGREGATOR}
    pair: Attack[SessionPair] = Differencing()
    together: Attack[ColludingView] = Collusion()
    recipient: Attack[RecipientView] = UpdateSpan()
    assert pair.adversary is Adversary.HONEST_AGGREGATOR
    assert together.adversary is Adversary.COLLUDING
    assert recipient.adversary is Adversary.RECIPIENT
