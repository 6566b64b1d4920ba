"""A plan from a model and a covariance: digests and shapes read off, hyper-parameters as published.

Whoever writes the plan runs this once; the others check it against their own copies.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from collabedit.acceptance import Acceptance
from collabedit.bounds import KEY_FACTOR
from collabedit.closed import Closed
from collabedit.crypto.graph import FULL_GRAPH_PARTIES
from collabedit.crypto.rng import Randomness
from collabedit.editing import Editing, EditorName, Layer, Targets
from collabedit.encrypted import PRIME_BITS, guard_bits
from collabedit.errors import InputError, NumericError
from collabedit.federation import Coordinator, Federation, Party
from collabedit.memory import Memory
from collabedit.overlap import Overlap, Policy, smallest_tables
from collabedit.party.editing.covariance import Covariance
from collabedit.party.editing.hooks import capturing_input, capturing_output, stopping_after
from collabedit.party.editing.hyperparameters import (
    RIDGE_SHIFT,
    defaults_for,
    null_space_defaults,
)
from collabedit.party.editing.key_map import null_space_size
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.tokens import prompt_ids
from collabedit.party.editing.updates import SavedUpdate, continued
from collabedit.party.edits import SLOT
from collabedit.plan import Aggregation, BackendName, Bounds, Model, Plan, Timing
from collabedit.sketch import OVERSAMPLING, Matrix
from collabedit.threat_model import minimum_threshold, proposed_corruptions

CONTEXT_TEMPLATES = ("{}", "The following is well known. {}", "As everybody can look up: {}")
"""Fixed texts, since sampled ones would differ from party to party."""

CLOSED = Closed()

ENCRYPTED_BITS = (24, 40)
"""Least and most of ciphertexts, whose prime has 60 bits for sum and guard together."""

FRACTIONAL_BITS = {64: (40, 46), 32: (18, 18)}
"""Least and most by ring. More would be below what float64 has of numbers of a few hundred."""

MAGNITUDE = 32768.0
"""A party's numbers may be this large if the ring allows. Those of the demo's edits reach 200; past
edits that weigh λ, a few thousand."""

_HEADROOM = 0.9

RESIDUAL_FACTOR = 2.0
"""Cap of ‖r‖ in units of clamp_factor·‖z‖, the target search's own limit, with ‖z‖ the largest norm
that the last edited layer puts out for a short text. Twice, since ‖z‖ differs from text to text and
a sequential session moves it. The demo's targets move by up to 0.86 ‖z‖ of their own."""

LENGTH_UNITS = 2.0
"""Proposed ‖k̃‖² of keys of one length, in units of its mean over general text. Facts have 3 in the
mean on the demo's model; the shorter ones decide how well all are edited, and the more there is of
it, the more the neighbourhood moves (docs/closed-sums.md, section 10)."""

LENGTH_REACH = 16.0
"""By how much keys of one length raise the cap of ‖r‖²: the largest residual may have a key of a
quarter of that length. Of 1,000 CounterFact subjects on the demo's model none is shorter."""

FALSE_POSITIVE = 1e-6
PARAPHRASES = 2
"""An edit that wins a conflict then stands for three requests, each with its own context."""

_PARAMETERS_OF: Mapping[EditorName, frozenset[str]] = {
    "memit": frozenset({"covariance_weight"}),
    "ridge": frozenset({"shift"}),
    "alphaedit": frozenset({"nullspace_threshold", "l2"}),
    "emmet": frozenset({"covariance_weight"}),
}

_SAMPLE = "London is a city in England."


@dataclass(frozen=True, slots=True)
class OverlapWish:
    """What the author of a plan decides about overlap; the sizes follow.

    Attributes:
        policy: of conflicts.
        false_positive: largest probability that any count is too high.
        paraphrases: `augment`: most requests that a winning edit adds.
    """

    policy: Policy
    false_positive: float = FALSE_POSITIVE
    paraphrases: int = PARAPHRASES

    def section(self, parties: Sequence[Party]) -> Overlap:
        """Choose the smallest tables.

        Raises:
            InputError: a probability out of range, or one that no tables give.
        """
        if not 0 < self.false_positive < 1:
            raise InputError(f"false positive {self.false_positive:g} must be between 0 and 1")
        try:
            rows, width = smallest_tables(
                sum(party.max_edits for party in parties), self.false_positive
            )
        except ValueError as error:
            raise InputError(str(error)) from error
        return Overlap(
            policy=self.policy,
            false_positive=self.false_positive,
            rows=rows,
            width=width,
            paraphrases=self.paraphrases if self.policy == "augment" else None,
        )


