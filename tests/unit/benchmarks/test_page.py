"""The page of benchmarks: every aim has a verdict, and nothing needs every record."""

from pathlib import Path
from typing import Any

import link_figures
import page
import pytest


def record(rows: list[dict[str, Any]]) -> dict[str, Any]:
    machine = {"machine": "x86_64", "processor": "none", "cpus": 2, "python": "3.11"}
    return {"benchmark": "b", "load": 0.5, "settings": {}, "rows": rows, **machine}


def masks(share: float) -> dict[str, Any]:
    row = {"what": "keystreams of all masks", "tile_kib": 1024, "share_of_aes_rate": share}
    return record([row])


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.85, "| 0.85 | 0.8 | met |"), (0.7, "| 0.70 | 0.8 | **missed** |")]
)
def test_an_aim_is_met_or_missed_with_its_figure(share: float, verdict: str) -> None:
    text = page.page({"masks": masks(share)})
    assert verdict in text
    assert f"{int(share >= 0.8)} of 9 aims met, {int(share < 0.8)} missed, 8 not run." in text


def test_without_any_record_everything_is_said_not_to_have_run(tmp_path: Path) -> None:
    text = page.page({})
    assert "0 of 9 aims met, 0 missed, 9 not run." in text
    assert "not run: `python benchmarks/bench_links.py`" in text
    page.plot({}, tmp_path / "ratios.svg")
    assert (tmp_path / "ratios.svg").stat().st_size


def test_rows_of_one_kind_make_one_table() -> None:
    rows = [
        {"table": "sizes", "parties": 10, "line": "none will do"},
        {"what": "a|b", "seconds": 0.123456789},
        {"table": "sizes", "parties": 100, "wall_s": 1.5},
    ]
    lines = page.tables(record(rows))
    assert lines[1:6] == [
        "### Sizes",
        "",
        "| parties | line | wall s |",
        "|---:|---|---:|",
        "| 10 | none will do |  |",
    ]
    assert "| a\\|b | 0.12346 |" in lines


def test_the_links_have_a_plot_and_say_how_far_the_model_is_off(tmp_path: Path) -> None:
    seconds = {"table": "seconds of a task", "rtt_ms": 50, "case": "all there"}
    rows = [
        {**seconds, "parties": parties, "form": form, "link_mbit": 100, "wall_s": wall}
        for parties, form, wall in ((10, "closed", 100.0), (100, "closed", 150.0))
    ]
    checked = {"table": "validation", "case": "10 parties", "what": "r1 to r6"}
    found = {"predicted_over_measured": 0.8, "beside_others_over_measured": 1.2, "others_took": 0.1}
    links = record([*rows, {**checked, **found}])
    said = "10 parties 0.8 as if the machine were free, 1.2 with what others took of it (10 %)."
    assert said in page.page({"links": links})
    link_figures.plot(links, tmp_path / "links.svg")
    assert (tmp_path / "links.svg").stat().st_size
