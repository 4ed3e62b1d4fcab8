"""Draws a report's plots as inline SVG whose colours are CSS variables, for light and dark pages alike."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from torouter.evaluation.curves import Curve
from torouter.evaluation.summary import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Draw = Callable[[Sequence[Line]], str]

# matplotlib has no CSS variables: it draws in these colours, which are replaced in the text of the SVG.
INK, MUTED, GRID = "#010101", "#010102", "#010103"
SERIES = tuple(f"#01020{digit}" for digit in range(1, 7))
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid"} | {
    color: f"--series-{number}" for number, color in enumerate(SERIES, start=1)
}
MARKERS = "osD^vP"
_WIDTH = 6.4  # inches of 72 units: at a width of 400 px, text of 13 units is 11 px high
STYLE = {
    "svg.fonttype": "none",
    "font.size": 13,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


def _styled(draw: Draw) -> Draw:
    """Apply `STYLE` to drawing and writing, since matplotlib reads its style in both."""

    @functools.wraps(draw)
    def styled(lines: Sequence[Line]) -> str:
        import matplotlib as mpl

        with mpl.rc_context(STYLE):  # type: ignore[arg-type]
            return draw(lines)

    return styled


@_styled
def cost_and_quality(lines: Sequence[Line]) -> str:
    """Curves of the routers over the single experts and their hull."""
    figure, axes = blank(4.8)
    experts = [line for line in lines if line.role == "expert" and "cost" in line.figures]
    costs, qualities = (np.array([line.figures[key].mean for line in experts]) for key in ("cost", "priced_quality"))
    hull = Curve(np.arange(len(experts), dtype=np.float64), costs, qualities).hull()
    axes.plot(hull.costs, hull.qualities, "--", color=MUTED, linewidth=1.2)
    axes.plot(costs, qualities, "o", color=MUTED, markersize=4)
    labels = []
    for number, line in enumerate(line for line in lines if line.curve is not None):
        assert line.curve is not None
        color, start = SERIES[number % len(SERIES)], (line.curve.costs[0], line.curve.qualities[0])
        axes.plot(line.curve.costs, line.curve.qualities, color=color, linewidth=2)
        axes.plot(*start, MARKERS[number % len(MARKERS)], color=color, markersize=6)
        labels.append((line.name, *start, color))
    for line in lines:
        if line.name in ("oracle", "random") and line.role == "baseline":
            point = line.figures["cost"].mean, line.figures["priced_quality"].mean
            axes.plot(*point, "*" if line.name == "oracle" else "x", color=INK, markersize=8)
            labels.append((line.name, *point, INK))
    labels += [
        (experts[int(expert)].name, cost, quality, MUTED)
        for expert, cost, quality in zip(hull.weights, hull.costs, hull.qualities, strict=True)
    ]
    if costs.min() > 0 and costs.max() > 20 * costs.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("USD per 1,000 queries")
    axes.set_ylabel("quality")
    label(figure, axes, labels)
    return svg(figure, "Quality against cost of routers, single experts and their hull")


@_styled
def qualities(lines: Sequence[Line]) -> str:
    """Quality of every contender, with its standard deviation."""
    shown = [line for line in lines if "quality" in line.figures]
    figure, axes = blank(0.8 + 0.27 * len(shown))
    colors = {"router": SERIES[0], "baseline": INK, "expert": MUTED}
    for row, line in enumerate(shown):
        quality = line.figures["quality"]
        spread = 0.0 if np.isnan(quality.sd) else quality.sd
        marker = {"router": "o", "baseline": "D", "expert": "o"}[line.role]
        axes.errorbar(quality.mean, row, xerr=spread, fmt=marker, color=colors[line.role], markersize=5, capsize=2)
    axes.set_yticks(range(len(shown)), [line.name for line in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel("quality")
    return svg(figure, "Quality of every contender with its standard deviation")


@_styled
def calibration(lines: Sequence[Line]) -> str:
    """Mean outcome against predicted quality, for routers whose scores estimate qualities."""
    figure, axes = blank(4.8)
    axes.plot([0, 1], [0, 1], "--", color=MUTED, linewidth=1.2)
    labels = []
    for number, line in enumerate(line for line in lines if line.reliability is not None):
        assert line.reliability is not None
        _, predicted, observed = line.reliability.filled()
        color = SERIES[number % len(SERIES)]
        axes.plot(predicted, observed, MARKERS[number % len(MARKERS)] + "-", color=color, linewidth=2, markersize=4)
        labels.append((line.name, predicted[-1], observed[-1], color))
    axes.set_xlabel("predicted quality")
    axes.set_ylabel("mean outcome")
    label(figure, axes, labels)
    return svg(figure, "Reliability: mean outcome against predicted quality")


def blank(height: float) -> tuple[Figure, Axes]:
    """An empty drawing, `height` inches high."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), dpi=72, layout="constrained")
    return figure, figure.add_subplot()


def label(figure: Figure, axes: Axes, labels: Sequence[tuple[str, float, float, str]]) -> None:
    """Write each label beside its point, where it covers no other label, no point and little of any line."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    points = [axes.transData.transform((x, y)) for _, x, y, _ in labels]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in points]
    drawn = np.concatenate([_along(line) for line in axes.lines])
    rises = sorted(range(-65, 66, 13), key=abs)
    places = [(side * 8, rise) for rise in rises for side in (1, -1)]
    for (name, x, y, color), point in zip(labels, points, strict=True):
        text = axes.annotate(
            name, (x, y), xytext=places[0], textcoords="offset points", color=color, fontsize=11, va="center"
        )
        size = text.get_window_extent()
        free: list[tuple[int, int, Bbox]] = []
        for order, (right, up) in enumerate(places):
            left = point[0] + right - (size.width if right < 0 else 0)
            box = Bbox.from_bounds(left, point[1] + up - size.height / 2, size.width, size.height)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                # A place that is farther away is taken only if it covers less of what is drawn.
                free.append((box.count_contains(drawn) + order, order, box))
        if not free:
            text.remove()  # better no name than two names on one spot; the tables have them all
            continue
        _, order, box = min(free, key=lambda place: place[:2])
        text.set_position(places[order])
        text.set_horizontalalignment("left" if places[order][0] > 0 else "right")
        taken.append(box)


def _along(line: Line2D) -> NDArray[np.float64]:
    """Points of a plotted line on the canvas: its markers, or many points on the stroke that joins them."""
    vertices = line.get_transform().transform(np.column_stack(line.get_data()))
    if line.get_linestyle() == "None":
        return np.repeat(vertices, 20, axis=0)  # covering a marker is worse than crossing a stroke
    at, index = np.linspace(0, len(vertices) - 1, 400), np.arange(len(vertices))
    return np.column_stack([np.interp(at, index, vertices[:, axis]) for axis in (0, 1)])


def svg(figure: Figure, title: str) -> str:
    """The drawing's `svg` element, with CSS variables, unique ids and a title for screen readers."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    prefix = re.sub(r"\W+", "-", title.lower())
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
