"""`tdbench report`: what came out, as a page that a person reads."""

from pathlib import Path
from typing import Annotated

import typer

from tdbench.cli import options

Folders = Annotated[
    list[Path], typer.Argument(metavar="DIR...", help="Folders of runs, sweeps, searches and profiles.")
]
Page = Annotated[
    Path,
    typer.Option("--out", metavar="FILE.html", help="The page; its tables go beside it."),
]


def report_command(folders: Folders, out: Page = Path("report.html"), quiet: options.Quiet = False) -> None:
    """Write runs, sweeps, searches and profiles as one HTML page that needs nothing else.

    The verdict first, then every figure behind it; the tables as CSV, Markdown and LaTeX in a folder beside the page.
    """
    from tdbench.cli.output import say
    from tdbench.report.command import write_report

    page = write_report(folders, out)
    say(str(page) if quiet else f"{page}, and its tables in {page.with_name(f'{page.stem}_tables')}")
