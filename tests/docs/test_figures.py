"""The figures on the pages of the documentation are those of the files that a command wrote."""

import json
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def page(name: str) -> str:
    """Return a page with its lines and rows as one running text."""
    return " ".join((ROOT / "docs" / name).read_text(encoding="utf-8").split())


PERFORMANCE = page("performance.md")


def table(name: str) -> pd.DataFrame:
    return pd.read_csv(RESULTS / name)


def between(figures: pd.Series, form: str = ".1f") -> str:
    low, high = (format(figure, form).replace("-", "−") for figure in (figures.min(), figures.max()))
    return f"{low} to {high}"


def of(figures: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """Return the rows that have these cells."""
    for column, value in wanted.items():
        figures = figures[figures[column] == value]
    assert len(figures)
    return figures


@pytest.mark.parametrize(
    ("what", "method", "column", "form"),
    [
        ("TargetDrop, times the floor", "targetdrop", "floor_ratio", ".1f"),
        ("torchvision's DropBlock2d, times TargetDrop", "targetdrop", "dropblock_speedup", ".0f"),
        ("torchvision's DropBlock2d, times `dropblock`", "dropblock", "dropblock_speedup", ".0f"),
    ],
)
def test_the_layers_on_a_cpu(what, method, column, form):
    layers = of(table("layer_cpu.csv"), method=method, n=21)
    fp32, bf16 = (of(layers, dtype=dtype)[column] for dtype in ("float32", "bfloat16"))
    assert f"| {what} | {between(fp32, form)} | {between(bf16, form)} |" in PERFORMANCE


def test_the_step_on_a_cpu():
    (drop,), (none,) = (
        of(table("step_cpu.csv"), method=method, n=40).itertuples() for method in ("targetdrop", "none")
    )
    ends = [between(pd.Series([row.overhead_ci95_low, row.overhead_ci95_high])) for row in (drop, none)]
    assert f"take {drop.layer_pct:.2f} % of the time, and to count what they drop {drop.meter_pct:.2f} %" in PERFORMANCE
    assert f"{drop.overhead_pct:.1f} % slower (95 % interval {ends[0]} %, n = 40 turns)" in PERFORMANCE
    assert f"against itself {none.overhead_pct:.1f} % ({ends[1]} %)" in PERFORMANCE


@pytest.mark.parametrize(
    ("what", "loop", "method", "compiled"),
    [
        ("a plain loop: DataLoader, fp32, `.item()` each step", "plain", "none", False),
        ("`tdbench train`", "tdbench", "none", False),
        ("and `targetdrop`", "tdbench", "targetdrop", False),
        ("`--compile`", "tdbench", "none", True),
        ("and `targetdrop`, `--compile`", "tdbench", "targetdrop", True),
    ],
)
def test_the_runs_on_a_cpu_against_the_bare_step(what, loop, method, compiled):
    runs = of(table("train_cpu.csv"), loop=loop, regularizer=method, compile=compiled, status="done")
    shares = [of(runs, model=network).of_bare for network in ("resnet18", "resnet8")]
    assert all(len(share) == 3 for share in shares)
    cells = [f"{share.median():.2f} ({between(share, '.2f')})" for share in shares]
    assert f"| {what} | {cells[0]} | {cells[1]} |" in PERFORMANCE


def test_a_sweep_over_a_folder():
    rows = table("folder_cpu.csv").set_index("what")
    (ratio,) = rows[rows.index.str.endswith("over the training in it and one decoding")].itertuples()
    gap = rows.loc["from the end of a trial to the start of the next"]
    told = f"takes {ratio.median:.2f} times the training in it plus one decoding, and {gap['median']:.2f} s"
    assert f"{told} ({gap.low:.2f} to {gap.high:.2f} s, n = {gap.n:.0f}) pass" in PERFORMANCE


@pytest.mark.parametrize(("network", "batch_size"), [("resnet18", 128), ("resnet8", 64)])
@pytest.mark.parametrize("method", ["none", "targetdrop"])
def test_the_images_per_second_on_a_gpu(network, batch_size, method):
    runs = of(table("train_cuda.csv"), model=network, regularizer=method, batch_size=batch_size, precision="bf16")
    cells = []
    for graph, compiled in (("never", False), ("auto", False), ("auto", True)):
        found = runs[(runs.graph == graph) & (runs["compile"] == compiled)].train_img_per_s
        cells.append(f"{round(found.item(), -2):,.0f}" if len(found) else "—")
    assert f"| `{network}`, {batch_size} | `{method}` | {' | '.join(cells)} |" in PERFORMANCE


def test_the_layer_and_the_step_on_a_gpu():
    layers = of(table("layer_cuda.csv"), method="targetdrop", dtype="bfloat16")
    told = f"{between(layers.floor_ratio)} times the floor in bf16, torchvision's DropBlock2d"
    assert f"{told} {between(layers.dropblock_speedup)} times as long as it" in PERFORMANCE
    (step,) = of(table("step_cuda.csv"), method="targetdrop", n=15).itertuples()
    interval = between(pd.Series([step.overhead_ci95_low, step.overhead_ci95_high]))
    assert (
        f"adds {step.overhead_pct:.1f} % to ResNet-18's step (95 % interval {interval} %, n = 15 turns" in PERFORMANCE
    )


def test_a_loaded_machine_the_start_and_large_sweeps():
    load = table("load_cpu.csv").set_index("case")
    assert set(load.turns) == {5}
    chosen, spinning = (100 * load.share_of_idle[f"loaded, {case}"] for case in ("chosen", "spinning"))
    assert f"keeps {chosen:.0f} % of the images/s of the idle machine, against {spinning:.0f} %" in PERFORMANCE
    start = table("startup.csv").set_index("command").share_of_import_torch.drop('python -c "import torch"') * 100
    lives = start[start.index.str.endswith("sign of life")]
    assert f"after {between(lives, '.0f')} %" in PERFORMANCE
    assert f"answer in {between(start.drop([*lives.index, 'train of one step']), '.0f')} % of" in PERFORMANCE
    assert f"takes {start['train of one step'] / 100:.2f} times as long" in PERFORMANCE
    large = table("sweep_large.csv")
    assert set(large.turns) == {3}
    planned, resumed = (large[large.unit == "s"]["median"].iloc[at] for at in (0, 1))
    told = (
        f"is planned in {planned:.1f} s and told in {resumed:.1f} s, in {large.high[large.unit == 'MiB'].max():.0f} MiB"
    )
    assert told in PERFORMANCE


def test_the_time_to_a_verdict():
    sweeps = table("verdict.csv")
    effect, nothing = of(sweeps, question="effect"), of(sweeps, question="nothing")
    fixed = effect.design.str.startswith("fixed")
    assert (
        f"took {between(effect.runs[~fixed], '.0f')} runs, the fixed one of equal power {effect.runs[fixed].max()}"
        in (PERFORMANCE)
    )
    assert set(effect.verdict) == {"hurts"}
    assert f"in {fixed.sum()} of {(~fixed).sum()} repetitions" in PERFORMANCE
    assert nothing.verdict.str.startswith("undecided").all()


def test_what_kills_and_damage_came_to():
    text, faults = page("reproducing.md"), table("faults.csv")
    kinds = ("killed at a write", "ENOSPC at a write", "EIO at a write", "signal at a random moment")
    ended = faults[faults.kind.isin(kinds)]
    assert f"All {len(ended)} kills, signals and broken writes ended with the figures" in text
    assert set(ended.outcome) == {"same"}
    damaged = of(faults, kind="damage in a file").outcome.value_counts()
    assert f"of {damaged.sum()} damaged files {damaged['same']} did too, and the other {damaged['refused']}" in text
    typed = of(faults, kind="typed input")
    assert f"of some {round(typed.attempts.sum(), -3):,} typed inputs none" in text
    assert set(typed.outcome) == {"same", "refused"}


def test_the_first_run():
    run = json.loads((RESULTS / "train_digits.json").read_text())
    told = f"about {run['wall_s']:.0f} s on two CPU cores, and ends at {run['test_error_pct']:.2f} % test error"
    assert told in page("index.md")
