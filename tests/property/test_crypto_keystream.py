from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit.crypto.keystream import Keystream
from collabedit.crypto.ring import Ring

TILES = st.tuples(
    st.integers(min_value=0, max_value=2**96 - 1), st.integers(min_value=0, max_value=300)
)


@settings(max_examples=40, deadline=None)
@given(
    st.binary(min_size=32, max_size=32),
    st.sampled_from(Ring),
    st.lists(TILES, min_size=1, max_size=8),
    st.data(),
)
def test_a_tile_depends_on_its_index_alone_not_on_the_order(
    key: bytes, ring: Ring, tiles: list[tuple[int, int]], data: st.DataObject
) -> None:
    stream = Keystream(key)
    in_order = {tile: stream.tile(*tile, ring).tolist() for tile in tiles}
    for index, elements in data.draw(st.permutations(tiles)):
        alone = Keystream(key).tile(index, elements, ring).tolist()
        assert alone == stream.tile(index, elements, ring).tolist()
        assert alone == in_order[index, elements]
