"""Plans and identities for benchmarks, of any size, for no real model."""

from typing import Literal

from collabedit.crypto.rng import SystemRandomness
from collabedit.crypto.signing import SigningKey
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.plan import Plan
from collabedit.threat_model import minimum_threshold

_DIGEST = "sha256:" + "00" * 32


def create_identities(parties: int) -> dict[PartyId, SigningKey]:
    """Draw the key of the aggregator, under 0, and of every party."""
    return {PartyId(i): SigningKey.generate(SystemRandomness()) for i in range(parties + 1)}


def create_plan(
    identities: dict[PartyId, SigningKey],
    *,
    mapped: int,
    outputs: int,
    capacity: int,
    tile_bytes: int = 1 << 20,
    corruptions: int | None = None,
    encrypted: bool = False,
    ring_bits: int = 64,
    closed: bool = False,
    max_edits: int = 1,
    statistics: Literal["sketch", "dense"] = "sketch",
) -> Plan:
    """Make a plan of one layer whose contributions have (mapped + outputs)·capacity elements.

    `corruptions` asks for a sparse graph, None for the full one; `encrypted` for CKKS ciphertexts,
    which go with closed sums alone; `closed` for such sums without. `max_edits` are of each party.
    Numbers are up to 8 in the ring of 32 bits, 1e4 in that of 64.
    """
    fractional_bits, magnitude_bound = (32, 10000.0) if ring_bits == 64 else (24, 8.0)
    parties = len(identities) - 1
    listed = [
        {
            "name": f"party-{i}",
            "identity": identities[PartyId(i)].verify_key.to_bytes().hex(),
            "max_edits": max_edits,
        }
        for i in range(1, parties + 1)
    ]
    aggregator = identities[AGGREGATOR].verify_key.to_bytes().hex()
    layer = {"index": 0, "inputs": mapped, "outputs": outputs, "mapped": mapped}
    return Plan.model_validate(
        {
            "version": 1,
            "name": "benchmark",
            "federation": {
                "threshold": minimum_threshold(parties),
                "corruptions": corruptions,
                "aggregator": {"name": "aggregator", "identity": aggregator},
                "parties": listed,
            },
            "model": {
                "name": "none",
                "architecture": "none",
                "dtype": "float32",
                "weights": _DIGEST,
                "tokenizer": _DIGEST,
            },
            "editing": {
                "editor": "memit",
                "schedule": "sequential",
                "covariance_weight": 1.0,
                "covariance": _DIGEST,
                "ridge": 1.0,
                "context_templates": ["{}"],
                "layers": [layer],
                "targets": {
                    "learning_rate": 0.5,
                    "steps": 1,
                    "clamp_factor": 4.0,
                    "weight_decay": 0.0,
                    "kl_weight": 0.0,
                    "stop_loss": 0.0,
                },
            },
            "aggregation": {
                "backend": "ckks" if encrypted else "masked",
                "statistics": statistics,
                "capacity": capacity,
                "ring_bits": ring_bits,
                "fractional_bits": fractional_bits,
                "magnitude_bound": magnitude_bound,
                "tile_bytes": tile_bytes,
                "test_matrix_seed": "00" * 32,
            },
            "bounds": {"key_energy": 1e6, "residual_energy": 1e6},
            "closed": {} if encrypted or closed else None,
        }
    )
