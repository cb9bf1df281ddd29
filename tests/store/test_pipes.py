"""Whatever lies under the names of our files, looking at it comes to an end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tdbench.config.loading import read_yaml
from tdbench.errors import ConfigError, DataError, FolderError, TdbenchError
from tdbench.store.files import read_file, read_tree, write_if_new
from tdbench.store.folders import RunFolder, SweepFolder
from tdbench.store.reading import read_table

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


@pytest.fixture
def folder(tmp_path):
    """Return a folder in which each of a run's and a sweep's files is a pipe that nobody writes to."""
    names = ("config.yaml", "result.json", "environment.json", "contents.json", "metrics.csv", "checkpoint.pt")
    for name in (*names, "sweep.yaml", "summary.csv", ".summary.json", "net.py", "images-ubyte", "images-ubyte.gz"):
        os.mkfifo(tmp_path / name)
    return tmp_path


def test_pipes_are_refused_where_a_run_a_sweep_or_a_configuration_is_read(folder):
    run, sweep = RunFolder(folder), SweepFolder(folder)
    with pytest.raises(OSError, match="a pipe or a device"):
        read_file(folder / "result.json")
    with pytest.raises(OSError, match="a pipe or a device"):
        read_file("/dev/null")
    for refused, read in (
        (ConfigError, lambda: read_yaml(folder / "config.yaml")),
        (FolderError, lambda: read_tree(folder / "sweep.yaml")),
        (FolderError, run.read_config),
        (FolderError, run.read_result),
        (FolderError, lambda: read_table(folder / "metrics.csv")),
    ):
        with pytest.raises(refused, match="cannot be read"):
            read()
    assert run.read_environment() == {}
    assert run.read_contents() is None
    assert sweep.recall_summary([]) is None


def test_pipes_are_refused_where_weights_images_or_code_are_read(folder):
    from tdbench.data.published import read_idx
    from tdbench.training.checkpoint import load_checkpoint
    from tdbench.user_code import code_of

    for refused, read in (
        (FolderError, lambda: load_checkpoint(folder / "checkpoint.pt", "digest")),
        (DataError, lambda: read_idx(folder / "images-ubyte", (2, 2))),
        (DataError, lambda: read_idx(folder / "images-ubyte.gz", (2, 2))),
    ):
        with pytest.raises(refused, match="a pipe or a device"):
            read()
    with pytest.raises(TdbenchError, match=r"net\.py must be a file of Python code"):
        code_of(f"{folder / 'net.py'}:make")


def test_a_table_takes_the_place_of_a_pipe(folder):
    assert write_if_new(folder / "summary.csv", b"n\n1\n")
    assert (folder / "summary.csv").read_bytes() == b"n\n1\n"


def test_a_configuration_is_read_from_a_pipe_that_the_shell_has_opened(tmp_path):
    line = f"""{sys.executable} -c "import sys; from pathlib import Path
from tdbench.config.loading import read_yaml
print(read_yaml(Path(sys.argv[1])))" <(sleep 0.2; echo 'training: {{epochs: 7}}')"""
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.stdout, done.stderr) == ("{'training': {'epochs': 7}}\n", "")
