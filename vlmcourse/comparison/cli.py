"""`vlmcourse table`: the comparison of the seven systems, rendered from facts and records."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from vlmcourse.comparison.table import FOLDER, PAIRS, SIZES, SPEEDS, load
from vlmcourse.errors import UserError

Report = Callable[[str], None]


def main(argv: list[str] | None = None) -> int:
    """Render the comparison, or measure what it lacks."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(argv)
    if args.measure:
        return _measure(args, ["vlmcourse", "table", *argv])
    from vlmcourse.comparison import frames, markdown, page

    comparison = load(args.experiments)
    if args.html:
        args.html.parent.mkdir(parents=True, exist_ok=True)
        args.html.write_text(page.render(comparison), encoding="utf-8")
        tqdm.write(f"page: {args.html}")
    if args.json:
        text = json.dumps(frames.as_data(comparison), indent=1, ensure_ascii=False)
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text + "\n", encoding="utf-8")
        tqdm.write(f"data: {args.json}")
    if args.markdown or not (args.html or args.json):
        tqdm.write(markdown.everything(comparison))
    return 0


def _measure(args: argparse.Namespace, command: Sequence[str]) -> int:
    """Count sizes, measure speeds or pair answers, and write the record."""
    import torch

    from vlmcourse.comparison.facts import read_facts
    from vlmcourse.trained import quiet_libraries

    quiet_libraries()
    torch.set_num_threads(1)
    systems = list(read_facts(args.experiments / FOLDER).systems.values())
    name, measure = {
        "sizes": (SIZES, _sizes),
        "speeds": (SPEEDS, _speeds),
        "pairs": (PAIRS, _pairs),
    }[args.measure]
    path = args.record or args.experiments / FOLDER / "records" / f"{name}.json"
    with tqdm(bar_format="{desc} [{elapsed}]", file=sys.stderr) as bar:
        measure(args, systems, path, list(command), bar.set_description)
    tqdm.write(f"record: {path}")
    return 0


def _sizes(args, systems: list, path: Path, command: list[str], report: Report) -> None:
    from vlmcourse.comparison import sizes
    from vlmcourse.records import Run

    settings = {
        "films_s": list(sizes.FILMS_S), "width": sizes.WIDTH, "height": sizes.HEIGHT,
        "fps": sizes.FPS,
        "sizes": {s.key: [one.name for one in s.sizes] for s in systems},
    }  # fmt: skip
    with Run(path, command, settings) as run:
        run.metrics = sizes.measure(systems, report)
        run.note = "Counted on the meta device and on grey films; nothing was trained."


def _speeds(args, systems: list, path: Path, command: list[str], report: Report) -> None:
    from vlmcourse.comparison import speeds
    from vlmcourse.records import Run

    if not args.split.is_dir():
        raise UserError(f"{args.split}: no such folder; `vlmcourse world` makes the clips")
    settings = {"split": str(args.split), "clips": args.clips, "questions": speeds.QUESTIONS}
    with Run(path, command, settings) as run:
        run.metrics, run.data_checksum, told = speeds.measure(
            systems, args.split, args.clips, report=report
        )
        run.settings["weights"] = told
        run.note = "Processor time on one thread, shipped weights, systems in turns."


def _pairs(args, systems: list, path: Path, command: list[str], report: Report) -> None:
    from vlmcourse.comparison import pairs
    from vlmcourse.records import Run

    found = pairs.read_contenders(args.experiments / FOLDER / pairs.ANSWERS, systems)
    seeds = sorted({seed for one in found for seed in one.answers.seeds})
    checksum = found[0].answers.data_checksum
    with Run(path, command, pairs.settings_of(found), seeds, checksum) as run:
        run.metrics, run.note = pairs.measure(found, report)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlmcourse table",
        description="Render the comparison of the systems from experiments/comparison/*.yaml and "
        "the records of all experiments: as Markdown, as one page to sort and filter, as JSON.",
        epilog="example: vlmcourse table --html runs/comparison.html",
    )
    add = parser.add_argument
    add("--markdown", action="store_true", help="print Markdown (also without any option)")
    add("--html", type=Path, metavar="FILE", help="write one self-contained page")
    add("--json", type=Path, metavar="FILE", help="write everything as JSON")
    add(
        "--measure",
        choices=("sizes", "speeds", "pairs"),
        help="write the record of parameters and tokens at the published sizes (a minute), of "
        "answers a second in the small world (half a minute), or of the differences between all "
        "pairs of systems (half a minute; reads comparison/answers)",
    )
    add("--record", type=Path, help="where the record of --measure goes")
    add("--split", type=Path, default=Path("data/world/test"), help="clips for --measure speeds")
    add("--clips", type=int, default=64, help="how many of them (default: %(default)s)")
    add(
        "--experiments",
        type=Path,
        default=Path("experiments"),
        help="folder of facts and records (default: %(default)s)",
    )
    return parser
