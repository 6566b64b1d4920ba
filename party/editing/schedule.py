"""How the wanted change is shared out over the edited layers.

* sequential: as MEMIT does it. Before layer i of L the last edited layer is read on the model as
  edited so far, and (z* - z_now)/(L - i) is still to be added (kmeng01/memit,
  `memit/memit_main.py`).
* parallel: all layers from the unedited model, (z* - z₀)/L each. The published CollabEdit code
  divides by L - i without editing in between, which pushes 2.3 to 2.5 times too far; not offered.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from torch import Tensor

from collabedit.errors import InputError
from collabedit.party.editing.keys import current_outputs
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.ranks import ALONE, Ranks
from collabedit.party.editing.targets import Targets
from collabedit.party.edits import Edit

Schedule: TypeAlias = Literal["sequential", "parallel"]


def residuals(
    model: EditableModel,
    edits: Sequence[Edit],
    targets: Targets,
    layer: int,
    *,
    layers: Sequence[int],
    schedule: Schedule,
    batch_size: int = 32,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Compute the residuals R of one layer: [d_out, n], float64, on the CPU.

    Args:
        model: for "sequential" as edited below `layer`, for "parallel" unedited.
        edits: n edits, those that `targets` was made from.
        targets: z* of the last of `layers`.
        layer: the layer about to be edited.
        layers: all edited layers, ascending.
        schedule: see the module.
        batch_size: prompts per forward pass.
        ranks: as `keys.compute_keys` has them.

    Raises:
        InputError: `layer` is not among `layers`, these do not ascend, or targets do not fit.
    """
    if list(layers) != sorted(set(layers)) or layer not in layers:
        raise InputError(f"layer {layer} is not one of ascending layers {list(layers)}")
    if targets.values.shape != (model.d_model, len(edits)):
        raise InputError(
            f"targets of shape {list(targets.values.shape)} are not those of {len(edits)} edits"
        )
    outputs = current_outputs(model, edits, layers[-1], batch_size=batch_size, ranks=ranks)
    missing = targets.values.double() - outputs
    remaining = len(layers) - layers.index(layer) if schedule == "sequential" else len(layers)
    return missing / remaining
