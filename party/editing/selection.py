"""Which edits the model satisfies already, measured once, before a session changes anything.

CollabEdit (arXiv 2410.09508) watches the norm of the residual to tell when an edit has become
superfluous. Here it is per edit: with z* its target and z what the last edited layer puts out now
at the subject's last token of the bare prompt, both [d_model], the distance is ‖z* - z‖ / ‖z*‖,
Euclidean. A target search that finds its loss below `stop_loss` at once leaves z* = z and the
distance zero. The numbers are kept with the targets: measured anew after a restart, another
rounding might decide otherwise in the middle of a session.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from collabedit.errors import NumericError
from collabedit.party.editing.keys import current_outputs
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.ranks import ALONE, Ranks
from collabedit.party.editing.targets import Targets
from collabedit.party.edits import Edit, edits_digest


@dataclass(frozen=True, slots=True)
class Selection:
    """A party's edits, divided.

    Attributes:
        edits: to be edited.
        targets: z* of `edits`.
        held: edits that the model satisfies already.
    """

    edits: tuple[Edit, ...] = field(repr=False)
    targets: Targets = field(repr=False)
    held: tuple[Edit, ...] = field(repr=False)


def distances(
    model: EditableModel,
    edits: Sequence[Edit],
    targets: Targets,
    layer: int,
    *,
    batch_size: int = 32,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Measure ‖z* - z‖ / ‖z*‖ of each edit: [n], float64, on the CPU.

    Args:
        model: as it is at the session's start.
        edits: n edits.
        targets: z* of `edits`.
        layer: the last edited layer.
        batch_size: prompts per forward pass.
        ranks: as `keys.compute_keys` has them.

    Raises:
        NumericError: a distance is not finite.
    """
    wanted = targets.values.double()
    missing = wanted - current_outputs(model, edits, layer, batch_size=batch_size, ranks=ranks)
    found: Tensor = torch.linalg.vector_norm(missing, dim=0) / torch.linalg.vector_norm(
        wanted, dim=0
    )
    if not bool(torch.isfinite(found).all()):
        raise NumericError("the distance of an edit from its target is not finite")
    return found


def select_edits(edits: Sequence[Edit], targets: Targets, threshold: float | None) -> Selection:
    """Divide edits by their distance from their targets.

    Args:
        edits: n edits.
        targets: of `edits`, with `distances` if there is a threshold.
        threshold: τ, the plan's `editing.skip_residual`; at most this far counts as satisfied.
            None edits all.

    Raises:
        ValueError: targets without distances, or of other edits.
    """
    if threshold is None:
        return Selection(tuple(edits), targets, ())
    if targets.distances is None or len(targets.distances) != len(edits):
        raise ValueError("the targets come without a distance for each edit")
    is_held = (targets.distances <= threshold).tolist()
    kept = [index for index, held in enumerate(is_held) if not held]
    chosen = tuple(edits[index] for index in kept)
    return Selection(
        chosen,
        replace(
            targets,
            values=targets.values[:, kept],
            edits_digest=edits_digest(chosen),
            distances=targets.distances[kept],
        ),
        tuple(edit for edit, held in zip(edits, is_held, strict=True) if held),
    )
