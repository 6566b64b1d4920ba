"""The layout of the page: which cell shows which row, and which rows share a plot."""

import pytest

from collabedit.audit.arrangement import (
    adversaries_of,
    beside_utility,
    curves,
    matrix,
    tradeoffs,
    trends,
    worst_first,
)
from collabedit.audit.results import AuditReport, Row
from collabedit.audit.words import rounded
from tests.support.audit_reports import cut, rich, row

REPORT = rich()


def of_rows(*rows: Row) -> AuditReport:
    return cut(REPORT).model_copy(update={"rows": rows})


def test_a_cell_shows_the_worst_severity_then_the_farthest_from_chance() -> None:
    report = of_rows(
        row("sum-span", "open-sums", 0.0),
        row("sum-span", "open-sums", 1.0, edits=60),
        row("sum-span", "open-sums", 3.0, edits=90),
        row("sum-span", "open-sums", 3.5, edits=120).model_copy(update={"failures": ("draw 1",)}),
    )
    assert worst_first(report, range(4)) == (2, 1, 0, 3)


def test_the_matrix_has_every_row_once_and_attacks_that_were_left_out() -> None:
    groups = matrix(REPORT)
    assert [group.adversary for group in groups] == [
        *("honest-aggregator", "malicious-aggregator", "colluding", "recipient"),
        "",  # `counting` has no card
    ]
    cells = [cell for group in groups for line in group.lines for cell in line.cells]
    assert sorted(index for cell in cells for index in cell) == list(range(len(REPORT.rows)))
    lines = {line.attack: line for group in groups for line in group.lines}
    assert lines["ica"].cells == ((), (), (), ())
    assert lines["counting"].headline == "error"


def test_attacks_without_a_card_have_no_adversary() -> None:
    assert adversaries_of(REPORT)["counting"] == ""
    assert adversaries_of(REPORT)["collusion"] == "colluding"


def test_curves_of_one_attack_in_one_setting_share_a_plot() -> None:
    plots = curves(REPORT)
    shown = [index for plot in plots for index in plot.rows]
    assert sorted(shown) == [index for index, each in enumerate(REPORT.rows) if each.curve]
    for plot in plots:
        rows = [REPORT.rows[index] for index in plot.rows]
        assert len({(each.attack, each.parties, each.edits, each.prior) for each in rows}) == 1
        assert len({each.defence for each in rows}) == len(rows)


def test_recall_is_drawn_where_saturation_varies() -> None:
    plots = trends(REPORT, "saturation")
    assert [(plot.attack, plot.metric) for plot in plots] == [
        ("sum-span", "recall@n"),
        ("update-span", "recall@n"),
    ]
    first = [REPORT.rows[index] for index in plots[0].rows[:4]]
    assert len({each.defence for each in first}) == 1
    assert [each.edits for each in first] == [30, 120, 288, 518]
    assert plots[0].common == ("parties", "prior")


def test_parties_are_drawn_where_they_vary() -> None:
    (plot,) = trends(REPORT, "parties")
    assert plot.attack == "upload-span"
    assert [REPORT.rows[index].parties for index in plot.rows[:4]] == [4, 8, 16, 32]


def test_edits_that_vary_with_parties_share_a_plot() -> None:
    report = of_rows(
        row("sum-span", "open-sums", 1.0, parties=4, edits=40),
        row("sum-span", "open-sums", 1.0, parties=8, edits=80),
    )
    (plot,) = trends(report, "parties")
    assert plot.common == ("prior",)
    assert plot.rows == (0, 1)


def test_a_full_grid_has_a_plot_for_each_value_of_the_other() -> None:
    report = of_rows(
        *(
            row("sum-span", "open-sums", 1.0, parties=parties, edits=edits)
            for parties in (4, 8)
            for edits in (40, 80)
        )
    )
    assert [plot.rows for plot in trends(report, "parties")] == [(0, 2), (1, 3)]
    assert [plot.rows for plot in trends(report, "saturation")] == [(0, 1), (2, 3)]


def test_rows_that_are_no_evidence_are_not_drawn() -> None:
    report = of_rows(
        row("sum-span", "open-sums", 1.0),
        row("sum-span", "open-sums", 1.0, edits=60).model_copy(update={"failures": ("draw 1",)}),
        row("sum-span", "open-sums", 1.0, edits=90).model_copy(update={"metrics": ()}),
    )
    assert trends(report, "saturation") == ()
    assert trends(of_rows(), "parties") == ()


def test_utility_is_paired_with_rows_of_the_same_setting() -> None:
    pairs = dict(tradeoffs(REPORT))
    for attack, found in pairs.items():
        for index, place in found:
            each, entry = REPORT.rows[index], REPORT.utility[place]
            assert (each.attack, each.defence) == (attack, entry.defence)
            assert (each.parties, each.edits) == (entry.parties, entry.edits)
    assert len(pairs["sum-span"]) == 8
    assert "altered-sums" not in pairs


def test_the_worst_row_stands_beside_a_utility() -> None:
    index = beside_utility(REPORT, 0)
    assert index is not None
    assert REPORT.rows[index].attack == "upload-span"
    assert beside_utility(of_rows(), 0) is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (9999, "9999"),
        (1234567, "1\u202f234\u202f567"),
        (0.0, "0.000"),
        (0.03817263, "0.038"),
        (0.00049, "4.9e-04"),
        (-3.0, "-3.000"),
        (71.25, "71.2"),
        (12345.678, "12346"),
        (2.5e7, "2.5e+07"),
    ],
)
def test_numbers_are_rounded_for_reading(value: float, shown: str) -> None:
    assert rounded(value) == shown
