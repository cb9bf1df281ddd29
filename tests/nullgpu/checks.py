"""What the host does with a GPU, on one that is not there: counts, refusals and what is asked for, never figures.

Not collected by itself: `test_null_gpu.py` runs it in a process that has the null GPU.
"""

import threading
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.launches import AIMS, NETWORKS, NUM_SITES, STEP_AIMS, counted
from tdbench import load_config
from tdbench.audit import measure
from tdbench.audit.passage import ratios
from tdbench.cli import main
from tdbench.errors import ConfigError
from tdbench.profiling.layer import Setting, profile_layers
from tdbench.profiling.timing import host_ms, median_ms
from tdbench.regularizers.registry import find_method
from tdbench.show import drops
from tdbench.store.profiles import layer_table
from tdbench.training.repeat import RepeatedStep
from tdbench.training.run import Run
from tdbench.training.setup import Setup
from tests import nullgpu
from tests.training.no_waiting import METHODS, of_each_run, without_waiting

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:.*NaN")]


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
    bare = counted({**keys, "hardware.graph": "never", "regularizer": "none"})["step"]
    assert eager.launches <= STEP_AIMS[model]
    assert (eager.launches - bare.launches) / NUM_SITES <= AIMS["never", "site"]
    assert (eager.copies_in, eager.copies_out, eager.syncs) == (0, 0, 0)
    recorded = counted({**keys, "hardware.graph": "auto"})["step"]
    assert (recorded.graphs, recorded.launches) == (1, AIMS["auto", "step"] - 1)
    assert abs(recorded.captured - eager.launches) <= 2  # but for the rate, and the loss's place in its table


def test_a_batch_takes_one_gather_and_one_pass_whatever_is_cropped_and_flipped():
    keys = {"model": "resnet8", "hardware.graph": "never", "augment.flip": True, "augment.crop_padding": 2}
    batch = counted(keys)["batch"]
    assert batch == nullgpu.NOTHING._replace(launches=AIMS["never", "batch"])


@of_each_run
def test_no_step_waits_for_the_gpu_or_reads_from_the_host(knobs):
    run = run_of(**knobs, **{"hardware.graph": "never"})
    steps(run, 0, 2)
    run.begin_steps()
    for number, (images, labels) in enumerate(run.batches.epoch(1, 2, 4), 2):
        before = nullgpu.counts()
        with without_waiting():
            run.train_step(images, labels, number)
        spent = nullgpu.counts() - before
        assert (spent.copies_in, spent.copies_out, spent.syncs) == (0, 0, 0)


def test_backward_runs_in_the_thread_of_the_step():
    run, threads = run_of(**{"hardware.graph": "never"}), []
    for weight in run.model.parameters():
        weight.register_hook(lambda grad: threads.append(threading.get_ident()))
    steps(run, 0, 1)
    assert set(threads) == {threading.get_ident()}


def test_a_strength_that_rises_in_a_recorded_step_is_set_before_each():
    run = run_of(regularizer="dropblock", **{"hardware.graph": "always"})
    set_to, fill = [], torch.Tensor.fill_

    def noted(tensor, value):
        set_to.append((tensor.dtype, value))
        return fill(tensor, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "fill_", noted)
        steps(run, 0, 6)
    rising = [value for dtype, value in set_to if dtype == torch.float64]
    assert rising == [step / run.num_steps for step in range(6) for _ in run.insertion.layers]
    assert run.graph.outcome == "recorded"


@pytest.mark.parametrize("name", METHODS)
def test_a_strength_that_is_constant_by_default_can_rise_in_a_recorded_step(name):
    run = run_of(regularizer=name, schedule="linear", **{"hardware.graph": "always"})
    steps(run, 0, 6)
    assert run.graph.outcome == "recorded"


