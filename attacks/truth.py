"""What was really there: held against claims by `scoring`, and given to no attack."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from collabedit.attacks.metrics import Members
from collabedit.ids import PartyId
from collabedit.sketch import Matrix


@dataclass(frozen=True, slots=True)
class Fact:
    """One edit in words.

    Attributes:
        subject: whose fact.
        prompt: with `{}` for the subject.
        object: what was put there.
        old_object: what the model says without the edit; empty if that is unknown.
    """

    subject: str = field(repr=False)
    prompt: str = field(repr=False)
    object: str = field(repr=False)
    old_object: str = field(default="", repr=False)


@dataclass(frozen=True)
class Truth:
    """A session's edits.

    Attributes:
        candidates: how many there were to choose from.
        members: numbers of the candidates that each party edited.
        facts: of members, by number.
        vectors: by name, [size, count]: `keys` (mapped, first edited layer), `residuals` (there),
            and whatever else an attack may recover.
        quantities: by name: `edits of party-1` ...
    """

    candidates: int
    members: Mapping[PartyId, tuple[int, ...]] = field(repr=False)
    facts: Mapping[int, Fact] = field(default_factory=dict, repr=False)
    vectors: Mapping[str, Matrix] = field(default_factory=dict, repr=False)
    quantities: Mapping[str, float] = field(default_factory=dict, repr=False)

    @cached_property
    def edited(self) -> Members:
        """Which candidates anybody edited, [candidates]."""
        return self.edited_by(*self.members)

    def edited_by(self, *parties: PartyId) -> Members:
        """Return which candidates these parties edited, [candidates]."""
        found: Members = np.zeros(self.candidates, dtype=np.bool_)
        for party in parties:
            found[list(self.members[party])] = True
        return found
