"""The plan: the one text that all parties of a session agree on, and its digest.

Whatever shapes a result is in here, because a party that computes with another template, layer or
covariance makes the sum meaningless without any error showing. The digest goes into every signature
of the session (SPEC 2.2), so two ends with different plans cannot exchange a single message.
Validation happens once, at construction; code that holds a `Plan` need not check it again.
"""

import hashlib
import json
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import tomli_w
from pydantic import Field, ValidationError, field_validator, model_validator

from collabedit.acceptance import Acceptance
from collabedit.bounds import EnergyLimits
from collabedit.errors import PlanError
from collabedit.ids import PartyId, TaskIndex
from collabedit.memory import Memory
from collabedit.overlap import Overlap, check_elements
from collabedit.section import Digest, Hex32, Name, Seconds, Section
from collabedit.sketch import OVERSAMPLING
from collabedit.threat_model import (
    MAXIMUM_PARTIES,
    MINIMUM_PARTIES,
    maximum_corruptions,
    minimum_threshold,
)

EditorName: TypeAlias = Literal["memit", "ridge", "alphaedit", "emmet"]

MAXIMUM_PLAN_BYTES = 1 << 20

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


class Party(Section):
    """One institution.

    Attributes:
        name: also the common name of its TLS certificate.
        identity: Ed25519 public key, 32 bytes in hex; signs every message of the party.
        max_edits: upper bound of its edits; the bounds of all parties must fit the capacity.
    """

    name: Name
    identity: Hex32
    max_edits: Annotated[int, Field(ge=1, le=1_000_000)]


class Coordinator(Section):
    """The aggregator: `name` is on its TLS certificate, `identity` its Ed25519 public key."""

    name: Name
    identity: Hex32


class Federation(Section):
    """Who takes part. A party's id is its position in `parties`, from 1; never reorder.

    Attributes:
        threshold: fewest parties in any list, confirmation or sum.
        corruptions: how many parties may collude with the aggregator without harm to the others, in
            a graph no denser than that takes (SPEC 4.2); None takes the full graph.
        aggregator: the coordinator.
        parties: in the order of their ids.
    """

    threshold: int
    corruptions: int | None = None
    aggregator: Coordinator
    parties: Annotated[tuple[Party, ...], Field(min_length=MINIMUM_PARTIES, strict=False)]

    @model_validator(mode="after")
    def _check(self) -> "Federation":
        count = len(self.parties)
        if count > MAXIMUM_PARTIES:
            raise ValueError(f"{count} parties, at most {MAXIMUM_PARTIES} are supported")
        floor = minimum_threshold(count)
        if not floor <= self.threshold <= count:
            raise ValueError(
                f"threshold {self.threshold} for {count} parties, must be {floor} to {count}"
            )
        ceiling = maximum_corruptions(count, self.threshold)
        if self.corruptions is not None and not 0 <= self.corruptions <= ceiling:
            raise ValueError(
                f"corruptions {self.corruptions} for {count} parties with threshold "
                f"{self.threshold}, must be 0 to {ceiling}"
            )
        for what, values in (
            ("name", [p.name for p in self.parties] + [self.aggregator.name]),
            ("identity", [p.identity for p in self.parties] + [self.aggregator.identity]),
        ):
            repeated = {value for value in values if values.count(value) > 1}
            if repeated:
                raise ValueError(f"{what} {min(repeated)} is used twice")
        return self


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


