"""What a report says of a sweep, section by section: words, pictures and tables from the rows that the sweep wrote."""

import math
import shlex
import statistics
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from tdbench.report.audits import audit_table, findings_of, read_audit
from tdbench.report.charts import Bar, forest, heat_map
from tdbench.report.of_runs import learning_curves, per_class
from tdbench.report.rows import Row, number
from tdbench.report.scatter import MOST_NAMED, scatter
from tdbench.report.sources import BASELINES, SweepSource
from tdbench.report.tables import Table
from tdbench.report.words import (
    DECIDED,
    Section,
    between,
    commands_of,
    environment_lines,
    form_of,
    n_of,
    settings_of,
    shown,
    trust_for,
)
from tdbench.store.files import counted
from tdbench.store.folders import SWEEP
from tdbench.store.rows import MORE_IS_BETTER, SECONDARY, TrialState


def sections_of(sweep: SweepSource) -> Iterator[Section]:
    """Yield what there is to say of a sweep, the verdict first; what its folder does not hold is left out."""
    yield verdict(sweep)
    yield figures(sweep)
    yield was_it_on(sweep)
    for maker in (batch_norm, cost, realised_share, learning_curves, per_class, secondary, seeds_and_failures):
        section = maker(sweep)
        if section is not None:
            yield section
    yield how_it_was_run(sweep)


def verdict(sweep: SweepSource) -> Section:
    """Return the verdict in a sentence, and the forest of paired differences."""
    rows = sweep.compared
    kinds = Counter(kind_of(row) for row in rows)
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "nothing is compared"
    baselines = [sweep.label(row) for row in sweep.summary if row["verdict"] == "baseline"]
    with_what = baselines[0] if len(baselines) == 1 else "their own baselines" if baselines else "nothing"
    design = "a fixed number of seeds" if sweep.design == "fixed" else f"a sequential design of {sweep.design} seeds"
    words = [
        f"{counted(len(rows), 'value')} compared with {with_what} by {sweep.metric}, seed by seed, "
        f"{n_of(rows, sweep)}, α = 0.05 for the whole family (Holm), {design}: {told}."
    ]
    words += [decided(sweep, row) for row in rows if kind_of(row) in DECIDED]
    bars = [
        Bar(
            sweep.label(row),
            number(row["delta_vs_baseline"]),
            (number(row["delta_ci95_low"]), number(row["delta_ci95_high"])),
            (number(row.get("delta_ci95_low_images")), number(row.get("delta_ci95_high_images"))),
            [*sweep.pairs(row).values()],
            kind_of(row) in DECIDED,
        )
        for row in rows
        if not math.isnan(number(row["delta_vs_baseline"]))
    ]
    pictures = [forest(bars, sweep.unit, n_of(rows, sweep), ", ".join(sweep.keys))] if bars else []
    return Section("The verdict", words, pictures)


def decided(sweep: SweepSource, row: Row) -> str:
    """Return a decided value in a sentence, with its interval, n and p."""
    form = form_of(sweep)
    difference, low, high = (
        shown(number(row[name]), form) for name in ("delta_vs_baseline", "delta_ci95_low", "delta_ci95_high")
    )
    return (
        f"{sweep.label(row)} {row['verdict']}: {difference} {sweep.unit} (95 % interval {low} to {high}, "
        f"n = {sweep.num_pairs(row)}, p = {shown(number(row['p_holm']), '.3f')})."
    )


def kind_of(row: Row) -> str:
    """Return the decision of a row without its particulars."""
    return next((kind for kind in DECIDED if row["verdict"].startswith(kind)), row["verdict"].partition(" (")[0])


def figures(sweep: SweepSource) -> Section:
    """Return the table of the sweep."""
    form = form_of(sweep)
    metric = sweep.metric_words
    headings = [
        *sweep.keys,
        "n",
        f"{metric}, mean ± std",
        "difference",
        "its 95 % interval",
        "p (Holm)",
        "better in",
    ]
    rows = []
    for row in sweep.summary:
        mean, std = (shown(number(row.get(name)), form.lstrip("+")) for name in sweep.own[:2])
        better = f"{row['num_better']} of {sweep.num_pairs(row)}" if row.get("num_better") else "—"
        interval = between(number(row["delta_ci95_low"]), number(row["delta_ci95_high"]), form)
        difference, p = shown(number(row["delta_vs_baseline"]), form), shown(number(row["p_holm"]), ".3f")
        rows.append(
            [
                *(row[key] for key in sweep.keys),
                row["n"],
                f"{mean} ± {std}",
                difference,
                interval,
                p,
                better,
                row["verdict"],
            ]
        )
    better = "more" if MORE_IS_BETTER.get(sweep.metric) else "less"
    caption = (
        f"{sweep.name}: {metric}, {n_of(sweep.summary)}; paired differences in {sweep.unit}, of which {better} is "
        "better; p by Holm over the values."
    )
    return Section("All figures", tables=[Table("summary", caption, [*headings, "verdict"], rows, sweep.summary)])


