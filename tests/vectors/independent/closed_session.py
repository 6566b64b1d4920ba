"""Replay of closed.json: a session with closed sums, and what its parties refuse. No project code.

Taken from the file, beyond what `session` takes: the bundles of `refusals`. Reals are compared with
a tolerance, what they are encoded to exactly.
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from independent import primitives as p
from independent.closed import Contribution, Refuses, Release, Task, rotation
from independent.party import Draws, Party
from independent.session import DENSE_TOLERANCE, Replay, compare, is_near, task_draws
from independent.statements import owner_bytes
from independent.updates import Matrix, Update, matrix
from independent.wire import Json, un

REAL_TOLERANCE = 1e-10
"""Of rotations, contributions and check columns, of magnitude up to 400."""

CENTRALISED_TOLERANCE = 10 * DENSE_TOLERANCE
"""Of entries of an update: summed rounding is 16 times that of session.json."""


@dataclass
class ClosedParty(Party):
    """A party with closed sums: its vector follows from the group secret."""

    statistics: list[Json] = field(default_factory=list)

    def further_masks(self) -> list[tuple[str, int, bytes]]:
        task = Task(self.plan, self.context, self.group_secret)
        self.contribution = Contribution(task, self.me, self.statistics)
        self.encoded = self.contribution.encoded
        return []


def floats(numbers: NDArray[np.float64]) -> list[object]:
    return [float(x).hex() if np.ndim(x) == 0 else floats(x) for x in numbers]


class ClosedReplay(Replay):
    def prepare(self, party: int, task: int, context: Json) -> Party:
        given = self.given["tasks"][task]["parties"][str(party)]
        draws = Draws(task_draws(un(given["seed"]), owner_bytes(context, party)))
        seed, statistics = self.seeds[party], given["statistics"]
        self.context = context
        return ClosedParty(self.plan, party, seed, context, draws, [], statistics=statistics)

    def describe(self, party: int, task: int) -> Json:
        machine = self.parties[party]
        assert isinstance(machine, ClosedParty)
        given, made = self.given["tasks"][task]["parties"][str(party)], machine.contribution
        bound = Fraction(self.plan.aggregation["magnitude_bound"])
        for name in ("vector", "columns"):
            found = getattr(made, name)
            self.compare_reals(f"tasks[{task}].parties.{party}.{name}", given[name], found)
            if max(map(abs, found)) > bound:
                self.lines.append(f"tasks[{task}].parties.{party}.{name}: magnitude")
        return super().describe(party, task) | {
            "columns": given["columns"],
            "integers": made.integers,
            "tags": made.tags,
            "pad": {
                "key": made.task.pad_key(party).hex(),
                "keystream": p.keystream(made.task.pad_key(party), 0, 8 * self.plan.width).hex(),
            },
        }

    def compare_reals(
        self, path: str, given: object, found: object, tolerance: float = REAL_TOLERANCE
    ) -> None:
        """One line for each real that is off by more than the tolerance."""
        found = np.asarray(found, dtype=np.float64)
        shown = np.array([float.fromhex(text) for text in flat(given)])
        if shape(given) != found.shape:
            self.lines.append(f"{path}: shape")
            return
        for place in np.argwhere(~(np.abs(shown.reshape(found.shape) - found) <= tolerance)):
            where = "".join(f"[{i}]" for i in place)
            self.lines.append(f"{path}{where}: is not {float(found[tuple(place)]).hex()}")

    def merged(self, task: int, total: bytes, survivors: list[int], bundle: bytes) -> Json:
        size = self.plan.closed_elements(task) * self.plan.width
        path, listed = f"tasks[{task}]", self.given["tasks"][task]
        if bundle[-size:] != total[-size:]:
            self.lines.append(f"{path}.bundle: has other check elements than the sum")
        shown = super().merged(task, total[:-size], survivors, bundle[:-size])
        one = self.parties[survivors[0]]
        assert isinstance(one, ClosedParty)
        closed = one.contribution.task
        held, opened = Release(closed, bundle, survivors).open()
        told = {}
        for layer in closed.layers:
            index = str(layer.given["index"])
            given, where = listed["closed"][index], f"{path}.closed.{index}"
            check = held[layer.given["index"]]
            for name, reals in (("q", layer.q), ("u", layer.u), ("vectors", layer.vectors)):
                self.compare_reals(f"{where}.{name}", given[name], reals)
            self.compare_reals(f"{where}.misses", given["misses"], check.misses, self.tolerance)
            for name, real in (("tau", check.tau), ("lambda", check.lost)):
                if not math.isclose(float.fromhex(given[name]), real, rel_tol=1e-9):
                    self.lines.append(f"{where}.{name}: is not {real.hex()}")
            update = opened[layer.given["index"]]
            found = update.left @ update.right
            self.compare_reals(f"{where}.opened", given["opened"], found, self.tolerance)
            if not is_near(
                found, self.centralised(task, layer.given, survivors), CENTRALISED_TOLERANCE
            ):
                self.lines.append(f"{where}.opened: is not T(ρI + S)⁻¹ of the survivors' edits")
            told[index] = {
                **given,
                **self.describe_opened(where, given, update),
                "keys": {label: key.hex() for label, key in layer.keys.items()},
                "columns": floats(check.columns),
            }
        return shown | {"closed": told, "check_tag": closed.tag_key.hex()}

    def describe_opened(self, where: str, given: Json, update: Update) -> Json:
        """What a layer shows of its opened update, beyond the product."""
        del where, given, update
        return {}

    def compare_refusals(self, task: Task) -> None:
        """What parties of that task say to each bundle of `refusals`."""
        for i, case in enumerate(self.given["refusals"]):
            try:
                Release(task, un(case["bundle"]), case["survivors"]).open()
                reason = None
            except Refuses as refused:
                reason = str(refused)
            if reason != case["reason"]:
                self.lines.append(f"refusals[{i}].reason: {case['case']!r} gives {reason}")

    def centralised(self, task: int, layer: Json, survivors: list[int]) -> Matrix:
        """By a dense solve over all columns in one place, in the coordinates of the model."""
        place = [each["index"] for each in self.plan.tasks[task]].index(layer["index"])
        rows, columns = layer["outputs"], layer["mapped"]
        gram, cross = np.zeros((columns, columns)), np.zeros((rows, columns))
        for party in survivors:
            given = self.given["tasks"][task]["parties"][str(party)]["statistics"][place]
            keys, residuals = matrix(given["keys"]), matrix(given["residuals"])
            gram += keys @ keys.T
            cross += residuals @ keys[:, : residuals.shape[1]].T
        shifted = float(self.plan.values["editing"]["ridge"]) * np.eye(len(gram)) + gram
        solution: Matrix = np.linalg.solve(shifted, cross.T).T.astype(np.float64)
        return solution


def flat(tree: object) -> list[str]:
    if isinstance(tree, list):
        return [leaf for each in tree for leaf in flat(each)]
    return [str(tree)]


def shape(tree: object) -> tuple[int, ...]:
    return (len(tree), *shape(tree[0])) if isinstance(tree, list) else ()


def verify_closed(given: Json) -> list[str]:
    replay = ClosedReplay(given)
    computed = replay.run()
    for i, case in enumerate(given["rotations"]):
        turns, columns = rotation(un(case["key"]), case["size"]), matrix(case["columns"])
        for name, turned in (("turned", turns @ columns), ("turned_back", turns.T @ columns)):
            replay.compare_reals(f"rotations[{i}].{name}", case[name], turned)
    secret = un(computed["tasks"][0]["group_secret"])
    replay.compare_refusals(Task(replay.plan, replay.context, secret))
    alike = {"rotations": given["rotations"], "refusals": given["refusals"]}
    return compare(given, computed | alike) + replay.lines
