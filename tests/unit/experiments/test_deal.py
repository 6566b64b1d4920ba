"""Who gets which edits: sizes, rates, and what a seed decides."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from collabedit.errors import InputError
from collabedit.experiments.deal import Pool, deal, load_pool
from collabedit.experiments.schema import Cell, DataSource, EditorSettings
from collabedit.party.edits import Edit


def cell(**changes: object) -> Cell:
    values = {
        "method": "centralised",
        "editor": EditorSettings(),
        "parties": 3,
        "edits_per_party": 4,
        "rounds": 1,
        "overlap": 0.0,
        "conflict": 0.0,
        "policy": "none",
        "memory": 0.0,
        "seed": 1,
    }
    return Cell.model_validate({**values, **changes})


def edit(number: int, **changes: object) -> Edit:
    values = Edit(
        case_id=str(number),
        prompt="{} plays the",
        subject=f"Person {number}",
        target_new=f"new {number % 5}",
        target_true="harp",
        relation="plays",
    )
    return replace(values, **changes)  # type: ignore[arg-type]


POOL = Pool("people", tuple(edit(number) for number in range(60)))


def test_every_party_gets_its_number_of_edits_and_nobody_anothers() -> None:
    dealt = deal(POOL, cell(rounds=2))
    assert [[len(share) for share in each.shares] for each in dealt.rounds] == [[4, 4, 4]] * 2
    everything = [one for each in dealt.rounds for share in each.shares for one in share]
    assert len(set(everything)) == len(everything) == 24
    assert [set(each.intended) for each in dealt.rounds] == [
        set(each.held) for each in dealt.rounds
    ]


def test_a_smaller_cell_of_the_same_seed_has_a_part_of_the_larger_ones_edits() -> None:
    small, large = (
        {one for share in deal(POOL, cell(edits_per_party=size)).rounds[0].shares for one in share}
        for size in (2, 5)
    )
    assert small < large


def test_a_seed_decides_and_neither_the_order_of_the_file_nor_its_other_records() -> None:
    first = deal(POOL, cell())
    assert deal(Pool("", POOL.edits[::-1]), cell()) == first
    assert deal(POOL, cell(seed=2)).digest() != first.digest()
    used = set(first.rounds[0].held)
    spare = next(one for one in POOL.edits if one not in used)
    without = tuple(one for one in POOL.edits if one != spare)
    assert deal(Pool("", without), cell()).digest() == first.digest()


def test_shared_edits_are_everybodys_and_count_once() -> None:
    (each,) = deal(POOL, cell(overlap=0.5)).rounds
    held = Counter(one for share in each.shares for one in share)
    assert sorted(held.values()) == [1] * 6 + [3] * 2
    assert set(each.intended) == set(held)
    assert len(each.intended) == 8
    (all_shared,) = deal(POOL, cell(overlap=1.0)).rounds
    assert len(set(all_shared.shares)) == 1


@pytest.mark.parametrize(("parties", "minority"), [(3, {1}), (4, {1, 2}), (10, {3, 4})])
def test_a_third_contradicts_and_a_majority_agrees(parties: int, minority: set[int]) -> None:
    (each,) = deal(POOL, cell(parties=parties, conflict=0.5)).rounds
    assert len(each.conflicts) == 2
    for conflict in each.conflicts:
        against = sum(conflict.other in share for share in each.shares)
        agree = sum(conflict.target in share for share in each.shares)
        assert agree + against == parties
        assert against in minority
        assert 2 * agree > parties
        assert conflict.other.subject == conflict.target.subject
        assert conflict.other.prompt == conflict.target.prompt
        assert conflict.other.target_new not in {conflict.target.target_new, "harp"}
        assert conflict.target in each.intended
        assert conflict.other not in each.intended


def test_the_minority_is_not_always_the_same_party() -> None:
    (each,) = deal(POOL, cell(conflict=1.0)).rounds
    against = [
        next(i for i, share in enumerate(each.shares) if conflict.other in share)
        for conflict in each.conflicts
    ]
    assert set(against) == {0, 1, 2}


def test_without_another_object_of_the_relation_the_true_one_contradicts() -> None:
    lonely = tuple(replace(one, relation=None) for one in POOL.edits)
    (each,) = deal(Pool("", lonely), cell(conflict=0.25)).rounds
    assert each.conflicts[0].other.target_new == "harp"
    nothing = tuple(replace(one, target_true=None) for one in lonely)
    with pytest.raises(InputError, match="no other object"):
        deal(Pool("", nothing), cell(conflict=0.25))


def test_a_pool_that_is_too_small_is_refused_by_numbers() -> None:
    with pytest.raises(InputError, match="needs 63 different facts, people has 60"):
        deal(POOL, cell(edits_per_party=21))


def test_no_text_is_in_a_repr() -> None:
    assert "Person" not in repr(deal(POOL, cell(conflict=0.5)))
    assert "Person" not in repr(POOL)


# Where the edits come from.


def record(number: int, **changes: str) -> dict[str, Any]:
    flat = {"prompt": "Ann plays the", "subject": "Ann", "target_new": "lute", "case_id": number}
    return {**flat, **changes}


def test_the_facts_stand_in_for_a_file_only_where_the_experiment_says_so(tmp_path: Path) -> None:
    beside = tmp_path / "x.toml"
    assert len(load_pool(DataSource(), beside=beside, given=None).edits) == 60
    allowed = DataSource(source="file", fallback=True)
    assert len(load_pool(allowed, beside=beside, given=None).edits) == 60
    with pytest.raises(InputError, match="give --data FILE"):
        load_pool(DataSource(source="file"), beside=beside, given=None)


def test_a_path_is_beside_the_experiment_and_an_option_goes_before_it(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(json.dumps([record(1)]))
    (tmp_path / "given.json").write_text(json.dumps([record(2), record(3, subject="Ann p")]))
    source = DataSource(source="file", path="own.json")
    beside = tmp_path / "x.toml"
    assert load_pool(source, beside=beside, given=None).name == "own.json"
    given = load_pool(source, beside=beside, given=tmp_path / "given.json")
    assert (given.name, len(given.edits)) == ("given.json", 2)


def test_of_two_records_on_one_topic_the_first_counts(tmp_path: Path) -> None:
    path = tmp_path / "twice.json"
    path.write_text(json.dumps([record(1), record(2, target_new="harp"), record(3)]))
    pool = load_pool(DataSource(), beside=path, given=path)
    assert [one.case_id for one in pool.edits] == ["1"]
