"""`vlmcourse sweep` in a process of its own, with cells that take no time (fake_cells.py)."""

import signal
import sys
from pathlib import Path

from vlmcourse import cli
from vlmcourse.sweep import cells
from vlmcourse.sweep import cli as sweep

if __name__ == "__main__":
    # A process inherits it when Control-C is ignored, as Lightning leaves it after a stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cells.PROGRAM = (sys.executable, str(Path(__file__).with_name("fake_cells.py")))
    sweep.write_up = lambda places, command: sys.stdout.write("the report\n")
    sweep.write_look = lambda places, command: sys.stdout.write("what there is\n")
    sys.exit(cli.main(["sweep", *sys.argv[1:]]))
