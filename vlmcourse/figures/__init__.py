"""The course's pictures, in one style; every function returns a matplotlib ``Figure``.

A figure that is the last value of a notebook cell shows itself once, as a PNG under 60 kB.
"""

from vlmcourse.figures.diagrams import family_tree, token_strip
from vlmcourse.figures.media import film_strip, heat_over_frames, spectrogram, waveform
from vlmcourse.figures.players import sound_player, video_player
from vlmcourse.figures.results import (
    accuracy_bars,
    accuracy_by_variant,
    loss_curves,
    read_curve,
    training_curves_by_stage,
)
from vlmcourse.figures.style import PALETTE, fit_png, new_figure, png_bytes, use_house_style
from vlmcourse.figures.timelines import clip_sheet, frame_rules, matrices, picture_grid

__all__ = [
    "PALETTE",
    "accuracy_bars",
    "accuracy_by_variant",
    "clip_sheet",
    "family_tree",
    "film_strip",
    "fit_png",
    "frame_rules",
    "heat_over_frames",
    "loss_curves",
    "matrices",
    "new_figure",
    "picture_grid",
    "png_bytes",
    "read_curve",
    "sound_player",
    "spectrogram",
    "token_strip",
    "training_curves_by_stage",
    "use_house_style",
    "video_player",
    "waveform",
]
