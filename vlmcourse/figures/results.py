"""Pictures of results: losses over steps, accuracies with their intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from vlmcourse.figures.style import INK, PALETTE, fit_png, house, new_figure


def read_curve(path: str | Path, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one column of the CSV file that Lightning's CSVLogger writes.

    Returns:
        (steps [N], values [N]) where the column is filled.

    Raises:
        KeyError: no such column; the message lists what there is.
    """
    import pandas

    table = pandas.read_csv(path)
    if column not in table or "step" not in table:
        raise KeyError(f"{path} has no column {column!r}; it has {', '.join(table.columns)}")
    filled = table[["step", column]].dropna()
    return filled["step"].to_numpy(), filled[column].to_numpy()


def smooth(values: np.ndarray, share: float) -> np.ndarray:
    """Exponential moving average; ``share`` is the weight of the past."""
    smoothed, past = np.empty(len(values)), 0.0
    for index, value in enumerate(values):
        past = share * past + (1 - share) * value
        smoothed[index] = past / (1 - share ** (index + 1))
    return smoothed


@house
def loss_curves(
    curves: Mapping[str, Sequence],
    floor: tuple[float, str] | None = None,
    smoothing: float = 0.9,
    ylabel: str = "loss",
    log: bool = False,
    title: str | None = None,
) -> Figure:
    """Losses over steps: each curve smoothed, its raw values faint behind it.

    Args:
        curves: label -> losses [N], or -> (steps [N], losses [N]) as :func:`read_curve` gives.
        floor: (value, label) of a line to compare with: chance, the blind model.
        smoothing: weight of the past, 0 for none.
        ylabel, title: texts.
        log: logarithmic losses.
    """
    figure = new_figure(7.2, 3.2)
    axis = figure.subplots()
    for (label, curve), colour in zip(curves.items(), list(PALETTE.values()) * 3):
        steps, values = as_points(curve)
        if smoothing:
            axis.plot(steps, values, color=colour, alpha=0.22, linewidth=0.8)
        axis.plot(steps, smooth(values, smoothing), color=colour, label=label)
    if floor is not None:
        axis.axhline(floor[0], color=INK, linewidth=1, linestyle=":")
        axis.annotate(
            floor[1],
            (1, floor[0]),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8.5,
        )
    axis.set(xlabel="step", ylabel=ylabel, yscale="log" if log else "linear", title=title or "")
    axis.grid(axis="y")
    axis.margins(x=0.01)
    axis.legend(loc="upper right")
    return fit_png(figure)


def as_metric(value: Mapping | float | None) -> tuple[float, float, float]:
    """(mean, low, high) in per cent of a record's metric or a plain share; NaN where unknown."""
    if value is None:
        return np.nan, np.nan, np.nan
    if not isinstance(value, Mapping):
        return 100 * value, np.nan, np.nan
    numbers = [value["mean"], value.get("low"), value.get("high")]
    return tuple(np.nan if number is None else 100 * number for number in numbers)


