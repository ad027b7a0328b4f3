"""The command `python -m vlmcourse.reference [FOLDER ...]`."""

import sys

from vlmcourse.reference.runner import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
