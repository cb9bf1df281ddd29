"""What a report says from the folders of a sweep's runs: learning curves, and the errors of each class."""

import statistics
from collections import defaultdict

from tdbench.report.charts import curves, heat_map
from tdbench.report.rows import Row, number
from tdbench.report.sources import SweepSource
from tdbench.report.words import MOST_CLASSES, MOST_CURVES, Section


def learning_curves(sweep: SweepSource) -> Section | None:
    """Return the training error over the epochs, and the test error where it was measured, where the runs are there."""
    runs: dict[str, list[list[Row]]] = defaultdict(list)
    for trial in sweep.done:
        if metrics := sweep.run(trial).metrics:
            runs[sweep.label(trial)].append(metrics)
    if not runs:
        return None
    chosen = dict(sorted(runs.items(), key=lambda one: -len(one[1]))[:MOST_CURVES])
    pictures = []
    for column, along in (("train_error_pct", "training error %"), ("test_error_pct", "test error %")):
        of_values = {
            label: [[number(row[column]) for row in rows if row.get(column)] for rows in of_value]
            for label, of_value in chosen.items()
        }
        of_values = {label: rows for label, rows in of_values.items() if rows and min(map(len, rows)) > 1}
        if of_values:
            n = sum(map(len, of_values.values()))
            caption = f"Means over the seeds, {n} runs; bands from the least to the most." if n > 1 else "One run."
            if len(chosen) < len(runs):
                caption += f" {len(chosen)} of {len(runs)} values."
            pictures.append(curves(of_values, along, f"{along} over the epochs for {', '.join(of_values)}", caption))
    return Section("Learning curves", (), pictures) if pictures else None


def per_class(sweep: SweepSource) -> Section | None:
    """Return the difference of each class's error, from the outcomes of the test images, where they are there.

    Runs whose test images are of other classes, as where data sets are compared, share no columns: then there is none.
    """
    errors: dict[str, dict[int, list[float]]] = {}
    classes: set[tuple[str, ...]] = set()
    for trial in sweep.done:
        if (found := sweep.run(trial).predictions) is not None:
            wrong, labels = found.label != found.predicted, sorted(set(found.label.tolist()))
            classes.add(tuple(found.classes[one] if one < len(found.classes) else str(one) for one in labels))
            by_class = [100 * float(wrong[found.label == one].mean()) for one in labels]
            errors.setdefault(sweep.label(trial), {})[int(trial["seed"])] = by_class
    if len(classes) != 1 or len(columns := classes.pop()) > MOST_CLASSES:
        return None
    names, cells = [], []
    for row in sweep.compared:
        baseline = sweep.baseline_of(row)
        ours, theirs = errors.get(sweep.label(row), {}), errors.get(sweep.label(baseline) if baseline else "", {})
        shared = [seed for seed in ours if seed in theirs]
        if shared:
            pairs = [[own - other for own, other in zip(ours[one], theirs[one], strict=True)] for one in shared]
            names.append(f"{sweep.label(row)} (n = {len(shared)})")
            cells.append([statistics.fmean(column) for column in zip(*pairs, strict=True)])
    if not cells:
        return None
    caption = (
        "Mean paired differences of each class's test error in points; below 0 is better. No verdict is about them."
    )
    picture = heat_map(names, columns, cells, "class", "difference (points)", caption)
    return Section("Class by class", (), [picture])
