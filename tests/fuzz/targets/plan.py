"""The plan's parser: a `PlanError` of one line, or a plan that survives its own TOML."""

from collabedit.errors import PlanError
from collabedit.exchange import plan_encoding
from collabedit.ids import TaskIndex
from collabedit.plan import parse_plan
from tests.support.federations import build_federation, plan_text

SOURCE = "the plan's file"


def run(data: bytes) -> None:
    """Parse text; write a plan out and read it again."""
    try:
        plan = parse_plan(data.decode("utf-8", errors="replace"), source=SOURCE)
    except PlanError as error:
        assert SOURCE in str(error)
        assert "\n" not in str(error)
        return
    again = parse_plan(plan.to_toml(), source="its own TOML")
    assert again == plan
    assert again.digest == plan.digest
    plan_encoding(plan)
    for task in range(len(plan.tasks)):
        assert plan.task_length(TaskIndex(task)) > 0


def seeds() -> dict[str, bytes]:
    """Return plans of every editor, of both schedules and statistics, and of several sizes."""
    identities = build_federation(4).identities
    text = plan_text(3, identities=identities)
    memit = 'editor = "memit"'
    weight = "covariance_weight = 15000.0\n"
    covariance = f'covariance = "sha256:{"ab" * 32}"\n'
    for line in (memit, weight, covariance, "mapped = 48", "ridge = 1.0"):
        if line not in text:
            raise ValueError(f"plans no longer hold {line!r}")
    texts = {
        "emmet": text.replace(memit, 'editor = "emmet"').replace("ridge = 1.0", "ridge = 0.0"),
        "ridge": text.replace(memit, 'editor = "ridge"')
        .replace(weight, "")
        .replace(covariance, "")
        .replace("mapped = 48", "mapped = 48\nshift = -0.5"),
        "alphaedit": text.replace(memit, 'editor = "alphaedit"')
        .replace(weight, "nullspace_threshold = 0.02\nl2 = 10.0\n")
        .replace("mapped = 48", "mapped = 48\nkept = 30"),
        "three-parties": plan_text(3, identities=identities),
        "dense": plan_text(3, identities=identities, statistics='"dense"'),
        "parallel": plan_text(4, identities=identities, layers=3, schedule='"parallel"'),
        "short-ring": plan_text(3, identities=identities, ring_bits=32, fractional_bits=10),
        "threshold-too-low": plan_text(4, identities=identities, threshold=2),
        "overflow": plan_text(3, identities=identities, fractional_bits=60),
        "nested": "x = " + "[" * 3000,
    }
    return {name: text.encode() for name, text in texts.items()}
