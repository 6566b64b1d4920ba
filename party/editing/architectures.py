"""Where each architecture keeps what the editor touches, and hyper-parameters it is used with.

Keyed by `model_type` of transformers' configuration. Everything is declared: a module path is never
searched and an orientation never guessed, since a square weight would fit both ways.

Hyper-parameters are those that MEMIT (kmeng01/memit, `hparams/MEMIT`), AlphaEdit
(jianghoucheng/AlphaEdit, `hparams/MEMIT`) and EasyEdit (zjunlp/EasyEdit, `hparams/MEMIT`) publish
for the reference model named beside them; another depth gets the layers at the same relative depth.
"""

import enum
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from collabedit.errors import ModelError


class Orientation(enum.Enum):
    """How a projection stores its weight."""

    OUT_IN = "out_in"
    """`torch.nn.Linear`: [d_out, d_in], y = x Wᵀ."""
    IN_OUT = "in_out"
    """transformers' `Conv1D` (GPT-2): [d_in, d_out], y = x W."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """Published hyper-parameters of MEMIT for one reference model.

    Attributes:
        reference: the model and where its values are published.
        reference_blocks: how many blocks that model has.
        reference_layers: the layers edited in it, ascending.
        covariance_weight: λ.
        learning_rate, steps, clamp_factor, weight_decay, kl_weight: of the target search.
    """

    reference: str
    reference_blocks: int
    reference_layers: tuple[int, ...]
    covariance_weight: float
    learning_rate: float
    steps: int
    clamp_factor: float
    weight_decay: float
    kl_weight: float = 0.0625

    def layers(self, blocks: int) -> tuple[int, ...]:
        """Return the layers to edit in a model of `blocks` blocks, at the same relative depth.

        The last block is left out: the search for targets needs one above.
        """
        scale = blocks / self.reference_blocks
        scaled = {round(layer * scale) for layer in self.reference_layers}
        return tuple(sorted(layer for layer in scaled if layer < blocks - 1)) or (0,)


_GPT2_XL = Defaults(
    reference="GPT2-XL, kmeng01/memit",
    reference_blocks=48,
    reference_layers=(13, 14, 15, 16, 17),
    covariance_weight=20_000,
    learning_rate=0.5,
    steps=20,
    clamp_factor=0.75,
    weight_decay=0.5,
)
_GPT_J = Defaults(
    reference="GPT-J-6B, kmeng01/memit",
    reference_blocks=28,
    reference_layers=(3, 4, 5, 6, 7, 8),
    covariance_weight=15_000,
    learning_rate=0.5,
    steps=25,
    clamp_factor=0.75,
    weight_decay=0.5,
)
_GPT_NEOX = Defaults(
    reference="GPT-NeoX-20B, kmeng01/memit",
    reference_blocks=44,
    reference_layers=(6, 7, 8, 9, 10),
    covariance_weight=15_000,
    learning_rate=0.5,
    steps=20,
    clamp_factor=0.75,
    weight_decay=0.5,
)
_LLAMA = Defaults(
    reference="Llama-2-7B, zjunlp/EasyEdit",
    reference_blocks=32,
    reference_layers=(4, 5, 6, 7, 8),
    covariance_weight=15_000,
    learning_rate=0.5,
    steps=25,
    clamp_factor=4.0,
    weight_decay=1e-3,
)
UNPUBLISHED = _LLAMA
"""Where to start for an architecture without published values: Llama's, at the same depth."""