def propose_plan(
    model: EditableModel,
    covariance: Covariance | None,
    *,
    name: str,
    model_name: str,
    parties: Sequence[Party],
    aggregator: Coordinator,
    layers: Sequence[int],
    randomness: Randomness,
    editor: EditorName = "memit",
    covariance_weight: float | None = None,
    nullspace_threshold: float | None = None,
    l2: float | None = None,
    shift: float | None = None,
    schedule: Literal["sequential", "parallel"] = "sequential",
    statistics: Literal["sketch", "dense"] = "sketch",
    backend: BackendName = "masked",
    ring_bits: Literal[32, 64] = 64,
    tile_bytes: int = 1 << 20,
    templates: Sequence[str] = CONTEXT_TEMPLATES,
    timing: Timing | None = None,
    target_steps: int | None = None,
    skip_residual: float | None = None,
    length_units: float | None = None,
    memory: Memory | None = None,
    history: Sequence[SavedUpdate] = (),
    overlap: OverlapWish | None = None,
    acceptance: Acceptance | None = None,
    closed: Closed | None = CLOSED,
) -> Plan:
    """Fill in a plan.

    Args:
        model: the unedited model, as the checkpoint has it; it stays so.
        covariance: its second moments, for all of `layers`; `ridge` needs none.
        name: of the plan.
        model_name: for people.
        parties: names, identities and bounds; their order fixes the ids.
        aggregator: name and identity.
        layers: to edit, ascending.
        randomness: draws the seed of the test matrix.
        editor: with ρ = 0 for `emmet` and 1 for the others.
        covariance_weight: λ of `memit` and `emmet`; None takes the published value, as below.
        nullspace_threshold: of `alphaedit`.
        l2: of `alphaedit`.
        shift: λ_l of `ridge`, for all layers.
        schedule: see DESIGN of the plan's `editing`.
        statistics: `sketch`, or the paper's `dense`.
        backend: `masked` or `ckks`.
        ring_bits: 64 or 32.
        tile_bytes: of an upload frame.
        templates: fixed context templates, the bare one among them.
        timing: deadlines.
        target_steps: of the target search; None takes the published value.
        skip_residual: τ of `editing.skip_residual`; None edits all.
        length_units: scale all mapped keys to one length, `editing.key_length`: ‖k̃‖² is so many
            times its mean over general text; None leaves them as they are.
        memory: how past edits take part; None leaves them out.
        history: updates of the earlier sessions that this one continues (`load_history`).
        overlap: count what parties share; None does not.
        acceptance: bounds of a vote on the update; None asks for none.
        closed: how sums are closed; None leaves them open, and merges unchecked.

    Raises:
        InputError: a layer without covariance, with one of another model, or without a block above;
            no covariance where the editor needs one; a parameter of another editor, or one that
            is not positive; a threshold that cuts no clear null space.
        PlanError: the plan doesn't hold together.
    """
    if not layers or max(layers) >= model.n_layers - 1:
        raise InputError(f"layers must be among 0 to {model.n_layers - 2}")
    given = {
        "covariance_weight": covariance_weight,
        "nullspace_threshold": nullspace_threshold,
        "l2": l2,
        "shift": shift,
    }
    moments = _second_moments(model, covariance, layers, editor=editor)
    parameters = _parameters(model, editor=editor, moments=moments, given=given, layers=layers)
    defaults = defaults_for(model.architecture, editor)
    weights = f"sha256:{model.weights_digest()}"
    with continued(model, history):
        residual_energy = _residual_energy(
            model, layer=max(layers), templates=templates, clamp_factor=defaults.clamp_factor
        )
    if length_units is not None:
        residual_energy *= LENGTH_REACH
    past = 0 if memory is None else len(parties) * memory.max_edits
    cover = 0 if closed is None else len(parties) * closed.cover_edits
    key_energy = KEY_FACTOR * parameters.key_energy
    length = None if length_units is None else math.sqrt(length_units * parameters.key_energy)
    reach = 0.0
    if closed is not None:
        columns: float = max(party.max_edits for party in parties) + closed.cover_edits
        columns += 0 if memory is None else memory.max_edits * max(memory.weight, 1)
        reach = closed.decoy_reach(
            residuals=sum(party.max_edits for party in parties) * residual_energy,
            keys=columns * (key_energy if length is None else length**2),
        )
    capacity = sum(party.max_edits for party in parties) + past + cover + OVERSAMPLING
    room = ring_bits - 1
    bits = fractional_bits(ring_bits, len(parties), reach)
    if backend == "ckks":
        decoys = 0 if closed is None or closed.decoy_bound is None else capacity
        lengths = [
            (layer.mapped + layer.outputs + decoys) * capacity
            if statistics == "sketch"
            else layer.mapped * (layer.mapped + 1) // 2 + (layer.outputs + decoys) * layer.mapped
            for layer in parameters.layers
        ]
        longest = sum(lengths) if schedule == "parallel" else max(lengths)
        room = PRIME_BITS[0] - 1 - guard_bits(longest, len(parties))
        bits = encrypted_bits(room, len(parties), reach)
    bound = _HEADROOM * 2.0 ** (room - bits) / len(parties)
    return Plan(
        version=1,
        name=name,
        federation=Federation(
            threshold=minimum_threshold(len(parties)),
            corruptions=(
                proposed_corruptions(len(parties))
                if len(parties) > FULL_GRAPH_PARTIES and backend == "masked"
                else None
            ),
            aggregator=aggregator,
            parties=tuple(parties),
        ),
        model=Model(
            name=model_name,
            architecture=model.architecture.model_type,
            dtype=str(model.dtype).removeprefix("torch."),  # type: ignore[arg-type]
            weights=weights,
            tokenizer=f"sha256:{model.tokenizer_digest()}",
            previous=tuple(saved.session for saved in history) or None,
        ),
        editing=Editing(
            editor=editor,
            schedule=schedule,
            covariance_weight=parameters.weight,
            covariance=f"sha256:{covariance.digest()}" if covariance and moments else None,
            nullspace_threshold=parameters.threshold,
            l2=parameters.l2,
            ridge=0.0 if editor == "emmet" else 1.0,
            skip_residual=skip_residual,
            key_length=length,
            context_templates=tuple(templates),
            layers=parameters.layers,
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
            backend=backend,
            statistics=statistics,
            capacity=capacity,
            ring_bits=ring_bits,
            fractional_bits=bits,
            magnitude_bound=float(int(bound)),
            tile_bytes=tile_bytes,
            test_matrix_seed=randomness.random_bytes(32).hex(),
        ),
        bounds=Bounds(key_energy=key_energy, residual_energy=residual_energy),
        memory=memory,
        timing=timing or Timing(),
        overlap=None if overlap is None else overlap.section(parties),
        acceptance=acceptance,
        closed=closed,
    )


