"""The plan's section about overlap: which tables a plan may have, and which are proposed."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collabedit.crypto.ring import RingArray, from_bytes
from collabedit.errors import MalformedMessageError, PlanError
from collabedit.exchange import bundle_limit, decode_counts, encode_counts, plan_encoding
from collabedit.ids import PartyId, TaskIndex
from collabedit.overlap import (
    CHECK_BITS,
    MAXIMUM_ROWS,
    MAXIMUM_WIDTH,
    check_elements,
    error_bound,
    smallest_tables,
)
from collabedit.plan import Plan, parse_plan
from tests.support.federations import build_federation
from tests.support.overlaps import COUNTING, with_overlap

PLAIN = build_federation(4, layers=2).plan
PLAN = with_overlap(PLAIN)


def changed(**changes: object) -> Plan:
    values = PLAN.model_dump(mode="json", exclude_none=True)
    values["overlap"] |= changes
    return Plan.model_validate({**values, "overlap": values["overlap"]})


def exact_bound(edits: int, rows: int, width: int) -> Fraction:
    """2n(1 - (1 - 1/w)^(n-1))^rows, in fractions."""
    return 2 * edits * (1 - (1 - Fraction(1, width)) ** (edits - 1)) ** rows


@given(st.integers(2, 60), st.integers(1, 6), st.integers(2, 300))
def test_the_bound_is_its_formula(edits: int, rows: int, width: int) -> None:
    exact = float(exact_bound(edits, rows, width))
    assert error_bound(edits, rows=rows, width=width) == pytest.approx(exact, rel=1e-12)


@given(st.integers(3, 40), st.floats(1e-12, 0.3))
def test_no_smaller_tables_would_do(edits: int, false_positive: float) -> None:
    rows, width = smallest_tables(edits, false_positive)
    assert error_bound(edits, rows=rows, width=width) <= false_positive
    for fewer in range(1, MAXIMUM_ROWS + 1):
        largest = (rows * width - 1) // fewer
        if largest >= 2:
            bound = error_bound(edits, rows=fewer, width=min(largest, MAXIMUM_WIDTH))
            assert bound > false_positive


def test_a_proposed_section_is_valid_and_a_smaller_one_is_refused_with_what_would_do() -> None:
    overlap = PLAN.overlap
    assert overlap is not None
    with pytest.raises(ValueError, match=rf"{overlap.rows} rows of {overlap.width} are enough"):
        changed(width=overlap.width - 1)
    changed(width=overlap.width + 1)


def test_a_plan_that_nothing_counts_well_enough_is_refused() -> None:
    with pytest.raises(ValueError, match="no tables"):
        smallest_tables(100_000_000, 1e-12)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("policy", "vote"),
        ("false_positive", 0.0),
        ("false_positive", 1.0),
        ("rows", 0),
        ("rows", MAXIMUM_ROWS + 1),
        ("width", 1),
        ("width", MAXIMUM_WIDTH + 1),
        ("paraphrases", 2),
        ("salt", 1),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match="overlap"):
        changed(**{field: value})


def test_augment_needs_a_number_of_paraphrases() -> None:
    with pytest.raises(ValueError, match="policy augment needs paraphrases"):
        changed(policy="augment")
    assert changed(policy="augment", paraphrases=3).overlap is not None


def test_the_counting_task_comes_first_and_has_no_layers() -> None:
    assert PLAN.tasks == ((), *PLAIN.tasks)
    assert PLAN.counting(COUNTING) is PLAN.overlap
    assert PLAN.counting(TaskIndex(1)) is None
    assert PLAIN.counting(COUNTING) is None
    assert PLAN.task_length(TaskIndex(1)) == PLAIN.task_length(TaskIndex(0))
    assert PLAN.overlap is not None
    assert PLAN.task_length(COUNTING) == PLAN.overlap.cells + PLAN.check_elements


def test_a_plan_without_the_section_keeps_its_digest_and_one_with_it_reads_back() -> None:
    assert "overlap" not in PLAIN.to_toml()
    assert parse_plan(PLAIN.to_toml(), source="plan").digest == PLAIN.digest
    again = parse_plan(PLAN.to_toml(), source="plan")
    assert again == PLAN
    assert again.digest == PLAN.digest != PLAIN.digest


def test_errors_name_the_section() -> None:
    text = PLAN.to_toml().replace('policy = "majority"', 'policy = "most"')
    with pytest.raises(PlanError, match=r"plan: overlap\.policy"):
        parse_plan(text, source="plan")


@given(st.integers(1, 500_000_000), st.sampled_from([32, 64]))
def test_check_elements_catch_what_stays_in_range(edits: int, ring_bits: int) -> None:
    """2^a divides no alteration of at most n for a beyond log2 n: bits - a bits each."""
    elements = check_elements(edits, ring_bits=ring_bits)
    each = ring_bits - int(math.log2(edits))
    assert elements * each >= CHECK_BITS > (elements - 1) * each


def random_counts(plan: Plan) -> RingArray:
    ring = plan_encoding(plan).ring
    return from_bytes(
        ring, np.random.default_rng(1).bytes(plan.task_length(COUNTING) * ring.element_bytes)
    )


def test_released_counts_read_back_and_nothing_else_does() -> None:
    total = random_counts(PLAN)
    data = encode_counts(PLAN, COUNTING, total)
    assert len(data) == bundle_limit(PLAN, COUNTING)
    assert np.array_equal(decode_counts(PLAN, COUNTING, data), total)
    other = with_overlap(PLAIN, false_positive=1e-8)
    foreign = encode_counts(other, COUNTING, random_counts(other))
    for wrong in (b"", data[:-1], data + b"\x00", b"CEB1" + data[4:], foreign):
        with pytest.raises(MalformedMessageError, match="not the counts of this plan's tables"):
            decode_counts(PLAN, COUNTING, wrong)


def test_the_parties_bounds_add_up() -> None:
    assert PLAN.max_edits(PLAN.party_ids) == 12
    assert PLAN.max_edits([PartyId(2)]) == 3
