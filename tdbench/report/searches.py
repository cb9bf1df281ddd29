"""What a report says of a search: its candidates, its knobs, and what it promised. The confirmation is a sweep."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from tdbench.report.charts import Mark, intervals
from tdbench.report.drawing import Picture, is_wide
from tdbench.report.parallel import parallel
from tdbench.report.reading import tree_of
from tdbench.report.rows import Row, check_numbers, number, read_rows
from tdbench.report.scatter import scatter
from tdbench.report.sources import RunSource
from tdbench.report.tables import Table
from tdbench.report.words import (
    DECIDED,
    Section,
    between,
    commands_of,
    environment_lines,
    settings_of,
    shown,
    trust_for,
)
from tdbench.store.folders import CANDIDATES, IMPORTANCE, PROMISED, TRIALS, TUNE

FIXED = (
    *("candidate", "regularizer", "status", "n", "valid_error_pct_mean", "valid_error_pct_std", "delta_vs_baseline"),
    *("dropped_pct", "wall_s", "error"),
)
TEXT = ("candidate", "regularizer", "status", "error")
PROMISE = (
    *("arm", "promised", "promised_ci95_low", "promised_ci95_high", "promised_n"),
    *("kept", "kept_ci95_low", "kept_ci95_high", "kept_n", "verdict"),
)
IMAGES = {"promised": "held-out images", "kept": "test images"}
MOST_NAMED = 5  # candidates with a name in a picture
FEWEST = 3  # candidates of which a picture says more than a table


def sections_of_search(path: Path) -> list[Section]:
    """Return what there is to say of a search; nothing where no candidate has a result.

    Raises:
        FolderError: A table is missing, or cannot be read.
    """
    rows = read_rows(path / CANDIDATES, FIXED)
    knobs = [name for name in (rows[0] if rows else {}) if name not in FIXED]
    check_numbers(path / CANDIDATES, rows, [*knobs, *TEXT])
    done = sorted((row for row in rows if row["delta_vs_baseline"]), key=lambda row: number(row["delta_vs_baseline"]))
    if not done:
        return []
    found = [candidates(rows, done, knobs)]
    if (path / IMPORTANCE).exists() and len(knobs) > 1:
        found += importance(path / IMPORTANCE)
    if (path / PROMISED).exists():
        found.append(promised_and_kept(path / PROMISED))
    environments = [one for run in sorted((path / TRIALS).glob("*")) if (one := RunSource(run).environment)]
    words = ["This goes on with the search, or does it again with another --out:"]
    asked = tree_of(path / TUNE)
    file, out = (shlex.quote(str(one)) for one in (path / TUNE, path))
    code = [*commands_of(environments), f"tdbench tune {file}{trust_for(asked)} --out {out}"]
    lines = [*settings_of(asked), *environment_lines(environments)]
    return [*found, Section("How it was searched", words, code=list(dict.fromkeys(code)), lines=lines)]


def candidates(rows: Sequence[Row], done: Sequence[Row], knobs: Sequence[str]) -> Section:
    """Return the candidates as a table, the best first, and as pictures, those of each method."""
    lines = [
        [
            name_of(row),
            *(in_few_digits(row[knob]) for knob in knobs),
            row["n"],
            shown(number(row["valid_error_pct_mean"])),
            shown(number(row["delta_vs_baseline"]), "+.2f"),
        ]
        for row in done
    ]
    n = max(int(row["n"] or 0) for row in rows)
    words = [
        f"{len(done)} of {len(rows) - 1} candidates have a result, n = {n} runs each on images held out of the "
        "training images. These figures choose, they claim nothing: the best of many looks better than it is."
    ]
    caption = f"Differences to the baseline on the held-out images in points, n = {n} runs each."
    table = Table("candidates", caption, ["candidate", *knobs, "n", "held-out error %", "difference"], lines, done)
    pictures: list[Picture] = []
    for method in dict.fromkeys(row["regularizer"] for row in done):
        own = [row for row in done if row["regularizer"] == method]
        varied = [knob for knob in knobs if len({row[knob] for row in own}) > 1]
        if len(own) < FEWEST:
            continue
        if len(varied) > 1:
            pictures.append(over_all(varied, own, n))
        pictures += [against(knob, own, n) for knob in varied if not any(math.isnan(number(row[knob])) for row in own)]
    return Section("The candidates", words, pictures, [table])


def name_of(row: Row) -> str:
    """Return the name of a candidate, which others of its method do not have."""
    return f"{row['regularizer']} {row['candidate']}"


def in_few_digits(cell: str) -> str:
    """Return a setting as people write it."""
    return (cell or "—") if math.isnan(number(cell)) else f"{number(cell):.4g}"


def chosen(rows: Sequence[Row]) -> list[str]:
    """Return those that a picture names: the best few, and the default."""
    names = [name_of(row) for row in rows[:MOST_NAMED]]
    return names + [name_of(row) for row in rows if row["candidate"] == "default" and name_of(row) not in names]


def over_all(knobs: Sequence[str], rows: Sequence[Row], n: int) -> Picture:
    """Return the candidates of a method as lines over all their knobs, and what they came to."""
    best = ", ".join(f"{knob} {in_few_digits(rows[0][knob])}" for knob in knobs)
    alt = (
        f"{len(rows)} candidates of {rows[0]['regularizer']} over {', '.join(knobs)} and their difference; the best, "
        f"{rows[0]['candidate']}, has {best} and {shown(number(rows[0]['delta_vs_baseline']), '+.2f')} points"
    )
    lines = {name_of(row): [*(row[knob] for knob in knobs), row["delta_vs_baseline"]] for row in rows}
    caption = f"A line is a candidate, n = {n} runs each on held-out images; lower at the right is better."
    return parallel([*knobs, "difference (points)"], lines, chosen(rows), alt, caption)


def against(knob: str, rows: Sequence[Row], n: int) -> Picture:
    """Return the differences of a method's candidates over one knob, which is a number."""
    points = {name_of(row): (number(row[knob]), number(row["delta_vs_baseline"]), math.nan) for row in rows}
    caption = f"Each candidate, n = {n} runs each on held-out images; less is better."
    alt = f"Differences of the candidates of {rows[0]['regularizer']} over {knob}"
    log = is_wide([x for x, _, _ in points.values()])
    return scatter(points, knob, "difference (points)", alt, caption, chosen(rows), log=log)


