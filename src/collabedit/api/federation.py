"""A federation on disk: an authority, keys, certificates, a plan; for one person who plays all.

In a deployment every institution makes its own key, and nobody has everybody's folder; for trials,
teaching and experiments this writes what all of them would have. Each member's folder holds only
what that member would have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

from collabedit.api.aggregator import Aggregator
from collabedit.api.credentials import Credentials
from collabedit.api.party import Party
from collabedit.api.proposing import (
    PlanOptions,
    coordinator_entry,
    party_entry,
    propose,
    read_covariance,
)
from collabedit.api.reporting import SILENT, Reporter
from collabedit.crypto.certificates import Authority, create_authority, issue_certificate
from collabedit.crypto.rng import SystemRandomness
from collabedit.crypto.signing import SigningKey, write_private
from collabedit.errors import InputError
from collabedit.plan import Plan, load_plan

if TYPE_CHECKING:
    from collabedit.party.editing.covariance import Covariance
    from collabedit.party.editing.model import EditableModel

AGGREGATOR_NAME = "aggregator"
PLAN_FILE = "plan.toml"
AUTHORITY_FILE = "ca.pem"
CERTIFICATE_DAYS = 30


@dataclass(frozen=True, slots=True)
class Member:
    """Files of one end of a federation.

    Attributes:
        name: as in the plan.
        directory: of its own.
    """

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
        """Where a party may keep its private edits; `Federation.create` leaves the place empty."""
        return self.directory / "edits.json"

    @property
    def work(self) -> Path:
        """Targets, update and report of a party; journal and report of the aggregator."""
        return self.directory / "work"


@dataclass(frozen=True, slots=True)
class Federation:
    """A federation whose credentials are all in one directory.

    Attributes:
        directory: of everything.
        plan: that all agree on.
    """

    directory: Path
    plan: Plan

    @classmethod
    def create(
        cls,
        directory: Path,
        model: "EditableModel | Path",
        parties: Mapping[str, int],
        *,
        covariance: "Covariance | Path | None" = None,
        name: str = "federation",
        model_name: str | None = None,
        hosts: Sequence[str] = ("localhost", "127.0.0.1"),
        certificate_days: int = CERTIFICATE_DAYS,
        **options: Unpack[PlanOptions],
    ) -> Self:
        """Make a federation with fresh keys.

        Args:
            directory: to make; must not exist.
            model: the unedited model, or its directory.
            parties: at least three; names, and how many edits each may bring. Their order fixes the
                ids.
            covariance: second moments of the model, or their file; `ridge` needs none.
            name: of the plan.
            model_name: for people; None takes the name of the model's directory.
            hosts: names under which parties reach the aggregator.
            certificate_days: how long certificates are valid.
            options: everything else that a plan may choose.

        Raises:
            InputError: the directory exists, or see `propose_plan`.
            PlanError: the plan does not hold together.
        """
        from collabedit.party.editing.model import load_model

        if directory.exists():
            raise InputError(f"{directory}: exists already")
        if isinstance(model, Path):
            model_name = model_name or model.resolve().name
            model = load_model(model)
        moments = read_covariance(covariance)
        keys = {
            member: SigningKey.generate(SystemRandomness())
            for member in (AGGREGATOR_NAME, *parties)
        }
        public = {member: key.verify_key.to_bytes().hex() for member, key in keys.items()}
        plan = propose(
            model,
            moments,
            name=name,
            model_name=model_name or "model",
            parties=[
                party_entry(party, identity=public[party], max_edits=room)
                for party, room in parties.items()
            ],
            aggregator=coordinator_entry(AGGREGATOR_NAME, identity=public[AGGREGATOR_NAME]),
            options=options,
        )
        directory.mkdir(parents=True)
        authority = create_authority(f"development authority of {name}")
        (directory / AUTHORITY_FILE).write_bytes(authority.certificate_pem)
        federation = cls(directory, plan)
        for member, key in keys.items():
            federation._write(
                federation.member(member),
                key,
                authority,
                hosts=hosts if member == AGGREGATOR_NAME else (),
                days=certificate_days,
            )
        (directory / PLAN_FILE).write_text(plan.to_toml(), encoding="utf-8")
        return federation

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Read what `create` left.

        Raises:
            PlanError: there is no plan, or a bad one.
        """
        return cls(directory, load_plan(directory / PLAN_FILE))

    @staticmethod
    def _write(
        member: Member, key: SigningKey, authority: Authority, *, hosts: Sequence[str], days: int
    ) -> None:
        member.directory.mkdir()
        issued = issue_certificate(authority, name=member.name, hosts=hosts, lifetime_days=days)
        member.certificate.write_bytes(issued.certificate_pem)
        write_private(member.tls_key, issued.key_pem)
        write_private(member.identity, key.to_pem())

    @property
    def plan_file(self) -> Path:
        """The plan."""
        return self.directory / PLAN_FILE

    @property
    def authority(self) -> Path:
        """Certificate of the throw-away authority; its key was never written."""
        return self.directory / AUTHORITY_FILE

    def member(self, name: str) -> Member:
        """Return the files of the party or aggregator called `name`."""
        return Member(name, self.directory / name)

    def credentials(self, name: str) -> Credentials:
        """Read the keys of the party or aggregator called `name`.

        Raises:
            PlanError, KeyFileError: see `Credentials.read`.
        """
        member = self.member(name)
        return Credentials.read(
            self.plan,
            name,
            identity=member.identity,
            certificate=member.certificate,
            key=member.tls_key,
            authority=self.authority,
        )

    def party(self, name: str, *, reporter: Reporter = SILENT) -> Party:
        """Return a party whose private directory is in its folder."""
        return Party(self.plan, name, work=self.member(name).work, reporter=reporter)

    def aggregator(self, *, listen: str = "127.0.0.1:0", reporter: Reporter = SILENT) -> Aggregator:
        """Return the aggregator, which listens inside a `with`."""
        name = self.plan.federation.aggregator.name
        return Aggregator(
            self.plan,
            self.credentials(name),
            state=self.member(name).work,
            listen=listen,
            reporter=reporter,
        )
