"""SPEC 6.9: rotations, contributions, check and opening of a closed task. No project code.

Rotations are products of dense matrices here, reflection by reflection.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from independent import primitives as p
from independent.plan import Plan
from independent.statements import owner_bytes
from independent.updates import Matrix, Update, factors, matrix, read_bundle, test_matrix
from independent.wire import Json, Malformed, context_bytes

UNITS = 2**20
FAILURE = 1e-9


def normals(key: bytes, tile: int, rows: int, columns: int) -> Matrix:
    """(a): normals of a tile of the keystream of `key`, as SPEC 6.2 makes them of words."""
    pairs = -(-rows * columns // 2)
    words = p.elements_of(p.keystream(key, tile, 16 * pairs), 8)
    uniform = np.array([((word >> 11) + 1) * 2.0**-53 for word in words])
    radius, angle = np.sqrt(-2 * np.log(uniform[:pairs])), 2 * np.pi * uniform[pairs:]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    drawn: Matrix = normal[: rows * columns].reshape(rows, columns)
    return drawn


def rotation(key: bytes, size: int) -> Matrix:
    """Rot(key, d) of (a), factor by factor."""
    product = np.eye(size)
    for start in range(0, size - 1, 64):
        count = min(64, size - 1 - start)
        block = normals(key, start, size - start, count)
        for k in range(count):
            x = block[k:, k]
            sign = 1.0 if x[0] >= 0 else -1.0
            w = x.copy()
            w[0] += sign * float(np.sqrt(x @ x))
            product[:, start + k :] -= np.outer(product[:, start + k :] @ w, 2 * w / (w @ w))
            product[:, start + k] *= -sign
    product[:, -1] *= 1.0 if normals(key, size - 1, 1, 1)[0, 0] >= 0 else -1.0
    return product


@dataclass
class Layer:
    """What follows from the group secret for one layer."""

    given: Json
    keys: dict[str, bytes]
    q: Matrix
    u: Matrix
    vectors: Matrix


@dataclass
class Task:
    """What follows from the group secret for a task."""

    plan: Plan
    context: Json
    secret: bytes

    def __post_init__(self) -> None:
        self.modulus = 2 ** (8 * self.plan.width)
        self.layers = [self.layer(each) for each in self.plan.tasks[self.context["task"]]]
        ctx = context_bytes(self.context)
        self.tag_key = p.derive(self.secret, "check-tag", ctx)

    @property
    def bits(self) -> dict[str, int]:
        section = self.plan.aggregation
        return {name: section[name] for name in ("fractional_bits", "ring_bits")}

    @property
    def units(self) -> tuple[float, float]:
        """u and u' of (c)."""
        everybody, bounds = self.plan.parties, self.plan.values["bounds"]
        keys = self.plan.key_edits(everybody) * bounds["key_energy"]
        return keys / UNITS, self.plan.residual_energy(everybody) / UNITS

    def layer(self, given: Json) -> Layer:
        """(a) and (c)."""
        fields = p.encode(context_bytes(self.context), given["index"])
        labels = ("basis-keys", "basis-outputs", "check-vector")
        keys = {label: p.derive(self.secret, label, fields) for label in labels}
        columns = self.plan.values["closed"]["check_columns"]
        return Layer(
            given,
            keys,
            rotation(keys["basis-keys"], given["mapped"]),
            rotation(keys["basis-outputs"], self.plan.rows(given)),
            normals(keys["check-vector"], 0, given["mapped"], columns),
        )

    def tags(self, integers: list[int]) -> list[int]:
        """(d)."""
        width, found = self.plan.width, []
        for k in range(self.plan.check_tags):
            stream = p.keystream(self.tag_key, k, len(integers) * width)
            factors = p.elements_of(stream, width)
            product = sum(a * number for a, number in zip(factors, integers, strict=True))
            found.append(product % self.modulus)
        return found

    def pad_key(self, party: int) -> bytes:
        """(e)."""
        return p.derive(self.secret, "check-pad", owner_bytes(self.context, party))

    def pad(self, party: int) -> list[int]:
        size = self.plan.closed_elements(self.context["task"]) * self.plan.width
        return p.elements_of(p.keystream(self.pad_key(party), 0, size), self.plan.width)


