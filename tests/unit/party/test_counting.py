"""The tables of a counting task: never too low, seldom too high, and refused if altered."""

import hashlib
from collections import Counter as Multiset
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit.crypto.masking import mask_tile
from collabedit.crypto.ring import RingArray, add_into
from collabedit.errors import BoundsError
from collabedit.exchange import TileLayout, plan_encoding
from collabedit.ids import PartyId
from collabedit.intervals import clopper_pearson
from collabedit.overlap import error_bound
from collabedit.party.counting import Count, Counter, Digests
from collabedit.plan import Plan
from collabedit.proto.messages import Context
from tests.support.federations import build_federation
from tests.support.overlaps import COUNTING, with_overlap

EACH = 6
PLAN = with_overlap(build_federation(4, edits_each=EACH).plan)
SMALL_RING = with_overlap(
    build_federation(
        4, edits_each=EACH, ring_bits=32, fractional_bits=16, magnitude_bound=6000.0
    ).plan
)
PLANS = pytest.mark.parametrize("plan", [PLAN, SMALL_RING], ids=["64", "32"])


def counter(plan: Plan = PLAN, secret: bytes = b"s" * 32) -> Counter:
    return Counter(plan, Context(plan.digest, b"i" * 32, COUNTING, b"c" * 32), secret)


def item(topic: int, target: int = 0) -> Digests:
    return (
        hashlib.sha256(f"topic {topic}".encode()).digest(),
        hashlib.sha256(f"fact {topic} {target}".encode()).digest(),
    )


Held = dict[PartyId, list[Digests]]


def add_up(counts: Counter, held: Held, plan: Plan = PLAN) -> RingArray:
    """The opened vector: everybody's tables under everybody's pad."""
    layout = TileLayout.of(plan, COUNTING)
    total: RingArray = np.zeros(layout.elements, dtype=plan_encoding(plan).ring.dtype)
    for party, own in held.items():
        vector = counts.encode(own)
        for index in range(layout.tiles):
            mask_tile(vector[layout.bounds(index)], tile_index=index, masks=[counts.pad(party)])
        add_into(total, vector)
    return total


ITEMS = st.tuples(st.integers(0, 5), st.integers(0, 2)).map(lambda pair: item(*pair))
HELD = st.lists(st.lists(ITEMS, max_size=EACH), min_size=3, max_size=4).map(
    lambda lists: {PartyId(party): own for party, own in enumerate(lists, 1)}
)


def plain_counts(held: Held) -> tuple[Multiset[bytes], Multiset[bytes]]:
    everything = [digests for own in held.values() for digests in own]
    return Multiset(topic for topic, _ in everything), Multiset(fact for _, fact in everything)


@PLANS
@given(held=HELD, secret=st.binary(min_size=32, max_size=32))
@settings(max_examples=60, deadline=None)
def test_every_edit_is_counted_as_in_plain_text(plan: Plan, held: Held, secret: bytes) -> None:
    """Equality may fail with probability 10⁻⁹; that a count is never too low may not."""
    counts = counter(plan, secret)
    topics, facts = plain_counts(held)
    for own in held.values():
        tables = counts.open(add_up(counts, held, plan), survivors=held, own=own)
        for topic, fact in own:
            assert tables.count((topic, fact)) == Count(topics[topic], facts[fact])


@given(
    held=st.lists(ITEMS, min_size=1, max_size=4 * EACH),
    rows=st.integers(1, 3),
    width=st.integers(2, 6),
)
@settings(max_examples=100, deadline=None)
def test_counts_are_never_too_low_however_small_the_tables(
    held: Sequence[Digests], rows: int, width: int
) -> None:
    assert PLAN.overlap is not None
    tiny = PLAN.overlap.model_copy(update={"rows": rows, "width": width})
    counts = counter(PLAN.model_copy(update={"overlap": tiny}))
    spread: Held = {PartyId(party): list(held[party - 1 :: 4]) for party in range(1, 5)}
    plan = PLAN.model_copy(update={"overlap": tiny})
    tables = counts.open(add_up(counts, spread, plan), survivors=spread, own=spread[PartyId(1)])
    topics, facts = plain_counts(spread)
    for topic, fact in held:
        found = tables.count((topic, fact))
        assert found.claims >= topics[topic]
        assert found.copies >= facts[fact]


def test_the_share_of_tables_with_any_wrong_count_is_within_the_bound() -> None:
    """2,000 keys over 24 different facts; with the bound at 0.2 the union bound is nearly tight."""
    edits, trials = 4 * EACH, 2000
    rows, width = 4, 75
    bound = error_bound(edits, rows=rows, width=width)
    assert 0.1 < bound < 0.3
    assert PLAN.overlap is not None
    loose = PLAN.overlap.model_copy(update={"rows": rows, "width": width})
    plan = PLAN.model_copy(update={"overlap": loose})
    held = [item(topic) for topic in range(edits)]
    wrong = 0
    for trial in range(trials):
        counts = counter(plan, trial.to_bytes(32, "big"))
        vector = counts.encode(held)
        wrong += any(
            vector[counts.cells(digest, table=table)].min() > 1
            for digests in held
            for table, digest in enumerate(digests)
        )
    low, high = clopper_pearson(wrong, trials, confidence=0.999)
    assert low <= bound
    assert high > bound / 3, "the bound is far from what happens, or nothing collides at all"


