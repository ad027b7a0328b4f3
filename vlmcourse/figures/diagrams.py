"""Pictures of ideas: what a token sequence is made of, and how the seven systems are related."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

from vlmcourse.figures.style import PALETTE, SOFT, fit_png, house, new_figure

KINDS = {
    "text": ("#e5e7eb", "text"),
    "picture": ("#f6c667", "picture"),
    "sound": ("#7fd1b9", "sound"),
    "time": ("#e3afca", "time"),
    "said": ("#cbb8e6", "what is said"),
    "special": ("#c7d2e3", "special"),
    "answer": ("#8ec1e8", "answer (trained)"),
}


@house
def token_strip(
    runs: Sequence[tuple[str, str, int]],
    title: str | None = None,
    width: float = 9.0,
) -> Figure:
    """A token sequence as coloured boxes, one for each run of tokens of one kind.

    Args:
        runs: (kind, label, count): kind is one of ``KINDS``; the label stands in the box, the
            number of tokens under it.
        title: above the strip.
        width: of the figure in inches; the boxes break into lines.

    Raises:
        ValueError: an unknown kind.
    """
    if unknown := {kind for kind, _, _ in runs} - KINDS.keys():
        raise ValueError(f"unknown kind {', '.join(sorted(unknown))}; known: {', '.join(KINDS)}")
    lines, x = [[]], 0.0
    for kind, label, count in runs:
        longest = max(map(len, label.split("\n")))
        size = max(0.34, 0.088 * longest + 0.16, 0.07 * len(str(count)) + 0.16)
        if x + size > width - 0.1 and lines[-1]:
            lines.append([])
            x = 0.0
        lines[-1].append((x, size, kind, label, count))
        x += size + 0.05
    used = [kind for kind in KINDS if any(run[0] == kind for run in runs)]
    drawn = max((left + size for line in lines for left, size, *_ in line), default=0.0)
    width = min(width, max(drawn + 0.1, 1.4 * len(used), 0.1 * len(title or "")))
    tall = 1 + max((label.count("\n") for _, label, _ in runs), default=0)
    box, step = 0.2 + 0.18 * tall, 0.55 + 0.18 * tall
    height = step * len(lines) + 0.35 + (0.3 if title else 0)
    figure = new_figure(width, height)
    axis = figure.subplots()
    axis.set(xlim=(0, width), ylim=(-step * (len(lines) - 1) - 0.3, box + 0.05))
    axis.set_axis_off()
    for row, line in enumerate(lines):
        for left, size, kind, label, count in line:
            bottom = -row * step
            style = "round,pad=0,rounding_size=0.06"
            edge = {"facecolor": KINDS[kind][0], "edgecolor": SOFT, "linewidth": 0.8}
            axis.add_patch(FancyBboxPatch((left, bottom), size, box, boxstyle=style, **edge))
            middle = left + size / 2
            axis.text(middle, bottom + box / 2, label, ha="center", va="center", fontsize=9)
            axis.text(
                middle, bottom - 0.04, str(count), ha="center", va="top", fontsize=8, color=SOFT
            )
    patches = [Patch(facecolor=KINDS[k][0], edgecolor=SOFT, label=KINDS[k][1]) for k in used]
    total = sum(count for _, _, count in runs)
    figure.legend(
        handles=patches,
        loc="outside lower left",
        ncols=len(used),
        title=f"{total:,} tokens",
        title_fontsize=9,
        alignment="left",
    )
    axis.set_title(title or "")
    return fit_png(figure)


@dataclass(frozen=True)
class Member:
    """One box of the family tree.

    Args:
        name: as its paper calls it.
        paper: arXiv id; its first four digits are the year and month.
        lane: row from the bottom.
        idea: what it brought, in one or two lines.
        parents: what it starts from, by name.
        colour: of the frame: the kind of bridge between frames and language.
    """

    name: str
    paper: str
    lane: float
    idea: str = ""
    parents: tuple[str, ...] = ()
    colour: str = "grey"

    @property
    def month(self) -> int:
        """Months since January 2023."""
        return 12 * (int(self.paper[:2]) - 23) + int(self.paper[2:4]) - 1


BRIDGES = {
    "blue": "a linear map or a small network",
    "orange": "a Q-Former",
    "green": "merging without parameters",
}
ANCESTORS = (
    Member("Qwen-VL", "2308.12966", 6),
    Member("CogVLM", "2311.03079", 5),
    Member("LLaVA", "2304.08485", 3.5),
    Member("MiniGPT-4", "2304.10592", 2),
    Member("BLIP-2", "2301.12597", 1.15),
    Member("InstructBLIP", "2305.06500", 0.3),
    Member("ImageBind", "2305.05665", -0.55),
)
SYSTEMS = (
    Member(
        "Qwen2-VL",
        "2409.12191",
        6,
        "any resolution; time, row, column\nas positions",
        ("Qwen-VL",),
        "blue",
    ),
    Member("CogVLM2-Video", "2408.16500", 5, "each frame's second as text", ("CogVLM",), "blue"),
    Member("Chat-UniVi", "2311.08046", 4, "similar patches become one token", ("LLaVA",), "green"),
    Member("Video-ChatGPT", "2306.05424", 3, "means over time and space", ("LLaVA",), "blue"),
    Member(
        "MiniGPT4-Video", "2404.03413", 2, "four patches a token; subtitles", ("MiniGPT-4",), "blue"
    ),
    Member("MA-LMM", "2404.05726", 1, "frame by frame, a memory bank", ("InstructBLIP",), "orange"),
    Member(
        "Video-LLaMA",
        "2306.02858",
        0,
        "one Q-Former over frames,\none over sound",
        ("BLIP-2", "ImageBind"),
        "orange",
    ),
)


def tree_box(axis, member: Member, left: float, width: float, height: float) -> None:
    """Draw one member as a box, its lane at the box's middle."""
    colour = PALETTE[member.colour]
    bottom = member.lane - height / 2
    style = "round,pad=0,rounding_size=0.08"
    face = "#f3f4f6" if member.colour == "grey" else "white"
    look = {"facecolor": face, "edgecolor": colour, "linewidth": 1.0 if not member.idea else 1.8}
    axis.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle=style, **look))
    year, number = 2023 + member.month // 12, member.month % 12 + 1
    when = f"{number:02d}/{year}"
    if not member.idea:
        axis.text(left + 0.1, member.lane, member.name, va="center", fontsize=9)
        axis.text(
            left + width - 0.1, member.lane, when, va="center", ha="right", fontsize=7.5, color=SOFT
        )
        return
    top = bottom + height - 0.09
    axis.text(left + 0.1, top, member.name, va="top", fontsize=9.5, fontweight="bold")
    axis.text(left + width - 0.1, top - 0.02, when, va="top", ha="right", fontsize=7.5, color=SOFT)
    axis.text(left + 0.1, top - 0.23, member.idea, va="top", fontsize=8.3, linespacing=1.25)


