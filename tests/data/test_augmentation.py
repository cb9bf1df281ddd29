"""Augmentation is torchvision's own on each image, from the data's seeds: paired, resumable, and beside all others."""

import pytest
import torch
from torchvision.transforms import v2

from tdbench import load_config
from tdbench.data.augmentation import dominant
from tdbench.data.batches import TrainBatches
from tdbench.data.seeds import derive_seed
from tdbench.errors import ConfigError
from tests.data.test_batches import CPU, batches_of, data_of, on_disk, pixels, random_images

PLAIN = {"augment.crop_padding": 0, "augment.flip": False}
THEIRS = {  # key, value, torchvision's own
    "random_resized_crop": (0.3, v2.RandomResizedCrop((8, 8), scale=(0.3, 1.0))),
    "randaugment": (20, v2.RandAugment(num_ops=2, magnitude=20)),
    "trivial_augment": (True, v2.TrivialAugmentWide()),
    "color_jitter": (0.4, v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4)),
    "random_erasing": (0.5, v2.RandomErasing(p=0.5)),
}
MIXING = {"mixup": 1.0, "cutmix": 1.0}
ALL = {name: value for name, (value, _) in THEIRS.items()} | MIXING
IMAGES = random_images(12)


def augmented(name, value=None, data=None, layout=torch.contiguous_format, **more):
    value = ALL[name] if value is None else value
    return batches_of(
        data or data_of(IMAGES, torch.arange(12) % 2), layout, **PLAIN, **{f"augment.{name}": value}, **more
    )


def order_of(seed=0, epoch=1):
    batches = batches_of(data_of(IMAGES), **PLAIN, seed=seed)
    return torch.cat([labels for _, labels in batches.epoch(epoch, 0, 3)])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", THEIRS)
def test_each_is_torchvision_s_own_on_each_image_from_its_seed(name, channels):
    images, theirs = random_images(12, channels), THEIRS[name][1]
    batches = augmented(name, data=data_of(images), layout=torch.channels_last)
    seen = torch.cat([batch for batch, _ in batches.epoch(1, 0, 3)])
    state = torch.get_rng_state()
    for place, index in enumerate(order_of()):
        torch.manual_seed(derive_seed(0, "augment", name, 1, place))
        if name == "random_erasing":
            expected = theirs((images[index] / 255 - 0.25) / 0.5)
        else:
            expected = (theirs(images[index]) / 255 - 0.25) / 0.5
        torch.testing.assert_close(seen[place], expected, rtol=1e-5, atol=1e-5)
    torch.set_rng_state(state)
    assert batches_of(data_of(images)).padding == 1
    assert next(iter(batches.epoch(1, 0, 1)))[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ALL)
def test_every_augmentation_changes_images_and_differs_by_epoch_and_seed(name):
    plain, changed = (next(one.epoch(1, 0, 1))[0] for one in (batches_of(data_of(IMAGES), **PLAIN), augmented(name)))
    assert not torch.equal(plain, changed)
    assert not torch.equal(changed, next(augmented(name).epoch(2, 0, 1))[0])
    assert not torch.equal(changed, next(augmented(name, seed=1).epoch(1, 0, 1))[0])


@pytest.mark.parametrize("name", ALL)
def test_equal_seeds_see_equal_images_whatever_the_method_and_who_else_draws(name):
    ours = list(augmented(name, regularizer="none").epoch(1, 0, 3))
    torch.rand(17)
    before = torch.get_rng_state()
    theirs = list(augmented(name, regularizer="dropout", p=0.3).epoch(1, 0, 3))
    assert torch.equal(torch.get_rng_state(), before)
    for (images, labels), (others, also) in zip(ours, theirs, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, also)


@pytest.mark.parametrize("name", ALL)
def test_an_epoch_is_entered_in_the_middle_with_the_same_images(name):
    whole, rest = list(augmented(name).epoch(2, 0, 3)), list(augmented(name).epoch(2, 1, 3))
    for (images, labels), (others, also) in zip(whole[1:], rest, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, also)


@pytest.mark.parametrize("name", ALL)
def test_images_that_are_streamed_are_changed_as_those_in_memory(name, tmp_path):
    streamed = augmented(name, data=data_of(on_disk(IMAGES, tmp_path), torch.arange(12) % 2))
    for (images, _), (others, _) in zip(augmented(name).epoch(1, 0, 3), streamed.epoch(1, 0, 3), strict=True):
        assert torch.equal(images, others)


@pytest.mark.parametrize("name", THEIRS)
def test_one_augmentation_does_not_change_what_another_draws(name):
    beside = "random_erasing" if name != "random_erasing" else "color_jitter"
    knobs = {"augment.mixup": 0.5, f"augment.{beside}": 1e-9}
    alone = next(augmented(name, **{"augment.mixup": 0.5}).epoch(1, 0, 1))
    both = next(augmented(name, **knobs).epoch(1, 0, 1))
    torch.testing.assert_close(alone[0], both[0], rtol=0, atol=0.02)  # color_jitter rounds to whole values
    assert torch.equal(alone[1], both[1])


@pytest.mark.parametrize("name", THEIRS)
def test_the_processes_of_a_run_change_their_images_as_one_would(name):
    config = load_config(overrides={"batch_size": 4, **PLAIN, f"augment.{name}": ALL[name]})
    parts = [TrainBatches(data_of(IMAGES), config, CPU, torch.contiguous_format, (rank, 2)) for rank in (0, 1)]
    for (images, _), (one, _), (two, _) in zip(
        augmented(name).epoch(1, 0, 3), *(part.epoch(1, 0, 3) for part in parts), strict=True
    ):
        assert torch.equal(images, torch.cat([one, two]))


