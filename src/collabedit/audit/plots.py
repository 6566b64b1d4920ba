"""Plots of the page, as SVG that stands inside it.

Drawn by matplotlib with its defaults and no text but numbers and fixed words, so nothing that a
report brings is parsed by it, and no text can run into another. Text stays text: it takes the
page's font. Colours are placeholders that become properties of the style sheet, so that plots
follow light and dark. A line is told by its dashes and markers too, not by its colour alone.
"""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from collabedit.audit.results import Curve

WIDTH, HEIGHT = 4.4, 3.3
"""Of a plot, in inches; the page scales it."""
SAMPLE = 0.6, 0.18
"""Of a line in a legend."""
MARKERS = "os^DvPX*"
DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)))
COLOURS = 8
"""Properties --c0 to --c7 of the style sheet."""
LOWEST_RATE = 1e-5
_INK, _GRID = "#5e00f0", "#5e00f1"
_PLACEHOLDER = re.compile(r"#5e00([0-9a-f]{2})")
_POINTS_A_DECADE = 12


@dataclass(frozen=True, slots=True)
class Points:
    """One line with intervals.

    Attributes:
        style: number of the line's colour, dashes and marker.
        across: places on the horizontal axis.
        values, low, high: at these.
        chance: at these, None where there is none.
        spans: horizontal intervals, if there are any.
    """

    style: int
    across: tuple[float, ...]
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    chance: tuple[float | None, ...]
    spans: tuple[tuple[float, float] | None, ...] = ()


class Plotter:
    """Draws the plots of one page, and numbers them, so that no two share an identifier."""

    def __init__(self) -> None:
        self._drawn = 0

    def receiver(
        self, curves: Sequence[tuple[int, Curve]], *, logarithmic: bool, label: str
    ) -> Markup:
        """Draw curves by style, on linear or on logarithmic axes.

        Args:
            curves: with the number of their style.
            logarithmic: both axes, from the smallest false positive rate above 0.
            label: for readers who do not see the plot.
        """
        floor = _floor([curve for _, curve in curves])

        def draw(axes: Axes) -> None:
            if logarithmic:
                axes.set_xscale("log")
                axes.set_yscale("log")
                lowest = math.ceil(math.log10(floor) - 1e-9)
                decades = [10.0**power for power in range(lowest, 1)]
                for axis in (axes.xaxis, axes.yaxis):
                    axis.set_major_locator(FixedLocator(decades))
                    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                    axis.set_minor_locator(NullLocator())
                limits = (floor, 1.15)
            else:
                limits = (-0.02, 1.02)
            axes.set(xlim=limits, ylim=limits)
            ends = [floor, 1.0] if logarithmic else [0.0, 1.0]
            axes.plot(ends, ends, color=_INK, linewidth=0.8, linestyle=(0, (1, 2)))
            for place, (style, curve) in enumerate(curves):
                x = np.asarray(curve.false_positive, dtype=np.float64)
                y = np.asarray(curve.true_positive, dtype=np.float64)
                if logarithmic:
                    x, y = _on_log_axes(x, y, floor)
                axes.plot(x, y, **_line(style), linewidth=_width(place, len(curves)))
            axes.set_xlabel("false positive rate")
            axes.set_ylabel("true positive rate")

        return self._svg(draw, label)

    def trend(
        self, lines: Sequence[Points], *, across: str, whole: bool, joined: bool, label: str
    ) -> Markup:
        """Draw values with intervals and chance along an axis.

        Args:
            lines: in the order of the legend.
            across: name of the horizontal axis.
            whole: whether its places are whole numbers.
            joined: whether points of a line are joined.
            label: for readers who do not see the plot.
        """

        def draw(axes: Axes) -> None:
            for place, line in enumerate(lines):
                _draw_points(axes, line, joined=joined, width=_width(place, len(lines)))
            _draw_chance(axes, lines, joined=joined)
            values = [v for line in lines for v in (*line.low, *line.high, *line.values)]
            if min(values) >= 0 and max(values) <= 1:
                axes.set_ylim(-0.03, 1.03)
            low, high = axes.get_xlim()
            axes.set_xlim(min(low, 0.0) if low > 0 and low < high / 2 else low, high)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=whole))
            # matplotlib would put a common factor of large values outside the plot.
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.set_xlabel(across)

        return self._svg(draw, label)

    def symbol(self, style: int) -> Markup:
        """Draw a line's sample, as a symbol that legends use by the name `line-STYLE`."""

        def draw(axes: Axes) -> None:
            axes.set_axis_off()
            axes.set_position((0.0, 0.0, 1.0, 1.0))
            axes.set(xlim=(0, 1), ylim=(0, 1))
            sample = {**_line(style), "markevery": [1]}
            axes.plot([0.02, 0.5, 0.98], [0.5] * 3, **sample, linewidth=1.6)

        drawn = self._svg(draw, "", size=SAMPLE)
        inner = drawn[drawn.index(">") + 1 : drawn.rindex("</svg>")]
        return Markup('<symbol id="line-{}" viewBox="{}">{}</symbol>').format(
            style, f"0 0 {72 * SAMPLE[0]:g} {72 * SAMPLE[1]:g}", inner
        )

    def _svg(
        self, draw: Callable[[Axes], None], label: str, *, size: tuple[float, float] | None = None
    ) -> Markup:
        self._drawn += 1
        # The user's matplotlibrc must not change the bytes.
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_SETTINGS)
            figure = Figure(figsize=size or (WIDTH, HEIGHT))
            FigureCanvasSVG(figure)
            axes = figure.add_axes((0.18, 0.15, 0.79, 0.81))
            axes.grid(visible=True, color=_GRID, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            draw(axes)
            text = io.StringIO()
            figure.savefig(text, format="svg", metadata=dict.fromkeys(_METADATA), transparent=True)
        return _inline(text.getvalue(), prefix=f"p{self._drawn}-", label=label)


_METADATA = ("Date", "Creator", "Format", "Type")
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "collabedit",
    "font.size": 9.0,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "path.simplify_threshold": 0.25,
}


