"""What a film costs each system by its length: tokens, seconds, memory."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vlmcourse.figures.style import PALETTE, fit_png, house, new_figure
from vlmcourse.figures.trends import MARKERS, short_number

LENGTHS_PNG_BYTES, LENGTHS_COLOURS = 34_000, 96
PANELS = {
    "tokens": "tokens of a film",
    "seconds": "seconds from file to answer",
    "peak_mib": "memory for it, MiB",
}
LEAST = {"tokens": 1.0, "seconds": 1e-3, "peak_mib": 1.0}
"""Smaller values are drawn there, since a logarithmic axis has no zero."""
SUMMED = {"seconds": ("watch_s", "answer_s")}
"""Panels that are the sum of several costs."""


def length_lines(record: Mapping) -> dict[str, dict[str, dict[int, float]]]:
    """Panel -> system -> seconds of a film -> value, of `vlmcourse timings --what lengths`."""
    found: dict[str, dict[str, dict[int, float]]] = {panel: {} for panel in PANELS}
    for name, value in record["metrics"].items():
        system, seconds, cost = name.split("/")
        for panel in PANELS:
            if cost in SUMMED.get(panel, (panel,)):
                line = found[panel].setdefault(system, {})
                line[int(seconds)] = line.get(int(seconds), 0.0) + value["mean"]
    return found


@house
def length_costs(
    record: Mapping,
    systems: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Figure:
    """Three panels over the seconds of a film, all axes logarithmic.

    Args:
        record: of `vlmcourse timings --what lengths`.
        systems: to draw (default: all).
        names: system -> what stands in the legend.
        title: above everything.

    Raises:
        ValueError: a system that the record does not tell, or none.
    """
    lines = length_lines(record)
    systems = list(lines["tokens"]) if systems is None else list(systems)
    unknown = [one for one in systems if one not in lines["tokens"]]
    if unknown or not systems:
        raise ValueError(f"the record tells nothing of {unknown[0]!r}" if unknown else "no system")
    colours = [colour for name, colour in PALETTE.items() if name != "yellow"]  # too light a line
    looks = dict(zip(systems, zip(colours * len(systems), MARKERS * len(systems))))
    figure = new_figure(9.4, 3.4 + (0.3 if title else 0.0))
    for axis, (panel, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items()):
        for number, one in enumerate(systems):
            line, (colour, marker) = lines[panel][one], looks[one]
            xs = sorted(line)
            ys = np.maximum([line[x] for x in xs], LEAST[panel])
            width = max(1.3, 3.2 - 0.3 * number)  # lines that lie on each other stay visible
            axis.plot(xs, ys, color=colour, marker=marker, markersize=4.5, linewidth=width)
        axis.set(xscale="log", yscale="log")
        axis.set_title(label, fontsize=10, loc="center")
        axis.set_xticks(xs, map(short_number, xs))
        axis.set_xticks([], minor=True)
        axis.yaxis.set_major_formatter(lambda value, _: short_number(value))
        axis.yaxis.set_minor_formatter(lambda value, _: "")
        axis.grid(axis="y")
    figure.supxlabel("seconds of the film", fontsize=10)
    marks = [
        Line2D([], [], color=colour, marker=marker, label=(names or {}).get(one, one))
        for one, (colour, marker) in looks.items()
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=min(len(marks), 4))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = LENGTHS_COLOURS
    return fit_png(figure, LENGTHS_PNG_BYTES)
