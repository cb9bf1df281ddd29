"""A run's state: what is paired between methods, what a resume brings back, what ends a run."""

import io
import math
from dataclasses import asdict

import pytest
import torch

from tdbench import load_config
from tdbench.training.checkpoint import restore, state_of
from tdbench.training.parallel import Processes
from tdbench.training.run import Diverged, Run
from tests.user_files import BLOCKS, NET

TINY = {"train_fraction": 0.1, "batch_size": 16, "epochs": 2, "threads": 2}


@pytest.fixture(autouse=True)
def _leave_torch_as_it_was():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


def run_of(**overrides):
    return Run(load_config(overrides={**TINY, **overrides}))


def train(run, first, last):
    run.begin_steps()
    for number, (images, labels) in enumerate(run.batches.epoch(run.epoch, first, last), first):
        run.train_step(images, labels, number)


@pytest.mark.parametrize("knobs", [{"regularizer": "none"}, {"sites": "stage3"}, {"attention": "se_ste", "gamma": 0.5}])
def test_runs_of_one_seed_start_from_the_same_weights_and_see_the_same_batches(knobs):
    run, other = run_of(), run_of(**knobs)
    state = other.model.state_dict()
    assert run.model.state_dict().keys() == state.keys()
    assert all(torch.equal(weight, state[name]) for name, weight in run.model.state_dict().items())
    for (images, labels), (same, also) in zip(run.batches.epoch(1, 0, 3), other.batches.epoch(1, 0, 3), strict=True):
        assert torch.equal(images, same)
        assert torch.equal(labels, also)


# torch 2.6 compiles anew for each number, whatever it is for, where a real backend is asked.
BACKEND = "aot_eager" if torch.__version__ >= (2, 7) else "eager"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dropblock", "dropout", "targetdrop", "weighted_channel_dropout"])
def test_a_compiled_network_is_not_compiled_anew_while_a_strength_rises(monkeypatch, method):
    original = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **how: original(module, backend=BACKEND, **how))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    run = run_of(regularizer=method, **{"regularizer.schedule": "linear", "hardware.compile": True})
    train(run, 0, 6)
    run.evaluate()
    train(run, 6, 8)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3, "at strength 0, at others, in evaluation"


@pytest.mark.slow
def test_a_compiled_network_is_compiled_for_the_sizes_of_its_batches(monkeypatch):
    def compile_with(backend, module, **options):
        return original(module, backend=backend, **options)

    def note(graph, inputs):
        sizes.append({x.shape[0] for x in inputs if isinstance(x, torch.Tensor) and x.dim() == 4 and x.shape[2] > 3})
        are_fixed.append(not any(isinstance(x, torch.SymInt) for x in inputs))
        return graph.forward

    sizes, are_fixed, original = [], [], torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **options: compile_with(note, module, **options))
    torch._dynamo.reset()
    run = run_of(compile=True, regularizer="none")
    train(run, 0, 2)
    run.evaluate()
    train(run, 2, 4)
    run.evaluate()
    assert all(are_fixed)
    assert [size for size in sizes if size] == [{16}, {run.test_batches.batch_size}]


@pytest.mark.parametrize("is_user_s", [True, False])
def test_buffers_that_a_step_may_depend_on_are_unified_each_step(tmp_path, is_user_s):
    class Several(Processes):
        def distribute(self, model, device, find_unused, unify_each_step):
            given.append((find_unused, unify_each_step))
            return model

    given = []
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "blocks.py").write_text(BLOCKS)
    user_s = {"model": f"{tmp_path / 'net.py'}:make_model", "regularizer": "none"}
    run = run_of(**(user_s if is_user_s else {}))
    run.processes = Several()
    run.distribute()
    assert given == [(is_user_s, is_user_s)]


