"""``python -m skpert`` is the command ``skpert``."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
