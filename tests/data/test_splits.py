"""Held-out images are held out, the same for every seed; images drawn anew are drawn from all, the same for a seed."""

from pathlib import Path

import pytest
import torch

import tdbench
from tdbench import load_config
from tdbench.config import DataConfig
from tdbench.data.images import FolderImages
from tdbench.data.sources import load_data
from tdbench.errors import ConfigError, DataError
from tdbench.training.run import Run
from tests.data.test_sources import write_folder

TINY = {"train_fraction": 0.2, "batch_size": 16, "max_steps": 4, "threads": 1}


def images_of(part):
    """Return the images of a set as bytes, with their labels."""
    images = (
        part.images.paths if isinstance(part.images, FolderImages) else [one.numpy().tobytes() for one in part.images]
    )
    return list(zip(images, part.labels.tolist(), strict=True))


def data_of(seed=0, **config):
    return load_data(DataConfig(**config), seed)


def test_the_same_balanced_part_is_held_out_whatever_the_seed():
    whole = data_of()
    first, second = (data_of(seed, valid_fraction=0.25) for seed in (0, 1))
    assert images_of(first.valid) == images_of(second.valid)
    assert sorted(images_of(first.valid) + images_of(first.train)) == sorted(images_of(whole.train))
    counts = torch.bincount(first.valid.labels).double() / torch.bincount(whole.train.labels)
    assert ((counts - 0.25).abs() < 0.01).all()
    assert images_of(first.test) == images_of(whole.test)
    assert whole.valid is None
    other = data_of(valid_fraction=0.25, split_seed=1)
    assert images_of(other.valid) != images_of(first.valid)


def test_a_part_of_the_training_images_is_a_part_of_what_is_not_held_out():
    data = data_of(valid_fraction=0.5, train_fraction=0.1)
    assert not set(images_of(data.train)) & set(images_of(data.valid))
    assert len(data.train) == pytest.approx(0.05 * 1437, abs=6)


@pytest.mark.slow
def test_held_out_images_are_never_trained_on_and_their_error_is_in_the_result(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Run(load_config(overrides={**TINY, "data.valid_fraction": 0.3, "crop_padding": 0, "flip": False}))
    own = {image.numpy().tobytes() for image in run.batches._crops[:, :, 0, 0]}  # of a run, all that it can draw
    assert len(own) > 100
    assert not own & {image for image, _ in images_of(data_of(valid_fraction=0.3).valid)}
    result = tdbench.train(out="run", **TINY, **{"data.valid_fraction": 0.3})
    assert 0 <= result.valid_error_pct <= 100
    assert tdbench.train(out="plain", **TINY).valid_error_pct is None
    sweep = tdbench.ablate(
        param={"block_size": [3]},
        seeds=3,
        out="sweep",
        metric="valid_error_pct",
        **TINY,
        **{"data.valid_fraction": 0.3},
    )
    assert set(sweep.summary.metric) == {"valid_error_pct"}
    assert sweep.trials.valid_error_pct.notna().all()


def test_a_class_without_a_training_image_is_named(tmp_path: Path):
    root = write_folder(tmp_path / "images", num_train=1)
    with pytest.raises(
        ConfigError, match=r"data.valid_fraction 0.5 leaves the class '.*' without a training image: it has 1"
    ):
        data_of(name="folder", root=root, image_size=8, valid_fraction=0.5)


@pytest.mark.parametrize("value", [-0.1, 1.0, "half"])
def test_a_share_that_cannot_be_held_out_is_refused(value):
    with pytest.raises(ConfigError, match=r"data\.valid_fraction must be"):
        load_config(overrides={"data.valid_fraction": value})


def test_images_are_drawn_anew_from_all_with_each_seed_and_the_same_for_one():
    given = data_of()
    first, again, second = (data_of(seed, resample=True) for seed in (0, 0, 1))
    assert images_of(first.train) == images_of(again.train)
    assert images_of(first.test) != images_of(second.test)
    every = sorted(images_of(given.train) + images_of(given.test))
    for data in (first, second):
        assert sorted(images_of(data.train) + images_of(data.test)) == every
        assert torch.equal(torch.bincount(data.test.labels), torch.bincount(given.test.labels))


@pytest.mark.parametrize("resident_mib", [0, 64])
def test_the_images_of_a_folder_can_be_drawn_anew(tmp_path, resident_mib):
    root = write_folder(tmp_path / "images", num_train=6, num_test=4)
    knobs = {"name": "folder", "root": root, "image_size": 8, "resident_mib": resident_mib}
    given, drawn = data_of(**knobs), data_of(3, resample=True, **knobs)
    assert sorted(images_of(drawn.train) + images_of(drawn.test)) == sorted(
        images_of(given.train) + images_of(given.test)
    )
    assert images_of(drawn.test) != images_of(given.test)


def test_given_test_images_are_not_drawn_anew(tmp_path):
    with pytest.raises((ConfigError, DataError), match=r"data.resample must be false for cifar10.*digits, folder"):
        data_of(name="cifar10", root=tmp_path, resample=True)


@pytest.mark.slow
def test_a_sweep_over_new_draws_has_no_other_interval_for_new_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    knobs = {**TINY, "data.resample": True}
    sweep = tdbench.ablate(param={"block_size": [3]}, seeds=3, out="sweep", **knobs)
    assert sweep.summary.delta_ci95_low_images.isna().all()
    errors = sweep.trials.pivot(index="seed", columns="block_size", values="test_error_pct")
    assert errors.notna().all().all()


@pytest.mark.parametrize("resident_mib", [0, 1])
def test_test_images_that_are_not_to_be_seen_are_not_read(tmp_path: Path, resident_mib):
    for image in (write_folder(tmp_path) / "test").rglob("*.png"):
        image.write_text("no image")
    config = {"name": "folder", "root": tmp_path, "image_size": 8, "valid_fraction": 0.5, "resident_mib": resident_mib}
    data = data_of(**config, test=False)
    assert len(data.test) == 0
    assert len(data.valid) > 0
    with pytest.raises(DataError, match="cannot be decoded"):
        images_of(data_of(**config | {"resident_mib": 1}).test)


def test_a_run_that_may_not_see_the_test_images_has_no_figure_of_them(tmp_path):
    without = tdbench.train(out=tmp_path / "a", **TINY, **{"data.valid_fraction": 0.2, "data.test": False})
    seeing = tdbench.train(out=tmp_path / "b", **TINY, **{"data.valid_fraction": 0.2})
    assert without.is_done
    assert without.valid_error_pct == seeing.valid_error_pct
    for name in ("test_error_pct", "best_test_error_pct", "test_loss", "ece_pct", "brier", "test_error_pct_bn"):
        assert getattr(without, name) is None
        assert getattr(seeing, name) is not None
    assert not (tmp_path / "a" / "predictions.npz").exists()


def test_something_has_to_judge():
    with pytest.raises(ConfigError, match=r"data\.test must be true where no images are held out"):
        load_config(None, {"data.test": False})
