"""What happens where data or code have changed between two calls of the same command."""

import json
import os
import shutil
import zipfile

import pytest
import torch

import tdbench
from tdbench.errors import Interrupted
from tdbench.training import setup
from tests.user_files import BLOCKS, NET

ON_FOLDER = ("--data", "folder", "--set", "image_size=8", "--batch-size", "4", "--regularizer", "none")


@pytest.fixture
def place(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(6):
                Image.new("RGB", (8, 8), (40 * number, len(name), 0)).save(f"data/{part}/{name}/{number}.bmp")
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "blocks.py").write_text(BLOCKS)
    return tmp_path


def kept(place):
    """Return the copy of the user's code in the run folder."""
    with zipfile.ZipFile(place / "run" / "user_code.zip") as archive:
        return {name.removeprefix("model.name/"): archive.read(name).decode() for name in archive.namelist()}


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "finished"])
def test_a_run_on_changed_images_is_refused_and_says_which(cli, place, stopped):
    command = ("train", *ON_FOLDER, "--data-root", "data", "--epochs", "2", "--out", "run")
    if stopped:
        asked = iter(range(100))
        keys = {"data": "folder", "data_root": "data", "image_size": 8, "batch_size": 4, "regularizer": "none"}
        with pytest.raises(Interrupted):
            tdbench.train(**keys, epochs=2, out="run", should_stop=lambda: next(asked) >= 4)
    else:
        assert cli(*command).code == 0
    shutil.copy("data/train/cat/0.bmp", "data/train/cat/6.bmp")
    before = cli.snapshot(place / "run")
    refused = cli(*command)
    assert (refused.code, refused.out) == (2, "")
    assert "run holds a run on other data or of other code: train/cat is 6 file(s)" in refused.err
    assert "7 file(s)" in refused.err
    assert "--fresh" in refused.err
    assert cli.snapshot(place / "run") == before
    os.remove("data/train/cat/6.bmp")
    assert cli(*command).code == 0
    shutil.copy("data/train/cat/0.bmp", "data/train/cat/6.bmp")
    assert cli(*command, "--fresh").code == 0
    assert "train/cat" in json.loads((place / "run" / "contents.json").read_text())["data"]


def test_a_finished_run_is_found_where_its_images_have_moved_or_are_gone(cli, place):
    command = ("train", *ON_FOLDER, "--epochs", "1", "--out", "run", "--json")
    result = json.loads(cli(*command, "--data-root", "data").out)
    (place / "data").rename("moved")
    assert json.loads(cli(*command, "--data-root", "moved").out) == result
    assert json.loads(cli(*command, "--data-root", "data").out) == result


@pytest.mark.slow
def test_a_sweep_on_changed_images_is_refused_and_says_which(cli, place):
    command = (
        "ablate",
        "--param",
        "lr=0.1",
        "--seeds",
        "1",
        *ON_FOLDER,
        "--epochs",
        "1",
        "--jobs",
        "1",
        "--out",
        "sweep",
    )
    assert cli(*command, "--data-root", "data").code == 0
    (place / "data").rename("moved")
    again = cli(*command, "--data-root", "moved", "--dry-run")
    assert "1 different trials, 1 done, 0 to run" in again.out
    os.remove("moved/test/dog/3.bmp")
    before = cli.snapshot(place / "sweep")
    refused = cli(*command, "--data-root", "moved")
    assert (refused.code, refused.out) == (2, "")
    assert "sweep holds a sweep on other data or of other code: test/dog is 6 file(s)" in refused.err
    assert cli.snapshot(place / "sweep") == before


def test_a_change_in_a_file_that_the_network_s_file_imports_is_named(cli, place, monkeypatch):
    command = ("train", "--model", "net.py:make_model", "--sites", "0", *cli.tiny, "--out", "run")
    assert cli(*command).code == 0
    assert kept(place) == {"net.py": NET, "blocks.py": BLOCKS}
    (place / "blocks.py").write_text(BLOCKS.replace("ReLU", "Tanh"))
    refused = cli(*command)
    assert refused.code == 2
    assert "other code: blocks.py is " in refused.err
    refused = cli("show", "--run", "run", "--out", "pictures")
    assert refused.code == 2
    assert "run was trained with other code: blocks.py is " in refused.err
    assert cli(*command, "--fresh").code == 0
    assert "Tanh" in kept(place)["blocks.py"]


def test_code_that_changes_while_a_run_goes_on_changes_nothing_of_it(cli, place, monkeypatch):
    from tdbench.training.run import Run

    end_epoch = Run.end_epoch

    def edit(self):
        (place / "blocks.py").write_text(BLOCKS.replace("ReLU", "Tanh"))
        return end_epoch(self)

    command = ("train", "--model", "net.py:make_model", "--sites", "0", *cli.tiny, "--out", "run")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "end_epoch", edit)
        assert cli(*command).code == 0
    assert kept(place)["blocks.py"] == BLOCKS
    assert "other code: blocks.py is " in cli(*command).err
    (place / "blocks.py").write_text(BLOCKS)
    before = cli.snapshot(place / "run")
    assert cli(*command).code == 0
    assert cli.snapshot(place / "run") == before