def fractional_bits(ring_bits: int, parties: int, decoys: float = 0.0) -> int:
    """Return f: what `MAGNITUDE` leaves of the ring, within `FRACTIONAL_BITS`.

    Args:
        ring_bits: 32 or 64.
        parties: how many.
        decoys: how far they reach; where that is further, no fewer bits are left than they take.
    """
    least, most = FRACTIONAL_BITS[ring_bits]
    room = math.log2(_HEADROOM * 2.0 ** (ring_bits - 1) / (parties * max(MAGNITUDE, decoys)))
    return min(math.floor(room) if decoys > MAGNITUDE else max(math.floor(room), least), most)


def encrypted_bits(room: int, parties: int, decoys: float = 0.0) -> int:
    """Return f of ciphertexts: what `MAGNITUDE` and decoys leave of `room`, in `ENCRYPTED_BITS`.

    Raises:
        InputError: they leave too little.
    """
    least, most = ENCRYPTED_BITS
    left = math.floor(math.log2(_HEADROOM * 2.0**room / (parties * max(MAGNITUDE, decoys))))
    if left < least:
        raise InputError(
            f"backend ckks leaves {left} fractional bits, {least} are the least: use masked, fewer "
            "parties, or no decoys"
        )
    return min(left, most)


@dataclass(frozen=True, slots=True)
class _Parameters:
    """What an editor alone decides about.

    Attributes:
        layers: with the editor's own fields.
        key_energy: mean ‖k̃‖² over general text, of the layer where it is largest.
        weight: λ.
        threshold: of the null space.
        l2: L₂.
    """

    layers: tuple[Layer, ...]
    key_energy: float
    weight: float | None = None
    threshold: float | None = None
    l2: float | None = None


