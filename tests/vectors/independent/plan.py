"""SPEC 2: plan, digest, chain, tasks. No project code.

Reads a plan that is valid; which plans are refused is not checked here.
"""

import math
import tomllib
from dataclasses import dataclass
from functools import cached_property

from independent.primitives import labelled_hash, sha256
from independent.wire import Json

REAL_FIELDS = frozenset(
    [
        "covariance_weight",
        "nullspace_threshold",
        "l2",
        "shift",
        "ridge",
        "learning_rate",
        "clamp_factor",
        "weight_decay",
        "kl_weight",
        "stop_loss",
        "magnitude_bound",
        "false_positive",
        "key_energy",
        "residual_energy",
        "join",
        "compute",
        "round",
        "upload",
        "liveness",
        "efficacy",
        "neighbourhood_drop",
        "perplexity_ratio",
        "check_tolerance",
        "decoy_bound",
        "key_length",
        "weight",
    ]
)
DEFAULT_TIMING = {
    "join": 600.0,
    "compute": 3600.0,
    "round": 120.0,
    "upload": 3600.0,
    "liveness": 60.0,
}
DEFAULT_CLOSED = {
    "check_columns": 4,
    "check_tolerance": 1e-4,
    "cover_edits": 0,
    "min_edits": 0,
}
SHORT_ESCAPES = {'"': '\\"', "\\": "\\\\"} | dict(
    zip("\b\t\n\f\r", ("\\b", "\\t", "\\n", "\\f", "\\r"), strict=True)
)


