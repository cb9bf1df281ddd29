"""Time to a verdict: the sequential design against the fixed one of equal power, on real runs, and its false verdicts.

    python benchmarks/verdict.py --out benchmarks/results/verdict.csv

A known effect: TargetDrop at γ = 0.5 on a fifth of the digits, ResNet-8. The sequential sweep runs 3 to 20 seeds. The
fixed one runs n seeds, where n is the least whose power, by simulation, is that of the sequential design at the effect
of `benchmarks/results`, in units of the scatter. Both take the same seeds, other ones in each repetition, so that the
fixed sweep only adds those that the sequential one did not need. And no effect: dropout with p = 0 against none.
"""

import platform
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer

import tdbench
from tdbench.sweep.inference import estimate, paired_p_values
from tdbench.sweep.sequential import Design, sequential_p, smallest_weighted_p
from tdbench.training.hardware import cpu_name

FIRST, LAST = 3, 20
PATHS = 50_000
EFFECT = {"regularizer": "targetdrop", "drop_ratio": 0.5}
NOTHING = {"regularizer": "dropout", "p": 0.0}


def fixed_seeds(effect: float) -> tuple[int, float]:
    """Return the least n at which a fixed design has the power of the sequential one, and that power."""
    paths = effect + np.random.default_rng(0).standard_normal((LAST, PATHS))
    power = float(np.mean(sequential_p(smallest_weighted_p(paths, FIRST), Design(FIRST, LAST)) <= 0.05))
    for n in range(FIRST, LAST):
        if np.mean(paired_p_values(estimate(paths[:n].T)) <= 0.05) >= power - 0.002:  # three standard errors
            return n, power
    return LAST, power


def sweep(arm: dict[str, Any], seeds: list[int], first_look: int | None, epochs: int, out: Path) -> dict[str, Any]:
    """Run a sweep of one value against none; return its row and what it cost."""
    base = {"data": {"train_fraction": 0.2}, "training": {"epochs": epochs, "batch_size": 32, "eval_every": epochs}}
    experiment: dict[str, Any] = {"base": base, "arms": {"value": arm}, "seeds": seeds}
    found = tdbench.ablate(experiment | ({"first_look": first_look} if first_look else {}), out=out)
    row = found.summary.iloc[1]
    trials = found.trials[found.trials.status == "done"]
    return {
        "runs": len(trials),
        "run_seconds": round(float(trials.wall_s.sum()), 1),
        "n": int(row.n),
        "verdict": row.verdict,
        "difference": row.delta_vs_baseline,
        "ci95_low": row.delta_ci95_low,
        "ci95_high": row.delta_ci95_high,
        "p": row.p_holm,
    }


def main(
    out: Annotated[Path, typer.Option(help="CSV file.")] = Path("benchmarks/results/verdict.csv"),
    repetitions: Annotated[int, typer.Option()] = 5,
    epochs: Annotated[int, typer.Option(help="Of each run.")] = 20,
    effect: Annotated[float, typer.Option(help="Of γ = 0.5, in standard deviations of the difference.")] = 1.5,
) -> None:
    num_fixed, power = fixed_seeds(effect)
    common = {"effect": effect, "power": round(power, 4), "cpu": cpu_name(), "torch": torch.__version__}
    common |= {"python": platform.python_version()}
    rows = []
    for number in range(repetitions):
        seeds = [1000 * (number + 1) + seed for seed in range(LAST)]
        for question, arm, of_each in (("effect", EFFECT, epochs), ("nothing", NOTHING, 2)):
            with tempfile.TemporaryDirectory() as place:
                told = {"repetition": number, "question": question}
                taken = sweep(arm, seeds, FIRST, of_each, Path(place, "sequential"))
                rows.append(told | {"design": f"{FIRST}..{LAST}"} | taken | common)
                if question == "effect":
                    taken = sweep(arm, seeds[:num_fixed], None, of_each, Path(place, "fixed"))
                    rows.append(told | {"design": f"fixed {num_fixed}"} | taken | common)
            print(pd.DataFrame(rows).iloc[:, :8].to_string(index=False), flush=True)
            pd.DataFrame(rows).to_csv(out, index=False)  # what is measured is kept


if __name__ == "__main__":
    typer.run(main)
