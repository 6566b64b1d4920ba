"""Tiles, frames, contribution vectors and update bundles."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit.errors import MalformedMessageError, NumericError
from collabedit.exchange import (
    FRAME_HEADER,
    FRAME_OVERHEAD,
    Tile,
    TileLayout,
    bundle_limit,
    contribution_vector,
    decode_bundle,
    decode_frame,
    encode_bundle,
    encode_frame,
    merge_vector,
    tiles_root,
)
from collabedit.ids import LayerIndex, TaskIndex
from collabedit.sketch import LowRankUpdate
from tests.support.federations import EDITS_EACH, MAPPED, OUTPUTS, build_federation

FIRST = TaskIndex(0)
LAYOUT = TileLayout(elements=20, element_bytes=8, per_tile=8)
PLAN = build_federation(3, layers=2, schedule='"parallel"').plan
layouts = st.builds(
    TileLayout,
    elements=st.integers(1, 5000),
    element_bytes=st.sampled_from([4, 8]),
    per_tile=st.integers(1, 600),
)


# Tiles.


@settings(max_examples=100, deadline=None)
@given(layout=layouts)
def test_tiles_cover_every_element_once_and_in_order(layout: TileLayout) -> None:
    covered = [
        element
        for index in range(layout.tiles)
        for element in range(layout.elements)[layout.bounds(index)]
    ]
    assert covered == list(range(layout.elements))


@settings(max_examples=100, deadline=None)
@given(layout=layouts)
def test_all_tiles_are_full_but_the_last_which_is_not_empty(layout: TileLayout) -> None:
    sizes = [layout.tile_bytes(index) for index in range(layout.tiles)]
    assert all(size == layout.per_tile * layout.element_bytes for size in sizes[:-1])
    assert 0 < sizes[-1] <= layout.per_tile * layout.element_bytes
    assert sum(sizes) == layout.elements * layout.element_bytes


@settings(max_examples=60, deadline=None)
@given(layout=layouts, data=st.data())
def test_a_frame_survives_in_its_place_and_nowhere_else(
    layout: TileLayout, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, layout.tiles - 1))
    payload = bytes(layout.tile_bytes(index))
    tile = decode_frame(encode_frame(index, payload), layout=layout)
    assert (tile.index, tile.payload) == (index, payload)
    for wrong in (payload + b"x", payload[:-1]):
        with pytest.raises(MalformedMessageError):
            decode_frame(encode_frame(index, wrong), layout=layout)
    with pytest.raises(MalformedMessageError, match="of"):
        decode_frame(encode_frame(layout.tiles, payload), layout=layout)


def frame() -> bytes:
    return encode_frame(1, bytes(range(64)))


# Bit 0 of byte 4 turns tile 1 into tile 0, which has the same size: see the test below.
@pytest.mark.parametrize(
    ("position", "flip"),
    [(p, flip) for p in range(FRAME_OVERHEAD) for flip in (0x01, 0x80) if (p, flip) != (4, 0x01)],
)
def test_a_frame_damaged_in_any_byte_of_its_header_is_refused(position: int, flip: int) -> None:
    damaged = bytearray(frame())
    damaged[position] ^= flip
    with pytest.raises(MalformedMessageError):
        decode_frame(bytes(damaged), layout=LAYOUT)


def test_a_tile_cannot_be_filed_under_another_index() -> None:
    payload = bytes(LAYOUT.tile_bytes(1))
    honest = encode_frame(1, payload)
    relabelled = encode_frame(0, payload)[: FRAME_HEADER.size] + honest[FRAME_HEADER.size :]
    with pytest.raises(MalformedMessageError, match="digest"):
        decode_frame(relabelled, layout=LAYOUT)
    assert decode_frame(honest, layout=LAYOUT).index == 1


def test_the_root_tells_the_order_of_tiles() -> None:
    digests = [bytes([index]) * 32 for index in range(3)]
    assert tiles_root(digests) != tiles_root(digests[::-1])


@pytest.mark.parametrize("position", [0, 31, 63])
def test_a_frame_with_a_damaged_payload_is_refused(position: int) -> None:
    damaged = bytearray(frame())
    damaged[FRAME_OVERHEAD + position] ^= 1
    with pytest.raises(MalformedMessageError, match="digest"):
        decode_frame(bytes(damaged), layout=LAYOUT)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 47, 48, 111, 113])
def test_a_frame_of_another_length_is_refused(size: int) -> None:
    data = (frame() + b"x")[:size]
    with pytest.raises(MalformedMessageError):
        decode_frame(data, layout=LAYOUT)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_no_frame_and_no_bundle(data: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        decode_frame(data, layout=LAYOUT)
    with pytest.raises(MalformedMessageError):
        decode_bundle(PLAN, FIRST, data)


def test_a_tile_does_not_print_its_payload() -> None:
    tile = Tile(3, b"\xde\xad" * 8, bytes(32))
    assert repr(tile) == "Tile(index=3, bytes=16)"


def test_a_root_depends_on_every_digest_and_on_their_order() -> None:
    one, two = b"1" * 32, b"2" * 32
    roots = {tiles_root(d) for d in ([], [one], [one, two], [two, one], [one, one])}
    assert len(roots) == 5


def test_the_layout_of_a_plan_is_in_whole_elements() -> None:
    layout = TileLayout.of(PLAN, FIRST)
    assert layout.elements == PLAN.task_length(FIRST)
    assert layout.per_tile * layout.element_bytes == PLAN.aggregation.tile_bytes


# Contributions.


def statistics(
    keys: tuple[int, int] = (MAPPED, EDITS_EACH), residuals: tuple[int, int] = (OUTPUTS, EDITS_EACH)
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.normal(size=keys), rng.normal(size=residuals)


def test_a_vector_holds_the_layers_one_after_the_other() -> None:
    one, two = statistics(), statistics((MAPPED, 1), (OUTPUTS, 1))
    vector = contribution_vector(PLAN, FIRST, [one, two])
    assert vector.shape == (PLAN.task_length(FIRST),)
    half = PLAN.layer_length(PLAN.editing.layers[0])
    other = contribution_vector(PLAN, FIRST, [one, one])
    np.testing.assert_array_equal(vector[:half], other[:half])
    assert not np.array_equal(vector[half:], other[half:])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_numbers_that_are_not_finite_are_refused(value: float, where: int) -> None:
    bad = statistics()
    bad[where][0, 0] = value
    with pytest.raises(NumericError, match="task 0 are not finite"), np.errstate(invalid="ignore"):
        contribution_vector(PLAN, FIRST, [statistics(), bad])


def test_an_overflow_of_the_statistics_is_refused() -> None:
    keys, residuals = statistics()
    with pytest.raises(NumericError), np.errstate(over="ignore", invalid="ignore"):
        contribution_vector(PLAN, FIRST, [(keys * 1e200, residuals), (keys, residuals)])


@pytest.mark.parametrize(
    "shapes",
    [((MAPPED + 1, 3), (OUTPUTS, 3)), ((MAPPED, 3), (OUTPUTS - 1, 3)), ((MAPPED, 3), (OUTPUTS, 2))],
)
def test_shapes_other_than_the_plans_are_refused(
    shapes: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    with pytest.raises(ValueError, match=r"shape|dimension|mismatch"):
        contribution_vector(PLAN, FIRST, [statistics(), statistics(*shapes)])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_layers_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="argument"):
        contribution_vector(PLAN, FIRST, [statistics()] * count)


# Bundles.


def updates() -> dict[LayerIndex, LowRankUpdate]:
    rng = np.random.default_rng(4)
    return {
        LayerIndex(layer): LowRankUpdate(
            rng.normal(size=(OUTPUTS, layer + 2)), rng.normal(size=(layer + 2, MAPPED))
        )
        for layer in (0, 1)
    }


BUNDLE = encode_bundle(updates())


def test_a_bundle_survives() -> None:
    again = decode_bundle(PLAN, FIRST, BUNDLE)
    assert list(again) == [0, 1]
    for layer, update in updates().items():
        np.testing.assert_array_equal(again[layer].left, update.left)
        np.testing.assert_array_equal(again[layer].right, update.right)
    assert encode_bundle(again) == BUNDLE
    assert encode_bundle(dict(reversed(again.items()))) == BUNDLE


def test_an_update_of_no_rank_survives() -> None:
    empty = LowRankUpdate(np.zeros((OUTPUTS, 0)), np.zeros((0, MAPPED)))
    bundle = encode_bundle({LayerIndex(0): empty, LayerIndex(1): empty})
    assert decode_bundle(PLAN, FIRST, bundle)[LayerIndex(0)].rank == 0


def test_every_truncation_and_any_trailing_byte_is_refused() -> None:
    for cut in range(0, len(BUNDLE), 13):
        with pytest.raises(MalformedMessageError):
            decode_bundle(PLAN, FIRST, BUNDLE[:cut])
    with pytest.raises(MalformedMessageError, match="another length"):
        decode_bundle(PLAN, FIRST, BUNDLE + b"\x00")


# Magic and count, the first entry's layer and size, the first update's header.
@pytest.mark.parametrize("position", range(8 + 12 + 20))
@pytest.mark.parametrize("flip", [0x01, 0x80])
def test_a_bundle_damaged_in_any_byte_of_its_headers_is_refused(position: int, flip: int) -> None:
    damaged = bytearray(BUNDLE)
    damaged[position] ^= flip
    with pytest.raises(MalformedMessageError):
        decode_bundle(PLAN, FIRST, bytes(damaged))


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_refused(number: float) -> None:
    data = bytearray(BUNDLE)
    struct.pack_into("<d", data, len(data) - 8, number)
    with pytest.raises(MalformedMessageError, match="not finite"):
        decode_bundle(PLAN, FIRST, bytes(data))


def test_layers_other_than_the_tasks_are_refused() -> None:
    both = updates()
    one = {LayerIndex(0): both[LayerIndex(0)]}
    for wrong in (one, {**one, LayerIndex(2): both[LayerIndex(1)]}):
        with pytest.raises(MalformedMessageError):
            decode_bundle(PLAN, FIRST, encode_bundle(wrong))


def test_a_rank_beyond_the_plans_is_refused() -> None:
    rank = PLAN.rank_limit + 1
    wide = LowRankUpdate(np.zeros((OUTPUTS, rank)), np.zeros((rank, MAPPED)))
    with pytest.raises(MalformedMessageError):
        decode_bundle(PLAN, FIRST, encode_bundle({LayerIndex(0): wide, LayerIndex(1): wide}))


def test_the_largest_bundle_is_within_the_limit_and_the_limit_is_tight() -> None:
    rank = PLAN.rank_limit
    full = LowRankUpdate(np.zeros((OUTPUTS, rank)), np.zeros((rank, MAPPED)))
    largest = len(encode_bundle({LayerIndex(0): full, LayerIndex(1): full}))
    assert largest <= bundle_limit(PLAN, FIRST) <= largest + 200


def test_a_factorisation_that_fails_is_a_numeric_error(monkeypatch: pytest.MonkeyPatch) -> None:
    vector = contribution_vector(PLAN, FIRST, [statistics(), statistics()])

    def fail(_matrix: object) -> None:
        raise np.linalg.LinAlgError("Eigenvalues did not converge")

    monkeypatch.setattr(np.linalg, "eigh", fail)
    with pytest.raises(NumericError, match="layer 0: Eigenvalues did not converge"):
        merge_vector(PLAN, FIRST, vector, survivors=PLAN.party_ids, noise=1e-12)


def test_a_sum_that_no_honest_parties_made_names_its_layer() -> None:
    vector = contribution_vector(PLAN, FIRST, [statistics(), statistics()])
    half = PLAN.layer_length(PLAN.editing.layers[0])
    assert set(merge_vector(PLAN, FIRST, vector, survivors=PLAN.party_ids, noise=1e-12)) == {0, 1}
    vector[half + 3] += 1e3
    with pytest.raises(NumericError, match="layer 1:"):
        merge_vector(PLAN, FIRST, vector, survivors=PLAN.party_ids, noise=1e-12)
