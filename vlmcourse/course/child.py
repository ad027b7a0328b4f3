"""A process of the course: a ``vlmcourse`` command, or a chapter. It ends when the course is gone.

python -m vlmcourse.course.child train --system video_chatgpt
python -m vlmcourse.course.child --chapter '{"source": "notebooks/00_start_here.ipynb", ...}'
"""

import json
import sys
from pathlib import Path

from vlmcourse import records
from vlmcourse.course.chapter import run_chapter
from vlmcourse.processes import leave_with_parent


def main(argv: list[str]) -> int:
    """Run what the words say; the exit code of the command, or 1 for a chapter that failed."""
    leave_with_parent()
    if argv[0] != "--chapter":
        from vlmcourse import cli

        return cli.main(argv)
    told = json.loads(argv[1])
    result = Path(told.pop("result"))
    done = run_chapter(Path(told.pop("source")), Path(told.pop("output")), **told)
    records.write_json(result, done)
    return 1 if done["error"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
