"""The plan's section about who takes part."""

from typing import Annotated

from pydantic import Field, model_validator

from collabedit.section import Hex32, Name, Section
from collabedit.threat_model import (
    MAXIMUM_PARTIES,
    MINIMUM_PARTIES,
    maximum_corruptions,
    minimum_threshold,
)


class Party(Section):
    """One institution.

    Attributes:
        name: also the common name of its TLS certificate.
        identity: Ed25519 public key, 32 bytes in hex; signs every message of the party.
        max_edits: upper bound of its edits; the bounds of all parties must fit the capacity.
    """

    name: Name
    identity: Hex32
    max_edits: Annotated[int, Field(ge=1, le=1_000_000)]


class Coordinator(Section):
    """The aggregator: `name` is on its TLS certificate, `identity` its Ed25519 public key."""

    name: Name
    identity: Hex32


class Federation(Section):
    """Who takes part. A party's id is its position in `parties`, from 1; never reorder.

    Attributes:
        threshold: fewest parties in any list, confirmation or sum.
        corruptions: how many parties may collude with the aggregator without harm to the others, in
            a graph no denser than that takes (SPEC 4.2); None takes the full graph.
        aggregator: the coordinator.
        parties: in the order of their ids.
    """

    threshold: int
    corruptions: int | None = None
    aggregator: Coordinator
    parties: Annotated[tuple[Party, ...], Field(min_length=MINIMUM_PARTIES, strict=False)]

    @model_validator(mode="after")
    def _check(self) -> "Federation":
        count = len(self.parties)
        if count > MAXIMUM_PARTIES:
            raise ValueError(f"{count} parties, at most {MAXIMUM_PARTIES} are supported")
        floor = minimum_threshold(count)
        if not floor <= self.threshold <= count:
            raise ValueError(
                f"threshold {self.threshold} for {count} parties, must be {floor} to {count}"
            )
        ceiling = maximum_corruptions(count, self.threshold)
        if self.corruptions is not None and not 0 <= self.corruptions <= ceiling:
            raise ValueError(
                f"corruptions {self.corruptions} for {count} parties with threshold "
                f"{self.threshold}, must be 0 to {ceiling}"
            )
        for what, values in (
            ("name", [p.name for p in self.parties] + [self.aggregator.name]),
            ("identity", [p.identity for p in self.parties] + [self.aggregator.identity]),
        ):
            repeated = {value for value in values if values.count(value) > 1}
            if repeated:
                raise ValueError(f"{what} {min(repeated)} is used twice")
        return self
