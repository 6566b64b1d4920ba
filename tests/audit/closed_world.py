"""What `closed_sums_table` attacks: real edits on the demo's model, and sums of them as opened.

Keys are those of the first edited layer, on the unedited model; it is the one that every task chain
starts with. A sum is made by the deployed encoding and added in the plan's ring, which is bit for
bit what unmasking leaves; `tests/security` runs attacks behind the masks themselves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from collabedit.attacks.attack import Prior
from collabedit.attacks.prior import GENERIC_PROMPT, model_prior
from collabedit.attacks.views import AggregatorView
from collabedit.closed import Closed
from collabedit.crypto.ring import RingArray, add_into
from collabedit.demo.assets import fetch_demo_model
from collabedit.demo.federation import COVARIANCE_WEIGHT, TARGET_STEPS
from collabedit.demo.run import COVARIANCE_SEED, COVARIANCE_TOKENS, COVARIANCE_WINDOW, LAYERS
from collabedit.exchange import contribution_vector, plan_encoding
from collabedit.experiments.cache import Cache
from collabedit.experiments.protocol import new_identities
from collabedit.experiments.schema import CovarianceSource
from collabedit.federation import Coordinator, Party
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId, TaskIndex
from collabedit.party.closing import ClosedTask
from collabedit.party.cover import with_cover
from collabedit.party.editing.covariance import Covariance
from collabedit.party.editing.editor import edited_layers, key_maps, target_settings
from collabedit.party.editing.gathering import SELF_SAMPLES
from collabedit.party.editing.keys import compute_keys
from collabedit.party.editing.model import EditableModel, load_model
from collabedit.party.editing.proposal import propose_plan
from collabedit.party.editing.schedule import residuals
from collabedit.party.edits import Edit
from collabedit.plan import Plan
from collabedit.proto.messages import Context
from collabedit.sketch import OVERSAMPLING, Matrix
from tests.support.randomness import InsecureTestRandomness

Defence: TypeAlias = Literal["uploads", "sum", "basis", "basis+covers"]
"""Dense uploads in clear as in the paper; the masked sum, in the model's coordinates; in a secret
basis; with random keys of each party in it as well."""

PriorName: TypeAlias = Literal["exact", "generic"]
"""What the adversary knows of candidates: records and templates, or the subjects alone."""

Numbers: TypeAlias = NDArray[np.int64]

FIRST = TaskIndex(0)


@dataclass(frozen=True, slots=True)
class World:
    """Candidates, and a plan to edit some of them by.

    Attributes:
        plan: of three parties; `plan_for` makes others of it.
        priors: candidates' mapped keys, [d', candidates] of the layer.
        residuals: of the first candidates, [d_out, with targets].
        name: of the data, for people.
    """

    plan: Plan
    priors: Mapping[PriorName, Prior] = field(repr=False)
    residuals: Matrix = field(repr=False)
    name: str

    @property
    def layer(self) -> LayerIndex:
        """The layer that is attacked."""
        return LayerIndex(self.plan.editing.layers[0].index)

    @property
    def keys(self) -> Matrix:
        """What parties edit with, [d', candidates]: equal to the exact prior."""
        return self.priors["exact"].mapped_keys[self.layer]


def one_of_each_subject(edits: Sequence[Edit], *, count: int, seed: int) -> list[Edit]:
    """Draw records with different subjects, since a key is a subject's."""
    first = list({edit.subject: edit for edit in reversed(edits)}.values())
    order = np.random.default_rng(seed).permutation(len(first))[:count]
    return [first[place] for place in order]


def load_world(
    edits: Sequence[Edit],
    *,
    name: str,
    cache: Path,
    targets: int,
    priors: Sequence[PriorName],
    report: Callable[[str], None],
) -> World:
    """Compute keys of all edits, and residuals of the first ones.

    Args:
        edits: candidates, each of another subject.
        name: of the data.
        cache: the demo's; the model is fetched into it, and targets are kept in it.
        targets: of how many edits.
        priors: which ones.
        report: told what is done next.
    """
    model = load_model(fetch_demo_model(cache, report), device="cpu")
    pieces = Cache(cache / "experiments")
    source = CovarianceSource(
        source=SELF_SAMPLES,
        tokens=COVARIANCE_TOKENS,
        window=COVARIANCE_WINDOW,
        seed=COVARIANCE_SEED,
    )
    covariance = pieces.covariance(model, LAYERS, source)
    plan = propose(model, covariance)
    templates = plan.editing.context_templates
    first = plan.editing.layers[0]
    maps = {first.index: key_maps(plan, covariance)[first.index]}
    known: dict[PriorName, Prior] = {}
    for prior in priors:
        report(f"keys of {len(edits)} candidates, {prior} prior")
        if prior == "exact":
            keys = compute_keys(model, edits, first.index, templates).numpy()
            known[prior] = Prior({LayerIndex(first.index): maps[first.index].map_keys(keys)})
        else:
            subjects = [edit.subject for edit in edits]
            known[prior] = model_prior(
                model, subjects, templates=templates, maps=maps, prompt=GENERIC_PROMPT
            )
    report(f"targets of {targets} edits")
    wanted = _residuals(model, plan, edits[:targets], pieces)
    only = plan.editing.model_copy(update={"layers": (first,)})
    return World(plan.model_copy(update={"editing": only}), known, wanted, name)


def propose(model: EditableModel, covariance: Covariance) -> Plan:
    """Propose the demo's plan; edits and parties are put in later."""
    public = {party: key.verify_key.to_bytes().hex() for party, key in new_identities(3).items()}
    return propose_plan(
        model,
        covariance,
        name="closed-sums",
        model_name="demo",
        parties=[
            Party(name=f"party-{party}", identity=public[PartyId(party)], max_edits=1)
            for party in (1, 2, 3)
        ],
        aggregator=Coordinator(name="aggregator", identity=public[AGGREGATOR]),
        layers=LAYERS,
        randomness=InsecureTestRandomness(1),
        covariance_weight=COVARIANCE_WEIGHT,
        target_steps=TARGET_STEPS,
    )


def _residuals(model: EditableModel, plan: Plan, edits: Sequence[Edit], pieces: Cache) -> Matrix:
    layers = edited_layers(plan.editing)
    if not edits:
        return np.zeros((plan.editing.layers[0].outputs, 0))
    targets = pieces.targets(
        model,
        edits,
        layer=layers[-1],
        templates=plan.editing.context_templates,
        settings=target_settings(plan.editing),
    )
    return residuals(
        model, edits, targets, layers[0], layers=layers, schedule=plan.editing.schedule
    ).numpy()


def plan_for(
    plan: Plan,
    *,
    sizes: Sequence[int],
    closed: Closed | None,
    statistics: Literal["sketch", "dense"],
) -> Plan:
    """Return `plan` with parties of these numbers of edits, and room for cover edits of each.

    A party without edits still has room for one, as every plan's has.
    """
    room = [max(size, 1) for size in sizes]
    parties = tuple(
        Party(name=f"party-{number}", identity=f"{number:064x}", max_edits=most)
        for number, most in enumerate(room, 1)
    )
    values = plan.model_dump()
    values["federation"]["parties"] = [party.model_dump() for party in parties]
    values["federation"]["threshold"] = 2 * len(sizes) // 3 + 1
    values["closed"] = None if closed is None else closed.model_dump()
    covers = 0 if closed is None else closed.cover_edits
    values["aggregation"] |= {
        "statistics": statistics,
        "capacity": sum(room) + covers * len(sizes) + OVERSAMPLING,
        "magnitude_bound": plan.aggregation.magnitude_bound * len(plan.party_ids) / len(sizes),
    }
    return Plan.model_validate(values)


def deal(members: Numbers, parties: int) -> list[Numbers]:
    """Hand out candidates' numbers in turn, as evenly as can be."""
    return [members[party::parties] for party in range(parties)]


def view_of(
    world: World,
    shares: Sequence[Numbers],
    *,
    defence: Defence,
    covers: int,
    rng: np.random.Generator,
) -> AggregatorView:
    """Play what the aggregator has after one task, under a defence.

    Args:
        world: candidates and plan.
        shares: whose candidates are edited by whom.
        defence: how.
        covers: random keys of each party, with `basis+covers`.
        rng: of basis and covers.
    """
    is_closed, added = defence.startswith("basis"), covers if defence == "basis+covers" else 0
    plan = plan_for(
        world.plan,
        sizes=[len(share) for share in shares],
        closed=Closed(cover_edits=added) if is_closed else None,
        statistics="dense" if defence == "uploads" else "sketch",
    )
    entry, encoding = plan.editing.layers[0], plan_encoding(plan)
    context = Context(plan.digest, bytes(32), FIRST, bytes(32))
    secret, randomness = rng.bytes(32), InsecureTestRandomness(int(rng.integers(1 << 30)))
    total: RingArray = np.zeros(plan.task_length(FIRST), dtype=encoding.ring.dtype)
    uploads: dict[PartyId, RingArray] = {}
    for party, share in zip(plan.party_ids, shares, strict=True):
        # Whose target was not searched contributes to S alone; no attack on S looks at T.
        wanted = np.zeros((entry.outputs, len(share)))
        known = share < world.residuals.shape[1]
        wanted[:, known] = world.residuals[:, share[known]]
        statistics = with_cover(plan, [(world.keys[:, share], wanted)], randomness)
        if is_closed:
            vector = ClosedTask(plan, context, secret).contribute(party, statistics)
        else:
            vector = encoding.encode(contribution_vector(plan, FIRST, statistics))
        add_into(total, vector)
        if defence == "uploads":
            uploads[party] = vector
    survivors = frozenset(plan.party_ids)
    view = AggregatorView(plan, {FIRST: {}}, {FIRST: total}, {FIRST: survivors})
    return replace(view, uploads={FIRST: uploads})
