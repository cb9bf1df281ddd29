"""Matched strengths: every method's knob gives the share that is asked for, and the run reports it."""

import pytest

from tdbench import load_config
from tdbench.errors import ConfigError
from tdbench.regularizers.registry import find_method, method_names
from tdbench.training.matching import Calibration, solve_match
from tdbench.training.train import train

TINY = {"model": "resnet8", "train_fraction": 0.1, "batch_size": 32, "max_steps": 6, "threads": 1}
MATCHABLE = [name for name in method_names() if find_method(name).strength_knob is not None]
# What a method can reach with its other knobs at their defaults.
REACHABLE = {"attentiondrop": 0.5, "weighted_channel_dropout": 20.0, "targetdrop": 2.0}


@pytest.mark.parametrize("name", MATCHABLE)
def test_the_solved_value_drops_what_was_asked_for_over_the_whole_schedule(name):
    target = REACHABLE.get(name, 5.0)
    config = load_config(overrides={**TINY, "regularizer": name, "match": f"dropped={target}"})
    solved = solve_match(config)
    value = getattr(solved.regularizer, solved.regularizer.strength_knob)
    calibration = Calibration(solved)
    if solved.regularizer.share_is_proportional:  # then the whole range decides, which has the least noise
        share = value * calibration.dropped_pct(solved.regularizer.strength_range()[1])
    else:
        share = calibration.dropped_pct(value)
    # Whole pixels and channels move the share in steps.
    assert share == pytest.approx(
        target, rel={"cutout": 0.25, "targetdrop": 0.15, "weighted_channel_dropout": 0.05}.get(name, 0.01)
    )
    assert solved.digest() == config.digest()


@pytest.mark.slow
def test_a_run_drops_what_was_asked_for_and_keeps_the_solved_value(tmp_path):
    config = load_config(overrides={**TINY, "regularizer": "dropblock", "match": "dropped=5", "max_steps": 12})
    result = train(config, tmp_path / "run")
    assert result.dropped_pct == pytest.approx(5, rel=0.15)
    kept = load_config(tmp_path / "run" / "config.yaml").regularizer
    assert kept.match == 5
    assert 0.08 < kept.p < 0.2  # twice the mean over a ramp from 0
    again = train(load_config(tmp_path / "run" / "config.yaml"), tmp_path / "again")
    assert again.test_error_pct == result.test_error_pct


def test_a_run_that_was_begun_keeps_its_value_without_a_new_calibration(tmp_path, monkeypatch):
    config = load_config(overrides={**TINY, "regularizer": "dropout", "match": "dropped=5"})
    result = train(config, tmp_path)
    (tmp_path / "result.json").unlink()
    monkeypatch.setattr("tdbench.training.loop.solve_match", None)
    again = train(config, tmp_path)
    assert again.dropped_pct == result.dropped_pct


def test_a_share_out_of_reach_is_refused_with_what_can_be_had():
    config = load_config(overrides={**TINY, "match": "dropped=60"})
    with pytest.raises(ConfigError, match=r"match must be between 0 and [34]\.\d+ % here, what targetdrop drops at"):
        solve_match(config)


def test_the_range_names_the_weak_end_first_where_the_knob_says_how_much_is_kept():
    config = load_config(overrides={**TINY, "regularizer": "weighted_channel_dropout", "match": "dropped=1"})
    low, high = config.regularizer.strength_range()
    with pytest.raises(ConfigError, match=rf"at {config.regularizer.strength_knob} = {high:g} and {low:g}, got 1 %"):
        solve_match(config)


def test_the_baseline_drops_nothing_whatever_the_others_are_matched_to():
    matched, plain = (load_config(overrides={"regularizer": "none", **more}) for more in ({"match": "dropped=5"}, {}))
    assert matched.digest() == plain.digest()


@pytest.mark.parametrize("value", ["5", "kept=5", "dropped=", "dropped=0", "dropped=101", "dropped=much"])
def test_a_share_that_is_none_is_refused(value):
    with pytest.raises(ConfigError, match=r"regularizer.match must be"):
        load_config(overrides={"match": value})


def test_a_method_of_the_users_without_a_strength_cannot_be_matched(tmp_path):
    (tmp_path / "mine.py").write_text("from torch import nn\nclass Still(nn.Identity): pass\n")
    with pytest.raises(ConfigError, match=r"match must be null for .*Still, which has no strength knob"):
        load_config(overrides={"regularizer": f"{tmp_path}/mine.py:Still", "match": "dropped=5"})
