"""Tables as a report reads them, rows of text; what is wrong with one is told with its line."""

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tdbench.errors import FolderError
from tdbench.store.files import read_file

Row = Mapping[str, str]
WHOLE = ("n", "seed", "batch_size", "promised_n", "kept_n")  # columns of whole numbers, wherever they stand


def read_rows(path: Path, needed: Collection[str] = ()) -> list[Row]:
    """Return the rows of a table.

    Args:
        path: The CSV file.
        needed: Columns without which it is not the table that it should be.

    Raises:
        FolderError: It is missing, cut short or not that table.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_file(path).decode("utf-8-sig"), newline=""))
        rows: list[Row] = list(reader)
    except FileNotFoundError:
        raise FolderError(f"{path} is missing: no table has been written there yet") from None
    except (OSError, ValueError, csv.Error) as error:
        raise FolderError(f"{path} cannot be read: {error}") from error
    if lacking := [name for name in needed if name not in (reader.fieldnames or ())]:
        raise FolderError(f"{path} is not the table that it should be: it lacks {some_of(lacking)}")
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise FolderError(f"{path}, line {line}: it has more or fewer cells than the header")
    return rows


def some_of(names: Sequence[str]) -> str:
    """Return names in a line, of many the first and how many more there are."""
    most = 4
    return ", ".join(names[:most]) + f" and {len(names) - most} more" * (len(names) > most)


def check_numbers(path: Path, rows: Sequence[Row], text: Collection[str]) -> None:
    """Check that a cell holds a number or nothing, and of what is counted a whole one.

    Args:
        path: Of the table, for the message.
        rows: Its rows.
        text: The columns that hold text.

    Raises:
        FolderError: One does not; a table that was edited by hand is the likely reason.
    """
    for line, row in enumerate(rows, 2):
        for name, cell in row.items():
            if name in WHOLE and cell and not (cell.isascii() and cell.isdigit()):
                raise FolderError(f"{path}, line {line}: {name} is no whole number: {cell!r}")
            if cell and name not in text and math.isnan(number(cell)):
                raise FolderError(f"{path}, line {line}: {name} is no number: {cell!r}")


def number(text: str | None) -> float:
    """Return a figure of a table; NaN where there is none."""
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan
