"""The rows of all tables, as dataclasses: the order of the fields is that of the columns, and new ones come last.

Other programs read these names. A field that is added later is declared with `metadata={"since": RELEASE}` and a
default, so that the files of earlier releases can still be read.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

Value = str | int | float  # of a swept key, as tables show it
TEST_ERROR, TEST_ERROR_BN, TEST_ERROR_EMA = "test_error_pct", "test_error_pct_bn", "test_error_pct_ema"
SECONDARY = ("test_loss", "ece_pct", "brier")  # that are compared beside the metric, without a verdict
MORE_IS_BETTER = {  # of the fields of a result that a verdict may be about
    TEST_ERROR: False,
    "best_test_error_pct": False,
    "train_error_pct": False,
    "train_img_per_s": True,
    "wall_s": False,
    "peak_mem_mib": False,
    "test_loss": False,
    "ece_pct": False,
    "brier": False,
    TEST_ERROR_BN: False,
    "valid_error_pct": False,
    TEST_ERROR_EMA: False,
}


class TrialState(StrEnum):
    """What has become of a run or a trial."""

    DONE = "done"
    DIVERGED = "diverged"  # its loss became NaN or infinite; it would do so again
    FAILED = "failed"  # it raised; it is run again only where that is asked for
    KILLED = "killed"  # its process was ended from outside; it goes on from its checkpoint
    WAITING = "waiting"  # it has not been run, or was stopped and saved


class Decision(StrEnum):
    """What a sweep says of a value."""

    HELPS = "helps"
    HURTS = "hurts"
    EQUIVALENT = "equivalent"
    UNDETECTED = "no detectable difference"
    UNDECIDED = "undecided"  # to the last look of a sequential design
    PENDING = "not decided yet"  # there are looks to come
    TOO_FEW = "too few seeds"
    BASELINE = "baseline"
    NO_BASELINE = "no baseline"


@dataclass(frozen=True)
class EpochRow:
    """A row of `metrics.csv`; None is a figure that was not measured. Errors and shares are in per cent.

    Attributes:
        epoch: Passes over the training images so far.
        lr: Learning rate of the epoch's last step.
        train_loss, train_error_pct: Over the epoch's training batches as they were trained on: augmented, with the
            regularizer; a mixed image counts as hit by the class of its larger share.
        test_loss, test_error_pct: Over all test images after the epoch; None where it was not evaluated.
        dropped_pct: Share of the units at the sites that the layers really set to zero.
        train_img_per_s: From the median time of the epoch's steps; None where none was timed.
        epoch_s: Seconds, with the evaluation.
        peak_mem_mib: Most memory so far, in MiB: allocated on the GPU, else of the process.
        test_error_pct_ema: As test_error_pct, with the moving average of the weights; None where none is kept.
    """

    epoch: int
    lr: float
    train_loss: float
    train_error_pct: float
    test_loss: float | None
    test_error_pct: float | None
    dropped_pct: float
    train_img_per_s: float | None
    epoch_s: float
    peak_mem_mib: float
    test_error_pct_ema: float | None = field(default=None, metadata={"since": "0.3.0"})


@dataclass(frozen=True)
class RunResult:
    """The fields of `result.json`.

    Attributes:
        status: `done`, `diverged` or `failed` in a file; a sweep also knows `killed` and `waiting`.
        digest: Of the configuration; None: unknown, since the file could not be read.
        seed: Of the run.
        epochs: That were finished.
        test_error_pct, best_test_error_pct: Of the last epoch; and of the best one, which is optimistic.
        train_error_pct: Of the last epoch, on its training batches.
        dropped_pct: Share of the units at the sites that the layers really set to zero, over the whole run.
        train_img_per_s: From the median time of a step.
        wall_s: Seconds of training and evaluation, those before an interruption included.
        peak_mem_mib: Most memory, in MiB: allocated on the GPU, else of the process.
        error: Why the run failed or diverged, in a line.
        test_loss: Mean cross-entropy of the test images, after the last epoch as the figures that follow.
        ece_pct: Expected calibration error, over 15 equal bins of the confidence.
        brier: Brier score over all classes, from 0 to 2.
        test_error_pct_bn: As test_error_pct, with BatchNorm's running statistics re-estimated on training images,
            without the regularizer; None where the network has no BatchNorm.
        valid_error_pct: Of the images held out of the training images; None where none are.
        test_error_pct_ema: As test_error_pct, with the moving average of the weights; None where none is kept.
        metrics: What a script or a function of the user's reported, by name; None of tdbench's own runs.
    """

    status: TrialState
    digest: str | None
    seed: int | None
    epochs: int | None = None
    test_error_pct: float | None = None
    best_test_error_pct: float | None = None
    train_error_pct: float | None = None
    dropped_pct: float | None = None
    train_img_per_s: float | None = None
    wall_s: float | None = None
    peak_mem_mib: float | None = None
    error: str | None = None
    test_loss: float | None = field(default=None, metadata={"since": "0.3.0"})
    ece_pct: float | None = field(default=None, metadata={"since": "0.3.0"})
    brier: float | None = field(default=None, metadata={"since": "0.3.0"})
    test_error_pct_bn: float | None = field(default=None, metadata={"since": "0.3.0"})
    valid_error_pct: float | None = field(default=None, metadata={"since": "0.3.0"})
    test_error_pct_ema: float | None = field(default=None, metadata={"since": "0.3.0"})
    metrics: Mapping[str, float] | None = field(default=None, metadata={"since": "0.3.0", "column": False})

    def figure(self, name: str) -> float | None:
        """Return a figure by its name: one that a script reported, else a field."""
        if self.metrics is not None and name in self.metrics:
            return self.metrics[name]
        return getattr(self, name, None)

    @property
    def is_done(self) -> bool:
        return self.status is TrialState.DONE

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> "RunResult":
        """Return the result in a mapping; what later releases added to it is left out.

        Raises:
            ValueError: It lacks fields, or one of them holds what it cannot be.
        """
        missing = [one.name for one in fields(cls) if one.name not in tree and "since" not in one.metadata]
        if missing:
            raise ValueError(f"lacks {', '.join(missing)}")
        known = {one.name: tree[one.name] for one in fields(cls) if one.name in tree}
        for name, value in known.items():
            if not _may_be(name, value):
                raise ValueError(f"{name} is {value!r}")
        return cls(**known | {"status": TrialState(tree["status"])})

    def to_tree(self) -> dict[str, Any]:
        tree = asdict(self) | {"status": self.status.value}
        return tree if self.metrics is not None else {key: value for key, value in tree.items() if key != "metrics"}


def _may_be(name: str, value: Any) -> bool:
    """Return whether a field of a result may hold a value that a file names."""
    if name in ("status", "digest", "error"):
        return value is None or isinstance(value, str)
    if value is None:
        return True
    if name in ("seed", "epochs"):
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if name == "metrics":
        return isinstance(value, Mapping) and all(isinstance(one, (int, float)) for one in value.values())
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 <= value <= (100 if "_pct" in name else math.inf)


@dataclass(frozen=True)
class TrialRow:
    """A row of `trials.csv`: the trial, the swept keys, and its result."""

    trial: str
    status: TrialState
    seed: int
    values: Mapping[str, Value]
    result: RunResult

    @staticmethod
    def columns(keys: Sequence[str], metrics: Sequence[str] = ()) -> list[str]:
        """Return the columns of a sweep of these keys, whose trials report these metrics of the user's."""
        rest = [name for name in columns(RunResult) if name not in ("status", "seed")]
        own = [own_column(name, keys) for name in metrics]
        return list(dict.fromkeys(["trial", "status", "seed", *keys, *rest, *own]))

    def cells(self) -> dict[str, Any]:
        figures = self.result.to_tree()
        figures |= {own_column(name, [*self.values]): figure for name, figure in figures.pop("metrics", {}).items()}
        return figures | {
            "trial": self.trial,
            "status": self.status.value,
            "seed": self.seed,
            "digest": self.trial,
            **self.values,
        }