_MISTRAL = Defaults(
    reference="Mistral-7B, zjunlp/EasyEdit",
    reference_blocks=32,
    reference_layers=(4, 5, 6, 7, 8),
    covariance_weight=15_000,
    learning_rate=0.5,
    steps=25,
    clamp_factor=4.0,
    weight_decay=1e-3,
)
_QWEN = Defaults(
    reference="Qwen2.5-7B, zjunlp/EasyEdit",
    reference_blocks=28,
    reference_layers=(4, 5, 6, 7, 8),
    covariance_weight=15_000,
    learning_rate=0.5,
    steps=25,
    clamp_factor=4.0,
    weight_decay=1e-3,
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """Module paths of one architecture; `{}` stands for the number of the block.

    Attributes:
        model_type: transformers' name.
        block: transformer block; its (first) output is the residual stream, [rows, T, d_model].
        projection: the edited MLP projection; its input is the key, its output goes back into the
            residual stream.
        final_norm: norm between the last block and `lm_head`.
        lm_head: output embedding.
        orientation: how `projection` stores its weight.
        logit_softcap: attribute of the configuration that holds the cap c of c·tanh(logits/c).
        post_norm: a norm stands between `projection` and the residual stream (Gemma). Keys and
            the merge are the same, but a residual no longer reaches the stream at its length, so
            expect to need a smaller λ.
        defaults: hyper-parameters, None where nobody published any.
    """

    model_type: str
    block: str
    projection: str
    final_norm: str
    lm_head: str = "lm_head"
    orientation: Orientation = Orientation.OUT_IN
    logit_softcap: str | None = None
    post_norm: bool = False
    defaults: Defaults | None = None


def _llama_like(
    model_type: str,
    defaults: Defaults | None,
    *,
    logit_softcap: str | None = None,
    post_norm: bool = False,
) -> Architecture:
    return Architecture(
        model_type=model_type,
        block="model.layers.{}",
        projection="model.layers.{}.mlp.down_proj",
        final_norm="model.norm",
        logit_softcap=logit_softcap,
        post_norm=post_norm,
        defaults=defaults,
    )


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        architecture.model_type: architecture
        for architecture in (
            Architecture(
                model_type="gpt2",
                block="transformer.h.{}",
                projection="transformer.h.{}.mlp.c_proj",
                final_norm="transformer.ln_f",
                orientation=Orientation.IN_OUT,
                defaults=_GPT2_XL,
            ),
            Architecture(
                model_type="gptj",
                block="transformer.h.{}",
                projection="transformer.h.{}.mlp.fc_out",
                final_norm="transformer.ln_f",
                defaults=_GPT_J,
            ),
            # Pythia is gpt_neox too.
            Architecture(
                model_type="gpt_neox",
                block="gpt_neox.layers.{}",
                projection="gpt_neox.layers.{}.mlp.dense_4h_to_h",
                final_norm="gpt_neox.final_layer_norm",
                defaults=_GPT_NEOX,
            ),
            _llama_like("llama", _LLAMA),
            _llama_like("mistral", _MISTRAL),
            _llama_like("qwen2", _QWEN),
            _llama_like("qwen3", _QWEN),
            _llama_like("gemma", None),
            _llama_like("gemma2", None, logit_softcap="final_logit_softcapping", post_norm=True),
            _llama_like(
                "gemma3_text", None, logit_softcap="final_logit_softcapping", post_norm=True
            ),
            # Gemma 3 from 4B on also sees pictures; only its language model is edited. This class
            # of transformers caps no logits, whatever its configuration says.
            Architecture(
                model_type="gemma3",
                block="model.language_model.layers.{}",
                projection="model.language_model.layers.{}.mlp.down_proj",
                final_norm="model.language_model.norm",
                post_norm=True,
            ),
        )
    }
)


def architecture_for(model_type: str) -> Architecture:
    """Look up transformers' `model_type`.

    Raises:
        ModelError: not in the table.
    """
    try:
        return ARCHITECTURES[model_type]
    except KeyError:
        raise ModelError(
            f"architecture {model_type!r} is not known; known: {', '.join(sorted(ARCHITECTURES))}. "
            "Others can be described in a TOML file"
        ) from None


def _has_slot(path: str) -> str:
    if path.count("{}") != 1:
        raise ValueError("needs one {}")
    return path


class _ArchitectureFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model_type: str
    block: Annotated[str, AfterValidator(_has_slot)]
    projection: Annotated[str, AfterValidator(_has_slot)]
    final_norm: str
    lm_head: str = "lm_head"
    orientation: Orientation
    logit_softcap: str | None = None
    post_norm: bool = False


def load_architecture(path: Path) -> Architecture:
    """Read an architecture that the table lacks: a TOML file with the fields of `Architecture`.

    Raises:
        ModelError: the file cannot be read, lacks a field or has one too many.
    """
    try:
        entry = _ArchitectureFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{path}: field '{name}': {first['msg']}") from None
    return Architecture(**entry.model_dump())
