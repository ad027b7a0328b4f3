"""Pictures over one time axis: a clip with its sound and words, and which frames a rule takes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from vlmcourse.figures.media import show_frame, wrap
from vlmcourse.figures.style import INK, PALETTE, SOFT, as_pixels, fit_png, house, new_figure

Span = tuple[float, float, str]
SMALL_PNG_BYTES = 20_000
FEW_COLOURS = 48
LANES = {"said": "#e3afca", "heard": "#7fd1b9", "happens": "#f6c667"}


@house
def clip_sheet(
    frames: np.ndarray,
    duration_s: float,
    samples: np.ndarray | None = None,
    lanes: dict[str, Sequence[Span]] | None = None,
    title: str | None = None,
) -> Figure:
    """A whole clip on one clock: frames, sound, and lanes of labelled spans under them.

    Args:
        frames: uint8 [T, H, W, 3], T frames that stand for T equal stretches of the clip.
        duration_s: length of the clip.
        samples: float [S] or [C, S], the sound of the whole clip; None leaves it out.
        lanes: lane name -> (start_s, end_s, label) spans, drawn as boxes.
        title: above the frames.
    """
    frames, lanes = as_pixels(frames), lanes or {}
    slot = duration_s / len(frames)
    tall = 8.3 / len(frames) * frames.shape[1] / frames.shape[2]
    lines = [max([label.count("\n") for *_, label in spans], default=0) for spans in lanes.values()]
    heights = [tall] + ([0.7] if samples is not None else []) + [0.34 + 0.14 * n for n in lines]
    figure = new_figure(9.3, sum(heights) + 0.65)
    figure.get_layout_engine().set(h_pad=0.015, hspace=0.0)
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    axes = list(axes[:, 0])
    for axis in axes:
        axis.set_yticks([])
        axis.tick_params(axis="x", length=0)
        axis.spines[:].set_visible(False)
    for index, frame in enumerate(frames):
        show_frame(axes[0], frame)
        left, right = slot * (index + 0.02), slot * (index + 0.98)
        axes[0].images[-1].set_extent((left, right, 0, 1))
    axes[0].set(ylim=(0, 1), aspect="auto", title=title or "")
    if samples is not None:
        _draw_wave(axes[1], samples, duration_s)
    for axis, (name, spans) in zip(axes[len(axes) - len(lanes) :], lanes.items()):
        _draw_spans(axis, name, spans)
    ticks = np.arange(0, duration_s + 1e-9, max(1, round(duration_s / 10)))
    axes[-1].set(xlim=(0, duration_s), xticks=ticks, xlabel="seconds")
    return fit_png(figure, SMALL_PNG_BYTES)


def _draw_wave(axis, samples: np.ndarray, duration_s: float) -> None:
    samples = np.atleast_2d(np.asarray(samples, np.float32)).mean(axis=0)  # [S]
    pieces = np.array_split(samples, min(700, len(samples)))
    moments = np.linspace(0, duration_s, len(pieces))
    low, high = [p.min() for p in pieces], [p.max() for p in pieces]
    axis.fill_between(moments, low, high, color=PALETTE["green"], linewidth=0.4)
    _name_lane(axis, "sound")


def _draw_spans(axis, name: str, spans: Sequence[Span]) -> None:
    for start_s, end_s, label in spans:
        box = FancyBboxPatch(
            (start_s, 0.12),
            end_s - start_s,
            0.76,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=LANES.get(name, "#c7d2e3"),
            edgecolor="none",
        )
        axis.add_patch(box)
        axis.text((start_s + end_s) / 2, 0.46, label, ha="center", va="center", fontsize=8)
    axis.set_ylim(0, 1)
    _name_lane(axis, name)


def _name_lane(axis, name: str) -> None:
    axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, color=SOFT)


@house
def frame_rules(
    rows: Sequence[tuple[str, Sequence[float]]],
    duration_s: float,
    marks: Sequence[Span] = (),
    title: str | None = None,
) -> Figure:
    """Which moments each rule looks at, one row a rule.

    An end of the video that is left out (longer than any gap before it) is hatched.

    Args:
        rows: (name, seconds of the chosen frames).
        duration_s: length of the video.
        marks: (start_s, end_s, label) of what happens, drawn as bands behind all rows.
        title: above the rows.
    """
    figure = new_figure(9.3, 0.3 * len(rows) + (0.9 if marks else 0.75))
    axis = figure.subplots()
    for start_s, end_s, label in marks:
        axis.axvspan(start_s, end_s, color=LANES["happens"], alpha=0.45, linewidth=0, zorder=0)
        axis.text(
            (start_s + end_s) / 2, -0.62, label, ha="center", va="bottom", fontsize=8, color=INK
        )
    for row, (_, seconds) in enumerate(rows):
        unseen = {"facecolor": "#eceef1", "edgecolor": "#c3c8d0", "hatch": "////", "linewidth": 0}
        last, widest = max(seconds), max(np.diff(np.sort(seconds)), default=0.0)
        if duration_s - last > 1.5 * widest:
            axis.barh(row, duration_s - last, left=last, height=0.62, zorder=1, **unseen)
        colour = list(PALETTE.values())[0 if row % 2 else 5]
        thin = 1.4 if len(seconds) < 60 else 0.8
        axis.vlines(seconds, row - 0.34, row + 0.34, color=colour, linewidth=thin, zorder=2)
        count = f"{len(seconds)}"
        axis.text(1.008 * duration_s, row, count, va="center", fontsize=8.5, color=SOFT)
    axis.text(1.008 * duration_s, -0.62, "frames", va="bottom", fontsize=8, color=SOFT)
    axis.set_yticks(range(len(rows)), [name for name, _ in rows])
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.set(ylim=(len(rows) - 0.5, -0.55), xlim=(-0.005 * duration_s, duration_s))
    axis.set(xlabel="seconds")
    axis.set_title(title or "", pad=16)
    figure.colours = FEW_COLOURS
    return fit_png(figure, SMALL_PNG_BYTES)


@house
def picture_grid(
    pictures: Sequence[Sequence[np.ndarray]],
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    title: str | None = None,
    side: float = 1.0,
    limit: int = SMALL_PNG_BYTES,
) -> Figure:
    """Pictures in rows and columns with names; the pictures may differ in size and shape.

    Args:
        pictures: rows of uint8 [H, W, 3].
        rows: a name at the left of each row.
        columns: a name above each column; long ones are broken into lines.
        title: above everything.
        side: height of a row in inches.
        limit: bytes that the PNG may have.
    """
    widest = [max(p.shape[1] / p.shape[0] for p in column) for column in zip(*pictures)]
    width = side * sum(widest) + (0.9 if rows else 0.1)
    lines = [
        "\n".join(wrap(line, side * wide) for line in name.split("\n"))
        for name, wide in zip(columns, widest)
    ]
    above = 0.17 * max((text.count("\n") + 1 for text in lines), default=0)
    figure = new_figure(width, side * len(pictures) + above + (0.35 if title else 0.05))
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0.0, hspace=0.0)
    axes = figure.subplots(len(pictures), len(widest), squeeze=False, width_ratios=widest)
    for row, line in enumerate(pictures):
        for column, picture in enumerate(line):
            axis = axes[row, column]
            show_frame(axis, picture)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if row == 0 and lines:
                axis.set_title(lines[column], fontsize=9, fontweight="normal", loc="center", pad=3)
        if rows:
            axes[row, 0].set_ylabel(rows[row], rotation=0, ha="right", va="center", fontsize=9)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return fit_png(figure, limit)


@house
def matrices(
    tables: dict[str, np.ndarray],
    rows: Sequence[str],
    columns: Sequence[str],
    label: str | None = None,
    low: float = 0.0,
    high: float = 1.0,
    numbers: bool = False,
    cmap: str = "Blues",
) -> Figure:
    """Small tables of numbers as colours, side by side, with one scale.

    Args:
        tables: title -> float [R, C].
        rows, columns: names along the two axes.
        label: what the colour means; None leaves the colour bar out.
        low, high: ends of the scale.
        numbers: write each number into its field.
        cmap: matplotlib's name of the colours.
    """
    side = 0.42 if numbers else 0.24
    width = len(tables) * (side * len(columns) + 0.25) + 0.8 + (0.7 if label else 0)
    figure = new_figure(width, side * len(rows) + 1.0)
    axes = list(figure.subplots(1, len(tables), sharey=True, squeeze=False)[0])
    for axis, (title, table) in zip(axes, tables.items()):
        table = np.asarray(table, np.float64)
        image = axis.imshow(table, cmap=cmap, vmin=low, vmax=high, aspect="equal")
        axis.set_xticks(
            range(len(columns)), columns, rotation=50, ha="right", rotation_mode="anchor"
        )
        axis.set_yticks(range(len(rows)), rows)
        axis.tick_params(length=0, labelsize=8.5)
        axis.spines[:].set_visible(False)
        axis.set_title(title, fontsize=10)
        axis.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
        axis.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
        axis.grid(which="minor", color="white", linewidth=1.5)
        axis.tick_params(which="minor", length=0)
        if numbers:
            for (row, column), value in np.ndenumerate(table):
                ink = "white" if value > 0.6 * high else INK
                axis.text(
                    column,
                    row,
                    f"{round(value, 1) + 0:.1f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=ink,
                )
    if label:
        figure.colorbar(image, ax=axes, shrink=0.75, aspect=16, pad=0.015, label=label)
    return fit_png(figure, SMALL_PNG_BYTES)
