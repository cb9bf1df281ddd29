"""The optimizer of a run is torch's own with the configured knobs, or the user's; weights, gradients and averages."""

import io
from copy import deepcopy
from itertools import chain

import pytest
import torch
import torch.nn.functional as F

from tdbench import load_config
from tdbench import train as train_run
from tdbench.config.torch_signatures import optimizers
from tdbench.errors import ConfigError
from tdbench.store.rows import TrialState
from tdbench.training.checkpoint import restore, state_of
from tdbench.training.optimizer import make_optimizer
from tests.config.test_optimization import SUITABLE
from tests.training.test_batchnorm import assert_same
from tests.training.test_run import _leave_torch_as_it_was as _leave_torch_as_it_was
from tests.training.test_run import run_of as run_with_threads
from tests.training.test_run import train

PLAIN = {"regularizer": "none", "precision": "fp32", "schedule.name": "constant", "schedule.warmup_epochs": 0}
CPU = torch.device("cpu")


def run_of(**overrides):
    return run_with_threads(threads=1, **overrides)


def batches_of(run, num_steps):
    return list(run.batches.epoch(1, 0, num_steps))


def by_hand(run, optimizer, num_steps, clip_norm=None):
    """Return a copy of a run's network, trained by an ordinary loop."""
    network = deepcopy(run.model).train()
    made = optimizer(network)
    for images, labels in batches_of(run, num_steps):
        made.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        if clip_norm is not None:
            total = torch.stack([one.grad.square().sum() for one in network.parameters()]).sum().sqrt()
            for one in network.parameters():
                one.grad.mul_(min(1.0, clip_norm / (float(total) + 1e-6)))
        made.step()
    return network


@pytest.mark.parametrize("name", SUITABLE)
def test_every_optimizer_does_what_a_loop_with_torch_s_own_does(name):
    smooth = {"eps": 1e-3} if "eps" in optimizers()[name] else {}  # so that a rounding in the gradient stays small
    run = run_of(**PLAIN, **{"optimizer.name": name, "lr": 0.01}, **{f"optimizer.{key}": smooth[key] for key in smooth})
    kind = {one.lower(): entry for one, entry in vars(torch.optim).items()}[name]
    knobs = {"lr": 0.01} | smooth
    if name == "sgd":
        knobs |= {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    network = by_hand(run, lambda network: kind(network.parameters(), **knobs), 3)
    train(run, 0, 3)
    for ours, theirs in zip(run.model.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5)


def test_a_dampened_momentum_is_torch_s():
    knobs = {"lr": 0.05, "momentum": 0.9, "dampening": 0.5, "nesterov": False, "weight_decay": 0.0}
    run = run_of(**PLAIN, **{f"optimizer.{key}": value for key, value in knobs.items()})
    network = by_hand(run, lambda network: torch.optim.SGD(network.parameters(), **knobs), 2)
    train(run, 0, 2)
    for ours, theirs in zip(run.model.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5)


def test_gradients_are_cut_to_a_norm():
    run = run_of(**PLAIN, **{"nesterov": False, "momentum": 0.0, "weight_decay": 0.0, "optimizer.clip_norm": 0.05})
    network = by_hand(run, lambda network: torch.optim.SGD(network.parameters(), lr=0.1), 3, clip_norm=0.05)
    before = deepcopy(run.model)
    train(run, 0, 1)
    moved = [
        (one - other).square().sum() for one, other in zip(run.model.parameters(), before.parameters(), strict=True)
    ]
    assert float(torch.stack(moved).detach().sum().sqrt()) == pytest.approx(0.1 * 0.05, rel=1e-3)
    train(run, 1, 3)
    for ours, theirs in zip(run.model.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_norms_and_biases_decay_unless_they_are_left_out():
    given = {"optimizer.name": "adamw", "weight_decay": 0.5, "lr": 0.1}
    optimizer = load_config(overrides=given).optimizer
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 2))
    (group,) = make_optimizer(network, optimizer, CPU).param_groups
    assert (group["weight_decay"], len(group["params"])) == (0.5, 6)
    kept = load_config(overrides=given | {"optimizer.decay_norms_and_biases": False}).optimizer
    made = make_optimizer(network, kept, CPU)
    assert [len(group["params"]) for group in made.param_groups] == [2, 4]
    before = [one.detach().clone() for one in network.parameters()]
    for one in network.parameters():
        one.grad = torch.zeros_like(one)
    made.step()
    for one, old in zip(network.parameters(), before, strict=True):
        expected = old * (1 - 0.1 * 0.5) if one.dim() > 1 else old
        torch.testing.assert_close(one.detach(), expected)


