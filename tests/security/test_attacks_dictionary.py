"""A dictionary of all true facts and many decoys against the tables of a counting task."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from collabedit.attacks.attack import Prior
from collabedit.attacks.claims import LackingError
from collabedit.attacks.dictionary import CountingView, TableLookup
from collabedit.attacks.metrics import Members, auc, tpr_at_fpr
from collabedit.attacks.registry import installed
from collabedit.attacks.scoring import score
from collabedit.attacks.truth import Truth
from collabedit.attacks.views import AggregatorView
from collabedit.crypto.kdf import derive_key, transcript_hash
from collabedit.crypto.ring import RingArray, add_into
from collabedit.errors import InputError
from collabedit.exchange import plan_encoding
from collabedit.ids import PartyId
from collabedit.party import states as s
from collabedit.party.counting import Counter
from collabedit.party.items import Item, edit_items
from collabedit.recorder import Recorder
from collabedit.recording import Recording
from collabedit.simulation import Faults, Outcome
from collabedit.threat_model import Adversary
from tests.support.federations import build_federation
from tests.support.overlaps import COUNTING, Overlapping, make_edit, overlapping

FACTS = {
    party: [f"subject{(7 * party + i) % 23} has value{i % 2}" for i in range(6)]
    for party in range(1, 6)
}
DECOYS = 200
DROPPED = PartyId(4)
PUBLIC = bytes(32)
"""A key that everybody knows: the first that the attack tries."""


@dataclass(frozen=True)
class Scene:
    """A counting task of five parties, one of which drops out in r3."""

    overlap: Overlapping
    outcome: Outcome
    view: CountingView
    group_secret: bytes
    directory: Path
    candidates: tuple[Item, ...]
    members: Members


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    directory = tmp_path_factory.mktemp("session")
    overlap = overlapping(FACTS)
    faults = Faults(crash_before={DROPPED: "r3"})
    simulation = overlap.federation.simulation(directory, faults=faults)
    secrets: set[bytes] = set()

    def weigh(party: PartyId, decisions: object) -> None:
        del decisions
        state = simulation._parties[party].state
        assert isinstance(state, s.Completed)
        assert state.group_secret is not None
        secrets.add(state.group_secret)

    outcome = simulation.run(overlap.contribute, items=overlap.items, weigh=weigh)
    (group_secret,) = secrets
    survivors = outcome.records[0].survivors
    true = {fact for party in survivors for fact in overlap.facts[party]}
    facts = [*sorted(true), *(f"decoy{i} has value{i % 2}" for i in range(DECOYS))]
    return Scene(
        overlap,
        outcome,
        CountingView.of_aggregator(overlap.plan, outcome),
        group_secret,
        directory,
        edit_items([make_edit(fact) for fact in facts]),
        np.array([fact in true for fact in facts]),
    )


def plain_total(scene: Scene, counter: Counter) -> RingArray:
    """The tables of the survivors without a pad."""
    ring = plan_encoding(scene.overlap.plan).ring
    total: RingArray = np.zeros(scene.overlap.plan.task_length(COUNTING), dtype=ring.dtype)
    for party in scene.view.survivors:
        own = [(item.topic, item.fact) for item in scene.overlap.items[party]]
        add_into(total, counter.encode(own))
    return total


def succeeds(scene: Scene, view: CountingView) -> bool:
    scores = TableLookup().look_up(view, scene.candidates).scores[0]
    found = tpr_at_fpr(scores, scene.members, 0.0)
    return found.value == 1.0 and auc(scores, scene.members).value == 1.0


def test_the_aggregator_learns_nothing_from_all_that_it_has(scene: Scene) -> None:
    # Public keys, commitments, digests, transcripts, roots, seeds and keys that it reconstructed.
    assert len(scene.view.secrets) > 50
    assert PUBLIC in scene.view.secrets
    scores = TableLookup().look_up(scene.view, scene.candidates).scores[0]
    figure = auc(scores, scene.members)
    assert figure.value == 0.5
    assert figure.is_chance
    assert tpr_at_fpr(scores, scene.members, 0.01).value == 0


def test_the_aggregator_really_has_the_other_secrets_of_the_task(scene: Scene) -> None:
    """The dropped party's mask key opens its masks, and still says nothing of where facts count."""
    survivors = scene.view.survivors
    assert DROPPED not in survivors
    assert len(survivors) == 4
    assert scene.group_secret not in scene.view.secrets


def test_no_digest_of_a_fact_is_anywhere_at_the_aggregator(scene: Scene) -> None:
    seen = b"".join(delivery.data for delivery in scene.outcome.transcript)
    seen += b"".join(path.read_bytes() for path in scene.directory.rglob("*") if path.is_file())
    assert len(seen) > 30_000
    for item in scene.candidates:
        for digest in (item.topic, item.fact):
            assert digest not in seen
            assert digest.hex().encode() not in seen
            for secret in scene.view.secrets:
                assert derive_key(secret, label="count-cell", context=digest) not in seen
                assert transcript_hash("fact", secret, digest) not in seen