@house
def family_tree() -> Figure:
    """The seven systems by date, what each brought, and the models they start from.

    Left: what they start from. Right: the seven systems, later
    ones further right. Frame colours tell the bridge between frames and language model.
    """
    figure = new_figure(9.6, 6.1)
    axis = figure.subplots()
    axis.set(xlim=(-0.05, 9.6), ylim=(-1.0, 6.95))
    axis.set_axis_off()
    narrow, wide = 1.75, 2.75
    start, inch_per_month = 2.45 - 5 * 0.285, 0.285
    lefts = {m.name: start + inch_per_month * m.month for m in SYSTEMS}
    for ancestor in ANCESTORS:
        tree_box(axis, ancestor, 0.0, narrow, 0.42)
    lanes = {m.name: m.lane for m in ANCESTORS}
    for system in SYSTEMS:
        left = lefts[system.name]
        for parent in system.parents:
            arrow = FancyArrowPatch(
                (narrow + 0.02, lanes[parent]),
                (left - 0.03, system.lane),
                arrowstyle="-|>",
                mutation_scale=10,
                connectionstyle="arc3,rad=0",
                color=SOFT,
                linewidth=1.0,
                zorder=0,
            )
            axis.add_patch(arrow)
        tree_box(axis, system, left, wide, 0.44 + 0.19 * (1 + system.idea.count("\n")))
    for child, parent in (("MiniGPT-4", "BLIP-2"), ("InstructBLIP", "BLIP-2")):
        down = lanes[child] < lanes[parent]
        ends = (
            (lanes[parent] - 0.21, lanes[child] + 0.21)
            if down
            else (lanes[parent] + 0.21, lanes[child] - 0.21)
        )
        axis.add_patch(
            FancyArrowPatch(
                (0.3, ends[0]), (0.3, ends[1]), arrowstyle="-|>", mutation_scale=9, color=SOFT
            )
        )
    axis.text(0, 6.75, "what they start from", fontsize=9.5, color=SOFT, style="italic")
    axis.text(
        2.45, 6.75, "video language models, by date", fontsize=9.5, color=SOFT, style="italic"
    )
    patches = [
        Patch(facecolor="white", edgecolor=PALETTE[c], lw=1.8, label=t) for c, t in BRIDGES.items()
    ]
    figure.legend(
        handles=patches,
        loc="outside lower right",
        ncols=3,
        title="from frames to language by",
        alignment="left",
    )
    return fit_png(figure)
