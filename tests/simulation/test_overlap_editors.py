"""Duplicates through the whole protocol on a real model equal editing the union once."""

from pathlib import Path

import pytest

from collabedit.demo.methods import Share, edit_alone, relative_errors
from collabedit.exchange import contribution_vector
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party.editing.targets import Targets
from collabedit.party.items import edit_items
from collabedit.plan import EditorName, Plan
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

    def contribute(party: PartyId, task: TaskIndex) -> Matrix:
        return contribution_vector(plan, task, editors[party].statistics(plan.tasks[task]))

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
