"""The plan's `[privacy]`: noise in every opened sum, drawn by the parties, and how much of it.

Each party adds discrete Gaussian noise to its encoded statistics before it masks them. The opened
sum then holds the noise of all survivors, and `honest` of these shares alone make it (ε, δ)-
differentially private, whoever else colludes: the distributed discrete Gaussian mechanism
(Kairouz, Liu, Steinke 2021, arXiv 2102.06387). This module has the section and the sensitivities;
`accounting` turns them into ε, `party.noise` draws. Derivations: docs/differential-privacy.md.

A session releases two parts for each layer, Y and Z or S and T. With P parts in all, part p of
sensitivity Δ_p gets noise of deviation z·√P·Δ_p from the `honest` parties together, so that every
part spends the same share and the session as a whole is a Gaussian mechanism of multiplier z.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from collabedit.section import Section

Unit = Literal["edit", "party"]

PROJECTION_SPREAD = 7.0
"""‖Ωᵀk̃‖ of a key of length 1 is a χ variable with m degrees of freedom, since Ω is drawn before any
key is known, and exceeds √m + 7 with a probability below e^(-49/2) = 2.3e-11. A party refuses a key
that does (`bounds.check_projections`); ‖Ω‖₂, about √d' + √m, would hold without a refusal and ask
for two to four times the noise."""

MINIMUM_STEPS = 8.0
"""Least deviation of one party's noise, in steps of the ring. From here on a sum of discrete
Gaussians is one, but for a relative 10⁻²⁷⁰ (`accounting.convolution_gap`)."""

NOISE_HEADROOM = 12.0
"""Standard deviations of a sum's noise that the ring has room for, and that an opened entry may be
off by: more has a probability below 2e^(-72) for each entry."""

_LARGEST_NORMAL = 8.58
"""No entry of Ω is larger: √(2·53·ln 2), from uniforms of 53 bits (`sketch.normals`)."""

_SLACK = 1e-6
"""Relative: energies are compared with their caps in float64."""


class Privacy(Section):
    """What the noise promises, and how large it is.

    Attributes:
        mechanism: the distributed discrete Gaussian.
        unit: what may be there or not without the opened sums telling: one edit of one party, or
            all edits of one party.
        epsilon: of the whole session, all layers together.
        delta: likewise.
        noise_multiplier: z, the noise of `honest` parties over the sensitivity, for the session as
            a whole; `accounting.check_claim` holds ε and δ against it.
        honest: h, survivors whose noise counts. Every sum has t or more, so t - h of them may
            collude with the aggregator and tell it their noise.
    """

    mechanism: Literal["discrete-gaussian"]
    unit: Unit
    epsilon: Annotated[float, Field(ge=1e-3, le=1e6)]
    delta: Annotated[float, Field(ge=1e-15, le=1e-2)]
    noise_multiplier: Annotated[float, Field(ge=1e-4, le=1e6)]
    honest: Annotated[int, Field(ge=1, le=500)]


@dataclass(frozen=True, slots=True)
class Statistics:
    """What one layer's statistics may weigh at one party.

    Attributes:
        mapped: d'.
        outputs: d_out.
        columns: m, of Ω; None for dense statistics.
        key_energy: κ, largest ‖k̃‖².
        residual_energy: η, largest ‖r‖².
        edits: most edits of any one party.
        step: of the fixed point.
    """

    mapped: int
    outputs: int
    columns: int | None
    key_energy: float
    residual_energy: float
    edits: int
    step: float

    @property
    def elements(self) -> tuple[int, int]:
        """Ring elements of Y and Z, or of S's triangle and T."""
        if self.columns is None:
            return self.mapped * (self.mapped + 1) // 2, self.outputs * self.mapped
        return self.mapped * self.columns, self.outputs * self.columns


@dataclass(frozen=True, slots=True)
class Noise:
    """A number for each of the two parts of a layer.

    Attributes:
        gram: of Y, or of S.
        cross: of Z, or of T.
    """

    gram: float
    cross: float

    def __mul__(self, factor: float) -> "Noise":
        return Noise(self.gram * factor, self.cross * factor)


