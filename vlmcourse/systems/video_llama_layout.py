"""How Video-LLaMA writes conversations: templates, tags, the frame-time message.

`<Video>`, `</Video>`, `<Image>` and `</Image>` are plain text to its language model; only the place
holders between them are tokens of their own. What puts all this together is
`video_llama_processor.py`.

Paper: arXiv 2306.02858, section 2. Official: DAMO-NLP-SG/Video-LLaMA@64888c0:
video_llama/datasets/datasets/video_instruct_dataset.py, llava_instruct_dataset.py,
video_llama/models/video_llama.py (captions), video_llama/conversation/conversation_video.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlmcourse.conversation import Special, Template, Text
from vlmcourse.systems.templates import WORLD_TEMPLATE

PLACE, SOUND_PLACE = "<ImageHere>", "<AudioHere>"
"""Added to the vocabulary in this order. The second is never used: in the released code too, sound
stands in places of the first."""

SOUND_AND_PICTURES = (
    "Close your eyes, open your ears and you imagine only based on the sound that: ",
    ". Close your ears, open your eyes and you see that ",
    ". Now answer my question based on what you have just seen and heard.",
)
"""Texts before the sound, between sound and video, and behind the video. Official:
conversation_video.py (`upload_video`), less the runs of blanks that its line breaks left inside."""

PICTURE_SYSTEM = (
    "You are able to understand the visual content that the user provides. Follow the instructions "
    "carefully and explain your answers in detail."
)
"""System text of the released chat about one picture; there is none about a video."""

PLAIN_CAPTION = Template(
    name="video_llama_caption",
    start=(Special("<s>"),),
    before_user=(),
    after_user=(),
    before_answer=(),
    answer_lead="",
    after_answer=(Text("\n", trained=True),),
    answer_alone=True,
)
"""Stage 1: the video, its caption, a line break; no words of a user, no tags."""

VICUNA = Template(
    name="video_llama_vicuna",
    start=(Special("<s>"), Text("\n\n")),
    before_user=(Text("###", trained=True), Text("Human: ")),
    after_user=(Text("\n"),),
    before_answer=(Text("###Assistant:", trained=True),),
    answer_lead=" ",
    after_answer=(Text("\n", trained=True),),
    end=(Text("###", trained=True),),
)
"""Conversations with Vicuna v0. Every `###` is trained, for it is where an answer has to stop; and
so is the role of the assistant."""

VICUNA_CAPTION = Template(
    name="video_llama_vicuna_caption",
    start=(Special("<s>"),),
    before_user=(Text("###Human: "),),
    after_user=(Text(" ###Assistant: "),),
    before_answer=(),
    answer_lead="",
    after_answer=(Text("###", trained=True),),
    answer_alone=True,
)


def llama2_template(system: str = " ") -> Template:
    """Conversations with Llama-2-chat; in training the system text is one blank."""
    return Template(
        name="video_llama_llama2",
        start=(Special("<s>"),),
        before_user=(Text(f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n"),),
        before_later_user=(Special("<s>"), Text("[INST] ")),
        after_user=(Text(" [/INST]"),),
        before_answer=(),
        answer_lead=" ",
        after_answer=(Text(" ", trained=True), Special("</s>", trained=True)),
    )


LLAMA2 = llama2_template()
LLAMA2_CAPTION = replace(
    LLAMA2,
    name="video_llama_llama2_caption",
    after_user=(Text(" [/INST] "),),
    answer_lead="",
    after_answer=(Special("</s>", trained=True),),
    answer_alone=True,
)


def released_vicuna_chat(system: str = "") -> Template:
    """The prompt of the released chat with Vicuna, which is not the one it was trained with: no
    line breaks between the turns and none at the beginning."""
    return replace(
        VICUNA,
        name="video_llama_vicuna_chat",
        start=(Special("<s>"), Text(system)) if system else (Special("<s>"),),
        after_user=(),
        after_answer=(),
        end=(),
    )


@dataclass(frozen=True)
class Layout:
    """What depends on the language model.

    Attributes:
        conversation: template of training and, by default, of questions.
        caption: of captions that a request asked for (stage 2).
        stop_sequences: ids that end an answer, where not the end token alone does. They are those
            of LLaMA's vocabulary: it has two ways to write `###`.
        stop_texts: the same as text.
        role: what a model may repeat in front of its answer.
    """

    conversation: Template
    caption: Template
    stop_sequences: tuple[tuple[int, ...], ...] = ()
    stop_texts: tuple[str, ...] = ()
    role: str = ""


LAYOUTS = {
    "vicuna": Layout(
        VICUNA, VICUNA_CAPTION, ((835,), (2277, 29937)), stop_texts=("###",), role="Assistant:"
    ),
    "llama2": Layout(LLAMA2, LLAMA2_CAPTION, role="ASSISTANT:"),
    "world": Layout(WORLD_TEMPLATE, WORLD_TEMPLATE),
}


FRAME_TEXT = "The video contains {count} frames sampled at {seconds} seconds. "


def frame_message(times_s: Sequence[float], text: str = FRAME_TEXT) -> str:
    """What the language model is told about the frames, seconds with one digit.

    Differs: nothing for a constant frame rate. The official seconds are index over mean rate; these
    are the frames' own, and therefore right where the rate varies.
    """
    seconds = [float(str(np.float32(second))) for second in times_s]  # as written: 0.45, not 0.4499
    told = ", ".join(str(round(second, 1)) for second in seconds)
    return text.format(count=len(seconds), seconds=told)
