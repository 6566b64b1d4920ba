"""What an aggregator may release instead of the merge, by name. In the coordinates that it sees."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from collabedit.ids import LayerIndex
from collabedit.sketch import LowRankUpdate, Matrix

Updates = Mapping[LayerIndex, LowRankUpdate]
Tamper = Callable[[Updates, float], Updates]
"""Alters updates; the number says by how much, as a share of ‖ΔW‖, where that can be chosen."""


def _norm(update: LowRankUpdate) -> float:
    return float(np.linalg.norm(update.dense()))


def _plus(update: LowRankUpdate, left: Matrix, right: Matrix) -> LowRankUpdate:
    # In the place of the weakest direction, so that the rank stays what the plan allows.
    kept = slice(None, max(update.rank - 1, 0))
    rest = update.left[:, -1:] @ update.right[-1:]
    dense = left @ right + rest
    u, values, vt = np.linalg.svd(dense, full_matrices=False)
    extra = slice(None, 2)
    return LowRankUpdate(
        np.hstack([update.left[:, kept], u[:, extra] * values[extra]]),
        np.vstack([update.right[kept], vt[extra]]),
    )


def single_entry(updates: Updates, size: float) -> Updates:
    """Change one entry of one layer."""
    layer = min(updates)
    update = updates[layer]
    left, right = np.zeros((len(update.left), 1)), np.zeros((1, update.right.shape[1]))
    left[len(left) // 2, 0], right[0, right.size // 3] = size * _norm(update), 1.0
    return {**updates, layer: _plus(update, left, right)}


def random_direction(updates: Updates, size: float) -> Updates:
    """Add a rank-one matrix of random directions to the last layer."""
    layer = max(updates)
    update = updates[layer]
    rng = np.random.default_rng(7)
    left = rng.standard_normal((len(update.left), 1))
    right = rng.standard_normal((1, update.right.shape[1]))
    left *= size * _norm(update) / (np.linalg.norm(left) * np.linalg.norm(right))
    return {**updates, layer: _plus(update, left, right)}


def scaled_layer(updates: Updates, size: float) -> Updates:
    """Make one layer's update larger."""
    layer = max(updates)
    update = updates[layer]
    return {**updates, layer: LowRankUpdate(update.left * (1 + size), update.right)}


def truncated(updates: Updates, size: float) -> Updates:
    """Leave the weakest direction out of every layer."""
    del size
    return {
        layer: LowRankUpdate(update.left[:, :-1], update.right[:-1])
        for layer, update in updates.items()
    }


def truncated_in_place(updates: Updates, size: float) -> Updates:
    """The same, and claim the full rank."""
    del size
    changed = {}
    for layer, update in updates.items():
        left = update.left.copy()
        left[:, -1] = 0
        changed[layer] = LowRankUpdate(left, update.right)
    return changed


def nothing(updates: Updates, size: float) -> Updates:
    """Release no edit at all."""
    del size
    return {
        layer: LowRankUpdate(update.left[:, :0], update.right[:0])
        for layer, update in updates.items()
    }


def negated(updates: Updates, size: float) -> Updates:
    """Edit the other way round."""
    del size
    return {layer: LowRankUpdate(-update.left, update.right) for layer, update in updates.items()}


def swapped_layers(updates: Updates, size: float) -> Updates:
    """Release each layer's update for the next one."""
    del size
    layers = sorted(updates)
    moved = {later: updates[layer] for layer, later in pairwise(layers)}
    return {**moved, layers[0]: updates[layers[-1]]}


@dataclass(frozen=True)
class Tampering:
    """One way to tamper.

    Attributes:
        name: of the row.
        alter: does it.
        has_size: whether it comes in sizes.
        layers: fewest layers in a task that it makes sense for.
    """

    name: str
    alter: Tamper
    has_size: bool = False
    layers: int = 1


TAMPERINGS = (
    Tampering("single entry", single_entry, has_size=True),
    Tampering("random direction", random_direction, has_size=True),
    Tampering("scaled layer", scaled_layer, has_size=True),
    Tampering("rank truncated", truncated),
    Tampering("rank truncated, claimed full", truncated_in_place),
    Tampering("no edit", nothing),
    Tampering("negated", negated),
    Tampering("swapped layers", swapped_layers, layers=2),
)