def test_another_seed_has_other_weights_and_batches():
    run, other = run_of(), run_of(seed=1)
    assert not torch.equal(run.model.classifier.weight, other.model.classifier.weight)
    assert not torch.equal(next(run.batches.epoch(1, 0, 1))[1], next(other.batches.epoch(1, 0, 1))[1])


@pytest.mark.parametrize("knobs", [{}, {"region": "random", "target_fraction": 1.0}, {"attention": "se_ste"}])
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(knobs):
    whole = run_of(**knobs)
    train(whole, 0, 8)
    part = run_of(**knobs)
    train(part, 0, 3)
    buffer = io.BytesIO()
    torch.save(state_of(part), buffer)
    buffer.seek(0)
    resumed = run_of(**knobs)
    restore(resumed, torch.load(buffer, weights_only=True))
    assert resumed.steps_of_epoch() == (3, 8)
    train(resumed, 3, 8)
    rows = [run.end_epoch() for run in (whole, resumed)]
    timings = {"train_img_per_s", "epoch_s", "peak_mem_mib"}
    figures = [{key: value for key, value in asdict(row).items() if key not in timings} for row in rows]
    assert figures[0] == figures[1]
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name])


def test_only_the_regularizer_draws_from_the_global_generator():
    run = run_of(regularizer="none")
    before = torch.get_rng_state()
    train(run, 0, 4)
    run.end_epoch()
    assert torch.equal(torch.get_rng_state(), before)
    run = run_of(region="random")
    before = torch.get_rng_state()
    train(run, 0, 1)
    assert not torch.equal(torch.get_rng_state(), before)


def test_the_realised_drop_share_is_what_the_masks_of_the_steps_say():
    run = run_of(sites="stage1", gamma=1.0, block_size=99)
    train(run, 0, 2)
    assert run.end_epoch().dropped_pct == 100.0
    run = run_of(sites="stage1", gamma=0.5, block_size=1)
    train(run, 0, 2)
    assert run.end_epoch().dropped_pct == pytest.approx(100 * 0.5 / 1024)


def test_a_loss_that_is_not_finite_ends_the_run_at_its_step():
    run = run_of()
    train(run, 0, 2)
    run.check_losses(2)
    with torch.no_grad():
        run.model.classifier.bias.fill_(math.nan)
    train(run, 2, 4)
    with pytest.raises(Diverged, match=r"became nan at step 3 \(epoch 1\)"):
        run.check_losses(4)


def test_the_last_epoch_is_evaluated_whatever_eval_every_says():
    run = run_of(**{"training.eval_every": 5})
    train(run, 0, 8)
    assert run.end_epoch().test_error_pct is None
    train(run, 0, 8)
    assert 0 <= run.end_epoch().test_error_pct <= 100


def test_max_steps_ends_a_run_in_mid_epoch():
    run = run_of(max_steps=11)
    assert run.num_steps == 11
    train(run, *run.steps_of_epoch())
    run.end_epoch()
    assert run.steps_of_epoch() == (0, 3)


def test_weights_whose_first_gradient_comes_late_are_trained_from_then_on():
    run = run_of(attention="se_ste", schedule="linear", sites="stage1")  # at the first step the layer is not there yet
    before = run.insertion.layers["stage1"].fc1.detach().clone()
    train(run, 0, 1)
    assert torch.equal(run.insertion.layers["stage1"].fc1, before)
    train(run, 1, 3)
    assert not torch.equal(run.insertion.layers["stage1"].fc1, before)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_run_learns_what_the_eager_one_learns(precision):
    losses = []
    for compile in (False, True):
        run = run_of(compile=compile, precision=precision)
        train(run, 0, 8)
        losses.append(run.end_epoch().train_loss)
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("compile", [False, True])
def test_a_run_trains_on_a_gpu(precision, compile):
    run = run_of(device="cuda", precision=precision, compile=compile)
    train(run, 0, 8)
    row = run.end_epoch()
    assert math.isfinite(row.train_loss)
    assert row.dropped_pct > 0
