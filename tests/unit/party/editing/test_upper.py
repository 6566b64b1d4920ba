import pytest
import torch
from torch import Tensor, nn

from collabedit.party.editing.hooks import adding_to_output, capturing_output
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.token_tree import TokenTree, grow_tree
from collabedit.party.editing.upper import UpperBlocks
from tests.support.tiny_models import MODEL_TYPES
from tests.unit.party.editing.conftest import LoadTiny

Rows = list[list[tuple[tuple[int, ...], int]]]

SHARING: Rows = [
    [((1, 5, 6, 7, 8), 2), ((1, 9, 5, 6, 7, 8), 3), ((1, 5, 6), 2)],
    [((1, 9, 5, 3), 3), ((1, 4, 4, 4, 2, 2, 2), 4), ((1, 5), 1)],
    [((1, 5, 6, 7, 8), 2), ((1, 9), 1), ((1, 3, 3), 1)],
]
"""Edits 0 and 2 have the same first row; before the subject's end it is shared, no further."""

ALL_OWN: Rows = [[((5, 6, 7), 0), ((5, 6), 0)], [((5, 6, 7), 0), ((9,), 0)]]
"""No special token in front and the subject first: nothing is shared."""


def paths(tree: TokenTree, rows: Rows) -> list[tuple[int, tuple[int, ...]]]:
    """Per row of all edits: the edit, and its own nodes counted from the first of the tree."""
    return [
        (edit, tuple(node + tree.shared for node in tree.own_rows[edit][number]))
        for edit, own in enumerate(rows)
        for number in range(len(own))
    ]


@pytest.mark.parametrize("rows", [SHARING, ALL_OWN], ids=["sharing", "all-own"])
def test_every_row_is_a_path_of_the_tree(rows: Rows) -> None:
    tree = grow_tree(rows)
    flat = [row for own in rows for row in own]
    for (edit, path), (ids, last) in zip(paths(tree, rows), flat, strict=True):
        whole = tree.ancestors[path[-1]].nonzero()[:, 0].tolist()
        by_position = sorted(whole, key=lambda node: tree.positions[node])
        assert [tree.tokens[node] for node in by_position] == list(ids)
        assert [tree.positions[node] for node in by_position] == list(range(len(ids)))
        assert tuple(by_position[last:]) == path
        assert {tree.owners[node - tree.shared] for node in path} == {edit}
        assert all(node < tree.shared for node in by_position[:last])


def test_no_node_is_there_twice() -> None:
    tree = grow_tree(SHARING)
    # Shared: 1, 1-5, 1-9, 1-9-5, 1-4, 1-4-4, 1-4-4-4.
    assert tree.shared == 7
    # Edit 0 has 6-7-8 twice, and its last row is the start of its first.
    assert [tree.owners.count(edit) for edit in range(3)] == [6, 5, 6]
    assert len(set(tree.changed)) == 2 + 3 + 3
    assert grow_tree(ALL_OWN).shared == 0


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("layer", [0, 4])
@pytest.mark.parametrize("rows", [SHARING, ALL_OWN], ids=["sharing", "all-own"])
@pytest.mark.parametrize("taken", [(0, 1), (1,)])
def test_upper_blocks_give_what_ordinary_passes_give(
    model_type: str, layer: int, rows: Rows, taken: tuple[int, ...], load_tiny: LoadTiny
) -> None:
    model, tree = load_tiny(model_type), grow_tree(rows)
    upper = UpperBlocks(model, layer, tree)
    nodes = torch.tensor([node for node, edit in enumerate(tree.owners) if edit in taken])
    changed = torch.zeros(len(tree.owners), 1, dtype=torch.float64)
    changed[tree.changed] = 1
    vectors = torch.randn(len(rows), model.d_model, dtype=torch.float64)
    hidden = upper.start + changed * vectors[list(tree.owners)]
    upper.take(nodes)
    with torch.no_grad():
        found = dict(zip(nodes.tolist(), upper(hidden[nodes]), strict=True))
    for edit in taken:
        for number, (ids, last) in enumerate(rows[edit]):
            place = torch.tensor([last])
            with (
                torch.no_grad(),
                adding_to_output(model.block(layer), place, vectors[edit : edit + 1]),
            ):
                expected = model.forward(torch.tensor([ids]))[0, last:]
            row = torch.stack([found[node] for node in tree.own_rows[edit][number]])
            # These two have their attention in float32 whatever the model's dtype.
            tolerance = 1e-5 if model_type in ("gptj", "gemma2") else 1e-8
            torch.testing.assert_close(row, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_replays_are_faithful_with_every_architecture(model_type: str, load_tiny: LoadTiny) -> None:
    model, tree = load_tiny(model_type), grow_tree(SHARING)
    upper = UpperBlocks(model, 2, tree)
    assert upper.is_faithful(model, SHARING[1][1][0], tree.own_rows[1][1])
    assert not upper.is_faithful(model, SHARING[1][0][0], tree.own_rows[0][0][:1])


def test_the_layer_s_output_is_that_of_ordinary_passes(model: EditableModel) -> None:
    tree = grow_tree(SHARING)
    start = UpperBlocks(model, 2, tree).start
    for own, nodes in zip(SHARING, tree.own_rows, strict=True):
        for (ids, last), row in zip(own, nodes, strict=True):
            with torch.no_grad(), capturing_output(model.block(2)) as captured:
                model.forward(torch.tensor([ids]))
            torch.testing.assert_close(
                start[list(row)], captured.values[0, last:], rtol=1e-9, atol=1e-9
            )


def test_an_unfaithful_replay_is_noticed(model: EditableModel) -> None:
    # A block whose work depends on more than its arguments.
    calls = 0

    def drifting(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return output * (1 + calls)

    model.block(4).register_forward_hook(drifting)
    tree = grow_tree(SHARING)
    assert not UpperBlocks(model, 2, tree).is_faithful(model, SHARING[0][0][0], tree.own_rows[0][0])


def test_no_hook_is_left(model: EditableModel) -> None:
    UpperBlocks(model, 2, grow_tree(SHARING))
    assert not any(
        module._forward_pre_hooks or module._forward_hooks for module in model.hf.modules()
    )