def _line(style: int) -> dict[str, Any]:
    return {
        "color": f"#5e00{style % COLOURS:02x}",
        "linestyle": DASHES[style % len(DASHES)],
        "marker": MARKERS[style % len(MARKERS)],
        "markersize": 4.5,
        "markevery": 0.21,
        "dash_capstyle": "butt",
    }


def _width(place: int, lines: int) -> float:
    # The first line is the widest: where lines coincide, all of them show.
    return 1.3 + 0.5 * min(lines - 1 - place, 4)


def _draw_points(axes: Axes, line: Points, *, joined: bool, width: float) -> None:
    style = _line(line.style)
    del style["markevery"]
    if not joined:
        style["linestyle"] = "none"
    values = np.asarray(line.values)
    down = np.clip(values - np.asarray(line.low), 0, None)
    up = np.clip(np.asarray(line.high) - values, 0, None)
    sides = None
    if line.spans:
        sides = np.array(
            [
                (max(x - span[0], 0.0), max(span[1] - x, 0.0)) if span else (0.0, 0.0)
                for x, span in zip(line.across, line.spans, strict=True)
            ]
        ).T
    axes.errorbar(
        line.across,
        values,
        yerr=np.stack([down, up]),
        xerr=sides,
        linewidth=width,
        elinewidth=0.9,
        capsize=2.5,
        **style,
    )


def _draw_chance(axes: Axes, lines: Sequence[Points], *, joined: bool) -> None:
    guesses = {
        line.style: [(x, c) for x, c in zip(line.across, line.chance, strict=True) if c is not None]
        for line in lines
    }
    levels = {chance for found in guesses.values() for _, chance in found}
    dotted: dict[str, Any] = {"color": _INK, "linewidth": 0.9, "linestyle": (0, (1, 2))}
    if len(levels) == 1:
        axes.axhline(*levels, **dotted)
        return
    for found in filter(None, guesses.values()):
        if joined and len(found) > 1:
            axes.plot(*zip(*found, strict=True), **dotted)
        else:
            axes.plot(*zip(*found, strict=True), color=_INK, marker="_", linestyle="none")


def _floor(curves: Sequence[Curve]) -> float:
    """Return the smallest false positive rate that the curves resolve, within 1e-5 to 1e-2."""
    rates = [rate for curve in curves for rate in curve.false_positive if rate > 0]
    return min(max(min(rates, default=1.0), LOWEST_RATE), 1e-2)


def _on_log_axes(
    x: NDArray[np.float64], y: NDArray[np.float64], floor: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Follow the straight segments of a curve, which are bent on logarithmic axes."""
    xs, ys = [x[:1]], [y[:1]]
    for start in range(len(x) - 1):
        along = x[start + 1 : start + 2]
        if x[start + 1] > x[start] and y[start + 1] > y[start]:
            first = max(x[start], floor / 10)
            if first < x[start + 1]:
                decades = np.log10(x[start + 1] / first)
                points = 2 + int(_POINTS_A_DECADE * decades)
                along = np.geomspace(first, x[start + 1], points)
        xs.append(along)
        ys.append(
            np.interp(along, x[start : start + 2], y[start : start + 2])
            if x[start + 1] > x[start]
            else y[start + 1 : start + 2]
        )
    return np.maximum(np.concatenate(xs), floor / 10), np.maximum(np.concatenate(ys), floor / 10)


def _inline(text: str, *, prefix: str, label: str) -> Markup:
    """Make an SVG file a part of a page: no prolog, own identifiers, colours of the style sheet."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]*)"', text)
    if box is None:
        raise AssertionError("matplotlib wrote an SVG without a view box")
    body = text[text.index(">") + 1 :]
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = body.replace("xlink:href", "href").replace('href="#', f'href="#{prefix}')
    body = body.replace(' id="', f' id="{prefix}').replace("url(#", f"url(#{prefix}")
    body = _PLACEHOLDER.sub(_property, body)
    body = re.sub(r"font-family: [^;\"]*; ", "", body)
    body = re.sub(r"\s*\n\s*", " ", body)
    named = Markup('role="img" aria-label="{}"').format(label) if label else 'aria-hidden="true"'
    return Markup(f'<svg viewBox="{box[1]}" {named}>{body}')  # noqa: S704  the label is escaped


def _property(match: re.Match[str]) -> str:
    number = int(match[1], 16)
    return {0xF0: "var(--ink)", 0xF1: "var(--grid)"}.get(number, f"var(--c{number})")
