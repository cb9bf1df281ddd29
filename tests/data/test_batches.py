"""Batches: every image once an epoch, crops and flips of the image itself, the same for one seed whatever else."""

import dataclasses

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from tdbench import load_config
from tdbench.config.data_sets import find_data_set
from tdbench.data.batches import TestBatches, TrainBatches
from tdbench.data.images import FolderImages, ImageSet
from tdbench.data.seeds import derive_seed
from tdbench.data.sources import LoadedData, load_data
from tdbench.errors import ConfigError
from tests.oracles import cutout as cutout_oracle

CPU = torch.device("cpu")


def on_disk(images, folder):
    """Return the same images as files that are decoded one by one, as a set too large for memory is."""
    paths = []
    for number, image in enumerate(images):
        paths.append(str(folder / f"{number:03}.png"))
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(paths[-1])
    return FolderImages(paths, image_size=images.shape[2])


def data_of(images, labels=None, flip=False):
    labels = torch.arange(len(images)) if labels is None else labels
    source = dataclasses.replace(find_data_set("digits"), flip=flip)
    images = ImageSet(images, labels)
    channels = len(images.images[0])
    return LoadedData(source, images, images, ("a", "b"), (0.25,) * channels, (0.5,) * channels)


def batches_of(data, layout=torch.contiguous_format, **overrides):
    return TrainBatches(data, load_config(overrides={"batch_size": 4, **overrides}), CPU, layout)


def pixels(batch):
    """Undo the normalisation."""
    return ((batch * 0.5 + 0.25) * 255).round().to(torch.uint8)


