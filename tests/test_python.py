"""What the command line does can be done from Python, with the same arguments and the same results."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tdbench
from tdbench.cli import main
from tdbench.config import load_config
from tdbench.config.settings import configs_of
from tdbench.errors import ConfigError, FolderError
from tdbench.models.build import build
from tdbench.regularizers.registry import find_method
from tdbench.store.rows import TrialState
from tdbench.sweep.asked import plan_sweep
from tdbench.sweep.execution import Execution
from tdbench.sweep.values import parse_params

TINY = {"train_fraction": 0.1, "max_steps": 2, "batch_size": 32, "threads": 1}
FLAGS = ["--train-fraction", "0.1", "--max-steps", "2", "--batch-size", "32", "--threads", "1"]


@pytest.fixture(autouse=True)
def _in_a_place_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


def test_train_returns_what_the_command_writes_and_read_run_reads_it(tmp_path):
    result = tdbench.train(out="python", regularizer="dropblock", block_size=3, **TINY)
    assert main(["train", "--regularizer", "dropblock", "--set", "block_size=3", *FLAGS, "--out", "shell", "-q"]) == 0
    python, shell = tdbench.read_run("python"), tdbench.read_run(tmp_path / "shell")
    assert result.status is TrialState.DONE
    assert python.result == result
    assert python.config == shell.config
    assert (result.digest, result.test_error_pct) == (shell.result.digest, shell.result.test_error_pct)
    assert list(python.metrics["epoch"]) == [1]
    assert python.metrics["train_loss"][0] == shell.metrics["train_loss"][0]
    assert python.environment["threads"] == 1
    assert "<table" in python._repr_html_()
    assert tdbench.train("python/config.yaml", "python") == result  # finished: told from its folder


@pytest.mark.slow
def test_a_finished_run_and_sweep_leave_no_figure_empty():
    tdbench.train(out="run", regularizer="dropblock", **TINY | {"max_steps": 10})
    run = tdbench.read_run("run")
    not_asked_for = ["error", "valid_error_pct", "test_error_pct_ema"]
    assert [name for name, value in run.result.to_tree().items() if value is None] == not_asked_for
    assert list(run.metrics.columns[run.metrics.isna().any()]) == ["test_error_pct_ema"]
    sweep = tdbench.ablate(param={"block_size": [3, 5]}, seeds=3, out="sweep", jobs=1, **TINY)
    assert list(sweep.trials.columns[sweep.trials.isna().any()]) == not_asked_for
    assert list(sweep.summary.columns[sweep.summary.iloc[1:].isna().all()]) == ["looks"]


def test_train_takes_a_configuration_a_tree_and_a_file():
    tree = {"data": {"train_fraction": 0.1}, "training": {"max_steps": 2, "batch_size": 32}}
    ends = [
        tdbench.train(tdbench.load_config(overrides=TINY), "a"),
        tdbench.train(tree, "b", threads=1),
        tdbench.train("a/config.yaml", "c"),
        tdbench.train(tdbench.load_config(overrides=TINY | {"seed": 3}), "d", seed=0),
    ]
    assert len({(end.digest, end.test_error_pct) for end in ends}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "tree",
    [
        {"data": {"train_fraction": 0.1}, "training": {"max_steps": 2}, "regularizer": {"name": "none"}},
        {"data.train_fraction": 0.1, "training.max_steps": 2, "regularizer.name": "none"},
        {"train_fraction": 0.1, "max_steps": 2, "regularizer": "none"},
        {"data.train_fraction": 0.1, "data": {"name": "digits"}, "max_steps": 2, "regularizer": "none"},
    ],
)
def test_a_tree_may_be_nested_or_dotted_or_of_flags(tree):
    given = copy.deepcopy(tree)
    config = tdbench.load_config(tree)
    assert (config.data.train_fraction, config.training.max_steps, config.regularizer.name) == (0.1, 2, "none")
    assert tree == given
    outlook = tdbench.ablate(tree, param="lr=0.1,0.2", seeds=1, dry_run=True)
    assert (outlook.trials, outlook.done, outlook.to_run) == (2, 0, 2)


def test_a_class_as_the_method_of_a_run_is_told_where_it_goes():
    with pytest.raises(ConfigError, match=r"tdbench\.insert takes a class, and a run the file that defines it"):
        tdbench.train(regularizer=nn.Dropout)


def test_a_section_that_is_no_table_is_told_without_a_file():
    with pytest.raises(ConfigError) as refused:
        tdbench.load_config({"schedule": [3]})
    assert str(refused.value) == "schedule must be a table of keys, got [3]"


def test_ablate_returns_the_outlook_of_a_dry_run_and_runs_nothing(tmp_path):
    outlook = tdbench.ablate(param={"block_size": [3, 5]}, seeds=2, out="sweep", dry_run=True, **TINY)
    assert (outlook.trials, outlook.done, outlook.to_run) == (6, 0, 6)
    assert outlook.time_left_s > 0
    assert [row["block_size"] for row in outlook.rows] == ["none", "none", 3, 3, 5, 5]
    assert not (tmp_path / "sweep").exists()
    assert "<table" in outlook._repr_html_()


def test_train_writes_a_trace_by_the_flag_s_name(tmp_path):
    tdbench.train(out="run", torch_profile="traced", **TINY | {"max_steps": 16})
    assert list((tmp_path / "traced").glob("*.json*"))


@pytest.mark.slow
def test_the_documentation_s_own_method_runs_in_every_way(tmp_path, capsys):
    page = (Path(tdbench.__file__).parents[1] / "docs" / "your-code.md").read_text()
    (code,) = re.findall(r"```python\n(# mine\.py\n.*?)```", page, re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    result = tdbench.train(regularizer="mine.py:MyNoise", std=0.2, out="run", **TINY)
    assert result.status is TrialState.DONE
    with pytest.raises(ConfigError, match="std must be less than 1, got 1"):
        tdbench.train(regularizer="mine.py:MyNoise", std=1, **TINY)
    outlook = tdbench.ablate(param="std", seeds=1, regularizer="mine.py:MyNoise", dry_run=True, **TINY)
    assert [row["std"] for row in outlook.rows] == ["none", 0.05, 0.1, 0.2]


@pytest.mark.slow
def test_ablate_returns_the_sweep_with_its_tables():
    sweep = tdbench.ablate(param={"block_size": [3, 5]}, seeds=2, out="sweep", jobs=1, **TINY)
    assert list(sweep.summary["block_size"]) == ["none", "3", "5"]
    assert list(sweep.summary["n"]) == [2, 2, 2]
    assert sweep.summary["delta_vs_baseline"].isna().tolist() == [True, False, False]
    assert list(sweep.trials["status"]) == ["done"] * 6
    assert sweep.run(sweep.trials["trial"][0]).result.test_error_pct == sweep.trials["test_error_pct"][0]
    assert "<table" in sweep._repr_html_()
    again = tdbench.read_sweep("sweep")
    assert again.experiment == sweep.experiment
    assert again.summary.equals(sweep.summary)
    same = tdbench.ablate(param="block_size=3,5", seeds=[0, 1], out="sweep", **TINY)
    assert same.summary.equals(sweep.summary)


@pytest.mark.slow
def test_a_script_without_a_guard_can_sweep(tmp_path):
    (tmp_path / "script.py").write_text(
        f"import tdbench\nprint('begun')\nsweep = tdbench.ablate(param='k=3', seeds=1, out='sweep', jobs=1, **{TINY})\n"
        "print(len(sweep.trials))\nimport sys; assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["begun", "2"], done.stderr


@pytest.mark.slow
def test_profile_returns_the_rows_and_its_folder(tmp_path):
    found = tdbench.profile(regularizer=["dropout"], shape=[(4, 8, 8, 8)], seconds=0.02, out="costs", **TINY)
    assert [row["method"] for row in found.layer] == ["floor", "dropout"]
    assert [row["method"] for row in found.step] == ["none", "dropout"]
    assert (tmp_path / "costs" / "profile.md").exists()


def test_audit_takes_a_run_s_settings_or_a_network():
    found = tdbench.audit(regularizer="dropblock", sites="stage3", batch_size=32, threads=1)
    assert [site.name for site in found.sites] == ["stage3"]
    assert found.faults == []
    short = tdbench.audit(train_fraction=0.1, num_batches=2, num_draws=1, batch_size=32, threads=1)
    assert [site.name for site in short.sites] == ["stage1", "stage2"]
    with pytest.raises(ConfigError, match="batches must be at least 2"):
        tdbench.audit(num_batches=1, batch_size=32, threads=1)
    network = build("resnet8", 10, 1)
    sites = tdbench.insert(network, nn.Dropout2d(0.3), "stage2", image_shape=(1, 32, 32))
    batches = [(torch.randn(8, 1, 32, 32), torch.arange(8))] * 2
    assert tdbench.audit(network, sites, batches, num_batches=2).sites[0].mask.share == pytest.approx(0.3, abs=0.1)
    from tdbench.audit import audit  # the room and its function are the same thing to call

    assert (
        audit(network, sites, batches, num_batches=2).findings
        == tdbench.audit(network, sites, batches, num_batches=2).findings
    )
    with pytest.raises(TypeError, match="needs what tdbench"):
        tdbench.audit(network)


class MyDrop(nn.Module):
    def __init__(self, channels: int, p: float = 0.5):
        super().__init__()
        self.channels, self.p = channels, p

    def forward(self, x):
        return x * (torch.rand(len(x), self.channels, 1, 1) > self.p) if self.training else x


class MyConfig(tdbench.RegularizerConfig):
    layer_class = nn.Dropout

    p: float = tdbench.knob(0.2, "how much is dropped", ge=0, le=1)


class WithoutALayer(tdbench.RegularizerConfig):
    layer_class = "MyDrop"


@pytest.mark.parametrize(
    ("given", "knobs", "p"),
    [
        ("dropout", {"p": 0.3}, None),
        (nn.Dropout2d(0.3), {}, 0.3),
        (nn.Dropout2d, {"p": 0.3}, 0.3),
        (MyDrop, {"p": 0.3}, 0.3),
    ],
)
def test_insert_takes_a_name_a_class_or_a_module(given, knobs, p):
    network = build("resnet8", 10, 1)
    sites = tdbench.insert(network, given, ["stage1", "stage2"], image_shape=(1, 32, 32), **knobs)
    first, second = sites.layers.values()
    assert first is not second
    if p is not None:
        assert (first.module.p, second.module.p) == (p, p)
        assert first.module is not second.module
    sites.meter(torch.device("cpu"))
    network.train()(torch.rand(4, 1, 32, 32))
    assert all(dropped > 0 for dropped, _ in sites.read_meter().values())
    sites.remove()


def test_insert_takes_a_configuration_or_its_class():
    for given, knobs in ((MyConfig, {"p": 0.3}), (MyConfig(p=0.3), {})):
        sites = tdbench.insert(build("resnet8", 10, 1), given, "stage1", image_shape=(1, 32, 32), **knobs)
        assert sites.layers["stage1"].module.p == 0.3
        sites.remove()


def test_a_configuration_without_its_layer_says_what_it_must_give():
    with pytest.raises(ConfigError, match=r"WithoutALayer must give its layer as `layer_class`: .*, got 'MyDrop'"):
        tdbench.insert(build("resnet8", 10, 1), WithoutALayer, "stage1", image_shape=(1, 32, 32))


@pytest.mark.slow
def test_a_configuration_in_a_file_is_a_method_of_every_command(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import tdbench\n"
        "from torch import nn\n\n"
        "class Mine(tdbench.RegularizerConfig):\n"
        "    layer_class, strength_knob = nn.Dropout, 'p'\n"
        "    p: float = tdbench.knob(0.2, 'how much is dropped', ge=0, le=1)\n"
    )
    result = tdbench.train(regularizer="mine.py:Mine", p=0.4, out="run", **TINY)
    assert result.dropped_pct == pytest.approx(40, abs=2)
    assert tdbench.train("run/config.yaml", "run") == result
    with pytest.raises(ConfigError, match=r"regularizer.p must be between 0 and 1, got 3"):
        tdbench.train(regularizer="mine.py:Mine", p=3)
    sweep = tdbench.ablate(param={"p": [0.1, 0.4]}, regularizer="mine.py:Mine", seeds=1, out="sweep", jobs=1, **TINY)
    assert list(sweep.trials["status"]) == ["done"] * 3


@pytest.mark.parametrize("wrong", [{"jobs": 0}, {"per_gpu": 0}, {"trial_timeout": 0}])
def test_ablate_refuses_what_the_command_refuses(wrong):
    with pytest.raises(ConfigError, match="must be more than 0, got 0"):
        tdbench.ablate(param={"block_size": [3]}, **wrong, **TINY)


@pytest.mark.parametrize(
    ("given", "knobs", "message"),
    [
        (MyDrop, {"q": 0.3}, "MyDrop: unknown key 'q'"),
        (MyDrop, {"p": "much"}, "MyDrop: p must be a number, got 'much'"),
        (MyConfig, {"p": 2}, "MyConfig: p must be between 0 and 1, got 2"),
        (nn.Dropout2d(0.3), {"p": 0.1}, "p must not be given beside Dropout2d, which has its knobs"),
        (3, {}, "regularizer must be a method's name, a configuration, a module or a class of one, got int"),
        (dict, {}, "dict must be a subclass of nn.Module, got class dict"),
    ],
)
def test_insert_refuses_what_is_no_regularizer(given, knobs, message):
    with pytest.raises(ConfigError) as caught:
        tdbench.insert(build("resnet8", 10, 1), given, "stage1", **knobs)
    assert str(caught.value) == message


@pytest.mark.parametrize("read", [tdbench.read_run, tdbench.read_sweep])
def test_a_folder_that_is_none_is_refused(read, tmp_path):
    with pytest.raises(FolderError, match=r"holds no .*\.yaml, so it is no"):
        read(tmp_path)


def test_a_sweep_without_tables_yet_says_so(tmp_path):
    (tmp_path / "sweep.yaml").write_text(json.dumps({"sweep": {"block_size": [3]}}))
    with pytest.raises(FolderError, match=r"summary\.csv cannot be read"):
        _ = tdbench.read_sweep(tmp_path).summary


class Unnamed(tdbench.RegularizerConfig):
    layer_class = nn.Identity


def test_a_configuration_without_a_name_of_its_own_is_no_other_method():
    assert Unnamed().name == "Unnamed"
    with pytest.raises(ConfigError, match="unknown regularizer 'Unnamed'"):
        tdbench.train(tdbench.RunConfig(regularizer=Unnamed()))


def test_a_setting_on_top_of_a_configuration_keeps_its_method():
    config = tdbench.RunConfig(regularizer=find_method("dropblock")(block_size=5))
    changed = load_config(config, {"epochs": 1})
    assert (changed.regularizer.name, changed.regularizer.block_size, changed.training.epochs) == ("dropblock", 5, 1)


def test_the_callers_tree_is_left_as_it_was():
    tree = {"training": {"epochs": 3}}
    load_config(tree, {"max_steps": 2})
    assert tree == {"training": {"epochs": 3}}


RUN = {"data": {"train_fraction": 0.5}, "regularizer": {"name": "dropblock", "block_size": 3}}


@pytest.mark.slow
@pytest.mark.parametrize("given", [RUN, tdbench.RunConfig.model_validate(RUN)], ids=["tree", "configuration"])
def test_every_function_takes_a_tree_of_keys_or_a_configuration(given):
    config = load_config(given, {"epochs": 2})
    plan = plan_sweep(given, {"p": [0.1, 0.2]}, (), 2, None, {"epochs": 2})
    assert {one.data.train_fraction for one in plan.trials.values()} == {0.5}
    assert {one.regularizer.block_size for one in plan.trials.values() if one.regularizer.name == "dropblock"} == {3}
    assert plan.base == config
    assert configs_of(given, ["dropblock"], {"epochs": 2})["dropblock"] == config
    checked = tdbench.audit(given, sites="stage3", train_fraction=0.2)
    assert {site.claims.method for site in checked.sites} == {"dropblock"}


def test_an_experiment_may_be_a_tree():
    plan = plan_sweep({"sweep": {"block_size": [3, 5]}, "seeds": 2, "base": RUN}, (), (), None, None, {})
    assert [point.values.get("block_size") for point in plan.points] == ["none", 3, 5]


def test_what_is_no_configuration_is_refused():
    for function in (tdbench.train, tdbench.audit, tdbench.profile, tdbench.ablate):
        with pytest.raises(ConfigError, match="config must be a YAML file, a tree of keys or a configuration, got int"):
            function(3)


def test_gpus_may_be_text_as_on_the_command_line(monkeypatch):
    given = []
    monkeypatch.setattr("tdbench.sweep.ablate.Execution", lambda *arguments: given.append(Execution(*arguments).gpus))
    for gpus in ("0,1", ("0", "1"), None):
        with pytest.raises(ConfigError):
            tdbench.ablate(3, gpus=gpus)
    assert given == [("0", "1"), ("0", "1"), None]


@pytest.mark.parametrize("values", [5, "3", [], {"a": 1}])
def test_values_of_a_sweep_are_a_list_of_one_or_more(values):
    with pytest.raises(ConfigError, match="param must have a "):
        tdbench.ablate(param={"block_size": values}, **TINY)


def test_values_of_one_key_may_be_text_as_on_the_command_line():
    assert parse_params("block_size", "1,3") == parse_params("block_size", ["1,3"]) == {"block_size": (1, 3)}
    for wrong in (([1, 3], ()), ("block_size", [1])):
        with pytest.raises(ConfigError, match="param and values must be text"):
            parse_params(*wrong)


def test_values_of_a_sweep_may_be_an_array():
    assert parse_params({"block_size": np.array([3, 5])}, ()) == {"block_size": (3, 5)}
    assert all(type(value) is int for value in parse_params({"block_size": [np.int64(3)]}, ())["block_size"])


def test_audit_refuses_what_it_would_ignore():
    with pytest.raises(TypeError, match="go with a network"):
        tdbench.audit(batches=[])
    network = build("resnet8", 10, 1)
    sites = tdbench.insert(network, "dropout", "stage1", image_shape=(1, 32, 32))
    with pytest.raises(TypeError, match="takes no settings of a run, got blok_size"):
        tdbench.audit(network, sites, [], blok_size=7)
