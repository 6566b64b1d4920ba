"""Replay of decoys.json: a session with decoys, keys of one length, a memory. No project code.

Taken from the file, beyond what `closed_session` takes: decoys' rows, and edits as they were before
their keys were given one length.
"""

import math

import numpy as np

from independent.closed import Task
from independent.closed_session import ClosedReplay
from independent.session import compare
from independent.updates import Matrix, Update, matrix
from independent.wire import Json, un


def of_length(keys: Matrix, length: float) -> Matrix:
    """SPEC 6.4: the factor of each key."""
    factors: Matrix = length / np.sqrt((keys**2).sum(axis=0))
    return factors


class DecoyReplay(ClosedReplay):
    def describe(self, party: int, task: int) -> Json:
        given = self.given["tasks"][task]["parties"][str(party)]
        section, weight = self.plan.values["editing"], self.plan.past[1]
        for i, edits in enumerate(given["edits"]):
            keys, past = matrix(edits["keys"]), matrix(edits["past"])
            scales = of_length(keys, section["key_length"])
            weighed = past * of_length(past, section["key_length"]) * math.sqrt(weight)
            summed = np.hstack([keys * scales, weighed])
            where, shown = f"tasks[{task}].parties.{party}.statistics[{i}]", given["statistics"][i]
            count = summed.shape[1]
            if len(shown["keys"][0]) != count + self.plan.cover:
                self.lines.append(f"{where}.keys: another number of columns")
            self.compare_reals(f"{where}.keys", [row[:count] for row in shown["keys"]], summed)
            residuals = matrix(edits["residuals"]) * scales
            self.compare_reals(f"{where}.residuals", shown["residuals"], residuals)
        return super().describe(party, task) | {"edits": given["edits"]}

    def merged(self, task: int, total: bytes, survivors: list[int], bundle: bytes) -> Json:
        plan, everybody = self.plan, self.plan.parties
        found = {
            "deviation": plan.decoy_deviation,
            "energy": plan.summed_energy(survivors),
            "energy_of_all": plan.summed_energy(everybody),
        }
        listed: Json = self.given["tasks"][task]["decoys"]
        for name, real in found.items():
            if not math.isclose(float.fromhex(listed[name]), real, rel_tol=1e-12):
                self.lines.append(f"tasks[{task}].decoys.{name}: is not {real.hex()}")
        shown = super().merged(task, total, survivors, bundle)
        return shown | {"decoys": {**listed, "rows": plan.decoys}}

    def describe_opened(self, where: str, given: Json, update: Update) -> Json:
        for name in ("left", "right"):
            self.compare_reals(
                f"{where}.{name}", given[name], getattr(update, name), self.tolerance
            )
        return {}


def verify_decoys(given: Json) -> list[str]:
    replay = DecoyReplay(given)
    computed = replay.run()
    secret = un(computed["tasks"][0]["group_secret"])
    replay.compare_refusals(Task(replay.plan, replay.context, secret))
    return compare(given, computed | {"refusals": given["refusals"]}) + replay.lines