def random_images(n, channels=3, height=8, width=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (n, channels, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_without_augmentation_an_epoch_holds_each_image_once_unchanged(channels, layout):
    images = random_images(12, channels)
    batches = batches_of(data_of(images), layout, **{"augment.crop_padding": 0})
    seen = []
    for batch, labels in batches.epoch(1, 0, len(batches)):
        assert batch.is_contiguous(memory_format=layout)
        assert torch.equal(pixels(batch), images[labels])
        seen += labels.tolist()
    assert sorted(seen) == list(range(12))


def test_a_crop_is_a_window_of_the_zero_padded_image():
    images = random_images(40, height=8, width=8)
    batches = batches_of(data_of(images), **{"augment.crop_padding": 2})
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    offsets = set()
    for batch, labels in batches.epoch(1, 0, len(batches)):
        for crop, label in zip(pixels(batch), labels, strict=True):
            windows = [
                (down, right)
                for down in range(5)
                for right in range(5)
                if torch.equal(crop, padded[label, :, down : down + 8, right : right + 8])
            ]
            assert len(windows) == 1
            offsets.add(windows[0])
    assert len(offsets) > 12  # of 25, in 40 draws: fewer has a chance below 1e-6


def test_flips_mirror_half_of_the_images():
    images = random_images(400)
    batches = batches_of(data_of(images, flip=True), batch_size=100, **{"augment.crop_padding": 0})
    num_flipped = 0
    for batch, labels in batches.epoch(1, 0, len(batches)):
        for image, label in zip(pixels(batch), labels, strict=True):
            flipped = torch.equal(image, images[label].flip(2))
            assert flipped or torch.equal(image, images[label])
            num_flipped += flipped
    assert abs(num_flipped - 200) < 5 * 10  # five standard deviations of 400 fair coins


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_flipped_image_is_the_mirrored_crop_that_the_run_would_have_without_flips(is_streamed, tmp_path):
    images = random_images(40)
    plain, mirrored = data_of(images), data_of(images, flip=True)
    if is_streamed:
        train = ImageSet(on_disk(images, tmp_path), torch.arange(40))
        plain, mirrored = (dataclasses.replace(data, train=train) for data in (plain, mirrored))
    pairs = zip(
        *(batches_of(data, **{"data.num_workers": 0}).epoch(1, 0, 10) for data in (plain, mirrored)), strict=True
    )
    num_flipped = 0
    for (crops, labels), (flips, same) in pairs:
        assert torch.equal(labels, same)
        is_flipped = torch.tensor([not torch.equal(*two) for two in zip(crops, flips, strict=True)])
        assert torch.equal(flips, torch.where(is_flipped[:, None, None, None], crops.flip(3), crops))
        num_flipped += int(is_flipped.sum())
    assert 0 < num_flipped < 40


def test_digits_are_never_mirrored_unless_asked():
    data = load_data(load_config().data, seed=0)
    assert not TrainBatches(data, load_config(), CPU, torch.channels_last).flip
    assert TrainBatches(data, load_config(overrides={"flip": True}), CPU, torch.channels_last).flip


def test_epochs_and_seeds_differ_and_repeat():
    data = data_of(random_images(40))

    def order(seed, epoch):
        batches = batches_of(data, seed=seed)
        return torch.cat([labels for _, labels in batches.epoch(epoch, 0, len(batches))]).tolist()

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_an_epoch_can_be_entered_in_the_middle():
    batches = batches_of(data_of(random_images(40)))
    whole = list(batches.epoch(3, 0, 10))
    rest = list(batches.epoch(3, 6, 9))
    assert len(rest) == 3
    for (images, labels), (again, same) in zip(whole[6:9], rest, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, same)


@pytest.mark.parametrize("first", [0, 3])
def test_a_streamed_set_gives_the_same_batches_as_a_resident_one(first, tmp_path):
    images = random_images(30)
    resident = batches_of(data_of(images, flip=True))
    labels = torch.arange(30)
    streamed_data = dataclasses.replace(data_of(images, flip=True), train=ImageSet(on_disk(images, tmp_path), labels))
    streamed = batches_of(streamed_data, **{"data.num_workers": 0})
    pairs = list(zip(resident.epoch(2, first, 7), streamed.epoch(2, first, 7), strict=True))
    assert len(pairs) == 7 - first
    for (x, labels), (y, same) in pairs:
        assert torch.equal(x, y)
        assert torch.equal(labels, same)


def test_batches_leave_the_global_generator_to_the_regularizer(tmp_path):
    before = torch.get_rng_state()
    images = random_images(30)
    streamed = dataclasses.replace(
        data_of(images, flip=True), train=ImageSet(on_disk(images, tmp_path), torch.arange(30))
    )
    for data in (data_of(images, flip=True), streamed):
        list(batches_of(data, **{"data.num_workers": 0}).epoch(1, 0, 7))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(
        ConfigError, match=r"training\.batch_size must be at most 3, the number of training images, got 4"
    ):
        batches_of(data_of(random_images(3)))


@pytest.mark.parametrize(("num_images", "batch_size"), [(10, 4), (16, 4), (7, 4), (5, 5), (360, 64)])
@pytest.mark.parametrize("streamed", [False, True])
def test_every_test_image_counts_exactly_once_in_batches_of_one_size(num_images, batch_size, streamed, tmp_path):
    images, labels = random_images(num_images), torch.arange(num_images)
    data = data_of(images)
    if streamed:
        data = dataclasses.replace(data, test=ImageSet(on_disk(images, tmp_path), labels))
    config = load_config(overrides={"batch_size": batch_size, "data.num_workers": 0})
    counted, sizes = [], set()
    for batch, labels, num_counted in TestBatches(data, config, CPU, torch.channels_last):
        assert torch.equal(pixels(batch), images[labels])
        sizes.add(len(batch))
        counted += labels[:num_counted].tolist()
    assert counted == list(range(num_images))
    assert len(sizes) == 1


def test_the_training_images_have_mean_zero_and_deviation_one():
    data = load_data(load_config().data, seed=0)
    batches = TrainBatches(data, load_config(overrides={"augment.crop_padding": 0}), CPU, torch.channels_last)
    images = torch.cat([images for images, _ in batches.epoch(1, 0, len(batches))])
    # 29 of 1,437 images are left out of an epoch, which moves the figures by a hundredth at most
    assert abs(float(images.mean())) < 0.01
    assert abs(float(images.std()) - 1) < 0.01
    assert len(load_digits().images) == len(data.train) + len(data.test)


def test_seeds_of_different_purposes_are_unrelated():
    seeds = {derive_seed(seed, purpose, epoch) for seed in range(5) for purpose in "ab" for epoch in range(5)}
    assert len(seeds) == 50
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("size", [1, 3, 4, 8])
def test_cutout_leaves_each_image_but_for_one_hole_clipped_at_the_border(size):
    images = random_images(12)
    plain = batches_of(data_of(images), **{"augment.crop_padding": 2})
    holed = batches_of(data_of(images), **{"augment.crop_padding": 2, "augment.cutout": size})
    possible = [cutout_oracle.hole(8, 8, (row, col), size) for row in range(8) for col in range(8)]
    for (before, labels), (after, same_labels) in zip(plain.epoch(1, 0, 3), holed.epoch(1, 0, 3), strict=True):
        assert torch.equal(labels, same_labels)
        for image, cut in zip(before, after, strict=True):
            changed = (cut != image).any(dim=0)
            hole = {(row, col) for row, col in changed.nonzero().tolist()}
            assert hole in possible
            assert torch.equal(cut, image.masked_fill(changed, 0.0))


def test_each_image_has_a_hole_of_its_own_anew_in_each_epoch():
    batches = batches_of(data_of(random_images(64)), batch_size=64, **{"augment.cutout": 2, "augment.crop_padding": 0})
    holes = []
    for epoch in (1, 2):
        for batch, labels in batches.epoch(epoch, 0, 1):
            holes.append((batch[labels.argsort()] == 0).all(dim=1))
    assert len(holes[0].unique(dim=0)) > 20
    assert not torch.equal(*holes)


@pytest.mark.parametrize("streamed", [False, True])
def test_the_shares_of_several_processes_are_together_the_batches_of_one(streamed, tmp_path):
    images = random_images(26)
    data = data_of(images)
    if streamed:
        on_drive = ImageSet(on_disk(images, tmp_path), torch.arange(26))
        data = dataclasses.replace(data, train=on_drive, test=on_drive)
    config = load_config(overrides={"batch_size": 8, "data.num_workers": 0, "augment.cutout": 4})
    shares = [(number, 4) for number in range(4)]
    whole = TrainBatches(data, config, CPU, torch.channels_last)
    parts = [TrainBatches(data, config, CPU, torch.channels_last, share) for share in shares]
    for batch, *shared in zip(whole.epoch(2, 1, 3), *(part.epoch(2, 1, 3) for part in parts), strict=True):
        assert torch.equal(torch.cat([images for images, _ in shared]), batch[0])
        assert torch.equal(torch.cat([labels for _, labels in shared]), batch[1])
    tested = [batch for share in shares for batch in TestBatches(data, config, CPU, torch.channels_last, share)]
    assert sorted(label for _, labels, num in tested for label in labels[:num].tolist()) == list(range(26))
    assert len({len(images) for images, _, _ in tested}) == 1


def test_a_process_can_be_left_without_a_test_batch():
    data, config = data_of(random_images(8)), load_config(overrides={"batch_size": 8, "data.num_workers": 0})
    batches = [list(TestBatches(data, config, CPU, torch.channels_last, (number, 8))) for number in range(8)]
    assert [sum(num for _, _, num in part) for part in batches] == [2, 2, 2, 2, 0, 0, 0, 0]


def test_a_batch_that_does_not_divide_by_the_processes_is_refused():
    with pytest.raises(ConfigError, match=r"batch_size must be a multiple of 3, the number of processes.* got 4"):
        TrainBatches(
            data_of(random_images(8)), load_config(overrides={"batch_size": 4}), CPU, torch.channels_last, (0, 3)
        )
