"""What a plan's noise amounts to in (ε, δ), by Google's dp-accounting. Parties and authors use it.

Kairouz, Liu, Steinke 2021 (arXiv 2102.06387), proposition 14: a sum of h independent discrete
Gaussians of deviation σ ≥ 1/2 each, in D entries, hides a change of ℓ2 norm Δ with

    ρ = (Δ/(√h·σ) + √D·τ)²/2,    τ = 10 Σ_{k=1}^{h-1} exp(-2π²σ²k/(k+1))

of zero-concentrated differential privacy (Δ, σ in steps). Parts of a session add up, also where
later ones depend on earlier sums; noise of further parties is post-processing.
"""

import importlib
import math
from types import ModuleType
from typing import Any

from collabedit.errors import InputError, PlanError
from collabedit.plan import Aggregation, Plan
from collabedit.privacy import NOISE_HEADROOM, Privacy, Unit, party_noise

_ORDERS = tuple(1 + 1.02**k / 1e4 for k in range(1150))
"""Of Rényi divergences, from 1.0001 to 7·10⁵: the library's own end at 1024, too early for a small
ε. Any choice is sound."""

_HEADROOM = 0.9
"""Of half the ring, for the parties' statistics; the rest is for rounding."""

_TOLERANCE = 1e-6
"""Relative, of a stated ε: plans state decimals."""


def concentration(plan: Plan) -> float:
    """Return ρ of a whole session.

    Raises:
        ValueError: the plan has no privacy.
    """
    privacy = _section(plan)
    share = 1 / (privacy.noise_multiplier * math.sqrt(2 * len(plan.editing.layers)))
    total = 0.0
    for layer in plan.editing.layers:
        scale = plan.noise(layer)
        for deviation, elements in zip(
            (scale.gram, scale.cross), plan.statistics_of(layer).elements, strict=True
        ):
            steps = math.ldexp(deviation, plan.aggregation.fractional_bits)
            gap = convolution_gap(privacy.honest, steps)
            total += (share + math.sqrt(elements) * gap) ** 2 / 2
    return total


def convolution_gap(parties: int, deviation: float) -> float:
    """Return τ: how far the sum of discrete Gaussians is from being one itself.

    Args:
        parties: h, how many are added.
        deviation: σ of each, in steps.
    """
    terms = (math.exp(-2 * (math.pi * deviation) ** 2 * k / (k + 1)) for k in range(1, parties))
    return 10 * sum(terms)


def epsilon_of(rho: float, delta: float) -> float:
    """Convert ρ to the smallest ε that the accountant proves at `delta`.

    Raises:
        InputError: dp-accounting is not installed.
    """
    library = _library()
    accountant = library.rdp.RdpAccountant(_ORDERS)
    accountant.compose(library.ZCDpEvent(rho))
    return float(accountant.get_epsilon(delta))


def calibrate(epsilon: float, delta: float) -> float:
    """Return the smallest noise multiplier for (ε, δ), rounded up to four digits.

    Raises:
        InputError: dp-accounting is not installed, or no multiplier is large enough.
    """
    library: Any = _library()
    try:
        exact = library.calibrate_dp_mechanism(
            lambda: library.rdp.RdpAccountant(_ORDERS),
            lambda multiplier: library.ZCDpEvent(0.5 / multiplier**2),
            epsilon,
            delta,
            bracket_interval=library.LowerEndpointAndGuess(1e-6, 1.0),
            tol=1e-9,
        )
    except (ValueError, library.mechanism_calibration.NoBracketIntervalFoundError) as error:
        raise InputError(f"no noise gives epsilon {epsilon:g} at delta {delta:g}") from error
    unit = 10.0 ** (math.floor(math.log10(exact)) - 3)
    return float(f"{math.ceil(exact / unit) * unit:.4g}")


def with_privacy(plan: Plan, *, epsilon: float, delta: float, unit: Unit, honest: int) -> Plan:
    """Return the plan with noise for (ε, δ), and a fixed point that has room for it.

    The noise gets half of the ring and the parties' statistics the other; steps become coarser than
    in `plan` only where the noise does not fit.

    Args:
        plan: without privacy.
        epsilon: ε of a session.
        delta: δ.
        unit: what is hidden.
        honest: survivors whose noise counts.

    Raises:
        InputError: dp-accounting is not installed, or no noise is enough.
        ValidationError: a value is out of its range, or no fixed point has room.
    """
    privacy = Privacy(
        mechanism="discrete-gaussian",
        unit=unit,
        epsilon=epsilon,
        delta=delta,
        noise_multiplier=calibrate(epsilon, delta),
        honest=honest,
    )
    aggregation, parties = plan.aggregation, len(plan.federation.parties)
    layers = plan.editing.layers
    scales = [party_noise(privacy, plan.statistics_of(x), layers=len(layers)) for x in layers]
    largest = max(max(scale.gram, scale.cross) for scale in scales)
    noise = NOISE_HEADROOM * math.sqrt(parties) * largest
    # In [1/2, 1)·2^magnitude.
    magnitude = math.frexp(noise)[1]
    bits = min(aggregation.fractional_bits, aggregation.ring_bits - 2 - magnitude)
    half = math.ldexp(1.0, aggregation.ring_bits - 2 - bits)
    values = aggregation.model_dump() | {
        "fractional_bits": bits,
        "magnitude_bound": float(min(aggregation.magnitude_bound, int(_HEADROOM * half / parties))),
    }
    changed = {"aggregation": Aggregation(**values), "privacy": privacy}
    return Plan(**{**dict(plan), **changed})


def check_claim(plan: Plan) -> float:
    """Hold the plan's ε and δ against its noise; return the ε that the accountant finds.

    Raises:
        PlanError: the noise is too small for what the plan claims.
        InputError: dp-accounting is not installed.
        ValueError: the plan has no privacy.
    """
    privacy = _section(plan)
    found = epsilon_of(concentration(plan), privacy.delta)
    if not found <= privacy.epsilon * (1 + _TOLERANCE):
        raise PlanError(
            f"privacy: noise_multiplier {privacy.noise_multiplier:g} gives epsilon {found:.7g} at "
            f"delta {privacy.delta:g}, the plan claims {privacy.epsilon:g}: ask its author for "
            "another plan"
        )
    return found


def _section(plan: Plan) -> Privacy:
    if plan.privacy is None:
        raise ValueError("the plan has no privacy section")
    return plan.privacy


def _library() -> ModuleType:
    try:
        return importlib.import_module("dp_accounting")
    except ImportError:
        raise InputError(
            "differential privacy needs dp-accounting: pip install 'collabedit[privacy]'"
        ) from None
