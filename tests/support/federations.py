"""Plans, keys and contributions of small federations, all from seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import ThreadpoolController

from collabedit.crypto.signing import SigningKey
from collabedit.exchange import contribution_vector
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party.decisions import Decision
from collabedit.plan import Plan, parse_plan
from collabedit.recorder import Recorder
from collabedit.simulation import Faults, Simulation
from collabedit.sketch import Matrix
from collabedit.threat_model import minimum_threshold
from tests.support.randomness import InsecureTestRandomness

MAPPED = 48
OUTPUTS = 20
EDITS_EACH = 3

_THREADS = ThreadpoolController()


@dataclass(frozen=True)
class TestFederation:
    """A plan with everybody's keys and edits.

    Attributes:
        edits: (K̃ [d', n], R [d_out, n]) by party and layer.
    """

    __test__ = False

    plan: Plan
    identities: dict[PartyId, SigningKey]
    edits: dict[tuple[PartyId, TaskIndex], tuple[Matrix, Matrix]]

    def statistics(self, party: PartyId, task: TaskIndex) -> list[tuple[Matrix, Matrix]]:
        return [self.edits[party, TaskIndex(layer.index)] for layer in self.plan.tasks[task]]

    def contribute(self, party: PartyId, task: TaskIndex) -> Matrix:
        # A product's last bits depend on the number of threads, and processes of tests have one.
        with _THREADS.limit(limits=1, user_api="blas"):
            return contribution_vector(self.plan, task, self.statistics(party, task))

    def centralised(self, parties: frozenset[PartyId], task: TaskIndex) -> Matrix:
        """T (I + S)⁻¹ over these parties' edits, by a dense solve."""
        pairs = [self.edits[party, task] for party in sorted(parties)]
        keys = np.concatenate([k for k, _ in pairs], axis=1)
        residuals = np.concatenate([r for _, r in pairs], axis=1)
        return np.linalg.solve(keys @ keys.T + np.eye(len(keys)), keys @ residuals.T).T

    def simulation(
        self,
        directory: Path,
        *,
        faults: Faults | None = None,
        seed: int = 0,
        recorder: Recorder | None = None,
    ) -> Simulation:
        return Simulation(
            self.plan,
            identities=self.identities,
            directory=directory,
            randomness={
                party: InsecureTestRandomness(1000 * seed + party)
                for party in (AGGREGATOR, *self.plan.party_ids)
            },
            faults=faults,
            seed=seed,
            recorder=recorder,
        )


def weighed(pair: tuple[Matrix, Matrix], decisions: Sequence[Decision]) -> tuple[Matrix, Matrix]:
    """Scale columns as an editor does that was told these decisions; none leave all as they are."""
    if not decisions:
        return pair
    kept = [index for index, decision in enumerate(decisions) if decision.is_kept]
    roots = np.sqrt([decisions[index].weight for index in kept])
    keys, residuals = pair
    return keys[:, kept] * roots, residuals[:, kept] * roots


def plan_text(
    parties: int,
    *,
    identities: dict[PartyId, SigningKey],
    layers: int = 1,
    mapped: int = MAPPED,
    outputs: int = OUTPUTS,
    edits_each: int = EDITS_EACH,
    **changes: object,
) -> str:
    """TOML of a plan; `changes` replace `section__field` values."""
    values: dict[str, object] = {
        "threshold": minimum_threshold(parties),
        "corruptions": None,
        "capacity": parties * edits_each + 8,
        "backend": '"masked"',
        "ring_bits": 64,
        "fractional_bits": 40,
        "magnitude_bound": 10000.0,
        "tile_bytes": 4096,
        "statistics": '"sketch"',
        "key_energy": 100.0,
        "residual_energy": 10000.0,
        "schedule": '"sequential"',
        "votes": None,
        "closed": None,
        "epsilon": None,
        "delta": 1e-6,
        "noise_multiplier": 1.0,
        "unit": '"edit"',
        "honest": 2,
        **changes,
    }
    voted = (
        ""
        if values["votes"] is None
        else f"""
[acceptance]
votes = {values["votes"]}
efficacy = 0.75
neighbourhood_drop = 0.1
perplexity_ratio = 1.1
"""
    )
    closed = "" if values["closed"] is None else f"[closed]\n{values['closed']}\n"
    private = (
        ""
        if values["epsilon"] is None
        else f"""
[privacy]
mechanism = "discrete-gaussian"
unit = {values["unit"]}
epsilon = {values["epsilon"]}
delta = {values["delta"]}
noise_multiplier = {values["noise_multiplier"]}
honest = {values["honest"]}
"""
    )
    bound = values["corruptions"]
    corruptions = "" if bound is None else f"\ncorruptions = {bound}"
    listed = "\n".join(
        f'[[federation.parties]]\nname = "party-{i}"\nmax_edits = {edits_each}\n'
        f'identity = "{identities[PartyId(i)].verify_key.to_bytes().hex()}"'
        for i in range(1, parties + 1)
    )
    edited = "\n".join(
        f"[[editing.layers]]\nindex = {i}\ninputs = {mapped}\noutputs = {outputs}\n"
        f"mapped = {mapped}"
        for i in range(layers)
    )
    digest = "sha256:" + "ab" * 32
    return f"""
version = 1
name = "test"
[federation]
threshold = {values["threshold"]}{corruptions}
[federation.aggregator]
name = "aggregator"
identity = "{identities[AGGREGATOR].verify_key.to_bytes().hex()}"
{listed}
[model]
name = "none"
architecture = "llama"
dtype = "float64"
weights = "{digest}"
tokenizer = "{digest}"
[editing]
editor = "memit"
schedule = {values["schedule"]}
covariance_weight = 15000.0
covariance = "{digest}"
ridge = 1.0
context_templates = ["{{}}"]
{edited}
[editing.targets]
learning_rate = 0.5
steps = 20
clamp_factor = 4.0
weight_decay = 0.001
kl_weight = 0.0625
stop_loss = 0.05
[aggregation]
backend = {values["backend"]}
statistics = {values["statistics"]}
capacity = {values["capacity"]}
ring_bits = {values["ring_bits"]}
fractional_bits = {values["fractional_bits"]}
magnitude_bound = {values["magnitude_bound"]}
tile_bytes = {values["tile_bytes"]}
test_matrix_seed = "{"00" * 32}"
[bounds]
key_energy = {values["key_energy"]}
residual_energy = {values["residual_energy"]}
{voted}{closed}{private}"""


def build_federation(
    parties: int,
    *,
    layers: int = 1,
    seed: int = 0,
    mapped: int = MAPPED,
    outputs: int = OUTPUTS,
    edits_each: int = EDITS_EACH,
    **changes: object,
) -> TestFederation:
    identities = {PartyId(i): SigningKey.from_seed(bytes([i + 1]) * 32) for i in range(parties + 1)}
    text = plan_text(
        parties,
        identities=identities,
        layers=layers,
        mapped=mapped,
        outputs=outputs,
        edits_each=edits_each,
        **changes,
    )
    plan = parse_plan(text, source="test plan")
    rng = np.random.default_rng(seed)
    edits = {
        (party, TaskIndex(task)): (
            rng.normal(size=(mapped, edits_each)) * 0.4,
            rng.normal(size=(outputs, edits_each)) * 3,
        )
        for task in range(layers)
        for party in plan.party_ids
    }
    return TestFederation(plan, identities, edits)


def encrypted_federation(
    parties: int,
    *,
    layers: int = 1,
    check_columns: int = 4,
    tile_bytes: int = 1 << 14,
    **changes: object,
) -> TestFederation:
    """A federation whose parties upload ciphertexts."""
    return build_federation(
        parties,
        layers=layers,
        seed=0,
        mapped=MAPPED,
        outputs=OUTPUTS,
        edits_each=EDITS_EACH,
        **{
            "backend": '"ckks"',
            "closed": f"check_columns = {check_columns}",
            "fractional_bits": 34,
            "tile_bytes": tile_bytes,
            **changes,
        },
    )
