"""Re-assertions: which facts are drawn, how long their residuals are, what they count as."""

import json
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from collabedit.errors import InputError, NumericError
from collabedit.ids import PartyId
from collabedit.memory import Memory
from collabedit.party.decisions import Decision
from collabedit.party.editing.editor import ModelEditor
from collabedit.party.editing.keys import current_outputs
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.reassertion import (
    Reassertions,
    Search,
    Wish,
    draw_facts,
    load_reassertions,
    make_reassertions,
    rescale,
    residual_lengths,
    search_directions,
)
from collabedit.party.editing.targets import Targets, TargetSettings, compute_targets
from collabedit.party.edits import Edit, edits_digest, load_true_facts
from tests.support.editors import TinyFederation, tiny_federation
from tests.support.known_facts import known_facts
from tests.support.randomness import InsecureTestRandomness

LAYER = 2
SETTINGS = TargetSettings(learning_rate=0.5, steps=4, clamp_factor=0.75, weight_decay=0.5)
KNOWN, UNKNOWN = 6, 4
Edits = tuple[Edit, ...]


@pytest.fixture
def pool(model: EditableModel, tmp_path: Path) -> Edits:
    """Facts that the model knows, then as many false ones about other subjects."""
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(known_facts(model, KNOWN + UNKNOWN)))
    facts = load_true_facts(path)
    wrong = tuple(replace(fact, target_new="Rome the eternal") for fact in facts[KNOWN:])
    return facts[:KNOWN] + wrong


def search_on(model: EditableModel, settings: TargetSettings = SETTINGS) -> Search:
    return Search(model, LAYER, ("{}", "It is so. {}"), settings)


def wish(pool: Edits, count: int, edits: Edits) -> Wish:
    return Wish(Path("facts.json"), pool, count, edits)


def test_only_facts_that_the_model_knows_are_drawn(
    model: EditableModel, pool: Edits, edits: Edits
) -> None:
    draws = [
        tuple(draw_facts(model, wish(pool, 3, edits), InsecureTestRandomness(seed)))
        for seed in range(8)
    ]
    assert all(len(set(draw)) == 3 and max(draw) < KNOWN for draw in draws)
    assert len(set(draws)) > 4
    assert sorted(draw_facts(model, wish(pool, KNOWN, edits), InsecureTestRandomness(0))) == list(
        range(KNOWN)
    )


def test_a_subject_is_used_once_and_never_that_of_an_own_edit(
    model: EditableModel, pool: Edits, edits: Edits
) -> None:
    twins = pool[:KNOWN] + tuple(replace(fact, case_id="twin") for fact in pool[:KNOWN])
    own = (replace(edits[0], subject=pool[0].subject.upper()), *edits[1:])
    places = draw_facts(model, wish(twins, KNOWN - 1, own), InsecureTestRandomness(0))
    assert {twins[place].subject for place in places} == {f.subject for f in pool[1:KNOWN]}
    with pytest.raises(InputError, match=r"facts.json: the model knows 5 of its 12 facts"):
        draw_facts(model, wish(twins, KNOWN, own), InsecureTestRandomness(0))


def test_residuals_get_lengths_of_edits_and_keep_their_directions(
    model: EditableModel, pool: Edits, edits: Edits
) -> None:
    facts, search = pool[:KNOWN], search_on(model)
    own = compute_targets(model, edits, layer=LAYER, templates=search.templates, settings=SETTINGS)
    lengths = residual_lengths(model, edits, own, LAYER)
    lengths[0] = 0.0
    found = search_directions(search, facts)
    scaled = rescale(
        model, facts, found, layer=LAYER, lengths=lengths, randomness=InsecureTestRandomness(2)
    )
    got = residual_lengths(model, facts, scaled, LAYER).tolist()
    allowed = lengths[1:].tolist()
    assert all(any(abs(one - other) < 1e-9 for other in allowed) for one in got)
    assert len({round(one, 6) for one in got}) > 1
    start = current_outputs(model, facts, LAYER)
    cosines = torch.nn.functional.cosine_similarity(
        scaled.values - start, found.values - start, dim=0
    )
    torch.testing.assert_close(cosines, torch.ones_like(cosines))


def test_a_fact_that_is_certain_already_still_has_a_direction(
    model: EditableModel, pool: Edits
) -> None:
    certain = search_on(model, replace(SETTINGS, stop_loss=1e9))
    found = search_directions(certain, pool[:KNOWN])
    assert float(residual_lengths(model, pool[:KNOWN], found, LAYER).min()) > 0.0


