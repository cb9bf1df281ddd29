"""Run the command line as `python -m tdbench`."""

import sys

from tdbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