def test_the_average_is_that_of_a_hand_loop_weights_and_statistics_alike_and_is_evaluated():
    run = run_of(**{"optimizer.ema_decay": 0.8, "regularizer": "targetdrop"})
    run.begin_steps()
    for number, (images, labels) in enumerate(batches_of(run, 5)):
        run.train_step(images, labels, number)
        now = [one.detach().clone() for one in chain(run.model.parameters(), run.model.buffers())]
        if number == 0:
            expected = now
        is_real = [one.is_floating_point() for one in now]
        expected = [0.8 * old + 0.2 * new for old, new in zip(expected, now, strict=True)]
    ours = list(chain(run.average.module.parameters(), run.average.module.buffers()))
    assert sum(is_real) > 20
    for one, other, real in zip(ours, expected, is_real, strict=True):
        if real:
            torch.testing.assert_close(one.detach(), other, rtol=1e-5, atol=1e-6)
    network, hits = deepcopy(run.average.module).eval(), 0
    for images, labels, num_counted in run.test_batches:
        with torch.no_grad(), run.hardware.autocast():
            hits += int((network(images).argmax(1) == labels)[:num_counted].sum())
    row = run.end_epoch()
    assert row.test_error_pct_ema == pytest.approx(100 * (1 - hits / run.test_batches.num_images))
    run.step = run.num_steps
    assert run.result(TrialState.DONE, None).test_error_pct_ema == row.test_error_pct_ema


def test_an_average_changes_nothing_of_the_run_that_it_is_of():
    plain, averaged = run_of(), run_of(**{"optimizer.ema_decay": 0.9})
    for run in (plain, averaged):
        train(run, 0, 2)
    assert plain.evaluate_average() is None
    assert torch.equal(*(run.model.classifier.weight for run in (plain, averaged)))


@pytest.mark.parametrize(
    "knobs",
    [
        {"optimizer.name": "adamw", "optimizer.ema_decay": 0.9, "optimizer.decay_norms_and_biases": False},
        {"optimizer.name": "rmsprop", "momentum": 0.5, "schedule.name": "ExponentialLR", "schedule.gamma": 0.5},
        {"optimizer.ema_decay": 0.9, "attention": "se_ste", "optimizer.clip_norm": 1.0},
        {
            "optimizer.name": "adamw",
            "optimizer.ema_decay": 0.9,
            "augment.mixup": 0.2,
            "augment.cutmix": 1.0,
            "augment.randaugment": 9,
            "augment.random_erasing": 0.25,
            "regularizer": "dropout",
        },
    ],
)
def test_a_run_with_any_of_it_is_resumed_bit_for_bit(knobs):
    whole = run_of(**knobs)
    train(whole, 0, 4)
    end = state_of(whole)
    part = run_of(**knobs)
    train(part, 0, 2)
    buffer = io.BytesIO()
    torch.save(state_of(part), buffer)
    buffer.seek(0)
    resumed = run_of(**knobs)
    restore(resumed, torch.load(buffer, weights_only=True))
    train(resumed, 2, 4)
    for name in ("model", "average", "optimizer"):
        assert_same(end[name], state_of(resumed)[name])


def test_a_network_without_a_weight_to_train_is_refused():
    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ConfigError, match="the network has no weight to train"):
        make_optimizer(frozen, load_config().optimizer, CPU)


def test_a_value_that_torch_refuses_is_told_in_one_message():
    optimizer = load_config(overrides={"optimizer.name": "adamw", "optimizer.betas": [1.5, 0.9]}).optimizer
    with pytest.raises(ConfigError, match=r"optimizer\.name adamw refuses its knobs: Invalid beta parameter"):
        make_optimizer(torch.nn.Linear(2, 2), optimizer, CPU)


