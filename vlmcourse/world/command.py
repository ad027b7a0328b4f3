"""The command `vlmcourse world`: films by default, or pictures, or texts."""

import argparse
import logging
import re
from pathlib import Path

from tqdm import tqdm

from vlmcourse.errors import UserError
from vlmcourse.world.dataset import PictureSettings, SplitSettings, make_split
from vlmcourse.world.pictures import MANY_SIZES
from vlmcourse.world.splits import SPLITS
from vlmcourse.world.story import StorySettings
from vlmcourse.world.texts import COUNTS, make_texts
from vlmcourse.world.words import SECONDS

ROOTS = {
    "films": Path("data/world"),
    "live sound": Path("data/world_live"),
    "durations": Path("data/world_lengths"),
    "scenes": Path("data/world_scenes"),
    "sizes": Path("data/world_shapes"),
    "pictures": Path("data/world_pictures"),
    "texts": Path("data/world_texts"),
}
log = logging.getLogger(__name__)

OF_FILMS = ("duration", "durations", "scenes", "fps", "crf", "no_sound", "live_sound")
SCENES_S = 24
"""Length of films of several scenes, if none is asked for."""


def main(argv: list[str] | None = None) -> int:
    """Run `vlmcourse world`."""
    args = _parser().parse_args(argv)
    splits = SPLITS if args.split == "all" else (args.split,)
    if args.texts:
        _refuse(args, "--texts", (*OF_FILMS, "size", "sizes", "workers"))
        return _texts(args, splits)
    if args.pictures:
        _refuse(args, "--pictures", OF_FILMS)
        settings, what = _picture_settings(args), "pictures"
    else:
        _refuse(args, "films: give --pictures too", ("sizes",))
        settings, what = _film_settings(args), "clips"
    for split in splits:
        made = make_split(_root(args), split, args.count, settings, args.workers, args.force)
        asked = sum(map(len, made.questions))
        _tell(made.folder, f"{len(made)} {what}, {asked} questions", made)
    return 0


def _texts(args, splits) -> int:
    for split in splits:
        made = make_texts(_root(args), split, args.count, force=args.force)
        told = f"{made.manifest['count']} descriptions, {len(made.entries)} questions"
        _tell(made.path.parent, told, made)
    return 0


def _tell(folder: Path, what: str, made) -> None:
    size = f"{made.manifest['bytes'] / 1e6:.1f} MB"
    tqdm.write(f"{folder}: {what}, {size}, data checksum {made.data_checksum[:12]}")


def _root(args) -> Path:
    """Return the folder that was asked for, or the one of this kind of data."""
    kinds = [kind for kind in ROOTS if getattr(args, kind.replace(" ", "_"), None)]
    return args.root or ROOTS[kinds[0] if kinds else "films"]


def _refuse(args, kind: str, names: tuple[str, ...]) -> None:
    """Raise a UserError if an option was given that means nothing for this kind of data."""
    given = [f"--{name.replace('_', '-')}" for name in names if _is_given(getattr(args, name))]
    if given:
        raise UserError(f"{', '.join(given)} cannot be had with {kind}")


def _is_given(value) -> bool:
    return value is not None and value is not False


def _film_settings(args) -> SplitSettings:
    """Read the options of films; those that were not given have the defaults of the settings."""
    durations = _durations(args)
    if max(durations) > SECONDS:
        log.warning(
            "the small world's language model has no words for seconds from %d on; "
            "nothing is asked that needs them",
            SECONDS,
        )
    given = {"fps": args.fps, "crf": args.crf, **_size(args)}
    return SplitSettings(
        story=StorySettings.of_length(
            durations if len(durations) > 1 else durations[0], args.live_sound
        ),
        sound=not args.no_sound,
        scenes=_scenes(args.scenes),
        **{name: value for name, value in given.items() if value is not None},
    )


def _durations(args) -> tuple[int, ...]:
    if args.durations is None:
        default = SCENES_S if args.scenes else StorySettings.duration_s
        return (default if args.duration is None else args.duration,)
    if args.duration is not None:
        raise UserError("--duration and --durations exclude each other")
    parts = args.durations.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UserError(f"--durations must look like 4,6,8 (seconds), not {args.durations!r}")
    return tuple(sorted({int(part) for part in parts}))


def _scenes(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--scenes must look like 1,2,4 (numbers of scenes), not {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def _picture_settings(args) -> PictureSettings:
    if args.sizes is None:
        return PictureSettings(**_size(args))
    if args.size is not None:
        raise UserError("--size and --sizes exclude each other")
    parts = [_width_and_height(part.strip()) for part in args.sizes.split(",")]
    if None in parts:
        raise UserError(f"--sizes must look like 64x64,128x48 (width x height), not {args.sizes!r}")
    story = StorySettings(mark_probability=1.0)  # a digit is what only enough pixels tell
    return PictureSettings(story, sizes=tuple(dict.fromkeys(parts)))


def _size(args) -> dict[str, int]:
    if args.size is None:
        return {}
    size = _width_and_height(args.size)
    if size is None:
        raise UserError(f"--size must look like 64x64 (width x height), not {args.size!r}")
    return {"width": size[0], "height": size[1]}


def _width_and_height(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    return match and (int(match[1]), int(match[2]))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlmcourse world",
        description="Write the procedural video world as mp4 and srt files with questions, or "
        "pictures of it, or texts without media. "
        "What is there is checked and reused; a killed run goes on where it stopped.",
        epilog="example: vlmcourse world --split val --count 50 --duration 60 --size 96x54 "
        "--root data/world_long",
    )
    counts = (SplitSettings.counts, PictureSettings.counts, COUNTS)
    films, pictures, texts = map(_counts, counts)
    add = parser.add_argument
    kind = parser.add_mutually_exclusive_group().add_argument
    kind("--pictures", action="store_true", help="write pictures (PNG), one moment of a story each")
    kind("--texts", action="store_true", help="write descriptions with questions, without media")
    add("--split", choices=(*SPLITS, "all"), default="all")
    add(
        "--count",
        type=int,
        help=f"of each split (clips: {films}; pictures: {pictures}; descriptions: {texts})",
    )
    add("--duration", type=int, help="seconds, 4 to 600 (default: 8)")
    add("--durations", help="such as 4,6,8: every clip lasts one of them, drawn by its seed")
    add("--scenes", help="such as 1,2,4: films of so many scenes in turn, with hard cuts between "
        f"them (of {SCENES_S} seconds, if no --duration is given)")  # fmt: skip
    add("--size", help="width x height (default: 64x64, pictures 96x96); of films, even numbers")
    many = ",".join(f"{width}x{height}" for width, height in MANY_SIZES)
    add("--sizes", nargs="?", const=many, metavar="LIST", help="of pictures: each has one of them, "
        f"drawn by its seed (without a list: {many})")  # fmt: skip
    add("--fps", type=float, help=f"frames a second (default: {SplitSettings.fps})")
    add("--crf", type=int, help=f"H.264 quality, 0 is lossless (default: {SplitSettings.crf})")
    add("--no-sound", action="store_true", help="write no sound track")
    add("--live-sound", action="store_true", help="every event makes the sound of its action")
    roots = ", ".join(f"{kind}: {root}" for kind, root in ROOTS.items())
    add("--root", type=Path, help=f"folder (default, {roots})")
    add("--workers", type=int, help="processes (default: one per core)")
    add("--force", action="store_true", help="throw away what is there and make it anew")
    return parser
