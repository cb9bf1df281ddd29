"""A plan: every point checked, every trial once, every point beside the baseline that it is compared with."""

import pytest

from tdbench.errors import ConfigError, FolderError
from tdbench.store.folders import SweepFolder
from tdbench.sweep.experiment import Experiment
from tdbench.sweep.plan import make_plan
from tdbench.sweep.same import same_sweep


def plan_of(baseline="none", seeds=(0, 1), base=None, **sweep):
    return make_plan(Experiment(sweep=sweep, seeds=seeds, baseline=baseline, base=base or {}))


def values_of(plan):
    return [tuple(point.values.values()) for point in plan.points]


def test_a_sweep_of_a_knob_has_one_baseline_which_runs_once_for_all_values():
    plan = plan_of(block_size=(3, 5))
    assert plan.keys == ("block_size",)
    assert values_of(plan) == [("none",), (3,), (5,)]
    baseline, *rest = plan.points
    assert all(point.baseline is baseline for point in rest)
    assert len(plan.trials) == 6
    methods = [plan.trials[baseline.trials[seed]].regularizer.name for seed in (0, 1)]
    assert methods == ["none", "none"]


def test_a_sweep_of_the_network_compares_each_with_itself_without_a_regularizer():
    plan = plan_of(model=("resnet8", "resnet14"))
    assert values_of(plan) == [("resnet8",), ("resnet14",), ("resnet8",), ("resnet14",)]
    for point in plan.points[2:]:
        trial, baseline = plan.trials[point.trials[0]], plan.trials[point.baseline.trials[0]]
        assert trial.model == baseline.model
        assert (trial.regularizer.name, baseline.regularizer.name) == ("targetdrop", "none")


def test_a_grid_has_a_point_for_each_combination():
    plan = plan_of(model=("resnet8", "resnet14"), block_size=(1, 3))
    assert values_of(plan) == [
        ("resnet8", "none"),
        ("resnet14", "none"),
        *(("resnet8", 1), ("resnet8", 3), ("resnet14", 1), ("resnet14", 3)),
    ]
    assert len(plan.trials) == 12


def test_the_methods_are_compared_each_with_its_own_defaults():
    plan = plan_of(regularizer=("targetdrop", "dropblock"), base={"regularizer": {"block_size": 3}})
    methods = {trial.regularizer.name: trial.regularizer for trial in plan.trials.values()}
    assert methods["targetdrop"].block_size == 3
    assert methods["dropblock"].block_size == 7  # the shared setting belongs to the shared method
    assert methods["dropblock"].schedule == "linear"


def test_a_swept_value_can_be_the_baseline_and_there_can_be_none():
    plan = plan_of(block_size=(3, 5), baseline="5")
    assert values_of(plan) == [(5,), (3,)]
    assert plan.points[1].baseline is plan.points[0]
    assert all(point.baseline is None for point in plan_of(block_size=(3, 5), baseline="off").points)
    with pytest.raises(ConfigError, match=r"unknown baseline '7'.*known: none, off, 3, 5"):
        plan_of(block_size=(3, 5), baseline="7")


def test_none_among_the_methods_is_the_baseline_and_is_not_listed_twice():
    plan = plan_of(regularizer=("dropout", "none"))
    assert values_of(plan) == [("none",), ("dropout",)]


def test_trials_that_come_out_identical_run_once():
    plan = plan_of(target_fraction=(0.15, None, 0.5))  # ρ = γ is what null means
    assert len(plan.points) == 4
    assert len(plan.trials) == 6
    assert plan.points[1].trials == plan.points[2].trials


def test_values_that_are_the_same_value_are_one_point_and_baselines_have_names_of_their_own():
    assert values_of(plan_of(drop_ratio=(0.1, "1e-1", 0.1))) == [("none",), (0.1,)]
    assert values_of(plan_of(rescale=("none", "layer"))) == [("no regularizer",), ("none",), ("layer",)]


