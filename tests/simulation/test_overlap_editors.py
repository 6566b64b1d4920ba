"""Duplicates through the whole protocol on a real model equal editing the union once."""

from dataclasses import replace
from pathlib import Path

import pytest

from collabedit.demo.methods import Share, edit_alone, relative_errors
from collabedit.editing import EditorName
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party.editing.editor import target_settings
from collabedit.party.editing.targets import Targets, compute_targets
from collabedit.party.edits import Edit
from collabedit.party.items import edit_items, paraphrase_requests
from collabedit.plan import Plan
from collabedit.simulation import Simulation
from collabedit.sketch import Matrix
from tests.support.editors import TinyFederation, tiny_federation
from tests.support.overlaps import with_overlap
from tests.support.randomness import InsecureTestRandomness

HELD = {1: [0, 1, 2], 2: [2, 3, 1], 3: [2, 4, 5]}
"""Which facts of the trustee each party holds: fact 2 three times, fact 1 twice."""


def take(everything: Share, indices: list[int]) -> Share:
    targets = everything.targets
    values = targets.values[:, indices]
    return Share(
        [everything.edits[index] for index in indices],
        Targets(values, targets.edits_digest, targets.settings_digest),
    )


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> TinyFederation:
    made = tiny_federation(tmp_path_factory.mktemp("tiny"), layers=(1, 2))
    for party, indices in HELD.items():
        made.shares[PartyId(party)] = take(made.everything, indices)
    return made


def run(federation: TinyFederation, plan: Plan, directory: Path) -> dict[int, Matrix]:
    editors = federation.editors(plan)
    simulation = Simulation(
        plan,
        identities=federation.identities,
        directory=directory,
        randomness={end: InsecureTestRandomness(end) for end in (AGGREGATOR, *plan.party_ids)},
    )

    def contribute(party: PartyId, task: TaskIndex) -> list[tuple[Matrix, Matrix]]:
        return editors[party].statistics(plan.tasks[task])

    outcome = simulation.run(
        contribute,
        lambda party, _task, updates: editors[party].apply(updates),
        items={party: edit_items(editor.edits) for party, editor in editors.items()},
        weigh=lambda party, decisions: editors[party].weigh(decisions),
    )
    assert outcome.aborted is None
    updates = {layer: update.dense() for layer, update in editors[PartyId(1)].updates.items()}
    for editor in editors.values():
        editor.rollback()
    return {int(layer): update for layer, update in updates.items()}


@pytest.mark.parametrize("editor", ["memit", "alphaedit", "emmet"])
def test_duplicates_weigh_exactly_once(
    editor: EditorName, federation: TinyFederation, tmp_path: Path
) -> None:
    plain = federation.plan(editor)
    once = take(federation.everything, [0, 1, 2, 3, 4, 5])
    want = edit_alone(plain, federation.central, federation.moments(plain), [once])
    got = run(federation, with_overlap(plain), tmp_path / "counted")
    assert max(relative_errors(got, want).values()) < 1e-8
    uncounted = run(federation, plain, tmp_path / "uncounted")
    if editor != "emmet":
        # Without counting, shared facts pull more than once. Constraints hold however often.
        assert min(relative_errors(uncounted, want).values()) > 1e-4


def test_a_majority_adds_its_paraphrases_with_the_weight_of_their_edit(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Parties 1 and 2 want one object, party 3 another: the union has both, and two paraphrases."""
    federation = tiny_federation(tmp_path_factory.mktemp("augment"), layers=(1, 2))
    everything = federation.everything
    first, second, *_ = everything.edits
    asked = (f"Say of {first.subject}:", f"What {first.subject} is,", "What is it?")
    winner = replace(first, paraphrase_prompts=asked)
    loser = replace(first, target_new=second.target_new)
    assert first.target_new != second.target_new
    shares = {1: [winner], 2: [winner], 3: [loser, second]}
    everybodys = [winner, loser, second, *paraphrase_requests(winner)]
    assert len(everybodys) == 5

    def targets(edits: list[Edit]) -> Share:
        plan = federation.plan("memit")
        found = compute_targets(
            federation.central,
            edits,
            layer=2,
            templates=plan.editing.context_templates,
            settings=target_settings(plan.editing),
        )
        return Share(edits, found)

    for party, edits in shares.items():
        federation.shares[PartyId(party)] = targets(edits)
    plan = federation.plan("memit")
    parties = [party.model_copy(update={"max_edits": 3}) for party in plan.federation.parties]
    wide = plan.model_copy(
        update={
            "federation": plan.federation.model_copy(update={"parties": tuple(parties)}),
            "aggregation": plan.aggregation.model_copy(update={"capacity": 17}),
        }
    )
    got = run(federation, with_overlap(wide, "augment", paraphrases=2), tmp_path)
    once = targets(everybodys)
    want = edit_alone(wide, federation.central, federation.moments(wide), [once])
    assert max(relative_errors(got, want).values()) < 1e-8
