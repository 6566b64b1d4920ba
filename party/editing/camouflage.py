"""Camouflage of an update before it is published: decoy subjects' keys in its row space.

The row space of ΔW, in mapped coordinates, is spanned by the edited keys, so whoever has the model
before and after names edited subjects by a span test (KSTER, arXiv 2602.10134, stage I). Its
defence, subspace camouflage, mixes keys of decoys into that space and leaves what ΔW does to edited
keys as it is. With keys K, decoys D and K̃ = K + αD it is ΔW_def = ΔW K (K̃ᵀK)⁻¹ K̃ᵀ.

A party does not know the others' keys, and needs none. With B [d', r] any orthonormal basis of
Δ's row space and B̃ = B + αM,

    Δ_def = Δ B (B̃ᵀB)⁻¹ B̃ᵀ,      so  Δ_def k = Δ k  for every k in range(B),

and rank(Δ_def) = rank(Δ). Each column of M is the sum of q decoys' mapped keys, made orthogonal to
B and of length 1 each: then B̃ᵀB = I, and Δ_def = Δ + αΔBMᵀ is √(1 + α²q) times as long as Δ if
decoys are orthogonal to each other. Departures from the published code (reanatom/EditingAttack,
`memit_orth_main.py`): B is a basis that is drawn at random, not the keys, so that an edited key
shares its directions with all decoys, not with one; α is the length of each decoy beside a
direction's, so that with α = 1 any number q of them look like edits do.

What this buys, and what undoes it, is measured in docs/camouflage.md.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from collabedit.crypto.kdf import SECRET_BYTES
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.ring import Ring
from collabedit.crypto.rng import Randomness
from collabedit.errors import EditFileError, InputError
from collabedit.ids import LayerIndex
from collabedit.party.basis import Rotation
from collabedit.party.editing.key_map import KeyMap
from collabedit.party.editing.keys import compute_layer_keys
from collabedit.party.editing.model import EditableModel
from collabedit.party.edits import SLOT, Edit, load_edits
from collabedit.sketch import LowRankUpdate, Matrix

DECOY_PROMPT = "The mother tongue of {} is"
"""For decoys that are given as subjects alone; KSTER's template, since keys hardly depend on it."""

_NEGLIGIBLE = 1e-6
"""Singular values below this share of the largest one are left out of the released update: they are
rounding of the sums, and half-precision weights do not hold them, yet each would ask for decoys."""

_OUTSIDE = 0.1
"""Least share of a decoy's length outside the row space; with less it is an edit's key itself."""


@dataclass(frozen=True, slots=True)
class Camouflage:
    """How an update is camouflaged.

    Attributes:
        strength: α ≥ 0, the length of a decoy beside a direction of the update. With 1 decoys weigh
            as edits do; above, lengths tell one from the other.
        per_direction: q ≥ 1, decoys for each dimension of the row space.

    Raises:
        ValueError: out of range.
    """

    strength: float = 1.0
    per_direction: int = 1

    def __post_init__(self) -> None:
        if not (np.isfinite(self.strength) and self.strength >= 0 and self.per_direction >= 1):
            raise ValueError(
                "a strength is finite and not negative, decoys per direction 1 or more"
            )


def row_space(update: LowRankUpdate) -> Matrix:
    """Return an orthonormal basis B of an update's row space, [d', r].

    Directions whose singular value is below 1e-6 of the largest one do not count.
    """
    right = update.canonical().right
    lengths = np.linalg.norm(right, axis=1)  # square roots of the singular values
    kept = lengths**2 > _NEGLIGIBLE * float((lengths**2).max(initial=0.0))
    basis: Matrix = (right[kept] / lengths[kept, None]).T
    return basis


