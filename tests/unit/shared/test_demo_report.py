"""The demo's report: its published schema is fresh, and no bound can be missed unnoticed.

After a change of `collabedit.demo.report`, write the schema anew and read what changed:

    .venv/bin/python tests/unit/shared/test_demo_report.py && git diff docs/demo-report.schema.json
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from collabedit.demo.report import (
    DemoReport,
    LayerParity,
    MethodRow,
    Methods,
    acceptance,
    labelled_methods,
    write_markdown,
)

SCHEMA = Path(__file__).parents[3] / "docs" / "demo-report.schema.json"


def schema_text() -> str:
    return json.dumps(DemoReport.model_json_schema(), indent=2, sort_keys=True) + "\n"


def row(**values: float | None) -> MethodRow:
    measured: dict[str, Any] = {
        "efficacy": 100.0,
        "paraphrase": 90.0,
        "neighborhood": 60.0,
        "score": 80.0,
        "generation_accuracy": 70.0,
        "perplexity": 20.0,
        "update_error": 0.5,
        **values,
    }
    return MethodRow(**measured, generation_by_owner={"a": 100.0, "b": 50.0})


def methods(*, before: MethodRow | None = None, after: MethodRow | None = None) -> Methods:
    other = row(efficacy=1.0, paraphrase=1.0, neighborhood=1.0, perplexity=99.0)
    return Methods(
        unedited=before or row(efficacy=0.0, paraphrase=10.0),
        alone=[other, other],
        simple_average=other,
        task_arithmetic=other,
        ties=other,
        collabedit=after or row(),
        centralised=other,
    )


def layers(*errors: float) -> list[LayerParity]:
    return [
        LayerParity(layer=index, relative_error_vs_centralised=error)
        for index, error in enumerate(errors or (1e-11, 1e-6), 4)
    ]


def broken(parities: list[LayerParity], measured: Methods) -> list[str]:
    return [check.name for check in acceptance(parities, measured) if not check.holds]


def test_editors_other_than_memit_are_held_to_parity_alone() -> None:
    weak = methods(after=row(efficacy=10.0, perplexity=99.0))
    assert broken(layers(), weak)
    assert all(check.holds for check in acceptance(layers(), weak, editor="alphaedit"))
    (missed,) = (
        check for check in acceptance(layers(2e-8), weak, editor="emmet") if not check.holds
    )
    assert missed.name == "first layer vs centralised, at most"


def test_the_published_schema_is_that_of_the_report() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema_text()


def test_a_run_as_promised_holds_every_bound() -> None:
    checks = acceptance(layers(), methods())
    assert len(checks) == 6
    assert all(check.holds for check in checks)
    assert [check.value for check in checks] == [1e-11, 1e-6, 100.0, 90.0, 0.0, 1.0]


FIRST = "first layer vs centralised, at most"
EVERY = "every layer vs centralised, at most"
SHIFT = "neighbourhood shift, at most"
PERPLEXITY = "perplexity ratio, at most"


@pytest.mark.parametrize(
    ("errors", "names"),
    [
        ((2e-8, 1e-9), [FIRST]),
        ((1e-11, 1e-9, 2e-5), [EVERY]),
        ((1e-11, math.nan, 1e-9), [EVERY]),
        ((math.nan, 1e-9), [FIRST, EVERY]),
        ((math.inf, 1e-9), [FIRST, EVERY]),
    ],
)
def test_each_parity_bound_fails_by_name_when_it_is_broken(
    errors: tuple[float, ...], names: list[str]
) -> None:
    assert broken(layers(*errors), methods()) == names


@pytest.mark.parametrize(
    ("after", "name"),
    [
        ({"efficacy": 94.9}, "efficacy, at least"),
        ({"efficacy": None}, "efficacy, at least"),
        ({"paraphrase": 79.9}, "paraphrase, at least"),
        ({"paraphrase": None}, "paraphrase, at least"),
        ({"neighborhood": 54.9}, SHIFT),
        ({"neighborhood": 65.1}, SHIFT),
        ({"perplexity": 20.7}, PERPLEXITY),
        ({"perplexity": math.inf}, PERPLEXITY),
        ({"perplexity": math.nan}, PERPLEXITY),
    ],
)
def test_each_measured_bound_fails_by_name_when_it_is_broken(
    after: dict[str, float | None], name: str
) -> None:
    assert broken(layers(), methods(after=row(**after))) == [name]


def test_values_on_the_bounds_still_hold() -> None:
    after = row(efficacy=95.0, paraphrase=80.0, neighborhood=55.0, perplexity=20.6)
    assert broken(layers(1e-8, 1e-5), methods(after=after)) == []


def test_only_the_federated_method_is_judged() -> None:
    assert broken(layers(), methods(after=row(efficacy=0.0))) == ["efficacy, at least"]
    assert broken(layers(), methods(before=row(perplexity=10.0))) == ["perplexity ratio, at most"]


@pytest.fixture
def report() -> DemoReport:
    checks = acceptance(layers(1e-11, 2e-5), methods())
    return DemoReport(
        version="0",
        plan_digest="sha256:00",
        model="tiny",
        editor="memit",
        edits=4,
        parties=["a", "b"],
        covariance_source="nothing, 1 tokens",
        layers=layers(1e-11, 2e-5),
        methods=methods(),
        bytes_sent_per_party={"a": 1234, "b": 5678},
        dense_bytes_per_party=99_999,
        seconds={"model": 1.25},
        checks=checks,
        passed=all(check.holds for check in checks),
    )


def test_the_report_survives_its_own_json(report: DemoReport) -> None:
    assert not report.passed
    assert DemoReport.model_validate_json(report.model_dump_json()) == report
    required = set(json.loads(schema_text())["required"])
    assert required == set(json.loads(report.model_dump_json()))


def test_the_markdown_names_every_method_and_the_broken_bound(
    report: DemoReport, tmp_path: Path
) -> None:
    path = tmp_path / "report.md"
    write_markdown(report, path)
    text = path.read_text(encoding="utf-8")
    for name, _ in labelled_methods(report):
        assert f"| {name} |" in text
    assert "| every layer vs centralised, at most | 2e-05 | 1e-05 | NO |" in text
    assert text.count("| NO |") == 1
    assert "| a | 1,234 |" in text


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), encoding="utf-8")
