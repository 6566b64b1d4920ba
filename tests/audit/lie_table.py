"""`make lie-table`: each lie of a coordinator or a party, and the reason that refused it.

Run as `python -m tests.audit.lie_table`. The rows are the marks `lie` of the tests
(`tests.support.lies`); the command runs those tests and takes from each what it observed. It writes
a JSON record and `docs/lie-table.md`, and exits 1 if a lie was not refused, or not for the declared
reason, if there are too few rows, or if a reason that a lie should give has none.
"""

import argparse
import ast
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from rich.table import Table

from collabedit.errors import AbortReason
from tests.audit.consoles import wide_console
from tests.support.lies import OBSERVED

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "lie-table.md"
MINIMUM_ROWS = 25
ROLES = ("aggregator", "party")
ROUNDS = ("join", "r0", "r1", "r2", "r3", "r4", "r5", "r6", "any")

NOT_LIES = {
    AbortReason.UNSPECIFIED: "is never given",
    AbortReason.INPUT_REFUSED: "a party's word on its own input",
    AbortReason.PARTY_LEFT: "a party's word on itself",
    AbortReason.TIMEOUT: "silence is no lie; `make dropout-matrix` is about silence",
    AbortReason.INTERNAL: "a fault of one's own",
    AbortReason.UPDATE_REJECTED: "an outcome that every party counts itself",
    AbortReason.TOO_FEW_EDITS: "few edits are no lie",
    AbortReason.OPENER_GONE: "silence is no lie",
}
"""Reasons that need no row, and why."""


@dataclass(frozen=True, slots=True, order=True)
class Lie:
    """One row: a lie as the marks declare it."""

    role: str
    round: str
    lie: str
    refused_by: str

    @property
    def place(self) -> tuple[object, ...]:
        """Where the row stands in the table."""
        return ROLES.index(self.role), ROUNDS.index(self.round), self.lie


@dataclass(frozen=True, slots=True)
class Declared:
    """The marks of one test: `node` is FILE::FUNCTION."""

    node: str
    lies: tuple[Lie, ...]


