"""A table of a report, as HTML, CSV, Markdown and LaTeX (booktabs)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tabulate import tabulate

from tdbench.store.files import to_csv, write_if_new

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    sign: f"\\{sign}" for sign in "&%$#_{}"
}
_MATHS = {"−": "$-$", "±": r"$\pm$", "≥": r"$\geq$", "≤": r"$\leq$", "—": "---", "γ": r"$\gamma$", "ρ": r"$\rho$"}
_MATHS |= {"×": r"$\times$", "–": "--", "α": r"$\alpha$", "µ": r"$\mu$"}


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        name: What its files are called.
        caption: What it holds, with n.
        headings: Of its columns.
        rows: Their cells.
        raw: The figures behind it, for the CSV; none: the cells themselves.
    """

    name: str
    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    raw: Sequence[Mapping[str, str]] = field(default_factory=list)

    def sort_keys(self) -> list[list[str]]:
        """Return for each cell what it is sorted by: the first number in it, or its text."""
        return [[sort_key(cell) for cell in row] for row in self.rows]

    def text_columns(self) -> list[bool]:
        """Return for each column whether it holds text: it is the first, or no cell of it begins with a number."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.headings)
        return [place == 0 or not any(map(leading_number, column)) for place, column in enumerate(columns)]

    def markdown(self) -> str:
        """Return the table as Markdown."""
        escaped = [[cell.replace("|", "\\|") for cell in row] for row in self.rows]
        shown = tabulate(escaped, headers=list(self.headings), tablefmt="pipe", disable_numparse=True)
        return f"{shown}\n\n{self.caption}\n"

    def latex(self) -> str:
        """Return the table in LaTeX, for booktabs; one wider than the page is scaled to it."""
        lines = [" & ".join(map(latex_text, row)) + r" \\" for row in self.rows]
        head = " & ".join(map(latex_text, self.headings)) + r" \\"
        columns = "".join("l" if is_text else "r" for is_text in self.text_columns())
        body = "\n".join([r"\toprule", head, r"\midrule", *lines, r"\bottomrule"])
        return "\n".join(
            [
                r"% \usepackage{booktabs,graphicx}",
                r"\begin{table}\centering",
                f"\\caption{{{latex_text(self.caption)}}}",
                f"\\label{{tab:{self.name}}}",
                r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
                f"\\begin{{tabular}}{{{columns}}}",
                body,
                r"\end{tabular}}",
                r"\end{table}",
                "",
            ]
        )

    def write(self, folder: Path) -> None:
        """Write the table in all three forms.

        Raises:
            FolderError: A file cannot be written.
        """
        rows = list(self.raw) or [dict(zip(self.headings, row, strict=True)) for row in self.rows]
        header = [*rows[0]] if rows else list(self.headings)
        write_if_new(folder / f"{self.name}.csv", to_csv(rows, header).encode())
        write_if_new(folder / f"{self.name}.md", self.markdown().encode())
        write_if_new(folder / f"{self.name}.tex", self.latex().encode())


def sort_key(cell: str) -> str:
    """Return what a cell is sorted by: the number that it begins with, or its text."""
    return leading_number(cell) or cell


def leading_number(cell: str) -> str | None:
    """Return the number that a cell begins with, as programs write it."""
    found = re.match(r"[^\d+\-−.]{0,2}([+\-−]?[\d,]*\.?\d+)", cell)
    return found[1].replace("−", "-").replace(",", "") if found else None


def latex_text(text: str) -> str:
    """Return text as LaTeX shows it."""
    return "".join(_LATEX.get(one) or _MATHS.get(one) or one for one in " ".join(text.split()))
