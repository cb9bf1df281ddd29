"""What a sweep varies: values as people write them, experiments as files, and what is wrong with either."""

from pathlib import Path

import numpy as np
import pytest

from tdbench import load_config
from tdbench.errors import ConfigError
from tdbench.sweep.experiment import Experiment, experiment_of, from_flags, read_experiment
from tdbench.sweep.keys import column, default_sweep, resolve_param
from tdbench.sweep.plan import make_plan
from tdbench.sweep.ready import ready_experiments
from tdbench.sweep.values import parse_seeds, parse_values

BASE = load_config()


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,3,5", (1, 3, 5)),
        ("0.05:0.2:0.05", (0.05, 0.1, 0.15, 0.2)),
        ("1:9:2", (1, 3, 5, 7, 9)),
        ("3:1:-1", (3, 2, 1)),
        ("0:1:0.4", (0.0, 0.4, 0.8)),
        ("none, dropblock", ("none", "dropblock")),
        ("true,null", (True, None)),
        ("torchvision:resnet18,resnet8", ("torchvision:resnet18", "resnet8")),
        ("stage1,stage1+stage2", ("stage1", "stage1+stage2")),
    ],
)
def test_values_are_lists_or_ranges_with_both_ends(text, values):
    assert parse_values(text) == values
    assert [type(value) for value in parse_values(text)] == [type(value) for value in values]


@pytest.mark.parametrize("text", ["", "1,,3", "1:2:0", "1:2:-1", "[1,2", "1,", "0:1:0.0000001"])
def test_values_that_are_none_are_refused(text):
    with pytest.raises(ConfigError, match="--values"):
        parse_values(text)


@pytest.mark.parametrize(
    ("name", "key", "shown"),
    [
        ("k", "regularizer.block_size", "block_size"),
        ("γ", "regularizer.drop_ratio", "drop_ratio"),
        ("target_channel_fraction", "regularizer.target_fraction", "target_fraction"),
        ("train-fraction", "data.train_fraction", "train_fraction"),
        ("regularizer", "regularizer.name", "regularizer"),
        ("augment.cutout", "augment.cutout", "augment.cutout"),
        ("cutout", "augment.cutout", "augment.cutout"),
    ],
)
def test_a_parameter_answers_to_the_names_that_set_takes_and_has_one_name_in_tables(name, key, shown):
    assert resolve_param(name, BASE) == key
    assert column(key) == shown


def test_an_unknown_parameter_is_answered_by_the_nearest_in_a_line():
    with pytest.raises(ConfigError) as caught:
        resolve_param("blok_size", BASE)
    assert "did you mean block_size?" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("regularizer.block_size", (1, 3, 5, 7, 9)),
        ("regularizer.attention", ("se", "se_ste", "gap", "random")),
        ("augment.flip", None),
        ("optimizer.nesterov", (False, True)),
    ],
)
def test_a_knob_that_is_given_no_values_takes_those_declared_beside_it(key, values):
    if values is None:
        with pytest.raises(ConfigError, match=r"--param augment.flip needs --values"):
            default_sweep(key, BASE)
    else:
        assert default_sweep(key, BASE) == values


