"""Editors over a tiny real model, and over random matrices: plans, parties, centralised twins."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from collabedit.acceptance import Acceptance
from collabedit.closed import Closed
from collabedit.crypto.signing import SigningKey
from collabedit.demo.federation import own_facts
from collabedit.demo.methods import Share, edit_alone
from collabedit.editing import EditorName, Layer
from collabedit.federation import Coordinator, Party
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.memory import Memory
from collabedit.party.editing.covariance import Covariance, second_moments
from collabedit.party.editing.editor import ModelEditor, key_maps
from collabedit.party.editing.key_map import null_space_size
from collabedit.party.editing.model import EditableModel, load_model
from collabedit.party.editing.proposal import CLOSED, CONTEXT_TEMPLATES, propose_plan
from collabedit.party.editing.targets import Targets, TargetSettings, compute_targets
from collabedit.party.edits import Edit, load_edits
from collabedit.plan import Plan
from collabedit.sketch import Matrix
from tests.support.randomness import InsecureTestRandomness
from tests.support.tiny_models import build_tiny_model, teach

EDITORS: tuple[EditorName, ...] = get_args(EditorName)
WEIGHT = 30.0
L2 = 2.0
SHIFT = 0.7

Schedule = Literal["sequential", "parallel"]
Statistics = Literal["sketch", "dense"]


def random_second_moment(seed: int, size: int) -> Matrix:
    """E[kkᵀ] with eigenvalues over three decades."""
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=(size, 3 * size)) * np.geomspace(1, 0.03, size)[:, None]
    moment: Matrix = samples @ samples.T / samples.shape[1]
    return (moment + moment.T) / 2


def middle_eigenvalue(moments: Mapping[int, Matrix]) -> float:
    """A threshold that about half of all eigenvalues are below."""
    return float(np.median([np.linalg.eigvalsh(moment) for moment in moments.values()]))


def own_parameters(editor: EditorName, moments: Mapping[int, Matrix]) -> dict[str, Any]:
    """Parameters as `propose_plan` takes them."""
    return {
        "memit": {"covariance_weight": WEIGHT},
        "emmet": {"covariance_weight": WEIGHT},
        "ridge": {"shift": SHIFT},
        "alphaedit": {"nullspace_threshold": middle_eigenvalue(moments), "l2": L2},
    }[editor]


def with_editor(plan: Plan, editor: EditorName, moments: Mapping[int, Matrix]) -> Plan:
    """The plan with another editor, for second moments given by layer."""
    values: dict[str, Any] = plan.model_dump(mode="json", exclude_none=True)
    editing = values["editing"]
    parameters = own_parameters(editor, moments)
    shift = parameters.pop("shift", None)
    for name in ("covariance_weight", "covariance"):
        digest = editing.pop(name)
    editing |= {"editor": editor, "ridge": 0.0 if editor == "emmet" else 1.0, **parameters}
    if editor != "ridge":
        editing["covariance"] = digest
    for layer in editing["layers"]:
        if shift is not None:
            layer["shift"] = shift
        if editor == "alphaedit":
            threshold = parameters["nullspace_threshold"]
            layer["kept"] = null_space_size(moments[layer["index"]], threshold)
    return Plan.model_validate(values)


def with_memory(plan: Plan, memory: Memory | None) -> Plan:
    """The plan with a memory, or as it is."""
    values: dict[str, Any] = plan.model_dump(mode="json", exclude_none=True)
    if memory is not None:
        values["memory"] = memory.model_dump(mode="json")
    return Plan.model_validate(values)


@dataclass
class TinyFederation:
    """Parties with edits and a model of their own each, and one more model for the trustee.

    Attributes:
        shares: edits and targets, by party.
        models: by party; float64.
        central: the trustee's.
    """

    layers: tuple[int, ...]
    identities: dict[PartyId, SigningKey]
    shares: dict[PartyId, Share]
    models: dict[PartyId, EditableModel]
    central: EditableModel
    covariance: Covariance
    everything: Share = field(repr=False)

    def plan(
        self,
        editor: EditorName,
        *,
        statistics: Statistics = "sketch",
        schedule: Schedule = "sequential",
        memory: Memory | None = None,
        acceptance: Acceptance | None = None,
        hidden: bool = False,
    ) -> Plan:
        """A plan; `hidden` gives keys one length, and has decoys under the residuals."""

        def public(party: PartyId) -> str:
            return self.identities[party].verify_key.to_bytes().hex()

        return propose_plan(
            self.central,
            None if editor == "ridge" else self.covariance,
            name=f"tiny-{editor}",
            model_name="tiny",
            parties=[
                Party(name=f"party-{party}", identity=public(party), max_edits=len(share.edits))
                for party, share in self.shares.items()
            ],
            aggregator=Coordinator(name="aggregator", identity=public(AGGREGATOR)),
            layers=self.layers,
            randomness=InsecureTestRandomness(3),
            editor=editor,
            schedule=schedule,
            statistics=statistics,
            memory=memory,
            acceptance=acceptance,
            length_units=2.0 if hidden else None,
            closed=Closed(decoy_bound=0.01) if hidden else CLOSED,
            **own_parameters(editor, self.covariance.matrices),
        )

    def remembering(self, count: int) -> "TinyFederation":
        """The same federation, each party's last `count` edits being past ones."""
        return self._with_shares({p: _split(share, count) for p, share in self.shares.items()})

    def first(self, count: int) -> "TinyFederation":
        """The same federation with each party's first `count` edits alone."""
        return self._with_shares(
            {
                party: replace(_split(share, len(share.edits) - count), past=())
                for party, share in self.shares.items()
            }
        )

    def _with_shares(self, shares: dict[PartyId, Share]) -> "TinyFederation":
        edits = tuple(edit for share in shares.values() for edit in share.edits)
        values = torch.cat([share.targets.values for share in shares.values()], dim=1)
        everything = Share(
            edits,
            replace(self.everything.targets, values=values),
            tuple(edit for share in shares.values() for edit in share.past),
        )
        return replace(self, shares=shares, everything=everything)

    def moments(self, plan: Plan) -> Covariance | None:
        return None if plan.editing.covariance is None else self.covariance

    def editors(self, plan: Plan) -> dict[PartyId, ModelEditor]:
        """Every party's own editor, its key maps computed by itself."""
        return {
            party: ModelEditor(
                plan,
                self.models[party],
                share.edits,
                share.targets,
                key_maps(plan, self.moments(plan)),
                past=share.past,
            )
            for party, share in self.shares.items()
        }

    def centralised(self, plan: Plan) -> dict[int, Matrix]:
        """The published closed form in one process over all edits, batched together."""
        return edit_alone(plan, self.central, self.moments(plan), [self.everything])


