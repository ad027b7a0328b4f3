"""MA-LMM's settings, at the paper's size and at the world's."""

from dataclasses import dataclass

from vlmcourse.errors import UserError
from vlmcourse.parts.qformer import QFormerConfig

READERS = ("memory", "average", "all", "one_frame", "frames")
MERGING = ("weighted", "mean", "fifo", "none")
WINDOW_FRAMES = ("rounded", "cut")
POSITION_STARTS = ("zeros", "waves")
FRAME_POSITIONS = ("official", "all", "none")
LAYOUTS = ("vicuna", "world")

PAPER_SETTINGS = {
    "num_beams": 5, "repetition_penalty": 1.5, "length_penalty": 1.0, "max_new_tokens": 19
}  # fmt: skip
"""How the released evaluation generates (Breakfast and COIN; others differ in the longest answer,
and questions take a length penalty of 0). That counts a begin token more: 20 are 19."""


@dataclass(frozen=True)
class MaLmmConfig:
    """Settings of the system; the defaults are the paper's for LVU, Breakfast and COIN.

    Attributes:
        num_frames: frames taken from a video, in even steps.
        seconds_apart: take one frame every so many seconds instead, as many as there are.
        window_frames: which frames of a window of a video are taken: "rounded" (LVU's rule, the
            same in training) or "cut" (YouCook2's, with random frames in training).
        max_frames: positions that frames can have; later frames have the last one.
        visual_memory, query_memory: entries that each bank holds; 0 is no bank, None no bound.
        merging: what a bank does with an entry too many: "weighted" (the official size-weighted
            mean of the two most similar neighbours), "mean" (their plain mean), "fifo" (the oldest
            goes), "none" (nothing: it grows).
        frame_position: "official" (stored frames are cut off the graph: only the position of the
            last frame learns), "all" (every frame's features and position learn), "none" (frames
            have no position).
        position_start: what positions begin as: "zeros" (officially), or "waves" (sines and cosines
            of the frame's number, so that frames are told apart from the first step on).
        reader: how frames are read. "memory": one after the other, with the banks; "average": the
            mean of all frames, once; "all": all tokens of all frames side by side, once;
            "one_frame": the last frame alone; "frames": every frame alone, all their tokens go to
            the language model (what the official code does without banks).
        num_queries: tokens of a video (of a frame, for "frames").
        vision_width: width of the picture encoder's tokens.
        qformer_width, qformer_layers, qformer_heads, qformer_inner, qformer_cross, qformer_dropout,
            qformer_vocabulary, qformer_positions: of the instructed Q-Former.
        text_length: longest instruction in words of the Q-Former, and in tokens of the language
            model; a longer one loses its beginning.
        answer_length: longest answer in training, in tokens; a longer one loses its end.
        image_size: side of a frame in pixels.
        layout: "vicuna" (the paper's) or "world".
        prompt: what is asked, `{}` being the question.
        caption_prompt: what is asked where a caption is wanted.
        official_resize: repeat colours that wrap around at sharp edges (media/transforms.py).
    """

    num_frames: int = 100
    seconds_apart: float | None = None
    window_frames: str = "rounded"
    max_frames: int = 120
    visual_memory: int | None = 20
    query_memory: int | None = 20
    merging: str = "weighted"
    frame_position: str = "official"
    position_start: str = "zeros"
    reader: str = "memory"
    num_queries: int = 32
    vision_width: int = 1408
    qformer_width: int = 768
    qformer_layers: int = 12
    qformer_heads: int = 12
    qformer_inner: int = 3072
    qformer_cross: int = 2
    qformer_dropout: float = 0.1
    qformer_vocabulary: int = 30523
    qformer_positions: int = 512
    text_length: int = 128
    answer_length: int = 256
    image_size: int = 224
    layout: str = "vicuna"
    prompt: str = "{}"
    caption_prompt: str = "what does the video describe?"
    official_resize: bool = False

    def __post_init__(self):
        for name, known in (
            ("reader", READERS),
            ("merging", MERGING),
            ("frame_position", FRAME_POSITIONS),
            ("window_frames", WINDOW_FRAMES),
            ("position_start", POSITION_STARTS),
            ("layout", LAYOUTS),
        ):
            if getattr(self, name) not in known:
                told = ", ".join(known)
                raise UserError(f"{name} is one of {told}, not {getattr(self, name)!r}")
        if self.merging != "none" and self.reader == "memory":
            for name in ("visual_memory", "query_memory"):
                if (getattr(self, name) or 0) < 0:
                    raise UserError(f"{name} is at least 0, not {getattr(self, name)}")
        if "{}" not in self.prompt:
            raise UserError(f"the prompt {self.prompt!r} has no {{}} for the question")

    def qformer(self) -> QFormerConfig:
        """Sizes of the instructed Q-Former."""
        return QFormerConfig(
            hidden_size=self.qformer_width,
            num_layers=self.qformer_layers,
            num_heads=self.qformer_heads,
            intermediate_size=self.qformer_inner,
            encoder_width=self.vision_width,
            cross_attention_freq=self.qformer_cross,
            num_queries=self.num_queries,
            dropout=self.qformer_dropout,
            vocab_size=self.qformer_vocabulary,
            max_positions=self.qformer_positions,
        )


WORLD_CONFIG = MaLmmConfig(
    num_frames=8,
    seconds_apart=1.0,
    max_frames=8,
    visual_memory=4,
    query_memory=4,
    frame_position="all",
    num_queries=16,
    vision_width=96,
    qformer_width=96,
    qformer_layers=4,
    qformer_heads=4,
    qformer_inner=192,
    qformer_dropout=0.0,
    qformer_positions=48,
    text_length=16,
    image_size=64,
    layout="world",
    caption_prompt="what is shown ?",
)
"""In the small world; `qformer_vocabulary` comes from the tokenizer (`build_world`)."""
