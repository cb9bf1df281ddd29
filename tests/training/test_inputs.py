"""Images come to a network in the size and with the normalisation that it takes, where these are not their own."""

import pytest
import torch
import torch.nn.functional as F

from tdbench import load_config
from tdbench.data.sources import load_data
from tdbench.errors import ConfigError
from tdbench.training.facts import facts_of
from tdbench.training.inputs import as_taken, images_for, input_of
from tdbench.training.setup import Setup

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def config_of(**model):
    given = {f"model.{key}": value for key, value in model.items()}
    return load_config(None, {"batch_size": 10, "hardware.precision": "fp32", **given})


def digits(config):
    return load_data(images_for(config), config.seed)


def test_images_are_as_they_are_where_nothing_is_asked():
    config = config_of()
    data = digits(config)
    taken = as_taken(config.model, data)
    assert (taken.mean, taken.std, taken.input_shape) == (data.mean, data.std, (1, 32, 32))


def test_batches_are_resized_after_all_else_for_training_and_testing():
    plain, large = (Setup(config_of(**model)) for model in ({}, {"input_size": 48}))
    for batches in ("train", "test"):
        (small, labels, *_), (resized, same, *_) = (
            next(iter(one.test_batches() if batches == "test" else one.train_batches().epoch(1, 0, 1)))
            for one in (plain, large)
        )
        assert resized.shape[2:] == (48, 48)
        assert torch.equal(labels, same)
        torch.testing.assert_close(resized, F.interpolate(small, (48, 48), mode="bilinear", antialias=True))
    assert large.insert().shapes["stage1"] == (16, 48, 48)


def test_images_are_normalised_by_what_is_asked():
    setup = Setup(config_of(input_mean=(0.25,), input_std=(0.5,)))
    images, *_ = next(iter(setup.test_batches()))
    pixels = setup.data.test.images[: len(images)].float() / 255
    torch.testing.assert_close(images, (pixels - 0.25) / 0.5)
    assert "resized to 32×32, mean 0.25, deviation 0.5" in facts_of(setup, setup.insert())["data"]


def test_published_weights_bring_their_own_and_what_is_asked_goes_first():
    model = {"name": "torchvision:resnet18", "pretrained": True}
    assert input_of(config_of(**model).model) == (224, IMAGENET["mean"], IMAGENET["std"])
    assert input_of(config_of(**model, input_size=64, input_mean=[0.5], input_std=[0.2]).model) == (64, (0.5,), (0.2,))


def test_grey_images_take_the_mean_of_the_colours():
    config = config_of(name="torchvision:resnet18", pretrained=True)
    taken = as_taken(config.model, digits(config))
    assert taken.mean == (pytest.approx(sum(IMAGENET["mean"]) / 3),)
    assert taken.std == (pytest.approx(sum(IMAGENET["std"]) / 3),)


def test_a_normalisation_for_other_channels_is_refused():
    config = config_of(input_mean=(0.5, 0.5, 0.5), input_std=(1, 1, 1))
    with pytest.raises(
        ConfigError, match=r"model.input_mean must have a value for each of the 1 channels of the images, got 3"
    ):
        as_taken(config.model, digits(config))


def test_a_folder_is_read_in_the_size_of_the_network_unless_one_is_named():
    model = {"model.name": "torchvision:resnet18", "model.pretrained": True}
    assert images_for(load_config(None, {"data": "folder", **model})).image_size == 224
    assert images_for(load_config(None, {"data": "folder", "data.image_size": 96, **model})).image_size == 96
    assert images_for(load_config(None, {"data": "folder"})).image_size == 32


@pytest.mark.parametrize("named", [{"image_size": 64}, {"resize_size": 64}])
def test_a_size_that_is_named_for_pixels_of_another_is_refused(named, tmp_path):
    pixels = "torch.zeros(40, 1, 16, 16).byte(), torch.arange(40) % 2"
    (tmp_path / "mine.py").write_text(f"import torch\ndef make_data():\n    return ({pixels}), ({pixels})\n")
    given = {"data": f"{tmp_path}/mine.py:make_data", "batch_size": 10, "model.input_size": 48}
    assert Setup(load_config(None, given)).data.input_shape == (1, 48, 48)
    with pytest.raises(ConfigError, match=r"data.image_size and .* mine.py:make_data returns pixels, here 16×16, got"):
        Setup(load_config(None, given | {f"data.{key}": value for key, value in named.items()}))
