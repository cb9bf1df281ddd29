"""Small data sets in the published formats, written here byte by byte, and a network that the tests hold."""

import gzip
import hashlib
import io
import pickle
import tarfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
from torch import Tensor
from torchvision import datasets

Labelled = tuple[Tensor, Tensor]  # uint8 images as the network sees them, int64 labels


@dataclass
class Tiny:
    """A published data set in small: its files, what they can be unpacked from, where that is, and what is in it."""

    name: str
    files: dict[str, bytes]
    archives: dict[str, bytes]
    urls: dict[str, bytes]
    train: Labelled
    test: Labelled
    classes: tuple[str, ...]
    extra: dict[str, bytes] = field(default_factory=dict)

    def put(self, root: Path, files: dict[str, bytes] | None = None) -> Path:
        for name, content in ({**self.files, **self.extra} if files is None else files).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        return root


def random_images(num: int, channels: int, side: int, num_classes: int) -> Labelled:
    generator = torch.Generator().manual_seed(num)
    images = torch.randint(0, 256, (num, channels, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.randperm(num, generator=generator) % num_classes
    return images, labels


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def tar_gz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def idx(items: Tensor) -> bytes:
    header = bytes([0, 0, 8, items.dim()]) + b"".join(size.to_bytes(4, "big") for size in items.shape)
    return header + items.to(torch.uint8).numpy().tobytes()


def tiny_cifar(patch: pytest.MonkeyPatch, cifar: type, num_classes: int) -> Tiny:
    parts = {name: random_images(11 + i, 3, 32, num_classes) for i, (name, _) in enumerate(cifar.train_list)}
    test = {name: random_images(20, 3, 32, num_classes) for name, _ in cifar.test_list}
    classes = [f"class {i}" for i in range(num_classes)]
    files = {cifar.meta["filename"]: pickle.dumps({cifar.meta["key"]: classes, "coarse_label_names": ["no"]})}
    key = "labels" if num_classes == 10 else "fine_labels"
    for name, (images, labels) in {**parts, **test}.items():
        rows = images.reshape(len(images), -1).numpy()
        files[name] = pickle.dumps({"data": rows, key: labels.tolist(), "coarse_labels": [0] * len(rows)}, protocol=2)
    patch.setattr(cifar, "train_list", [[name, md5(files[name])] for name in parts])
    patch.setattr(cifar, "test_list", [[name, md5(files[name])] for name in test])
    patch.setattr(cifar, "meta", {**cifar.meta, "md5": md5(files[cifar.meta["filename"]])})
    files = {f"{cifar.base_folder}/{name}": content for name, content in files.items()}
    archive = tar_gz({**files, f"{cifar.base_folder}/readme.html": b"more"})
    patch.setattr(cifar, "tgz_md5", md5(archive))
    train = torch.cat([part[0] for part in parts.values()]), torch.cat([part[1] for part in parts.values()])
    (test_set,) = test.values()
    name = cifar.__name__.lower()
    return Tiny(name, files, {cifar.filename: archive}, {cifar.url: archive}, train, test_set, tuple(classes))


def tiny_svhn(patch: pytest.MonkeyPatch) -> Tiny:
    sets = {"train": random_images(23, 3, 32, 10), "test": random_images(21, 3, 32, 10)}
    files, urls, split_list = {}, {}, {}
    for split, (images, labels) in sets.items():
        buffer = io.BytesIO()
        y = torch.where(labels == 0, 10, labels).unsqueeze(1).numpy().astype(np.uint8)  # 10 stands for the digit 0
        scipy.io.savemat(buffer, {"X": images.permute(2, 3, 1, 0).numpy(), "y": y})
        url, name, _ = datasets.SVHN.split_list[split]
        files[name] = urls[url] = buffer.getvalue()
        split_list[split] = [url, name, md5(files[name])]
    patch.setattr(datasets.SVHN, "split_list", split_list)
    return Tiny("svhn", files, {}, urls, sets["train"], sets["test"], tuple("0123456789"))


def tiny_stl10(patch: pytest.MonkeyPatch) -> Tiny:
    stl10, files = datasets.STL10, {}
    sets = {"train": random_images(12, 3, 96, 10), "test": random_images(13, 3, 96, 10)}
    for split, (images, labels) in sets.items():
        files[f"{split}_X.bin"] = images.transpose(2, 3).contiguous().numpy().tobytes()  # column by column
        files[f"{split}_y.bin"] = (labels + 1).to(torch.uint8).numpy().tobytes()
    listed = {name: [name, md5(content)] for name, content in files.items()}
    patch.setattr(stl10, "train_list", [listed["train_X.bin"], listed["train_y.bin"], stl10.train_list[2]])
    patch.setattr(stl10, "test_list", [listed["test_X.bin"], listed["test_y.bin"]])
    names = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
    extra = {f"{stl10.base_folder}/class_names.txt": "\n".join(names).encode()}
    files = {f"{stl10.base_folder}/{name}": content for name, content in files.items()}
    archive = tar_gz({**files, **extra})
    patch.setattr(stl10, "tgz_md5", md5(archive))
    archives, urls = {stl10.filename: archive}, {stl10.url: archive}
    return Tiny("stl10", files, archives, urls, sets["train"], sets["test"], names, extra)


def tiny_fashion_mnist(patch: pytest.MonkeyPatch) -> Tiny:
    fashion, files, sets = datasets.FashionMNIST, {}, {}
    for part, num in (("train", 30), ("t10k", 20)):
        images, labels = random_images(num, 1, 28, 10)
        files[f"FashionMNIST/raw/{part}-images-idx3-ubyte"] = idx(images.squeeze(1))
        files[f"FashionMNIST/raw/{part}-labels-idx1-ubyte"] = idx(labels)
        padded = torch.zeros(num, 1, 32, 32, dtype=torch.uint8)
        padded[:, :, 2:30, 2:30] = images
        sets[part] = padded, labels
    archives = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    plain_names = {Path(name).name: content for name, content in archives.items()}
    patch.setattr(fashion, "resources", [(name, md5(content)) for name, content in plain_names.items()])
    urls = {fashion.mirrors[0] + name: content for name, content in plain_names.items()}
    return Tiny("fashion_mnist", files, archives, urls, sets["train"], sets["t10k"], tuple(fashion.classes))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Tiny]:
    """Make a data set by name, and torchvision expect its checksums instead of the published ones."""
    makers = {
        "cifar10": lambda: tiny_cifar(monkeypatch, datasets.CIFAR10, 10),
        "cifar100": lambda: tiny_cifar(monkeypatch, datasets.CIFAR100, 100),
        "svhn": lambda: tiny_svhn(monkeypatch),
        "stl10": lambda: tiny_stl10(monkeypatch),
        "fashion_mnist": lambda: tiny_fashion_mnist(monkeypatch),
    }
    return lambda name: makers[name]()


class Network(dict[str, bytes]):
    """What there is to download, by URL; nothing at first, as on a machine without a network."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.on_read: Callable[[], None] = lambda: None

    def urlopen(self, request: urllib.request.Request, *args: object, **kwargs: object) -> "Response":
        url = request.full_url
        if url not in self:
            raise URLError("network is unreachable")
        return Response(self, url)


class Response(io.BytesIO):
    def __init__(self, network: Network, url: str) -> None:
        super().__init__(network[url])
        self.network, self.url, self.length = network, url, len(network[url])

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() == 0:
            self.network.fetched.append(self.url)
        else:
            self.network.on_read()
        return super().read(size)


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    """Stand between every test and the network."""
    held = Network()
    monkeypatch.setattr(urllib.request, "urlopen", held.urlopen)
    return held