def camouflaged(
    update: LowRankUpdate, decoys: Matrix, camouflage: Camouflage, randomness: Randomness
) -> LowRankUpdate:
    """Mix decoys into the row space of an update; what it does to keys in there stays.

    Args:
        update: Δ, [d_out, d'], in mapped coordinates.
        decoys: mapped keys, [d', decoys], in the order in which they are taken.
        camouflage: how.
        randomness: of the basis; the publisher's own, for this copy alone.

    Returns:
        Δ_def, in mapped coordinates.

    Raises:
        InputError: too few decoys are there, or too few that do not lie in the row space.
    """
    basis = row_space(update)
    rank = basis.shape[1]
    if not rank:
        return update
    directions = Rotation(randomness.random_bytes(SECRET_BYTES), rank).undo(basis.T).T
    outside = _outside(basis, decoys)
    wanted = rank * camouflage.per_direction
    if outside.shape[1] < wanted:
        unfit = decoys.shape[1] - outside.shape[1]
        raise InputError(
            f"{decoys.shape[1]} decoys for {rank} directions with {camouflage.per_direction} each: "
            f"give {wanted + unfit} or more{f', {unfit} have the keys of edits' if unfit else ''}"
        )
    taken = outside[:, :wanted].reshape(len(basis), rank, camouflage.per_direction)
    mixed = directions + camouflage.strength * taken.sum(axis=2)
    # B̃ᵀB = I, since decoys are orthogonal to B: nothing is left to invert.
    return LowRankUpdate(update.left @ (update.right @ directions), mixed.T)


def _outside(basis: Matrix, decoys: Matrix) -> Matrix:
    """Return the parts of decoys outside the span, of length 1, without those that lie in it."""
    lengths = np.linalg.norm(decoys, axis=0)
    rest = decoys
    for _ in range(2):  # once leaves a rounding of the whole length in the span
        rest = rest - basis @ (basis.T @ rest)
    left = np.linalg.norm(rest, axis=0)
    fit = left > _OUTSIDE * lengths
    parts: Matrix = rest[:, fit] / left[fit]
    return parts


def camouflage_layers(
    model: EditableModel,
    updates: Mapping[LayerIndex, LowRankUpdate],
    decoys: Sequence[Edit],
    *,
    maps: Mapping[int, KeyMap],
    templates: Sequence[str],
    camouflage: Camouflage,
    randomness: Randomness,
) -> dict[LayerIndex, LowRankUpdate]:
    """Camouflage a session's update, with the same random choice of decoys in every layer.

    Other decoys in each layer would make them stand out: edits are the same in all.

    Args:
        model: as it is before the update.
        updates: by layer, in the model's own coordinates.
        decoys: to choose from, of different subjects.
        maps: Φ by layer.
        templates: the plan's context templates.
        camouflage: how.
        randomness: the publisher's own, for this copy alone.

    Returns:
        New updates, in the model's own coordinates. Nothing given is changed.

    Raises:
        InputError: too few decoys (`camouflaged`); names the layer.
    """
    order = _shuffled(len(decoys), randomness)
    keys = compute_layer_keys(model, [decoys[place] for place in order], sorted(updates), templates)
    made = {}
    for layer, update in sorted(updates.items()):
        mapping = maps[layer]
        mapped = LowRankUpdate(update.left, mapping.remap_rows(update.right))
        candidates = mapping.map_keys(keys[layer].numpy())
        try:
            hidden = camouflaged(mapped, candidates, camouflage, randomness)
        except InputError as error:
            raise InputError(f"layer {layer}: {error}") from error
        made[layer] = LowRankUpdate(hidden.left, mapping.unmap_rows(hidden.right))
    return made


def _shuffled(count: int, randomness: Randomness) -> list[int]:
    stream = Keystream(randomness.random_bytes(SECRET_BYTES))
    # An order by 64-bit words is uniform unless two are equal.
    return [int(place) for place in np.argsort(stream.tile(0, count, Ring.from_bits(64)))]


def load_decoys(path: Path) -> tuple[Edit, ...]:
    """Read decoys: a JSON list of subjects, or edits in any form that `load_edits` reads.

    Of records with one subject the first is kept. What records want to write does not matter.

    Raises:
        EditFileError: the file is neither.
    """
    subjects = _subjects(path)
    if subjects is None:
        records = load_edits(path)
    else:
        records = tuple(
            Edit(case_id=str(number), prompt=DECOY_PROMPT, subject=subject, target_new="")
            for number, subject in enumerate(subjects, 1)
        )
    first: dict[str, Edit] = {}
    for record in records:
        first.setdefault(record.subject, record)
    return tuple(first.values())


def _subjects(path: Path) -> list[str] | None:
    """Return a list of subjects, None if the file is something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None  # `load_edits` reads it, or says what is wrong
    if not isinstance(found, list) or not any(isinstance(entry, str) for entry in found):
        return None
    for number, entry in enumerate(found, 1):
        if not isinstance(entry, str) or not entry.strip() or SLOT in entry:
            raise EditFileError(f"{path}: entry {number}: is no subject, as others in the list are")
    return [entry.strip() for entry in found]
