"""The optimizer and the schedule by name: knobs by torch's own signatures, defaults of each, and what is refused."""

import inspect
import subprocess
import sys

import pytest
import torch

from tdbench import load_config
from tdbench.config.loading import build_config
from tdbench.config.optimization import OptimizerConfig, ScheduleConfig
from tdbench.config.torch_signatures import REQUIRED, optimizers, schedules
from tdbench.errors import ConfigError
from tdbench.sweep.asked import plan_sweep

SUITABLE = ["sgd", "adamw", "adam", "rmsprop", "nadam", "radam", "adamax", "adagrad", "adadelta", "asgd"]


def classes_of(module, base):
    return {name: entry for name, entry in vars(module).items() if isinstance(entry, type) and issubclass(entry, base)}


def expected_of(kind):
    parameters = [one for one in inspect.signature(kind).parameters.values() if one.name != "self"]
    return {one.name: REQUIRED if one.default is one.empty else one.default for one in parameters}


def test_signatures_read_from_torch_s_source_are_those_of_torch():
    classes = classes_of(torch.optim, torch.optim.Optimizer)
    classes.pop("Optimizer")
    assert set(optimizers()) == {name.lower() for name in classes}
    for name, kind in classes.items():
        read, expected = optimizers()[name.lower()], expected_of(kind)
        assert list(read) == list(expected)
        assert {key: value for key, value in read.items() if value is not None} == {
            key: expected[key] for key in read if read[key] is not None
        }
    for name in SUITABLE:  # of these no default is one that torch makes up
        assert optimizers()[name] == expected_of({one.lower(): kind for one, kind in classes.items()}[name])
    for name, read in schedules().items():
        assert list(read) == list(expected_of(getattr(torch.optim.lr_scheduler, name)))


def test_an_optimizer_has_torch_s_defaults_and_sgd_those_of_tdbench():
    sgd, adamw, rmsprop = (OptimizerConfig(name=name) for name in ("sgd", "AdamW", "rmsprop"))
    assert (sgd.lr, sgd.momentum, sgd.nesterov, sgd.weight_decay) == (0.1, 0.9, True, 5e-4)
    assert (adamw.name, adamw.lr, adamw.momentum, adamw.nesterov, adamw.weight_decay) == (
        "adamw", 1e-3, None, None, 1e-2,
    )  # fmt: skip
    assert (rmsprop.lr, rmsprop.momentum, rmsprop.weight_decay) == (1e-2, 0, 0)
    assert OptimizerConfig(name="adamw", lr=0.5).lr == 0.5


def test_knobs_are_further_keys_of_the_section_in_yaml_flags_and_digest(tmp_path):
    given = {"optimizer.name": "adamw", "optimizer.betas": "0.8,0.95", "optimizer.eps": 1e-7}
    config = load_config(overrides=given)
    assert config.optimizer.arguments() == {"lr": 1e-3, "weight_decay": 1e-2, "betas": (0.8, 0.95), "eps": 1e-7}
    (tmp_path / "run.yaml").write_text("optimizer: {name: adamw, betas: [0.8, 0.95], eps: 1e-7}\n")
    assert load_config(tmp_path / "run.yaml").digest() == config.digest()
    assert build_config(config.dump()) == config
    assert config.settings()["optimizer.betas"] == [0.8, 0.95]
    digests = {load_config(overrides=given | more).digest() for more in ({}, {"optimizer.eps": 1e-6})}
    assert len({*digests, load_config().digest()}) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer.name": "adamww"}, "unknown optimizer 'adamww'; did you mean adamw?"),
        ({"optimizer.name": "lbfgs"}, "optimizer.name must not be lbfgs: it computes the loss of a step several times"),
        ({"optimizer.momentun": 0.5}, "optimizer.momentun .* sgd has no such knob; did you mean optimizer.momentum"),
        ({"optimizer.name": "adamw", "optimizer.beta": 0.5}, "adamw has no such knob; did you mean optimizer.betas"),
        ({"optimizer.name": "adamw", "momentum": 0.5}, "optimizer.momentum must be left out: adamw has no such knob"),
        ({"optimizer.name": "adamw", "optimizer.betas": "1,x"}, r"optimizer.betas must be 2 numbers, such as \[0.9"),
        ({"optimizer.name": "adamw", "optimizer.betas": 0.9}, r"optimizer.betas must be 2 numbers, such as \[0.9"),
        ({"optimizer.name": "adafactor", "optimizer.eps": "x,0.1"}, "optimizer.eps must be 2 numbers, such as"),
        ({"schedule.name": "milestones", "milestones": "0.5,x"}, "schedule.milestones.1 must be a number, got 'x'"),
        ({"optimizer.name": "adamw", "optimizer.eps": True}, "optimizer.eps must be a finite number, got true"),
        ({"optimizer.name": "adamw", "optimizer.eps": float("inf")}, "optimizer.eps must be a finite number, got inf"),
        ({"optimizer.name": "adam", "optimizer.amsgrad": 1}, "optimizer.amsgrad must be true or false, got 1"),
        ({"optimizer.name": "adam", "optimizer.fused": True}, "optimizer.fused must be left out: tdbench sets it"),
        ({"optimizer.clip_norm": 0}, "optimizer.clip_norm must be greater than 0, got 0"),
        ({"optimizer.ema_decay": 1}, "optimizer.ema_decay must be less than 1, got 1"),
        ({"schedule.name": "ExponentalLR"}, "unknown schedule 'ExponentalLR'; did you mean ExponentialLR"),
        ({"schedule.name": "cosin"}, "unknown schedule 'cosin'; did you mean cosine"),
        ({"schedule.name": "ExponentialLR"}, "schedule.gamma must be given where schedule.name is ExponentialLR"),
        ({"schedule.name": "StepLR", "schedule.step_size": 3, "schedule.gama": 0.5}, "did you mean schedule.gamma"),
        (
            {"schedule.name": "StepLR", "schedule.step_size": "abc"},
            "schedule.step_size must be a finite number, got 'abc'",
        ),
        ({"schedule.name": "OneCycleLR"}, "it sets rates of its own, whatever optimizer.lr is"),
        ({"optimizer.name": "rprop"}, "it takes the learning rate of its first step alone"),
        ({"schedule.name": "ReduceLROnPlateau"}, "schedule.name must not be ReduceLROnPlateau: it follows a measured"),
        ({"schedule.gamma": 0.5}, "schedule.gamma must be left out: cosine has no such knob"),
        ({"schedule.per": "step"}, "schedule.per must be left at epoch, got step: cosine goes on with each step"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_the_nearest_name(given, message):
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=given)


