"""A folder is decoded once: what the cache gives is what decoding gives, whatever became of the folder or the cache."""

import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tdbench.config import DataConfig
from tdbench.config.contents import one_look
from tdbench.config.tree import RunConfig
from tdbench.data import cache
from tdbench.data.images import FolderImages, StreamedImages
from tdbench.data.sources import LoadedData, load_data
from tdbench.errors import DataError, Note
from tdbench.store.files import held
from tdbench.store.progress import telling
from tdbench.training.facts import left_out
from tests.data.folders import write_folder


def pixels_in(place: Path) -> Path:
    """Return the file of a cache's pixels."""
    (path,) = place.glob("images-*.npy")
    return path


def raising(kind: type[BaseException]) -> Any:
    def call(*_: object) -> None:
        raise kind

    return call


PLACE = Path(".tdbench", "train-8-8")


def load(root: Path, **fields: Any) -> LoadedData:
    with one_look():
        return load_data(DataConfig(**{"name": "folder", "root": root, "image_size": 8, **fields}), seed=0)


def pixels(data: LoadedData) -> torch.Tensor:
    return torch.cat([torch.stack([one.images[i] for i in range(len(one))]) for one in (data.train, data.test)])


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the name of each file that is decoded."""
    names: list[str] = []
    as_before = FolderImages.__getitem__

    def noted(self: FolderImages, index: int) -> torch.Tensor:
        names.append(self.paths[index])
        return as_before(self, index)

    monkeypatch.setattr(FolderImages, "__getitem__", noted)
    return names


@pytest.mark.parametrize("resident_mib", [0, 1])
def test_a_folder_is_decoded_once_and_gives_the_same_images_ever_after(
    resident_mib: int, tmp_path: Path, decoded: list[str]
) -> None:
    first = load(write_folder(tmp_path))
    assert len(decoded) == 14
    again = load(tmp_path, resident_mib=resident_mib)
    assert len(decoded) == 14
    assert isinstance(again.train.images, StreamedImages) == (resident_mib == 0)
    assert torch.equal(pixels(first), pixels(again))
    assert (first.mean, first.std) == (again.mean, again.std)
    files = sorted(str(path) for path in (tmp_path / "train").rglob("*.png"))
    assert torch.equal(pixels(again)[:10], torch.stack([*FolderImages(files, 8)]))


def test_each_size_has_a_cache_of_its_own_and_the_place_may_be_another(tmp_path: Path, decoded: list[str]) -> None:
    root = write_folder(tmp_path / "root")
    sizes = ({"image_size": 8}, {"image_size": 16}, {"image_size": 8, "resize_size": 10})
    for fields in (*sizes, *sizes):
        load(root, **fields, cache=tmp_path / "kept")
    assert len(decoded) == 3 * 14
    assert not (root / ".tdbench").exists()
    assert len([*(tmp_path / "kept").glob("root-*/*/images-*.npy")]) == 6


def change_a_pixel(root: Path) -> None:
    """Change a file whose name, size and time stay."""
    path = root / "train" / "ant" / "0.bmp"
    content, at = bytearray(path.read_bytes()), path.stat()
    content[-3] ^= 255
    path.write_bytes(content)
    os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))


CHANGES = {
    "a pixel": change_a_pixel,
    "one more": lambda root: Image.new("RGB", (8, 8)).save(root / "train" / "bee" / "9.bmp"),
    "one less": lambda root: (root / "train" / "bee" / "1.png").unlink(),
    "another name": lambda root: (root / "train" / "bee" / "1.png").rename(root / "train" / "bee" / "8.png"),
    "another class": lambda root: (root / "train" / "bee" / "1.png").rename(root / "train" / "ant" / "8.png"),
    "another image": lambda root: (root / "train" / "bee" / "1.png").replace(root / "train" / "bee" / "0.png"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_folder_is_decoded_anew(change: str, tmp_path: Path) -> None:
    write_folder(tmp_path)
    with Image.open(tmp_path / "train" / "ant" / "0.png") as image:
        image.save(tmp_path / "train" / "ant" / "0.bmp")
    before = pixels(load(tmp_path))
    CHANGES[change](tmp_path)
    after = pixels(load(tmp_path))
    assert after.shape != before.shape or not torch.equal(after, before)
    assert torch.equal(after, pixels(load(tmp_path, cache=tmp_path / "elsewhere")))


def test_a_second_decoding_that_is_killed_never_gives_its_pixels_for_those_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_folder(tmp_path) / "train" / "ant" / "0.png"
    content, at, before = path.read_bytes(), path.stat(), pixels(load(tmp_path))
    Image.new("RGB", (8, 8), (7, 7, 7)).save(path)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "write_atomically", raising(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load(tmp_path)
    path.write_bytes(content)
    os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert torch.equal(pixels(load(tmp_path)), before)


def other_array(shape: tuple[int, ...], dtype: Any = np.uint8) -> Any:
    return lambda place: np.save(pixels_in(place), np.zeros(shape, dtype))


DAMAGES = {
    "pixels cut short": lambda place: cut(pixels_in(place), -1),
    "pixels without a header": lambda place: cut(pixels_in(place), 20),
    "empty pixels": lambda place: cut(pixels_in(place), 0),
    "no pixels": lambda place: pixels_in(place).unlink(),
    "foreign pixels": lambda place: pixels_in(place).write_bytes(b"something else " * 200),
    "pixels of another shape": other_array((10, 3, 8, 9)),
    "fewer pixels": other_array((9, 3, 8, 8)),
    "pixels of another type": other_array((10, 3, 8, 8), np.float32),
    "pixels in another order": lambda place: np.save(
        pixels_in(place), np.asfortranarray(np.zeros((10, 3, 8, 8), np.uint8))
    ),
    "objects": lambda place: np.save(pixels_in(place), np.array([{}], dtype=object), allow_pickle=True),
    "no index": lambda place: (place / "index.json").unlink(),
    "index cut short": lambda place: cut(place / "index.json", -3),
    "foreign index": lambda place: (place / "index.json").write_text("[1, 2]"),
    "index of other images": lambda place: (place / "index.json").write_text('{"key": "0", "broken": {}}'),
}


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_cache_is_built_anew(damage: str, tmp_path: Path, decoded: list[str]) -> None:
    before = pixels(load(write_folder(tmp_path)))
    DAMAGES[damage](tmp_path / PLACE)
    assert torch.equal(pixels(load(tmp_path)), before)
    assert len(decoded) == 14 + 10  # the test images are as they were
    assert torch.equal(pixels(load(tmp_path)), before)
    assert len(decoded) == 14 + 10


@pytest.mark.parametrize("resident_mib", [0, 1])
def test_without_a_place_that_can_be_written_it_works_and_says_so(resident_mib: int, tmp_path: Path) -> None:
    before = pixels(load(write_folder(tmp_path / "root")))
    (tmp_path / "file").touch()
    with pytest.warns(Note, match=r"file.* cannot be kept|cannot be kept in .*file.* \(Not a directory\)") as told:
        data = load(tmp_path / "root", cache=tmp_path / "file", resident_mib=resident_mib)
    assert "--cache DIR" in str(told[0].message)
    assert len(told) == 1
    assert torch.equal(pixels(data), before)


def test_a_disk_that_becomes_full_costs_the_cache_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = pixels(load(write_folder(tmp_path)))
    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.warns(Note, match="No space left on device"):
        data = load(tmp_path, cache=tmp_path / "kept")
    assert torch.equal(pixels(data), before)
    assert not [*(tmp_path / "kept").rglob("*.tmp")]


def test_what_is_decoded_is_told_and_what_is_not_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "TELL_EVERY_S", 0)
    told: list[tuple[float, str]] = []
    with telling(lambda share, what: told.append((share, what))):
        load(write_folder(tmp_path))
        num_told = len(told)
        load(tmp_path)
    assert len(told) == num_told
    train = [share for share, what in told if what == "decoding 10 images"]
    assert train == sorted(train)
    assert (train[0], train[-1], len(train)) == (0.0, 1.0, 11)
    assert told[-1] == (1.0, "decoding 4 images")


def test_two_that_need_a_folder_at_once_decode_it_once(tmp_path: Path, decoded: list[str]) -> None:
    write_folder(tmp_path)
    loaded: list[LoadedData] = []
    threads = [threading.Thread(target=lambda: loaded.append(load(tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 14
    assert len(loaded) == 3
    assert all(torch.equal(pixels(one), pixels(loaded[0])) for one in loaded)


def test_who_holds_a_cache_is_waited_for_as_long_as_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path)
    sizes = iter([0, 1, 2, 2])
    monkeypatch.setattr(cache, "STALLED_S", 0.01)
    monkeypatch.setattr(cache, "written", lambda place: next(sizes))
    with (
        held(tmp_path / PLACE),
        pytest.warns(Note, match=r"cannot be kept .*another process holds it, and has written"),
    ):
        data = load(tmp_path)
    assert next(sizes, None) is None
    assert len(data.train) == 10


# Broken images


def break_images(root: Path) -> list[Path]:
    """Break two training images and a test image."""
    broken = [root / "test" / "bee" / "0.png", root / "train" / "ant" / "1.png", root / "train" / "bee" / "4.png"]
    broken[0].write_bytes(broken[0].read_bytes()[:60])
    broken[1].write_text("no image")
    Image.new("RGB", (40, 40)).save(broken[2])
    return broken


@pytest.mark.parametrize("resident_mib", [0, 1])
@pytest.mark.parametrize("kept", ["kept", "file"])
def test_all_broken_images_are_named_together_or_left_out(
    resident_mib: int, kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder(tmp_path / "root")
    whole = load(root)
    broken = break_images(root)
    (tmp_path / "file").touch()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # 40 × 40 are more than twice as many
    fields = {"cache": tmp_path / kept, "resident_mib": resident_mib}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        for _ in range(2):
            with pytest.raises(DataError, match=r"^3 images cannot be decoded: ") as caught:
                load(root, **fields)
            assert all(str(path) in str(caught.value) for path in broken)
            assert "skip_broken=true" in str(caught.value)
            assert "\n" not in str(caught.value)
        data = load(root, **fields, skip_broken=True)
    is_whole = torch.ones(14, dtype=torch.bool)
    is_whole[[1, 9, 12]] = False
    assert torch.equal(pixels(data), pixels(whole)[is_whole])
    assert torch.equal(data.train.labels, whole.train.labels[is_whole[:10]])
    assert left_out(data) == "; left out: 3 broken"


def test_of_many_broken_images_the_first_are_named(tmp_path: Path) -> None:
    for path in (write_folder(tmp_path) / "train").glob("*/*"):
        path.write_text("no image")
    with pytest.raises(
        DataError, match=r"^10 images cannot be decoded: .*ant/0\.png .*ant/2\.png .* and 7 more; "
    ) as caught:
        load(tmp_path)
    assert "ant/3.png" not in str(caught.value)
    with pytest.raises(DataError, match="holds no images that can be decoded in any of its class folders"):
        load(tmp_path, skip_broken=True)


def test_a_class_whose_images_are_all_broken_is_named(tmp_path: Path) -> None:
    for path in (write_folder(tmp_path) / "test" / "bee").iterdir():
        path.write_text("no image")
    with pytest.raises(DataError, match=r"test holds no images that can be decoded in the class folder\(s\) bee"):
        load(tmp_path, skip_broken=True)


def test_leaving_broken_images_out_makes_another_run_and_the_cache_does_not(tmp_path: Path) -> None:
    def digest(**fields: Any) -> str:
        return RunConfig(data=DataConfig(name="folder", root=tmp_path, **fields)).digest()

    write_folder(tmp_path)
    assert digest() == digest(cache=tmp_path / "kept")
    assert len({digest(), digest(skip_broken=True), digest(resize_size=40)}) == 3


def test_no_warning_of_a_library_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ant = write_folder(tmp_path) / "train" / "ant"
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([255, 0, 0, 0, 0, 0])
    palette.save(ant / "palette.png", transparency=b"\x00\x80")
    Image.new("RGB", (8, 8)).save(ant / "exif.jpg", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x09")
    Image.new("RGB", (10, 10)).save(ant / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)  # 100 pixels bring a warning
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for resident_mib in (1, 0):
            data = load(tmp_path, resident_mib=resident_mib)
            list(FolderImages([str(path) for path in sorted(ant.iterdir())], 8).batches(2, 4))
    assert len(data.train) == 13
    assert [str(one.message) for one in caught] == []
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(ant / "large.png")


# Processes


BUILD = """
import sys, time
from pathlib import Path
from tdbench.config import DataConfig
from tdbench.data.images import FolderImages
from tdbench.data.sources import load_data

