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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import tomli_w
from pydantic import Field, ValidationError, field_validator, model_validator

from collabedit.acceptance import Acceptance
from collabedit.bounds import EnergyLimits
from collabedit.closed import Closed, check_tags, decoy_norm
from collabedit.editing import Editing, Layer
from collabedit.encrypted import CHUNK_WORDS, chunks, guard_bits
from collabedit.encrypted import check_room as check_ciphertext
from collabedit.errors import PlanError
from collabedit.federation import Federation
from collabedit.ids import PartyId, TaskIndex
from collabedit.memory import Memory
from collabedit.overlap import Overlap, check_elements
from collabedit.privacy import NO_NOISE, Noise, Privacy, Statistics, check_room, party_noise
from collabedit.section import Digest, Hex32, Name, Seconds, Section
from collabedit.sketch import OVERSAMPLING

MAXIMUM_PLAN_BYTES = 1 << 20

BackendName: TypeAlias = Literal["masked", "ckks"]


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


class Aggregation(Section):
    """How statistics are summed.

    Attributes:
        backend: `masked`, or `ckks`: uploads under a key of the task that every party has, for
            parties that are not there together; the aggregator and any one of them read them all.
        statistics: `sketch` sends Y and Z, `dense` S and T in full (the paper's form).
        capacity: m, columns of Ω; at least the sum of all `max_edits`, with a memory N times its
            `max_edits`, plus 8.
        ring_bits: 64 or 32.
        fractional_bits: f; one unit of the ring is 2^-f.
        magnitude_bound: largest absolute value that a party may contribute.
        tile_bytes: payload of an upload frame.
        test_matrix_seed: 32 bytes in hex; expands to Ω.
    """

    backend: BackendName
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
        closed: None opens the sums in the model's own coordinates, and nobody checks the merge.
        privacy: None adds no noise.
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
    closed: Closed | None = None
    privacy: Privacy | None = None

    @model_validator(mode="after")
    def _check(self) -> "Plan":
        edits = self.max_edits(self.party_ids)
        if self.overlap is not None:
            self.overlap.check_size(edits)
        if self.closed is not None and self.closed.min_edits > edits:
            raise ValueError(
                f"closed.min_edits {self.closed.min_edits}: the parties may bring {edits} edits "
                "together"
            )
        past = len(self.federation.parties) * self.max_past_edits
        cover = len(self.federation.parties) * self.cover_edits
        need = edits + past + cover + OVERSAMPLING
        if self.aggregation.statistics == "sketch" and self.aggregation.capacity < need:
            brought = f"{edits} edits" + (f" and {past} past ones" if past else "")
            brought += f" and {cover} for cover" if cover else ""
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
    def _check_decoys(self) -> "Plan":
        if self.closed is None:
            return self
        length, columns = self.editing.key_length, max(map(self._columns_of, self.party_ids))
        largest = self.closed.decoy_reach(
            residuals=self.energy_limits(self.party_ids).residuals,
            keys=columns * (self.bounds.key_energy if length is None else length**2),
        )
        if largest > self.aggregation.magnitude_bound:
            raise ValueError(
                f"aggregation.magnitude_bound {self.aggregation.magnitude_bound:g} has no room for "
                f"decoys of closed.decoy_bound: they reach {largest:.3g}; raise it and lower "
                "fractional_bits"
            )
        return self

    @model_validator(mode="after")
    def _check_encrypted(self) -> "Plan":
        if not self.is_encrypted:
            return self
        if self.privacy is not None or self.overlap is not None:
            raise ValueError(
                "aggregation.backend ckks goes neither with privacy nor with overlap: use masked"
            )
        if self.closed is None:
            raise ValueError(
                "aggregation.backend ckks needs closed sums: nobody else checks what one party "
                "opens; add [closed], or use masked"
            )
        if self.federation.corruptions is not None:
            raise ValueError(
                "federation.corruptions: a sparse graph has no meaning with aggregation.backend "
                "ckks; leave it out, or use masked"
            )
        if self.aggregation.ring_bits != 64:
            raise ValueError(
                f"aggregation.ring_bits {self.aggregation.ring_bits}: must be 64 with backend ckks"
            )
        check_ciphertext(
            values=self._longest_statistics,
            parties=len(self.federation.parties),
            fractional_bits=self.aggregation.fractional_bits,
            magnitude_bound=self.aggregation.magnitude_bound,
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

    @model_validator(mode="after")
    def _check_privacy(self) -> "Plan":
        privacy, aggregation = self.privacy, self.aggregation
        if privacy is None:
            return self
        if self.overlap is not None or self.acceptance is not None:
            raise ValueError(
                "privacy cannot go with overlap or acceptance: counts and votes are made of edits, "
                "and have no noise"
            )
        if self.max_past_edits:
            raise ValueError(
                "privacy cannot go with past edits: which of them are brought depends on the new "
                "ones; memory.max_edits must be 0"
            )
        if self.closed is not None:
            raise ValueError(
                "privacy cannot go with closed sums: their check columns would show what the noise "
                "hides (`plan new --open-sums`)"
            )
        if privacy.honest > self.threshold:
            raise ValueError(
                f"privacy.honest {privacy.honest}: a sum is sure to have {self.threshold} parties"
            )
        check_room(
            [self.noise(layer) for layer in self.editing.layers],
            parties=len(self.federation.parties),
            ring_bits=aggregation.ring_bits,
            fractional_bits=aggregation.fractional_bits,
            magnitude_bound=aggregation.magnitude_bound,
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

    def is_closed(self, task: TaskIndex) -> bool:
        """Whether the sum of `task` is opened in a secret basis: every one of layers, or none."""
        return self.closed is not None and self.counting(task) is None

    def needs_secret(self, task: TaskIndex) -> bool:
        """Whether parties have a use for the group secret of `task`."""
        return self.is_closed(task) or self.counting(task) is not None

    @property
    def is_encrypted(self) -> bool:
        """Whether contributions are ciphertexts, and one party opens their sum."""
        return self.aggregation.backend == "ckks"

    @property
    def guard_bits(self) -> int:
        """Bits of a ciphertext's data prime that belong to the guard (SPEC 7.8)."""
        return guard_bits(self._longest_statistics, len(self.federation.parties))

    @property
    def _longest_statistics(self) -> int:
        return max(self.statistics_length(TaskIndex(task)) for task in range(len(self.tasks)))

    def layer_length(self, layer: Layer) -> int:
        """Ring elements of one layer's statistics."""
        outputs = self.summed_outputs(layer)
        if self.aggregation.statistics == "dense":
            return layer.mapped * (layer.mapped + 1) // 2 + outputs * layer.mapped
        return (layer.mapped + outputs) * self.aggregation.capacity

    def task_length(self, task: TaskIndex) -> int:
        """Ring elements of one party's contribution to `task`."""
        overlap = self.counting(task)
        if overlap is not None:
            return overlap.cells + self.check_elements
        return self.statistics_length(task) + self.check_length(task)

    def upload_length(self, task: TaskIndex) -> int:
        """Ring elements of one party's upload to `task`; of ciphertexts, words of 64 bits."""
        if not self.is_encrypted:
            return self.task_length(task)
        return chunks(self.statistics_length(task)) * CHUNK_WORDS + self.check_length(task)

    def statistics_length(self, task: TaskIndex) -> int:
        """Ring elements of the statistics in it: all that the aggregator can read in the sum."""
        return sum(self.layer_length(layer) for layer in self.tasks[task])

    def check_length(self, task: TaskIndex) -> int:
        """Ring elements by which parties check the merge of `task` (SPEC 6.9); 0 without."""
        if self.closed is None or not self.is_closed(task):
            return 0
        rows = [layer.mapped + self.summed_outputs(layer) for layer in self.tasks[task]]
        return self.closed.check_elements(rows) + self.check_tags

    @property
    def check_tags(self) -> int:
        """Ring elements that authenticate the integers among the former."""
        return check_tags(self.max_columns(self.party_ids), ring_bits=self.aggregation.ring_bits)

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

    @property
    def cover_edits(self) -> int:
        """Cover edits that each party adds; 0 with open sums."""
        return 0 if self.closed is None else self.closed.cover_edits

    @property
    def decoys(self) -> int:
        """Rows of noise under the residuals of every layer; 0 without `closed.decoy_bound`.

        One more than all columns together: as many degrees of freedom as the proof asks for.
        """
        if self.closed is None or self.closed.decoy_bound is None:
            return 0
        return self.max_columns(self.party_ids) + 1

    @property
    def decoy_deviation(self) -> float:
        """Standard deviation of their entries; 0 without."""
        if self.closed is None:
            return 0.0
        everybody = self.energy_limits(self.party_ids)
        return self.closed.decoy_deviation(residuals=everybody.residuals)

    def summed_outputs(self, layer: Layer) -> int:
        """Rows of T of `layer` as it is summed: d_out, and the decoys."""
        return layer.outputs + self.decoys

    def max_columns(self, parties: Iterable[PartyId]) -> int:
        """Return how many columns of K̃ `parties` may bring together, of whatever kind."""
        members = tuple(parties)
        return self.max_edits(members) + len(members) * (self.max_past_edits + self.cover_edits)

    def _columns_of(self, party: PartyId) -> float:
        """Columns of K̃ of one party at most, past ones as often as they weigh."""
        past = 0 if self.memory is None else self.memory.max_edits * max(self.memory.weight, 1)
        return self.max_edits([party]) + self.cover_edits + past

    def statistics_of(self, layer: Layer) -> Statistics:
        """Return what one party's statistics of `layer` may weigh."""
        aggregation = self.aggregation
        return Statistics(
            mapped=layer.mapped,
            outputs=layer.outputs,
            columns=aggregation.capacity if aggregation.statistics == "sketch" else None,
            key_energy=self.bounds.key_energy,
            residual_energy=self.bounds.residual_energy,
            edits=max(party.max_edits for party in self.federation.parties),
            step=math.ldexp(1.0, -aggregation.fractional_bits),
        )

    def noise(self, layer: Layer) -> Noise:
        """Return the deviation of each party's noise in an entry of `layer`, as a real."""
        if self.privacy is None:
            return NO_NOISE
        layers = len(self.editing.layers)
        return party_noise(self.privacy, self.statistics_of(layer), layers=layers)

    def energy_limits(self, parties: Iterable[PartyId]) -> EnergyLimits:
        """Return what the edits of `parties`, and the past ones they bring, may weigh together."""
        members = tuple(parties)
        edits = self.max_edits(members)
        keys = edits * self.bounds.key_energy
        keys += len(members) * self.cover_edits * self.bounds.key_energy
        if self.memory is not None:
            past = len(members) * self.memory.max_edits
            keys += past * self.memory.weight * self.bounds.key_energy
        return EnergyLimits(keys, edits * self.bounds.residual_energy)

    def summed_limits(self, parties: Iterable[PartyId]) -> EnergyLimits:
        """Return what the sums of `parties` may weigh as they are opened: with the decoys."""
        members = tuple(parties)
        limits = self.energy_limits(members)
        if not self.decoys:
            return limits
        noise = self.decoy_deviation * decoy_norm(self.decoys, self.max_columns(members))
        return EnergyLimits(limits.keys, limits.residuals + noise**2)

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
