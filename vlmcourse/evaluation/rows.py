"""Token rows of the probes: all questions of a clip in one packed row, with places or without."""

from collections.abc import Sequence
from dataclasses import replace

from vlmcourse.conversation import Conversation, Piece, Places, TokenRow, ask, lay_out, tokenise
from vlmcourse.evaluation.asked import Probes
from vlmcourse.row_packing import pack
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.systems.processor import Clip, Processor
from vlmcourse.world.language import event_list, storyboard
from vlmcourse.world.story import Story


def video_rows(model: VideoLanguageModel, probes: Probes, clips: Sequence[Clip]) -> list[TokenRow]:
    """One packed row a clip, laid out for `clips`: those that are shown, not always the asked.

    A clip of which the system is given nothing (a silent file, for one that only listens) has a row
    without places.
    """
    processor, rows = model.processor, []
    for asked, clip in zip(probes.asked, clips, strict=True):
        apart = [
            processor.row(ask(q.text, q.answer, marker(clip)), clip, processor.answer_template)
            for q in asked
        ]
        rows.append(pack(apart))
    return rows


def question_rows(
    model: VideoLanguageModel, probes: Probes, clips: Sequence[Clip]
) -> list[list[TokenRow]]:
    """The same with a row for every question, clip by clip: for a system that looks at a video with
    the question in mind."""
    return [
        [model.processor.row(ask(q.text, q.answer, marker(clip)), clip, template) for q in asked]
        for asked, clip in zip(probes.asked, clips, strict=True)
        for template in (model.processor.answer_template,)
    ]


def marker(clip: Clip) -> str:
    """What stands in a question for its clip."""
    return "<image>\n" if clip.is_picture else "<video>\n"


def rows_without_media(model: VideoLanguageModel, probes: Probes, condition: str) -> list[TokenRow]:
    """One packed row a clip, with text alone.

    Args:
        condition: of `conditions.WITHOUT_MEDIA`: "blind" leaves nothing of a clip, "no_video" its
            marks and times, if there are any, but not what is said in it; the others tell the truth
            in the place of the video.
    """
    return [
        pack(
            [
                _text_row(
                    model.processor, condition, ask(q.text, q.answer, marker(clip)), clip, story
                )
                for q in asked
            ]
        )
        for asked, clip, story in zip(probes.asked, probes.clips, probes.stories, strict=True)
    ]


def prompts_without_media(
    model: VideoLanguageModel, probes: Probes, condition: str
) -> list[TokenRow]:
    """The same as one prompt a question, unpacked and without its answer."""
    return [
        _text_row(model.processor, condition, ask(q.text, None, marker(clip)), clip, story)
        for asked, clip, story in zip(probes.asked, probes.clips, probes.stories, strict=True)
        for q in asked
    ]


def _text_row(
    processor: Processor, condition: str, conversation: Conversation, clip: Clip, story: Story
) -> TokenRow:
    template, silent = processor.answer_template, replace(clip, cues=())
    if condition != "no_video":
        tell = {"blind": lambda _: "", "events": event_list, "storyboard": storyboard}
        told = tell[condition.rpartition("_")[2]](story)
        return processor.text_row(conversation, told, template)

    def expand(kind: str) -> list[Piece]:
        return [p for p in processor.expand(kind, silent) if not isinstance(p, Places)]

    return tokenise(lay_out(conversation, template, expand), processor.tokenizer)
