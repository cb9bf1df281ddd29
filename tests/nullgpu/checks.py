"""What the host does with a GPU, on one that is not there: counts, refusals and what is asked for, never figures.

Not collected by itself: `test_null_gpu.py` runs it in a process that has the null GPU.
"""

import pytest
import torch

from benchmarks.launches import AIMS, NETWORKS, STEP_AIMS, counted
from tdbench import load_config
from tdbench.regularizers.registry import method_names
from tdbench.training.run import Run
from tests import nullgpu

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:.*NaN")]

METHODS = [name for name in method_names() if name != "drop_path"]  # which needs a network with branches


def run_of(**overrides):
    tiny = {"train_fraction": 0.1, "batch_size": 16, "threads": 1, "device": "cuda", "precision": "bf16"}
    return Run(load_config(overrides={**tiny, **overrides}))


def steps(run, first, last):
    """Do some steps of the run's first epoch; return what they asked for."""
    run.begin_steps()
    before = nullgpu.counts()
    for number, (images, labels) in enumerate(run.batches.epoch(1, first, last), first):
        run.train_step(images, labels, number)
    return nullgpu.counts() - before


@pytest.mark.parametrize("model", ["resnet8"])  # the others are in benchmarks/results/launches.csv
def test_a_step_takes_no_more_launches_than_it_is_to_and_does_not_wait(model):
    keys = {"model": model, "batch_size": NETWORKS[model], "precision": "bf16", "regularizer": "targetdrop"}
    eager = counted({**keys, "hardware.graph": "never"})["step"]
    assert eager.launches <= STEP_AIMS[model]
    assert (eager.copies_in, eager.copies_out, eager.syncs) == (0, 0, 0)
    recorded = counted({**keys, "hardware.graph": "auto"})["step"]
    assert (recorded.graphs, recorded.launches) == (1, AIMS["auto", "step"] - 1)
    assert abs(recorded.captured - eager.launches) <= 2  # but for the rate, and the loss's place in its table


@pytest.mark.parametrize("name", METHODS)
def test_no_step_waits_for_the_gpu_or_reads_from_the_host(name):
    run = run_of(regularizer=name, **{"hardware.graph": "never"})
    steps(run, 0, 2)
    run.begin_steps()
    for number, (images, labels) in enumerate(run.batches.epoch(1, 2, 4), 2):
        before = nullgpu.counts()
        torch.cuda.set_sync_debug_mode("error")
        try:
            run.train_step(images, labels, number)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        spent = nullgpu.counts() - before
        assert (spent.copies_in, spent.copies_out, spent.syncs) == (0, 0, 0)


@pytest.mark.parametrize("name", METHODS)
def test_the_steps_of_every_method_are_recorded(name):
    run = run_of(regularizer=name, **{"regularizer.schedule": "constant", "hardware.graph": "always"})
    steps(run, 0, 6)
    assert run.graph.outcome == "recorded"
    assert steps(run, 6, 7).graphs == 1
