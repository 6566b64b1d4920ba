"""Who is a candidate, and who edits what: drawn by seed, and with no order that tells."""

import numpy as np
import pytest

from collabedit.audit.pool import draw_candidates, most_edits
from collabedit.audit.schema import PoolSettings, Setting
from collabedit.errors import InputError
from collabedit.experiments.deal import Pool
from collabedit.party.edits import Edit

POOL = Pool(
    "made up",
    tuple(
        Edit(str(n), "{} is in", subject=f"place {n % 90}", target_new=f"x{n % 7}")
        for n in range(100)
    ),
)


def setting(edits: int = 10, seed: int = 1, parties: int = 3) -> Setting:
    return Setting(defence="masked", parties=parties, edits=edits, seed=seed)


def test_candidates_have_different_subjects_and_only_the_eligible_are_edited() -> None:
    found = draw_candidates(POOL, PoolSettings(candidates=80, members=30))
    assert len(set(found.subjects)) == len(found.edits) == 80
    dealt = [n for seed in range(20) for own in found.deal(setting(seed=seed)) for n in own]
    assert set(dealt) <= set(found.eligible)
    assert len(set(dealt)) == len(found.eligible) == 30


def test_parties_have_different_edits_in_numbers_of_their_own() -> None:
    found = draw_candidates(POOL, PoolSettings(candidates=80))
    shares = found.deal(setting(edits=11))
    sizes = [len(own) for own in shares]
    assert sum(sizes) == 11
    assert all(1 <= size <= most_edits(setting(edits=11)) for size in sizes)
    assert len({number for own in shares for number in own}) == 11
    drawn = {tuple(map(len, found.deal(setting(edits=30, seed=seed)))) for seed in range(20)}
    assert len(drawn) > 10


def test_fewer_edits_of_a_seed_are_a_part_of_more_and_other_seeds_are_others() -> None:
    found = draw_candidates(POOL, PoolSettings(candidates=80))

    def members(edits: int, seed: int) -> set[int]:
        return {number for own in found.deal(setting(edits, seed)) for number in own}

    assert members(10, 1) < members(30, 1)
    assert members(30, 1) != members(30, 2)


def test_pairs_lay_each_member_beside_another_candidate_and_name_its_party() -> None:
    found = draw_candidates(POOL, PoolSettings(candidates=80, members=50))
    shares, pairs = found.deal(setting(edits=30)), found.pairs(setting(edits=30))
    assert len(pairs) == 20
    numbers = [number for pair in pairs for number in (pair.member, pair.other)]
    assert len(set(numbers)) == 40
    assert set(numbers) <= set(found.eligible)
    for pair in pairs:
        assert pair.member in shares[pair.party - 1]
        assert not any(pair.other in own for own in shares)
    assert found.pairs(setting(edits=50)) == ()


def test_who_is_the_member_of_a_pair_is_a_coin() -> None:
    found = draw_candidates(POOL, PoolSettings(candidates=80, members=40))
    pairs = [pair for seed in range(100) for pair in found.pairs(setting(edits=20, seed=seed))]
    lower = sum(pair.member < pair.other for pair in pairs)
    assert abs(lower - len(pairs) / 2) < 4 * len(pairs) ** 0.5 / 2


def test_counted_edits_are_shared_with_the_next_party() -> None:
    found = draw_candidates(POOL, PoolSettings(candidates=80))
    for edits, parties in ((3, 3), (6, 3), (30, 3), (31, 10), (9, 4)):
        plain = setting(edits=edits, parties=parties)
        counted = plain.model_copy(update={"defence": "closed+counting"})
        alone, shares = found.deal(plain), found.deal(counted)
        copies = max(1, edits // parties // 4)
        for place, own in enumerate(shares):
            assert own == alone[place] + alone[place - 1][:copies]
            assert len(own) <= most_edits(counted)
        held = [number for own in shares for number in own]
        # Who replaces an edit that two parties have replaces two.
        assert all(held.count(pair.member) == 1 for pair in found.pairs(counted))
        assert len(found.pairs(counted)) == edits - parties * copies


def test_the_place_of_a_column_says_nothing_about_membership() -> None:
    found = draw_candidates(POOL, PoolSettings(candidates=80))
    places = [n for seed in range(60) for own in found.deal(setting(seed=seed)) for n in own]
    error = np.std(np.arange(80)) / np.sqrt(len(places))
    assert abs(np.mean(places) - 39.5) < 4 * error


def test_prompts_and_objects_are_those_of_all_candidates_in_an_order_of_their_own() -> None:
    found = draw_candidates(POOL, PoolSettings(candidates=80))
    assert found.prompts == ("{} is in",)
    assert found.objects == tuple(sorted({edit.target_new for edit in found.edits}))


def test_too_few_subjects_are_refused() -> None:
    with pytest.raises(InputError, match="made up has 90 different subjects"):
        draw_candidates(POOL, PoolSettings(candidates=91))