def write_json(value: object, *, name: str = "") -> str:
    """Canonical JSON of SPEC 2.1; `name` is the field that holds `value`."""
    if isinstance(value, dict):
        items = (f"{write_json(key)}:{write_json(value[key], name=key)}" for key in sorted(value))
        return "{" + ",".join(items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(write_json(each) for each in value) + "]"
    if isinstance(value, str):
        return '"' + "".join(_escape(character) for character in value) + '"'
    if isinstance(value, int | float):
        # The shortest digits that round-trip are what `repr` writes.
        return repr(float(value)) if name in REAL_FIELDS else repr(value)
    raise TypeError(f"{name}: {type(value)}")


def _escape(character: str) -> str:
    if character in SHORT_ESCAPES:
        return SHORT_ESCAPES[character]
    if " " <= character <= "~":
        return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


@dataclass(frozen=True)
class Plan:
    values: Json

    @classmethod
    def read(cls, text: str) -> "Plan":
        values = tomllib.loads(text)
        values["timing"] = DEFAULT_TIMING | values.get("timing", {})
        targets = values["editing"]["targets"]
        targets.setdefault("kl_prompt", "{} is a")
        if "closed" in values:
            values["closed"] = DEFAULT_CLOSED | values["closed"]
        return cls(values)

    @property
    def canonical(self) -> str:
        return write_json(self.values)

    @cached_property
    def digest(self) -> bytes:
        return sha256(b"collabedit/v1/plan\n" + self.canonical.encode("ascii"))

    @property
    def threshold(self) -> int:
        return int(self.values["federation"]["threshold"])

    @property
    def parties(self) -> list[int]:
        return list(range(1, len(self.values["federation"]["parties"]) + 1))

    @cached_property
    def identities(self) -> dict[int, bytes]:
        federation = self.values["federation"]
        members = [federation["aggregator"], *federation["parties"]]
        return {i: bytes.fromhex(member["identity"]) for i, member in enumerate(members)}

    def name(self, party: int) -> str:
        federation = self.values["federation"]
        member = federation["parties"][party - 1] if party else federation["aggregator"]
        return str(member["name"])

    def max_edits(self, parties: list[int]) -> int:
        return sum(self.values["federation"]["parties"][p - 1]["max_edits"] for p in parties)

    @property
    def aggregation(self) -> Json:
        section: Json = self.values["aggregation"]
        return section

    @property
    def tasks(self) -> list[list[Json]]:
        """The layers of each task (SPEC 4.8(b)); none for a counting task."""
        layers: list[Json] = self.values["editing"]["layers"]
        counting: list[list[Json]] = [[]] if "overlap" in self.values else []
        if self.values["editing"]["schedule"] == "parallel":
            return [*counting, layers]
        return [*counting, *([layer] for layer in layers)]

    def counts(self, task: int) -> bool:
        return not self.tasks[task]

    @property
    def table(self) -> tuple[int, int]:
        """Rows and width of a table (SPEC 6.7)."""
        section = self.values["overlap"]
        return section["rows"], section["width"]

    @property
    def check_elements(self) -> int:
        """SPEC 6.7(d)."""
        log = self.max_edits(self.parties).bit_length() - 1
        return -(-64 // (8 * self.width - log))

    def is_closed(self, task: int) -> bool:
        """SPEC 6.9."""
        return "closed" in self.values and not self.counts(task)

    @property
    def cover(self) -> int:
        """Cover edits of each party (SPEC 6.9(b))."""
        return int(self.values["closed"]["cover_edits"]) if "closed" in self.values else 0

    @property
    def past(self) -> tuple[int, float]:
        """M and w of SPEC 6.8."""
        section = self.values.get("memory", {"max_edits": 0, "weight": 0.0})
        return section["max_edits"], section["weight"]

    def max_columns(self, parties: list[int]) -> int:
        """Columns of K̃ that these parties may bring (SPEC 6.9(f))."""
        return self.max_edits(parties) + len(parties) * (self.past[0] + self.cover)

    def key_edits(self, parties: list[int]) -> float:
        """n' of SPEC 6.9(b)."""
        most, weight = self.past
        return self.max_edits(parties) + len(parties) * (most * weight + self.cover)

    @property
    def decoys(self) -> int:
        """g of SPEC 6.9(h); 0 without decoys."""
        if "decoy_bound" not in self.values.get("closed", {}):
            return 0
        return self.max_columns(self.parties) + 1

    @property
    def decoy_deviation(self) -> float:
        """Of SPEC 6.9(h), with decoys."""
        return math.sqrt(self.residual_energy(self.parties)) / (2 * self.decoy_bound)

    @property
    def decoy_bound(self) -> float:
        return float(self.values["closed"]["decoy_bound"])

    def rows(self, layer: Json) -> int:
        """Rows of T as it is summed: d_out, and g of SPEC 6.9(h)."""
        return int(layer["outputs"]) + self.decoys

    def residual_energy(self, parties: list[int]) -> float:
        """n·η of SPEC 6.6."""
        return self.max_edits(parties) * float(self.values["bounds"]["residual_energy"])

    def summed_energy(self, parties: list[int]) -> float:
        """What SPEC 6.9(h) puts in its place, for these as survivors."""
        energy = self.residual_energy(parties)
        if not self.decoys:
            return energy
        norm = math.sqrt(self.decoys * self.max_columns(parties)) + math.sqrt(128 * math.log(2))
        return energy + self.decoy_deviation**2 * norm**2

    @property
    def check_tags(self) -> int:
        """SPEC 6.9(d)."""
        largest = max(2**21, self.max_columns(self.parties))
        return -(-64 // (8 * self.width - (largest.bit_length() - 1)))

    def closed_elements(self, task: int) -> int:
        """SPEC 6.9(c) and (d)."""
        if not self.is_closed(task):
            return 0
        layers, columns = self.tasks[task], int(self.values["closed"]["check_columns"])
        rows = sum(layer["mapped"] + self.rows(layer) for layer in layers)
        return columns * int(rows) + 4 * len(layers) + self.check_tags

    def is_voted(self, task: int) -> bool:
        """SPEC 4.7(c)."""
        return "acceptance" in self.values and task == len(self.tasks) - 1

    def keeps(self, votes: list[int]) -> bool:
        """SPEC 4.7(i): whether these votes keep the update."""
        return votes.count(1) >= int(self.values["acceptance"]["votes"])

    @property
    def width(self) -> int:
        """Bytes of a ring element."""
        return int(self.aggregation["ring_bits"]) // 8

    def elements(self, task: int) -> int:
        """SPEC 6.4, 6.7(b) and 6.9."""
        return self.statistics_elements(task) + self.closed_elements(task)

    def statistics_elements(self, task: int) -> int:
        """Those without check elements of closed sums."""
        if self.counts(task):
            rows, width = self.table
            return 2 * rows * width + self.check_elements
        total = 0
        for layer in self.tasks[task]:
            rows, outputs = layer["mapped"], self.rows(layer)
            if self.aggregation["statistics"] == "dense":
                total += rows * (rows + 1) // 2 + outputs * rows
            else:
                total += (rows + outputs) * self.aggregation["capacity"]
        return total

    @property
    def is_encrypted(self) -> bool:
        """SPEC 6.11."""
        return bool(self.aggregation["backend"] == "ckks")

    def chunks(self, task: int) -> int:
        """Of an encrypted upload (SPEC 7.8)."""
        return -(-self.statistics_elements(task) // 8192)

    def uploaded_elements(self, task: int) -> int:
        """What tiles are cut of: SPEC 4.4, and 6.11(c) with ciphertexts."""
        if not self.is_encrypted:
            return self.elements(task)
        return 131168 * self.chunks(task) // 8 + self.closed_elements(task)

    def tile_sizes(self, task: int) -> list[int]:
        """Elements of each tile of an upload (SPEC 6.1)."""
        return self.cut(self.uploaded_elements(task))

    def cut(self, elements: int) -> list[int]:
        """Elements of each tile of so many."""
        per_tile = self.aggregation["tile_bytes"] // self.width
        return [min(per_tile, elements - start) for start in range(0, elements, per_tile)]

    def largest_bundle(self, task: int) -> int:
        """SPEC 4.7(a)."""
        if self.counts(task):
            return 16 + self.elements(task) * self.width
        rank: int = self.aggregation["capacity"]
        if self.aggregation["statistics"] == "dense":
            rank = max(layer["mapped"] for layer in self.values["editing"]["layers"])
        rows = [layer["mapped"] + self.rows(layer) for layer in self.tasks[task]]
        checks = self.closed_elements(task) * self.width
        return 8 + sum(76 + 8 * rank * int(count) for count in rows) + checks


def first_chain(plan_digest: bytes, session: bytes) -> bytes:
    return labelled_hash("chain", plan_digest, session)


def next_chain(chain: bytes, update_digest: bytes) -> bytes:
    return labelled_hash("chain", chain, update_digest)
