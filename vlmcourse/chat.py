"""`vlmcourse chat`: ask a system about video, picture or sound files; the answer is shown while it
grows."""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmcourse.chat_files import files_text, open_model
from vlmcourse.chat_media import check_files, media_line, split_words, unlike_the_world, watch
from vlmcourse.chat_stream import add_stream_options, stream_main
from vlmcourse.chat_subtitles import add_options, check_options, find_subtitles, subtitles_line
from vlmcourse.errors import UserError

if TYPE_CHECKING:
    from vlmcourse.conversation import Turn
    from vlmcourse.media.transcribe import Subtitles
    from vlmcourse.systems.base import VideoLanguageModel, Watched

QUIT, FORGET = "/quit", "/forget"
LONGEST = {"world": 48, "paper": 1024}
"""Tokens of an answer. Official: Video-ChatGPT's inference allows 1,024."""
TEMPERATURE = {"world": 0.0, "paper": 0.2}
"""Official: Video-ChatGPT's inference samples at 0.2; small answers are exact or wrong. A
system whose authors chose otherwise has `answer_settings`."""


EXAMPLES = """examples:
  vlmcourse chat --system video_chatgpt CLIP.mp4 "what happens first?"
  vlmcourse chat --system video_llama --no-picture CLIP.mp4 "what is heard?"
  vlmcourse chat --system minigpt4_video CLIP.mp4 "what is said first?"
      reads CLIP.srt, CLIP.vtt or CLIP.en.vtt if there is one
  vlmcourse chat --system minigpt4_video --subtitles TALK.srt CLIP.mp4
  vlmcourse chat --system minigpt4_video --transcribe DIR/whisper-large-v2 CLIP.mp4
      hears what is said, and keeps it in CLIP.whisper.vtt for the next time
  vlmcourse chat --system cogvlm2 PICTURE.png "what is there?"
  vlmcourse chat --system qwen2_vl ONE.png TWO.png CLIP.mp4 "what number is shown?"
      several pictures and videos, of any size, in one conversation
  vlmcourse chat --system ma_lmm --stream FILM.mp4
      a film that passes by in flat memory; ask while it runs"""

# ---------------------------------------------------------------- the conversation


class Chat:
    """A conversation about one video, or about what a system watched together.

    Args:
        model: answers.
        watched: from `model.watch`; the features serve all questions.
        settings: of generation, see `VideoLanguageModel.generate`.

    Attributes:
        history: the turns so far.
    """

    def __init__(self, model: "VideoLanguageModel", watched: "Watched", **settings: Any):
        self.model, self.watched, self.settings = model, watched, settings
        self.history: list[Turn] = []

    def ask(self, question: str, show: Callable[[str], None] = lambda text: None) -> str:
        """Answer a question after all earlier ones, and remember both.

        Args:
            question: plain text.
            show: called with each stretch of the answer as it comes.

        Raises:
            UserError: an empty question, or one that holds a marker of a medium.
        """
        from vlmcourse.conversation import Turn, checked_question

        question = checked_question(question)
        answer = self.model.answer(
            self.watched, [question], self.history, streamer=show, **self.settings
        )[0]
        asked = self.model.processor.next_turn(question, self.watched.clip, self.history)
        self.history += [asked, Turn("assistant", answer)]
        return answer


def unknown_words(model: "VideoLanguageModel", question: str) -> list[str]:
    """Words of a question that the model's tokenizer has no token for, each once, in order."""
    tokenizer = model.processor.tokenizer
    try:
        unknown = tokenizer.token_id("<unk>")
    except KeyError:
        return []
    ids, spans = tokenizer.encode(question)
    words = [question[start:end] for i, (start, end) in zip(ids, spans) if i == unknown]
    return list(dict.fromkeys(words))


# ---------------------------------------------------------------- the command


def main(argv: list[str] | None = None) -> int:
    """Run `vlmcourse chat`; exit code 2 with one line for what cannot be used."""
    args = _parser().parse_intermixed_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if args.stream:
        return stream_main(args)
    from vlmcourse.conversation import checked_question

    paths, questions = split_words(args.words)
    for question in questions:
        checked_question(question)
    chat, small = _begin(args, paths), args.preset == "world"
    for question in questions:
        answer_aloud(chat, question, small)
    if questions:
        return 0
    for question in _questions():
        if question == FORGET:
            chat.history.clear()
            continue
        try:
            answer_aloud(chat, question, small)
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
    return 0