class Model(Section):
    """The model that all parties hold, by digest of weights and tokenizer.

    Attributes:
        weights: of the checkpoint, before any session.
        previous: digests of the sessions (SPEC 2.4) whose updates are applied to it before this
            one begins, oldest first; None for the checkpoint as it is.
    """

    name: str
    architecture: str
    dtype: Literal["float64", "float32", "bfloat16", "float16"]
    weights: Digest
    tokenizer: Digest
    previous: (
        Annotated[tuple[Digest, ...], Field(min_length=1, max_length=1000, strict=False)] | None
    ) = None

    @field_validator("previous")
    @classmethod
    def _once_each(cls, previous: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if previous is not None and len(set(previous)) < len(previous):
            raise ValueError("names a session twice")
        return previous


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


class Aggregation(Section):
    """How statistics are summed.

    Attributes:
        statistics: `sketch` sends Y and Z, `dense` S and T in full (the paper's form).
        capacity: m, columns of Ω; at least the sum of all `max_edits`, with a memory N times its
            `max_edits`, plus 8.
        ring_bits: 64 or 32.
        fractional_bits: f; one unit of the ring is 2^-f.
        magnitude_bound: largest absolute value that a party may contribute.
        tile_bytes: payload of an upload frame.
        test_matrix_seed: 32 bytes in hex; expands to Ω.
    """

    backend: Literal["masked"]
    statistics: Literal["sketch", "dense"]
    capacity: Annotated[int, Field(ge=1, le=1 << 20)]
    ring_bits: Literal[32, 64]
    fractional_bits: Annotated[int, Field(ge=1, le=62)]
    magnitude_bound: Annotated[float, Field(gt=0)]
    tile_bytes: Annotated[int, Field(ge=64, le=1 << 22, multiple_of=64)]
    test_matrix_seed: Hex32

    @model_validator(mode="after")
    def _check(self) -> "Aggregation":
        if self.fractional_bits > self.ring_bits - 2:
            raise ValueError(
                f"fractional_bits {self.fractional_bits} leave no room in a "
                f"{self.ring_bits}-bit ring, at most {self.ring_bits - 2}"
            )
        return self


class Bounds(Section):
    """What one edit may weigh; sums are held against it before a merge is released (SPEC 6.6).

    Attributes:
        key_energy: largest ‖k̃‖² of a mapped key, a column of K̃.
        residual_energy: largest ‖r‖² of a residual, a column of R.
    """

    key_energy: Annotated[float, Field(gt=0)]
    residual_energy: Annotated[float, Field(gt=0)]


class Timing(Section):
    """How long the aggregator waits, in seconds, before a silent party counts as dropped.

    Attributes:
        join: for the first advertisement, all parties' start-up included.
        compute: for an advertisement after a merge, while parties compute their next statistics.
        round: for every other round.
        liveness: without any contact, a party that a round waits for counts as gone earlier.
    """

    join: Seconds = 600.0
    compute: Seconds = 3600.0
    round: Seconds = 120.0
    upload: Seconds = 3600.0
    liveness: Seconds = 60.0


class Plan(Section):
    """A validated plan. Equal plans have equal digests.

    Attributes:
        overlap: None leaves edits that several parties share uncounted.
        acceptance: None lets every verified update stay, without a vote.
    """

    version: Literal[1]
    name: Name
    federation: Federation
    model: Model
    editing: Editing
    aggregation: Aggregation
    bounds: Bounds
    memory: Memory | None = None
    overlap: Overlap | None = None
    timing: Timing = Timing()
    acceptance: Acceptance | None = None

    @model_validator(mode="after")
    def _check(self) -> "Plan":
        edits = self.max_edits(self.party_ids)
        if self.overlap is not None:
            self.overlap.check_size(edits)
        past = len(self.federation.parties) * self.max_past_edits
        need = edits + past + OVERSAMPLING
        if self.aggregation.statistics == "sketch" and self.aggregation.capacity < need:
            brought = f"{edits} edits" + (f" and {past} past ones" if past else "")
            raise ValueError(
                f"aggregation.capacity {self.aggregation.capacity} is too small: the parties may "
                f"bring {brought}, which needs {need}"
            )
        # N·⌈B·2^f + 1/2⌉ < 2^(b-1): the sum of all parties' fixed-point numbers cannot wrap.
        # Exactly the rule of `FixedPoint`, so that a valid plan has an encoding.
        scaled = Fraction(self.aggregation.magnitude_bound) * 2**self.aggregation.fractional_bits
        largest = math.ceil(scaled + Fraction(1, 2))
        if len(self.federation.parties) * largest >= 1 << (self.aggregation.ring_bits - 1):
            raise ValueError(
                f"{len(self.federation.parties)} parties with magnitude_bound "
                f"{self.aggregation.magnitude_bound} and {self.aggregation.fractional_bits} "
                f"fractional bits overflow a {self.aggregation.ring_bits}-bit ring: lower one"
            )
        return self

    @model_validator(mode="after")
    def _check_votes(self) -> "Plan":
        if self.acceptance is None:
            return self
        low, high = self.threshold, len(self.federation.parties)
        if not low <= self.acceptance.votes <= high:
            raise ValueError(
                f"acceptance.votes {self.acceptance.votes}, must be {low} (the threshold) to {high}"
            )
        return self

    @property
    def digest(self) -> bytes:
        """SHA-256 of the plan's canonical JSON under a domain label (SPEC 2.1), 32 bytes."""
        canonical = json.dumps(
            self.model_dump(mode="json", exclude_none=True),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=True,
            allow_nan=False,
        )
        return hashlib.sha256(b"collabedit/v1/plan\n" + canonical.encode("ascii")).digest()

    @property
    def party_ids(self) -> tuple[PartyId, ...]:
        """Ids of all parties, ascending."""
        return tuple(PartyId(i) for i in range(1, len(self.federation.parties) + 1))

    @property
    def threshold(self) -> int:
        """Fewest parties that any list, confirmation or sum of this plan may hold."""
        return self.federation.threshold

    def party_name(self, party: PartyId) -> str:
        """Name of `party`; the aggregator's for 0, `#i` for an id that the plan doesn't have."""
        if party == 0:
            return self.federation.aggregator.name
        if party > len(self.federation.parties):
            return f"#{party}"
        return self.federation.parties[party - 1].name

    def party_id(self, name: str) -> PartyId:
        """Id of the party called `name`.

        Raises:
            PlanError: the plan has no such party.
        """
        for party, entry in zip(self.party_ids, self.federation.parties, strict=True):
            if entry.name == name:
                return party
        raise PlanError(f"the plan {self.name!r} has no party called {name!r}")

    def identity(self, party: PartyId) -> bytes:
        """Ed25519 public key of `party`, of the aggregator for 0: 32 bytes."""
        entry = self.federation.parties[party - 1] if party else self.federation.aggregator
        return bytes.fromhex(entry.identity)

    @property
    def tasks(self) -> tuple[tuple[Layer, ...], ...]:
        """The layers that each secure sum covers: one each if sequential, all at once if not.

        A counting task comes before them and covers none.
        """
        layers = self.editing.layers
        merged = (layers,) if self.editing.schedule == "parallel" else tuple((x,) for x in layers)
        return merged if self.overlap is None else ((), *merged)

    def counting(self, task: TaskIndex) -> Overlap | None:
        """Return the section about overlap if `task` counts, None if it edits layers."""
        return self.overlap if task == 0 else None

    def is_voted(self, task: TaskIndex) -> bool:
        """Whether r6 of `task` asks for votes: the last one of a plan with `acceptance`.

        Updates of earlier tasks mean nothing alone.
        """
        return self.acceptance is not None and task == len(self.tasks) - 1

    def layer_length(self, layer: Layer) -> int:
        """Ring elements of one layer's statistics."""
        if self.aggregation.statistics == "dense":
            return layer.mapped * (layer.mapped + 1) // 2 + layer.outputs * layer.mapped
        return (layer.mapped + layer.outputs) * self.aggregation.capacity

    def task_length(self, task: TaskIndex) -> int:
        """Ring elements of one party's contribution to `task`."""
        overlap = self.counting(task)
        if overlap is not None:
            return overlap.cells + self.check_elements
        return sum(self.layer_length(layer) for layer in self.tasks[task])

    @property
    def check_elements(self) -> int:
        """Ring elements that authenticate the tables of a counting task."""
        edits = self.max_edits(self.party_ids)
        return check_elements(edits, ring_bits=self.aggregation.ring_bits)

    @property
    def rank_limit(self) -> int:
        """Largest rank that an update of this plan may have."""
        if self.aggregation.statistics == "sketch":
            return self.aggregation.capacity
        return max(layer.mapped for layer in self.editing.layers)

    def max_edits(self, parties: Iterable[PartyId]) -> int:
        """Return how many edits `parties` may bring together."""
        return sum(self.federation.parties[party - 1].max_edits for party in parties)

    @property
    def max_past_edits(self) -> int:
        """Most past edits that any one party brings; 0 without a memory."""
        return 0 if self.memory is None else self.memory.max_edits

    def energy_limits(self, parties: Iterable[PartyId]) -> EnergyLimits:
        """Return what the edits of `parties`, and the past ones they bring, may weigh together."""
        members = tuple(parties)
        edits = self.max_edits(members)
        keys = edits * self.bounds.key_energy
        if self.memory is not None:
            past = len(members) * self.memory.max_edits
            keys += past * self.memory.weight * self.bounds.key_energy
        return EnergyLimits(keys, edits * self.bounds.residual_energy)

    def to_toml(self) -> str:
        """Write the plan as TOML that `load_plan` reads back to an equal plan."""
        return tomli_w.dumps(
            self.model_dump(mode="json", exclude_none=True), multiline_strings=False
        )


@contextmanager
def plan_errors(source: str) -> Iterator[None]:
    """Turn a validation error of a plan or a part of one into one line.

    Raises:
        PlanError: names `source` and the first field at fault.
    """
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "plan"
        message = first["msg"].removeprefix("Value error, ")
        raise PlanError(f"{source}: {field}: {message}") from None


def parse_plan(text: str, *, source: str) -> Plan:
    """Read a plan from TOML.

    Args:
        text: the TOML.
        source: file name for messages.

    Raises:
        PlanError: one line that names the file and the first field at fault.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{source}: not TOML: {error}") from error
    except RecursionError:
        raise PlanError(f"{source}: not a plan: nested too deeply") from None
    with plan_errors(source):
        return Plan.model_validate(values)


def load_plan(path: Path) -> Plan:
    """Read a plan file.

    Raises:
        PlanError: missing, too large, not UTF-8, not TOML or not a valid plan.
    """
    try:
        if path.stat().st_size > MAXIMUM_PLAN_BYTES:
            raise PlanError(f"{path}: larger than {MAXIMUM_PLAN_BYTES} bytes, not a plan")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PlanError(f"{path}: cannot read the plan: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PlanError(f"{path}: not UTF-8 text") from error
    return parse_plan(text, source=str(path))


def format_digest(digest: bytes) -> str:
    """Render 32 bytes as plans and logs show digests: `sha256:` and hex."""
    return f"sha256:{digest.hex()}"