def _second_moments(
    model: EditableModel,
    covariance: Covariance | None,
    layers: Sequence[int],
    *,
    editor: EditorName,
) -> dict[int, Matrix]:
    """E[kkᵀ] of each layer; empty for an editor that uses none."""
    if editor == "ridge":
        if covariance is not None:
            raise InputError("editor ridge takes no covariance")
        return {}
    if covariance is None:
        raise InputError(f"editor {editor} needs a covariance")
    missing = set(layers) - set(covariance.matrices)
    if missing:
        raise InputError(f"the covariance has no second moments of layer {min(missing)}")
    for layer in layers:
        size = len(covariance.matrices[layer])
        if size != model.d_in(layer):
            raise InputError(
                f"the covariance of layer {layer} is of another model: its keys have {size} "
                f"entries, this model's {model.d_in(layer)}"
            )
    covariance.check_weights(model)
    return {layer: covariance.matrices[layer] for layer in layers}


def _parameters(
    model: EditableModel,
    *,
    editor: EditorName,
    moments: Mapping[int, Matrix],
    given: Mapping[str, float | None],
    layers: Sequence[int],
) -> _Parameters:
    """Fill in an editor's own parameters, as given or else as published."""
    for name, value in given.items():
        if value is not None and name not in _PARAMETERS_OF[editor]:
            raise InputError(f"{name} has no meaning with editor {editor}")
        if value is not None and name != "shift" and not value > 0:
            raise InputError(f"{name} {value:g} must be above 0")

    def chosen(name: str, published: float) -> float:
        value = given[name]
        return float(published if value is None else value)

    def shape(layer: int) -> dict[str, int]:
        inputs = model.d_in(layer)
        return {
            "index": layer,
            "inputs": inputs,
            "outputs": model.d_out(layer),
            "mapped": inputs,
        }

    plain = tuple(Layer(**shape(layer)) for layer in layers)
    if editor == "ridge":
        shift = chosen("shift", RIDGE_SHIFT)
        entries = tuple(Layer(**shape(layer), shift=shift) for layer in layers)
        return _Parameters(entries, math.exp(-shift) * _key_energy(model, layers=layers))
    if editor == "alphaedit":
        published = null_space_defaults(model.architecture)
        threshold = chosen("nullspace_threshold", published.threshold)
        l2 = chosen("l2", published.l2)
        kept = {}
        for layer, moment in moments.items():
            try:
                kept[layer] = null_space_size(moment, threshold)
            except NumericError as error:
                raise InputError(f"layer {layer}: {error}") from error
        entries = tuple(Layer(**shape(layer), kept=kept[layer]) for layer in layers)
        # Not the energy inside the null space, which is small by its definition: edits' keys are
        # rare and have more there than text has.
        energy = max(float(np.trace(moment)) for moment in moments.values()) / l2
        return _Parameters(entries, energy, threshold=threshold, l2=l2)
    weight = chosen("covariance_weight", defaults_for(model.architecture, editor).covariance_weight)
    # E‖k̃‖² = tr(Φ E[kkᵀ] Φᵀ) = d'/λ
    return _Parameters(plain, max(model.d_in(layer) for layer in layers) / weight, weight=weight)


def _key_energy(model: EditableModel, *, layers: Sequence[int]) -> float:
    """Mean ‖k‖² over the tokens of a short text, of the layer where it is largest.

    Without a covariance there is no general text to average over. The first token counts, whose
    keys many models make much longer than any other.
    """
    ids = torch.tensor([prompt_ids(model, _SAMPLE)[: model.context_length]])
    largest = 0.0
    with torch.inference_mode():
        for layer in layers:
            projection = model.projection(layer)
            with capturing_input(projection) as captured, stopping_after(projection):
                model.forward(ids)
            norms = torch.linalg.vector_norm(captured.values.double(), dim=-1)
            largest = max(largest, float((norms**2).mean()))
    return largest


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
