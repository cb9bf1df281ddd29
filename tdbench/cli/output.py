"""One line to the user, from every command: apart from `terminal`, which costs a tenth of a second to import."""

import os
import sys

from tdbench.errors import plain


def say(text: str) -> None:
    """Print a line; where the reader of a pipe has gone, fall silent and let the run go on."""
    try:
        print(plain(text), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
