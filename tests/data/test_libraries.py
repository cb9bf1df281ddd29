"""MedMNIST and Hugging Face's datasets, on small files in their own formats."""

import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tdbench.config import DataConfig, RunConfig
from tdbench.config.contents import one_look
from tdbench.data.sources import LoadedData, load_data
from tdbench.errors import ConfigError, DataError
from tests.data.conftest import md5, random_images


def load(name: str, root: Path | str = "nowhere", **fields: Any) -> LoadedData:
    return load_data(DataConfig(name=name, root=Path(root), **fields), seed=0)


# MedMNIST


@pytest.mark.parametrize(
    ("name", "channels", "side"), [("bloodmnist", 3, 28), ("organamnist", 1, 28), ("pathmnist_64", 3, 64)]
)
def test_a_file_of_medmnist_is_read_exactly(
    name: str, channels: int, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    medmnist = pytest.importorskip("medmnist")
    flag, _, size = name.partition("_")
    parts = {part: random_images(30 + i, channels, side, 8) for i, part in enumerate(("train", "val", "test"))}
    arrays: dict[str, np.ndarray] = {}
    for part, (images, labels) in parts.items():
        pixels = images.permute(0, 2, 3, 1).numpy()
        arrays[f"{part}_images"] = pixels if channels == 3 else pixels[..., 0]
        arrays[f"{part}_labels"] = labels.numpy().astype(np.uint8)[:, None]
    np.savez(tmp_path / f"{name}.npz", **arrays)
    key = f"MD5_{size}" if size else "MD5"
    monkeypatch.setitem(medmnist.INFO[flag], key, md5((tmp_path / f"{name}.npz").read_bytes()))
    data = load(f"medmnist:{name}", tmp_path)
    for loaded, part in ((data.train, "train"), (data.test, "test")):
        images, labels = parts[part]
        assert torch.equal(loaded.images, images if size else F.pad(images, (2, 2, 2, 2)))
        assert torch.equal(loaded.labels, labels)
    assert data.classes == tuple(medmnist.INFO[flag]["label"].values())
    assert data.source.flip is (flag != "organamnist")
    (tmp_path / f"{name}.npz").write_bytes(b"other")
    with pytest.raises(DataError, match=f"{name}.npz does not have the checksum of the published file"):
        load(f"medmnist:{name}", tmp_path)


@pytest.mark.parametrize("name", ["bloodmist", "chestmnist", "organmnist3d", "bloodmnist_65", "bloodmnist_28"])
def test_what_medmnist_does_not_have_or_is_not_for_one_label_is_refused(name: str) -> None:
    pytest.importorskip("medmnist")
    with pytest.raises(ConfigError, match=f"unknown data set of MedMNIST '{name}'; did you mean") as caught:
        load(f"medmnist:{name}")
    assert "each also with _64, _128, _224" in str(caught.value)


def test_a_file_that_is_not_there_and_cannot_be_downloaded_is_named(tmp_path: Path) -> None:
    pytest.importorskip("medmnist")
    with pytest.raises(
        DataError, match=r"cannot be downloaded into it: .*unreachable.* put bloodmnist\.npz there by hand"
    ):
        load("medmnist:bloodmnist", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "module", "extra"), [("medmnist:bloodmnist", "medmnist", "medmnist"), ("hf:cifar10", "datasets", "hf")]
)
def test_a_library_that_is_missing_is_named_with_its_extra(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf'{module}, .* cannot be imported .* pip install "tdbench\[{extra}\]"'):
        load(name)


# Hugging Face's datasets


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of two classes in grey and colour, as `save_to_disk` writes it."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "home")

    def part(num: int) -> Any:
        pictures = [Image.new(("RGB", "L")[i % 2], (12, 8), ((9 * i,) * 3, 9 * i)[i % 2]) for i in range(num)]
        rows = {"id": list(range(num)), "picture": pictures, "kind": [i % 2 for i in range(num)]}
        kinds = datasets.ClassLabel(names=["colour", "grey"])
        features = datasets.Features({"id": datasets.Value("int64"), "picture": datasets.Image(), "kind": kinds})
        return datasets.Dataset.from_dict(rows, features=features)

    datasets.DatasetDict({"train": part(6), "validation": part(4)}).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_saved_data_set_is_read_and_its_content_is_part_of_the_run(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load(f"hf:{saved}", image_size=8)
    assert data.classes == ("colour", "grey")
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 9, 18, 27, 36, 45]
    assert (data.image_shape, len(data.test)) == ((3, 8, 8), 4)
    monkeypatch.chdir(saved.parent)
    assert DataConfig(name="hf:saved").name == f"hf:{saved}"

    def digest() -> str:
        with one_look():
            return RunConfig(data=DataConfig(name=f"hf:{saved}")).digest()

    before = digest()
    shutil.copytree(saved, saved.parent / "elsewhere" / "saved")
    assert RunConfig(data=DataConfig(name="hf:elsewhere/saved")).digest() == before
    (saved / "train" / "more.arrow").write_text("more")
    assert digest() != before


def test_an_image_folder_is_read_through_datasets_too(saved: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        for number, name in enumerate(("ant", "bee")):
            (tmp_path / "pictures" / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "pictures" / part / name / "0.png")
    data = load(f"hf:{tmp_path / 'pictures'}", image_size=8)
    assert (data.classes, data.train.images[:, 0, 0, 0].tolist()) == (("ant", "bee"), [0, 1])


def test_a_set_without_a_part_or_a_column_is_refused(saved: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.load_from_disk(saved)
    for name, made, message in (
        (
            "part",
            datasets.DatasetDict({"train": whole["train"]}),
            "must have a part train and one of test, .* got train",
        ),
        ("image", whole.remove_columns("picture"), r"a column of images, got id \(Value\), kind \(ClassLabel\)"),
        ("label", whole.remove_columns("kind"), "a column of class labels, got id"),
    ):
        made.save_to_disk(tmp_path / name)
        with pytest.raises(DataError, match=message):
            load(f"hf:{tmp_path / name}")


def test_a_set_that_is_nowhere_is_named(saved: Path) -> None:
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        with pytest.raises(DataError, match="hf:nobody/nothing cannot be loaded: "):
            load("hf:nobody/nothing")
    assert not logging.getLogger("huggingface_hub.utils._http").isEnabledFor(logging.WARNING)  # of each attempt


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "~/nowhere"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(name: str) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match=rf"hf:{name} must be a folder, .* and there is no such folder"):
        load(f"hf:{name}")
