"""From a scenario that breaks a rule to a short one that breaks the same rule."""

from collections.abc import Callable
from dataclasses import replace

from tests.simulation.faults.ops import Flow, Op, Scenario

Fails = Callable[[Scenario], bool]


def shrink(scenario: Scenario, fails: Fails) -> Scenario:
    """Leave operations out while `fails` holds (Zeller and Hildebrandt 2002, ddmin), then simplify.

    Args:
        scenario: one that fails.
        fails: whether a scenario breaks the rule.
    """
    scenario = _fewer(scenario, fails)
    for simpler in (replace(scenario, tasks=1), replace(scenario, strict=False)):
        if simpler != scenario and fails(simpler):
            scenario = simpler
    return _fewer(_shorter_flows(scenario, fails), fails)


def _fewer(scenario: Scenario, fails: Fails) -> Scenario:
    ops, parts = scenario.ops, 2
    while len(ops) >= 2:
        size = -(-len(ops) // parts)
        for start in range(0, len(ops), size):
            rest = ops[:start] + ops[start + size :]
            if fails(replace(scenario, ops=rest)):
                ops, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(2 * parts, len(ops))
    if len(ops) == 1 and fails(replace(scenario, ops=())):
        ops = ()
    return replace(scenario, ops=ops)


def _shorter_flows(scenario: Scenario, fails: Fails) -> Scenario:
    for place, flow in enumerate(scenario.ops):
        count = flow.count if isinstance(flow, Flow) else 0
        while count > 1:
            count -= 1
            shorter: Op = Flow(count)
            ops = (*scenario.ops[:place], shorter, *scenario.ops[place + 1 :])
            if not fails(replace(scenario, ops=ops)):
                break
            scenario = replace(scenario, ops=ops)
    return scenario


def as_test(scenario: Scenario, name: str, detail: str) -> str:
    """Write a scenario as a test for `test_fault_reproductions.py`."""
    lines = "".join(f"                ops.{op!r},\n" for op in scenario.ops)
    return (
        f"def test_{name.replace('-', '_')}_{scenario.seed}(tmp_path: Path) -> None:\n"
        f"    # {detail}\n"
        "    holds(\n"
        "        ops.Scenario(\n"
        f"            (\n{lines}            ),\n"
        f"            parties={scenario.parties},\n"
        f"            tasks={scenario.tasks},\n"
        f"            strict={scenario.strict},\n"
        f"            seed={scenario.seed},\n"
        f"            counts={scenario.counts},\n"
        "        ),\n"
        "        tmp_path,\n"
        "    )\n"
    )
