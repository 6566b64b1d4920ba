"""How much a released sum tells about the key, and how it is made to tell next to nothing.

Decryption gives Σz·Γ + e: the error e is a linear function of the key, and whoever knows the
ciphertext and e solves for the key (Li and Micciancio, EUROCRYPT 2021; `attacks.ckks_key`). The
remedy is noise that drowns e, *for the largest e that can be*, not for a typical one (Li,
Micciancio, Schultz and Sorrell, CRYPTO 2022, ePrint 2022/816; estimates of typical errors have been
attacked, Guo et al., USENIX Security 2024).

*What is released.* With F uniform in 0..Γ-1 and fresh for each number,

    ⌊(Σz·Γ + e + F) / Γ⌋

*Why that is enough.* A uniform F and the same F shifted by e are at statistical distance |e|/Γ
(Asharov et al., EUROCRYPT 2012, lemma 1). Over n numbers and τ openings under one key, each |e| at
most B, what is released is within

    δ = τ·n·B/Γ

of a value computed from Σz alone. It holds for any e, so it also holds if the aggregator shifts the
first polynomial of the sum by anything it likes: the release is then within δ of a function of Σz
and that shift. It does *not* hold if the aggregator chooses the second polynomial: then the error
is no longer at most B. So `opening` expands that one from seeds that the parties signed.

*What it costs.* Nothing of a number, and with probability δ over all numbers a step: unless F is
within |e| of an end of its range, the floor is Σz exactly. The price is paid before, in the
modulus: log2 Γ bits of it.

*Against Gaussian noise.* Li et al. take a Gaussian of deviation √(12τ)·2^(s/2)·t, with t a bound on
the Euclidean norm of the error, B·√n here, for s bits in the sense of Micciancio and Walter
(EUROCRYPT 2018): its divergence is 2^-s/24, so its statistical distance is bounded by 2^(-s/2)/√48
(Pinsker). At equal distance it needs less room than a uniform one, by √n over a few standard
deviations. A uniform one has no tails, is drawn exactly from bits, and disappears by rounding;
`FloodingPlan` has both figures.
"""

import math
from dataclasses import dataclass

import numpy as np

from collabedit.crypto.ckks.modular import Residues
from collabedit.crypto.ckks.parameters import CkksParameters
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.ring import Ring
from collabedit.errors import NumericError

DEFAULT_STATISTICAL_BITS = 40
"""δ ≤ 2^-40: one chance in 10^12, over everything that is ever released under a key."""


@dataclass(frozen=True, slots=True)
class FloodingPlan:
    """What flooding achieves for one key.

    Attributes:
        values: n, numbers released at an opening.
        parties: N, uploads in the sum.
        decryptions: τ, openings under one key. `opening` makes one; more are for calculations.
        noise: B, the largest |error| of a coefficient of the sum: N times that of a fresh upload.
        guard: Γ.
    """

    values: int
    parties: int
    decryptions: int
    noise: int
    guard: int

    @property
    def distance(self) -> float:
        """δ = τ·n·B/Γ, at most 1."""
        return min(1.0, self.decryptions * self.values * self.noise / self.guard)

    @property
    def statistical_bits(self) -> float:
        """-log2 δ: bits of statistical security; 0 is none."""
        return max(0.0, self.margin)

    @property
    def margin(self) -> float:
        """log2 of Γ/(τ·n·B); negative where noise is wider than the guard."""
        return math.log2(self.guard) - math.log2(self.decryptions * self.values * self.noise)

    @property
    def deviation(self) -> float:
        """σ of the noise, in units of a coefficient: Γ/√12, a uniform distribution's."""
        return self.guard / math.sqrt(12)

    @property
    def gaussian_deviation(self) -> float:
        """σ that Li et al. (2022) ask for at the same statistical distance.

        It is √(12τ)·2^(s/2)·B·√n with s such that 2^(-s/2)/√48 = δ, so √(τn)·B/(2δ).
        """
        return math.sqrt(self.decryptions * self.values) * self.noise / (2 * self.distance)


def lmss_deviation(*, statistical_bits: float, decryptions: int, values: int, noise: int) -> float:
    """Return √(12τ)·2^(s/2)·B·√n, of Li et al. (2022), in units of a coefficient.

    Args:
        statistical_bits: s, in their sense: the distance is 2^(-s/2)/√48.
        decryptions: τ.
        values: n.
        noise: B.
    """
    return math.sqrt(12 * decryptions * values) * noise * 2 ** (statistical_bits / 2)


def flooding_plan(
    parameters: CkksParameters,
    *,
    parties: int,
    values: int,
    statistical_bits: float = DEFAULT_STATISTICAL_BITS,
    decryptions: int = 1,
    public_key: bool = False,
) -> FloodingPlan:
    """Say what flooding achieves, or that it is not enough.

    Args:
        parameters: give Γ and the noise of an upload.
        parties: N, the most uploads in a sum.
        values: n, numbers of the vector.
        statistical_bits: what is asked for: δ ≤ 2^-s.
        decryptions: τ.
        public_key: uploads are made under the public key, which is noisier.

    Raises:
        NumericError: the guard is too small; says by how many bits.
        ValueError: a count is not positive.
    """
    if min(parties, values, decryptions) < 1:
        raise ValueError("parties, values and decryptions must be 1 or more")
    noise = parties * parameters.fresh_noise(public_key=public_key)
    plan = FloodingPlan(values, parties, decryptions, noise, parameters.guard)
    if plan.statistical_bits < statistical_bits:
        missing = math.ceil(statistical_bits - plan.margin)
        raise NumericError(
            f"{values} numbers of {parties} parties are flooded to "
            f"{plan.statistical_bits:.1f} bits, not {statistical_bits:g}: raise shift_bits "
            f"by {missing} or use more guard primes"
        )
    return plan


def expected_error(parameters: CkksParameters, *, parties: int) -> tuple[float, float]:
    """Return the root mean square and the largest error of a number of a sum.

    Each party rounds to a step of 2^-f once: a variance of 4^-f/12, at most half a step. A sum that
    is hit by the noise, with probability δ over all, is off by one step more.
    """
    step = math.ldexp(1.0, -parameters.scale_bits)
    return step * math.sqrt(parties / 12), step * parties / 2


def uniform_residues(stream: Keystream, tile: int, count: int, prime: int) -> Residues:
    """Draw residues that are uniform below a prime, by rejection from a keystream.

    Args:
        stream: under a fresh key.
        tile: first of the tiles that are used; the draw takes as many as it needs, below 2^16.
        count: how many.
        prime: p.
    """
    mask = np.uint64((1 << prime.bit_length()) - 1)
    kept: list[Residues] = []
    missing = count
    while missing:
        drawn = stream.tile(tile, missing, Ring.Z64).astype(np.uint64) & mask
        accepted = drawn[drawn < np.uint64(prime)]
        kept.append(accepted)
        missing -= len(accepted)
        tile += 1
    return np.concatenate(kept)
