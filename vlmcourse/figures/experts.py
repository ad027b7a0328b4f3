"""Visual experts: which weights each token goes through, and what that buys and keeps."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from vlmcourse.figures.diagrams import KINDS
from vlmcourse.figures.results import as_metric
from vlmcourse.figures.style import INK, PALETTE, SOFT, fit_png, house, new_figure

EXPERTS_PNG_BYTES, EXPERTS_COLOURS = 24_000, 48
LANGUAGE, VISION = PALETTE["blue"], PALETTE["orange"]
MOST_TOKENS = 64


@house
def expert_lanes(
    labels: Sequence[str],
    kinds: Sequence[str],
    mask: Sequence[bool],
    weights: tuple[str, str] = ("vision weights", "language weights"),
    title: str | None = None,
) -> Figure:
    """Tokens in order, and the lane of weights that each goes through in every layer.

    Args:
        labels: [L] a short name for each token; "" for none.
        kinds: [L] of `diagrams.KINDS`, for the colours.
        mask: [L] True where a token goes through the vision weights.
        weights: names of the two lanes.
        title: above everything.

    Raises:
        ValueError: lists of different lengths, none, or more tokens than can be told apart.
    """
    count = len(labels)
    if not 0 < count <= MOST_TOKENS or not count == len(kinds) == len(mask):
        raise ValueError(
            f"1 to {MOST_TOKENS} tokens, as many labels, kinds and masks are needed, not "
            f"{count}, {len(kinds)}, {len(mask)}"
        )
    figure = new_figure(9.4, 2.75 + (0.3 if title else 0.0))
    axis = figure.subplots()
    axis.set_axis_off()
    lanes = {True: (1.05, VISION, weights[0]), False: (0.25, LANGUAGE, weights[1])}
    for bottom, colour, name in lanes.values():
        style = "round,pad=0,rounding_size=0.08"
        look = {"facecolor": "white", "edgecolor": colour, "linewidth": 1.8}
        box = FancyBboxPatch((-0.5, bottom), count, 0.5, boxstyle=style, **look)
        axis.add_patch(box)
        told = {"ha": "right", "va": "center", "fontsize": 9, "color": colour}
        axis.text(-0.9, bottom + 0.25, name.replace(" ", "\n"), **told)
    for place, (label, kind, vision) in enumerate(zip(labels, kinds, mask)):
        bottom, colour, _ = lanes[bool(vision)]
        axis.plot([place, place], [bottom + 0.5, 1.85], color="#c3c8d0", linewidth=0.8, zorder=0)
        axis.plot(place, bottom + 0.25, "o", color=colour, markersize=min(7, 320 / count))
        look = {"facecolor": KINDS[kind][0], "edgecolor": SOFT, "linewidth": 0.5}
        axis.add_patch(Rectangle((place - 0.42, 1.85), 0.84, 0.3, **look))
        if label:
            turned = {"rotation": 90 if len(label) > 2 else 0, "ha": "center", "va": "bottom"}
            axis.text(place, 2.2, label, fontsize=8 if count < 48 else 6.5, **turned)
    longest = max(map(len, labels))
    top = 2.3 + (0.075 * longest if longest > 2 else 0.1)
    axis.set(xlim=(-0.6, count - 0.4), ylim=(0.15, top))
    told = f"{int(np.sum(mask))} of {count} tokens go through {weights[0]}"
    axis.text(count - 0.5, 0.17, told, ha="right", va="top", fontsize=8.5, color=SOFT)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = EXPERTS_COLOURS
    return fit_png(figure, EXPERTS_PNG_BYTES)


@house
def learnt_and_kept(
    learnt: Mapping[str, Mapping[str, Mapping | float]],
    kept: Mapping[str, Mapping[str, Mapping | float]],
    parameters: Mapping[str, int] | None = None,
    title: str | None = None,
) -> Figure:
    """What variants learnt of pictures, and what their language model lost of its text.

    Args:
        learnt: variant -> group of questions -> metric of a record, or a share: exact answers.
        kept: variant -> form of text -> metric, or a share: the difference to the frozen language
            model (`retention/...` of a record); below 0 is a loss.
        parameters: variant -> how many it has, told beside its name.
        title: above everything.

    Raises:
        ValueError: no variant, or the two tell of different ones.
    """
    if not learnt or list(learnt) != list(kept):
        raise ValueError(f"the same variants are needed, not {[*learnt]} and {[*kept]}")
    names = list(learnt)
    groups = list(dict.fromkeys(g for one in learnt.values() for g in one))
    forms = list(dict.fromkeys(g for one in kept.values() for g in one))
    each = 0.42 if parameters else 0.32
    figure = new_figure(9.4, 1.05 + each * len(names) + (0.3 if title else 0.0))
    panels = len(groups) + len(forms)
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    places = np.arange(len(names))[::-1]
    for axis, group in zip(axes, groups):
        numbers = np.array([as_metric(learnt[name].get(group)) for name in names])
        _bars(axis, places, numbers, PALETTE["blue"])
        axis.set(xlim=(0, 125), xticks=[0, 50, 100])
        axis.set_title(group.replace("_", " "), fontsize=10, loc="center")
    reach = 5.0
    for axis, form in zip(axes[len(groups) :], forms):
        numbers = np.array([as_metric(kept[name].get(form)) for name in names])
        reach = max(reach, float(np.nanmax(np.abs(numbers), initial=0.0)))
        _bars(axis, places, numbers, PALETTE["red"], signed=True)
        axis.axvline(0, color=INK, linewidth=1)
        axis.set_title(f"text: {form}", fontsize=10, loc="center")
    for axis in axes[len(groups) :]:
        axis.set(xlim=(-1.35 * reach, 0.75 * reach))
    for axis in axes:
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x")
    told = [f"{n}\n{_count(parameters[n])}" if parameters else n for n in names]
    axes[0].set_yticks(places, told)
    axes[0].set_xlabel("exact answers, %", fontsize=9)
    axes[len(groups)].set_xlabel("points beside the frozen model", fontsize=9)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = EXPERTS_COLOURS
    return fit_png(figure, EXPERTS_PNG_BYTES)


def _bars(axis, places, numbers: np.ndarray, colour: str, signed: bool = False) -> None:
    """Bars with intervals and their values; `numbers` `[variants, 3]` in per cent."""
    axis.barh(places, numbers[:, 0], 0.62, color=colour)
    spread = np.abs(numbers[:, 1:] - numbers[:, :1]).T  # [2, variants]
    known = ~np.isnan(spread).any(axis=0)
    look = {"fmt": "none", "ecolor": INK, "elinewidth": 1, "capsize": 2.5}
    axis.errorbar(numbers[known, 0], places[known], xerr=spread[:, known], **look)
    for (mean, _, high), y in zip(numbers, places):
        if np.isnan(mean):
            continue
        at = np.nanmax([mean, high, 0.0])
        text = f"{mean:+.1f}" if signed else f"{mean:.0f}"
        look = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
        axis.annotate(text, (at, y), **look)


def _count(value: int) -> str:
    for size, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return str(value)