def importance(path: Path) -> list[Section]:
    """Return how much of the variation each knob explains; nothing where candidates do not differ enough to tell."""
    rows = read_rows(path, ("param", "regularizer", "importance"))
    if not rows:
        return []
    told = [[row["param"], row["regularizer"], shown(number(row["importance"]))] for row in rows]
    caption = "Share of the variation between candidates that a knob explains (fANOVA); of few candidates it is rough."
    return [Section("Importance", tables=[Table("importance", caption, ["knob", "of", "importance"], told, rows)])]


def promised_and_kept(path: Path) -> Section:
    """Return what the search promised of each arm that was confirmed, beside what the confirmation kept of it."""
    rows = read_rows(path, PROMISE)
    check_numbers(path, rows, ("arm", "verdict"))
    series = {name: f"{name} on {images}, {counts(rows, name)}" for name, images in IMAGES.items()}
    marks = [
        Mark(
            row["arm"],
            series[name],
            number(row[name]),
            (number(row[f"{name}_ci95_low"]), number(row[f"{name}_ci95_high"])),
            is_sure=name == "kept" and row["verdict"].startswith(DECIDED),
            note="not confirmed" if name == "kept" else "no result",
        )
        for row in rows
        for name in IMAGES
    ]
    lines = [
        [row["arm"], *(cell for name in IMAGES for cell in told_of(row, name)), row["verdict"] or "not confirmed"]
        for row in rows
    ]
    said = "; ".join(f"{arm} promised {promised}, kept {kept}" for arm, promised, _, _, kept, *_ in lines)
    words = [
        "The promise is what the search saw of the best of many on held-out images; its interval ignores that choice. "
        "What was kept comes from the confirmation, with fresh seeds on the test images, and decides."
    ]
    caption = "Bars: 95 % intervals, those of promises cut off where they are far wider. Filled: decided."
    headings = ["arm", "promised", "its interval", "n promised", "kept", "its 95 % interval", "n kept", "verdict"]
    alt, along = f"Promised and kept: {said}", "difference from the baseline (points)"
    picture = intervals(marks, along, alt, caption, view=view_of(marks))
    table = Table("promised", "Differences to the baseline in points.", headings, lines, rows)
    return Section("Promised and kept", words, [picture], [table])


def view_of(marks: Sequence[Mark]) -> tuple[float, float] | None:
    """Return where a picture of promises ends: at what was kept and all figures, with half as much to both sides.

    The interval of a promise of two runs is so wide that nothing else would be seen beside it.
    """
    kept = [x for mark in marks[1::2] for x in mark.interval]
    seen = [x for x in (0.0, *(mark.x for mark in marks), *kept) if math.isfinite(x)]
    margin = (max(seen) - min(seen)) / 2
    return (min(seen) - margin, max(seen) + margin) if margin else None


def counts(rows: Sequence[Row], name: str) -> str:
    """Return the runs that figures rest on."""
    found = sorted({int(row[f"{name}_n"] or 0) for row in rows})
    return f"n = {found[0]}" if len(found) == 1 else f"n = {found[0]} to {found[-1]}" if found else "n = 0"


def told_of(row: Row, name: str) -> list[str]:
    """Return a figure of a promise, its interval and its n."""
    interval = between(number(row[f"{name}_ci95_low"]), number(row[f"{name}_ci95_high"]), "+.2f")
    return [shown(number(row[name]), "+.2f"), interval, row[f"{name}_n"] or "0"]
