"""Builds a data set of colour pictures in labelled folders from Debian's openclipart-png (public domain).

    apt-get install openclipart-png
    python ablations/openclipart.py data/openclipart
    tdbench ablate ablations/methods_openclipart.yaml --data-root data/openclipart

A class is a top folder with at least 100 pictures, of which 400 at most are taken. Links are left out, since they are
copies, and so are pictures of the same bytes, those of more than four million pixels, and the two folders that are no
class (`unsorted`, `special`). What is transparent becomes white; a picture is fitted into a white square of 64 pixels.
One in three goes into `test/`. What is taken and where it goes follow from the pictures' bytes alone, so that everybody
builds the same set.
"""

import argparse
import hashlib
from pathlib import Path

from PIL import Image, ImageOps

NO_CLASS = {"unsorted", "special"}
SMALLEST_CLASS, LARGEST_CLASS = 100, 400
MOST_PIXELS = 4_000_000
SIDE = 64

Image.MAX_IMAGE_PIXELS = None  # the size is looked at here, before anything is decoded


def pictures_of(folder: Path) -> dict[str, Path]:
    """Return a folder's pictures by the hash of their bytes: no links, no copies, none that is very large."""
    pictures: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.png")):
        if path.is_symlink():
            continue
        with Image.open(path) as image:
            if image.width * image.height <= MOST_PIXELS:
                pictures.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
    return pictures


def on_white(path: Path) -> Image.Image:
    """Return a picture on a white square of 64 pixels, RGB."""
    with Image.open(path) as image:
        picture = image.convert("RGBA")
    picture = ImageOps.contain(picture, (SIDE, SIDE), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIDE, SIDE), "white")
    square.alpha_composite(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return square.convert("RGB")


def build(source: Path, out: Path) -> dict[str, tuple[int, int]]:
    """Write `train/` and `test/` under a folder; return the numbers of pictures in each, by class."""
    numbers: dict[str, tuple[int, int]] = {}
    for folder in sorted(path for path in source.iterdir() if path.is_dir() and path.name not in NO_CLASS):
        pictures = pictures_of(folder)
        if len(pictures) < SMALLEST_CLASS:
            continue
        taken = sorted(pictures)[:LARGEST_CLASS]
        for index, name in enumerate(taken):
            place = out / ("test" if index % 3 == 2 else "train") / folder.name
            place.mkdir(parents=True, exist_ok=True)
            on_white(pictures[name]).save(place / f"{name[:16]}.png")
        numbers[folder.name] = (len(taken) - len(taken) // 3, len(taken) // 3)
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to build, new")
    parser.add_argument("--source", type=Path, default=Path("/usr/share/openclipart/png"))
    arguments = parser.parse_args()
    if not arguments.source.is_dir():
        parser.error(f"{arguments.source} is not there: apt-get install openclipart-png, or name it by --source")
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists already")
    numbers = build(arguments.source, arguments.out)
    for name, (train, test) in numbers.items():
        print(f"{name:20} {train:4} to train on, {test:4} to test")


if __name__ == "__main__":
    main()
