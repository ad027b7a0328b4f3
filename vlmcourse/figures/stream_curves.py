"""What a film costs that never ends: memory and time a frame against the frames seen."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vlmcourse.figures.style import PALETTE, fit_png, house, new_figure
from vlmcourse.figures.trends import MARKERS, short_number

STREAM_PNG_BYTES, STREAM_COLOURS = 34_000, 96
PANELS = {
    "state_kib": "what is remembered, KiB",
    "peak_mib": "peak memory of the process, MiB",
    "ms": "time a frame, ms",
}


def stream_lines(record: dict) -> dict[str, dict[str, dict[int, dict]]]:
    """Panel -> kind of memory -> frames seen -> metric, of `vlmcourse timings --what stream`."""
    found: dict[str, dict[str, dict[int, dict]]] = {panel: {} for panel in PANELS}
    for name, value in record["metrics"].items():
        way, panel, count = name.split("/")
        if panel in found:
            found[panel].setdefault(way, {})[int(count)] = value
    return found


@house
def stream_cost(
    record: dict,
    ways: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Figure:
    """Three panels over the frames that were seen, both axes logarithmic but for the peak's.

    Args:
        record: of `vlmcourse timings --what stream`.
        ways: kinds of memory to draw (default: all).
        names: way -> what stands in the legend.
        title: above everything.

    Raises:
        ValueError: a kind of memory that the record does not tell.
    """
    lines = stream_lines(record)
    ways = list(lines["ms"]) if ways is None else list(ways)
    if missing := [way for way in ways if way not in lines["ms"]] or ([] if ways else ["anything"]):
        raise ValueError(f"the record tells nothing of {missing[0]!r}")
    looks = dict(zip(ways, zip([*PALETTE.values()] * len(ways), MARKERS * len(ways))))
    figure = new_figure(9.4, 3.3 + (0.3 if title else 0.0))
    for axis, (panel, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items()):
        for number, way in enumerate(ways):
            _line(axis, lines[panel][way], *looks[way], width=max(1.4, 3.0 - 0.4 * number))
        axis.set(xscale="log", yscale="linear" if panel == "peak_mib" else "log")
        axis.set_title(label, fontsize=10, loc="center")
        for one in (axis.xaxis, axis.yaxis):
            one.set_major_formatter(lambda value, _: short_number(value))
        axis.yaxis.set_minor_formatter(lambda value, _: "")
        axis.grid(axis="y")
        if panel == "peak_mib":
            axis.set_ylim(0, None)
    figure.supxlabel("frames seen", fontsize=10)
    marks = [
        Line2D([], [], color=colour, marker=mark, label=(names or {}).get(way, _plain(way)))
        for way, (colour, mark) in looks.items()
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=min(len(marks), 6))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = STREAM_COLOURS
    return fit_png(figure, STREAM_PNG_BYTES)


def _plain(way: str) -> str:
    return way.replace("_", " ")


def _line(axis, line: Mapping[int, dict], colour: str, marker: str, width: float) -> None:
    counts = sorted(line)
    means = np.array([line[count]["mean"] for count in counts])
    axis.plot(counts, means, color=colour, marker=marker, markersize=4, linewidth=width)
    low, high = (
        np.array([line[c]["mean"] if line[c][end] is None else line[c][end] for c in counts])
        for end in ("low", "high")
    )
    if (low < high).any():
        axis.fill_between(counts, low, high, color=colour, alpha=0.15, linewidth=0)
