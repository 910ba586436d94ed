"""Run the command line as ``python -m tv_mixaug``."""

import sys

from tv_mixaug.cli.main import main

if __name__ == "__main__":  # spawned workers import this module too
    sys.exit(main())
