"""The figures of a sweep's summary as people read them: one table of headings and forms, for terminal and Markdown."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tdbench.store.files import as_text
from tdbench.store.rows import TEST_ERROR, TEST_ERROR_BN, SummaryRow, Value

MISSING = "—"


@dataclass(frozen=True)
class Column:
    """A column of the summary for people.

    Attributes:
        heading: In lines; Markdown has them in one.
        cell: What a row says there.
        is_figure: Its cells stay on one line and lie at the right.
        of_metric: It is about the metric of the verdict, and says so where that is not the test error.
        goes: Where the terminal is too narrow, columns go in this order; 0: never.
    """

    heading: str
    cell: Callable[[SummaryRow], str]
    is_figure: bool = True
    goes: int = 0
    of_metric: bool = False


def value_words(values: Mapping[str, Value]) -> str:
    """Return what was swept in few words, as `dropblock, mixup 0.2`: what is no name stands with its key."""
    return ", ".join(
        text if is_name(text := as_text(value)) else f"{key.rpartition('.')[2]} {text}" for key, value in values.items()
    )


def is_name(text: str) -> bool:
    """Return whether a value says by itself what it is of, as `dropblock` does, and 3, true and null do not."""
    return text not in ("true", "false", "null") and not re.match(r"[-+.]?\d", text)


def number(x: float | None, form: str = ".2f") -> str:
    """Return a figure with a proper minus sign, and none on a rounded 0."""
    if x is None or math.isnan(x):
        return MISSING
    text = format(x, form)
    return (text.lstrip("+-") if float(text.replace(",", "")) == 0 else text).replace("-", "−")


def joined_by(word: str, *figures: float | None, form: str = ".2f") -> str:
    """Return those of two figures that there are, with a word between them."""
    return word.join(text for x in figures if (text := number(x, form)) != MISSING) or MISSING


def probability(x: float | None) -> str:
    return "<0.001" if x is not None and x < 0.001 else number(x, ".3f")


def form_of(row: SummaryRow) -> str:
    """Return the form of a difference: points have two decimals."""
    return "+.2f" if "_pct" in row.metric else "+.3g"


def of_metric(row: SummaryRow, word: str, *figures: float | None) -> str:
    """Return figures of the metric itself; nothing where it is a test error, which has columns of its own."""
    if row.metric in (TEST_ERROR, TEST_ERROR_BN) and row.test_error_pct_mean is not None:
        return MISSING
    return joined_by(word, *figures, form=".2f" if "_pct" in row.metric else ".4g")


def beside(row: SummaryRow, text: str) -> str:
    """Return what is said of a metric beside the one that the verdict is about; nothing where it is that one."""
    return MISSING if row.metric == TEST_ERROR_BN else text


COLUMNS = (
    Column("n", lambda row: str(row.n)),
    Column("error %\n(mean ± std)", lambda row: joined_by(" ± ", row.test_error_pct_mean, row.test_error_pct_std)),
    Column("95 %\ninterval", lambda row: joined_by(" to ", row.ci95_low, row.ci95_high), goes=5),
    Column("mean ± std", lambda row: of_metric(row, " ± ", row.metric_mean, row.metric_std), of_metric=True),
    Column(
        "95 % interval",
        lambda row: of_metric(row, " to ", row.metric_ci95_low, row.metric_ci95_high),
        goes=5,
        of_metric=True,
    ),
    Column("difference", lambda row: number(row.delta_vs_baseline, form_of(row)), of_metric=True),
    Column(
        "its 95 %\ninterval",
        lambda row: joined_by(" to ", row.delta_ci95_low, row.delta_ci95_high, form=form_of(row)),
        of_metric=True,
    ),
    Column(
        "95 % interval\nfor new images",
        lambda row: joined_by(" to ", row.delta_ci95_low_images, row.delta_ci95_high_images, form="+.2f"),
        goes=1,
    ),
    Column(
        "better\nin",
        lambda row: MISSING if row.num_better is None or not row.num_pairs else f"{row.num_better} of {row.num_pairs}",
        goes=2,
    ),
    Column("p\n(Holm)", lambda row: probability(row.p_holm), goes=6),
    Column("verdict", lambda row: row.verdict, is_figure=False),
    Column("dropped\n%", lambda row: number(row.dropped_pct, ".3f"), goes=7),
    Column("images/s", lambda row: number(row.train_img_per_s, ",.0f"), goes=2),
    Column(
        "error %,\nBN re-estimated",
        lambda row: joined_by(" ± ", row.test_error_pct_bn_mean, row.test_error_pct_bn_std),
        goes=4,
    ),
    Column(
        "difference,\nBN re-estimated",
        lambda row: beside(row, number(row.delta_bn_vs_baseline, "+.2f")),
        goes=3,
    ),
    Column(
        "95 % interval,\nBN re-estimated",
        lambda row: beside(row, joined_by(" to ", row.delta_bn_ci95_low, row.delta_bn_ci95_high, form="+.2f")),
        goes=1,
    ),
)


def telling(rows: Sequence[SummaryRow]) -> list[Column]:
    """Return the columns that have something to say of these rows; the verdict always has."""
    told = [one for one in COLUMNS if not one.is_figure or any(one.cell(row) != MISSING for row in rows)]
    metric = rows[0].metric if rows else TEST_ERROR
    about = {TEST_ERROR: "", TEST_ERROR_BN: ",\nBN re-estimated"}.get(metric, f",\n{metric}")
    return [replace(one, heading=one.heading + about) if one.of_metric else one for one in told]


def is_skewed(g1: float | None, n: int) -> bool:
    """Return whether a skewness is more than two standard errors that it has in samples of a normal distribution."""
    if g1 is None or n < 3:
        return False
    return abs(g1) > 2 * math.sqrt(6 * (n - 2) / ((n + 1) * (n + 3)))
