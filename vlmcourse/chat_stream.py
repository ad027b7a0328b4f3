"""`vlmcourse chat --stream`: a film passes by, and questions are answered at any time.

Frames come from a file of any length or from a folder of pictures that grows; what has passed is
kept in banks of fixed size only. A question typed while the film runs is answered at once, about
what has passed so far. From a pipe, `@12 QUESTION` is answered when second 12 has passed, and a
question without a second at the end.
"""

import argparse
import queue
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from vlmcourse.chat_files import open_model
from vlmcourse.errors import UserError

if TYPE_CHECKING:
    from vlmcourse.media.passing import Moment
    from vlmcourse.systems.ma_lmm_stream import Stream

QUIT = "/quit"
_TIMED = re.compile(r"@\s*(\d+(?:\.\d+)?)\s+(.+)")
EVER = float("inf")


@dataclass
class Questions:
    """Questions as they come from a keyboard or a pipe.

    Attributes:
        by_hand: somebody types: questions without a second mean now.
        waiting: (second, question), those that are asked later.
        ended: nothing more will come.
        quit: somebody said so.
    """

    by_hand: bool
    waiting: list[tuple[float, str]] = field(default_factory=list)
    ended: bool = False
    quit: bool = False
    _lines: "queue.Queue[str | None]" = field(default_factory=queue.Queue)

    def listen(self, source: TextIO) -> None:
        """Read lines beside the film, until there are no more."""

        def read() -> None:
            for line in source:
                self._lines.put(line)
            self._lines.put(None)

        threading.Thread(target=read, daemon=True).start()

    def due(self, second: float) -> list[str]:
        """The questions whose time has come; `EVER` asks for all."""
        while not self._lines.empty():
            self._take(self._lines.get(), second)
        found = [text for at, text in self.waiting if at <= second]
        self.waiting = [one for one in self.waiting if one[0] > second]
        return found

    def next(self) -> str | None:
        """Wait for one more question; None when there will be none."""
        while not self.ended and not self.quit and not self.waiting:
            self._take(self._lines.get(), EVER)
        return self.waiting.pop(0)[1] if self.waiting and not self.quit else None

    def _take(self, line: str | None, second: float) -> None:
        text = "" if line is None else line.strip()
        self.ended |= line is None
        if text == QUIT:
            self.quit = True
        elif timed := _TIMED.fullmatch(text):
            self.waiting.append((float(timed[1]), timed[2]))
        elif text:
            self.waiting.append((second if self.by_hand else EVER, text))


def stream_main(args: argparse.Namespace, source: TextIO | None = None) -> int:
    """Run `vlmcourse chat --stream` with its parsed arguments.

    Raises:
        UserError: a system without a stream, a bad file or folder.
    """
    from vlmcourse.conversation import checked_question
    from vlmcourse.devices import chosen_device
    from vlmcourse.systems.ma_lmm import MaLmm
    from vlmcourse.systems.ma_lmm_stream import Stream
    from vlmcourse.trained import quiet_libraries

    path, standing = Path(args.words[0]), [checked_question(text) for text in args.words[1:]]
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    quiet_libraries()
    device = chosen_device(args.device)
    model = open_model(args.system, args.preset, args.weights, device, args.foundations)
    if not isinstance(model, MaLmm):
        raise UserError(f"{args.system} does not watch streams; ma_lmm does")
    source = sys.stdin if source is None else source
    questions = Questions(by_hand=source.isatty())
    if not standing or questions.by_hand or args.every is not None:
        questions.listen(source)
    else:
        questions.ended = True
    settings = {"max_new_tokens": args.max_new_tokens} if args.max_new_tokens else {}
    apart_s = args.every_frame or model.config.seconds_apart or 1.0
    run(Stream(model, standing), path, questions, apart_s, args.every, settings)
    return 0


def run(
    stream: "Stream",
    path: Path,
    questions: Questions,
    apart_s: float,
    every_s: float | None = None,
    settings: dict | None = None,
) -> None:
    """Let a film pass and answer: what is asked now, and standing questions at the end and every
    `every_s` seconds."""
    from vlmcourse.conversation import checked_question

    settings, told_s = settings or {}, 0.0
    told = "ask at any time" if questions.by_hand else "@SECOND QUESTION asks at a second"
    _note(f"{told}; {QUIT} ends")

    def now_s() -> float:
        return max(stream.frames_seen - 1, 0) * apart_s

    def answer(texts: Sequence[str]) -> None:
        for text in texts:
            try:
                said = stream.ask(checked_question(text), **settings)
            except UserError as error:
                sys.stderr.write(f"error: {error}\n")
                continue
            sys.stdout.write(f"[{now_s():g} s] {text} {said}\n")
            sys.stdout.flush()

    for _, frame in _moments(path, apart_s, questions, lambda: answer(questions.due(now_s()))):
        stream.see(frame)
        answer(questions.due(now_s()))
        if every_s is not None and now_s() - told_s >= every_s:
            answer(stream.questions)
            told_s = now_s()
        if questions.quit:
            break
    kib = stream.memory_bytes() / 1024
    _note(f"{stream.frames_seen} frames have passed; kept of them: {kib:.0f} KiB")
    if questions.quit:
        return
    answer(stream.questions)
    answer(questions.due(EVER))
    while (text := questions.next()) is not None:
        answer([text])


def _moments(
    path: Path, apart_s: float, questions: Questions, idle: Callable[[], None]
) -> "Iterator[Moment]":
    from vlmcourse.media.passing import arriving_pictures, passing_frames

    if not path.is_dir():
        return passing_frames(path, apart_s)

    def ended() -> bool:
        idle()
        return questions.quit or questions.ended

    return arriving_pictures(path, apart_s, ended)


def _note(text: str) -> None:
    sys.stderr.write(f"note: {text}\n")


def add_stream_options(parser: argparse.ArgumentParser) -> None:
    """The options of `vlmcourse chat` that belong to streams."""
    group = parser.add_argument_group("streams (ma_lmm)")
    group.add_argument("--stream", action="store_true", help="let the film pass by: a file of any "
                       "length, or a folder of pictures that may grow. Questions behind it stand "
                       "from the beginning; others may be typed at any time, or piped as "
                       "`@SECOND QUESTION`")  # fmt: skip
    group.add_argument("--every", type=float, metavar="S", help="answer standing questions every S "
                       "seconds, too")  # fmt: skip
    group.add_argument("--every-frame", type=float, metavar="S", help="seconds from frame to frame "
                       "(default: the system's, 1)")  # fmt: skip
