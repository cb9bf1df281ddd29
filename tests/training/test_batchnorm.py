"""BatchNorm's re-estimated statistics against plain passes over the same images, and that nothing else changes."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from tdbench import load_config
from tdbench.store.rows import TrialState
from tdbench.training.batchnorm import averaging, batch_norms
from tdbench.training.checkpoint import state_of
from tdbench.training.run import Run

STRONG = {"train_fraction": 0.1, "batch_size": 16, "epochs": 2, "threads": 2, "gamma": 0.5, "precision": "fp32"}


def trained(num_steps=6, **overrides):
    run = Run(load_config(overrides={**STRONG, **overrides}))
    run.begin_steps()
    for number, (images, labels) in enumerate(run.batches.epoch(1, 0, num_steps)):
        run.train_step(images, labels, number)
    return run


def looked_at_plainly(run, num_batches):
    """Return a copy of the run's network whose BatchNorms have, layer by layer, what two plain passes find."""
    model = deepcopy(run.model).eval()
    batches = [images for images, _ in run.batches.epoch(0, 0, num_batches)]
    inputs = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()  # normalises by the batch
            module.momentum = 0.0  # and keeps nothing
            module.register_forward_pre_hook(lambda _, args, name=name: inputs.setdefault(name, []).append(args[0]))
    with torch.no_grad():
        for images in batches:
            model(images)
    for name, seen in inputs.items():
        module, means, variances = model.get_submodule(name), [], []
        for x in seen:
            x = x.double().movedim(1, 0).flatten(1)
            mean = x.mean(1)
            means.append(mean)
            variances.append(((x - mean[:, None]) ** 2).sum(1) / (x.shape[1] - 1))
        module.running_mean.copy_(torch.stack(means).mean(0))
        module.running_var.copy_(torch.stack(variances).mean(0))
    return model.eval()


@pytest.mark.parametrize("bn_batches", [3, 100])
def test_the_error_is_that_of_statistics_which_two_plain_passes_find(bn_batches):
    run = trained(**{"evaluate.bn_batches": bn_batches})
    num_batches = min(bn_batches, len(run.batches))
    oracle, num_wrong = looked_at_plainly(run, num_batches), 0
    with averaging(run.model) as norms, torch.no_grad():
        for images, _ in run.batches.epoch(0, 0, num_batches):
            run.model(images)
        for norm, expected in zip(norms, batch_norms(oracle), strict=True):
            torch.testing.assert_close(norm.running_mean, expected.running_mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(norm.running_var, expected.running_var, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for images, labels, num_counted in run.test_batches:
            num_wrong += int((oracle(images).argmax(1) != labels)[:num_counted].sum())
    run.evaluate_re_estimated(lambda: None)
    assert run.test_error_pct_bn == pytest.approx(100 * num_wrong / run.test_batches.num_images, abs=100 / 360 + 1e-9)
    run.end_epoch()
    result = run.result(TrialState.DONE, None)
    assert result.test_error_pct_bn == run.test_error_pct_bn != result.test_error_pct


def test_weights_statistics_random_numbers_and_counts_stay_as_they_are():
    run = trained()
    before, momentum = deepcopy(state_of(run)), [norm.momentum for norm in batch_norms(run.model)]
    run.evaluate_re_estimated(lambda: None)
    after = state_of(run)
    for part in ("model", "regularizer", "optimizer", "processes", "step", "rows"):
        assert_same(before[part], after[part])
    assert [norm.momentum for norm in batch_norms(run.model)] == momentum
    assert run.test_error_pct_bn is not None


def assert_same(one, other):
    """Check that trees of tensors and plain values are equal bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


def test_the_regularizer_and_the_network_s_own_dropout_are_off_meanwhile():
    run = trained(num_steps=1)
    modes = []
    for module in run.model.modules():
        module.register_forward_pre_hook(lambda one, _: modes.append((isinstance(one, nn.BatchNorm2d), one.training)))
    run.evaluate_re_estimated(lambda: None)
    assert {is_norm for is_norm, training in modes if training} == {True}
    assert not any(module.training for module in run.model.modules())


def test_a_stop_ends_it_and_leaves_no_trace():
    run = trained()
    before = deepcopy(run.model.state_dict())
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run.evaluate_re_estimated(check)
    assert len(calls) == 3
    assert run.test_error_pct_bn is None
    assert_same(before, run.model.state_dict())


def test_a_network_without_batchnorm_and_a_count_of_0_have_no_such_error(tmp_path):
    run = trained(num_steps=1, **{"evaluate.bn_batches": 0})
    run.evaluate_re_estimated(pytest.fail)
    assert run.test_error_pct_bn is None
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make(num_classes, in_channels):\n"
        "    parts = nn.Conv2d(in_channels, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
        "    return nn.Sequential(*parts, nn.Linear(8, num_classes))\n"
    )
    run = trained(num_steps=1, model=f"{tmp_path / 'net.py'}:make", sites="1")
    run.evaluate_re_estimated(pytest.fail)
    assert run.test_error_pct_bn is None


def test_frozen_statistics_are_the_network_s_own():
    norm = nn.BatchNorm2d(2)
    norm.running_mean.fill_(3.0)
    norm.train = lambda mode=True: norm  # as code for detection freezes it
    norm.training = False
    model = nn.Sequential(norm)
    with averaging(model):
        model(torch.randn(4, 2, 3, 3))
        assert torch.equal(norm.running_mean, torch.full((2,), 3.0))
