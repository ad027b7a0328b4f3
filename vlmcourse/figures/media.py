"""Pictures of files: frames in a row, sound as a wave and as a spectrogram, maps over frames."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from vlmcourse.figures.style import PALETTE, SOFT, as_pixels, fit_png, house, new_figure

FREQUENCY_MARKS_HZ = (100, 250, 500, 1000, 2000, 4000, 8000)


def frame_grid(
    count: int, aspect: float, columns: int, labels: int, title: str | None
) -> tuple[Figure, list]:
    """A figure with one bare axis per frame, row by row.

    Args:
        count: frames to show.
        aspect: height of a frame divided by its width.
        columns: frames in a row.
        labels: lines of text under each frame.
        title: above all frames.
    """
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    side = min(9.0 / columns, 1.9)
    height = rows * (side * aspect + 0.165 * labels + 0.08) + (0.3 if title else 0.0)
    figure = new_figure(side * columns, height)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0.0, hspace=0.0)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    for axis in axes[count:]:
        axis.set_axis_off()
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure, axes[:count]


def show_frame(axis, frame: np.ndarray) -> None:
    """Show one frame; small ones with visible pixels."""
    small = max(frame.shape[:2]) <= 128
    axis.imshow(frame, interpolation="nearest" if small else "antialiased", vmin=0, vmax=255)


def wrap(text: str, side: float) -> str:
    """Break a caption so that it fits under a frame ``side`` inches wide."""
    import textwrap

    return "\n".join(textwrap.wrap(text, max(8, int(side * 12.5))))


@house
def film_strip(
    frames: np.ndarray,
    times_s: Sequence[float] | None = None,
    captions: Sequence[str] | None = None,
    columns: int = 8,
    title: str | None = None,
) -> Figure:
    """Frames side by side with their times and, if given, a caption each.

    Args:
        frames: uint8 [T, H, W, 3].
        times_s: [T] seconds, shown under each frame.
        captions: [T] short texts; an empty one shows nothing.
        columns: frames in a row.
        title: above the strip.

    Raises:
        ValueError: lengths differ, or the strip is too much for one PNG.
    """
    frames = as_pixels(frames)
    for name, given in (("times_s", times_s), ("captions", captions)):
        if given is not None and len(given) != len(frames):
            raise ValueError(f"{len(frames)} frames but {len(given)} {name}")
    side = min(9.0 / min(columns, len(frames)), 1.9)
    below = [
        "\n".join(
            ([f"{times_s[i]:.1f} s"] if times_s is not None else [])
            + ([wrap(captions[i], side)] if captions is not None and captions[i] else [])
        )
        for i in range(len(frames))
    ]
    lines = max(text.count("\n") + bool(text) for text in below)
    aspect = frames.shape[1] / frames.shape[2]
    figure, axes = frame_grid(len(frames), aspect, columns, lines, title)
    for axis, frame, text in zip(axes, frames, below):
        show_frame(axis, frame)
        axis.set_xlabel(text, fontsize=8.5, labelpad=2)
    return fit_png(figure)


@house
def waveform(
    samples: np.ndarray,
    sample_rate: int,
    marks: Sequence[tuple[float, str]] = (),
    title: str | None = None,
) -> Figure:
    """Sound over time, as the range the signal spans in each sliver of time.

    Args:
        samples: float [S] or [C, S]; channels are averaged.
        sample_rate: in Hz.
        marks: (seconds, label) pairs drawn as lines.
        title: above the wave.
    """
    samples = np.atleast_2d(np.asarray(samples, dtype=np.float32)).mean(axis=0)  # [S]
    slivers = min(900, len(samples))
    pieces = np.array_split(samples, max(slivers, 1))
    low = [piece.min() if len(piece) else 0.0 for piece in pieces]
    high = [piece.max() if len(piece) else 0.0 for piece in pieces]
    length_s = len(samples) / sample_rate
    figure = new_figure(9.0, 1.9)
    axis = figure.subplots()
    axis.fill_between(
        np.linspace(0, length_s, len(pieces)), low, high, color=PALETTE["green"], linewidth=0.4
    )
    axis.axhline(0, color=SOFT, linewidth=0.5)
    top = max(np.abs([*low, *high]).max(), 1e-3) * 1.15
    axis.set(xlim=(0, max(length_s, 1e-3)), ylim=(-top, top), xlabel="seconds", ylabel="pressure")
    for second, label in marks:
        axis.axvline(second, color=PALETTE["red"], linewidth=1, linestyle="--")
        axis.text(second, top, f" {label}", va="top", fontsize=8.5, color=PALETTE["red"])
    axis.set_title(title or "")
    return fit_png(figure)


@house
def spectrogram(
    log_mel: np.ndarray,
    hop_s: float,
    frequencies_hz: Sequence[float] | None = None,
    marks: Sequence[tuple[float, str]] = (),
    title: str | None = None,
    ylabel: str = "hertz (mel scale)",
) -> Figure:
    """Log-mel energies over time.

    Args:
        log_mel: float [M, T], lowest band first.
        hop_s: seconds between two columns.
        frequencies_hz: [M] centre of each band; gives the axis its hertz.
        marks: (seconds, label) pairs drawn as lines.
        title: above the picture.
        ylabel: what the frequencies are spaced by, for spectrograms that are not mel.

    Raises:
        ValueError: not two axes, or frequencies of another length.
    """
    log_mel = np.asarray(log_mel)
    if log_mel.ndim != 2:
        raise ValueError(f"log_mel is [M, T], not {log_mel.shape}")
    bands, columns = log_mel.shape
    figure = new_figure(9.0, 2.7)
    axis = figure.subplots()
    image = axis.imshow(
        log_mel,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(0, columns * hop_s, -0.5, bands - 0.5),
        cmap="magma",
    )
    axis.set(xlabel="seconds", ylabel="mel band", title=title or "")
    if frequencies_hz is not None:
        if len(frequencies_hz) != bands:
            raise ValueError(f"{bands} bands but {len(frequencies_hz)} frequencies")
        marked = [f for f in FREQUENCY_MARKS_HZ if min(frequencies_hz) <= f <= max(frequencies_hz)]
        places = np.interp(marked, frequencies_hz, np.arange(bands))
        apart = [i for i, p in enumerate(places) if i == 0 or p - places[i - 1] > 0.06 * bands]
        marked, places = [marked[i] for i in apart], places[apart]
        axis.set_yticks(places, [f"{f / 1000:g}k" if f >= 1000 else str(f) for f in marked])
        axis.set_ylabel(ylabel)
    for second, label in marks:
        axis.axvline(second, color="white", linewidth=1, linestyle="--")
        axis.text(second, bands - 1, f" {label}", va="top", fontsize=8.5, color="white")
    figure.colorbar(image, ax=axis, pad=0.01, label="log energy")
    return fit_png(figure)


@house
def heat_over_frames(
    frames: np.ndarray,
    maps: np.ndarray,
    times_s: Sequence[float] | None = None,
    columns: int = 8,
    title: str | None = None,
    label: str = "weight",
) -> Figure:
    """Maps (attention, pooling weight, error) laid over the grey frames they belong to.

    Args:
        frames: uint8 [T, H, W, 3].
        maps: float [T, h, w] of any smaller size; one colour scale for all.
        times_s: [T] seconds.
        columns, title: as in :func:`film_strip`.
        label: what the colour means.

    Raises:
        ValueError: one map per frame is needed.
    """
    frames, maps = as_pixels(frames), np.asarray(maps, dtype=np.float64)
    if maps.ndim != 3 or len(maps) != len(frames):
        raise ValueError(f"{len(frames)} frames need maps [T, h, w], not {maps.shape}")
    aspect = frames.shape[1] / frames.shape[2]
    figure, axes = frame_grid(len(frames), aspect, columns, int(times_s is not None), title)
    low, high = float(maps.min()), float(maps.max())
    high = high if high > low else low + 1.0
    for index, (axis, frame, one) in enumerate(zip(axes, frames, maps)):
        height, width = frame.shape[:2]
        place = (-0.5, width - 0.5, height - 0.5, -0.5)
        grey = frame.mean(axis=-1)  # [H, W]
        axis.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="nearest", extent=place)
        axis.imshow(
            one,
            cmap="inferno",
            vmin=low,
            vmax=high,
            alpha=0.15 + 0.65 * (one - low) / (high - low),
            interpolation="nearest",
            extent=place,
        )
        if times_s is not None:
            axis.set_xlabel(f"{times_s[index]:.1f} s", fontsize=8.5, labelpad=2)
    scale = ScalarMappable(Normalize(low, high), "inferno")
    figure.colorbar(scale, ax=axes, shrink=0.9, aspect=18, pad=0.01, label=label)
    return fit_png(figure)
