"""The table of parity counts a row as good only if it is."""

import json
from pathlib import Path

import pytest

from collabedit.editing import EditorName
from collabedit.memory import Memory
from collabedit.party.editing.key_map import KeyMap, Matrix
from tests.audit import parity_table
from tests.audit.parity_table import LATER_LIMIT, LIMIT, Row, main, random_errors
from tests.support.editors import EDITORS


@pytest.mark.parametrize(
    ("errors", "ok"),
    [
        ([LIMIT / 2], True),
        ([LIMIT * 2], False),
        ([LIMIT / 2, LATER_LIMIT / 2], True),
        ([LIMIT / 2, LATER_LIMIT * 2], False),
        ([float("nan")], False),
    ],
)
def test_a_row_is_held_to_its_limits(errors: list[float], *, ok: bool) -> None:
    assert Row("random", "memit", False, "sketch", "parallel", errors, 0.1).ok is ok


@pytest.mark.parametrize("memory", [None, Memory(weight=5.0, max_edits=2)])
@pytest.mark.parametrize("editor", EDITORS)
def test_random_rows_reach_the_limit(
    editor: EditorName, memory: Memory | None, tmp_path: Path
) -> None:
    errors = random_errors(tmp_path, editor, "sketch", "parallel", seed=1, memory=memory)
    assert max(errors) < LIMIT


def test_a_key_map_that_is_off_is_missed_and_the_status_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = KeyMap.map_keys

    def off(self: KeyMap, keys: Matrix) -> Matrix:
        return true(self, keys) * (1 + 1e-6)

    monkeypatch.setattr(KeyMap, "map_keys", off)
    monkeypatch.setattr(parity_table, "EDITORS", ("memit",))
    monkeypatch.setattr(parity_table, "STATISTICS", ("sketch",))
    monkeypatch.setattr(parity_table, "SCHEDULES", ("sequential",))
    out = tmp_path / "parity-table.json"
    assert main(["--out", str(out)]) == 1
    record = json.loads(out.read_text())
    assert record["totals"]["rows"] == record["totals"]["missed"] == 6
    monkeypatch.undo()
    monkeypatch.setattr(parity_table, "EDITORS", ("memit",))
    monkeypatch.setattr(parity_table, "STATISTICS", ("sketch",))
    monkeypatch.setattr(parity_table, "SCHEDULES", ("sequential",))
    assert main(["--out", str(out)]) == 0
