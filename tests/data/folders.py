"""Small image folders, written by tests."""

from pathlib import Path

import torch
from PIL import Image


def write_folder(root: Path, num_train: int = 5, num_test: int = 2, side: int = 8, judged: str = "test") -> Path:
    generator = torch.Generator().manual_seed(0)
    for split, num in (("train", num_train), (judged, num_test)):
        for name in ("bee", "ant"):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(num):
                pixels = torch.randint(0, 256, (side, side, 3), dtype=torch.uint8, generator=generator)
                Image.fromarray(pixels.numpy()).save(root / split / name / f"{i}.png")
    return root