def test_a_strength_that_the_host_has_to_read_is_not_recorded():
    with pytest.raises(ConfigError, match="strength rises on the host"):
        run_of(schedule="linear", target_fraction=0.5, **{"hardware.graph": "always"})
    run = run_of(schedule="linear", **{"hardware.graph": "auto"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TDBENCH_TRITON", "0")
        steps(run, 0, 6)
    assert (
        run.graph.outcome == "RuntimeError: the regularizer's strength rises on the host for feature maps such as these"
    )


def test_a_step_that_must_be_recorded_in_a_run_that_is_too_short_for_it_is_refused():
    with pytest.raises(ConfigError, match="a step is recorded after 4 others, and the run has 4"):
        run_of(max_steps=4, **{"hardware.graph": "always"})
    assert run_of(max_steps=4).graph.outcome == "too few steps"


def test_a_batch_of_images_that_are_not_held_on_the_gpu_is_one_copy_and_no_wait(tmp_path):
    for number in range(64):
        path = tmp_path / ["train", "test"][number % 2] / "ab"[number % 3 % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number, 0, 0)).save(path)
    keys = {"data": "folder", "data_root": tmp_path, "resident_mib": 0, "train_fraction": 1, "batch_size": 8}
    batches = run_of(**keys).batches.epoch(1, 0, 4)
    next(batches)
    before = nullgpu.counts()
    with without_waiting():
        list(batches)
    spent = nullgpu.counts() - before
    assert (spent.copies_in, spent.copies_out, spent.syncs) == (3, 0, 0)


@pytest.mark.parametrize("name", METHODS)
def test_the_steps_of_every_method_are_recorded_with_its_own_schedule_too(name):
    run = run_of(regularizer=name, **{"hardware.graph": "always"})
    steps(run, 0, 6)
    assert run.graph.outcome == "recorded"
    assert steps(run, 6, 7).graphs == 1


def test_calls_are_timed_on_a_busy_gpu_and_steps_as_they_follow_one_another(monkeypatch):
    x, device, leads = torch.zeros(8, device="cuda"), torch.device("cuda", 0), []
    monkeypatch.setattr(torch.cuda, "_sleep", leads.append)
    assert median_ms(lambda: x + 1, device, 0.01, busy=False) > 0
    assert leads == []
    assert median_ms(lambda: x + 1, device, 0.01) > 0
    assert max(leads) > 0


def test_what_the_host_takes_to_launch_a_call_is_its_own_time():
    now = iter(range(1000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: next(now))
        assert host_ms(lambda: None, torch.device("cuda", 0), 10) == 1e3


def test_a_repeated_step_keeps_no_events():
    step = RepeatedStep(load_config(overrides={"device": "cuda", "batch_size": 16}))
    step()
    before = nullgpu.counts().events
    for _ in range(10):
        step()
    assert nullgpu.counts().events == before


@pytest.mark.slow  # it imports torch's compiler
def test_the_profile_of_a_layer_on_a_gpu_tells_the_host_s_time():
    setting = Setting(torch.device("cuda", 0))
    costs = profile_layers({"dropout": find_method("dropout")().build}, (4, 8, 8, 8), setting, 0.02, turns=1)
    figures = [cost.figures() for cost in costs]
    assert [row["method"] for row in figures] == ["floor", "dropout"]
    assert all(0 < row["host_ms"] < 1000 for row in figures)
    assert "host ms" in layer_table(figures)[0]


class NoFp64(TorchDispatchMode):
    """A GPU without double precision, as Apple's are."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        if any(tensor.is_cuda and tensor.dtype == torch.float64 for tensor in tensors):
            raise TypeError("the device has no fp64")
        return out


def test_masks_are_measured_and_shown_on_a_device_without_fp64(monkeypatch):
    for module in (measure, drops):
        monkeypatch.setattr(module, "mask_of", lambda layer, x: (torch.ones_like(x), x))
    config = load_config(overrides={"device": "cuda", "regularizer": "dropout", "precision": "fp32"})
    setup = Setup(config)
    images, _ = next(setup.train_batches().epoch(1, 0, 1))
    with NoFp64():
        assert measure.draw_mask(torch.nn.Identity(), images).num_units == images.numel()
        assert len(ratios(images, images)) == 2
        assert drops.observe_drops(setup, config, images, 4).maps.shape[0] == 4


def test_a_run_with_kernels_of_triton_warns_of_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["train", "--device", "cuda", "--max-steps", "6", "--set", "evaluate.bn_batches=0", "--quiet"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main([*command, "--out", "run"]) in (0, 1)  # its loss, of whatever was in memory, may be no number
    assert Path("run/result.json").exists()
