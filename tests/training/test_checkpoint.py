"""A checkpoint is loaded only if it is whole, tdbench's own, and of this run."""

import pytest
import torch

from tdbench.errors import FolderError
from tdbench.training.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, "digest", {"weight": torch.arange(100.0), "rows": [{"epoch": 1}]})
    return path


def test_what_was_saved_is_loaded(path):
    state = load_checkpoint(path, "digest")
    assert torch.equal(state["weight"], torch.arange(100.0))
    assert state["rows"] == [{"epoch": 1}]


def test_no_checkpoint_is_no_error(tmp_path):
    assert load_checkpoint(tmp_path / "checkpoint.pt", "digest") is None


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_checkpoint_is_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FolderError, match=r"checkpoint\.pt is cut short or damaged"):
        load_checkpoint(path, "digest")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    torch.save({"format": print}, tmp_path / "checkpoint.pt")
    with pytest.raises(FolderError, match="damaged"):
        load_checkpoint(tmp_path / "checkpoint.pt", "digest")


@pytest.mark.parametrize("content", [{"state_dict": 1}, [1, 2], torch.zeros(3)])
def test_a_foreign_checkpoint_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(FolderError, match="no checkpoint of this version"):
        load_checkpoint(tmp_path / "checkpoint.pt", "digest")


def test_the_checkpoint_of_another_run_is_refused(path):
    with pytest.raises(FolderError, match="belongs to another run"):
        load_checkpoint(path, "other")
