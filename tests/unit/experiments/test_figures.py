"""Figures: every method can be told apart, none hides another, and captions say what they show."""

from pathlib import Path
from typing import get_args

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer

from collabedit.experiments import figures as module
from collabedit.experiments.figures import draw_figures
from collabedit.experiments.measuring import Measurement
from collabedit.experiments.schema import Experiment, FigureRequest, Method
from collabedit.experiments.statistics import over_seeds, tidy_rows
from tests.unit.experiments.test_schema import values
from tests.unit.experiments.test_statistics import finished

METHODS: tuple[Method, ...] = get_args(Method)


def experiment(*figures: FigureRequest) -> Experiment:
    made = Experiment.model_validate(values())
    return made.model_copy(update={"figures": figures})


def summary() -> pd.DataFrame:
    cells = []
    for place, method in enumerate(METHODS):
        score = Measurement("score", "all", 1, 50.0 + place, 45.0, 60.0)
        cells.append(finished([score], method=method))
    return over_seeds(tidy_rows(cells))


def test_every_method_has_a_colour_and_a_mark_of_its_own() -> None:
    looks = module._LOOKS
    assert set(looks) == set(METHODS)
    assert len({look.colour for look in looks.values()}) == len(METHODS)
    # The trustee's mark is a broad ring below CollabEdit's dot.
    marks = [look.marker for name, look in looks.items() if name != "centralised"]
    assert len(set(marks)) == len(marks)


def test_a_curve_names_every_method_and_puts_the_trustee_below_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plt, "close", lambda _figure: None)
    ((name, caption),) = draw_figures(experiment(FigureRequest(kind="curve")), summary(), tmp_path)
    (axes,) = plt.gcf().axes
    _, labels = axes.get_legend_handles_labels()
    assert sorted(labels) == sorted(look.label for look in module._LOOKS.values())
    assert labels[0] == "centralised"
    assert axes.get_ylabel() == "Score"
    bars = [bar for bar in axes.containers if isinstance(bar, ErrorbarContainer)]
    places = [float(np.asarray(bar.lines[0].get_xdata())[0]) for bar in bars]
    assert len(set(places)) == len(METHODS), "equal methods stand beside each other"
    plt.close("all")
    assert (name, caption) == (
        "small-curve",
        "A small one. Score against the number of edits; one seed, 95 % intervals over edits.",
    )
    assert {path.name for path in tmp_path.iterdir()} == {"small-curve.png", "small-curve.svg"}


def test_the_same_numbers_give_the_same_file(tmp_path: Path) -> None:
    drawn = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        draw_figures(experiment(FigureRequest(kind="bars")), summary(), tmp_path / name)
        drawn.append((tmp_path / name / "small-bars.svg").read_bytes())
    assert drawn[0] == drawn[1]


def test_a_figure_of_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    asked = [
        FigureRequest(kind="forgetting"),
        FigureRequest(kind="conflict"),
        FigureRequest(kind="bars", metric="fluency"),
    ]
    assert draw_figures(experiment(*asked), summary(), tmp_path) == []
    assert not list(tmp_path.iterdir())
