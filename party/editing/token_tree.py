"""Token rows of several searches as one tree, so that no token is run twice and none is padding.

A search for targets changes one block's output at the subject's last token. Under causal attention
whatever stands before that token, in all blocks, stays as it is; what stands behind it belongs to
one edit. Rows therefore become paths of a tree with two kinds of nodes: shared ones, before the
subject's end, where rows with the same beginning meet (those under one context template, say), and
own ones from there on, where only rows of one edit do. All nodes stand in one sequence, shared ones
first, and attend to their ancestors and themselves: tree attention, as in speculative decoding
(Miao et al., SpecInfer, 2024, section 4.2).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenTree:
    """Nodes of the rows of n edits; shared ones are numbered first, then own ones edit by edit.

    Attributes:
        tokens: id of each node.
        positions: of each node in its rows, from 0.
        ancestors: [nodes, nodes] bool: whether the row's node may attend to the column's.
        shared: how many nodes are shared.
        owners: edit of each own node.
        own_rows: per edit and row, the own nodes from the subject's last token on, counted from 0
            at the first own node of all.
    """

    tokens: tuple[int, ...] = field(repr=False)
    positions: tuple[int, ...]
    ancestors: Tensor = field(repr=False)
    shared: int
    owners: tuple[int, ...]
    own_rows: tuple[tuple[tuple[int, ...], ...], ...] = field(repr=False)

    @property
    def changed(self) -> list[int]:
        """Own nodes that stand for the subject's last token, without repetition."""
        return sorted({row[0] for rows in self.own_rows for row in rows})


def grow_tree(rows: Sequence[Sequence[tuple[Sequence[int], int]]]) -> TokenTree:
    """Merge rows into a tree.

    Args:
        rows: per edit its rows, as (token ids, index of the subject's last token).
    """
    tokens: list[int] = []
    positions: list[int] = []
    parents: list[int] = []
    known: dict[tuple[int, int, int], int] = {}

    def walk(node: int, ids: Sequence[int], owner: int) -> list[int]:
        path = []
        for token in ids:
            key = (node, token, owner)
            if key not in known:
                known[key] = len(tokens)
                tokens.append(token)
                positions.append(0 if node < 0 else positions[node] + 1)
                parents.append(node)
            node = known[key]
            path.append(node)
        return path

    before = [[walk(-1, ids[:last], -1) for ids, last in own] for own in rows]
    shared = len(tokens)
    own_rows: list[tuple[tuple[int, ...], ...]] = []
    owners: list[int] = []
    for edit, (own, paths) in enumerate(zip(rows, before, strict=True)):
        ends = [
            walk(path[-1] if path else -1, ids[last:], edit)
            for (ids, last), path in zip(own, paths, strict=True)
        ]
        own_rows.append(tuple(tuple(node - shared for node in end) for end in ends))
        owners += [edit] * (len(tokens) - shared - len(owners))
    ancestors = torch.eye(len(tokens), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            ancestors[node] |= ancestors[parent]
    return TokenTree(
        tokens=tuple(tokens),
        positions=tuple(positions),
        ancestors=ancestors,
        shared=shared,
        owners=tuple(owners),
        own_rows=tuple(own_rows),
    )