decode, num_decoded = FolderImages.__getitem__, 0

def noted(self, index):
    global num_decoded
    num_decoded += 1
    if num_decoded == 6:
        print("in the midst", flush=True)
    time.sleep({seconds})
    return decode(self, index)

FolderImages.__getitem__ = noted
print("ready", flush=True)
sys.stdin.readline()
data = load_data(DataConfig(name="folder", root=Path({root!r}), image_size=8), 0)
print(num_decoded, int(data.train.images.sum()), flush=True)
"""


def start(root: Path, seconds: float) -> subprocess.Popen[str]:
    code = BUILD.format(root=str(root), seconds=seconds)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)  # type: ignore[call-overload]


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.slow
def test_two_processes_build_one_cache_and_one_that_is_killed_leaves_it_to_the_next(tmp_path: Path) -> None:
    write_folder(tmp_path)
    killed, *others = processes = [start(tmp_path, 0.5), start(tmp_path, 0.01), start(tmp_path, 0.01)]
    try:
        assert [line(process) for process in processes] == ["ready"] * 3
        go(killed)
        assert line(killed) == "in the midst"
        killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        assert [*(tmp_path / PLACE).glob(".*.tmp")]
        for process in others:
            go(process)
        told = [line(process).removeprefix("in the midst") or line(process) for process in others]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    expected = int(load(tmp_path).train.images.sum())
    assert sorted(told) == [f"0 {expected}", f"14 {expected}"]
    assert not [*(tmp_path / PLACE).glob(".*.tmp")]
