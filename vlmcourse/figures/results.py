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
        pair = isinstance(curve, tuple)
        values = np.asarray(curve[1] if pair else curve, dtype=np.float64)
        steps = np.asarray(curve[0]) if pair else np.arange(1, len(values) + 1)
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
    figure.legend(loc="outside upper right", ncols=min(len(table) + bool(chance), 6))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return fit_png(figure)
