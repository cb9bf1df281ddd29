"""What only a GPU can show of a whole run: no synchronisation in a step, resume bit for bit, one NCCL process, OOM."""

import csv
import io
import math
from pathlib import Path

import pytest
import torch

from tdbench.cli import main
from tdbench.training.checkpoint import restore, state_of
from tdbench.training.run import Run
from tests.training.no_waiting import METHODS, of_each_run, without_waiting
from tests.training.one_of_several import learn_as_one_of_several
from tests.training.test_run import run_of as run_anywhere
from tests.training.test_run import train

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    state, deterministic = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_rng_state(state)
    torch.use_deterministic_algorithms(deterministic)


def run_of(**overrides):
    return run_anywhere(device="cuda", **overrides)


@of_each_run
def test_no_step_waits_for_the_gpu(knobs):
    run = run_of(**knobs)
    train(run, 0, 2)
    run.begin_steps()
    for number, (images, labels) in enumerate(run.batches.epoch(run.epoch, 2, 6), 2):
        with without_waiting():
            run.train_step(images, labels, number)
    assert run.graph.outcome == "recorded"


@pytest.mark.parametrize("name", METHODS)
def test_recorded_steps_are_bit_for_bit_the_eager_ones(name):
    states = []
    for graph in ("never", "always"):
        knobs = {
            "regularizer": name,
            "regularizer.schedule": "constant",
            "deterministic": True,
            "hardware.graph": graph,
        }
        run = run_of(**knobs)
        train(run, 0, 8)
        row = run.end_epoch()
        states.append({**run.model.state_dict(), "loss": torch.tensor([row.train_loss, row.dropped_pct])})
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_a_step_that_cannot_be_recorded_goes_on_as_it_is(monkeypatch):
    learn = Run.learn

    def waiting(run, images, labels):
        loss = learn(run, images, labels)
        float(loss)
        return loss

    states = []
    for graph in ("never", "auto"):
        with monkeypatch.context() as patch:
            patch.setattr(Run, "learn", waiting)
            run = run_of(regularizer="dropout", deterministic=True, **{"hardware.graph": graph})
            train(run, 0, 8)
        states.append(run.model.state_dict())
    assert run.graph.refused
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize("knobs", [{}, {"regularizer": "dropout"}, {"precision": "fp16"}], ids=str)
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(knobs):
    knobs = {"deterministic": True, **knobs}
    whole = run_of(**knobs)
    train(whole, 0, 8)
    part = run_of(**knobs)
    train(part, 0, 3)
    buffer = io.BytesIO()
    torch.save(state_of(part), buffer)
    buffer.seek(0)
    resumed = run_of(**knobs)
    restore(resumed, torch.load(buffer, weights_only=True))
    train(resumed, 3, 8)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_an_overflow_in_the_first_steps_of_fp16_ends_nothing():
    run = run_of(precision="fp16", max_steps=8)
    train(run, *run.steps_of_epoch())
    assert math.isfinite(run.end_epoch().train_loss)


def test_one_process_of_nccl_learns_what_a_plain_one_does():
    plain, joined = learn_as_one_of_several("cuda")
    assert Path("network").read_text().startswith("DistributedDataParallel by ")
    assert "cuda:nccl" in Path("network").read_text()
    assert plain == joined


def test_what_does_not_fit_is_a_cell_and_the_next_one_is_measured():
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.04)  # other tests may have the rest
    command = ["profile", "--device", "cuda", "--model", "resnet8", "--regularizer", "none,targetdrop", "--out", "cost"]
    try:
        assert main([*command, "--shape", "4096x64x64x64", "--seconds", "0.1", "--batch-size", "32"]) in (0, 1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    with Path("cost/profile_layer.csv").open(newline="") as file:
        assert "OOM" in {row["status"] for row in csv.DictReader(file)}
    with Path("cost/profile_step.csv").open(newline="") as file:
        assert {row["status"] for row in csv.DictReader(file)} == {"ok"}


def test_an_audit_of_every_method_finds_nothing():
    for name in METHODS:
        assert main(["audit", "--device", "cuda", "--regularizer", name, "--quiet"]) == 0, name


def test_two_trials_share_a_gpu():
    command = ["ablate", "--param", "block_size=3,5", "--seeds", "1", "--device", "cuda", "--per-gpu", "2"]
    assert main([*command, "--train-fraction", "0.1", "--max-steps", "6", "--out", "sweep", "--quiet"]) == 0
    with Path("sweep/trials.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["done"] * 3
