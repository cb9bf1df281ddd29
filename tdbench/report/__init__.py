"""`report`: runs, sweeps, searches and profiles as one HTML page that needs nothing else, and the tables behind it."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def report(*folders: str | Path, out: str | Path = "report.html") -> Path:
    """Write runs, sweeps, searches and profiles as one HTML page that needs nothing else, and its tables beside it.

    Args:
        *folders: Of runs, sweeps, searches and profiles, finished or not.
        out: The page; its tables go to a folder beside it, `report_tables/` for `report.html`.

    Returns:
        Where the page is.

    Raises:
        FolderError: A folder is none of tdbench's, or a table in it is damaged; or `out` is a file of another's.
        TdbenchError: Nothing in the folders is finished.
    """
    from tdbench.report.command import write_report

    return write_report(folders, out)


class _CallableModule(ModuleType):
    """A callable module, since package and function share the name `tdbench.report`."""

    def __call__(self, *folders: Any, **options: Any) -> Path:
        return report(*folders, **options)


sys.modules[__name__].__class__ = _CallableModule
