"""One look for all figures: colours that colour-blind readers tell apart, readable fonts."""

import functools
import io
import sys

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

MAX_PNG_BYTES = 58_000
DPI = 100
SMALLEST_DPI = 55
PALETTES = (256, 128, 64)

# Okabe and Ito's palette, in the order in which lines and bars take it.
PALETTE = {
    "blue": "#0072b2",
    "orange": "#e69f00",
    "green": "#009e73",
    "pink": "#cc79a7",
    "sky": "#56b4e9",
    "red": "#d55e00",
    "yellow": "#f0e442",
    "grey": "#6b7280",
}
INK = "#1f2937"
SOFT = "#6b7280"

STYLE = {
    "figure.dpi": DPI,
    "savefig.dpi": "figure",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "grid.color": "#d1d5db",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "image.cmap": "magma",
    "axes.prop_cycle": mpl.cycler(color=list(PALETTE.values())),
}


class HouseFigure(Figure):
    """A figure that stays out of pyplot's list, so that a notebook shows it once.

    ``colours`` is how many colours its PNG may have (None: all); see :func:`fit_png`.
    """

    colours: int | None = None

    def _repr_png_(self) -> bytes:
        return png_bytes(self)


def use_house_style() -> None:
    """Make every later figure of this process look like the course's; notebooks call it once.

    In a notebook it also teaches the kernel to show a figure that ends a cell.
    """
    mpl.rcParams.update(STYLE)
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        import matplotlib.pyplot as plt

        plt.get_backend()  # the kernel's own printers first, ours over them
        shell.display_formatter.formatters["image/png"].for_type(HouseFigure, png_bytes)


def new_figure(width: float, height: float) -> HouseFigure:
    """An empty figure in the house style; width and height in inches."""
    with mpl.rc_context(STYLE):
        return HouseFigure(figsize=(width, height), dpi=DPI, layout="constrained")


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG, as a notebook stores it."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="png", bbox_inches="tight", dpi=figure.dpi)
    colours = getattr(figure, "colours", None)
    return with_palette(buffer.getvalue(), colours) if colours else buffer.getvalue()


def with_palette(png: bytes, colours: int) -> bytes:
    """The same picture with at most so many colours, chosen for it: a third of the size."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    buffer = io.BytesIO()
    few = picture.quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def fit_png(figure: HouseFigure, limit: int = MAX_PNG_BYTES) -> HouseFigure:
    """Take colours, then resolution from the figure until its PNG fits, and return it.

    Raises:
        ValueError: it does not fit at the smallest readable resolution; show fewer frames.
    """
    full = png_bytes(figure)
    if len(full) <= limit:
        return figure
    for colours in PALETTES:
        figure.colours = colours
        if len(with_palette(full, colours)) <= limit:
            return figure
    while (size := len(png_bytes(figure))) > limit:
        if figure.dpi <= SMALLEST_DPI:
            raise ValueError(f"{size // 1000} kB at {figure.dpi:.0f} dpi: show fewer frames")
        figure.set_dpi(max(SMALLEST_DPI, figure.dpi * min(0.97, (limit / size) ** 0.5)))
    return figure


def as_pixels(frames: np.ndarray) -> np.ndarray:
    """Check frames for showing.

    Args:
        frames: uint8 [T, H, W, 3], T > 0.

    Raises:
        ValueError: another shape or type.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames are uint8 [T, H, W, 3], not {frames.dtype} {frames.shape}")
    return frames


def house(function):
    """Draw inside the house style, whatever the caller's settings are."""

    @functools.wraps(function)
    def drawn(*args, **kwargs):
        with mpl.rc_context(STYLE):
            return function(*args, **kwargs)

    return drawn
