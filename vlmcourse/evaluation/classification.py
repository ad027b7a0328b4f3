"""`vlmcourse classify`: LVU, Breakfast, COIN and short answers, scored by exact match as MA-LMM is.

A model says what it sees, in words and without a list of classes; the five best beams are kept. The
first has to equal the label (top 1), or any of the five (top 5). Each window of a long film is a
sample of its own, so long films weigh more.

Official: boheumd/MA-LMM@ffe9fa9:lavis/tasks/classification.py, vqa.py.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from vlmcourse.errors import UserError
from vlmcourse.intervals import metric
from vlmcourse.media.errors import MediaError
from vlmcourse.records import Run, write_json

if TYPE_CHECKING:
    from vlmcourse.systems.base import VideoLanguageModel
    from vlmcourse.training.labelled_sets import LabelledClip, LabelledSet

SHOWN = 8
BEAMS = 5
GENERATION = {
    "lvu": {"max_new_tokens": 4},
    "breakfast": {"max_new_tokens": 19},
    "coin": {"max_new_tokens": 19},
    "qa": {"max_new_tokens": 9, "length_penalty": 0.0},
    "captions": {"max_new_tokens": 49},
    "youcook2": {"max_new_tokens": 29},
}
"""By the form of the annotations; the official lengths count a begin token more."""
CAPTIONS = ("captions", "youcook2")
"""Forms whose answers are no labels."""

Predictions = list[dict[str, Any]]
"""`{"image_id": of the sample, "caption": [answers, the best first]}` each, as the official code
writes them."""


# ---------------------------------------------------------------- scoring


@dataclass(frozen=True)
class Score:
    """How often predictions are the label.

    Attributes:
        ids: of the samples that are scored.
        top1, top5: bool each.
        missing: samples without a prediction, which are not scored.
    """

    ids: list[str]
    top1: list[bool]
    top5: list[bool]
    missing: list[str]

    def percent(self) -> dict[str, float]:
        """`{"top1", "top5"}` of 100."""
        count = len(self.ids)
        return {n: 100 * sum(getattr(self, n)) / count for n in ("top1", "top5")}


def score(
    predictions: Sequence[Mapping[str, Any]],
    labels: Mapping[str, str],
    first_word: bool = False,
) -> Score:
    """Compare predictions with labels, letter by letter.

    Args:
        labels: label by sample.
        first_word: take only the first word of an answer (MSVD-QA, MSRVTT-QA).

    Raises:
        UserError: a prediction of no known sample, two of the same, one in another form, or none.
    """
    said: dict[str, list[str]] = {}
    for number, one in enumerate(predictions):
        try:
            name, answers = str(one["image_id"]), one["caption"]
            answers = [answers] if isinstance(answers, str) else [str(text) for text in answers]
        except (KeyError, TypeError) as error:
            raise UserError(f"prediction {number}: no image_id with a caption") from error
        if name not in labels or name in said or not answers:
            why = (
                "is of no sample" if name not in labels else "stands twice" if answers else "empty"
            )
            raise UserError(f"prediction {number} ({name}): {why}")
        said[name] = [_plain(text, first_word) for text in answers]
    if not said:
        raise UserError("no predictions")
    ids = [name for name in labels if name in said]
    return Score(
        ids,
        [said[name][0] == labels[name] for name in ids],
        [labels[name] in said[name][:BEAMS] for name in ids],
        [name for name in labels if name not in said],
    )


def _plain(text: str, first_word: bool) -> str:
    return text.strip().split(" ")[0] if first_word else text.strip()


def read_predictions(path: str | Path) -> Predictions:
    """Read a list of predictions. Raises UserError."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(found, list):
        raise UserError(f"{path}: no list of predictions")
    return found


# ---------------------------------------------------------------- predicting


def predict(
    model: "VideoLanguageModel",
    labelled: "LabelledSet",
    folder: str | Path,
    progress: bool = True,
    **settings: Any,
) -> tuple[Predictions, dict[str, str]]:
    """Ask a model about every sample whose video is there.

    Args:
        labelled: from `read_labelled`.
        folder: of the videos, files or folders of pictures.
        settings: of generation, instead of those of `GENERATION`.

    Returns:
        predictions, and the reason for every video that could not be used.

    Raises:
        UserError: none of them can be used.
    """
    from vlmcourse.training.labelled_sets import find_videos

    name = labelled.form.split("/")[0]
    beams = 1 if name in CAPTIONS else BEAMS
    told = {"num_beams": BEAMS, "num_return_sequences": beams, **GENERATION[name], **settings}
    found, absent = find_videos(labelled.clips, folder)
    lost = dict.fromkeys(absent, "not there")
    clips = [clip for clip in labelled.clips if clip.video in found]
    bar = tqdm(clips, desc="asked", unit="sample", disable=not progress)
    made = list(_answers(model, bar, found, lost, told))
    if not made:
        some = "; ".join(f"{n} ({why})" for n, why in list(lost.items())[:SHOWN])
        raise UserError(f"{folder}: none of {len(lost)} videos can be used: {some}")
    return made, lost