@pytest.mark.slow
def test_code_that_failed_is_mended_and_the_same_command_goes_on(cli, place):
    command = ("train", "--model", "net.py:make_model", "--sites", "0", *cli.tiny, "--out", "run")
    sweep = ("ablate", "--param", "lr=0.1", "--seeds", "1", "--baseline", "off", *command[1:-1], "sweep", "--jobs", "1")
    (place / "blocks.py").write_text(BLOCKS.replace("nn.ReLU()", "Fails()") + FAILS)
    assert cli(*command).code == 1
    assert cli(*sweep).code == 1
    (place / "blocks.py").write_text(BLOCKS)
    assert cli(*command).code == 0
    assert cli(*sweep).code == 0


FAILS = """
class Fails(nn.Module):
    def forward(self, x):
        if self.training:
            raise ValueError("not yet")
        return x
"""


def test_a_user_s_files_beside_a_run_are_left_alone(cli, place):
    (place / "code").mkdir()
    (place / "net.py").rename(place / "code" / "net.py")
    (place / "blocks.py").rename(place / "code" / "blocks.py")
    (place / "code" / "thesis.txt").write_text("years of work")
    command = ("train", "--model", "code/net.py:make_model", "--sites", "0", *cli.tiny, "--out", ".")
    assert cli(*command).code == 0
    assert cli(*command, "--fresh").code == 0
    assert (place / "code" / "net.py").read_text() == NET
    assert (place / "code" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(("moment", "in_time"), [("load_data", True), ("seeded_network", False)])
def test_what_a_run_keeps_is_the_code_that_it_imported(cli, place, monkeypatch, moment, in_time):
    real = getattr(setup, moment)

    def edit_after(*arguments):
        found = real(*arguments)
        (place / "blocks.py").write_text(BLOCKS.replace("in_channels, 4, 3", "in_channels, 4, 5"))
        return found

    command = ("train", "--model", "net.py:make_model", "--sites", "0", *cli.tiny, "--out", "run")
    with monkeypatch.context() as patch:
        patch.setattr(setup, moment, edit_after)
        done = cli(*command)
    if not in_time:  # what was imported is not what lies there
        assert done.code == 2
        assert "your code has changed while the run was being made ready" in done.err
        assert not (place / "run" / "result.json").exists()
        assert cli(*command).code == 0
    else:
        assert done.code == 0
    assert "4, 5" in kept(place)["blocks.py"]
    weights = torch.load(place / "run" / "checkpoint.pt", weights_only=True)["state"]["model"]
    assert next(iter(weights.values())).shape[-1] == 5


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "finished"])
def test_code_may_lie_elsewhere_by_the_next_call(cli, place, stopped):
    (place / "mine.py").write_text(
        "from torch import nn\n"
        "class MyDrop(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return nn.functional.dropout(x, 0.1, self.training)\n"
    )
    (place / "there").mkdir()

    def command(folder):
        named = "--model", f"{folder}/net.py:make_model", "--regularizer", f"{folder}/mine.py:MyDrop", "--sites", "0"
        return ("train", *named, "--train-fraction", "0.05", "--batch-size", "8", "--epochs", "2", "--out", "run")

    if stopped:
        keys = {"model": "net.py:make_model", "regularizer": "mine.py:MyDrop", "sites": "0", "train_fraction": 0.05}
        asked = iter(range(100))
        with pytest.raises(Interrupted):
            tdbench.train(**keys, batch_size=8, epochs=2, out="run", should_stop=lambda: next(asked) >= 4)
    else:
        assert cli(*command(".")).code == 0
    for name in ("net.py", "blocks.py", "mine.py"):
        shutil.move(name, "there")
    moved = cli(*command("there"))
    assert moved.code == 0, moved.err
    assert ("resuming after step" if stopped else "holds this run already") in moved.out
    (place / "there" / "blocks.py").write_text(BLOCKS + "# changed")
    assert "blocks.py is" in cli(*command("there")).err


def test_results_do_not_go_among_the_images(cli, place):
    for command in (("train",), ("ablate", "--param", "lr=0.1", "--seeds", "1")):
        refused = cli(*command, *ON_FOLDER, "--data-root", "data", "--out", "data/train/run")
        assert (refused.code, refused.out) == (2, "")
        assert "--out data/train/run lies among the images of" in refused.err
    assert not (place / "data" / "train" / "run").exists()
    assert "lies among the images of" in cli("train", *ON_FOLDER, "--data-root", "data", "--out", "data/val/run").err


@pytest.mark.parametrize("wrong", [5, ["run"]])
def test_a_folder_that_is_no_path_is_refused(wrong):
    for call in (tdbench.train, tdbench.ablate):
        with pytest.raises(tdbench.TdbenchError, match="out must be the path of a folder"):
            call(out=wrong)


def test_a_picture_says_where_its_images_are_not_those_of_the_run(cli, place):
    on = ("--data", "folder", "--set", "image_size=16", "--batch-size", "4", "--data-root", "data", "--epochs", "1")
    assert cli("train", *on, "--out", "run").code == 0
    assert "other images" not in cli("show", "--run", "run", "--out", "one").out
    shutil.copy("data/test/cat/0.bmp", "data/test/cat/6.bmp")
    shown = cli("show", "--run", "run", "--out", "two")
    assert (shown.code, "note: the network was trained on other images: test/cat is 6 file(s)" in shown.out) == (
        0,
        True,
    )
