"""Checkpoints: everything a resume needs, written whole or not at all, loaded with `weights_only=True`."""

import io
from pathlib import Path
from typing import Any

import torch

from tdbench.errors import FolderError
from tdbench.results.store import write_atomically

FORMAT = "tdbench checkpoint 1"


def save_checkpoint(path: Path, digest: str, state: dict[str, Any]) -> None:
    """Write the state of the run `digest`.

    Raises:
        FolderError: It cannot be written; an earlier checkpoint is untouched.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "digest": digest, "state": state}, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(
    path: Path, digest: str, hint: str = "use --fresh to start over, or another --out"
) -> dict[str, Any] | None:
    """Return the state of the run `digest` on the CPU, or None where there is no checkpoint.

    Args:
        path: The file.
        digest: Of the run's configuration.
        hint: What the user can do where the file is of no use.

    Raises:
        FolderError: The file is cut short, damaged, no checkpoint of tdbench's, or of another run.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # torch.load raises half a dozen kinds, pickle's own among them
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FolderError(f"{path} is cut short or damaged ({reason[:120]}); {hint}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FolderError(f"{path} is no checkpoint of this version of tdbench; {hint}")
    if content["digest"] != digest:
        raise FolderError(f"{path} belongs to another run (digest {content['digest']}, not {digest}); {hint}")
    return content["state"]