def _answers(
    model: "VideoLanguageModel",
    clips: Sequence["LabelledClip"],
    found: Mapping[str, Path],
    lost: dict[str, str],
    settings: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    from vlmcourse.training.labelled_sets import path_of

    for clip in clips:
        if clip.video in lost:
            continue
        try:
            watched = model.watch(path_of(clip, found))
        except MediaError as error:
            lost[clip.video] = error.reason
            continue
        question = clip.question or model.processor.config.caption_prompt
        answers = model.answer(watched, [question], **settings)
        yield {"caption": answers, "image_id": clip.id}


# ---------------------------------------------------------------- the command


def main(argv: list[str] | None = None) -> int:
    """Run `vlmcourse classify`: writes predictions and a record, and prints the score."""
    from vlmcourse.training.labelled_sets import read_labelled

    argv = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if (args.score is None) == (args.videos is None):
        raise UserError("say either --videos DIR, to ask a model, or --score FILE")
    labelled = read_labelled(args.annotation, args.form)
    scored = args.form not in CAPTIONS
    if args.score is not None and not scored:
        raise UserError(f"{args.form} are no labels: nothing here scores captions")
    labels = {clip.id: clip.answer for clip in labelled.clips}
    settings = {"form": args.form, "annotation": str(args.annotation), "samples": len(labels),
                "left_out": len(labelled.left_out)}  # fmt: skip
    path = args.record or Path(f"runs/classification/{args.form.replace('/', '-')}.json")
    lost: dict[str, str] = {}
    with Run(path, ["vlmcourse", "classify", *argv], settings) as run:
        if args.score is not None:
            predictions = read_predictions(args.score)
        else:
            predictions, lost = predict(_opened(args), labelled, args.videos)
            output = args.predictions or path.with_suffix(".predictions.json")
            write_json(output, predictions)
            run.settings["missing_videos"] = lost
            tqdm.write(f"predictions: {output}")
        if scored:
            found = score(predictions, labels, args.first_word)
            videos = {clip.id: clip.video for clip in labelled.clips}
            groups = [videos[name] for name in found.ids]
            for name in ("top1", "top5"):
                run.metrics[name] = metric(getattr(found, name), "share", groups=groups)
            run.note = _told(found)
    for line in _lost_lines(lost, labelled):
        tqdm.write(line)
    tqdm.write(f"{run.note}\nrecord: {path}" if scored else f"record: {path}")
    return 0


def _told(found: Score) -> str:
    percent = found.percent()
    text = (
        f"top 1 {percent['top1']:.1f} %, top 5 {percent['top5']:.1f} % of {len(found.ids)} samples"
    )
    if found.missing:
        text += f"; {len(found.missing)} without a prediction are not scored"
    return text


def _lost_lines(lost: Mapping[str, str], labelled: "LabelledSet") -> Iterator[str]:
    if lost:
        count = sum(clip.video in lost for clip in labelled.clips)
        yield f"{len(lost)} videos of {count} samples could not be used:"
        yield from (f"  {name}: {why}" for name, why in lost.items())


def _opened(args: argparse.Namespace) -> "VideoLanguageModel":
    from vlmcourse.chat_files import open_model
    from vlmcourse.devices import chosen_device
    from vlmcourse.trained import quiet_libraries

    quiet_libraries()
    return open_model(args.system, args.preset, args.weights, chosen_device(args.device))


def _parser() -> argparse.ArgumentParser:
    from vlmcourse.training.labelled_sets import FORMS

    parser = argparse.ArgumentParser(
        prog="vlmcourse classify",
        description="Ask a system about the videos of LVU, Breakfast, COIN or a set of short "
        "answers and count exact matches; or score a file of predictions.",
        epilog="examples: vlmcourse classify --form lvu/scene --annotation lvu/test.json --videos "
        "lvu/videos --preset paper --weights DIR;  vlmcourse classify --form lvu/scene "
        "--annotation lvu/test.json --score predictions.json",
    )
    add = parser.add_argument
    add("--form", required=True, metavar="FORM", choices=FORMS, help=", ".join(FORMS))
    add("--annotation", required=True, type=Path, metavar="FILE", help="the annotation file")
    add("--videos", type=Path, metavar="DIR", help="videos by their names in the annotations: "
        "files, or folders of pictures, ten a second")  # fmt: skip
    add("--score", type=Path, metavar="FILE", help="score these predictions instead")
    add("--first-word", action="store_true", help="compare the first word of an answer only, as is "
        "done for MSVD-QA and MSRVTT-QA")  # fmt: skip
    add("--system", default="ma_lmm", help="default: %(default)s")
    add("--preset", choices=("world", "paper"), default="world", help="default: %(default)s")
    add("--weights", type=Path, metavar="DIR", help="a run, or the folder of official files")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--predictions", type=Path, metavar="FILE", help="where predictions go (default: beside "
        "the record)")  # fmt: skip
    add("--record", type=Path, metavar="FILE", help="default: runs/classification/FORM.json")
    return parser
