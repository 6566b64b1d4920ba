"""A party's share of the noise that a plan with privacy adds to every opened sum.

Discrete Gaussians, drawn by OpenDP with the exact algorithm of Canonne, Kamath and Steinke (2020,
arXiv 2004.00010): rational arithmetic throughout, so no rounding of a logarithm shifts a
probability (Mironov 2012), and an entropy source of its own. It is the one thing of a session that
does not come through `crypto.rng`: OpenDP takes no generator from outside, and with exact samples
there is no seed whose loss would undo the noise. What was drawn is fixed by the journal, which
keeps the encoded vector with the noise in it.
"""

import importlib
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from collabedit.accounting import check_claim
from collabedit.crypto.ring import Ring, RingArray, add_into
from collabedit.errors import InputError
from collabedit.ids import TaskIndex
from collabedit.plan import Plan

_BLOCK = 1 << 16
"""Entries drawn at a time: OpenDP takes and gives Python lists."""

Sampler = Callable[[list[int]], list[int]]


def noisy(plan: Plan, task: TaskIndex, encoded: RingArray) -> RingArray:
    """Add this party's noise to its encoded vector; without `privacy` return it as it is.

    Args:
        plan: the plan.
        task: one that edits layers.
        encoded: of the plan's ring, [elements]; not changed.

    Raises:
        PlanError: the plan's noise does not give the ε and δ that it claims.
        InputError: the libraries for it are not installed.
    """
    if plan.privacy is None:
        return encoded
    check_claim(plan)
    result = encoded.copy()
    start = 0
    for layer in plan.tasks[task]:
        scale = plan.noise(layer)
        for deviation, elements in zip(
            (scale.gram, scale.cross), plan.statistics_of(layer).elements, strict=True
        ):
            steps = math.ldexp(deviation, plan.aggregation.fractional_bits)
            part = result[start : start + elements]
            add_into(part, discrete_gaussian(elements, steps, ring=Ring.of(encoded)))
            start += elements
    if start != encoded.size:
        raise ValueError(f"a vector of {encoded.size} elements, the task has {start}")
    return result


def discrete_gaussian(count: int, deviation: float, *, ring: Ring) -> RingArray:
    """Draw independent discrete Gaussians around 0, as ring elements: [count].

    Args:
        count: how many.
        deviation: the parameter σ, in steps of the ring: P(x) ∝ exp(-x²/2σ²).
        ring: to write them in, modulo its size.

    Raises:
        InputError: OpenDP is not installed.
    """
    draw = _sampler(deviation)
    blocks = [
        np.array(draw([0] * min(_BLOCK, count - start)), dtype=np.int64)
        for start in range(0, count, _BLOCK)
    ]
    # The cast wraps, as the ring does.
    return np.concatenate(blocks).astype(ring.dtype)


@cache
def _sampler(deviation: float) -> Sampler:
    try:
        opendp: Any = importlib.import_module("opendp.prelude")
    except ImportError:
        raise InputError(
            "this plan adds noise, which needs OpenDP: pip install 'collabedit[privacy]'"
        ) from None
    # So OpenDP marks everything whose written proof has not been through its review yet.
    opendp.enable_features("contrib")
    # i64 by name: `int` is 32 bits there, and what is beyond saturates.
    space = opendp.vector_domain(opendp.atom_domain(T="i64")), opendp.l2_distance(T=float)
    sampler: Sampler = opendp.m.make_gaussian(*space, scale=deviation)
    return sampler