def test_mixed_images_are_learnt_from_both_labels_and_counted_by_the_dominant_one():
    run = run_of(**PLAIN, **{"augment.mixup": 1.0, "augment.crop_padding": 0})
    network, hits = deepcopy(run.model).train(), 0
    for images, labels in batches_of(run, 1):
        assert labels.shape == (16, 10)
        with torch.no_grad():
            logits = network(images)
        hits += int((logits.argmax(1) == labels.argmax(1)).sum())
        loss = -(labels * logits.log_softmax(1)).sum(1).mean()
    train(run, 0, 1)
    losses, num_hits = run.losses_and_hits(1)
    assert num_hits == hits
    assert float(losses[0]) == pytest.approx(float(loss), rel=1e-4)


OWN = """
import numpy as np
import torch
def make_optimizer(model, lr=0.03, eps=1e-8):
    heads = [one for name, one in model.named_parameters() if "classifier" in name]
    rest = [one for name, one in model.named_parameters() if "classifier" not in name]
    return torch.optim.Adam([{"params": rest}, {"params": heads, "lr": 10 * lr}], lr=lr, eps=eps)
def of_weights(params, **knobs):
    return torch.optim.SGD(params, **knobs)
def wrong(params):
    return params
def broken(params):
    raise RuntimeError("no luck")
def closing(params):
    return torch.optim.LBFGS(one for group in [params] for one in group)
class Counting(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        for weight in self.state:
            self.state[weight]["norm"] = np.float64(weight.norm().item())
def counting(params):
    return Counting(params, lr=0.1, momentum=0.9)
not_callable = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN)


@pytest.mark.usefixtures("own")
def test_the_user_s_own_optimizer_is_given_the_network_and_its_groups_follow_the_schedule_from_their_own_peaks():
    run = run_of(**{"optimizer.name": "mine.py:make_optimizer", "optimizer.eps": 1e-6, "schedule.warmup_epochs": 1})
    assert run.config.optimizer.arguments() == {"eps": 1e-6}
    train(run, 0, 4)
    assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx([0.03 / 2, 0.3 / 2])
    assert {group["eps"] for group in run.optimizer.param_groups} == {1e-6}
    assert run.rate_at(3) == pytest.approx(0.03 / 2)
    assert "mine.py" in str(run.config.contents())
    assert run.config.settings()["optimizer.name"] == "mine.py:make_optimizer"


@pytest.mark.usefixtures("own")
def test_the_user_s_own_optimizer_may_take_the_weights_alone():
    run = run_of(**{"optimizer.name": "mine.py:of_weights", "lr": 0.5})
    assert [group["lr"] for group in run.optimizer.param_groups] == [0.5]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "knobs", "message"),
    [
        ("mine.py:make_optimiser", {}, "unknown name 'make_optimiser'; did you mean make_optimizer"),
        ("mine.py:make_optimizer", {"optimizer.epss": 1}, "optimizer.epss must be left out: .* did you mean eps"),
        ("mine.py:make_optimizer", {"optimizer.decay_norms_and_biases": False}, "makes groups of its own, got false"),
        ("mine.py:wrong", {}, r"must return a torch\.optim\.Optimizer, got list"),
        ("mine.py:broken", {}, r"cannot be made: RuntimeError: no luck \(mine\.py, line 13\)"),
        ("mine.py:closing", {}, "whose step needs no closure, got LBFGS"),
        ("mine.py:not_callable", {}, "must be a function that makes an optimizer, got int"),
    ],
)
def test_what_is_wrong_with_the_user_s_own_is_said(name, knobs, message):
    with pytest.raises(ConfigError, match=message):
        run_of(**{"optimizer.name": name, **knobs})


@pytest.mark.usefixtures("own")
def test_what_a_checkpoint_could_not_give_back_is_refused_at_the_first_one(tmp_path):
    with pytest.raises(
        ConfigError, match=r"the run cannot be saved: .* holds numpy\..*scalar, numpy.dtype; a checkpoint"
    ):
        train_run({"optimizer.name": "mine.py:counting", "max_steps": 1, "train_fraction": 0.1}, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