def test_arms_are_named_sets_of_settings():
    arms = {"plain": {"regularizer": "none"}, "both": {"regularizer": "max_dropout", "augment.cutout": 16}}
    plan = make_plan(Experiment(arms=arms, seeds=1, baseline="plain"))
    assert plan.keys == ("arm",)
    assert values_of(plan) == [("plain",), ("both",)]
    both = plan.trials[plan.points[1].trials[0]]
    assert (both.regularizer.name, both.augment.cutout) == ("max_dropout", 16)


def test_seeds_come_first_so_that_what_is_there_early_is_paired():
    plan = plan_of(block_size=(3, 5), seeds=(4, 2))
    assert [trial.seed for trial in plan.trials.values()] == [4, 4, 4, 2, 2, 2]


def test_all_wrong_points_are_named_before_anything_runs():
    with pytest.raises(ConfigError) as caught:
        plan_of(block_size=(1, 2, "wide", 4), drop_ratio=(0.1, 1.5))
    lines = str(caught.value).splitlines()
    assert "block_size 1, drop_ratio 1.5: regularizer.drop_ratio must be between 0 and 1, got 1.5" in lines
    assert "block_size 2, drop_ratio 0.1: regularizer.block_size must be odd and at least 1, got 2" in lines
    assert any("block_size wide" in line and "must be a whole number" in line for line in lines)
    assert len(lines) == 10  # one for each wrong value of each of seven points


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"seed": (1, 2)}, "--seeds says which"),
        ({"lr": tuple(range(1, 400)), "block_size": tuple(range(1, 400))}, "at most 100,000 trials, got 318,402"),
        ({"threads": (1, 2)}, "it changes where or how fast a run goes"),
        ({"k": (1,), "block_size": (3,)}, "each parameter once"),
        ({"p": (0.1,)}, "unknown key 'p': it is a knob of"),
        ({"blok_size": (1,)}, "did you mean block_size"),
    ],
)
def test_a_parameter_that_cannot_be_swept_is_refused(sweep, message):
    with pytest.raises(ConfigError, match=message):
        plan_of(**sweep)


def test_a_folder_takes_more_values_and_seeds_of_its_sweep_and_no_other_sweep(tmp_path):
    folder = SweepFolder(tmp_path)
    plan = plan_of(block_size=(3, 5))
    same_sweep(plan, folder)
    folder.write_sweep(plan.tree())
    for same in (plan_of(block_size=(3, 7, 9), seeds=(0, 1, 2)), plan_of(block_size=(3, 5), baseline="off")):
        same_sweep(same, folder)
        assert same.digest == plan.digest
    with pytest.raises(FolderError, match=r"another sweep: training.epochs is 20 there and 3 here"):
        same_sweep(plan_of(block_size=(3, 5), base={"training": {"epochs": 3}}), folder)
    with pytest.raises(FolderError, match="another sweep: sweeps is block_size there and drop_ratio here"):
        same_sweep(plan_of(drop_ratio=(0.1,)), folder)
    judged = make_plan(plan.experiment.model_copy(update={"metric": "test_error_pct_bn"}))
    with pytest.raises(FolderError, match="metric is test_error_pct there and test_error_pct_bn here"):
        same_sweep(judged, folder)
    assert judged.digest != plan.digest
    folder.write_sweep({key: value for key, value in plan.tree().items() if key != "metric"})  # as 0.2.0 wrote it
    same_sweep(plan, folder)
    folder.write_sweep({"something": "else"})
    with pytest.raises(FolderError, match="is damaged, or of another release"):
        same_sweep(plan, folder)


def test_sweep_yaml_repeats_the_sweep(tmp_path):
    plan = plan_of(block_size=(3, 5), base={"training": {"max_steps": 3}})
    again = make_plan(Experiment.model_validate(plan.tree()))
    assert list(again.trials) == list(plan.trials)
