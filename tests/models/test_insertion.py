"""What an insertion does for somebody else's training loop: the schedule by steps, and the share that is dropped."""

import copy

import pytest
import torch
from torch import nn

from tdbench import insert, load_config
from tdbench.errors import ConfigError
from tdbench.training.run import Run


def network(**knobs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 2))
    return model, insert(model, "spatial_dropout", "1", image_shape=(1, 8, 8), **knobs)


def strength(insertion):
    (layer,) = insertion.layers.values()
    return layer.strength


def test_the_strength_rises_over_the_steps_as_it_does_in_a_run_of_ours():
    _, insertion = network(schedule="linear", ramp=0.5, num_steps=8)
    config = load_config(overrides={"regularizer": "spatial_dropout", "schedule": "linear", "ramp": 0.5, "threads": 1})
    ours, theirs = [], []
    for step in range(8):
        theirs.append(strength(insertion))
        insertion.step()
        ours.append(config.regularizer.strength_at(step / 8))
    assert theirs == ours == [0, 0.25, 0.5, 0.75, 1, 1, 1, 1]
    assert strength(insertion) == 1
    insertion.step(done=2)  # a checkpoint was loaded
    assert strength(insertion) == 0.5
    insertion.step()
    assert strength(insertion) == 0.75


def test_a_constant_schedule_needs_no_number_of_steps_and_a_linear_one_does():
    _, insertion = network()
    insertion.step()
    assert strength(insertion) == 1
    _, insertion = network(schedule="linear")
    with pytest.raises(ConfigError, match=r"num_steps must be given to insert for step\(\).*got None"):
        insertion.step()


@pytest.mark.parametrize("wrong", [0, -3, 2.5, True, "10"])
def test_a_number_of_steps_that_is_none_is_refused(wrong):
    with pytest.raises(ConfigError, match="num_steps must be a whole number of at least 1, got"):
        network(num_steps=wrong)


def test_the_share_is_what_was_dropped_in_training_since_the_last_call():
    model, insertion = network(p=1.0)
    images = torch.rand(4, 1, 8, 8) + 0.5
    assert insertion.dropped_pct() is None
    model.eval()(images)
    assert insertion.dropped_pct() is None
    model.train()(images)
    assert insertion.dropped_pct() == 100
    assert insertion.dropped_pct() is None
    _, gentle = network(p=0.3)
    total, num_calls = 0.0, 200
    for _ in range(num_calls):
        gentle.layers["1"](torch.ones(8, 8, 4, 4))
    total = gentle.dropped_pct()
    assert abs(total - 30) <= 100 * 5 * (0.3 * 0.7 / (num_calls * 8 * 8)) ** 0.5


def test_counting_follows_the_network_to_another_device():
    model, insertion = network(p=1.0)
    model.to("meta")(torch.rand(2, 1, 8, 8, device="meta"))
    assert insertion.layers["1"].meter.counts.device.type == "meta"


def test_a_copy_counts_for_itself_and_a_run_of_ours_counts_from_its_start():
    model, insertion = network(p=1.0)
    copy.deepcopy(model).train()(torch.rand(2, 1, 8, 8))
    assert insertion.dropped_pct() is None
    run = Run(load_config(overrides={"train_fraction": 0.1, "max_steps": 2, "batch_size": 32, "threads": 1}))
    assert run.insertion.read_meter() == {"stage1": (0, 0), "stage2": (0, 0)}


@pytest.mark.parametrize(
    ("method", "wrong", "words"),
    [
        ("step", -1, "done must be a whole number of at least 0, got -1"),
        ("step", "3", "done must be a whole number of at least 0, got '3'"),
        ("step", 2.5, "done must be a whole number"),
        ("set_progress", -0.5, "progress must be at least 0, got -0.5"),
        ("set_progress", float("nan"), "progress must be at least 0, got nan"),
    ],
)
def test_a_place_in_the_training_that_is_none_is_refused_and_changes_nothing(method, wrong, words):
    _, insertion = network(schedule="linear", num_steps=8)
    insertion.step(done=4)
    before = [layer.strength for layer in insertion.layers.values()]
    with pytest.raises(ConfigError, match=words):
        getattr(insertion, method)(wrong)
    assert [layer.strength for layer in insertion.layers.values()] == before