def _split(share: Share, count: int) -> Share:
    kept = len(share.edits) - count
    targets = replace(share.targets, values=share.targets.values[:, :kept])
    return Share(share.edits[:kept], targets, share.edits[kept:])


class PoisonEditor(ModelEditor):
    """Brings columns that no edits make, each as large as the plan allows and no larger."""

    def statistics(self, layers: Sequence[Layer]) -> list[tuple[Matrix, Matrix]]:
        bounds, poisoned = self.plan.bounds, []
        for layer, (keys, residuals) in zip(layers, super().statistics(layers), strict=True):
            # Where keys of text lie, so that the update hits all of it; one wrong push for all.
            directions = np.linalg.svd(keys, full_matrices=False)[0]
            length = np.sqrt(0.99 * bounds.residual_energy / layer.outputs)
            poisoned.append((directions, np.full(residuals.shape, length)))
        return poisoned


def tiny_federation(
    directory: Path,
    *,
    parties: int = 3,
    edits_each: int = 3,
    model_type: str = "llama",
    layers: Sequence[int] = (1, 2, 3),
    lessons: str = "",
) -> TinyFederation:
    """Build a federation over a tiny model in float64; everybody's targets are the trustee's.

    With `lessons` the model is trained on that text first.
    """
    path = build_tiny_model(model_type, directory / "model")
    if lessons:
        teach(path, lessons)
    central = load_model(path, dtype="float64")
    windows = torch.randint(2, 290, (64, 24), generator=torch.Generator().manual_seed(5))
    covariance = second_moments(central, windows, layers, provenance={"source": "random tokens"})
    facts = directory / "facts.json"
    facts.write_text(json.dumps(own_facts(parties * edits_each)))
    edits: tuple[Edit, ...] = load_edits(facts)
    targets = compute_targets(
        central,
        edits,
        layer=max(layers),
        templates=CONTEXT_TEMPLATES,
        settings=TargetSettings(learning_rate=0.5, steps=4, clamp_factor=0.75, weight_decay=0.5),
    )
    ids = [PartyId(party) for party in range(1, parties + 1)]
    columns = {party: slice((party - 1) * edits_each, party * edits_each) for party in ids}
    return TinyFederation(
        layers=tuple(layers),
        identities={
            party: SigningKey.from_seed(bytes([party + 1]) * 32) for party in (AGGREGATOR, *ids)
        },
        shares={
            party: Share(
                edits[own], Targets(targets.values[:, own], targets.edits_digest, "same for all")
            )
            for party, own in columns.items()
        },
        models={party: load_model(path, dtype="float64") for party in ids},
        central=central,
        covariance=covariance,
        everything=Share(edits, targets),
    )
