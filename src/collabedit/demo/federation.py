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

from collabedit.closed import PROPOSED_DECOY_BOUND, Closed
from collabedit.crypto.certificates import Authority, create_authority, issue_certificate
from collabedit.crypto.rng import SystemRandomness
from collabedit.crypto.signing import SigningKey, write_private
from collabedit.editing import EditorName
from collabedit.federation import Coordinator, Party
from collabedit.party.editing.covariance import Covariance
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.proposal import propose_plan
from collabedit.party.edits import Edit, load_edits
from collabedit.plan import BackendName, Plan, Timing

PARTIES = ("alder-hospital", "birch-library", "cedar-archive")
AGGREGATOR_NAME = "aggregator"
COVARIANCE_WEIGHT = 3500.0
"""λ. Llama's published 15,000, for models of billions, edits too weakly at 135M; below 2,000
neighbouring facts begin to move."""

LENGTH_UNITS = 1.25
"""Of keys of one length: with so many paraphrase and neighbourhood are what they are without."""

TARGET_STEPS = 20
CERTIFICATE_DAYS = 2


@dataclass(frozen=True, slots=True)
class Member:
    """Files of one end of the federation."""

    name: str
    directory: Path

    @property
    def identity(self) -> Path:
        """Private Ed25519 key."""
        return self.directory / "identity.pem"

    @property
    def certificate(self) -> Path:
        """TLS certificate."""
        return self.directory / f"{self.name}.pem"

    @property
    def tls_key(self) -> Path:
        """Private key of the certificate."""
        return self.directory / f"{self.name}-key.pem"

    @property
    def edits(self) -> Path:
        """The party's private edits."""
        return self.directory / "edits.json"

    @property
    def work(self) -> Path:
        """Targets, update and report of `party join`."""
        return self.directory / "work"


@dataclass(frozen=True, slots=True)
class DemoFederation:
    """A federation on disk."""

    directory: Path
    plan: Plan
    parties: tuple[Member, ...]
    aggregator: Member
    edits: tuple[tuple[Edit, ...], ...]

    @property
    def plan_file(self) -> Path:
        """The plan."""
        return self.directory / "plan.toml"

    @property
    def authority(self) -> Path:
        """Certificate of the throw-away authority."""
        return self.directory / "ca.pem"

    @property
    def all_edits(self) -> tuple[Edit, ...]:
        """Everybody's edits, party by party."""
        return tuple(edit for own in self.edits for edit in own)


def own_facts(count: int) -> list[dict[str, Any]]:
    """Return the first `count` records of the project's fact file."""
    text = files("collabedit.data").joinpath("facts.json").read_text(encoding="utf-8")
    records: list[dict[str, Any]] = json.loads(text)
    return records[:count]


def _member(directory: Path, name: str, authority: Authority, *, hosts: Sequence[str]) -> Member:
    member = Member(name, directory / name)
    member.directory.mkdir(parents=True)
    issued = issue_certificate(authority, name=name, hosts=hosts, lifetime_days=CERTIFICATE_DAYS)
    member.certificate.write_bytes(issued.certificate_pem)
    write_private(member.tls_key, issued.key_pem)
    key = SigningKey.generate(SystemRandomness())
    write_private(member.identity, key.to_pem())
    return member


def _public(member: Member) -> str:
    key = SigningKey.from_pem(member.identity.read_bytes())
    return key.verify_key.to_bytes().hex()


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
    directory.mkdir(parents=True)
    authority = create_authority("throw-away demo authority")
    (directory / "ca.pem").write_bytes(authority.certificate_pem)
    aggregator = _member(directory, AGGREGATOR_NAME, authority, hosts=["localhost", "127.0.0.1"])
    parties = tuple(_member(directory, name, authority, hosts=[]) for name in PARTIES)
    facts = own_facts(edits)
    for index, party in enumerate(parties):
        party.edits.write_text(json.dumps(facts[index :: len(parties)], indent=1))
    own = tuple(load_edits(party.edits) for party in parties)
    plan = propose_plan(
        model,
        covariance,
        name="demo",
        model_name=model_name,
        parties=[
            Party(name=party.name, identity=_public(party), max_edits=len(edits_))
            for party, edits_ in zip(parties, own, strict=True)
        ],
        aggregator=Coordinator(name=AGGREGATOR_NAME, identity=_public(aggregator)),
        layers=layers,
        randomness=SystemRandomness(),
        editor=editor,
        covariance_weight=None if editor == "alphaedit" else COVARIANCE_WEIGHT,
        target_steps=TARGET_STEPS,
        length_units=LENGTH_UNITS if equal_lengths else None,
        backend=backend,
        closed=Closed(decoy_bound=PROPOSED_DECOY_BOUND if equal_lengths else None),
        timing=Timing(join=600, compute=600, round=120, upload=120, liveness=60),
    )
    federation = DemoFederation(directory, plan, parties, aggregator, own)
    federation.plan_file.write_text(plan.to_toml(), encoding="utf-8")
    return federation
