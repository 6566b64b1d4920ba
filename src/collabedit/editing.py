"""The plan's section about how edits become statistics: editor, layers, templates, targets."""

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from collabedit.section import Digest, Section

EditorName: TypeAlias = Literal["memit", "ridge", "alphaedit", "emmet"]

_OWN_FIELDS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "memit": (frozenset({"covariance", "covariance_weight"}), frozenset()),
    "ridge": (frozenset(), frozenset({"shift"})),
    "alphaedit": (frozenset({"covariance", "nullspace_threshold", "l2"}), frozenset({"kept"})),
    "emmet": (frozenset({"covariance", "covariance_weight"}), frozenset()),
}
"""Of each editor: the fields of `editing`, and of every layer, that it alone decides about. They
are there exactly in its plans."""

_EDITING_FIELDS = sorted(frozenset().union(*(editing for editing, _ in _OWN_FIELDS.values())))
_LAYER_FIELDS = sorted(frozenset().union(*(layer for _, layer in _OWN_FIELDS.values())))


class Layer(Section):
    """One edited layer: `inputs` = d_in, `outputs` = d_out, `mapped` = d' of its projection.

    Attributes:
        shift: `ridge`: λ_l, the ridge of this layer is e^λ_l.
        kept: `alphaedit`: dimension of the near-null space, so that all parties cut E[kkᵀ] at the
            same eigenvalue.
    """

    index: Annotated[int, Field(ge=0, le=10_000)]
    inputs: Annotated[int, Field(ge=1, le=1 << 20)]
    outputs: Annotated[int, Field(ge=1, le=1 << 20)]
    mapped: Annotated[int, Field(ge=1, le=1 << 20)]
    shift: Annotated[float, Field(ge=-100, le=100)] | None = None
    kept: Annotated[int, Field(ge=1, le=1 << 20)] | None = None

    @model_validator(mode="after")
    def _check(self) -> "Layer":
        if self.kept is not None and self.kept > self.inputs:
            raise ValueError(f"kept {self.kept} exceeds inputs {self.inputs}")
        return self


def _has_one_slot(text: str) -> bool:
    before, slot, after = text.partition("{}")
    return bool(slot) and not set("{}") & set(before + after)


class Targets(Section):
    """How each party optimises its target vectors z* (MEMIT, `compute_z`)."""

    learning_rate: Annotated[float, Field(gt=0, le=10)]
    steps: Annotated[int, Field(ge=1, le=1000)]
    clamp_factor: Annotated[float, Field(gt=0, le=100)]
    weight_decay: Annotated[float, Field(ge=0, le=100)]
    kl_weight: Annotated[float, Field(ge=0, le=100)]
    stop_loss: Annotated[float, Field(ge=0, le=10)]
    kl_prompt: str = "{} is a"

    @field_validator("kl_prompt")
    @classmethod
    def _one_slot(cls, prompt: str) -> str:
        if not _has_one_slot(prompt):
            raise ValueError("must hold {} exactly once and no other brace")
        return prompt


class Editing(Section):
    """The editor and everything that its statistics depend on.

    Optional fields belong to some editors and must be absent with the others.

    Attributes:
        editor: names the key map Φ; the aggregator ignores it.
        schedule: `sequential` sums layer by layer, `parallel` all layers on the unedited model.
        covariance_weight: `memit`, `emmet`: λ of C = λE[kkᵀ]. EMMET's update does not depend on
            it, only the scale of what is summed.
        covariance: `memit`, `alphaedit`, `emmet`: digest of the covariance artefact.
        nullspace_threshold: `alphaedit`: eigenvalues of E[kkᵀ] below it span the near-null space.
        l2: `alphaedit`: L₂, its ridge.
        ridge: ρ of the merge, 0 for `emmet` and positive for the others.
        skip_residual: τ; an edit with ‖z* - z‖ ≤ τ‖z*‖ at the last edited layer, on the model as it
            is at the session's start, is not edited, but brought as a past one if there is a
            memory; None edits all.
        key_length: c, to which every mapped key is scaled, and its residual with it: the edit of
            least squares with weight c²/‖k̃‖². What is summed then tells nothing of edits by the
            lengths of their keys (docs/closed-sums.md). None leaves keys as they are.
        context_templates: each holds `{}` once; fixed text, never sampled.
        layers: ascending.
    """

    editor: EditorName
    schedule: Literal["sequential", "parallel"]
    covariance_weight: Annotated[float, Field(gt=0)] | None = None
    covariance: Digest | None = None
    nullspace_threshold: Annotated[float, Field(gt=0)] | None = None
    l2: Annotated[float, Field(gt=0)] | None = None
    ridge: Annotated[float, Field(ge=0)]
    skip_residual: Annotated[float, Field(gt=0, lt=1)] | None = None
    key_length: Annotated[float, Field(gt=0)] | None = None
    context_templates: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    layers: Annotated[tuple[Layer, ...], Field(min_length=1, strict=False)]
    targets: Targets

    @field_validator("context_templates")
    @classmethod
    def _one_placeholder(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for position, template in enumerate(templates, 1):
            if not _has_one_slot(template):
                raise ValueError(f"template {position} must hold {{}} exactly once")
        if "{}" not in templates:
            raise ValueError("the bare template {} must be among the context templates")
        return templates

    @field_validator("layers")
    @classmethod
    def _ascending(cls, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        indices = [layer.index for layer in layers]
        if indices != sorted(set(indices)):
            raise ValueError("layers must ascend without repeats")
        return layers

    @model_validator(mode="after")
    def _check(self) -> "Editing":
        own, of_layers = _OWN_FIELDS[self.editor]
        for name in _EDITING_FIELDS:
            self._demand(name, there=getattr(self, name) is not None, wanted=name in own)
        for layer in self.layers:
            for name in _LAYER_FIELDS:
                self._demand(
                    f"{name} in layer {layer.index}",
                    there=getattr(layer, name) is not None,
                    wanted=name in of_layers,
                )
        if (self.ridge == 0) != (self.editor == "emmet"):
            wanted = "0, its edits are constraints" if self.editor == "emmet" else "above 0"
            raise ValueError(f"ridge {self.ridge:g} with editor {self.editor}: must be {wanted}")
        return self

    def _demand(self, field: str, *, there: bool, wanted: bool) -> None:
        if wanted and not there:
            raise ValueError(f"editor {self.editor} needs {field}")
        if there and not wanted:
            raise ValueError(f"{field} has no meaning with editor {self.editor}")
