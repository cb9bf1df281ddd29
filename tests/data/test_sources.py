"""Data sets: every pixel and label as it was written, and one clear message for whatever is wrong."""

import gzip
import os
import pickle
import shutil
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from tdbench.config import DataConfig
from tdbench.config.data_sets import DATA_SETS
from tdbench.data import published, sources, splits
from tdbench.data.images import FolderImages, StreamedImages
from tdbench.data.sources import LoadedData, load_data
from tdbench.errors import ConfigError, DataError
from tdbench.training.facts import left_out
from tests.data.folders import write_folder

PUBLISHED = ["fashion_mnist", "cifar10", "cifar100", "svhn", "stl10"]
UNPACKED = ["fashion_mnist", "cifar10", "cifar100", "stl10"]
VERIFIED = ["cifar10", "cifar100", "svhn", "stl10"]


def load(name: str, root: Path | str = "nowhere", seed: int = 0, **fields: Any) -> LoadedData:
    return load_data(DataConfig(name=name, root=Path(root), **fields), seed)


def failure(name: str, root: Path, **fields: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(name, root, **fields)
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def everything_under(root: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def assert_holds(data: LoadedData, tiny: Any) -> None:
    for loaded, (images, labels) in ((data.train, tiny.train), (data.test, tiny.test)):
        assert loaded.images.dtype == torch.uint8
        assert loaded.labels.dtype == torch.int64
        assert loaded.images.is_contiguous()
        assert torch.equal(loaded.images, images)
        assert torch.equal(loaded.labels, labels)
    assert data.classes == tiny.classes
    assert (data.image_shape, data.num_classes) == (data.source.image, data.source.num_classes)


# The registry


def test_the_sources_are_known_in_their_order_and_before_they_are_read() -> None:
    assert list(DATA_SETS) == ["digits", "fashion_mnist", "cifar10", "cifar100", "svhn", "stl10", "folder"]
    assert all(source.title and source.provenance for source in DATA_SETS.values())
    assert [name for name, source in DATA_SETS.items() if not source.flip] == ["digits", "svhn"]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown data set 'cifar'; did you mean cifar10"):
        load("cifar")


# Digits


def test_the_digits_are_split_as_announced_and_each_class_in_proportion() -> None:
    data = load("digits")
    assert (len(data.train), len(data.test)) == (1437, 360) == (data.source.num_train, data.source.num_test)
    assert data.image_shape == data.source.image == (1, 32, 32)
    every = torch.cat([data.train.labels, data.test.labels]).bincount()
    assert every.tolist() == torch.from_numpy(load_digits().target).bincount().tolist()
    assert (data.test.labels.bincount() - every * 360 / 1797).abs().max() < 1


def test_the_digits_split_is_always_the_same_and_needs_no_root(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    one, other = load("digits", seed=0), load("digits", tmp_path / "file", seed=1)
    assert torch.equal(one.train.images, other.train.images)
    assert torch.equal(one.test.labels, other.test.labels)
    assert one.test.labels[:20].tolist() == [1, 4, 8, 6, 5, 9, 9, 1, 3, 2, 2, 2, 0, 7, 4, 8, 1, 5, 3, 9]


def test_every_digit_is_the_original_scaled_to_bytes_and_resized() -> None:
    data = load("digits")
    images = torch.cat([data.train.images, data.test.images]).float()
    assert (images.min(), images.max()) == (0, 255)
    # Between four original pixels lie four resized ones, whose mean weighs those by 1/4 each.
    inner = torch.nn.functional.avg_pool2d(images[:, :, 2:-2, 2:-2], 4).flatten(1)
    originals = torch.from_numpy(load_digits().images).unsqueeze(1).float() * 255 / 16
    expected = torch.nn.functional.avg_pool2d(originals, 2, stride=1).flatten(1)
    distance = torch.cdist(inner, expected, p=float("inf"))
    assert distance.min(dim=1).values.max() <= 1  # half a level of rounding on each side
    assert len(distance.argmin(dim=1).unique()) == len(expected)


# A part of the training set


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5])
def test_a_part_of_the_training_set_is_balanced_and_in_order(fraction: float) -> None:
    labels = torch.arange(997) % 7 // 2
    kept = splits.balanced_subset(labels, fraction, seed=3)
    counts = labels.bincount().tolist()
    assert labels[kept].bincount().tolist() == [max(1, round(fraction * count)) for count in counts]
    assert (kept.diff() > 0).all()


def test_the_part_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = load("digits", seed=5, train_fraction=0.1).train
    torch.manual_seed(2)
    same, other = (load("digits", seed=seed, train_fraction=0.1).train for seed in (5, 6))
    assert len(one) == len(other) == 142
    assert torch.equal(one.images, same.images)
    assert not torch.equal(one.images, other.images)


def test_a_part_keeps_the_test_set_and_the_statistics_of_the_whole() -> None:
    whole, part = load("digits"), load("digits", train_fraction=0.1)
    assert torch.equal(whole.test.images, part.test.images)
    assert (whole.mean, whole.std) == (part.mean, part.std)


# Mean and standard deviation


def test_mean_and_deviation_are_those_of_the_pixels(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    made = tiny("cifar10")
    data = load("cifar10", made.put(tmp_path))
    pixels = made.train[0].double() / 255
    assert data.mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist(), abs=1e-12)
    assert data.std == pytest.approx(pixels.std(dim=(0, 2, 3), correction=0).tolist(), abs=1e-12)


def test_statistics_add_up_over_portions_and_a_constant_channel_has_deviation_one() -> None:
    images = torch.randint(0, 256, (10, 2, 3, 3), dtype=torch.uint8)
    images[:, 1] = 51
    mean, std = sources.statistics(images.split(3))
    assert (mean, std) == sources.statistics([images])
    assert (mean[1], std[1]) == (pytest.approx(0.2), 1.0)


# Published sets


@pytest.mark.parametrize("name", PUBLISHED)
def test_files_that_are_there_are_read_exactly_and_nothing_is_written(
    name: str, tiny: Callable[[str], Any], tmp_path: Path
) -> None:
    made = tiny(name)
    before = everything_under(made.put(tmp_path))
    assert_holds(load(name, tmp_path), made)
    assert everything_under(tmp_path) == before


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_not_there_is_downloaded_once(
    name: str, tiny: Callable[[str], Any], tmp_path: Path, network: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    made, root = tiny(name), tmp_path / "new" / "root"
    network.update(made.urls)
    network.on_read = lambda: print("some per cent")
    assert_holds(load(name, root), made)
    assert sorted(set(network.fetched)) == sorted(made.urls)
    network.clear()
    assert_holds(load(name, root), made)
    assert not (root / published.LOCK).exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", UNPACKED)
def test_an_archive_put_there_by_hand_is_unpacked(name: str, tiny: Callable[[str], Any], tmp_path: Path) -> None:
    made = tiny(name)
    assert_holds(load(name, made.put(tmp_path, made.archives)), made)


@pytest.mark.parametrize("name", PUBLISHED)
def test_without_a_network_the_message_says_what_to_do_and_nothing_is_left(
    name: str, tiny: Callable[[str], Any], tmp_path: Path
) -> None:
    made, root = tiny(name), tmp_path / "new" / "root"
    message = failure(name, root)
    for part in (name, str(root), "network is unreachable", "by hand", *(made.archives or made.files)):
        assert part in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_download_with_the_wrong_checksum_is_refused_and_removed(
    name: str, tiny: Callable[[str], Any], tmp_path: Path, network: Any
) -> None:
    made = tiny(name)
    network.update({url: content[:-1] + b"?" for url, content in made.urls.items()})
    (tmp_path / "mine.txt").write_text("stays")
    assert "wrong checksum" in failure(name, tmp_path)
    assert everything_under(tmp_path) == {"mine.txt": b"stays"}


@pytest.mark.parametrize("name", ["svhn", "cifar10", "fashion_mnist"])
def test_an_interrupted_download_leaves_nothing_half_written(
    name: str, tiny: Callable[[str], Any], tmp_path: Path, network: Any
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    made = tiny(name)
    network.update(made.urls)
    network.on_read = interrupt
    with pytest.raises(KeyboardInterrupt):
        load(name, tmp_path / "root")
    assert list(tmp_path.iterdir()) == []


def test_two_that_need_a_set_at_once_download_it_once(tiny: Callable[[str], Any], tmp_path: Path, network: Any) -> None:
    made, loaded = tiny("cifar10"), []
    network.update(made.urls)
    network.on_read = lambda: time.sleep(0.05)
    threads = [threading.Thread(target=lambda: loaded.append(load("cifar10", tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert network.fetched == list(made.urls)
    assert len(loaded) == 3
    for data in loaded:
        assert_holds(data, made)


def test_a_file_that_another_process_has_just_begun_to_write_is_waited_for(
    tiny: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_written_at_first(path: Path, md5: str) -> bool:
        monkeypatch.setattr(published, "matches", matches)
        (tmp_path / published.LOCK).touch()
        return False

    made, matches = tiny("svhn"), published.matches
    monkeypatch.setattr(published, "matches", half_written_at_first)
    assert_holds(load("svhn", made.put(tmp_path)), made)


@pytest.mark.parametrize("name", VERIFIED)
def test_one_changed_byte_is_noticed_and_the_file_named(
    name: str, tiny: Callable[[str], Any], tmp_path: Path, network: Any
) -> None:
    made = tiny(name)
    network.update(made.urls)
    for damaged, content in made.files.items():
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        message = failure(name, made.put(tmp_path, {**made.files, damaged: flipped}))
        assert str(tmp_path / damaged) in message
        assert "checksum" in message
    assert network.fetched == []


@pytest.mark.parametrize("name", UNPACKED)
def test_a_damaged_archive_is_named(name: str, tiny: Callable[[str], Any], tmp_path: Path) -> None:
    made = tiny(name)
    archive, content = next(iter(made.archives.items()))
    assert str(tmp_path / archive) in failure(name, made.put(tmp_path, {archive: content[:-1]}))


@pytest.mark.parametrize("name", VERIFIED)
def test_published_files_that_no_reader_understands_end_in_one_message(
    name: str, tiny: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny(name)
    monkeypatch.setattr("torchvision.datasets.utils.check_md5", lambda *_: True)
    made.put(tmp_path, dict.fromkeys(made.files, b"neither pickle nor matrix"))
    assert "cannot be read" in failure(name, tmp_path)


def test_no_pickle_is_opened_before_its_checksum_is_seen(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    made = tiny("cifar10")
    made.put(tmp_path, dict.fromkeys(made.files, pickle.dumps(Trap())))
    failure("cifar10", tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_a_root_that_cannot_be_written_is_told(
    tiny: Callable[[str], Any], tmp_path: Path, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    network.update(tiny("svhn").urls)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", refuse)
    assert "Permission denied" in failure("svhn", tmp_path)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert "Permission denied" in failure("svhn", tmp_path / "root")


@pytest.mark.parametrize("name", [*PUBLISHED, "folder"])
def test_a_root_that_is_a_file_or_unreadable_is_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "file").write_text("no folder")
    assert f"data.root must be a folder that can be read, got {tmp_path / 'file'}" in failure(name, tmp_path / "file")
    monkeypatch.setattr(os, "listdir", refuse)
    assert "Permission denied" in failure(name, tmp_path)


# Fashion-MNIST from IDX files


@pytest.mark.parametrize("compressed", [(), (0, 1, 2, 3), (1, 2)], ids=["plain", "gz", "mixed"])
def test_a_root_of_idx_files_is_read_where_it_lies(
    compressed: tuple[int, ...], tiny: Callable[[str], Any], tmp_path: Path
) -> None:
    made = tiny("fashion_mnist")
    put_idx_files(made, tmp_path, compressed)
    before = everything_under(tmp_path)
    assert_holds(load("fashion_mnist", tmp_path), made)
    assert everything_under(tmp_path) == before


def put_idx_files(made: Any, root: Path, compressed: tuple[int, ...] = ()) -> None:
    for i, (name, content) in enumerate(made.files.items()):
        suffix, packed = (".gz", gzip.compress(content)) if i in compressed else ("", content)
        (root / (Path(name).name + suffix)).write_bytes(packed)


def test_idx_files_that_are_missing_are_named(tiny: Callable[[str], Any], tmp_path: Path, network: Any) -> None:
    made = tiny("fashion_mnist")
    network.update(made.urls)
    put_idx_files(made, tmp_path)
    for stem in ("t10k-labels-idx1-ubyte", "train-images-idx3-ubyte"):
        (tmp_path / stem).unlink()
    message = failure("fashion_mnist", tmp_path)
    assert "train-images-idx3-ubyte, t10k-labels-idx1-ubyte" in message
    assert "train-labels" not in message
    assert network.fetched == []


IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "truncated images": (IMAGES, lambda content: content[:-1], "is damaged"),
    "truncated labels": (LABELS, lambda content: content[:-1], "is damaged"),
    "truncated header": (IMAGES, lambda content: content[:9], "is damaged"),
    "empty": (LABELS, lambda content: b"", "is damaged"),
    "too long": (LABELS, lambda content: content + b"\0", "is damaged"),
    "wrong magic": (IMAGES, lambda content: b"\1" + content[1:], "is no IDX file"),
    "wrong type": (LABELS, lambda content: b"\0\0\x0d\1" + content[4:], "is no IDX file"),
    "wrong dimensions": (IMAGES, lambda content: content[:3] + b"\1" + content[4:], "is no IDX file"),
    "wrong size": (IMAGES, lambda content: content[:8] + (27).to_bytes(4, "big") + content[12:], "(28, 28)"),
    "no items": (LABELS, lambda content: content[:4] + bytes(4), "at least one"),
    "one label less": (LABELS, lambda content: content[:4] + (19).to_bytes(4, "big") + content[8:-1], "20 images"),
    "label out of range": (LABELS, lambda content: content[:-1] + b"\x0a", "from 0 to 9, got 10"),
}


@pytest.mark.parametrize("layout", ["", "FashionMNIST/raw"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_idx_file_is_named(damage: str, layout: str, tiny: Callable[[str], Any], tmp_path: Path) -> None:
    stem, change, words = DAMAGES[damage]
    folder = tmp_path / layout
    folder.mkdir(parents=True, exist_ok=True)
    put_idx_files(tiny("fashion_mnist"), folder)
    (folder / stem).write_bytes(change((folder / stem).read_bytes()))
    message = failure("fashion_mnist", tmp_path)
    assert str(folder / stem) in message
    assert words in message


@pytest.mark.parametrize(
    "change", [lambda packed: packed[:-9], lambda packed: packed[:10] + b"\xff" + packed[11:], lambda _: b"?"]
)
def test_a_damaged_gz_file_is_named(
    change: Callable[[bytes], bytes], tiny: Callable[[str], Any], tmp_path: Path
) -> None:
    put_idx_files(tiny("fashion_mnist"), tmp_path, compressed=(0, 1, 2, 3))
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(change(path.read_bytes()))
    assert f"{path} cannot be read" in failure("fashion_mnist", tmp_path)


def test_a_gz_file_is_read_no_further_than_its_header_says(
    tiny: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_idx_files(tiny("fashion_mnist"), tmp_path, compressed=(0, 1, 2, 3))
    path = tmp_path / f"{IMAGES}.gz"
    header_and_images = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(header_and_images + bytes(2**24)))
    asked: list[int] = []

    class Counted(gzip.GzipFile):
        def read(self, size: int | None = -1) -> bytes:
            asked.append(-1 if size is None else size)
            return super().read(size)

    monkeypatch.setattr(published, "opened", lambda path: Counted(path))
    assert "it holds more bytes, where its header says" in failure("fashion_mnist", tmp_path)
    assert min(asked) > 0
    assert sum(asked) <= len(header_and_images) + 1


# Image folders


def all_images(images: Tensor | StreamedImages) -> Tensor:
    return torch.stack([images[i] for i in range(len(images))])


def test_a_folder_is_read_exactly_in_the_order_of_its_names(tmp_path: Path) -> None:
    data = load("folder", write_folder(tmp_path), image_size=8)
    assert data.classes == ("ant", "bee")
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5
    with Image.open(tmp_path / "train" / "bee" / "3.png") as image:
        pixels = torch.tensor(list(image.tobytes()), dtype=torch.uint8).view(8, 8, 3).permute(2, 0, 1)
    assert torch.equal(data.train.images[8], pixels)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_streamed_and_resident_images_are_the_same(num_workers: int, tmp_path: Path) -> None:
    write_folder(tmp_path, num_train=20, side=13)
    resident = load("folder", tmp_path, image_size=8, num_workers=num_workers, train_fraction=0.5)
    streamed = load("folder", tmp_path, image_size=8, num_workers=0, train_fraction=0.5, resident_mib=0)
    for one, other in ((resident.train, streamed.train), (resident.test, streamed.test)):
        assert isinstance(one.images, Tensor)
        assert isinstance(other.images, StreamedImages)
        assert torch.equal(one.images, all_images(other.images))
        assert torch.equal(one.labels, other.labels)
    assert len(streamed.train) == 20
    assert (resident.mean, resident.std) == (streamed.mean, streamed.std)
    assert resident.image_shape == streamed.image_shape == (3, 8, 8)


def test_each_set_is_resident_up_to_resident_mib(tmp_path: Path) -> None:
    # 256 × 256 pixels: 5 images take 0.94 MiB, 6 images 1.125 MiB.
    data = load("folder", write_folder(tmp_path, num_train=3, num_test=2), image_size=256, resident_mib=1)
    assert isinstance(data.train.images, StreamedImages)
    assert isinstance(data.test.images, Tensor)


def test_the_statistics_of_a_streamed_set_are_of_an_even_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "STREAMED_SAMPLE", 4)
    data = load("folder", write_folder(tmp_path), image_size=8, resident_mib=0)
    sample = torch.stack([data.train.images[i] for i in (0, 2, 5, 7)])
    assert (data.mean, data.std) == sources.statistics([sample])


def test_images_are_resized_by_the_shorter_side_and_cropped_at_the_centre(tmp_path: Path) -> None:
    write_folder(tmp_path)
    stripes = Image.new("RGB", (90, 30), "red")
    stripes.paste("lime", (30, 0, 60, 30))
    stripes.save(tmp_path / "train" / "ant" / "0.png")
    stripes.rotate(90, expand=True).save(tmp_path / "train" / "ant" / "1.png")
    # Antialiased, lines of one pixel become their mean.
    lines = Image.new("L", (64, 64))
    lines.putdata([255 * (x % 2) for _ in range(64) for x in range(64)])
    lines.save(tmp_path / "train" / "ant" / "2.png")
    images = load("folder", tmp_path, image_size=8).train.images
    for image in images[:2]:
        assert image[1, 1:-1, 1:-1].eq(255).all()
        assert image[0, 1:-1, 1:-1].eq(0).all()
    assert images[2].int().sub(127).abs().max() <= 8


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_images_of_every_mode_become_three_channels(mode: str, tmp_path: Path) -> None:
    write_folder(tmp_path)
    suffix = "tif" if mode == "CMYK" else "png"
    Image.new("RGB", (8, 8), "white").convert(mode).save(tmp_path / "train" / "ant" / f"00.{suffix}")
    assert load("folder", tmp_path, image_size=8).train.images[1].eq(255).all()


def test_what_is_no_image_of_a_class_is_left_out_and_told(tmp_path: Path) -> None:
    write_folder(tmp_path)
    plain = load("folder", tmp_path, image_size=8)
    bee = tmp_path / "train" / "bee"
    checkpoints = bee / ".ipynb_checkpoints"
    checkpoints.mkdir()
    shutil.copy(bee / "0.png", checkpoints / "0-checkpoint.png")
    (bee / "notes.txt").write_text("no image")
    for name, target in {"up": "..", "here": ".", "again": ".", "0b.png": "0.png", "a.png": "../ant/0.png"}.items():
        (bee / name).symlink_to(target)
    (bee / "gone.png").symlink_to("nowhere")
    os.mkfifo(bee / "pipe.png")
    data = load("folder", tmp_path, image_size=8)
    assert torch.equal(data.train.images, plain.train.images)
    assert torch.equal(data.train.labels, plain.train.labels)
    assert data.train.select(torch.tensor([0])).left_out == {
        "hidden": 1,
        "of another type": 1,
        "links to what is listed already": 5,
        "broken links": 1,
        "neither files nor folders": 1,
    }
    assert left_out(plain) == ""
    assert left_out(data).startswith("; left out: 1 hidden, ")


def test_a_class_may_be_a_link_and_any_common_format(tmp_path: Path) -> None:
    write_folder(tmp_path / "pool")
    (tmp_path / "root").mkdir()
    for part in ("train", "test"):
        (tmp_path / "root" / part).mkdir()
        for path in (tmp_path / "pool" / part).iterdir():
            (tmp_path / "root" / part / path.name).symlink_to(path)
    picture = Image.new("RGB", (8, 8), (200, 100, 50))
    for suffix in ("jpg", "jfif", "gif", "bmp", "webp", "TIF"):
        kind = {"jpg": "JPEG", "jfif": "JPEG", "TIF": "TIFF"}.get(suffix, suffix.upper())
        picture.save(tmp_path / "pool" / "train" / "bee" / f"more.{suffix}", kind)
    data = load("folder", tmp_path / "root", image_size=8)
    assert len(data.train) == 10 + 6
    assert (data.train.images[-6:].float().mean(dim=(2, 3)) - torch.tensor([200, 100, 50])).abs().max() < 8


GREY = np.linspace(0, 255, 64).reshape(8, 8).astype(np.uint8)


def translucent(mode: str) -> Image.Image:
    """Return a black image whose alpha is that of GREY."""
    return Image.merge("RGBA", [*[Image.new("L", (8, 8))] * 3, Image.fromarray(GREY)]).convert(mode)


def palette() -> Image.Image:
    """Return a black palette image with one transparent colour in its left half."""
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.paste(0, (0, 0, 4, 8))
    image.info["transparency"] = 0
    return image


HALVES = np.where(np.arange(8) < 4, 255, 0) * np.ones((8, 1))
UPRIGHT = {
    "16 bit": (lambda: Image.fromarray(GREY.astype(np.uint16) * 257), "png", GREY),
    "16 bit TIFF": (lambda: Image.fromarray(GREY.astype(np.uint16) * 257), "tif", GREY),
    "PGM": (lambda: Image.fromarray(GREY), "pgm", GREY),
    "alpha": (lambda: translucent("RGBA"), "png", 255 - GREY),
    "grey and alpha": (lambda: translucent("LA"), "png", 255 - GREY),
    "palette": (palette, "png", HALVES),
    "palette in a GIF": (palette, "gif", HALVES),
    "one bit": (lambda: Image.fromarray(HALVES > 0), "png", HALVES),
}


@pytest.mark.parametrize(("make", "suffix", "seen"), UPRIGHT.values(), ids=UPRIGHT)
@pytest.mark.filterwarnings("error")
def test_an_image_is_read_as_viewers_show_it(tmp_path: Path, make: Any, suffix: str, seen: np.ndarray) -> None:
    image = make()
    image.save(tmp_path / f"image.{suffix}", **{key: image.info[key] for key in image.info})
    read = FolderImages([str(tmp_path / f"image.{suffix}")], 8)[0]
    assert (read.double() - torch.tensor(np.asarray(seen, dtype=float))).abs().max() <= 1


def test_an_image_is_read_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(GREY).save(tmp_path / "as_taken.png")
    Image.fromarray(GREY).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    images = FolderImages([str(tmp_path / name) for name in ("as_taken.png", "turned.png")], 8)
    assert torch.equal(images[0], images[1])


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_no_known_range_are_refused(tmp_path: Path, dtype: Any) -> None:
    Image.fromarray(GREY.astype(dtype) * 1000).save(tmp_path / "image.tif")
    with pytest.raises(DataError, match=r"image\.tif cannot be decoded: its pixels have no known range .* convert it"):
        FolderImages([str(tmp_path / "image.tif")], 8)[0]


def test_a_streamed_folder_travels_to_another_process(tmp_path: Path) -> None:
    images = load("folder", write_folder(tmp_path), image_size=8, resident_mib=0).train.images
    assert torch.equal(all_images(pickle.loads(pickle.dumps(images))), all_images(images))


def test_reading_a_folder_draws_no_random_numbers(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    load("folder", write_folder(tmp_path), image_size=8)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("resident_mib", [0, 1])
def test_a_broken_image_is_named(num_workers: int, resident_mib: int, tmp_path: Path) -> None:
    broken = write_folder(tmp_path) / "train" / "bee" / "2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    message = failure("folder", tmp_path, image_size=8, num_workers=num_workers, resident_mib=resident_mib)
    assert message.startswith(f"image {broken} cannot be decoded: ")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_breaks_later_is_named_once(num_workers: int, tmp_path: Path) -> None:
    paths = [str(path) for path in sorted(write_folder(tmp_path).glob("train/*/*"))]
    broken = tmp_path / "train" / "ant" / "1.png"
    broken.write_text("no image")
    with pytest.raises(DataError) as caught:
        list(FolderImages(paths, 8).batches(num_workers, batch_size=4))
    traceback.clear_frames(caught.tb)  # or the workers are waited for
    assert str(caught.value).startswith(f"image {broken} cannot be decoded: ")
    assert str(caught.value).count("\n") == 0


def remove(root: Path, pattern: str) -> None:
    for path in sorted(root.glob(pattern), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


FOLDER_FAULTS: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "no root": (lambda root: remove(root, "**/*") or root.rmdir(), ["does not exist"]),
    "no train": (lambda root: remove(root, "train/**/*") or (root / "train").rmdir(), ["{root}/train is missing"]),
    "no test": (lambda root: remove(root, "test/**/*") or (root / "test").rmdir(), ["{root}/test is missing"]),
    "one class": (lambda root: remove(root, "*/bee/**/*") or remove(root, "*/bee"), ["at least two", "ant"]),
    "no class": (lambda root: remove(root, "train/**/*"), ["{root}/train", "at least two"]),
    "no images": (lambda root: remove(root, "train/*/*"), ["{root}/train holds no images"]),
    "no test images": (lambda root: remove(root, "test/*/*"), ["{root}/test holds no images"]),
    "an empty class": (lambda root: remove(root, "train/bee/*"), ["{root}/train", "no images in", "bee"]),
    "an empty test class": (lambda root: remove(root, "test/bee/*"), ["{root}/test", "no images in", "bee"]),
    "another class": (lambda root: (root / "test" / "bee").rename(root / "test" / "wasp"), ["same classes", "wasp"]),
    "a class less": (lambda root: remove(root, "test/bee/**/*") or remove(root, "test/bee"), ["same classes", "bee"]),
}


@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_a_folder_that_cannot_be_used_is_told_why(fault: str, tmp_path: Path) -> None:
    break_it, words = FOLDER_FAULTS[fault]
    root = write_folder(tmp_path / "root")
    break_it(root)
    message = failure("folder", root, image_size=8)
    for word in (str(root), *words):
        assert word.format(root=root) in message
    if "class" in fault and fault != "no class":
        assert ("ant" in message.replace(str(root), "")) == (fault == "one class")
