"""`vlmcourse evaluate`: trained runs of a system against controls, on a split's questions."""

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from tqdm import tqdm

from vlmcourse.errors import UserError
from vlmcourse.records import Run
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.trained import TrainedSystem, load_trained_system

log = logging.getLogger(__name__)

CONTROL_NAMES = ("majority", "blind", "other_clip", "one_frame", "shuffled", "oracle_text")
FEWEST_RUNS, FEWEST_CLIPS = 3, 300
"""Below these a number is for a look, not for a claim."""


def main(argv: list[str] | None = None) -> int:
    """Run `vlmcourse evaluate`; prints a Markdown table and writes a record if asked to."""
    args = _parser().parse_args(argv)
    from vlmcourse.evaluation.scoring import probe_table
    from vlmcourse.training.data import located

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    args.split = located(args.split)
    record = evaluate(args, ["vlmcourse", "evaluate", *(argv or [])])
    tqdm.write(probe_table(record, args.kinds))
    tqdm.write(record["note"])
    if args.record:
        tqdm.write(f"record: {args.record}")
    return 0


def evaluate(args: argparse.Namespace, command: Sequence[str]) -> dict:
    """Ask, score, and return the record (written to `args.record` if that is a path).

    Raises:
        UserError: runs, split or foundations that cannot be used.
    """
    import torch

    from vlmcourse.evaluation.probes import CONTROLS, SYSTEM, ask_all, load_probes
    from vlmcourse.evaluation.scoring import score
    from vlmcourse.training.data import located
    from vlmcourse.training.runner import chosen_device
    from vlmcourse.world.dataset import load_split

    torch.set_num_threads(args.threads)
    device = chosen_device(args.device)
    split = load_split(args.split)
    conditions = [SYSTEM, *(name for control in args.controls for name in CONTROLS[control])]
    fitted = []
    if "majority" in args.controls:
        train = located(args.train or split.folder.parent / "train")
        fitted = [question for asked in load_split(train).questions for question in asked]
    first = _load(args.system, args.runs[0], device)
    probes = load_probes(split, first.model, args.system, located(args.cache), args.clips)
    runs = [first]
    steps = sum(name in PER_RUN for name in conditions) * len(args.runs)
    settings = {
        "system": args.system,
        "conditions": conditions,
        "split": str(args.split),
        "clips": len(probes.ids),
        "permutations": args.permutations,
        "runs": [str(path) for path in args.runs],
        "intervals": "95 %, bootstrap over clips and runs, crossed",
        "questions": _counts(probes.questions),
    }
    measured = Run(
        args.record or Path("probes.json"), list(command), settings, [], split.data_checksum
    )
    with measured if args.record else _unwritten(measured), tqdm(total=steps, unit="pass") as bar:

        def models() -> Iterator[VideoLanguageModel]:
            yield first.model
            for path in args.runs[1:]:
                runs.append(_load(args.system, path, device))
                yield runs[-1].model

        def report(text: str) -> None:
            bar.set_description(text)
            bar.update("run" in text)

        answers = ask_all(models(), probes, conditions, fitted, args.permutations, report)
        measured.metrics = score(answers, probes.questions, probes.clip_of)
        measured.seeds = [run.seed for run in runs if run.seed is not None]
        measured.settings["weights"] = [f"{run.stage} {run.settings_hash}" for run in runs]
        measured.note, measured.status = _note(measured.metrics, len(runs), len(probes.ids))
    return measured.record()
