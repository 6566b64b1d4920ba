"""Everything that a federation needs on disk: authority, keys, certificates, edits, plan.

The layout is that of a person who follows the README with four terminals; each party's folder
holds only what that party would have.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from collabedit.api.federation import AGGREGATOR_NAME, Federation, Member
from collabedit.api.proposing import given_options
from collabedit.closed import PROPOSED_DECOY_BOUND, Closed
from collabedit.editing import EditorName
from collabedit.party.editing.covariance import Covariance
from collabedit.party.editing.model import EditableModel
from collabedit.party.edits import Edit, load_edits
from collabedit.plan import BackendName, Plan, Timing

PARTIES = ("alder-hospital", "birch-library", "cedar-archive")
COVARIANCE_WEIGHT = 3500.0
"""λ. Llama's published 15,000, for models of billions, edits too weakly at 135M; below 2,000
neighbouring facts begin to move."""

LENGTH_UNITS = 1.25
"""Of keys of one length: with so many paraphrase and neighbourhood are what they are without."""

TARGET_STEPS = 20
CERTIFICATE_DAYS = 2


@dataclass(frozen=True, slots=True)
class DemoFederation:
    """A federation on disk, with everybody's edits."""

    federation: Federation
    parties: tuple[Member, ...]
    aggregator: Member
    edits: tuple[tuple[Edit, ...], ...]

    @property
    def plan(self) -> Plan:
        """Of the federation."""
        return self.federation.plan

    @property
    def all_edits(self) -> tuple[Edit, ...]:
        """Everybody's edits, party by party."""
        return tuple(edit for own in self.edits for edit in own)


def own_facts(count: int) -> list[dict[str, Any]]:
    """Return the first `count` records of the project's fact file."""
    text = files("collabedit.data").joinpath("facts.json").read_text(encoding="utf-8")
    records: list[dict[str, Any]] = json.loads(text)
    return records[:count]


def build_federation(
    directory: Path,
    model: EditableModel,
    covariance: Covariance,
    *,
    model_name: str,
    layers: Sequence[int],
    edits: int,
    editor: EditorName = "memit",
    equal_lengths: bool = False,
    backend: BackendName = "masked",
) -> DemoFederation:
    """Write a fresh federation: new keys each time, the facts dealt out in turn.

    Args:
        directory: must not exist.
        model: the unedited model.
        covariance: its second moments.
        model_name: for the plan.
        layers: to edit.
        edits: how many facts of the project's file, at least one for each party.
        editor: of the plan; not `ridge`, which has no covariance.
        equal_lengths: give keys one length, and put decoys under the residuals.
        backend: of the plan.
    """
    facts = own_facts(edits)
    dealt = [facts[index :: len(PARTIES)] for index in range(len(PARTIES))]
    options = given_options(
        layers=layers,
        editor=editor,
        covariance_weight=None if editor == "alphaedit" else COVARIANCE_WEIGHT,
        target_steps=TARGET_STEPS,
        length_units=LENGTH_UNITS if equal_lengths else None,
        backend=backend,
        closed=Closed(decoy_bound=PROPOSED_DECOY_BOUND if equal_lengths else None),
        timing=Timing(join=600, compute=600, round=120, upload=120, liveness=60),
    )
    federation = Federation.create(
        directory,
        model,
        {name: len(own) for name, own in zip(PARTIES, dealt, strict=True)},
        covariance=covariance,
        name="demo",
        model_name=model_name,
        certificate_days=CERTIFICATE_DAYS,
        **options,
    )
    parties = tuple(map(federation.member, PARTIES))
    for party, own in zip(parties, dealt, strict=True):
        party.edits.write_text(json.dumps(own, indent=1))
    return DemoFederation(
        federation,
        parties,
        federation.member(AGGREGATOR_NAME),
        tuple(load_edits(party.edits) for party in parties),
    )
