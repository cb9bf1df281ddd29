"""The decoder against Pillow on a file of each kind, and against torchvision's presets."""

import logging
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps
from PIL import __version__ as pillow_version
from torchvision.transforms._presets import ImageClassification

from tdbench.config import DataConfig
from tdbench.data.images import BrokenImage, FolderImages, MappedImages
from tdbench.data.sources import load_data
from tests.data.folders import write_folder

GENERATOR = np.random.default_rng(0)
COLOURS = Image.fromarray(GENERATOR.integers(0, 256, (8, 8, 3), dtype=np.uint8))
ALPHA = Image.fromarray(GENERATOR.integers(0, 256, (8, 8), dtype=np.uint8))


def translucent() -> Image.Image:
    image = COLOURS.copy()
    image.putalpha(ALPHA)
    return image


def sixteen_bits() -> Image.Image:
    return Image.fromarray(GENERATOR.integers(0, 65536, (8, 8), dtype=np.uint16))


def sixteen_bits_see_through() -> Image.Image:
    image = sixteen_bits()
    image.info["transparency"] = int(np.asarray(image)[3, 3])
    return image


def lab() -> Image.Image:
    colours = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    made = ImageCms.profileToProfile(COLOURS, *colours, outputMode="LAB")
    assert made is not None
    return made


def turned() -> Image.Image:
    image = COLOURS.copy()
    image.getexif()[0x0112] = 8
    return image


def on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def upper_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image).astype(np.int64) // 256).astype(np.uint8)).convert("RGB")


def upper_bits_on_white(image: Image.Image) -> Image.Image:
    seen = np.array(upper_bits(image))
    seen[np.asarray(image) == image.info["transparency"]] = 255
    return Image.fromarray(seen)


