"""What closed sums cost a party in a real session: secret basis and checked merge, in CPU time.

The demo's first party (4 of 12 facts, SmolLM2-135M, five layers one after the other) does all
that costs it time in a session: target search, keys and residuals of each layer, contribution,
update. What closed sums add is set against the rest; the stated limit is 15 %. Needs the demo's
model and covariance (`make demo` fetches them); without them it says that it did not run.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from models import DEMO_MODEL
from timing import write_record

from collabedit.crypto.ring import add_into
from collabedit.crypto.rng import SystemRandomness
from collabedit.crypto.signing import SigningKey
from collabedit.demo.federation import COVARIANCE_WEIGHT, TARGET_STEPS, own_facts
from collabedit.demo.run import LAYERS
from collabedit.editing import Layer
from collabedit.exchange import contribution_vector, encode_bundle, encode_checks, merge_vector
from collabedit.exchange import plan_encoding as encoding_of
from collabedit.federation import Coordinator, Party
from collabedit.ids import PartyId, TaskIndex
from collabedit.party.closing import ClosedTask
from collabedit.party.editing.covariance import load_covariance
from collabedit.party.editing.editor import ModelEditor, key_maps, target_settings
from collabedit.party.editing.model import EditableModel, load_model
from collabedit.party.editing.proposal import propose_plan
from collabedit.party.editing.targets import compute_targets
from collabedit.party.edits import load_edits
from collabedit.plan import Plan
from collabedit.proto.messages import Context

FACTS, PARTIES, RUNS = 12, 3, 3
LIMIT = 0.15
ME = PartyId(1)


class Clock:
    """CPU seconds by what they were spent on."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Count what happens inside as `what`."""
        began = time.process_time()
        try:
            yield
        finally:
            self.spent[what] += time.process_time() - began


def plan_of(model: EditableModel, covariance: Path) -> Plan:
    identities = [
        SigningKey.generate(SystemRandomness()).verify_key.to_bytes().hex()
        for _ in range(PARTIES + 1)
    ]
    return propose_plan(
        model,
        load_covariance(covariance),
        name="closed",
        model_name=DEMO_MODEL.name,
        parties=[
            Party(name=f"party-{i}", identity=identities[i], max_edits=FACTS // PARTIES)
            for i in range(1, PARTIES + 1)
        ],
        aggregator=Coordinator(name="aggregator", identity=identities[0]),
        layers=LAYERS,
        randomness=SystemRandomness(),
        covariance_weight=COVARIANCE_WEIGHT,
        target_steps=TARGET_STEPS,
    )


def layer_of(plan: Plan, task: TaskIndex, editor: ModelEditor, clock: Clock) -> None:
    """One task, all parties bringing what this one has; only its own work is counted."""
    layers: tuple[Layer, ...] = plan.tasks[task]
    encoding = encoding_of(plan)
    with clock.on("keys and residuals"):
        statistics = editor.statistics(layers)
    with clock.on("sketch and encoding"):
        encoding.encode(contribution_vector(plan, task, statistics))
    closed = ClosedTask(plan, Context(plan.digest, bytes(32), task, bytes(32)), bytes(32))
    with clock.on("closed: contribution"):
        total = closed.contribute(ME, statistics)
    for other in plan.party_ids[1:]:
        add_into(total, closed.contribute(other, statistics))
    decoded = encoding.decode(total[: plan.statistics_length(task)])
    noise = encoding.step * float(np.sqrt(PARTIES / 12))
    updates = merge_vector(plan, task, decoded, survivors=plan.party_ids, noise=noise)
    bundle = encode_bundle(updates) + encode_checks(plan, task, total)
    with clock.on("closed: check and turn back"):
        opened = closed.open(bundle, plan.party_ids)
    with clock.on("apply"):
        editor.apply(opened.updates)


def session(model: EditableModel, plan: Plan, covariance: Path, facts: Path) -> Clock:
    clock = Clock()
    edits = load_edits(facts)
    with clock.on("targets"):
        targets = compute_targets(
            model,
            edits,
            layer=LAYERS[-1],
            templates=plan.editing.context_templates,
            settings=target_settings(plan.editing),
        )
    with clock.on("key maps"):
        maps = key_maps(plan, load_covariance(covariance))
    editor = ModelEditor(plan, model, edits, targets, maps)
    for task in range(len(plan.tasks)):
        layer_of(plan, TaskIndex(task), editor, clock)
    editor.rollback()
    return clock


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of closed sums in a party's session.")
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    arguments = parser.parse_args()
    found = sorted(DEMO_MODEL.parent.glob("covariance-*.safetensors"))
    if not arguments.model.exists() or not found:
        why = f"no model or covariance in {DEMO_MODEL.parent}: `make demo` fetches them"
        write_record("closed", [{"ran": False, "why": why}])
        return
    torch.set_num_threads(1)
    model = load_model(arguments.model)
    plan = plan_of(model, found[0])
    with tempfile.TemporaryDirectory(prefix="collabedit-") as folder:
        facts = Path(folder) / "facts.json"
        facts.write_text(json.dumps(own_facts(FACTS)[::PARTIES]))
        clocks = [session(model, plan, found[0], facts) for _ in range(RUNS)]
    median = {
        what: float(np.median([clock.spent[what] for clock in clocks])) for what in clocks[0].spent
    }
    # With closed sums the sketch is part of the contribution, and made once more for its checks.
    extra = median["closed: contribution"] + median["closed: check and turn back"]
    opened = sum(seconds for what, seconds in median.items() if not what.startswith("closed"))
    rows: list[dict[str, object]] = [
        {"what": what, "cpu_s": round(seconds, 4), "share_of_open": round(seconds / opened, 4)}
        for what, seconds in median.items()
    ]
    rows.append({"what": "overhead", "cpu_s": extra, "share_of_open": round(extra / opened, 4)})
    write_record("closed", rows, facts=FACTS, parties=PARTIES, limit=LIMIT)


if __name__ == "__main__":
    main()