def test_numbers_separated_by_commas_are_a_list_and_one_number_a_list_of_one():
    def made(**given):
        return load_config(overrides={key.replace("__", "."): value for key, value in given.items()})

    named = {"optimizer__name": "adafactor"}
    assert made(**named, optimizer__eps="0.1,0.01").optimizer.knobs() == {"eps": (0.1, 0.01)}
    assert made(**named, optimizer__eps="null,0.01").optimizer.knobs() == {"eps": (None, 0.01)}
    assert made(schedule__name="milestones", milestones="0.25,0.5").schedule.milestones == (0.25, 0.5)
    assert made(schedule__name="milestones", milestones=0.25).schedule.milestones == (0.25,)
    assert made(input_mean="0.5,0.4,0.3", input_std="1,1,0.5").model.input_std == (1.0, 1.0, 0.5)


def test_the_answer_needs_no_torch(tmp_path):
    code = (
        "import sys\nfrom tdbench.cli import main\n"
        "code = main(['train', '--set', 'optimizer.name=adamw', '--set', 'optimizer.beta=1'])\n"
        "assert code == 2 and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "did you mean optimizer.betas?" in done.stderr


def test_the_knobs_of_an_optimizer_go_with_it_where_it_was_named_and_else_stay():
    named = {"optimizer": {"name": "adamw", "lr": 0.5, "betas": [0.8, 0.9], "clip_norm": 1.0}}
    config = load_config(named, {"optimizer.name": "sgd"})
    assert (config.optimizer.lr, config.optimizer.clip_norm, config.optimizer.knobs()) == (0.1, 1.0, {})
    assert load_config(load_config(), {"optimizer.name": "adamw", "lr": 0.5}).optimizer.lr == 0.5
    assert load_config({"optimizer": {"lr": 0.5}}, {"optimizer.name": "adamw"}).optimizer.lr == 0.5
    assert load_config(named, {"optimizer.name": "AdamW"}).optimizer.lr == 0.5
    whole = load_config().dump()  # as a run folder's config.yaml
    assert load_config(whole, {"optimizer.name": "adamw"}).optimizer == OptimizerConfig(name="adamw")


def planned(param, metric=None, **given):
    return plan_sweep(None, param, (), 1, "off", {"regularizer": "none", **given}, metric)


def test_a_sweep_over_optimizers_lets_each_have_its_own_knobs():
    given = {"optimizer.betas": [0.8, 0.95], "momentum": 0.5}
    plan = planned({"optimizer.name": ["sgd", "adamw"]}, **given)
    of = {trial.optimizer.name: trial.optimizer for trial in plan.trials.values()}
    assert len(plan.trials) == 2
    assert of["sgd"].arguments() == {"lr": 0.1, "momentum": 0.5, "nesterov": True, "weight_decay": 5e-4}
    assert of["adamw"].arguments() == {"lr": 1e-3, "weight_decay": 1e-2, "betas": (0.8, 0.95)}
    with pytest.raises(ConfigError, match=r"optimizer\.betas must be left out: rmsprop has no such knob"):
        planned({"optimizer.name": ["rmsprop", "adagrad"]}, **{"optimizer.betas": [0.8, 0.9]})
    with pytest.raises(ConfigError, match="--metric test_error_pct_ema needs an average of the weights"):
        planned({"optimizer.ema_decay": [None, 0.9]}, metric="test_error_pct_ema")


def test_a_sweep_over_a_knob_of_torch_s_needs_its_values_and_takes_them():
    adamw = {"optimizer.name": "adamw"}
    plan = planned({"optimizer.eps": [1e-8, 1e-6]}, **adamw)
    assert [trial.optimizer.arguments()["eps"] for trial in plan.trials.values()] == [1e-8, 1e-6]
    with pytest.raises(ConfigError, match=r"--param optimizer\.eps needs --values"):
        planned({"optimizer.eps": None}, **adamw)


def test_a_schedule_s_name_is_found_whatever_its_case():
    assert ScheduleConfig(name="exponentiallr", gamma=0.5).name == "ExponentialLR"
