"""What attacks may claim beside scores of candidates (`attack.Finding`).

A claim says what its adversary believes, in a form that `scoring` can hold against the truth. None
of them carries the truth, and none carries a figure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, TypeVar

import numpy as np

from collabedit.attacks.attack import Finding, Prior
from collabedit.sketch import Matrix
from collabedit.threat_model import Adversary

View_contra = TypeVar("View_contra", contravariant=True)

Part: TypeAlias = Literal["prompt", "object", "old-object", "triple"]
"""Of a fact: what was said about its subject, what was put there, what was there, or all of it."""

TRIPLE_SEPARATOR = " | "
"""Between subject, prompt and object of a guessed triple."""


@dataclass(frozen=True, slots=True)
class Rankings:
    """Guesses about the facts of single candidates, the best first.

    Attributes:
        attack: its name.
        part: what is guessed.
        guesses: by number of the candidate; of a triple as `subject | prompt | object`.
        choices: among how many the attack chose, for the chance level; None for free text.
    """

    attack: str
    part: Part
    guesses: Mapping[int, tuple[str, ...]] = field(repr=False)
    choices: int | None = None


@dataclass(frozen=True, slots=True)
class Names:
    """Subjects that an attack found without a list of candidates.

    Attributes:
        attack: its name.
        names: the surest first.
    """

    attack: str
    names: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Recovery:
    """Vectors that an attack took out of its view.

    Attributes:
        attack: its name.
        what: which vectors of the truth these should be: `keys`, `residuals`, `upload` ...
        vectors: [size, found], in any order and up to sign and length.
    """

    attack: str
    what: str
    vectors: Matrix = field(repr=False)

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or not np.isfinite(self.vectors).all():
            raise ValueError(f"vectors {self.vectors.shape} are no finite matrix")


@dataclass(frozen=True, slots=True)
class Estimates:
    """Numbers that an attack read off its view.

    Attributes:
        attack: its name.
        values: by name of the quantity, as the truth names it.
        choices: how many values of a quantity are possible, for the chance level.
    """

    attack: str
    values: Mapping[str, float]
    choices: int

    def __post_init__(self) -> None:
        if self.choices < 1:
            raise ValueError("a quantity has a value")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of an attack that acts.

    Attributes:
        label: what was tried.
        succeeded: whether the adversary reached its end.
        outcome: what stopped it, or what it gained, in a few words without secrets.
    """

    label: str
    succeeded: bool
    outcome: str


@dataclass(frozen=True, slots=True)
class Attempts:
    """What came of tries that either work or do not.

    Attributes:
        attack: its name.
        attempts: all of them.
    """

    attack: str
    attempts: tuple[Attempt, ...]

    def __post_init__(self) -> None:
        if not self.attempts:
            raise ValueError("nothing was tried")


Claim: TypeAlias = Finding | Rankings | Names | Recovery | Estimates | Attempts


class Claimant(Protocol[View_contra]):
    """An attack with any claim; `attack.Attack` is one whose claim is a `Finding`."""

    @property
    def name(self) -> str: ...  # noqa: D102  # as `Attack`

    @property
    def adversary(self) -> Adversary: ...  # noqa: D102  # as `Attack`

    def run(self, view: View_contra, prior: Prior) -> Claim:
        """Say what the adversary believes.

        Raises:
            LackingError: the prior lacks what the attack needs.
        """
        ...


class LackingError(ValueError):
    """The prior lacks something that the attack needs; says what."""