@house
def accuracy_bars(
    table: Mapping[str, Mapping[str, Mapping | float]],
    chance: Mapping[str, float] | None = None,
    families: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Accuracy by question family, one bar per system, with intervals and chance marks.

    Args:
        table: system -> family -> a record's metric (``mean``, ``low``, ``high``) or a share 0..1.
        chance: family -> share that the best blind guess reaches, drawn as a dashed line.
        families: order along the axis (default: as first met).
        title: above the bars.

    Raises:
        ValueError: nothing to draw.
    """
    names = families or list(dict.fromkeys(f for system in table.values() for f in system))
    if not names or not table:
        raise ValueError("accuracy_bars needs at least one system and one family")
    figure = new_figure(max(6.0, min(11.0, 1.2 + 0.19 * len(names) * (len(table) + 1))), 3.6)
    axis = figure.subplots()
    width = 0.84 / len(table)
    places = np.arange(len(names))
    for index, ((system, shares), colour) in enumerate(zip(table.items(), PALETTE.values())):
        numbers = np.array([as_metric(shares.get(name)) for name in names])  # [families, 3]
        x = places - 0.42 + width * (index + 0.5)
        axis.bar(x, numbers[:, 0], width * 0.92, color=colour, label=system)
        spread = np.abs(numbers[:, 1:] - numbers[:, :1]).T  # [2, families]
        known = ~np.isnan(spread).any(axis=0)
        axis.errorbar(
            x[known],
            numbers[known, 0],
            yerr=spread[:, known],
            fmt="none",
            ecolor=INK,
            elinewidth=1,
            capsize=min(2.5, 18 * width),
        )
    for place, name in enumerate(names):
        if chance and chance.get(name) is not None:
            level = 100 * chance[name]
            label = "blind guess" if name == next(n for n in names if n in chance) else None
            axis.plot(
                [place - 0.42, place + 0.42], [level] * 2, "--", color=INK, lw=1.3, label=label
            )
    slanted = max(map(len, names)) * len(names) > 70
    turn = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axis.set_xticks(places, names, **turn)
    axis.set(ylim=(0, 104), ylabel="accuracy, %", xlim=(-0.6, len(names) - 0.4))
    axis.grid(axis="y")
    axis.tick_params(axis="x", length=0)
    _legend_and_title(figure, axis, min(len(table) + bool(chance), 6), title)
    return fit_png(figure)


def _legend_and_title(figure: Figure, axis, columns: int, title: str | None) -> None:
    """A legend above everything, in fewer columns if it is too wide; the title beside it if there
    is room, else between the legend and the axis."""
    wide = figure.bbox.width
    legend = figure.legend(loc="outside upper right", ncols=columns)
    while columns > 1 and legend.get_window_extent().width > wide:
        columns -= 1
        legend.remove()
        legend = figure.legend(loc="outside upper right", ncols=columns)
    if title is None:
        return
    text = figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    if text.get_window_extent().width + legend.get_window_extent().width > 0.95 * wide:
        text.set(text="", in_layout=False)
        axis.set_title(title)


@house
def training_curves_by_stage(
    stages: Mapping[str, Mapping[str, Sequence]],
    floors: Mapping[str, tuple[float, str]] | None = None,
    smoothing: float = 0.8,
    ylabel: str = "loss",
    title: str | None = None,
) -> Figure:
    """Losses of a training in stages: a panel a stage, as wide as it has steps, on one scale.

    Args:
        stages: stage -> label -> losses [N], or -> (steps [N], losses [N]); a label keeps its
            colour in all stages, and a stage may lack some.
        floors: stage -> (value, label) of a line to compare with.
        smoothing: weight of the past, 0 for none.
        ylabel, title: texts.

    Raises:
        ValueError: nothing to draw.
    """
    if not stages or not all(stages.values()):
        raise ValueError("training_curves_by_stage needs at least one curve a stage")
    labels = list(dict.fromkeys(label for curves in stages.values() for label in curves))
    colours = dict(zip(labels, list(PALETTE.values()) * len(labels)))
    points = {
        name: {label: as_points(curve) for label, curve in curves.items()}
        for name, curves in stages.items()
    }
    longest = [max(steps[-1] for steps, _ in curves.values()) for curves in points.values()]
    ratios = [max(float(one), 0.3 * max(longest)) for one in longest]
    figure = new_figure(9.2, 3.3)
    axes = figure.subplots(1, len(stages), sharey=True, squeeze=False, width_ratios=ratios)[0]
    for axis, (name, curves) in zip(axes, points.items()):
        for label, (steps, values) in curves.items():
            if smoothing:
                few = slice(None, None, max(1, len(steps) // 120))
                axis.plot(steps[few], values[few], color=colours[label], alpha=0.3, linewidth=0.7)
            axis.plot(steps, smooth(values, smoothing), color=colours[label])
        if floors and name in floors:
            value, text = floors[name]
            axis.axhline(value, color=INK, linewidth=1, linestyle=":")
            place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            axis.annotate(text, (1, value), xytext=(-2, 3), ha="right", fontsize=8.5, **place)
        axis.set_title(name, fontsize=10, loc="center")
        axis.grid(axis="y")
        axis.margins(x=0.01)
    axes[0].set_ylabel(ylabel)
    figure.supxlabel("step", fontsize=10)
    for label in labels:
        axes[0].plot([], [], color=colours[label], label=label)
    _legend_and_title(figure, axes[0], min(len(labels), 6), None)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return fit_png(figure)


def as_points(curve: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """(steps [N], values [N]) of a curve; one without steps counts them from 1."""
    pair = isinstance(curve, tuple)
    values = np.asarray(curve[1] if pair else curve, dtype=np.float64)
    return (np.asarray(curve[0]) if pair else np.arange(1, len(values) + 1)), values


@house
def accuracy_by_variant(
    table: Mapping[str, Mapping[str, Mapping | float]],
    families: Sequence[str] | None = None,
    chance: Mapping[str, float] | None = None,
    title: str | None = None,
) -> Figure:
    """What a variant changes: a panel a family of questions, a bar with its interval a variant.

    Args:
        table: variant -> family -> a record's metric (``mean``, ``low``, ``high``) or a share 0..1.
        families: panels from left to right (default: as first met).
        chance: family -> share that the best blind guess reaches, drawn as a dashed line.
        title: above everything.

    Raises:
        ValueError: nothing to draw.
    """
    names = families or list(dict.fromkeys(f for shares in table.values() for f in shares))
    if not names or not table:
        raise ValueError("accuracy_by_variant needs at least one variant and one family")
    figure = new_figure(9.2, 0.95 + 0.3 * len(table) + (0.3 if title else 0.0))
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    places = np.arange(len(table))[::-1]
    for axis, name in zip(axes, names):
        numbers = np.array([as_metric(shares.get(name)) for shares in table.values()])
        axis.barh(places, numbers[:, 0], 0.72, color=PALETTE["blue"])
        spread = np.abs(numbers[:, 1:] - numbers[:, :1]).T  # [2, variants]
        known = ~np.isnan(spread).any(axis=0)
        axis.errorbar(
            numbers[known, 0],
            places[known],
            xerr=spread[:, known],
            fmt="none",
            ecolor=INK,
            elinewidth=1,
            capsize=2.5,
        )
        for (mean, _, high), y in zip(numbers, places):
            if not np.isnan(mean):
                at = (mean if np.isnan(high) else high) + 2
                axis.text(at, y, f"{mean:.0f}", va="center", fontsize=8)
        if chance and chance.get(name) is not None:
            axis.axvline(100 * chance[name], color=INK, linestyle="--", linewidth=1)
        axis.set(xlim=(0, 116), xticks=[0, 50, 100])
        axis.set_title(name.replace("_", " "), fontsize=10, loc="center")
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x")
    axes[0].set_yticks(places, list(table))
    told = "exact answers, %" + (" (dashed: best blind guess)" if chance else "")
    figure.supxlabel(told, fontsize=9)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return fit_png(figure)
