"""The output folder of a profile: named after the arguments, and tested before anything is measured."""

import hashlib
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tdbench.config import flatten, known_keys
from tdbench.errors import FolderError
from tdbench.profiling.measuring import Profile, Shape
from tdbench.store.files import make_folder
from tdbench.store.folders import CONFIG
from tdbench.store.profiles import LAYER
from tdbench.user_code import short_name

LONGEST_NAME = 120  # of a default folder, in characters
NAMED_KEYS = {  # in a default folder's name anyway, or without effect on what is measured
    "model.name",
    "regularizer.name",
    "training.batch_size",
    "hardware.precision",
    "hardware.device",
}


def default_folder(
    profile: Profile, methods: Sequence[str] | None, shapes: Sequence[Shape], find_batch_size: bool
) -> Path:
    """Return a folder named after the arguments, so that only a later profile with the same ones replaces it.

    Args:
        profile: What is to be measured.
        methods: Those that the user named, or None.
        shapes: Those that the user gave.
        find_batch_size: Whether this is a search for the largest batch, whose table must not replace a profile.
    """
    parts = [
        "profile",
        short_name(profile.baseline.model.name),
        *map(short_name, methods or ()),
        *("x".join(map(str, shape)) for shape in shapes),
        f"batch{profile.batch_size}",
        profile.hardware.precision,
        profile.hardware.device.type,
        *changed_settings(profile),
        *(["largest-batch"] if find_batch_size else []),
    ]
    whole = "-".join(parts)
    name = re.sub(r"[^\w.-]+", "-", whole, flags=re.ASCII)
    if len(name) > LONGEST_NAME:
        digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
        name = f"{name[: LONGEST_NAME - len(digest) - 1]}-{digest}"
    return Path("runs") / name


def changed_settings(profile: Profile) -> list[str]:
    """Return the settings that differ from their defaults, in a word each, without those in NAMED_KEYS."""
    words: dict[str, str] = {}
    for config in profile.configs.values():
        fields = known_keys(type(config.regularizer))
        del fields["data.cache"]  # which is no matter of what is measured
        if config.data.name != "folder":  # there the root defines the data set
            del fields["data.root"]
        for key, value in flatten(config.model_dump()).items():
            if key in fields and key not in NAMED_KEYS and value != fields[key].get_default(call_default_factory=True):
                words[key] = folder_part(key.rpartition(".")[2], value)
    return list(words.values())


def folder_part(name: str, value: Any) -> str:
    """Return a setting as a part of a file name: `compile`, `cifar10`, `stage1-stage2`, `block_size3`."""
    if value is True:
        return name
    if isinstance(value, (str, Path)):
        return Path(value).name
    if isinstance(value, (list, tuple)):
        return "-".join(map(str, value))
    return f"{name}{value}"


def check_folder(folder: Path, find_batch_size: bool) -> None:
    """Make the folder and test that it can be written.

    Raises:
        FolderError: It cannot be made or written, or holds a run, or tables that a search for the largest batch would
            not replace.
    """
    make_folder(folder)
    if (folder / CONFIG).exists():
        raise FolderError(f"--out {folder} holds a run; take another folder for its profile")
    if find_batch_size and (folder / LAYER).exists():
        raise FolderError(f"--out {folder} holds a profile; take another folder for the search of the largest batch")
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".tdbench-"):
            pass
    except OSError as error:
        raise FolderError(f"--out {folder} must be a folder that can be written: {error.strerror}") from error