def own_column(metric: str, keys: Sequence[str]) -> str:
    """Return the column of a metric of the user's, which must not hide what the table says of a trial."""
    return f"metric.{metric}" if metric in ("trial", "status", "seed", "digest", "error", "wall_s", *keys) else metric


@dataclass(frozen=True)
class SummaryRow:
    """A row of `summary.csv`: one value of a sweep. None: too few seeds to say.

    Attributes:
        values: Swept key to value; these columns come first.
        n: Seeds that finished.
        test_error_pct_mean, test_error_pct_std: Mean and standard deviation (with n - 1) over the seeds.
        ci95_low, ci95_high: Student's t interval of the mean; None where the seeds show no scatter, because an
            interval of no width would claim a certainty that equal errors on a finite test set do not give.
        delta_vs_baseline: Mean over the shared seeds of value - baseline, in per cent points of `metric`; negative is
            better. The columns from here to the verdict, and `detectable`, are about `metric` too.
        delta_ci95_low, delta_ci95_high: Its t interval, for this value alone (not corrected for the others); of a
            sequential design the one that is valid at all looks together.
        p_value: Two-sided, of the paired t-test, or of the sign test where the differences show no scatter; of a
            sequential design the sequential p.
        p_holm: Corrected over all values that were compared with the baseline.
        verdict: The decision in words, with what could have been seen.
        dropped_pct, train_img_per_s: Means over the finished seeds.
        detectable: A true difference, in per cent points, that so many seeds would have shown with at least 80 % power.
        num_better: Of the shared seeds, those in which the value had the lower error.
        delta_ci95_low_images, delta_ci95_high_images: The 95 % interval of the difference for new seeds and new images.
        test_error_pct_bn_mean, test_error_pct_bn_std, ci95_bn_low, ci95_bn_high: As those of the test error, with
            BatchNorm's statistics re-estimated without the regularizer; over the seeds that have that figure.
        delta_bn_vs_baseline, delta_bn_ci95_low, delta_bn_ci95_high: Its mean paired difference and t interval.
        metric: The field of `result.json` that the verdict is about.
        design: `fixed`, or `FIRST..LAST`, the looks of a sequential design, at all of which its p and interval hold.
        metric_mean, metric_std, metric_ci95_low, metric_ci95_high: The metric's own, as those of the test error.
        skewness: Of the paired differences (Fisher's g₁); where it is large, p is less than it should be.
        delta_test_loss, delta_test_loss_ci95_low, delta_test_loss_ci95_high, delta_ece_pct, delta_ece_pct_ci95_low,
            delta_ece_pct_ci95_high, delta_brier, delta_brier_ci95_low, delta_brier_ci95_high: Mean paired differences
            of what is secondary, over the seeds that count for the verdict, with their t intervals.
        looks: Numbers of seeds at which a fixed sweep was looked at before it was given others, which p ignores.
        decision: What the verdict says, for programs; no column of its own.
        num_pairs: Seeds that it shares with its baseline, on which the difference, its interval and p rest; 0: none.
    """

    values: Mapping[str, Value] = field(metadata={"column": False})
    n: int
    test_error_pct_mean: float | None
    test_error_pct_std: float | None
    ci95_low: float | None
    ci95_high: float | None
    delta_vs_baseline: float | None
    delta_ci95_low: float | None
    delta_ci95_high: float | None
    p_value: float | None
    p_holm: float | None
    verdict: str
    dropped_pct: float | None
    train_img_per_s: float | None
    detectable: float | None
    num_better: int | None
    delta_ci95_low_images: float | None
    delta_ci95_high_images: float | None
    test_error_pct_bn_mean: float | None
    test_error_pct_bn_std: float | None
    ci95_bn_low: float | None
    ci95_bn_high: float | None
    delta_bn_vs_baseline: float | None
    delta_bn_ci95_low: float | None
    delta_bn_ci95_high: float | None
    metric: str
    design: str
    looks: str
    metric_mean: float | None
    metric_std: float | None
    metric_ci95_low: float | None
    metric_ci95_high: float | None
    skewness: float | None
    delta_test_loss: float | None
    delta_test_loss_ci95_low: float | None
    delta_test_loss_ci95_high: float | None
    delta_ece_pct: float | None
    delta_ece_pct_ci95_low: float | None
    delta_ece_pct_ci95_high: float | None
    delta_brier: float | None
    delta_brier_ci95_low: float | None
    delta_brier_ci95_high: float | None
    decision: Decision = field(metadata={"column": False})
    num_pairs: int = field(default=0, metadata={"since": "0.3.0"})

    @staticmethod
    def columns(keys: Sequence[str]) -> list[str]:
        """Return the columns of a sweep of these keys."""
        return [*keys, *columns(SummaryRow)]

    def cells(self) -> dict[str, Any]:
        return {**self.values, **{name: getattr(self, name) for name in columns(SummaryRow)}}


def columns(row: type) -> tuple[str, ...]:
    """Return the columns of a table whose rows are of this type."""
    return tuple(one.name for one in fields(row) if one.metadata.get("column", True))
