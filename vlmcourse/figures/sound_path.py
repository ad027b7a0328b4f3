"""The way of sound into a language model: wave, clips, spectrograms, lengths, tokens."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from vlmcourse.figures.style import INK, PALETTE, SOFT, fit_png, house, new_figure

SOUND_PNG_BYTES, SOUND_COLOURS = 44_000, 96
CLIP_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")
"""Neighbouring clips overlap, so they take turns in colour."""


@house
def sound_path(
    samples: np.ndarray,
    sample_rate: int,
    spans_s: np.ndarray,
    mels: np.ndarray,
    norms: Mapping[str, Sequence[float]],
    tokens: np.ndarray,
    heard: Sequence[tuple[float, float, str]] = (),
    title: str | None = None,
) -> Figure:
    """From a sound track to the tokens that a language model reads, in four rows.

    The wave, with the clips that the encoder gets drawn over its clock and what no clip reaches
    hatched; the log-mel of every clip; the length of every clip's embedding; the tokens.

    Args:
        samples: float [S] or [C, S]; channels are averaged.
        sample_rate: in Hz.
        spans_s: float [M, 2], begin and end of every clip in seconds.
        mels: float [M, bands, steps], lowest band first.
        norms: name -> [M] lengths of embeddings, such as those of sound and those of pictures.
        tokens: float [N, E].
        heard: (begin, end, label) of what truly sounds.
        title: above everything.

    Raises:
        ValueError: another number of spectrograms than of clips.
    """
    samples = np.atleast_2d(np.asarray(samples, np.float32)).mean(axis=0)  # [S]
    spans_s, mels = np.asarray(spans_s, float), np.asarray(mels, float)
    if len(mels) != len(spans_s):
        raise ValueError(f"{len(spans_s)} clips but {len(mels)} spectrograms")
    count, length_s = len(spans_s), len(samples) / sample_rate
    figure = new_figure(9.3, 5.6 + (0.3 if title else 0))
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0.02, hspace=0.02)
    grid = figure.add_gridspec(4, 2, height_ratios=[1.0, 1.0, 1.2, 1.5], width_ratios=[1, 1.5])
    wave = figure.add_subplot(grid[0, :])
    _wave(wave, samples, length_s, heard)
    clips = figure.add_subplot(grid[1, :], sharex=wave)
    _windows(clips, spans_s, length_s)
    wave.tick_params(labelbottom=False)
    row = grid[2, :].subgridspec(1, count, wspace=0.04)
    low, high = float(mels.min()), float(mels.max())
    for number, one in enumerate(mels):
        axis = figure.add_subplot(row[number])
        axis.imshow(one, origin="lower", aspect="auto", vmin=low, vmax=high, cmap="magma")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_color(_colour(number))
        axis.spines[:].set(visible=True, linewidth=2)
        axis.set_title(str(number + 1), fontsize=9, loc="center", pad=2, color=_colour(number))
        if number == 0:
            axis.set_ylabel("log-mel\nof each clip", fontsize=9)
    _lengths(figure.add_subplot(grid[3, 0]), norms, count)
    _tokens(figure, figure.add_subplot(grid[3, 1]), np.asarray(tokens, float))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = SOUND_COLOURS
    return fit_png(figure, SOUND_PNG_BYTES)


def _colour(number: int) -> str:
    return CLIP_COLOURS[number % len(CLIP_COLOURS)]


def _wave(axis, samples: np.ndarray, length_s: float, heard) -> None:
    pieces = np.array_split(samples, min(900, len(samples)))
    low, high = ([f(piece) for piece in pieces] for f in (np.min, np.max))
    axis.fill_between(np.linspace(0, length_s, len(pieces)), low, high, color=SOFT, linewidth=0.3)
    top = max(float(np.abs(samples).max()), 1e-3) * 1.1
    for begin, end, label in heard:
        axis.axvspan(begin, end, color=PALETTE["yellow"], alpha=0.35, linewidth=0)
        axis.text(begin, 1.3 * top, f" {label}", va="top", fontsize=8.5)
    axis.set(xlim=(0, length_s), ylim=(-top, 1.35 * top), yticks=[])
    axis.set_ylabel("wave", fontsize=9)


def _windows(axis, spans_s: np.ndarray, length_s: float) -> None:
    """Clips as bars over the clock, a lane each; what comes after the last is hatched."""
    count = len(spans_s)
    for number, (begin, end) in enumerate(spans_s):
        colour, y = _colour(number), count - 1 - number
        box = FancyBboxPatch(
            (begin, y + 0.14), end - begin, 0.72, boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=colour, alpha=0.75, linewidth=0,
        )  # fmt: skip
        axis.add_patch(box)
        text = {"va": "center", "fontsize": 7.5, "color": "white", "weight": "bold"}
        axis.text(begin + 0.05, y + 0.47, str(number + 1), **text)
    reached = float(spans_s[:, 1].max())
    if reached < length_s - 1e-6:
        axis.axvspan(reached, length_s, facecolor="none", edgecolor=SOFT, hatch="///", linewidth=0)
        told = {"ha": "right", "va": "center", "fontsize": 8.5, "color": INK}
        back = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axis.text(length_s - 0.05, count * 0.72, "in no clip", bbox=back, **told)
    axis.set(ylim=(0, count), yticks=[], xlabel="seconds")
    axis.set_ylabel(f"{count} clips", fontsize=9)


def _lengths(axis, norms: Mapping[str, Sequence[float]], count: int) -> None:
    width = 0.8 / max(len(norms), 1)
    colours = (PALETTE["sky"], PALETTE["red"], PALETTE["green"])
    for index, (name, values) in enumerate(norms.items()):
        values = np.asarray(values, float)
        x = np.arange(1, len(values) + 1) - 0.4 + width * (index + 0.5)
        axis.bar(x, values, width * 0.9, color=colours[index % len(colours)], label=name)
    axis.set(xticks=range(1, count + 1), xlabel="clip", ylabel="length of embedding")
    axis.tick_params(axis="x", length=0)
    axis.grid(axis="y")
    most = max((float(np.max(values)) for values in norms.values()), default=1.0)
    axis.set_ylim(0, 1.35 * most)
    axis.legend(loc="upper left", ncols=max(len(norms), 1), handlelength=1.2, columnspacing=1.0)


def _tokens(figure: Figure, axis, tokens: np.ndarray) -> None:
    limit = max(float(np.quantile(np.abs(tokens), 0.99)), 1e-9)
    look = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "interpolation": "nearest"}
    image = axis.imshow(tokens, aspect="auto", **look)
    axis.set_yticks(range(len(tokens)), range(1, len(tokens) + 1))
    axis.set(xticks=[], xlabel=f"{tokens.shape[1]} numbers wide, like a word", ylabel="token")
    axis.tick_params(length=0)
    figure.colorbar(image, ax=axis, pad=0.01, aspect=14)
