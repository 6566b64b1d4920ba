"""The report's published schema is fresh, and a report survives its own JSON.

After a change of `collabedit.audit.results`, write the schema anew and read what changed:

    .venv/bin/python tests/unit/audit/test_results.py && git diff docs/audit-report.schema.json
"""

import json
from pathlib import Path

from collabedit.audit.results import AuditReport

SCHEMA = Path(__file__).parents[3] / "docs" / "audit-report.schema.json"


def schema_text() -> str:
    return json.dumps(AuditReport.model_json_schema(), indent=2, sort_keys=True) + "\n"


def test_the_published_schema_is_that_of_the_report() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema_text()


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), encoding="utf-8")
