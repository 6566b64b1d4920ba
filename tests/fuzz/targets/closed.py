"""Bundles with check elements, as a party of closed sums takes them: refused by name, or right.

The first byte chooses. `BUNDLE` reads bytes as they come; what opens must be what is written again.
`ALTERED` and `AUTHENTIC` start from the bundle that an honest aggregator released and exclusive-or
eight bytes at a time, the latter on check elements without their pads, under tags made anew, as no
aggregator could. Whatever alteration passes the check leaves the opened update what it was, but for
the check's tolerance.
"""

import functools
import struct

import numpy as np

from collabedit.crypto.ring import Ring, add_into, from_bytes, subtract_from, to_bytes
from collabedit.errors import MalformedMessageError
from collabedit.exchange import (
    decode_bundle,
    decode_checks,
    encode_bundle,
    encode_checks,
    merge_vector,
    plan_encoding,
)
from collabedit.ids import LayerIndex, TaskIndex
from collabedit.party.closing import ClosedTask, OpenedUpdate, UnverifiedError
from collabedit.plan import Plan
from collabedit.proto.messages import Context
from collabedit.sketch import LowRankUpdate, Matrix
from tests.support.federations import TestFederation, build_federation

BUNDLE, ALTERED, AUTHENTIC = range(3)
TASK = TaskIndex(0)
SIZES = {"mapped": 6, "outputs": 3, "edits_each": 1}
INTEGERS = 8
"""Of two layers."""

_PATCH = struct.Struct("<H8s")
_TOLERANCE = 1e-2
"""Of ‖ΔW‖: what `check_tolerance` lets through here, and more."""


@functools.cache
def federation() -> TestFederation:
    return build_federation(3, layers=2, schedule='"parallel"', closed="check_columns = 4", **SIZES)


def plan() -> Plan:
    return federation().plan


@functools.cache
def task() -> ClosedTask:
    return ClosedTask(plan(), Context(plan().digest, bytes(32), TASK, bytes(32)), b"g" * 32)


@functools.cache
def honest() -> bytes:
    """What an honest aggregator releases."""
    encoding, parties = plan_encoding(plan()), plan().party_ids
    total = np.zeros(plan().task_length(TASK), dtype=encoding.ring.dtype)
    for party in parties:
        add_into(total, task().contribute(party, federation().statistics(party, TASK)))
    decoded = encoding.decode(total[: plan().statistics_length(TASK)])
    noise = encoding.step * float(np.sqrt(len(parties) / 12))
    updates = merge_vector(plan(), TASK, decoded, survivors=parties, noise=noise)
    return encode_bundle(updates) + encode_checks(plan(), TASK, total)


@functools.cache
def wanted() -> dict[LayerIndex, Matrix]:
    return dense(task().open(honest(), plan().party_ids))


def dense(opened: OpenedUpdate) -> dict[LayerIndex, Matrix]:
    return {layer: update.dense() for layer, update in opened.updates.items()}


def run(data: bytes) -> None:
    """Open, or refuse by name."""
    choice, data = (data[0] % 3 if data else 0), data[1:]
    if choice == BUNDLE:
        bundle = data
    elif choice == ALTERED:
        bundle = altered(honest(), data)
    else:
        bundle = authentic(data)
    try:
        opened = task().open(bundle, plan().party_ids)
    except (MalformedMessageError, UnverifiedError):
        return
    checks = bytes(to_bytes(decode_checks(plan(), TASK, bundle)))
    again = encode_bundle(decode_bundle(plan(), TASK, bundle)) + checks
    assert again == bundle, "two encodings decode to one value"
    found = dense(opened)
    for layer, update in wanted().items():
        error = float(np.linalg.norm(found[layer] - update))
        if choice == AUTHENTIC:
            # Larger integers are larger sums: parties that say so are allowed more.
            assert np.isfinite(error), "an update that cannot be applied"
        else:
            assert error <= _TOLERANCE * np.linalg.norm(update), "a wrong update passed its check"


def altered(data: bytes, patches: bytes) -> bytes:
    """Exclusive-or eight bytes for every ten of `patches`."""
    out = bytearray(data)
    for start in range(0, len(patches) - _PATCH.size + 1, _PATCH.size):
        place, mask = _PATCH.unpack_from(patches, start)
        at = place % len(out)
        for i, byte in enumerate(mask[: len(out) - at]):
            out[at + i] ^= byte
    return bytes(out)


def authentic(patches: bytes) -> bytes:
    """Alter columns and integers below the pads, and make the tags anew."""
    check, parties = task()._check, plan().party_ids
    elements = decode_checks(plan(), TASK, honest()).copy()
    for party in parties:
        subtract_from(elements, check._pad(party))
    tags = plan().check_tags
    bare = from_bytes(Ring.Z64, altered(bytes(to_bytes(elements[:-tags])), patches))
    elements = np.concatenate([bare, check._tag(bare[-INTEGERS:])])
    for party in parties:
        add_into(elements, check._pad(party))
    data = honest()
    return data[: -8 * plan().check_length(TASK)] + bytes(to_bytes(elements))


def seeds() -> dict[str, bytes]:
    """Return alterations of each part, and bundles of every rank with any check elements."""
    rng = np.random.default_rng(0)

    def patch(place: int, value: int) -> bytes:
        return _PATCH.pack(place, value.to_bytes(8, "little"))

    made = {"as-released": bytes([ALTERED]), "as-made": bytes([AUTHENTIC])}
    # Header, a factor's mantissa, sign and exponent, a column's last bit, an integer, a tag.
    length = 8 * plan().check_length(TASK)
    for number, place in enumerate((0, 60, 61, 66, 200)):
        made[f"altered-{number}"] = bytes([ALTERED]) + patch(place, 1 << 40)
    bare = length - 8 * plan().check_tags
    for number, (place, value) in enumerate(((0, 1), (48, 1 << 62), (bare - 64, 4), (bare - 8, 1))):
        made[f"authentic-{number}"] = bytes([AUTHENTIC]) + patch(place, value)
    for rank in range(3):
        updates = {
            LayerIndex(i): LowRankUpdate(
                rng.integers(-8, 8, size=(3, rank)) / 8, rng.integers(-8, 8, size=(rank, 6)) / 8
            )
            for i in range(2)
        }
        made[f"bundle-{rank}"] = bytes([BUNDLE]) + encode_bundle(updates) + rng.bytes(length)
    return made
