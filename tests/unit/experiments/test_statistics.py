"""Tidy rows, means over seeds, and the tables made of them."""

import math
from dataclasses import asdict

import pandas as pd
import pytest

from collabedit.experiments.folder import Finished
from collabedit.experiments.measuring import Measurement
from collabedit.experiments.statistics import interval_note, last_round, over_seeds, tidy_rows
from collabedit.experiments.tables import main_table, part_table, retention_table
from collabedit.grid import Failure, Record
from tests.unit.experiments.test_deal import cell


def finished(measurements: list[Measurement], **changes: object) -> Finished:
    result = {"edits": 12, "measurements": [asdict(one) for one in measurements]}
    made = cell(**changes)
    return Finished(made, f"{made.method}{made.seed}", Record("", "", {}, result, None, 1.0))


def score(value: float, low: float = 40.0, high: float = 90.0) -> list[Measurement]:
    return [Measurement("score", "all", 1, value, low, high)]


def test_cells_without_a_result_have_no_rows() -> None:
    failed = Record("", "", {}, None, Failure("KeyError", "", ""), 1.0)
    rows = tidy_rows([Finished(cell(), "a", None), Finished(cell(), "b", failed)])
    assert not len(rows)
    assert not len(over_seeds(rows))


def test_a_row_has_the_cells_settings_and_the_measurement() -> None:
    (row,) = tidy_rows([finished(score(70.0), seed=4)]).to_dict("records")
    assert row["method"] == "centralised"
    assert (row["seed"], row["edits"], row["value"], row["low"]) == (4, 12, 70.0, 40.0)


def test_three_seeds_have_students_interval_over_them() -> None:
    rows = tidy_rows([finished(score(value), seed=seed) for seed, value in enumerate([60, 66, 72])])
    (row,) = over_seeds(rows).to_dict("records")
    # t = 4.302653 with 2 degrees of freedom, standard deviation 6.
    half = 4.302652729911275 * 6 / math.sqrt(3)
    assert row["mean"] == pytest.approx(66)
    assert row["low"] == pytest.approx(66 - half)
    assert row["high"] == pytest.approx(66 + half)
    assert (row["seeds"], row["interval"]) == (3, "seeds")


def test_one_seed_has_the_cells_own_interval_and_two_that_of_their_mean() -> None:
    (one,) = over_seeds(tidy_rows([finished(score(70.0, 60.0, 76.0))])).to_dict("records")
    assert (one["low"], one["mean"], one["high"], one["interval"]) == (60.0, 70.0, 76.0, "edits")
    two = [finished(score(70.0, 67.0, 74.0)), finished(score(80.0, 76.0, 83.0), seed=2)]
    (row,) = over_seeds(tidy_rows(two)).to_dict("records")
    # √(3² + 4²)/2 below, √(4² + 3²)/2 above.
    assert (row["low"], row["mean"], row["high"]) == (72.5, 75.0, 77.5)
    assert row["interval"] == "edits"


def test_shares_stay_within_0_and_100_and_other_figures_need_not() -> None:
    wide = [Measurement("perplexity", "all", 1, value) for value in (99.0,)]
    cells = [
        finished([*score(value), *wide], seed=seed) for seed, value in enumerate([99, 100, 80])
    ]
    rows = over_seeds(tidy_rows(cells)).set_index("metric")
    assert rows.loc["score", "high"] == 100.0
    assert rows.loc["perplexity", "interval"] == "seeds"


def test_what_has_no_interval_says_so() -> None:
    rows = over_seeds(tidy_rows([finished([Measurement("perplexity", "all", 1, 40.0)])]))
    assert rows["interval"].tolist() == ["none"]
    assert interval_note(rows) == "one seed, no intervals"


@pytest.mark.parametrize(
    ("seeds", "note"),
    [
        (1, "one seed, 95 % intervals over edits"),
        (2, "2 seeds, 95 % intervals over edits"),
        (3, "means over 3 seeds, 95 % t intervals over them"),
    ],
)
def test_a_caption_names_its_interval(seeds: int, note: str) -> None:
    cells = [finished(score(70.0 + seed), seed=seed) for seed in range(seeds)]
    assert interval_note(over_seeds(tidy_rows(cells))) == note


def test_settings_that_differ_are_not_averaged() -> None:
    cells = [finished(score(70.0)), finished(score(30.0), method="ties", seed=2)]
    assert len(over_seeds(tidy_rows(cells))) == 2


# Tables.


def summary() -> pd.DataFrame:
    def rounds(values: list[float]) -> list[Measurement]:
        found = []
        for number, value in enumerate(values, 1):
            found.append(Measurement("efficacy", "all", number, value, value - 1, value + 1))
            found += [
                Measurement("efficacy", f"round-{place}", number, value + place, None, None)
                for place in range(1, number + 1)
            ]
        found.append(Measurement("error_worst_layer", "all", len(values), 1.25e-9))
        found.append(Measurement("bytes_uploaded", "all", len(values), 1234567.0))
        found.append(Measurement("conflict_gap", "contested", len(values), -0.25, -0.3, -0.2))
        return found

    return over_seeds(
        tidy_rows(
            [
                finished(rounds([90.0, 80.0]), rounds=2),
                finished(rounds([91.0, 85.0]), rounds=2, memory=1.0),
            ]
        )
    )


def test_the_main_table_is_of_the_last_round_and_names_what_differs() -> None:
    assert main_table(summary()).splitlines() == [
        "| method | memory | ES | error, worst layer | bytes per party and round |",
        "| --- | --- | --- | --- | --- |",
        "| centralised | 0 | 80.0 (79.0 to 81.0) | 1.3e-09 | 1,234,567 |",
        "| centralised | 1 | 85.0 (84.0 to 86.0) | 1.3e-09 | 1,234,567 |",
    ]
    assert set(last_round(summary())["after_round"]) == {2}


def test_the_retention_table_follows_each_rounds_edits() -> None:
    assert retention_table(summary(), "efficacy").splitlines()[2:4] == [
        "| centralised | 0 | round 1 | 91.0 | 81.0 |",
        "| centralised | 0 | round 2 |  | 82.0 |",
    ]


def test_a_table_of_a_part_that_nobody_measured_is_empty() -> None:
    assert "-0.250 (-0.300 to -0.200)" in part_table(summary(), "contested", ["conflict_gap"])
    assert part_table(summary(), "elsewhere", ["conflict_gap"]) == ""
    assert retention_table(over_seeds(tidy_rows([finished(score(1.0))])), "efficacy") == ""
