"""The defences that an audit compares: how a session is made under each, and what it tells.

An adversary knows the defence that it attacks. What it tells of itself goes into the settings of
attacks that have such a field (`Defence.told`).
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field

from collabedit.audit.results import DefenceCard
from collabedit.closed import PROPOSED_DECOY_BOUND, PROPOSED_MIN_EDITS, Closed
from collabedit.party.editing.camouflage import Camouflage
from collabedit.party.editing.proposal import LENGTH_UNITS, OverlapWish
from collabedit.plan import BackendName
from collabedit.section import Section

DefenceName: TypeAlias = Literal[
    "plaintext",
    "masked",
    "closed",
    "closed+covers",
    "closed+lengths",
    "ckks",
    "camouflage",
    "closed+counting",
]


class DefenceSettings(Section):
    """Sizes of the defences that have one.

    Attributes:
        cover_edits: random keys of each party, of `closed+covers` and `closed+lengths`.
        length_units: of `closed+lengths`, as `plan new --length-units`.
        decoy_bound: of `closed+lengths`, as `plan new --decoy-bound`.
        camouflage_strength, camouflage_decoys: as of `party apply --camouflage`.
    """

    cover_edits: Annotated[int, Field(ge=1, le=10_000)] = 3
    length_units: Annotated[float, Field(gt=0)] = LENGTH_UNITS
    decoy_bound: Annotated[float, Field(ge=1e-6, le=1)] = PROPOSED_DECOY_BOUND
    camouflage_strength: Annotated[float, Field(ge=0)] = 1.0
    camouflage_decoys: Annotated[int, Field(ge=1)] = 1


@dataclass(frozen=True, slots=True)
class Defence:
    """How sessions under a defence differ from others.

    Attributes:
        name, title, text, deployed: see `results.DefenceCard`.
        is_closed: sums in a secret basis.
        statistics: `dense` as in the paper.
        backend: of the plan.
        is_clear: uploads are sent without masks.
        has_covers: each party adds cover edits.
        has_lengths: keys get one length, and residuals decoys.
        is_camouflaged: the released update is camouflaged before it is published.
        has_counting: parties share edits, and a first task counts them.
    """

    name: DefenceName
    title: str
    text: str
    deployed: bool
    is_closed: bool = True
    statistics: Literal["sketch", "dense"] = "sketch"
    backend: BackendName = "masked"
    is_clear: bool = False
    has_covers: bool = False
    has_lengths: bool = False
    is_camouflaged: bool = False
    has_counting: bool = False

    @property
    def card(self) -> DefenceCard:
        """Of the report."""
        return DefenceCard(name=self.name, title=self.title, text=self.text, deployed=self.deployed)

    def closed(self, settings: DefenceSettings, *, edits: int) -> Closed | None:
        """Return the plan's section.

        Args:
            settings: of the file.
            edits: of all parties together; below `plan new`'s least it needs `--min-edits 0`.
        """
        if not self.is_closed:
            return None
        return Closed(
            min_edits=PROPOSED_MIN_EDITS if edits >= PROPOSED_MIN_EDITS else 0,
            cover_edits=settings.cover_edits if self.has_covers else 0,
            decoy_bound=settings.decoy_bound if self.has_lengths else None,
        )

    def length_units(self, settings: DefenceSettings) -> float | None:
        """Return the length that keys get; None leaves them theirs."""
        return settings.length_units if self.has_lengths else None

    def camouflage(self, settings: DefenceSettings) -> Camouflage | None:
        """Return how the update is camouflaged; None leaves it as it is."""
        if not self.is_camouflaged:
            return None
        return Camouflage(settings.camouflage_strength, settings.camouflage_decoys)

    @property
    def overlap(self) -> OverlapWish | None:
        """What the plan counts; None for nothing."""
        return OverlapWish("majority") if self.has_counting else None

    def told(self, settings: DefenceSettings, *, parties: int) -> Mapping[str, object]:
        """Return what the defence tells its adversary, by field of attacks."""
        told: dict[str, object] = {"source": "uploads"} if self.is_clear else {}
        if self.has_covers:
            told["covers"] = parties * settings.cover_edits
        if self.is_camouflaged:
            told |= {
                "decoys": settings.camouflage_decoys,
                "strength": settings.camouflage_strength,
            }
        return told

    @property
    def missing(self) -> str | None:
        """Say what must be installed for it; None if everything is there."""
        if self.backend == "ckks" and importlib.util.find_spec("tenseal") is None:
            return "TenSEAL is not installed (pip install 'collabedit[ckks]')"
        return None


_ALL: Final = (
    Defence(
        name="plaintext",
        title="Uploads in clear",
        text="The published protocol: each party sends its dense statistics as they are. A "
        "control, which shows that the attacks work where nothing resists them.",
        deployed=False,
        is_closed=False,
        statistics="dense",
        is_clear=True,
    ),
    Defence(
        name="masked",
        title="Masked sum",
        text="Uploads are masked and only their sum is opened, in the model's own coordinates "
        "(`plan new --open-sums`). A control: new plans close their sums.",
        deployed=False,
        is_closed=False,
    ),
    Defence(
        name="closed",
        title="Closed sums",
        text="What `plan new` makes: masked uploads, and a sum that is opened in a basis that the "
        "parties alone know.",
        deployed=True,
    ),
    Defence(
        name="closed+covers",
        title="Closed sums with cover edits",
        text="Closed sums, in which each party also has random keys without a residual "
        "(`plan new --cover-edits`).",
        deployed=True,
        has_covers=True,
    ),
    Defence(
        name="closed+lengths",
        title="Closed sums, keys of one length",
        text="Closed sums with keys of one length, decoys under the residuals, and cover edits "
        "(`plan new --equal-lengths --cover-edits`).",
        deployed=True,
        has_covers=True,
        has_lengths=True,
    ),
    Defence(
        name="ckks",
        title="Closed sums over ciphertexts",
        text="Closed sums, with uploads encrypted under a key that all parties have "
        "(`plan new --backend ckks`). The aggregator and any one party together read every upload.",
        deployed=True,
        backend="ckks",
    ),
    Defence(
        name="camouflage",
        title="Camouflaged update",
        text="Closed sums, and decoys' keys mixed into the row space of the update before it is "
        "published (`party apply --camouflage`).",
        deployed=True,
        is_camouflaged=True,
    ),
    Defence(
        name="closed+counting",
        title="Closed sums, edits counted",
        text="Closed sums behind a first task that counts what parties share, in padded tables "
        "under a key that the parties alone know (`plan new --overlap majority`). Parties share "
        "some edits.",
        deployed=True,
        has_counting=True,
    ),
)

DEFENCES: Final[Mapping[DefenceName, Defence]] = {each.name: each for each in _ALL}