def _begin(args: argparse.Namespace, paths: list[Path]) -> Chat:
    """Load the system, watch the files, and say what of them is used."""
    from vlmcourse.devices import chosen_device
    from vlmcourse.trained import quiet_libraries

    device = chosen_device(args.device)
    infos = check_files(paths)  # a bad file is told before a large model is loaded
    transcriber = check_options(args, device)
    quiet_libraries()
    model = open_model(args.system, args.preset, args.weights, device, args.foundations)
    if len(paths) > 1 and not model.processor.takes_several:
        named = ", ".join(map(str, paths))
        raise UserError(f"{args.system} takes one file at a time, not {len(paths)}: {named}")
    told = (args.subtitles, args.no_subtitles, transcriber)
    subtitles = find_subtitles(model, paths[0], *told)
    watched, notes = watch(model, paths, args.no_sound, args.no_picture, subtitles)
    clip, small = watched.clip, args.preset == "world"
    if model.processor.takes_several:
        for path, info, one in zip(paths, infos, clip.all, strict=True):
            notes.append(media_line(path, info, one, model.processor))
    if subtitles is not None and not clip.is_picture:
        notes.append(subtitles_line(subtitles, clip.duration_s, args.no_subtitles))
        notes += _unknown_speech(model, subtitles) if small else []
    notes += unlike_the_world(paths, clip) if small else []
    for note in notes:
        _note(note)
    settings = {"max_new_tokens": LONGEST[args.preset], "temperature": TEMPERATURE[args.preset]}
    asked = {"max_new_tokens": args.max_new_tokens, "temperature": args.temperature}
    asked = {name: value for name, value in asked.items() if value is not None}
    return Chat(model, watched, **settings | model.answer_settings | asked)


def _unknown_speech(model: "VideoLanguageModel", subtitles: "Subtitles") -> list[str]:
    """A note on the words of subtitles that the model has no token for, if there are any."""
    unknown = unknown_words(model, " ".join(cue.text for cue in subtitles.cues))
    more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
    told = f"said words that this small model does not know: {', '.join(unknown[:8])}{more}"
    return [told] if unknown else []


def answer_aloud(chat: Chat, question: str, small: bool = True) -> None:
    """Write the answer to standard output as it grows.

    Args:
        small: say on standard error which words of the question the model does not know.
    """
    from vlmcourse.conversation import checked_question

    question = checked_question(question)
    if small and (unknown := unknown_words(chat.model, question)):
        _note(f"words this small model does not know: {', '.join(unknown)}")

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    chat.ask(question, show)
    show("\n")


def _questions() -> Iterator[str]:
    """Lines from the keyboard or a pipe until `/quit` or their end; empty ones are passed over."""
    asked_by_hand = sys.stdin.isatty()
    if asked_by_hand:
        _note(f"ask; {QUIT} ends, {FORGET} starts a new conversation")
    while True:
        try:
            line = input("> " if asked_by_hand else "").strip()
        except EOFError:
            return
        if line == QUIT:
            return
        if line:
            yield line


def _note(text: str) -> None:
    sys.stderr.write(f"note: {text}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlmcourse chat",
        usage="%(prog)s [options] FILE [FILE ...] [QUESTION ...]",
        description="Ask a system about a video, a picture, or (if it listens) sound alone; some\n"
        "systems take several files at once. Files come first, then questions, each in quotes.\n"
        f"Without a question it asks for them, line by line; {QUIT} ends, {FORGET} starts a\n"
        "new conversation about the same files.",
        epilog=EXAMPLES + "\n\n" + files_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("words", nargs="+", metavar="FILE", help="any video, picture or sound files that ffmpeg "
        "reads; behind them questions (default: ask for them)")  # fmt: skip
    add("--system", default="video_chatgpt", help="default: %(default)s")
    add("--preset", choices=("world", "paper"), default="world", help="world: the small system")
    add("--weights", type=Path, metavar="DIR", help="world: a run instead of the shipped weights; "
        "paper: the folder of official files")  # fmt: skip
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--no-sound", action="store_true", help="do not listen to the file")
    part.add_argument("--no-picture", action="store_true", help="listen only")
    add_options(parser)
    add_stream_options(parser)
    add("--max-new-tokens", type=_at_least_one, metavar="N", help="default: 48 world; paper: as "
        "the authors' chat, 300 to 2048")  # fmt: skip
    add("--temperature", type=_not_negative, metavar="T", help="0 takes the likeliest word; "
        "default: 0 world; paper: as the authors' chat, 0 to 1")  # fmt: skip
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--foundations", type=Path, metavar="DIR", help="frozen parts instead of the shipped ones")
    return parser


def _at_least_one(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {value}")
    return value


def _not_negative(text: str) -> float:
    if not (value := float(text)) >= 0:
        raise argparse.ArgumentTypeError(f"0 or more, not {value}")
    return value
