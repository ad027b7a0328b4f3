"""CogVLM2's settings: one class for the image model and the video model, at the paper's size and at
the world's.
"""

from dataclasses import dataclass, replace

from vlmcourse.errors import UserError

RELEASED_SETTINGS = {"temperature": 0.0, "max_new_tokens": 2048}
"""How the released demos answer: the likeliest token each time (sampling among one), so long."""

MERGED = 2
"""Side of the square of patches that become one token."""
CHOICES = {
    "template": ("chat", "base", "vqa"),
    "time_text": ("counter", "seconds", "none"),
    "positions": ("shared", "sequential"),
    "sampling": ("chat", "base"),
    "fit": ("crop", "squash"),
    "words": ("llama3", "world"),
}


@dataclass(frozen=True)
class CogVLM2Config:
    """Settings of the system; the defaults are those of the released video model.

    Attributes:
        experts: whether the language model has weights of its own for pictures. The image model has
            them; the released video model, whatever the paper's name for it, has none.
        num_frames: frames taken from a video, at most.
        image_size: side of a picture or frame in pixels.
        patch_size: side of a patch of the picture encoder; 2 x 2 patches become one token.
        position_grid: side of the table of positions of the paper's picture encoder, which is
            stretched to the pictures; None: what pictures of `image_size` need.
        adapter_width: inner width of the adapter.
        template: "chat", "base" or "vqa": how a question is written, and whether the frames' times
            are told ("chat") or the frames follow each other without any text.
        time_text: what "chat" writes behind each frame of a video: "counter" (0, 1, ...: what is
            released), "seconds" (the time itself: what the paper says) or "none".
        positions: "shared": the inside of a run of picture tokens has one position, as released;
            "sequential": every token has its own.
        sampling: "chat": one frame a second from the start; "base": even steps through the first
            minute.
        fit: how a frame becomes a square: its middle is cut out ("crop"), or it loses its aspect
            ratio ("squash": the image model, and the small world always).
        words: what the language model was taught: "llama3" or the small "world".
    """

    experts: bool = False
    num_frames: int = 24
    image_size: int = 224
    patch_size: int = 14
    position_grid: int | None = None
    adapter_width: int = 14336
    template: str = "chat"
    time_text: str = "counter"
    positions: str = "shared"
    sampling: str = "chat"
    fit: str = "crop"
    words: str = "llama3"

    def __post_init__(self):
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                told = ", ".join(known)
                raise UserError(f"{name} is {getattr(self, name)!r}, not one of {told}")
        if self.num_frames < 1:
            raise UserError("num_frames must be at least 1")
        step = MERGED * self.patch_size
        if self.image_size % step:
            raise UserError(f"image_size is {self.image_size}, not a multiple of {step}")

    @property
    def tokens_per_frame(self) -> int:
        """Language-model tokens of a picture or frame: merged patches, and a mark at each end."""
        return (self.image_size // self.patch_size // MERGED) ** 2 + 2


VIDEO_CONFIG = CogVLM2Config()
IMAGE_CONFIG = replace(
    VIDEO_CONFIG, experts=True, num_frames=1, image_size=1344, time_text="none", fit="squash"
)

WORLD_VIDEO_CONFIG = replace(
    VIDEO_CONFIG,
    num_frames=8,
    image_size=64,
    patch_size=8,
    adapter_width=256,
    fit="squash",
    words="world",
)
WORLD_IMAGE_CONFIG = replace(WORLD_VIDEO_CONFIG, experts=True, num_frames=1, time_text="none")
"""64 patches a frame, hence 16 tokens and two marks; `image_size` 32 gives 4 and 96 gives 36."""
