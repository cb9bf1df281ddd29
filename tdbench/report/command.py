"""`report`: the page from the folders, and its tables as files beside it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from tdbench.errors import ConfigError, FolderError, TdbenchError
from tdbench.report.audits import audit_table, findings_of, read_audit
from tdbench.report.of_runs import learning_curves
from tdbench.report.profiles import sections_of_profile
from tdbench.report.reading import Sources, read_sources
from tdbench.report.searches import sections_of_search
from tdbench.report.sections import sections_of
from tdbench.report.sources import RunSource, SweepSource
from tdbench.report.words import Section, commands_of, environment_lines
from tdbench.store.files import as_text, make_folder, open_file, write_atomically
from tdbench.store.folders import RESULT, TRIALS, RunFolder

OURS = '<meta name="generator" content="tdbench report">'
READING = (
    "A difference is the mean over the seeds that a value and its baseline both have. Runs of one seed share initial "
    "weights, batches and augmentation, so that what a seed does to both cancels. p is corrected over all values of a "
    "sweep (Holm); a sequential design's p and interval hold at all looks together. Sweeps are not pooled: each has "
    "its own family.",
    "“helps” and “hurts” mean p ≤ 0.05 after the correction: of 100 sweeps in which nothing makes a difference, at "
    "most 5 claim one. “undecided” and “no detectable difference” do not say equal. The thick interval speaks of new "
    "seeds on these test images, the thin one of new images too.",
)


@dataclass(frozen=True)
class Part:
    """What a report says of one folder."""

    name: str
    anchor: str
    sections: Sequence[Section]


def write_report(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write the page and its tables, and return where the page is; see `tdbench.report`.

    Raises:
        FolderError: A folder is none of tdbench's, or a table in it is damaged; or `out` is a file of another's.
        TdbenchError: Nothing in the folders is finished.
    """
    if not folders:
        raise ConfigError("report needs the folder of a run, a sweep, a search or a profile")
    sources, page = read_sources([Path(folder) for folder in folders]), Path(out)
    tables = page.parent / f"{page.stem}_tables"
    check_ours(page, tables)
    parts = parts_of(sources)
    if not parts:
        raise TdbenchError(f"{'; '.join(sources.notes)}; there is nothing to report")
    names = [part.name for part in parts]
    title = " and ".join(names if len(names) < 3 else [names[0], f"{len(names) - 1} more"])
    write_atomically(page, render(title, parts, sources.notes).encode())
    make_folder(tables)
    for part in parts:
        for table in (one for section in part.sections for one in section.tables):
            folder = tables if len(parts) == 1 else tables / part.anchor
            make_folder(folder)
            table.write(folder)
    return page


def parts_of(sources: Sources) -> list[Part]:
    """Return what there is to say of each folder; one in which nothing is finished becomes a note."""
    parts: list[Part] = []
    for path in sources.searches:
        if sections := sections_of_search(path):
            parts.append(Part(f"Search {path.name}", anchor_of(f"search {path.name}", parts), sections))
        else:
            sources.notes.append(f"{path}: no candidate has a result")
    for sweep in sources.sweeps:
        if sweep.done:
            parts.append(Part(sweep.name, anchor_of(sweep.name, parts), list(sections_of(sweep))))
            sources.notes.extend(f"{sweep.path}: {what}" for what in sweep.contradictions())
        else:
            has_results = any((sweep.path / TRIALS).glob(f"*/{RESULT}"))
            why = "its tables are missing; its own command writes them anew" if has_results else "no trial has finished"
            sources.notes.append(f"{sweep.path}: {why}")
    for run in sources.runs:
        parts.append(Part(f"Run {run.path.name}", anchor_of(f"run {run.path.name}", parts), sections_of_run(run)))
    for profile in sources.profiles:
        name = f"Profile {profile.path.name}"
        if profile.layer or profile.step:
            parts.append(Part(name, anchor_of(name, parts), sections_of_profile(profile)))
        else:
            sources.notes.append(f"{profile.path}: its tables are empty")
    return parts


def sections_of_run(run: RunSource) -> list[Section]:
    """Return what there is to say of a single run: its outcome, its curves, and how it was run."""
    result = RunFolder(run.path).read_result("leave this folder out")
    told = (
        []
        if result is None
        else [f"{name}: {as_text(value)}" for name, value in result.to_tree().items() if value is not None]
    )
    words = ["One run, n = 1: it has no interval."] if result is not None else ["The run is not over."]
    trial = {"status": "done", "trial": run.path.name, "seed": "0", "run": run.path.name}
    alone = _Alone(run.path, {}, [], [trial], ["run"])
    curve = learning_curves(alone)
    found = [Section("The outcome", words, lines=told)]
    if audited := read_audit(run.path):
        found.append(Section("Was it on?", tables=[audit_table(audited)], lines=[*findings_of(audited)]))
    how = Section("How it was run", code=commands_of(run.environments), lines=environment_lines(run.environments))
    return [*found, *([curve] if curve else []), how]


class _Alone(SweepSource):
    """A run as the only trial of a sweep."""

    def run(self, trial: object) -> RunSource:
        return RunSource(self.path)


def anchor_of(name: str, parts: Sequence[Part]) -> str:
    """Return a name for a part's place in the page and for its folder of tables, which no other has."""
    anchor = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "part"
    taken = {"content", "how-to-read", *(part.anchor for part in parts)}
    return next(
        one for one in (anchor, *(f"{anchor}-{number}" for number in range(2, 3 + len(taken)))) if one not in taken
    )


def render(title: str, parts: Sequence[Part], notes: Sequence[str]) -> str:
    """Return the page; all text is escaped."""
    here = files("tdbench.report")
    template = Environment(autoescape=True, trim_blocks=True).from_string(here.joinpath("page.html").read_text("utf-8"))
    page = template.render(
        title=title,
        about="Does this regularizer help here, at which settings, with what certainty, and at what cost?",
        notes=notes,
        parts=parts,
        reading=READING,
        css=Markup(here.joinpath("page.css").read_text("utf-8")),
        js=Markup(here.joinpath("page.js").read_text("utf-8")),
    )
    return page.replace("<title>", f"{OURS}\n<title>", 1)


def check_ours(page: Path, tables: Path) -> None:
    """Check that what lies at the place of a page and of its tables, if anything, is a report of ours.

    Raises:
        FolderError: It is not.
    """
    if not page.name or page.is_dir():
        raise FolderError(f"--out {page} is a folder; name a file, such as {page / 'report.html'}")
    if page.suffix not in (".html", ".htm"):
        raise FolderError(f"--out must end in .html, since a report is a page, got {page}")
    if not page.exists():
        if tables.is_file() or (tables.is_dir() and any(tables.iterdir())):
            raise FolderError(f"{tables}, where the tables go, holds something already; take another --out")
        return
    with open_file(page) as file:
        if OURS.encode() not in file.read(4096):
            raise FolderError(f"--out {page} holds something else than a report of tdbench's; take another --out")