def test_no_direction_and_no_length_are_refused(model: EditableModel, pool: Edits) -> None:
    facts = pool[:2]
    still = search_directions(search_on(model, replace(SETTINGS, steps=1)), facts)
    lengths = torch.ones(1, dtype=torch.float64)
    randomness = InsecureTestRandomness(0)
    with pytest.raises(NumericError, match=rf"re-assertion {facts[0].case_id}: .* no direction"):
        rescale(model, facts, still, layer=LAYER, lengths=lengths, randomness=randomness)
    with pytest.raises(InputError, match="no edit changes anything"):
        rescale(model, facts, still, layer=LAYER, lengths=0 * lengths, randomness=randomness)


def test_what_was_made_is_private_and_comes_back_for_the_same_wish_only(
    model: EditableModel, pool: Edits, edits: Edits, tmp_path: Path
) -> None:
    path, search = tmp_path / "reassertions.safetensors", search_on(model)
    asked = wish(pool, 3, edits)
    lengths = torch.tensor([1.0, 2.0], dtype=torch.float64)
    made = make_reassertions(search, asked, lengths, path, InsecureTestRandomness(5))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert all(fact.subject.encode() not in path.read_bytes() for fact in pool)
    loaded = load_reassertions(path, search, asked)
    assert loaded.facts == made.facts
    torch.testing.assert_close(loaded.targets.values, made.targets.values, rtol=0, atol=0)
    assert loaded.targets.edits_digest == edits_digest(made.facts)
    for other in (wish(pool, 2, edits), wish(pool[1:], 3, edits), wish(pool, 3, edits[1:])):
        with pytest.raises(InputError, match="prepared from other facts or edits"):
            load_reassertions(path, search, other)
    with pytest.raises(InputError, match="under another model or settings"):
        load_reassertions(path, search_on(model, replace(SETTINGS, steps=5)), asked)


def test_subjects_of_past_edits_are_left_out(pool: Edits) -> None:
    facts = pool[:3]
    values = torch.arange(6.0).view(2, 3)
    made = Reassertions(facts, Targets(values, edits_digest(facts), ""))
    left = made.without_subjects_of([replace(facts[1], subject=facts[1].subject.upper())])
    assert left.facts == (facts[0], facts[2])
    assert left.targets.values.tolist() == [[0.0, 2.0], [3.0, 5.0]]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> TinyFederation:
    return tiny_federation(tmp_path_factory.mktemp("tiny"), layers=(1, 2))


def editor_of(federation: TinyFederation) -> ModelEditor:
    """Party 1 edits its first fact, remembers the second, and re-asserts the third."""
    plan = federation.plan("memit", memory=Memory(weight=2.0, max_edits=1))
    share = federation.shares[PartyId(1)]

    def columns(places: list[int]) -> Targets:
        chosen = [share.edits[place] for place in places]
        return replace(
            share.targets,
            values=share.targets.values[:, places],
            edits_digest=edits_digest(chosen),
        )

    return ModelEditor(
        plan,
        federation.models[PartyId(1)],
        share.edits[:1],
        columns([0]),
        federation.editors(plan)[PartyId(1)].maps,
        past=share.edits[1:2],
        reassertions=Reassertions((share.edits[2],), columns([2])),
    )


def test_a_re_assertion_is_a_column_like_an_edit_s_and_measures_nothing(
    federation: TinyFederation,
) -> None:
    editor = editor_of(federation)
    plan, share = editor.plan, federation.shares[PartyId(1)]
    everything = federation.editors(plan)[PartyId(1)]
    ((keys, residuals),) = editor.statistics(plan.tasks[0])
    ((all_keys, all_residuals),) = everything.statistics(plan.tasks[0])
    np.testing.assert_allclose(residuals, all_residuals[:, [0, 2]], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(keys[:, :2], all_keys[:, [0, 2]], rtol=1e-9, atol=1e-12)
    assert keys.shape[1] == 3
    alone = replace(editor, reassertions=None)
    assert editor.measure() == alone.measure()
    assert share.edits[2] not in editor._requests.own


@pytest.mark.parametrize(("claims", "columns"), [((), 2), ((1, 0), 2), ((0, 1), 1), ((3, 2), 1)])
def test_what_others_edit_is_not_re_asserted(
    federation: TinyFederation, claims: tuple[int, ...], columns: int
) -> None:
    editor = editor_of(federation)
    decision = Decision("1", copies=1, claims=1, is_kept=True)
    editor.weigh([decision], claims)
    ((keys, residuals),) = editor.statistics(editor.plan.tasks[0])
    assert residuals.shape[1] == columns
    assert keys.shape[1] == columns + (0 if claims and claims[0] else 1)
    editor.rollback()
    assert editor.statistics(editor.plan.tasks[0])[0][1].shape[1] == 2
    with pytest.raises(ValueError, match="argument 2"):
        editor.weigh([decision], (0,))
