"""The configuration: defaults < YAML < overrides, one line for each mistake, and a digest that means what it says."""

import pytest
import yaml

from tdbench import load_config
from tdbench.config import FLAGS, RunConfig, known_keys
from tdbench.config.settings import configs_of
from tdbench.errors import ConfigError
from tdbench.regularizers.registry import find_method, method_names
from tdbench.sweep.asked import plan_sweep


@pytest.fixture
def write(tmp_path):
    def writer(text: str):
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return writer


def test_defaults_are_targetdrop_on_digits():
    config = load_config()
    assert (config.data.name, config.regularizer.name) == ("digits", "targetdrop")
    assert config.regularizer.drop_ratio == 0.15
    assert config.regularizer.block_size == 5


def test_overrides_beat_yaml_which_beats_defaults(write):
    path = write("training: {epochs: 7, batch_size: 16}\nregularizer: {block_size: 3}")
    config = load_config(path, {"epochs": 9})
    assert (config.training.epochs, config.training.batch_size, config.regularizer.block_size) == (9, 16, 3)
    assert config.optimizer.lr == load_config().optimizer.lr


def test_a_dumped_configuration_loads_as_itself(write):
    config = load_config(overrides={"gamma": 0.3, "sites": "stage1,stage3", "epochs": 3})
    again = load_config(write(yaml.safe_dump(config.dump())))
    assert again == config
    assert again.digest() == config.digest()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("gamma", "drop_ratio"),
        ("γ", "drop_ratio"),
        ("drop_ratio", "drop_ratio"),
        ("regularizer.gamma", "drop_ratio"),
        ("target_channel_fraction", "target_fraction"),
    ],
)
def test_a_knob_answers_to_its_aliases(name, key):
    assert getattr(load_config(overrides={name: 0.4}).regularizer, key) == 0.4


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_stands_for_a_key(flag):
    assert FLAGS[flag] in known_keys(find_method("targetdrop"))


def test_changing_the_method_drops_the_knobs_of_the_old_one_but_keeps_the_sites(write):
    path = write("regularizer: {name: targetdrop, block_size: 3, sites: [stage3]}")
    assert load_config(path, {"regularizer": "none"}).regularizer.sites == ("stage3",)


def test_the_digest_tells_experiments_apart_and_nothing_else():
    digest = load_config().digest()
    assert load_config(overrides={"block_size": 3}).digest() != digest
    assert load_config(overrides={"seed": 1}).digest() != digest
    assert load_config(overrides={"threads": 1, "data_root": "elsewhere"}).digest() == digest
    assert load_config(overrides={"target_fraction": 0.15}).digest() == digest  # ρ = γ is the default


def test_the_place_of_a_folder_of_images_is_part_of_the_experiment():
    one, other = (load_config(overrides={"data": "folder", "data_root": root}).digest() for root in ("a", "b"))
    assert one != other


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"blok_size": 3}, "unknown key 'blok_size'; did you mean block_size?"),
        ({"training.epoch": 3}, "unknown key 'training.epoch'; did you mean training.epochs?"),
        ({"regularizer": "targetdorp"}, "unknown regularizer 'targetdorp'; did you mean targetdrop?"),
        ({"block_size": 4}, "block_size must be odd and at least 1, got 4"),
        ({"block_size": 0}, "block_size must be odd and at least 1, got 0"),
        ({"gamma": -0.1}, "drop_ratio must be between 0 and 1, got -0.1"),
        ({"target_fraction": 0.1}, "target_fraction must be between drop_ratio = 0.15 and 1, got 0.1"),
        ({"epochs": 0}, "training.epochs must be at least 1, got 0"),
        ({"data": "folder", "resize_size": 31}, "data.resize_size must be at least data.image_size, 32, got 31"),
        ({"data": "mine.py"}, "mine.py must name what is meant in the file too: mine.py:NAME"),
        ({"data": "medmnst:x"}, "unknown data set 'medmnst:x'; did you mean medmnist:NAME?"),
        ({"epochs": "many"}, "training.epochs must be a whole number, got 'many'"),
        ({"epochs": True}, "training.epochs must be neither true nor false, got true"),
        ({"epochs": 1.5}, "training.epochs must be a whole number, got 1.5"),
        ({"lr": -1}, "optimizer.lr must be greater than 0, got -1"),
        ({"lr": float("nan")}, "optimizer.lr must be a finite number, got nan"),
        ({"precision": "bf17"}, "did you mean bf16?"),
        ({"device": "cudda"}, "did you mean cuda?"),
        ({"attention": "sse"}, "regularizer.attention must be 'se', 'se_ste', 'gap' or 'random', got 'sse'"),
        ({"name": "x"}, "key 'name' is ambiguous"),
        ({"train_fraction": 0}, "data.train_fraction must be greater than 0, got 0"),
        ({"match": "dropped=2", "gamma": 0.3}, "drop_ratio must not be given beside regularizer.match, which solves"),
    ],
)
def test_a_mistake_is_one_line_with_field_rule_and_value(overrides, message):
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("- a\n- b", "must hold a table of keys, got list"),
        ("training: {epochs: [}", "is not YAML"),
        ("training: 3", "training must be a table of keys, got 3"),
        ("regularizer: 3", "regularizer must be a table of keys"),
        ("trainig: {epochs: 3}", "unknown key 'trainig'; did you mean training?"),
        ("training: {epoch: 3}", "unknown key 'training.epoch'; did you mean training.epochs?"),
        ("regularizer: {name: targetdrop, blocksize: 3}", "did you mean regularizer.block_size?"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(write, text, message):
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "absent.yaml")