def was_it_on(sweep: SweepSource) -> Section:
    """Return what each value really dropped."""
    rows, off = [], []
    for row in sweep.summary:
        shares = [*sweep.by_seed(row, "dropped_pct").values()]
        if shares:
            spread = f"{shown(min(shares), '.3f')} to {shown(max(shares), '.3f')}"
            rows.append([sweep.label(row), shown(statistics.fmean(shares), ".3f"), spread, str(len(shares))])
            is_method = row["verdict"] not in BASELINES and "none" not in (row[key] for key in sweep.keys)
            off += [sweep.label(row)] * (is_method and not any(shares))
    words = [
        "The share of units that the layer's mask really set to zero, counted at the sites on every training step."
    ]
    if off:
        words.append(f"Nothing was dropped by {', '.join(off)}: it was not on.")
    caption = "Share of units dropped in per cent: mean, least and most over the runs."
    tables = [Table("dropped", caption, ["value", "dropped %", "range", "runs"], rows)]
    audited = {trial["trial"]: sweep.label(trial) for trial in sweep.trials}
    found = [row for row in read_audit(sweep.path) if row.get("trial") in audited]
    values = [audited[row["trial"]] for row in found]
    if found:
        tables.append(audit_table(found, values))
    else:
        words.append("The layers were not audited; tdbench ablate --audit holds each against its configuration.")
    return Section("Was it on?", words, tables=tables, lines=[*findings_of(found, values)])


def batch_norm(sweep: SweepSource) -> Section | None:
    """Return how much of a difference is due to BatchNorm's averages, where that was measured."""
    rows = [row for row in sweep.compared if row.get("delta_bn_vs_baseline") and row["delta_vs_baseline"]]
    if not rows or sweep.metric != "test_error_pct":
        return None
    lines = [
        [
            sweep.label(row),
            shown(number(row["delta_vs_baseline"]), "+.2f"),
            shown(number(row["delta_bn_vs_baseline"]), "+.2f"),
            between(number(row.get("delta_bn_ci95_low")), number(row.get("delta_bn_ci95_high")), "+.2f"),
        ]
        for row in rows
    ]
    words = [
        "The same networks with BatchNorm's running statistics estimated anew on training images, without the "
        "regularizer: what is left of a difference there is the method's, what is gone was BatchNorm's. It is "
        "secondary, and uncorrected."
    ]
    headings = ["value", "difference", "with BatchNorm re-estimated", "its 95 % interval"]
    return Section(
        "BatchNorm's share",
        words,
        tables=[Table("batch_norm", f"Differences in points, {n_of(rows, sweep)}; t intervals.", headings, lines)],
    )


def cost(sweep: SweepSource) -> Section | None:
    """Return the error beside the time of a step, with the values that nothing beats in both."""
    points = {}
    for row in sweep.summary:
        speed, error = number(row["train_img_per_s"]), number(row["test_error_pct_mean"])
        if speed > 0 and not math.isnan(error):
            half = (number(row["ci95_high"]) - number(row["ci95_low"])) / 2
            points[sweep.label(row)] = (1e6 / speed, error, half)
    if len(points) < 2:
        return None
    front = [
        label
        for label, (time_us, error, _) in points.items()
        if not any(t <= time_us and e <= error and (t, e) != (time_us, error) for t, e, _ in points.values())
    ]
    words = [f"The Pareto front, than which nothing is both faster and better in the mean: {', '.join(front)}."]
    times = [[1e6 / speed for speed in sweep.by_seed(row, "train_img_per_s").values()] for row in sweep.summary]
    ranges = sorted((min(of_value), max(of_value)) for of_value in times if of_value)
    if any(later[0] <= earlier[1] for earlier, later in pairwise(ranges)):
        words = [
            "Between runs of one value the time varies as much as between values, since trials share a machine: "
            "nothing is said of what is faster. tdbench profile measures that, in turns."
        ]
    caption = f"{n_of(sweep.summary)}; bars: 95 % intervals of the means."
    picture = scatter(
        points,
        "microseconds per training image",
        "test error %",
        "Test error against the time of a training image",
        caption,
        None if len(points) <= MOST_NAMED else front,
    )
    return Section("Cost beside benefit", words, [picture])


