"""The table of re-assertions says what its rows show; small, on random keys and a tiny model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from collabedit.demo.methods import relative_errors
from collabedit.ids import LayerIndex
from collabedit.party.editing.evaluate import Metrics
from collabedit.party.edits import Edit
from collabedit.sketch import LowRankUpdate, Matrix
from tests.audit.reassertion_table import (
    Answers,
    Candidates,
    Row,
    Session,
    aggregator_rows,
    edit_together,
    failures,
    markdown,
    recipient_rows,
)
from tests.support.editors import tiny_federation
from tests.support.federations import build_federation

SIZE, OUTPUTS, EDITS, OTHERS = 160, 60, 6, 60


def requests(kind: str, count: int) -> tuple[Edit, ...]:
    return tuple(Edit(f"{kind}{n}", "{} is", f"{kind}{n}", "new", "old") for n in range(count))


CANDIDATES = Candidates(
    requests("edit", EDITS), requests("fact", 3 * EDITS), requests("other", OTHERS)
)
TOTAL = len(CANDIDATES.everything)


def answers(first: int) -> Answers:
    return Answers(np.full(TOTAL, first), np.zeros(TOTAL), np.ones(TOTAL, dtype=np.bool_))


@pytest.fixture(scope="module")
def keys() -> Matrix:
    drawn: Matrix = np.random.default_rng(0).normal(size=(SIZE, TOTAL)) / np.sqrt(SIZE)
    return drawn


def recipient(keys: Matrix, multiple: int) -> list[Row]:
    """An update whose rows are the keys of edits and re-assertions, of equal size at each."""
    plan = build_federation(3, mapped=SIZE, outputs=OUTPUTS).plan
    inside = keys[:, : EDITS * (1 + multiple)]
    outputs = np.random.default_rng(1).normal(size=(OUTPUTS, inside.shape[1]))
    outputs /= np.linalg.norm(outputs, axis=0)
    rows: Matrix = np.linalg.pinv(inside).astype(np.float64)
    update = LowRankUpdate(outputs, rows)
    after = answers(0)
    after.first[:EDITS] = 1
    after.nlls[:EDITS] = 3.0
    layer = LayerIndex(plan.editing.layers[0].index)
    return recipient_rows(
        plan, {layer: update}, keys, (answers(0), after), CANDIDATES, multiple=multiple
    )


def test_lists_are_what_they_are_called() -> None:
    assert CANDIDATES.members().sum() == EDITS
    assert list(CANDIDATES.places(0, others=False)) == list(range(EDITS))
    both = CANDIDATES.places(EDITS, others=True)
    assert len(both) == 2 * EDITS + OTHERS
    assert {CANDIDATES.everything[place].case_id[:4] for place in both[2 * EDITS :]} == {"othe"}


def test_row_space_is_chance_among_edits_and_re_assertions_and_answers_are_not(
    keys: Matrix,
) -> None:
    rows = {(row.attack, row.among): row for row in recipient(keys, 1)}
    space = rows["row space (KSTER)", "edits and re-assertions"]
    assert (space.auc.value, space.recall.value) == (0.5, 0.5)
    assert rows["row space (KSTER)", "all candidates"].auc.value < 1
    for attack in ("likeliest answer changes", "true answer loses likelihood"):
        assert rows[attack, "edits and re-assertions"].auc.value == 1
    (alone,) = [row for row in recipient(keys, 0) if row.attack == "row space (KSTER)"]
    assert (alone.among, alone.recall.value) == ("all candidates", 1.0)
    assert not failures([*rows.values(), alone])


def test_what_is_not_as_claimed_is_named(keys: Matrix) -> None:
    (alone,) = [row for row in recipient(keys, 0) if row.attack == "row space (KSTER)"]
    hidden = replace(alone, auc=replace(alone.auc, value=0.5))
    assert "does not leak" in failures([hidden])[0]
    told = replace(alone, multiple=3, among="edits and re-assertions")
    assert failures([told]) == ["the row space tells edits from 3 re-assertions for each"]


@pytest.mark.parametrize("multiple", [0, 3])
def test_the_spectrum_has_a_row_for_each_list(keys: Matrix, multiple: int) -> None:
    plan = build_federation(3, mapped=SIZE, outputs=OUTPUTS).plan
    rows = aggregator_rows(plan, keys, CANDIDATES, multiple, steps=10)
    assert [row.among for row in rows][1:] == (
        ["all candidates", "edits and re-assertions"] if multiple else []
    )
    if multiple:
        assert rows[2].auc.low < 0.5 < rows[2].auc.high


def test_sums_are_merged_as_one_trustee_would(tmp_path: Path) -> None:
    federation = tiny_federation(tmp_path, layers=(1, 2))
    plan = federation.plan("memit").model_copy(update={"closed": None})
    editors = federation.editors(plan)
    for party, editor in editors.items():
        editors[party] = replace(editor, model=federation.central)
    want = federation.centralised(plan)
    edit_together(list(editors.values()))
    (first, *_) = editors.values()
    got = {int(layer): update.dense() for layer, update in first.updates.items()}
    first.rollback()
    assert max(relative_errors(got, want).values()) < 1e-6


def test_the_tables_are_markdown(keys: Matrix) -> None:
    metrics = Metrics(100.0, 50.0, None, None, 0.0, 12.5)
    sessions = [
        Session(0, metrics, (1.0, None, 0.1), None),
        Session(1, metrics, (1.0, 0.0, 0.1), 1.0),
    ]
    lines = markdown(metrics, sessions, recipient(keys, 1)).splitlines()
    cut = lines.index("")
    assert {line.count("|") for line in lines[:cut]} == {10}
    assert {line.count("|") for line in lines[cut + 1 :]} == {6}
