"""Write the parts of the documentation that follow from declarations: the methods, and the columns of every table.

    python docs/write_pages.py

In `README.md`, `methods.md` and `files.md` what stands below MARK is written anew, up to END where there is one; the
rest is written by hand. `tests/docs/test_pages.py` holds the pages to what this writes.
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from tdbench.cli.list import SOURCE, Rows, knobs_of
from tdbench.regularizers.config import RegularizerConfig
from tdbench.regularizers.registry import find_method, method_names
from tdbench.store.rows import EpochRow, RunResult, SummaryRow, columns

DOCS = Path(__file__).parent
MARK = "<!-- What follows is written by docs/write_pages.py. -->"
END = "<!-- So far. -->"
LINKS = {
    r"arXiv (\d{4}\.\d{4,5})": "https://arxiv.org/abs/",
    r"doi (10\.\d{4,}/[^\s,;:()]*[^\s,;:().])": "https://doi.org/",
    r"((?:github\.com|jmlr\.org)/[\w./-]*\w)": "https://",
}
TABLES = {"metrics.csv": EpochRow, "result.json": RunResult, "summary.csv": SummaryRow}


def main() -> None:
    for name, text in written().items():
        path = DOCS / name
        before, _, after = path.read_text(encoding="utf-8").partition(MARK)
        end = f"\n{END}{after.partition(END)[2]}" if END in after else ""
        path.write_text(f"{before}{MARK}\n\n{text}{end}", encoding="utf-8")


def written() -> dict[str, str]:
    """Return what follows from declarations, by the name of its page."""
    pages = {"../README.md": [overview()], "methods.md": methods(), "files.md": tables()}
    return {name: "\n\n".join(paragraphs) + "\n" for name, paragraphs in pages.items()}


def overview() -> str:
    """Return a table of the methods in a line each: source, strength and place."""
    rows = []
    for name in method_names():
        method = find_method(name)
        if strength := method.strength_knob:
            links = re.search(r"\[[^][]*\]\(https:[^)]*\)", prose(said_of(method)))
            rows.append(
                {
                    "method": f"`{name}`",
                    "what it does": method.model_fields["name"].description,
                    "source": links.group() if links else "—",
                    "default": f"`{strength}={method.model_fields[strength].default}`",
                    "at": method.default_place(),
                }
            )
    return table(rows)


def said_of(method: type[RegularizerConfig]) -> str:
    """Return what the file of a method's declaration opens with."""
    return inspect.cleandoc(getattr(inspect.getmodule(method), "__doc__", None) or "")


def methods() -> Iterator[str]:
    """Yield the paragraphs about the methods: a table of all, and a section for each."""
    every = {name: find_method(name) for name in method_names()}
    yield "## The methods"
    yield table(
        [
            {
                "method": f"[`{name}`](#{name})",
                "what it does": method.model_fields["name"].description,
                "where it stands by default": method.default_place(),
                "`--match` solves": f"`{method.strength_knob}`" if method.strength_knob else "—",
            }
            for name, method in every.items()
        ]
    )
    for name, method in every.items():
        yield f"### {name}"
        yield from map(prose, said_of(method).split("\n\n"))
        if rows := knobs_of(name):
            yield table(list(map(knob_row, rows)))
    yield "### What all methods have"
    shared = {row["knob"]: row for row in knobs_of("none", shared=True)}
    yield table([knob_row(shared[name]) for name in RegularizerConfig.model_fields if name != "name"])


def knob_row(row: dict[str, str]) -> dict[str, str]:
    also = "".join(f", `{name}`" for name in row["also"].split())
    return {
        "knob": f"`{row['knob']}`{also}",
        "default": f"`{row['default']}`",
        "range": row["range"],
        "meaning": code(row["meaning"]),
        SOURCE: row[SOURCE],
    }


def tables() -> Iterator[str]:
    """Yield the paragraphs about the columns of each table: their names in order, and what they mean."""
    for name, row in TABLES.items():
        names = columns(row)
        meanings = meanings_of(row)
        yield f"## The columns of {name}"
        yield f"`{','.join(names)}`"
        yield table(
            [{"column": ", ".join(f"`{one}`" for one in of), "meaning": meaning} for of, meaning in meanings.items()]
        )


def meanings_of(row: type) -> dict[tuple[str, ...], str]:
    """Return the meaning of the columns of a table, from the `Attributes` of its row; those that share one together."""
    entries = inspect.cleandoc(row.__doc__ or "").partition("Attributes:\n")[2]
    found: dict[tuple[str, ...], str] = {}
    for entry in re.split(r"\n(?=    \w)", entries.rstrip()):
        names, _, meaning = entry.strip().partition(": ")
        of = tuple(name for name in re.split(r",\s+", names) if name in columns(row))
        if of:
            found[of] = code(" ".join(meaning.split()))
    return found


def prose(text: str) -> str:
    """Return a paragraph of a docstring as Markdown: names as code, sources as links, and no letter that is markup."""
    return linked(code(" ".join(text.split())))


def code(text: str) -> str:
    """Return a text in which names with an underscore are code, and what would be markup is not."""
    parts = re.split(r"(`[^`]*`)", text)
    for at in range(0, len(parts), 2):
        escaped = re.sub(r"[*<\[]", r"\\\g<0>", parts[at])
        parts[at] = re.sub(r"\b[a-z]{2,}(?:_[a-z0-9]{2,})+\b", r"`\g<0>`", escaped)
    return "".join(parts)


def linked(text: str) -> str:
    for pattern, where in LINKS.items():
        text = re.sub(pattern, rf"[\g<0>]({where}\1)", text)
    return text


def table(rows: Rows) -> str:
    """Return a Markdown table."""
    lines = [[*rows[0]], ["---"] * len(rows[0]), *([*row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


if __name__ == "__main__":
    main()
