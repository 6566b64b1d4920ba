"""The noise that a party adds: its distribution, its place, and that a session carries it."""

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collabedit.crypto.ring import Ring, add_into
from collabedit.errors import InputError, PlanError
from collabedit.exchange import plan_encoding
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party import noise
from tests.protocol.test_resume import Stage
from tests.support.federations import TestFederation, build_federation
from tests.unit.party.test_session import Room

pytest.importorskip("opendp")
pytest.importorskip("dp_accounting")

FIRST = TaskIndex(0)


def private(parties: int = 3, **changes: Any) -> TestFederation:  # noqa: ANN401  TOML values
    caps = {
        "key_energy": 20.0,
        "residual_energy": 600.0,
        "epsilon": 10.0,
        "noise_multiplier": 0.571,
    }
    return build_federation(parties, **{**caps, **changes})


def signed(values: np.ndarray) -> np.ndarray:
    return values.view(f"<i{values.itemsize}").astype(np.float64)


def test_samples_follow_the_discrete_gaussian() -> None:
    deviation, count = 2.5, 40_000
    found = signed(noise.discrete_gaussian(count, deviation, ring=Ring.Z64))
    at = np.arange(-9, 10)
    weights = np.exp(-(at**2) / (2 * deviation**2))
    want = count * weights / np.exp(-(np.arange(-99, 100) ** 2) / (2 * deviation**2)).sum()
    seen = np.array([(found == value).sum() for value in at])
    # χ² with 19 degrees of freedom exceeds 60 with a probability of 4e-6.
    assert ((seen - want) ** 2 / want).sum() < 60


def test_shares_add_up_to_the_noise_of_the_sum() -> None:
    deviation, parties, count = 2.0**33, 4, 20_000
    total = np.zeros(count, dtype=Ring.Z64.dtype)
    for _ in range(parties):
        add_into(total, noise.discrete_gaussian(count, deviation, ring=Ring.Z64))
    # Six standard errors of a variance from 20,000 samples: 6·√(2/count) = 6 %.
    assert signed(total).var() == pytest.approx(parties * deviation**2, rel=0.06)
    assert abs(signed(total).mean()) < 6 * math.sqrt(parties / count) * deviation


def test_a_narrow_ring_wraps_as_the_wide_one() -> None:
    drawn = signed(noise.discrete_gaussian(5000, 1000.0, ring=Ring.Z32))
    assert drawn.var() == pytest.approx(1e6, rel=0.15)
    assert drawn.min() < 0 < drawn.max()


@pytest.mark.parametrize("form", ["sketch", "dense"])
def test_each_part_gets_its_own_noise(form: str) -> None:
    federation = private(layers=2, schedule='"parallel"', statistics=f'"{form}"')
    plan = federation.plan
    encoding = plan_encoding(plan)
    encoded = encoding.encode(federation.contribute(PartyId(1), FIRST))
    kept = encoded.copy()
    added = encoding.decode(noise.noisy(plan, FIRST, encoded) - encoded)
    assert np.array_equal(encoded, kept)
    start = 0
    for layer in plan.editing.layers:
        scale = plan.noise(layer)
        for deviation, count in zip(
            (scale.gram, scale.cross), plan.statistics_of(layer).elements, strict=True
        ):
            part = added[start : start + count]
            assert part.std() == pytest.approx(deviation, rel=6 / math.sqrt(2 * count))
            start += count
    assert start == len(added)


def test_without_privacy_a_vector_stays_as_it_is() -> None:
    federation = build_federation(3)
    encoded = plan_encoding(federation.plan).encode(federation.contribute(PartyId(1), FIRST))
    assert noise.noisy(federation.plan, FIRST, encoded) is encoded


def test_a_vector_of_another_size_is_no_contribution() -> None:
    federation = private()
    encoded = plan_encoding(federation.plan).encode(federation.contribute(PartyId(1), FIRST))
    with pytest.raises(ValueError, match="elements, the task has"):
        noise.noisy(federation.plan, FIRST, np.append(encoded, encoded[:1]))


def test_noise_too_small_for_the_claim_is_not_used() -> None:
    federation = private(noise_multiplier=0.5)
    encoded = plan_encoding(federation.plan).encode(federation.contribute(PartyId(1), FIRST))
    with pytest.raises(PlanError, match="the plan claims 10"):
        noise.noisy(federation.plan, FIRST, encoded)


def test_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(InputError, match=r"pip install 'collabedit\[privacy\]'"):
        noise.discrete_gaussian(3, 1234.5, ring=Ring.Z64)


@pytest.mark.parametrize("form", ["sketch", "dense"])
def test_a_session_with_noise_ends_with_a_finite_update(form: str, tmp_path: Path) -> None:
    federation = private(layers=2, statistics=f'"{form}"')
    room = Room(federation, tmp_path).run()
    assert not room.errors
    bundles = [
        [applied[LayerIndex(layer)].dense() for layer, applied in enumerate(editor.applied)]
        for editor in room.editors.values()
    ]
    for layer in (0, 1):
        first, *others = [bundle[layer] for bundle in bundles]
        assert np.isfinite(first).all()
        assert all(np.array_equal(first, other) for other in others)


def test_a_session_with_little_noise_ends_near_the_exact_update(tmp_path: Path) -> None:
    federation = private(epsilon=1e6, noise_multiplier=8e-4, statistics='"dense"')
    room = Room(federation, tmp_path).run()
    assert not room.errors
    update = room.editors[PartyId(1)].applied[0][LayerIndex(0)].dense()
    want = federation.centralised(frozenset(federation.plan.party_ids), FIRST)
    error = np.linalg.norm(update - want) / np.linalg.norm(want)
    # Far above the 1e-9 of a session without noise, and yet the same update.
    assert 1e-4 < error < 0.2


@pytest.mark.parametrize("deadly", [40, 70, 100, 130])
def test_a_restarted_party_brings_the_same_noise(
    deadly: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The check covers that all lives sent the same frames, tile by tile.
    stage = Stage(private(layers=2), tmp_path, sums=[None, None])
    stage.run(iter([deadly, None]), monkeypatch)
    assert len(stage.lives) == 2
    stage.check()


def test_nothing_of_the_noise_is_told(tmp_path: Path) -> None:
    # There is no seed that could be: OpenDP draws from the system, and twice never the same.
    federation = private()
    encoded = plan_encoding(federation.plan).encode(federation.contribute(PartyId(1), FIRST))
    one, two = (noise.noisy(federation.plan, FIRST, encoded) for _ in range(2))
    assert not (one == two).any()
    room = Room(federation, tmp_path).run()
    told = repr((room.seen, room.events, room.reports))
    total = room.coordinator.records[0]
    assert "noise" not in told
    assert "noise" not in repr(total)
