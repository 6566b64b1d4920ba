"""Hyper-parameters by editor and architecture, as published; what `collabedit plan new` fills in.

| editor | source | own parameters |
|---|---|---|
| memit | kmeng01/memit, jianghoucheng/AlphaEdit and zjunlp/EasyEdit, `hparams/MEMIT` | λ |
| emmet | zjunlp/EasyEdit, `hparams/EMMET` | none |
| alphaedit | jianghoucheng/AlphaEdit and zjunlp/EasyEdit, `hparams/AlphaEdit` | threshold, L₂ |
| ridge | zjunlp/EasyEdit, `easyeditor/trainer/algs/malmen/nets.py` | λ_l |

Layers and target search of EMMET (GPT2-XL, GPT-J, Llama) are MEMIT's in those files. Its
`emmet_lambda` 0.1 has no counterpart here: it softens the constraint, which makes it MEMIT with λ =
0.1. Its `mom2_update_weight` 1 changes nothing in an equality-constrained update; MEMIT's λ is
taken instead, which brings mapped keys to a length that suits the fixed point.

MALMEN learns its λ_l, one for each layer, from the start value 0 (`lamda.weight.data.fill_(0)`),
together with a network that makes the residuals. Here residuals come from the target search, with
MEMIT's settings, and nothing is learned: 0 is where to begin, and nobody published better.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from collabedit.editing import EditorName
from collabedit.party.editing.architectures import UNPUBLISHED, Architecture, Defaults

RIDGE_SHIFT = 0.0
"""λ_l: start value of MALMEN's training."""


@dataclass(frozen=True, slots=True)
class NullSpaceDefaults:
    """AlphaEdit's own parameters for one reference model.

    Attributes:
        reference: the model and where its values are published.
        threshold: on eigenvalues of E[kkᵀ]. The paper's text says 1e-2, all published files 2e-2.
        l2: L₂.
    """

    reference: str
    threshold: float
    l2: float


NULL_SPACE: Mapping[str, NullSpaceDefaults] = MappingProxyType(
    {
        "gpt2": NullSpaceDefaults("GPT2-XL, jianghoucheng/AlphaEdit", 2e-2, 10.0),
        "gptj": NullSpaceDefaults("GPT-J-6B, jianghoucheng/AlphaEdit", 2e-2, 10.0),
        "llama": NullSpaceDefaults("Llama-3-8B, jianghoucheng/AlphaEdit", 2e-2, 10.0),
        "qwen2": NullSpaceDefaults("Qwen2.5-7B, zjunlp/EasyEdit", 2e-2, 1.0),
        "qwen3": NullSpaceDefaults("Qwen2.5-7B, zjunlp/EasyEdit", 2e-2, 1.0),
    }
)
"""By `model_type`."""

UNPUBLISHED_NULL_SPACE = NULL_SPACE["llama"]
"""Where to start for an architecture without published values."""


def null_space_defaults(architecture: Architecture) -> NullSpaceDefaults:
    """Return AlphaEdit's own parameters for an architecture."""
    return NULL_SPACE.get(architecture.model_type, UNPUBLISHED_NULL_SPACE)


def defaults_for(architecture: Architecture, editor: EditorName) -> Defaults:
    """Return layers and target search of an editor for an architecture.

    MEMIT's, but for AlphaEdit on Llama, whose values are published for Llama-3-8B
    (jianghoucheng/AlphaEdit, `hparams/AlphaEdit/Llama3-8B.json`). For GPT2-XL, GPT-J and Qwen2.5
    AlphaEdit's files have MEMIT's values.
    """
    defaults = architecture.defaults or UNPUBLISHED
    if editor == "alphaedit" and architecture.model_type == "llama":
        return replace(
            defaults,
            reference=NULL_SPACE["llama"].reference,
            learning_rate=0.1,
            steps=25,
            clamp_factor=0.75,
            weight_decay=0.5,
        )
    return defaults
