"""Chat-UniVi's settings: one class for the published sizes and for the world's."""

from dataclasses import dataclass, replace

from vlmcourse.errors import UserError

RELEASED_SETTINGS = {"temperature": 0.2, "max_new_tokens": 1024}
"""How the released models answer: sampling at a low temperature."""

VIDEO_FROM = 3
"""Frames from which on a run of them is a video; one or two are as many pictures."""

CHOICES = {
    "size": ("7B", "13B"),
    "clustering": ("exact", "official"),
    "merging": ("dpc_knn", "grid", "random"),
    "temporal": ("events", "contiguous"),
    "fit": ("crop", "squash"),
    "prompt": ("v1", "simple", "simpleqa"),
    "words": ("vicuna", "world"),
}


@dataclass(frozen=True)
class ChatUniViConfig:
    """Settings of the system; the defaults are the paper's, but for `clustering`.

    Attributes:
        size: of the published models, "7B" or "13B"; the world has its own.
        image_size: side of a picture or frame in pixels: 224, and 336 in version 1.5.
        num_frames: frames taken from a video, one a second, at most: 64 in training and
            evaluation, 100 in the released demo.
        spatial_rates: tokens of a picture, or of an event, that each stage keeps, fine to coarse;
            up to 1: the share of the tokens before it (in pictures alone), as in the official code.
        spatial_ks: neighbours that count in the density of a token, stage by stage; those beyond
            the stages are not used.
        temporal_rate: events a frame; above 1: events of a video, whatever its length.
        temporal_k: neighbours that count in the density of a frame.
        merging: "dpc_knn": tokens that look alike become one; "grid" and "random": the controls
            with as many tokens (parts/event_merging.py).
        temporal: "events": frames that look alike are one event; "contiguous": equal parts of time
            (the control).
        clustering: "exact": without noise, ties go to the first, `k` as it is said; "official":
            unseeded noise on the densities, and a `k` that shrinks with the number of clusters.
        noise_seed: of the official noise, and of random merging, in answering; None draws anew
            every time, as the official code does and as training does.
        fit: how a picture becomes a square: its middle is cut out ("crop"), or the encoder makes it
            one ("squash": the small world).
        prompt: how questions are written: "v1", as in training and the video evaluations;
            "simple": the released demo, pictures and ScienceQA; "simpleqa": POPE.
        words: what the language model was taught: "vicuna" or the small "world".
    """

    size: str = "7B"
    image_size: int = 224
    num_frames: int = 64
    spatial_rates: tuple[float, ...] = (64, 32, 16)
    spatial_ks: tuple[int, ...] = (5, 3, 3)
    temporal_rate: float = 1 / 16
    temporal_k: int = 5
    merging: str = "dpc_knn"
    temporal: str = "events"
    clustering: str = "exact"
    noise_seed: int | None = 0
    fit: str = "crop"
    prompt: str = "v1"
    words: str = "vicuna"

    def __post_init__(self):
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                told = ", ".join(known)
                raise UserError(f"{name} is {getattr(self, name)!r}, not one of {told}")
        for name in ("spatial_rates", "spatial_ks"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        if len(self.spatial_rates) > len(self.spatial_ks):
            raise UserError(
                f"{len(self.spatial_rates)} spatial_rates, but {len(self.spatial_ks)} spatial_ks"
            )
        for name in ("num_frames", "temporal_k", "image_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1")
        if not self.temporal_rate > 0:
            raise UserError("temporal_rate must be above 0")


def _numbers(name: str, values: object) -> tuple[float, ...]:
    """A tuple, whatever kind of list a file of settings gives; whole numbers, or shares up to 1
    where they are rates.

    Raises:
        UserError: another value.
    """
    shares = name == "spatial_rates"
    fits = isinstance(values, (list, tuple)) and len(values) > 0
    if not fits or not all(
        (type(v) is int and v >= 1) or (shares and type(v) is float and 0 < v <= 1) for v in values
    ):
        told = "whole numbers or shares" if shares else "whole numbers"
        raise UserError(f"{name} is {values!r}, not a list of {told} above 0")
    return tuple(values)


PAPER_CONFIG = ChatUniViConfig()
WORLD_CONFIG = replace(
    PAPER_CONFIG,
    image_size=64,
    spatial_rates=(16, 8, 4),
    temporal_rate=0.5,
    fit="squash",
    words="world",
)
"""64 patches become 28 tokens, as the published 256 become 112; a film of 8 seconds has 4 events,
hence 112 tokens."""
