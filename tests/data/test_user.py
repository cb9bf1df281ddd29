"""The user's own data: what is accepted is read to the pixel, and what is wrong is said, and of which part."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tdbench
from tdbench import load_config
from tdbench.config import DataConfig
from tdbench.data.sources import LoadedData, load_data
from tdbench.data.user import collected
from tdbench.errors import ConfigError, DataError, TdbenchError
from tdbench.store.folders import RunFolder

PIXELS = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 0, 1, 0, 1])
PAIR = (PIXELS, LABELS)


class Pairs(torch.utils.data.Dataset):
    """A map-style data set of given items."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        return self.items[number]


class Raises(Pairs):
    """One whose items cannot be had."""

    def __init__(self) -> None:
        super().__init__([None])

    def __getitem__(self, number: int) -> Any:
        return number / 0


def read(*made: Any, **fields: Any) -> Any:
    return collected("mine", made, DataConfig(name="mine.py:make_data", **fields))


def each(make: Any) -> Pairs:
    """Return the images, each in another form."""
    return Pairs([(make(image), label) for image, label in zip(PIXELS, LABELS.tolist(), strict=True)])


def read_only(values: np.ndarray) -> np.ndarray:
    copy = values.copy()
    copy.setflags(write=False)
    return copy


FORMS = {
    "tensors": PAIR,
    "arrays": (PIXELS.numpy(), LABELS.numpy().astype(np.uint8)),
    "read-only arrays": (read_only(PIXELS.numpy()), read_only(LABELS.numpy())),
    "arrays that run backwards": (PIXELS.flip(1).numpy()[:, ::-1], LABELS.flip(0).numpy()[::-1]),
    "labels of 16 bits without a sign": (PIXELS.numpy(), LABELS.numpy().astype(np.uint16)),
    "labels of the other byte order": (PIXELS.numpy(), LABELS.numpy().astype(">i4")),
    "BGR images turned into RGB": each(lambda image: image.flip(0).permute(1, 2, 0).numpy()[..., ::-1]),
    "a list of labels": [PIXELS, LABELS.tolist()],
    "tensors in a data set": torch.utils.data.TensorDataset(PIXELS, LABELS),
    "channels last": each(lambda image: image.permute(1, 2, 0)),
    "arrays with channels last": each(lambda image: image.permute(1, 2, 0).numpy()),
    "PIL images": each(lambda image: Image.fromarray(image.permute(1, 2, 0).numpy())),
    "a list of pairs": [*zip(PIXELS, LABELS.numpy(), strict=True)],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("error")
def test_each_form_of_the_same_images_gives_the_same_images(form: str) -> None:
    train, test, classes = read(FORMS[form], PAIR, image_size=8)
    for one in (train, test):
        assert torch.equal(one.images, PIXELS)
        assert torch.equal(one.labels, LABELS)
        assert (one.images.dtype, one.labels.dtype) == (torch.uint8, torch.int64)
        assert one.images.is_contiguous()
    assert classes == ("0", "1")


def test_grey_images_keep_their_one_channel_and_pil_images_become_rgb_of_the_size_asked_for() -> None:
    grey = each(lambda image: image[0].numpy())
    assert torch.equal(read(grey, grey)[0].images, PIXELS[:, :1])
    pictures = Pairs([(Image.new("L", (20, 12), 7), 0), (Image.new("RGBA", (9, 30), (7, 7, 7, 255)), 1)])
    assert torch.equal(read(pictures, pictures, image_size=8)[0].images, torch.full((2, 3, 8, 8), 7).byte())


def test_of_three_by_three_channels_a_tensor_s_come_first_and_an_array_s_last() -> None:
    image = torch.arange(27, dtype=torch.uint8).view(3, 3, 3)
    for given, expected in ((image, image), (image.numpy(), image.permute(2, 0, 1))):
        one = Pairs([(given, 0), (given, 1)])
        assert torch.equal(read(one, one)[0].images[0], expected)


def test_classes_may_be_named_and_test_images_are_read_only_where_they_are_wanted() -> None:
    assert read(PAIR, PAIR, ["cat", "dog", "cow"])[2] == ("cat", "dog", "cow")
    _, test, _ = read(PAIR, None, test=False, valid_fraction=0.5)
    assert len(test) == 0


IMAGE = PIXELS[0]
WRONG: dict[str, tuple[tuple[Any, ...], str]] = {
    "one value": ((PAIR,), r"mine must return \(train, test\) or \(train, test, class_names\), got 1 values"),
    "four values": ((PAIR, PAIR, PAIR, PAIR), "got 4 values"),
    "floats": (((PIXELS / 255, LABELS), PAIR), r"train must have images uint8 .* got float32 \(6, 3, 8, 8\)"),
    "floats in test": ((PAIR, (PIXELS / 255, LABELS)), "mine: test must have images uint8"),
    "three dimensions": (((PIXELS[:, 0], LABELS), PAIR), r"got uint8 \(6, 8, 8\)"),
    "not square": (((PIXELS[:, :, 1:], LABELS), PAIR), r"as high as wide, got uint8 \(6, 3, 7, 8\)"),
    "no images": (((PIXELS[:0], LABELS[:0]), PAIR), "at least one"),
    "no items": ((Pairs([]), PAIR), "train must have images .* at least one"),
    "another size in test": ((PAIR, (PIXELS[..., 1:, 1:], LABELS)), "one shape, got 3×8×8 and 3×7×7"),
    "fewer labels": (((PIXELS, LABELS[1:]), PAIR), "got 5 from 0 for 6 images"),
    "no labels": (((PIXELS, LABELS[:0]), PAIR), "got 0 from 0 for 6 images"),
    "negative labels": (((PIXELS, LABELS - 1), PAIR), "got 6 from -1"),
    "labels of probabilities": (((PIXELS, LABELS / 1), PAIR), r"labels that are whole numbers .* got float32 \(6,\)"),
    "one-hot labels": (((PIXELS, torch.eye(6).long()), PAIR), r"got int64 \(6, 6\)"),
    "labels from 1": (((PIXELS, LABELS + 1), (PIXELS, LABELS + 1)), "got 2 labels from 1 to 2"),
    "one class": (((PIXELS, LABELS * 0), (PIXELS, LABELS * 0)), "at least two classes"),
    "too few names": ((PAIR, PAIR, ["cat"]), "a name for each label up to 1, got 1 names"),
    "a name alone": ((PAIR, PAIR, "cat"), "got 'cat'"),
    "no data set": ((PAIR, 5), "mine: test must be a map-style Dataset .* got int"),
    "a loader": ((torch.utils.data.DataLoader(Pairs([])), PAIR), "train must be a map-style Dataset .* got DataLoader"),
    "an item that raises": (
        (Raises(), PAIR),
        r"train\[0\] cannot be read: ZeroDivisionError: .* \(test_user.py, line \d+\)",
    ),
    "no pair": ((Pairs([(IMAGE, 0), IMAGE]), PAIR), r"train\[1\] must be a pair \(image, label\), got Tensor"),
    "three parts": ((Pairs([(IMAGE, 0, 1)]), PAIR), r"train\[0\] must be a pair .* got 3 values"),
    "normalised": ((PAIR, Pairs([(IMAGE / 255, 0)])), r"test\[0\] .* float32 .* leave ToTensor and Normalize out"),
    "five channels": ((Pairs([(torch.zeros(5, 8, 8).byte(), 0)]), PAIR), r"where C is 1 or 3, got uint8 \(5, 8, 8\)"),
    "no image": ((Pairs([("a.png", 0)]), PAIR), r"train\[0\] must have a PIL image or uint8 pixels, got str"),
    "sizes that differ": ((Pairs([(IMAGE, 0), (IMAGE[:, 1:], 1)]), PAIR), r"train\[1\] .* got 3×8×8 and 3×7×8"),
    "a name as a label": ((Pairs([(IMAGE, "cat")]), PAIR), r"train\[0\] must have a label .* got 'cat'"),
    "a truth as a label": ((Pairs([(IMAGE, True)]), PAIR), r"train\[0\] must have a label .* got True"),
}


@pytest.mark.parametrize(("made", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_and_where(made: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(*made)
    assert "\n" not in str(caught.value)


# In a file


MINE = """
import random
from pathlib import Path
import numpy as np
import torch
import neighbour

def make_data(root):
    assert root == Path("pictures").absolute()
    pixels = torch.randint(0, 256, (40, 1, 16, 16), dtype=torch.uint8)
    pixels[0, 0, 0, 0] = random.randrange(256)
    pixels[1, 0, 0, 0] = int(np.random.randint(256))
    labels = torch.arange(40) % neighbour.NUM_CLASSES
    return (pixels[:30], labels[:30]), (pixels[30:], labels[30:]), ["cat", "dog"]

def fails():
    raise OSError("nothing there")

nothing = 5
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "neighbour.py").write_text("NUM_CLASSES = 2\n")
    (tmp_path / "mine.py").write_text(f"{MINE}# {tmp_path}")
    return tmp_path / "mine.py"


def load(name: str) -> LoadedData:
    return load_data(DataConfig(name=name, root=Path("pictures")), seed=0)


def test_a_function_in_a_file_is_called_once_more_and_gives_the_same_whatever_was_drawn(mine: Path) -> None:
    before = torch.get_rng_state()
    first = load("mine.py:make_data")
    assert torch.equal(torch.get_rng_state(), before)
    np.random.default_rng()
    torch.rand(3)
    again = load("mine.py:make_data")
    assert torch.equal(first.train.images, again.train.images)
    assert (first.classes, first.image_shape, len(first.test)) == (("cat", "dog"), (1, 16, 16), 10)
    assert first.source.flip is False


def test_a_run_on_the_user_s_data_keeps_their_code_and_another_content_is_another_run(mine: Path) -> None:
    settings = {"data": "mine.py:make_data", "data_root": "pictures", "epochs": 1, "batch_size": 8, "threads": 1}
    result = tdbench.train(None, "run", regularizer="none", **settings)
    assert result.is_done
    folder = RunFolder(Path("run"))
    assert set(folder.read_contents() or {}) == {"data.name"}
    assert (folder / "user_code.zip").exists()
    assert tdbench.train(None, "run", regularizer="none", **settings) == result
    with pytest.raises(TdbenchError, match=r"data\.root"):
        tdbench.train(None, "run", regularizer="none", **{**settings, "data_root": "others"})
    Path("neighbour.py").write_text("NUM_CLASSES = 1 + 1\n")
    with pytest.raises(TdbenchError, match=r"neighbour\.py is .* there and"):
        tdbench.train(None, "run", regularizer="none", **settings)


def test_a_file_that_names_the_user_s_data_is_trusted_as_one_that_names_a_network(mine: Path) -> None:
    Path("run.yaml").write_text("data: {name: mine.py:make_data}")
    with pytest.raises(ConfigError, match=r"names code, mine.py:make_data, which runs only where you name it too"):
        load_config("run.yaml")
    assert load_config("run.yaml", trust=True).data.name == f"{mine}:make_data"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.py:make_dat", "unknown name 'make_dat'; did you mean make_data"),
        ("mine.py:fails", r"mine.py:fails cannot be read: OSError: nothing there \(mine.py, line \d+\)"),
        ("mine.py:nothing", "mine.py:nothing must be a function that returns two data sets, got int"),
        ("mine.py", "mine.py must name what is meant in the file too: mine.py:NAME"),
        ("gone.py:make_data", r"gone\.py cannot be read: No such file"),
    ],
)
def test_a_name_that_is_wrong_is_refused(mine: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(name)