def declared_lies(root: Path = ROOT) -> list[Declared]:
    """Read the marks from the tests' sources.

    Read and not collected, so that a lie whose test was renamed, skipped or deselected shows as a
    row without an outcome instead of no row.
    """
    found = []
    for path in sorted((root / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                lies = tuple(_marks(function))
                if lies:
                    node = f"{path.relative_to(root).as_posix()}::{function.name}"
                    found.append(Declared(node, lies))
    return found


def _marks(function: ast.FunctionDef) -> Iterator[Lie]:
    for decorator in function.decorator_list:
        for call in ast.walk(decorator):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.lie":
                yield Lie(**{str(word.arg): ast.literal_eval(word.value) for word in call.keywords})


@dataclass(eq=False)
class Outcomes:
    """A pytest plugin: keeps how each marked test ended and what it observed.

    Attributes:
        observed: (test, lie, what refused it), once for each observation.
        failed: tests that did not pass with every parameter.
    """

    observed: list[tuple[str, str, str]] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        node = report.nodeid.split("[")[0]
        if report.outcome != "passed":
            self.failed.add(node)
        if report.when == "call":
            for name, value in report.user_properties:
                if name == OBSERVED:
                    said = [str(part) for part in cast("Sequence[object]", value)]
                    self.observed.append((node, said[0], said[1]))


def rows(declared: Iterable[Declared], outcomes: Outcomes) -> list[dict[str, object]]:
    """Return one row for each lie, with what its tests observed."""
    by_lie: dict[Lie, list[str]] = {}
    for test in declared:
        for lie in test.lies:
            by_lie.setdefault(lie, []).append(test.node)
    made: list[dict[str, object]] = []
    for lie, nodes in sorted(by_lie.items(), key=lambda row: row[0].place):
        # A test may try several lies, one for each of its parameters.
        refused = [outcomes.observed.count((node, lie.lie, lie.refused_by)) for node in nodes]
        made.append(
            {
                "role": lie.role,
                "round": lie.round,
                "lie": lie.lie,
                "refused_by": lie.refused_by,
                "tests": nodes,
                "observations": sum(refused),
                "ok": all(refused) and not outcomes.failed & set(nodes),
            }
        )
    return made


def missing_reasons(declared: Iterable[Declared]) -> list[str]:
    """Return the abort reasons that a lie should give and none does."""
    given = {lie.refused_by for test in declared for lie in test.lies}
    return [reason.name for reason in AbortReason if reason.name not in given | _exempt()]


def _exempt() -> set[str]:
    return {reason.name for reason in NOT_LIES}


def document(declared: Sequence[Declared]) -> str:
    """Return the table as Markdown."""
    made = rows(declared, Outcomes())
    lines = [
        "# Lies and what refuses them",
        "",
        "Generated by `make lie-table`, which runs every test named here and holds what the test",
        "observed against this table; do not edit. A name in capitals is an abort reason of",
        "`src/collabedit/errors.py`. A name of an exception is the refusal of a message, a plan or",
        "a connection that leaves the state as it was. PERMISSION_DENIED is a gRPC status.",
        "",
        f"{len(made)} lies. What no check of this version refuses is in",
        "[THREAT_MODEL](THREAT_MODEL.md) and [LIMITATIONS](LIMITATIONS.md).",
    ]
    for role in ROLES:
        title = {"aggregator": "Lies of the aggregator", "party": "Lies of a party"}[role]
        lines += ["", f"## {title}", "", "| round | lie | refused by | test |", "|---|---|---|---|"]
        for row in made:
            if row["role"] == role:
                nodes = row["tests"]
                assert isinstance(nodes, list)
                tests = "<br>".join(f"`{node.split('::')[1]}`" for node in nodes)
                lines.append(f"| {row['round']} | {row['lie']} | {row['refused_by']} | {tests} |")
    exempt = [f"{reason.name} ({why})" for reason, why in NOT_LIES.items()]
    lines += ["", "## Reasons without a lie", "", *(f"- {line}" for line in exempt), ""]
    return "\n".join(lines)


def _table(made: Sequence[dict[str, object]]) -> Table:
    table = Table(title="lies, and what refused them")
    for heading in ("role", "round", "lie", "refused by", "seen", ""):
        table.add_column(heading)
    for row in made:
        mark = "ok" if row["ok"] else "[red]FAILED[/red]"
        cells = (row["role"], row["round"], row["lie"], row["refused_by"], row["observations"])
        table.add_row(*(str(cell) for cell in cells), mark)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the marked tests and write the table; return the exit status."""
    parser = argparse.ArgumentParser(description="Try every lie and tabulate what refused it.")
    parser.add_argument("--out", type=Path, default=Path("out/lie-table.json"))
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    chosen = parser.parse_args(arguments)
    declared = declared_lies()
    nodes = sorted({test.node for test in declared})
    outcomes = Outcomes()
    options = ["-q", "-m", "lie", "-p", "no:cacheprovider"]
    status = pytest.main([*options, *(str(ROOT / node) for node in nodes)], plugins=[outcomes])
    made = rows(declared, outcomes)
    problems = [f"not refused as declared: {row['lie']}" for row in made if not row["ok"]]
    if status != pytest.ExitCode.OK:
        problems.append(f"pytest ended with {status!r}")
    if len(made) < MINIMUM_ROWS:
        problems.append(f"{len(made)} rows, at least {MINIMUM_ROWS} are asked for")
    problems += [f"no lie is refused by {reason}" for reason in missing_reasons(declared)]
    record = {
        "record": "lie-table",
        "totals": {
            "rows": len(made),
            "failed": sum(not row["ok"] for row in made),
            "observations": sum(int(str(row["observations"])) for row in made),
        },
        "reasons_without_a_lie": {reason.name: why for reason, why in NOT_LIES.items()},
        "problems": problems,
        "rows": made,
    }
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    chosen.document.write_text(document(declared), encoding="utf-8")
    console = wide_console()
    console.print(_table(made))
    console.print(f"{len(made)} lies, {len(problems)} problems; {chosen.out}, {chosen.document}")
    for problem in problems:
        console.print(problem, style="red", markup=False)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