def realised_share(sweep: SweepSource) -> Section | None:
    """Return the metric, and its difference from the baseline's, against what was really dropped."""
    mean, _, low, high = sweep.own
    values = [sweep.label(row) for row in sweep.summary]  # a value looks the same in both pictures
    pictures = []
    for rows, names, along, what in (
        (sweep.summary, (mean, low, high), sweep.metric_words, "means"),
        (
            sweep.compared,
            ("delta_vs_baseline", "delta_ci95_low", "delta_ci95_high"),
            f"difference ({sweep.unit})",
            "differences",
        ),
    ):
        points = {
            sweep.label(row): (
                number(row["dropped_pct"]),
                number(row[names[0]]),
                (number(row[names[2]]) - number(row[names[1]])) / 2,
            )
            for row in rows
            if row["dropped_pct"] and row.get(names[0])
        }
        if len(points) > 1:
            caption = f"{n_of(rows)}; bars: 95 % intervals of the {what}."
            alt = f"{along} against the share of units dropped"
            named = None if len(points) <= MOST_NAMED else [sweep.label(row) for row in rows if kind_of(row) in DECIDED]
            pictures.append(scatter(points, "share of units dropped, %", along, alt, caption, named, values=values))
    return Section("Error against the realised share", (), pictures) if pictures else None


def secondary(sweep: SweepSource) -> Section | None:
    """Return the differences of what is secondary."""
    rows = [row for row in sweep.compared if any(row.get(f"delta_{name}") for name in SECONDARY)]
    if not rows:
        return None
    lines = []
    for row in rows:
        cells = [sweep.label(row)]
        for name in SECONDARY:
            form = "+.2f" if "_pct" in name else "+.4f"
            mean, low, high = (number(row.get(f"delta_{name}{end}")) for end in ("", "_ci95_low", "_ci95_high"))
            cells.append(f"{shown(mean, form)} ({between(low, high, form)})")
        lines.append(cells)
    n = n_of(rows, sweep)
    caption = f"Mean paired differences, {n}, with t intervals, uncorrected; less is better. No verdict is about them."
    table = Table("secondary", caption, ["value", "test loss", "calibration error (ECE), points", "Brier score"], lines)
    return Section("Loss and calibration", tables=[table])


def seeds_and_failures(sweep: SweepSource) -> Section | None:
    """Return seeds by values as colours, and what failed with its reason."""
    seeds = sorted({int(trial["seed"]) for trial in sweep.trials})
    rows = [row for row in sweep.compared if sweep.pairs(row)]
    pictures = []
    if rows and len(seeds) > 1:
        pairs = map(sweep.pairs, rows)
        cells = [[of_row.get(seed, math.nan) for seed in seeds] for of_row in pairs]
        caption = "Each seed's difference from the baseline; a cross: no pair that counts."
        columns = [str(seed) for seed in seeds]
        pictures.append(
            heat_map([sweep.label(row) for row in rows], columns, cells, "seed", f"difference ({sweep.unit})", caption)
        )
    lines = [
        ": ".join(
            [f"{sweep.label(trial)}, seed {trial['seed']}", trial["status"], *([trial["error"]] * bool(trial["error"]))]
        )
        for trial in sweep.trials
        if trial["status"] != TrialState.DONE
    ]
    if not pictures and not lines:
        return None
    words = [f"{len(lines)} of {len(sweep.trials)} trials have no result."] if lines else []
    return Section("Seed by seed", words, pictures, lines=lines)


def how_it_was_run(sweep: SweepSource) -> Section:
    """Return the commands, what all trials share, and what they ran on."""
    words = ["How it was called, as far as its runs tell, and what repeats it in another folder:"]
    again = f"tdbench ablate {shlex.quote(str(sweep.path / SWEEP))}{trust_for(sweep.experiment)}"
    code = [*commands_of(sweep.environments), again]
    settings = [line.removeprefix("base.") for line in settings_of(sweep.experiment)]
    return Section("How it was run", words, code=code, lines=[*settings, *environment_lines(sweep.environments)])