@dataclass
class Contribution:
    """(b) to (e) of one party, before any mask."""

    task: Task
    party: int
    statistics: list[Json]
    vector: list[float] = field(default_factory=list)
    columns: list[float] = field(default_factory=list)
    integers: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        plan = self.task.plan
        for layer, given in zip(self.task.layers, self.statistics, strict=True):
            own = matrix(given["keys"]), matrix(given["residuals"])
            keys, residuals = layer.q @ own[0], layer.u @ self.summed(*own, given)
            omega = test_matrix(plan, layer.given)
            for side in (keys, residuals):
                paired = keys[:, : side.shape[1]]
                self.vector += (side @ (paired.T @ omega)).ravel().tolist()
                self.columns += (side @ (paired.T @ layer.vectors)).ravel().tolist()
            self.integers += [own[0].shape[1], own[1].shape[1]]
            for side, unit in zip(own, self.task.units, strict=True):
                norm = float(np.linalg.norm(side, 2)) if side.size else 0.0
                self.integers.append(math.ceil(norm**2 / unit))
        self.tags = self.task.tags(self.integers)

    def summed(self, keys: Matrix, residuals: Matrix, given: Json) -> Matrix:
        """(h): with decoys' rows, as they are in the file."""
        if not self.task.plan.decoys:
            return residuals
        decoys = matrix(given["decoys"])
        if decoys.shape != (self.task.plan.decoys, keys.shape[1]):
            raise ValueError("decoys of another shape")
        zeros = np.zeros((len(residuals), keys.shape[1] - residuals.shape[1]))
        return np.vstack([np.hstack([residuals, zeros]), decoys])

    @property
    def encoded(self) -> list[int]:
        bits = self.task.bits
        bare = [p.to_ring(number, **bits) for number in self.columns] + self.integers + self.tags
        padded = [
            (element + pad) % self.task.modulus
            for element, pad in zip(bare, self.task.pad(self.party), strict=True)
        ]
        return [p.to_ring(number, **bits) for number in self.vector] + padded


@dataclass
class Held:
    """What a layer's update is held against: (f)."""

    columns: Matrix
    integers: list[int]
    tau: float
    lost: float
    cap: float
    misses: list[float]


class Refuses(Exception):  # noqa: N818 - an outcome, not an error
    """The reason for which a party ends the session."""