def test_the_methods_are_compared_without_the_baseline_among_them():
    methods = default_sweep("regularizer.name", BASE)
    assert {"targetdrop", "dropblock", "dropout"} <= set(methods)
    assert "none" not in methods


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_an_experiment_if_it_says_what_varies_and_a_run_otherwise(tmp_path):
    run = write(tmp_path / "run.yaml", "seed: 3\n")
    assert read_experiment(run) is None
    file = write(
        tmp_path / "experiment.yaml",
        "base: {training: {epochs: 2}}\nsweep: {block_size: null}\nseeds: 2\nbaseline: off\n",
    )
    experiment = read_experiment(file)
    assert experiment.sweep == {"block_size": ()}
    assert experiment.seeds == (0, 1)
    assert experiment.baseline == "off"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sweep: {block_size: [1]}\nseds: 3", "unknown key 'seds'; did you mean seeds"),
        ("sweep: {block_size: [1]}\nseeds: [1, 1]", "seeds must be at least one seed, each once"),
        ("sweep: {block_size: [1]}\nseeds: 0", "seeds must be at least one seed"),
        ("sweep: {block_size: [1]}\narms: {a: {}}", "must have either sweep"),
        ("sweep: 3", "sweep"),
        ("arms: {a: 3}", "arms.a"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_experiment(write(tmp_path / "x.yaml", text))


def test_flags_go_on_top_of_a_file(tmp_path):
    experiment = Experiment(sweep={"block_size": (1, 3)}, seeds=3)
    flags = {"base": {}, "param": [], "values": [], "seeds": None, "baseline": None}
    assert from_flags(experiment, **flags).sweep == {"block_size": (1, 3)}
    changed = from_flags(experiment, **{**flags, "param": ["k=5,7", "gamma"], "seeds": "0,7,9", "baseline": "off"})
    assert changed.sweep == {"k": (5, 7), "gamma": ()}
    assert changed.seeds == (0, 7, 9)
    assert changed.baseline == "off"
    assert from_flags(experiment, **{**flags, "seeds": "5"}).seeds == (0, 1, 2, 3, 4)
    with pytest.raises(ConfigError, match="--values must be given once for each --param, got 1 for 2"):
        from_flags(None, **{**flags, "param": ["k", "gamma"], "values": ["1,3"]})


def test_no_argument_at_all_sweeps_the_block_size():
    assert from_flags(None, {}, [], [], None, None).sweep == {"block_size": ()}


@pytest.mark.parametrize("path", ready_experiments(), ids=lambda path: path.stem)
def test_every_ready_experiment_is_a_plan(path):
    experiment = read_experiment(Path("ablations") / path.name)
    plan = make_plan(experiment)
    assert len(experiment.seeds) >= 5
    assert len(plan.points) >= 2
    assert experiment.title
    assert set(experiment.published) <= set(experiment.arms)


def test_there_is_an_experiment_for_each_question_on_embedded_data_and_on_fashion_mnist():
    names = {path.stem for path in ready_experiments()}
    for question in ("drop_ratio", "block_size", "target_fraction", "knock_outs", "methods", "sites", "train_fraction"):
        assert {question, f"{question}_fashion_mnist"} <= names
    assert {"published_cifar10", "published_cifar100"} <= names


def test_values_on_the_command_line_may_be_lists():
    assert parse_values("[0.3,0.6],[0.5]") == ((0.3, 0.6), (0.5,))
    assert parse_values("[stage1,stage2],stage3") == (("stage1", "stage2"), "stage3")
    with pytest.raises(ConfigError, match="--values must be"):
        parse_values("[0.3,0.6")


@pytest.mark.parametrize("seeds", [1.5, "x", {"a": 1}])
def test_seeds_that_are_neither_a_number_nor_a_list_are_refused(seeds):
    with pytest.raises(
        ConfigError, match=r"seeds must be FIRST\.\.LAST, such as 3\.\.20, or how many, or a list of seeds"
    ):
        experiment_of({"sweep": {"block_size": [3]}, "seeds": seeds})


@pytest.mark.parametrize("design", ["3..2", "1..5", "2..5", "3..", "..5", "3..2000", "a..b", "3...5"])
def test_a_design_that_cannot_be_is_refused(design):
    with pytest.raises(ConfigError, match=r"seeds must be FIRST\.\.LAST"):
        experiment_of({"sweep": {"block_size": [3]}, "seeds": design})
    with pytest.raises(ConfigError, match=r"--seeds must be FIRST\.\.LAST"):
        parse_seeds(design)


def test_a_design_is_seeds_with_a_first_look_and_the_default():
    experiment = experiment_of({"sweep": {"block_size": [3]}, "seeds": "3..20"})
    assert (experiment.seeds, experiment.first_look, experiment.design) == (tuple(range(20)), 3, "3..20")
    assert experiment_of({"sweep": {"block_size": [3]}}).design == "3..10"
    fixed = experiment_of({"sweep": {"block_size": [3]}, "seeds": 5})
    assert (fixed.seeds, fixed.first_look, fixed.design) == ((0, 1, 2, 3, 4), None, "fixed")
    uncompared = experiment_of({"sweep": {"block_size": [3]}, "baseline": "off"})
    assert (uncompared.seeds, uncompared.design) == ((0, 1, 2), "fixed")
    with pytest.raises(ConfigError, match=r"3\.\.9 needs a baseline to decide against"):
        experiment_of({"sweep": {"block_size": [3]}, "baseline": "off", "seeds": "3..9"})


@pytest.mark.parametrize("smallest", [0, -0.3, "x", float("nan"), float("inf")])
def test_a_smallest_difference_is_a_number_above_0(smallest):
    with pytest.raises(ConfigError, match="smallest must be"):
        experiment_of({"sweep": {"block_size": [3]}, "smallest": smallest})


def test_seeds_may_be_of_numpy():
    seeds = experiment_of({"sweep": {"block_size": [3]}, "seeds": np.int64(2)}).seeds
    assert seeds == (0, 1)
    for several in (list(np.array([4, 7])), np.array([4, 7]), range(4, 8, 3), (4, 7)):
        assert experiment_of({"sweep": {"block_size": [3]}, "seeds": several}).seeds == (4, 7)