NO_NOISE = Noise(0.0, 0.0)


def projection_bound(columns: int) -> float:
    """Largest ‖Ωᵀk̃‖/√κ that a party contributes: √m + 7."""
    return math.sqrt(columns) + PROJECTION_SPREAD


def sensitivity(unit: Unit, of: Statistics) -> Noise:
    """Bound the ℓ2 distance of a party's encoded parts with and without one unit, as reals.

    One edit adds k̃(Ωᵀk̃)ᵀ to Y and r(Ωᵀk̃)ᵀ to Z, of norm ‖k̃‖‖Ωᵀk̃‖ and ‖r‖‖Ωᵀk̃‖; the triangle of
    k̃k̃ᵀ, of norm at most ‖k̃‖², to S and rk̃ᵀ to T. To this come

    * the ring: round(x + y) and round(x) + y differ by a step at most, in every element;
    * float64: a party's n columns are multiplied with a rounding that may be another one without
      the unit, of less than 2(d' + n + 2)·ε·‖K̃‖_F‖K̃‖_F‖Ω‖_F each time (Higham 2002, section 3.5),
      likewise for Z, S and T.

    Args:
        unit: of the plan.
        of: the layer's statistics.
    """
    if of.columns is None:
        reach, omega = math.sqrt(of.key_energy), 1.0
    else:
        reach = math.sqrt(of.key_energy) * projection_bound(of.columns)
        omega = _LARGEST_NORMAL * math.sqrt(of.mapped * of.columns)
    gram, cross = math.sqrt(of.key_energy) * reach, math.sqrt(of.residual_energy) * reach
    change = Noise(gram, cross) * (of.edits if unit == "party" else 1)
    keys = math.sqrt(of.key_energy * of.edits)
    rounding = 4 * (of.mapped + of.edits + 2) * math.ulp(1.0) * keys * omega
    in_gram, in_cross = of.elements
    return Noise(
        change.gram * (1 + _SLACK) + of.step * math.sqrt(in_gram) + rounding * keys,
        change.cross * (1 + _SLACK)
        + of.step * math.sqrt(in_cross)
        + rounding * math.sqrt(of.residual_energy * of.edits),
    )


def party_noise(privacy: Privacy, of: Statistics, *, layers: int) -> Noise:
    """Return the deviation that each party's noise has in an entry of a layer, as a real.

    Args:
        privacy: of the plan.
        of: the layer's statistics.
        layers: of the plan; a session has two parts for each.
    """
    share = privacy.noise_multiplier * math.sqrt(2 * layers / privacy.honest)
    return sensitivity(privacy.unit, of) * share


def check_room(
    scales: Sequence[Noise],
    *,
    parties: int,
    ring_bits: int,
    fractional_bits: int,
    magnitude_bound: float,
) -> None:
    """Refuse noise that is finer than the ring, or that the ring has no room for.

    Args:
        scales: `party_noise` of each layer.
        parties: N.
        ring_bits: of the plan.
        fractional_bits: f.
        magnitude_bound: B.

    Raises:
        ValueError: says which, and what to change in the plan.
    """
    deviations = [deviation for scale in scales for deviation in (scale.gram, scale.cross)]
    if math.ldexp(min(deviations), fractional_bits) < MINIMUM_STEPS:
        raise ValueError(
            f"privacy: a party's noise is below {MINIMUM_STEPS:g} steps of the ring: more "
            "aggregation.fractional_bits are needed"
        )
    largest = max(deviations)
    room = parties * magnitude_bound + NOISE_HEADROOM * math.sqrt(parties) * largest
    # A relative 2⁻²⁰ for what the rule about B rounds up.
    if math.ldexp(room, fractional_bits + 1 - ring_bits) > 1 - 2**-20:
        raise ValueError(
            f"privacy: a {ring_bits}-bit ring has no room for noise of deviation {largest:.3g} "
            f"beside magnitude_bound {magnitude_bound:g}: lower fractional_bits, magnitude_bound "
            "or the caps in bounds"
        )