def classes_of_two(num_images=12):
    return data_of(random_images(num_images), torch.arange(num_images) % 2)


def test_mixup_blends_images_and_labels_by_one_share_for_each_batch():
    plain, mixed = (
        list(batches_of(classes_of_two(), **PLAIN, **more).epoch(1, 0, 3)) for more in ({}, {"augment.mixup": 1.0})
    )
    shares = set()
    for (images, labels), (blend, soft) in zip(plain, mixed, strict=True):
        hard = torch.nn.functional.one_hot(labels, 2).float()
        apart = (labels != labels.roll(1)).nonzero().flatten()
        share = float(soft[apart[0], labels[apart[0]]]) if len(apart) else 1.0
        torch.testing.assert_close(soft, share * hard + (1 - share) * hard.roll(1, 0))
        if len(apart):
            torch.testing.assert_close(blend, share * images + (1 - share) * images.roll(1, 0), rtol=1e-5, atol=1e-5)
            shares.add(share)
    assert len(shares) > 1


def test_cutmix_labels_by_the_share_of_the_pixels_that_are_of_each_image():
    plain, mixed = (
        list(batches_of(classes_of_two(), **PLAIN, **more).epoch(1, 0, 3)) for more in ({}, {"augment.cutmix": 1.0})
    )
    for (images, labels), (cut, soft) in zip(plain, mixed, strict=True):
        of_other = (cut != images).any(1)
        assert torch.equal(cut, torch.where(of_other[:, None], images.roll(1, 0), images))
        hard = torch.nn.functional.one_hot(labels, 2).float()
        share = 1 - of_other[0].float().mean()
        torch.testing.assert_close(soft, share * hard + (1 - share) * hard.roll(1, 0), rtol=1e-5, atol=1e-5)


def test_with_both_each_batch_is_blended_or_cut_and_the_dominant_label_is_the_larger_share():
    data = classes_of_two(80)
    both = batches_of(data, **PLAIN, **{"augment.mixup": 1.0, "augment.cutmix": 1.0})
    plain = batches_of(data, **PLAIN)
    kinds = set()
    for (images, labels), (mixed, soft) in zip(plain.epoch(1, 0, 20), both.epoch(1, 0, 20), strict=True):
        kinds.add(bool(((mixed == images) | (mixed == images.roll(1, 0))).all()))
        assert torch.equal(dominant(soft), soft.argmax(1))
        assert torch.equal(dominant(labels), labels)
    assert kinds == {True, False}


@pytest.mark.parametrize("name", MIXING)
def test_one_class_alone_cannot_be_mixed(name):
    one = data_of(IMAGES, torch.zeros(12, dtype=torch.int64))
    one = type(one)(one.source, one.train, one.test, ("a",), one.mean, one.std)
    with pytest.raises(ConfigError, match=rf"augment\.{name} must be 0 on images of one class, got 1\.0"):
        augmented(name, data=one)


@pytest.mark.parametrize("name", MIXING)
def test_an_image_alone_in_its_batch_cannot_be_mixed(name):
    with pytest.raises(
        ConfigError, match=rf"augment\.{name} must be 0 where a process has batches of one image, got 1\.0"
    ):
        batches_of(data_of(IMAGES), **{f"augment.{name}": 1.0, "batch_size": 1})


@pytest.mark.parametrize("name", ["randaugment", "trivial_augment", "color_jitter"])
def test_what_changes_colours_is_refused_where_there_are_other_channels(name):
    two = data_of(IMAGES[:, :1].expand(-1, 2, -1, -1))
    with pytest.raises(ConfigError, match=rf"augment\.{name} must be left out for images of 2 channels, got "):
        augmented(name, data=two)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"augment.mixupp": 0.2}, r"unknown key 'augment\.mixupp'; did you mean augment\.mixup"),
        ({"augment.rand_augment": 9}, r"did you mean augment\.randaugment"),
        ({"augment.randaugment": 31}, r"augment\.randaugment must be between 0 and 30, got 31"),
        ({"augment.random_resized_crop": 0}, r"augment\.random_resized_crop must be greater than 0, got 0"),
        ({"augment.random_erasing": 1.5}, r"augment\.random_erasing must be between 0 and 1, got 1\.5"),
        ({"augment.color_jitter": -1}, r"augment\.color_jitter must be between 0 and 1, got -1"),
        ({"augment.mixup": -0.1}, r"augment\.mixup must be at least 0, got -0\.1"),
        ({"augment.trivial_augment": True, "augment.randaugment": 9}, "trivial_augment must be false beside"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(given, message):
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=given)


def test_a_random_part_resized_takes_the_place_of_the_padded_crop_unless_that_is_asked_for():
    knobs = {"augment.random_resized_crop": 0.5}
    assert batches_of(data_of(IMAGES), **knobs).padding == 0
    assert batches_of(data_of(IMAGES), **knobs, **{"augment.crop_padding": 2}).padding == 2


def test_pixels_stay_whole_values():
    (images, _), *_ = augmented("randaugment").epoch(1, 0, 1)
    assert torch.equal(pixels(images).float(), ((images * 0.5 + 0.25) * 255).round())
