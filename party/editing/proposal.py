"""A plan from a model and a covariance: digests and shapes read off, hyper-parameters as published.

Whoever writes the plan runs this once; the others check it against their own copies.
"""

from collections.abc import Sequence
from typing import Literal

import torch

from collabedit.crypto.graph import FULL_GRAPH_PARTIES
from collabedit.crypto.rng import Randomness
from collabedit.errors import InputError
from collabedit.party.editing.architectures import UNPUBLISHED
from collabedit.party.editing.covariance import Covariance
from collabedit.party.editing.hooks import capturing_output, stopping_after
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.tokens import prompt_ids
from collabedit.party.edits import SLOT
from collabedit.plan import (
    Aggregation,
    Bounds,
    Coordinator,
    Editing,
    Federation,
    Layer,
    Model,
    Party,
    Plan,
    Targets,
    Timing,
)
from collabedit.sketch import OVERSAMPLING
from collabedit.threat_model import minimum_threshold, proposed_corruptions

CONTEXT_TEMPLATES = ("{}", "The following is well known. {}", "As everybody can look up: {}")
"""Fixed texts, since sampled ones would differ from party to party."""

FRACTIONAL_BITS = {64: 40, 32: 18}
_HEADROOM = 0.9

KEY_FACTOR = 100.0
"""Cap of ‖k̃‖² in units of its mean over general text, d'/λ. Subjects' last tokens are rarer than
text: the demo's 60 facts have up to 10.6 of these units, 3 in the mean."""

RESIDUAL_FACTOR = 2.0
"""Cap of ‖r‖ in units of clamp_factor·‖z‖, the target search's own limit, with ‖z‖ the largest norm
that the last edited layer puts out for a short text. Twice, since ‖z‖ differs from text to text and
a sequential session moves it. The demo's targets move by up to 0.86 ‖z‖ of their own."""

_SAMPLE = "London is a city in England."


def propose_plan(
    model: EditableModel,
    covariance: Covariance,
    *,
    name: str,
    model_name: str,
    parties: Sequence[Party],
    aggregator: Coordinator,
    layers: Sequence[int],
    randomness: Randomness,
    covariance_weight: float | None = None,
    schedule: Literal["sequential", "parallel"] = "sequential",
    statistics: Literal["sketch", "dense"] = "sketch",
    ring_bits: Literal[32, 64] = 64,
    tile_bytes: int = 1 << 20,
    templates: Sequence[str] = CONTEXT_TEMPLATES,
    timing: Timing | None = None,
    target_steps: int | None = None,
) -> Plan:
    """Fill in a plan.

    Args:
        model: the unedited model.
        covariance: its second moments, for all of `layers`.
        name: of the plan.
        model_name: for people.
        parties: names, identities and bounds; their order fixes the ids.
        aggregator: name and identity.
        layers: to edit, ascending.
        randomness: draws the seed of the test matrix.
        covariance_weight: λ; None takes the value published for the architecture.
        schedule: see DESIGN of the plan's `editing`.
        statistics: `sketch`, or the paper's `dense`.
        ring_bits: 64 or 32.
        tile_bytes: of an upload frame.
        templates: fixed context templates, the bare one among them.
        timing: deadlines.
        target_steps: of the target search; None takes the published value.

    Raises:
        InputError: a layer without covariance, with one of another model, or without a block above.
        PlanError: the plan doesn't hold together.
    """
    missing = set(layers) - set(covariance.matrices)
    if missing:
        raise InputError(f"the covariance has no second moments of layer {min(missing)}")
    if not layers or max(layers) >= model.n_layers - 1:
        raise InputError(f"layers must be among 0 to {model.n_layers - 2}")
    for layer in layers:
        size = len(covariance.matrices[layer])
        if size != model.d_in(layer):
            raise InputError(
                f"the covariance of layer {layer} is of another model: its keys have {size} "
                f"entries, this model's {model.d_in(layer)}"
            )
    covariance.check_weights(model)
    defaults = model.architecture.defaults or UNPUBLISHED
    weight = float(defaults.covariance_weight if covariance_weight is None else covariance_weight)
    bits = FRACTIONAL_BITS[ring_bits]
    bound = _HEADROOM * 2.0 ** (ring_bits - 1 - bits) / len(parties)
    return Plan(
        version=1,
        name=name,
        federation=Federation(
            threshold=minimum_threshold(len(parties)),
            corruptions=(
                proposed_corruptions(len(parties)) if len(parties) > FULL_GRAPH_PARTIES else None
            ),
            aggregator=aggregator,
            parties=tuple(parties),
        ),
        model=Model(
            name=model_name,
            architecture=model.architecture.model_type,
            dtype=str(model.dtype).removeprefix("torch."),  # type: ignore[arg-type]
            weights=f"sha256:{model.weights_digest()}",
            tokenizer=f"sha256:{model.tokenizer_digest()}",
        ),
        editing=Editing(
            editor="memit",
            schedule=schedule,
            covariance_weight=weight,
            covariance=f"sha256:{covariance.digest()}",
            ridge=1.0,
            context_templates=tuple(templates),
            layers=tuple(
                Layer(
                    index=layer,
                    inputs=model.d_in(layer),
                    outputs=model.d_out(layer),
                    mapped=model.d_in(layer),
                )
                for layer in layers
            ),
            targets=Targets(
                learning_rate=defaults.learning_rate,
                steps=defaults.steps if target_steps is None else target_steps,
                clamp_factor=defaults.clamp_factor,
                weight_decay=defaults.weight_decay,
                kl_weight=defaults.kl_weight,
                stop_loss=0.05,
            ),
        ),
        aggregation=Aggregation(
            backend="masked",
            statistics=statistics,
            capacity=sum(party.max_edits for party in parties) + OVERSAMPLING,
            ring_bits=ring_bits,
            fractional_bits=bits,
            magnitude_bound=float(int(bound)),
            tile_bytes=tile_bytes,
            test_matrix_seed=randomness.random_bytes(32).hex(),
        ),
        bounds=Bounds(
            key_energy=KEY_FACTOR * max(model.d_in(layer) for layer in layers) / weight,
            residual_energy=_residual_energy(
                model, layer=max(layers), templates=templates, clamp_factor=defaults.clamp_factor
            ),
        ),
        timing=timing or Timing(),
    )


def _residual_energy(
    model: EditableModel, *, layer: int, templates: Sequence[str], clamp_factor: float
) -> float:
    """Cap ‖r‖² from what the clamp of the target search allows on this model.

    All tokens count, the first included, whose output many models make several times larger than
    any other: a bare template may have its subject there.
    """
    block, largest = model.block(layer), 0.0
    with torch.inference_mode():
        for template in templates:
            ids = prompt_ids(model, template.replace(SLOT, _SAMPLE))[: model.context_length]
            with capturing_output(block) as captured, stopping_after(block):
                model.forward(torch.tensor([ids]))
            norms = torch.linalg.vector_norm(captured.values.double(), dim=-1)
            largest = max(largest, float(norms.max()))
    return (RESIDUAL_FACTOR * clamp_factor * largest) ** 2