def converted(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


# What is written, the suffix, and what Pillow makes of the file.
KINDS: dict[str, tuple[Callable[[], Image.Image], str, Callable[[Image.Image], Image.Image]]] = {
    "RGB": (COLOURS.copy, "png", converted),
    "JPEG": (COLOURS.copy, "jpg", converted),
    "grey": (lambda: COLOURS.convert("L"), "png", converted),
    "grey JPEG": (lambda: COLOURS.convert("L"), "jpg", converted),
    "RGBA": (translucent, "png", on_white),
    "grey and alpha": (lambda: translucent().convert("LA"), "png", on_white),
    "palette": (lambda: COLOURS.convert("P", palette=Image.Palette.ADAPTIVE), "png", converted),
    "palette in a GIF": (lambda: COLOURS.convert("P", palette=Image.Palette.ADAPTIVE), "gif", converted),
    "16 bits": (sixteen_bits, "png", upper_bits),
    "16 bits in a TIFF": (sixteen_bits, "tif", upper_bits),
    "CMYK": (lambda: COLOURS.convert("CMYK"), "jpg", converted),
    "CMYK in a TIFF": (lambda: COLOURS.convert("CMYK"), "tif", converted),
    "turned": (turned, "jpg", lambda image: ImageOps.exif_transpose(image).convert("RGB")),
    "turned in a PNG": (turned, "png", lambda image: ImageOps.exif_transpose(image).convert("RGB")),
    "one bit": (lambda: COLOURS.convert("1"), "png", converted),
    "YCbCr": (lambda: COLOURS.convert("YCbCr"), "tif", converted),
    "BMP": (COLOURS.copy, "bmp", converted),
    "LAB": (lab, "tif", converted),
    "16 bits, one of which is transparent": (sixteen_bits_see_through, "png", upper_bits_on_white),
}


cannot_read = pytest.mark.skipif(int(pillow_version.split(".")[0]) < 13, reason="Pillow reads its own file from 13 on")


@pytest.mark.parametrize(
    ("make", "suffix", "seen"),
    [pytest.param(*kind, id=name, marks=[cannot_read] * (name == "YCbCr")) for name, kind in KINDS.items()],
)
@pytest.mark.filterwarnings("error")
def test_a_file_of_each_kind_is_decoded_as_pillow_does(
    make: Callable[[], Image.Image], suffix: str, seen: Callable[[Image.Image], Image.Image], tmp_path: Path
) -> None:
    path, image = tmp_path / f"image.{suffix}", make()
    image.save(path, exif=image.getexif())
    with Image.open(path) as opened:
        expected = np.asarray(seen(opened)).transpose(2, 0, 1)
    assert np.array_equal(FolderImages([str(path)], 8)[0].numpy(), expected)


def tiff(samples: np.ndarray, num_bits: int, content: bytes) -> bytes:
    """Return a TIFF of grey pixels (H, W, samples), packed."""
    height, width, num_samples = samples.shape
    bits, end = struct.pack(f"<{num_samples}H", *[num_bits] * num_samples), 8 + 2 + 8 * 12 + 4
    numbers = {256: width, 257: height, 259: 1, 262: 1, 273: end + len(bits), 277: num_samples, 279: len(content)}
    tags = {tag: (4, 1, number) for tag, number in numbers.items()}
    tags[258] = (3, num_samples, num_bits if num_samples == 1 else end)
    table = b"".join(struct.pack("<HHII", tag, *tags[tag]) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + table + bytes(4) + bits + content


def test_twelve_bits_of_a_tiff_keep_their_upper_eight(tmp_path: Path) -> None:
    grey = GENERATOR.integers(0, 4096, (8, 8, 1))
    pairs = grey.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
    (tmp_path / "grey.tif").write_bytes(tiff(grey, 12, packed.astype(np.uint8).tobytes()))
    decoded = FolderImages([str(tmp_path / "grey.tif")], 8)[0]
    assert np.array_equal(decoded.numpy(), (grey >> 4).transpose(2, 0, 1).repeat(3, 0))


def test_what_pillow_logs_of_an_image_does_not_reach_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bands = GENERATOR.integers(0, 256, (8, 8, 13), dtype=np.uint8)
    (tmp_path / "bands.tif").write_bytes(tiff(bands, 8, bands.tobytes()))
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as it is outside of pytest
    with pytest.raises(BrokenImage, match="no image of a format that Pillow reads"):
        next(FolderImages([str(tmp_path / "bands.tif")], 8).batches(0, 1))
    assert capsys.readouterr().err == ""


def test_a_turned_image_is_not_the_file_s_own_pixels(tmp_path: Path) -> None:
    image = turned()
    image.save(tmp_path / "image.png", exif=image.getexif())
    upright = FolderImages([str(tmp_path / "image.png")], 8)[0]
    assert np.array_equal(upright.numpy().transpose(1, 2, 0), np.rot90(np.asarray(COLOURS)))


@pytest.mark.parametrize("size", [(50, 33), (33, 50), (64, 64), (20, 90)])
@pytest.mark.parametrize(("image_size", "resize_size"), [(28, 32), (32, 32), (24, 60)])
def test_the_resize_and_the_crop_are_those_of_torchvision_s_presets(
    size: tuple[int, int], image_size: int, resize_size: int, tmp_path: Path
) -> None:
    image = Image.fromarray(GENERATOR.integers(0, 256, (*size, 3), dtype=np.uint8))
    image.save(tmp_path / "image.png")
    preset = ImageClassification(crop_size=image_size, resize_size=resize_size, mean=(0, 0, 0), std=(1, 1, 1))
    ours = FolderImages([str(tmp_path / "image.png")], image_size, resize_size)[0]
    assert torch.equal(ours / 255, preset(image))


def test_mapped_images_are_picked_and_joined_as_a_tensor_is() -> None:
    pixels = torch.randint(0, 256, (9, 3, 4, 4), dtype=torch.uint8)
    one, other = MappedImages.of(pixels[:5]), MappedImages.of(pixels[5:])
    order = torch.tensor([7, 0, 3, 8, 8, 4])
    picked = one.joined(other).select(order.tolist())
    for num_workers in (0, 2):
        batches = list(picked.batches(num_workers, 4))
        assert [len(batch) for batch in batches] == [4, 2]
        assert torch.equal(torch.cat(batches), pixels[order])
    assert torch.equal(picked.joined(one).select([6, 2])[0], pixels[0])


def test_a_folder_may_have_val_in_place_of_test(tmp_path: Path) -> None:
    with_test, with_val = (write_folder(tmp_path / judged, judged=judged) for judged in ("test", "val"))
    both = write_folder(write_folder(tmp_path / "both", judged="val", num_test=3), judged="test")
    read = [load_data(DataConfig(name="folder", root=root, image_size=8), 0) for root in (with_test, with_val, both)]
    for data in read:
        assert torch.equal(data.test.images, read[0].test.images)
        assert len(data.test) == 4
