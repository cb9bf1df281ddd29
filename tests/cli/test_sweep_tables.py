"""The outcome of a sweep on a terminal: what is unfinished is named where there is a reason, and counted where not."""

import pytest

from tdbench.cli.sweep_tables import print_outcome
from tdbench.cli.sweep_terminal import trial_names
from tdbench.store.rows import RunResult, TrialState
from tdbench.sweep.ablate import open_sweep
from tests.sweep.test_runner import tiny_plan


@pytest.fixture
def sweep(tmp_path):
    return open_sweep(tiny_plan(seeds=(0, 1, 2), block_size=(3, 5), **{"augment.mixup": (0, 0.2)}), tmp_path)


def test_trials_that_wait_are_counted_and_those_that_failed_named_with_what_was_swept(sweep, capsys):
    failed = sweep.plan.points[-1].trials[1]
    sweep.records[failed] = RunResult(TrialState.FAILED, failed, 1, error="out of memory")
    sweep.changed(None)
    print_outcome(sweep, sweep.tables())
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if ", seed " in line] == ["block_size 5, mixup 0.2, seed 1: failed, out of memory"]
    assert f"{len(sweep.records) - 1} trials to be run" in told
    assert "--retry-failed runs these again" in told


def test_a_trial_is_named_by_what_was_swept(sweep):
    names = [*trial_names(sweep.plan).values()]
    assert names[0] == "none, mixup 0 (baseline), seed 0"
    assert names[-1] == "block_size 5, mixup 0.2, seed 2"