def test_two_mistakes_are_both_told(write):
    with pytest.raises(ConfigError, match=r"(?s)epochs.*batch_size"):
        load_config(write("training: {epochs: 0, batch_size: 0}"))


@pytest.mark.parametrize("name", method_names())
def test_the_folder_is_the_registry(name):
    assert load_config(overrides={"regularizer": name}).regularizer.name == name


def test_the_places_of_data_mean_the_same_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = load_config(overrides={"data": "folder", "data_root": "pictures", "cache": "kept"}).data
    assert (data.root, data.cache) == (tmp_path / "pictures", tmp_path / "kept")
    assert load_config(overrides={"data": "mine.py:make"}).data.name == f"{tmp_path / 'mine.py'}:make"


def test_the_data_lie_under_the_working_folder_of_the_moment(tmp_path, monkeypatch):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        monkeypatch.chdir(folder)
        assert load_config().data.root == folder / "data"


UNUSED = [
    ({"image_size": 64}, {"data": "folder"}),
    ({"image_size": 64}, {"data": "mine.py:make_data"}),
    ({"resize_size": 64}, {"data": "hf:somebody/something"}),
    ({"skip_broken": True}, {"data": "folder"}),
    ({"cache": "kept"}, {"data": "folder"}),
    ({"milestones": [0.5]}, {"schedule.name": "milestones"}),
    ({"factor": 0.5}, {"schedule.name": "milestones"}),
    ({"ramp": 0.5}, {"regularizer.schedule": "linear"}),
    ({"ramp": 0.5}, {"regularizer": "dropblock"}),
    ({"reduction": 4}, {"attention": "se_ste"}),
]
NOT_THERE = {"data": "digits", "schedule.name": "cosine", "regularizer.schedule": "constant", "attention": "gap"}


@pytest.mark.parametrize(("setting", "need"), UNUSED)
def test_a_setting_that_does_nothing_is_refused_and_one_that_does_something_is_not(setting, need):
    load_config(overrides=need | setting)
    (name,), (other,) = setting, need
    without = {other: NOT_THERE[other]} if other in NOT_THERE else {"regularizer": "targetdrop"}
    with pytest.raises(ConfigError, match=rf"{name} must be left at .* does nothing where"):
        load_config(overrides=without | setting)
    load_config(overrides=without)


def test_a_setting_that_one_of_several_runs_uses_is_not_refused():
    configs = configs_of(None, ["targetdrop", "dropblock"], {"ramp": 0.5})
    assert configs["dropblock"].regularizer.ramp == 0.5
    with pytest.raises(ConfigError, match="ramp must be left at"):
        configs_of(None, ["targetdrop", "dropout"], {"ramp": 0.5})
    for param, settings in (
        ("regularizer.schedule=constant,linear", {"ramp": 0.5}),
        ("attention=se,gap", {"reduction": 4}),
    ):
        assert len(plan_sweep(None, param, (), 1, "off", settings).points) == 2
    for param in ("ramp=0.25,0.5,1.0", "data.image_size=32,64"):
        with pytest.raises(ConfigError, match="does nothing where"):
            plan_sweep(None, param, (), 1, "off", {})


def test_a_run_folder_of_before_may_hold_a_setting_that_does_nothing():
    assert RunConfig.model_validate({"data": {"image_size": 64}}).data.image_size == 64
