"""`vlmcourse chat`: ask a system about a video file; the answer is shown while it grows."""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmcourse.errors import UserError

if TYPE_CHECKING:
    from vlmcourse.conversation import Turn
    from vlmcourse.systems.base import VideoLanguageModel, Watched

QUIT, FORGET = "/quit", "/forget"
LONGEST = {"world": 48, "paper": 1024}
"""Tokens of an answer. Official: Video-ChatGPT's inference allows 1,024."""
TEMPERATURE = {"world": 0.0, "paper": 0.2}
"""Official: Video-ChatGPT's inference samples at 0.2; small answers are exact or wrong."""


# ---------------------------------------------------------------- the conversation


class Chat:
    """A conversation about one video.

    Args:
        model: answers.
        watched: the video, from `model.watch`; its features serve all questions.
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
        from vlmcourse.conversation import Turn

        question = checked_question(question)
        answer = self.model.answer(
            self.watched, [question], self.history, streamer=show, **self.settings
        )[0]
        asked = self.model.processor.question_turn(question, first=not self.history)
        self.history += [asked, Turn("assistant", answer)]
        return answer


def checked_question(question: str) -> str:
    """The question without white space around it.

    Raises:
        UserError: nothing is left, or a marker such as `<video>` stands in it.
    """
    from vlmcourse.conversation import MARKERS

    question = question.strip()
    if not question:
        raise UserError("the question is empty")
    for marker in MARKERS:
        if marker in question:
            raise UserError(f"{marker} has a meaning of its own and may not stand in a question")
    return question


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


def looks_like_the_world(frames: Any) -> bool:
    """Guess whether frames are of the procedural world: things on a dark ground that stands still.

    Args:
        frames: `[T, H, W, 3]` uint8.
    """
    import torch

    frames = torch.as_tensor(frames).to(torch.int16)
    dark = (frames < 48).all(-1)  # [T, H, W]
    still = (frames - frames[:1]).abs().amax(-1) <= 16
    return bool((dark & still).float().mean() > 0.5)


# ---------------------------------------------------------------- models


def open_model(
    system: str, preset: str, weights: Path | None, device: str, foundations: Path | None = None
) -> "VideoLanguageModel":
    """Load the system that answers.

    Args:
        preset: "world" (shipped weights, or those of a run) or "paper" (downloaded official files).
        weights: a run, or the folder of official files.

    Raises:
        UserError: files are missing, or do not fit.
    """
    if preset == "world":
        from vlmcourse.trained import load_trained_system

        return load_trained_system(system, weights, device, foundations).model
    from vlmcourse.checkpoints import load_released

    if weights is None:
        raise UserError("--preset paper needs --weights DIR with the downloaded files; see --help")
    check_official_files(system, weights)
    return load_released(system, weights, device)


def check_official_files(system: str, folder: Path) -> None:
    """Raise a UserError that lists every official file of a system that the folder lacks."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; --help names the files it has to hold")
    lacking = [
        f"{name} ({source})"
        for name, source in official_files(system).items()
        if not (folder / name).exists()
    ]
    if lacking:
        raise UserError(f"{folder}: lacks {'; '.join(lacking)}")


def official_files(system: str) -> dict[str, str]:
    """Names of the official files and folders of a system, and where each comes from.

    Raises:
        UserError: nothing is known of the system.
    """
    if system != "video_chatgpt":
        raise UserError(f"no official files are known of {system!r}; known: video_chatgpt")
    base = "LLaVA-Lightning-7B-v1-1"
    return {
        base: "the base model: the LLaMA-7B weights with LLaVA-Lightning's delta applied",
        f"{base}/tokenizer.model": "the SentencePiece file of LLaMA",
        "video_chatgpt-7B.bin": "huggingface.co/MBZUAI/Video-ChatGPT-7B",
        "clip-vit-large-patch14": "huggingface.co/openai/clip-vit-large-patch14",
    }


# ---------------------------------------------------------------- the command


def main(argv: list[str] | None = None) -> int:
    """Run `vlmcourse chat`; exit code 2 with one line for what cannot be used."""
    args = _parser().parse_args(argv)
    from vlmcourse.devices import chosen_device
    from vlmcourse.media.video import probe_video
    from vlmcourse.trained import quiet_libraries

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    device = chosen_device(args.device)
    if args.question is not None:
        checked_question(args.question)
    probe_video(args.clip)  # a bad file is told before a large model is loaded
    quiet_libraries()
    model = open_model(args.system, args.preset, args.weights, device, args.foundations)
    watched = model.watch(args.clip)
    small = args.preset == "world"
    if small and not looks_like_the_world(watched.clip.frames):
        _note(
            "this small system has only ever seen the procedural world (coloured shapes on a dark "
            "ground); about other videos it can but guess in that world's words"
        )
    chat = Chat(
        model,
        watched,
        max_new_tokens=args.max_new_tokens or LONGEST[args.preset],
        temperature=TEMPERATURE[args.preset] if args.temperature is None else args.temperature,
    )
    if args.question is not None:
        answer_aloud(chat, args.question, small)
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


def answer_aloud(chat: Chat, question: str, small: bool = True) -> None:
    """Write the answer to standard output as it grows.

    Args:
        small: say on standard error which words of the question the model does not know.
    """
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
    files = official_files("video_chatgpt").items()
    parser = argparse.ArgumentParser(
        prog="vlmcourse chat",
        description="Ask a system about a video file. Without a question it asks for them, line\n"
        f"by line; {QUIT} ends, {FORGET} starts a new conversation about the same video.",
        epilog="The folder that --preset paper --weights names holds, for video_chatgpt,\n"
        + "\n".join(f"  {name}\n      {source}" for name, source in files)
        + '\n\nexample: vlmcourse chat --system video_chatgpt CLIP.mp4 "what happens first?"',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("clip", type=Path, metavar="CLIP", help="any file that ffmpeg reads")
    add("question", nargs="?", help="default: ask for questions")
    add("--system", default="video_chatgpt", help="default: %(default)s")
    add("--preset", choices=("world", "paper"), default="world", help="world: the small system")
    add("--weights", type=Path, metavar="DIR", help="world: a run instead of the shipped weights; "
        "paper: the folder of official files")  # fmt: skip
    add("--max-new-tokens", type=_at_least_one, metavar="N", help="default: 48 world, 1024 paper")
    add("--temperature", type=_not_negative, metavar="T", help="0 takes the likeliest word; "
        "default: 0 world, 0.2 paper")  # fmt: skip
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
