"""The shape of every attack: a view and a prior in, scores or another claim out.

Claims are turned into figures by `scoring`, apart from the attack, so that attacks compare on the
same inputs. What an attack may use is the type of its view; what it may know beforehand is `Prior`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from collabedit.ids import LayerIndex, PartyId
from collabedit.sketch import Matrix
from collabedit.threat_model import Adversary

if TYPE_CHECKING:
    from collabedit.party.editing.key_map import KeyMap
    from collabedit.party.editing.model import EditableModel

View_contra = TypeVar("View_contra", contravariant=True)

GENERIC_PROMPT = "The mother tongue of {} is"
"""KSTER's single template (arXiv 2602.10134, `experiments/attack_kr_opt.py`)."""


@dataclass(frozen=True, slots=True)
class Prior:
    """What an adversary brings along: candidates, and nothing about which of them are members.

    What is empty or None the adversary does not have; an attack that needs it says so.

    Attributes:
        mapped_keys: for each layer the mapped keys of the candidates, [d', candidates], as anybody
            computes them with the public model, covariance and templates.
        subjects: of the candidates, in the order of the columns.
        prompts: candidates for what was said about a subject, each with one `{}` for it.
        relations: candidates for relation ids, which go with prompts.
        objects: candidates for what was put there.
        model: the public model, unedited.
        maps: Φ by layer, from the covariance that the adversary has: the plan's, or its own.
        seed: of what the attack draws.
    """

    mapped_keys: Mapping[LayerIndex, Matrix] = field(repr=False)
    subjects: tuple[str, ...] = field(default=(), repr=False)
    prompts: tuple[str, ...] = field(default=(), repr=False)
    relations: tuple[str, ...] = field(default=(), repr=False)
    objects: tuple[str, ...] = field(default=(), repr=False)
    model: "EditableModel | None" = field(default=None, repr=False)
    maps: Mapping[int, "KeyMap"] = field(default_factory=dict, repr=False)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """What an attack believes.

    Attributes:
        attack: its name.
        about: whom each row is about; None is some survivor, nobody knows which.
        scores: [rows, candidates]; a higher score is a stronger belief that the candidate's edit is
            among that party's.
    """

    attack: str
    about: tuple[PartyId | None, ...]
    scores: Matrix = field(repr=False)

    def __post_init__(self) -> None:
        if self.scores.ndim != 2 or len(self.scores) != len(self.about):
            raise ValueError(f"{len(self.about)} rows announced, scores {self.scores.shape}")
        if not np.isfinite(self.scores).all():
            raise ValueError("a score is not finite")


class Attack(Protocol[View_contra]):
    """An attack by one adversary.

    Attributes:
        name: in reports.
        adversary: whose view it needs.
    """

    @property
    def name(self) -> str: ...  # noqa: D102  # documented above

    @property
    def adversary(self) -> Adversary: ...  # noqa: D102  # documented above

    def run(self, view: View_contra, prior: Prior) -> Finding:
        """Score the candidates of `prior`."""
        ...
