"""How MiniGPT4-video writes conversations: templates, tags, frames with what is said between them.

    <s>[INST] <Img>{64 places}<Cap>what is said <Img>{64 places}... question[/INST] answer </s>

`<Img>`, `</Img>`, `<Cap>` and `[INST]` are plain text to the language model; its vocabulary does
not grow. Every stretch of text between two pictures is tokenised on its own.

Paper: arXiv 2404.03413, section 3, which has other marks and closes every frame's. Official:
Vision-CAIR/MiniGPT4-video@ecabd7a:minigpt4/models/mini_gpt4_llama_v2.py (`prompt_wrap`),
minigpt4/conversation/conversation.py, minigpt4/datasets/datasets/*.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vlmcourse.conversation import PICTURE, Piece, Places, Special, Template, Text
from vlmcourse.systems.templates import CAPTION_REQUESTS, WORLD_TEMPLATE

PLACE = "<unk>"
"""Holds the places of pictures; a token that every vocabulary has, and whose row is never seen."""

PICTURE_REQUESTS = CAPTION_REQUESTS
VIDEO_REQUESTS = (
    "Describe what happens in this video.",
    "What is going on in the video?",
    "Tell what you see from beginning to end.",
    "Give an account of the scenes of this clip.",
    "Summarise this video.",
    "Write a description of the video.",
    "What does this clip show?",
)
"""Requests in front of captions of videos. Differs: words of our own; the official list has 13."""

VIDEO = Template(
    name="minigpt4_video",
    start=(Special("<s>"),),
    before_user=(Text("[INST] "),),
    after_user=(Text("[/INST]"),),
    before_answer=(),
    answer_lead="",
    after_answer=(Special("</s>", trained=True),),
    answer_alone=True,
)
"""A video in training. Differs: later turns, which the official training does not have, begin with
`[INST]` too."""

PICTURE_TEMPLATE = replace(VIDEO, name="minigpt4_video_picture", after_user=(Text(" [/INST] "),))
"""A picture in training: a blank on both sides of the mark in front of the answer."""

UNTEMPLATED = replace(
    VIDEO, name="minigpt4_video_untemplated", before_user=(), after_user=(Text(" "),)
)
"""Requests for captions in the first stage: no marks around the user's turn."""

CHAT = replace(
    VIDEO,
    name="minigpt4_video_chat",
    start=(Special("<s>"), Special("<s>")),
    after_user=(Text(" [/INST]"),),
)
"""A question in the released chat: the text begins with a begin token and the tokenizer adds
another; and there is a blank that training does not have."""

BENCHMARK = replace(CHAT, name="minigpt4_video_benchmark", before_user=(Text("[INST]  "),))
"""A question in the released benchmarks: one blank more."""

PROMPTS = {None: VIDEO, "chat": CHAT, "benchmark": BENCHMARK}


@dataclass(frozen=True)
class Layout:
    """How pictures and subtitles are written.

    Attributes:
        video, picture, untemplated: templates of a video, of a picture, and of captions without
            marks of turns.
        before_frame: in front of every frame and picture.
        before_said, after_said: around one text that is said.
        begin_said: once in front of all texts of one frame.
        after_picture: behind a picture, not behind a frame.
        caption_mark: in front of a request without marks of turns.
        after_video: between a video and the question.
    """

    video: Template
    picture: Template
    untemplated: Template
    before_frame: str = "<Img>"
    begin_said: str = "<Cap>"
    before_said: str = ""
    after_said: str = " "
    after_picture: str = "</Img>"
    caption_mark: str = "[caption] "
    after_video: str = "\n"


PAPER_LAYOUT = Layout(VIDEO, PICTURE_TEMPLATE, UNTEMPLATED)
LAYOUTS = {
    "llama2": PAPER_LAYOUT,
    "mistral": PAPER_LAYOUT,
    "world": Layout(
        *(WORLD_TEMPLATE,) * 3,
        before_frame="",
        begin_said="",
        before_said="said : ",
        after_said=" . ",
        after_picture="",
        caption_mark="",
    ),
}
"""The world's language model learnt to read `said : TEXT .` between the seconds of a clip."""


def frame_pieces(layout: Layout, spoken: Sequence[Sequence[str]], places: int) -> list[Piece]:
    """A video: every frame, and behind it what was said since the one before.

    Args:
        spoken: the texts of each frame.
        places: tokens a frame.
    """
    pieces: list[Piece] = []
    for texts in spoken:
        pieces += picture_pieces(layout.before_frame, places)
        said = "".join(f"{layout.before_said}{text}{layout.after_said}" for text in texts)
        if said:
            pieces.append(Text(layout.begin_said + said))
    return pieces


def picture_pieces(before: str, places: int, count: int = 1, after: str = "") -> list[Piece]:
    """Pictures in a row, each between its tags."""
    one = [Text(before), Places(PICTURE, places, PLACE, keeps_blanks=True), Text(after)]
    return [piece for piece in one if piece != Text("")] * count