@dataclass
class Release:
    """A bundle that a party fetched."""

    task: Task
    data: bytes
    survivors: list[int]

    def open(self) -> tuple[dict[int, Held], dict[int, Update]]:
        """(f) to (h): what was checked, and the updates in mapped coordinates, by layer."""
        plan, number = self.task.plan, self.task.context["task"]
        size = plan.closed_elements(number) * plan.width
        try:
            updates = read_bundle(plan, number, self.data[:-size] if size else self.data)
        except Malformed:
            raise Refuses("MALFORMED_MESSAGE") from None
        if len(self.data) > plan.largest_bundle(number):
            raise Refuses("MALFORMED_MESSAGE")
        energy = plan.summed_energy(plan.parties)
        if not all(self.fits(update, energy) for update in updates.values()):
            raise Refuses("MALFORMED_MESSAGE")
        held = self.hold(p.elements_of(self.data[-size:], plan.width), updates)
        for each in held.values():
            # Negated, so that what is not a number is refused, too.
            if not max(each.misses) <= each.tau + min(each.lost, each.cap) < math.inf:
                raise Refuses("MERGE_UNVERIFIED")
        opened = {}
        for layer in self.task.layers:
            index = layer.given["index"]
            update = Update(layer.u.T @ updates[index].left, updates[index].right @ layer.q)
            opened[index] = self.cut(layer, update, held[index].integers[1])
        if min(each.integers[1] for each in held.values()) < plan.values["closed"]["min_edits"]:
            raise Refuses("TOO_FEW_EDITS")
        return held, opened

    def cut(self, layer: Layer, update: Update, edits: int) -> Update:
        """(h): without decoys' rows, in the form of SPEC 6.5, of no higher rank than the edits."""
        plan = self.task.plan
        if not plan.decoys:
            return update
        product = update.left[: layer.given["outputs"]] @ update.right
        kept = factors(product, min(edits, update.left.shape[1], *product.shape))
        if not self.fits(kept, plan.residual_energy(plan.parties)):
            raise Refuses("MERGE_UNVERIFIED")
        return kept

    def fits(self, update: Update, energy: float) -> bool:
        """SPEC 6.6(e), with that in the place of n·η."""
        plan, slack = self.task.plan, 1 + 1e-6
        size = float(np.linalg.norm(update.left @ update.right))
        factors = float(np.linalg.norm(update.left)) * float(np.linalg.norm(update.right))
        ridge = float(plan.values["editing"]["ridge"])
        cancels = factors > 2 * math.sqrt(update.left.shape[1]) * size
        return not cancels and bool(4 * ridge * size**2 <= energy * slack**2)

    def hold(self, padded: list[int], updates: dict[int, Update]) -> dict[int, Held]:
        task, plan = self.task, self.task.plan
        pads = [task.pad(party) for party in self.survivors]
        bare = [
            (element - sum(each[i] for each in pads)) % task.modulus
            for i, element in enumerate(padded)
        ]
        first = len(bare) - plan.check_tags - 4 * len(task.layers)
        last = len(bare) - plan.check_tags
        integers = bare[first:last]
        count = len(self.survivors)
        energy = UNITS + count
        most = [plan.max_columns(self.survivors), plan.max_edits(self.survivors), energy, energy]
        if bare[last:] != task.tags(integers) or any(
            number > most[i % 4] for i, number in enumerate(integers)
        ):
            raise Refuses("MERGE_UNVERIFIED")
        reals = [p.from_ring(element, **task.bits) for element in bare[:first]]
        held, at = {}, 0
        for i, layer in enumerate(task.layers):
            rows, columns = layer.given["mapped"] + plan.rows(layer.given), layer.vectors.shape[1]
            part = np.array(reals[at : at + rows * columns]).reshape(rows, columns)
            at += rows * columns
            update = updates[layer.given["index"]]
            held[layer.given["index"]] = self.hold_layer(
                layer, part, integers[4 * i : 4 * i + 4], update
            )
        return held

    def hold_layer(
        self, layer: Layer, columns: Matrix, integers: list[int], update: Update
    ) -> Held:
        plan = self.task.plan
        ridge, mapped = float(plan.values["editing"]["ridge"]), layer.given["mapped"]
        key, residual = (
            number * unit for number, unit in zip(integers[2:], self.task.units, strict=True)
        )
        product = update.left @ update.right
        misses = product @ (ridge * layer.vectors + columns[:mapped]) - columns[mapped:]
        size, hidden = float(np.linalg.norm(product)), residual
        inexact = size
        if plan.decoys:
            kept = layer.u.T[: layer.given["outputs"]]
            misses, size = kept @ misses, float(np.linalg.norm(kept @ product))
            hidden = max(residual, plan.summed_energy(self.survivors))
        tau, lost = limits(
            plan,
            layer.given,
            columns=max(integers[0], 1),
            energies=(key, residual),
            survivors=len(self.survivors),
            rank=update.left.shape[1],
            size=size,
            inexact=(inexact, hidden),
        )
        share = plan.values["closed"]["check_tolerance"]
        return Held(
            columns,
            integers,
            tau,
            lost,
            share * math.sqrt(key * residual),
            [float(miss) for miss in np.sqrt((misses**2).sum(axis=0))],
        )


def limits(
    plan: Plan,
    layer: Json,
    *,
    columns: int,
    energies: tuple[float, float],
    survivors: int,
    rank: int,
    size: float,
    inexact: tuple[float, float],
) -> tuple[float, float]:
    """Tau and lambda of (f), for sketches; `inexact` is what its last term has for D and η'."""
    n, m, ridge = columns, plan.aggregation["capacity"], float(plan.values["editing"]["ridge"])
    mapped, outputs = layer["mapped"] ** 0.5, layer["outputs"] ** 0.5
    (keys, residuals), root = energies, m**0.5
    epsilon, t = 2.0**-52, math.sqrt(-2 * math.log(FAILURE))
    sigma = 2.0 ** -plan.aggregation["fractional_bits"] * math.sqrt(survivors / 12)
    omega = mapped + root
    delta = sigma * omega
    k = max(m - n, 0) + 1
    x = k / math.e * FAILURE ** (2 / k)
    beta = root + math.sqrt(n) + t
    alpha = (2 * size * delta + sigma * (outputs + root)) * math.sqrt(n / x) * (1 + t)
    if ridge > 0:
        rounding = m * epsilon * (ridge + keys) * keys * beta**2
        h = 4 / x * ((ridge * omega + 2 * keys * beta) * delta + rounding)
        mu = 2 * h / (ridge + math.sqrt(ridge**2 + 4 * h))
    else:
        mu = 2 * (2 * delta + mapped**2 * epsilon * keys * beta) / math.sqrt(x)
    lost = math.sqrt(residuals * mu) * (math.sqrt(max(n - rank, 0) + 1) + t)
    tau = alpha + sigma * (outputs + t) + size * sigma * (mapped + t)
    scale = inexact[0] * (ridge + keys) + math.sqrt(inexact[1] * keys)
    return tau + 64 * epsilon * mapped * scale * (mapped + t), lost