def test_with_a_public_key_and_no_pads_the_same_attack_finds_every_fact(scene: Scene) -> None:
    counter = Counter(scene.overlap.plan, scene.view.context, PUBLIC)
    assert succeeds(scene, scene.view.with_total(plain_total(scene, counter)))


def test_with_the_real_key_and_no_pads_it_depends_on_the_key(scene: Scene) -> None:
    """Each defence holds alone: without pads the aggregator sees counts, and not of what."""
    counter = Counter(scene.overlap.plan, scene.view.context, scene.group_secret)
    unpadded = scene.view.with_total(plain_total(scene, counter))
    scores = TableLookup().look_up(unpadded, scene.candidates).scores[0]
    # Any place of a small table may hold a count, so this guesses, and is wrong about decoys, too.
    assert auc(scores, scene.members).value < 0.7
    assert succeeds(scene, unpadded.with_secret(scene.group_secret))


def test_a_curious_party_finds_every_fact(scene: Scene) -> None:
    """Not defended: it has the group secret, and the released tables (THREAT_MODEL)."""
    assert succeeds(scene, scene.view.with_secret(scene.group_secret))


def test_a_party_and_the_aggregator_together_do_not_read_one_upload(scene: Scene) -> None:
    """They have the sum; one party's tables stay under its self mask and pairwise masks."""
    for party, upload in (
        AggregatorView.of(scene.overlap.plan, scene.outcome).uploads[COUNTING].items()
    ):
        mine = replace(scene.view, survivors=frozenset({party})).with_total(upload)
        scores = TableLookup(Adversary.COLLUDING).look_up(
            mine.with_secret(scene.group_secret), scene.candidates
        )
        assert auc(scores.scores[0], scene.members).value == 0.5


def guesses(scene: Scene) -> tuple[Prior, Truth]:
    """Subjects, some of them edited; the two things that are said of any of them."""
    survivors = scene.view.survivors
    edited = {
        party: {fact.split()[0] for fact in scene.overlap.facts[party]} for party in survivors
    }
    subjects = (*sorted(set().union(*edited.values())), *(f"decoy{i}" for i in range(20)))
    prior = Prior({}, subjects=subjects, prompts=("{} has",), objects=("value0", "value1"))
    members = {
        party: tuple(i for i, subject in enumerate(subjects) if subject in own)
        for party, own in edited.items()
    }
    return prior, Truth(len(subjects), members)


def test_facts_are_put_together_from_subjects_prompts_and_objects(scene: Scene) -> None:
    prior, truth = guesses(scene)
    attack = installed()["table-lookup"].create({}, seed=0)
    blind = score(attack.run(scene.view, prior), truth)
    assert (blind[0].name, blind[0].value) == ("auc", 0.5)
    curious = score(attack.run(scene.view.with_secret(scene.group_secret), prior), truth)
    assert curious[0].value == 1.0
    # Objects that nobody put there find nothing, whoever asks.
    wrong = replace(prior, objects=("value7",))
    lost = score(attack.run(scene.view.with_secret(scene.group_secret), wrong), truth)
    assert lost[0].value == 0.5


@pytest.mark.parametrize("missing", ["subjects", "prompts", "objects"])
def test_a_dictionary_without_words_says_what_is_missing(missing: str, scene: Scene) -> None:
    prior, _ = guesses(scene)
    with pytest.raises(LackingError, match=missing):
        TableLookup().run(scene.view, replace(prior, **{missing: ()}))  # type: ignore[arg-type]


def test_the_view_of_a_recording_is_that_of_the_session(tmp_path: Path) -> None:
    overlap = overlapping({party: FACTS[party] for party in (1, 2, 3)})
    with Recorder(tmp_path / "r", overlap.plan, role="simulation") as recorder:
        simulation = overlap.federation.simulation(tmp_path / "s", recorder=recorder)
        outcome = simulation.run(overlap.contribute, items=overlap.items)
    expected = CountingView.of_aggregator(overlap.plan, outcome)
    with Recording(tmp_path / "r") as recording:
        found = CountingView.of_recording(recording)
    np.testing.assert_array_equal(found.total, expected.total)
    assert (found.context, found.survivors) == (expected.context, expected.survivors)
    assert found.secrets == expected.secrets


def test_a_recording_without_tables_is_refused(tmp_path: Path) -> None:
    federation = build_federation(3)
    with Recorder(tmp_path / "r", federation.plan, role="simulation") as recorder:
        federation.simulation(tmp_path / "s", recorder=recorder).run(federation.contribute)
    with Recording(tmp_path / "r") as recording, pytest.raises(InputError, match="no tables"):
        CountingView.of_recording(recording)