def test_places_depend_on_the_secret_the_session_and_the_table() -> None:
    digest = item(1)[0]
    here = counter().cells(digest, table=0).tolist()
    assert here == counter().cells(digest, table=0).tolist()
    other_session = Counter(PLAN, Context(PLAN.digest, b"j" * 32, COUNTING, b"c" * 32), b"s" * 32)
    others = [
        counter(secret=b"t" * 32).cells(digest, table=0).tolist(),
        other_session.cells(digest, table=0).tolist(),
        (counter().cells(digest, table=1) - PLAN.overlap.cells // 2).tolist(),  # type: ignore[union-attr]
    ]
    assert here not in others


def test_each_place_is_in_its_own_row() -> None:
    overlap = PLAN.overlap
    assert overlap is not None
    for table in (0, 1):
        rows = counter().cells(item(1)[table], table=table) // overlap.width
        assert rows.tolist() == list(range(table * overlap.rows, (table + 1) * overlap.rows))


# What is refused.

OWN = [item(0), item(1, 1), item(1, 1)]
SCENE: Held = {
    PartyId(1): OWN,
    PartyId(2): [item(0), item(2)],
    PartyId(3): [item(1)],
    PartyId(4): [],
}


def opened(alter: Callable[[RingArray], None], plan: Plan = PLAN) -> None:
    total = add_up(counter(plan), SCENE, plan)
    alter(total)
    counter(plan).open(total, survivors=SCENE, own=OWN)


def shift(cells: Sequence[int], by: Sequence[int]) -> Callable[[RingArray], None]:
    def alter(total: RingArray) -> None:
        for cell, delta in zip(cells, by, strict=True):
            total[cell] += np.array(delta % 2 ** (8 * total.itemsize), dtype=total.dtype)

    return alter


def test_the_scene_is_accepted_unless_altered() -> None:
    opened(lambda _total: None)


@PLANS
@pytest.mark.parametrize(
    ("cells", "by"),
    [
        ([0], [1]),
        ([0], [1 << 20]),
        ([3, 4], [1, -1]),
        (range(40), [1] * 40),
        ([-1], [1]),
        ([-1], [1 << 31]),
    ],
)
def test_an_aggregator_cannot_shift_a_sum_that_it_cannot_read(
    plan: Plan, cells: Sequence[int], by: Sequence[int]
) -> None:
    with pytest.raises(BoundsError):
        opened(shift(cells, by), plan)


def test_one_more_in_every_cell_keeps_the_totals_even_and_is_refused() -> None:
    """Everybody would take each own edit for shared: only the check elements catch that."""
    overlap = PLAN.overlap
    assert overlap is not None
    wide = PLAN.model_copy(update={"overlap": overlap.model_copy(update={"rows": 3, "width": 8})})
    cells = range(2 * 3 * 8)
    with pytest.raises(BoundsError, match="check elements"):
        opened(shift(cells, [1] * len(cells)), wide)


def test_another_set_of_survivors_leaves_noise() -> None:
    total = add_up(counter(), SCENE)
    for survivors in ([1, 2, 3], [1, 2]):
        with pytest.raises(BoundsError, match="exceeds the edits"):
            counter().open(total, survivors=map(PartyId, survivors), own=OWN)


def poisoned(make: Callable[[Counter], RingArray]) -> None:
    """Party 4 masks properly what it should not have counted."""
    counts = counter()
    total = add_up(counts, SCENE)
    add_into(total, make(counts))
    counts.open(total, survivors=SCENE, own=OWN)


def with_checks(counts: Counter, cells: Sequence[int], by: Sequence[int]) -> RingArray:
    size = PLAN.task_length(COUNTING) - PLAN.check_elements
    tables: RingArray = np.zeros(size, dtype="<u8")
    shift(cells, by)(tables)
    return np.concatenate([tables, counts._checks(tables)])


@pytest.mark.parametrize(
    ("cells", "by", "why"),
    [
        ([0], [-1], "exceeds the edits"),
        ([0], [4 * EACH + 1], "exceeds the edits"),
        ([0], [1], "the same edits"),
        ([0, 300], [1, 1], "the same edits"),
    ],
)
def test_a_party_that_does_not_count_edits_is_noticed(
    cells: Sequence[int], by: Sequence[int], why: str
) -> None:
    with pytest.raises(BoundsError, match=why):
        poisoned(lambda counts: with_checks(counts, cells, by))


def test_a_party_that_takes_away_others_edits_is_noticed_by_them() -> None:
    """It counts somebody else's edit as minus one, and one of its own beside it."""

    def rob(counts: Counter) -> RingArray:
        return counts.encode([item(9), item(9)]) - counts.encode([OWN[1], item(2)])

    with pytest.raises(BoundsError, match="leave out edits"):
        poisoned(rob)


def test_a_party_that_claims_edits_is_believed() -> None:
    """It could have brought them; nobody can tell."""
    counts = counter()
    total = add_up(counts, {**SCENE, PartyId(4): [item(0)] * 3})
    tables = counts.open(total, survivors=SCENE, own=OWN)
    assert tables.count(item(0)) == Count(5, 5)


def test_nothing_of_it_is_printed() -> None:
    counts = counter(secret=b"Canary" * 5 + b"..")
    tables = counts.open(add_up(counts, SCENE), survivors=SCENE, own=OWN)
    for text in (repr(counts), repr(tables)):
        assert "Canary" not in text
        assert "array" not in text
