"""Which runs record their steps as CUDA graphs, and what they say where they do not; a GPU is needed for the rest."""

import weakref
from dataclasses import replace

import pytest
import torch

from tdbench import load_config
from tdbench.errors import ConfigError
from tdbench.regularizers.dropout.layer import Dropout
from tdbench.training.facts import recording
from tdbench.training.graph import EAGER_STEPS, StepGraph, check_recorded, keep_strength_live, reason_against
from tdbench.training.hardware import Hardware, resolve
from tdbench.training.run import Run

GPU = Hardware(torch.device("cuda", 0), "bf16", torch.channels_last, False, 2)


def test_a_plain_run_on_a_gpu_is_recorded():
    assert reason_against(load_config(), GPU, 1) is None
    assert recording(load_config(), GPU, 1) == ", each step a CUDA graph"
    assert recording(load_config(overrides={"hardware.graph": "never"}), GPU, 1) == ""
    assert reason_against(load_config(overrides={"regularizer": "dropblock"}), GPU, 1, can_rise=True) is None


@pytest.mark.parametrize(
    ("knobs", "hardware", "num_processes", "reason"),
    [
        ({}, resolve(load_config(overrides={"device": "cpu"}).hardware), 1, "cpu"),
        ({}, GPU, 2, "several processes"),
        ({}, replace(GPU, precision="fp16"), 1, "fp16"),
        ({"schedule": "linear"}, GPU, 1, "strength rises"),
        ({"regularizer": "attentiondrop"}, GPU, 1, "strength rises"),
        ({"model": "net.py:make"}, GPU, 1, "user's code"),
    ],
)
def test_what_depends_on_the_host_is_not(knobs, hardware, num_processes, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("def make(num_classes, in_channels): ...\n")
    config = load_config(overrides=knobs)
    assert reason in reason_against(config, hardware, num_processes)
    if hardware.device.type == "cuda":
        assert reason in recording(config, hardware, num_processes)


def test_a_run_whose_steps_must_be_recorded_and_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"hardware\.graph must not be always here: device cpu"):
        Run(load_config(overrides={"device": "cpu", "hardware.graph": "always", "train_fraction": 0.1}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU records it")
def test_where_recording_fails_the_step_goes_on_or_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: (_ for _ in ()).throw(RuntimeError("no graphs here")))
    x, y = torch.ones(2, 3), torch.ones(2)
    graph = StepGraph(lambda images, labels: images.sum() + labels.sum(), must=False)
    assert [float(graph(x, y)) for _ in range(EAGER_STEPS + 2)] == [8.0] * (EAGER_STEPS + 2)
    assert graph.refused == "RuntimeError: no graphs here"
    graph = StepGraph(lambda images, labels: images.sum(), must=True)
    for _ in range(EAGER_STEPS):
        graph(x, y)
    with pytest.raises(ConfigError, match="no graphs here"):
        graph(x, y)


def test_a_strength_is_kept_on_a_device_for_steps_that_are_fixed_and_by_layers_that_can_read_it_there():
    class Late(Dropout):
        @property
        def rate(self):
            return self.full_rate * self.strength**4

    tiny = {"device": "cpu", "train_fraction": 0.1, "regularizer": "dropout", "schedule": "linear"}
    insertion = Run(load_config(overrides=tiny)).insertion
    layers = insertion.layers.values()
    for device, is_fixed in (("cpu", False), ("mps", True)):
        keep_strength_live(insertion, torch.device(device), is_fixed)
        assert all(layer.live_strength is None for layer in layers)
    for layer in layers:
        layer.__class__ = Late
    keep_strength_live(insertion, torch.device("cpu"), True)
    assert all(layer.live_strength is None for layer in layers)
    Late.rises_live = True
    keep_strength_live(insertion, torch.device("cpu"), True)
    assert all(layer.live_strength == 1 for layer in layers)


def test_a_recording_that_fails_keeps_nothing_of_its_step(monkeypatch):
    def learn(images, labels):
        activations = images * 2
        kept.append(weakref.ref(activations))
        try:
            raise ValueError("the step asks the host")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(StepGraph, "_recorded", lambda graph, images, labels: learn(images, labels))
    kept, graph = [], StepGraph(lambda images, labels: images.sum(), must=False)
    for _ in range(EAGER_STEPS + 1):
        graph(torch.ones(2, 3), torch.ones(2))
    assert graph.refused == "ValueError: the step asks the host"
    assert kept[0]() is None


def test_a_recording_in_which_a_strength_was_read_from_the_host_is_refused(monkeypatch):
    tiny = {"device": "cpu", "train_fraction": 0.1, "schedule": "linear"}
    insertion = Run(load_config(overrides=tiny)).insertion
    insertion.layers["stage2"].rises_live = False
    check_recorded(insertion, torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="rises on the host"):
        check_recorded(insertion, GPU.device)
    insertion.layers["stage2"].rises_live = True
    insertion.set_progress(0.0)
    with pytest.raises(RuntimeError, match="rises on the host"):
        check_recorded(insertion, GPU.device)  # at strength 0 the step drops nothing, and would drop nothing for good
    insertion.set_progress(0.5)
    check_recorded(insertion, GPU.device)


def test_what_ended_a_recording_is_told_and_not_that_it_was_ended(monkeypatch):
    def recorded(graph, images, labels):
        try:
            raise ValueError("the step asks the host")
        except ValueError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904

    monkeypatch.setattr(StepGraph, "_recorded", recorded)
    graph = StepGraph(lambda images, labels: images.sum(), must=False)
    for _ in range(EAGER_STEPS + 1):
        graph(torch.ones(2, 3), torch.ones(2))
    assert (graph.refused, type(graph.error)) == ("ValueError: the step asks the host", ValueError)
