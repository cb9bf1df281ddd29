"""One rule for a setting over several methods, in every command: it goes to all that have it, and to one at least."""

import json

import pytest

from tdbench.config.loading import own_knobs
from tdbench.config.settings import configs_of, settings_of
from tdbench.errors import ConfigError
from tdbench.regularizers.registry import method_names
from tdbench.show.choice import shown_runs
from tdbench.sweep.asked import plan_sweep

THREE = ["targetdrop", "dropblock", "corrdrop"]


def blocks(configs):
    return [config.regularizer.knobs().get("block_size") for config in configs]


def swept(*param, **given):
    """Return the block size of each value of a sweep, the baseline left out."""
    plan = plan_sweep(None, list(param), [], "1", "off", given)
    return blocks(plan.trials.values())


def test_every_command_gives_a_setting_to_all_methods_that_have_it():
    assert blocks(configs_of(None, THREE, {"block_size": 3}).values()) == [3, 3, 3]
    assert blocks(shown_runs(None, THREE, {"block_size": 3})) == [3, 3, 3]
    assert swept(f"regularizer={','.join(THREE)}", block_size=3) == [3, 3, 3]
    every = [name for name in method_names() if name != "none"]
    has_blocks = {name for name in every if "block_size" in own_knobs(name)}
    assert swept("regularizer", block_size=3) == [3 if name in has_blocks else None for name in every]


def test_a_setting_goes_by_its_alias_and_methods_without_it_keep_their_own():
    settings = settings_of(["targetdrop", "dropblock", "dropout"], {"k": 3, "p": 0.3, "lr": 0.05})
    assert settings == {
        "targetdrop": {"regularizer.block_size": 3, "optimizer.lr": 0.05},
        "dropblock": {"regularizer.block_size": 3, "regularizer.p": 0.3, "optimizer.lr": 0.05},
        "dropout": {"regularizer.p": 0.3, "optimizer.lr": 0.05},
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keep": 0.5}, "unknown key 'keep': it is a knob of weighted_channel_dropout"),
        ({"blok_size": 3}, "unknown key 'blok_size'; did you mean block_size"),
        ({"regularizer.name": "dropout"}, "--regularizer names the methods, not --set regularizer.name"),
    ],
)
def test_a_setting_that_none_of_them_has_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        settings_of(THREE, given)


def test_a_sweep_refuses_what_none_of_its_methods_has_and_takes_what_the_default_method_lacks():
    with pytest.raises(ConfigError, match="unknown key 'keep': it is a knob of weighted_channel_dropout"):
        swept("regularizer=targetdrop,dropblock", keep=0.5)
    assert swept("regularizer=dropblock,corrdrop", p=0.25) == [7, 5]


def test_a_sweep_of_arms_gives_a_setting_to_the_methods_of_its_arms(tmp_path):
    file = tmp_path / "arms.yaml"
    file.write_text("arms: {a: {regularizer: dropblock}, b: {block_size: 5}, c: {regularizer: dropout}}\nseeds: 1\n")
    plan = plan_sweep(file, [], [], None, "off", {"block_size": 3})
    assert blocks(plan.trials.values()) == [3, 5, None]  # what an arm says itself comes last


def test_a_base_that_names_no_method_gives_its_knobs_to_all_and_one_that_does_to_its_own(tmp_path):
    for text, expected in (
        ("regularizer: {block_size: 3}", [3, 3, 3]),
        ("regularizer: {name: dropblock, block_size: 3}", [5, 3, 5]),
    ):
        (tmp_path / "x.yaml").write_text(f"base: {{{text}}}\nsweep: {{regularizer: {json.dumps(THREE)}}}\nseeds: 1\n")
        plan = plan_sweep(tmp_path / "x.yaml", [], [], None, "off", {})
        assert blocks(plan.trials.values()) == expected


def test_a_sweep_s_file_repeats_it_with_the_settings_of_all_methods(tmp_path):
    plan = plan_sweep(None, [f"regularizer={','.join(THREE)}"], [], "1", None, {"block_size": 3, "epochs": 2})
    (tmp_path / "sweep.yaml").write_text(json.dumps(plan.tree()))
    again = plan_sweep(tmp_path / "sweep.yaml", [], [], None, None, {})
    assert list(again.trials) == list(plan.trials)
    assert again.digest == plan.digest
    other = plan_sweep(None, [f"regularizer={','.join(THREE)}"], [], "1", None, {"block_size": 5, "epochs": 2})
    assert other.digest != plan.digest


def test_a_knob_of_a_file_that_names_no_method_goes_to_every_method_that_has_it(tmp_path):
    (tmp_path / "run.yaml").write_text("regularizer: {block_size: 3}\n")
    configs = configs_of(tmp_path / "run.yaml", ["dropblock", "targetdrop", "dropout"], {})
    assert [configs[name].regularizer.block_size for name in ("dropblock", "targetdrop")] == [3, 3]
