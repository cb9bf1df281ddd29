"""Bad input ends in one clear message and exit code 2, and nothing is written or lost."""

import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from tdbench.cli import main
from tdbench.errors import ConfigError


def images(folder: Path, num: int = 2) -> None:
    folder.mkdir(parents=True)
    for i in range(num):
        Image.new("RGB", (32, 32), (40 * i, 0, 90)).save(folder / f"{i}.png")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Fill the working directory with all that the cases name."""
    (tmp_path / "file").write_text("not a folder\n")
    (tmp_path / "empty folder").mkdir()
    for part in ("train", "test"):
        images(tmp_path / "one class" / part / "a")
        for label in "ab":
            (tmp_path / "no images" / part / label).mkdir(parents=True)
            images(tmp_path / "broken image" / part / label)
    images(tmp_path / "no test" / "train" / "a")
    images(tmp_path / "no test" / "train" / "b")
    whole = (tmp_path / "broken image" / "test" / "b" / "1.png").read_bytes()
    (tmp_path / "broken image" / "test" / "b" / "1.png").write_bytes(whole[:40])
    return tmp_path


def complain(cli, place: Path, *arguments: str) -> str:
    before = cli.snapshot(place)
    done = cli(*arguments)
    assert done.code == 2, (done.out, done.err)
    assert done.out == ""
    assert done.err.startswith("tdbench: ")
    assert done.err.count("tdbench: ") == 1
    assert done.err.endswith("\n")
    assert "Traceback" not in done.err
    assert not set(done.err) & {"\x1b", "\r"}
    assert cli.snapshot(place) == before
    return done.err


MISSPELT = [
    (["trian"], "trian", "train"),
    (["train", "--epocs", "3"], "--epocs", "--epochs"),
    (["train", "--regulariser", "none"], "--regulariser", "--regularizer"),
    (["list", "--quit"], "--quit", "--quiet"),
    (["train", "--set", "bloc_size=3"], "bloc_size", "block_size"),
    (["train", "--set", "training.epocs=3"], "training.epocs", "training.epochs"),
    (["train", "--set", "optimizer.momentun=0.5"], "optimizer.momentun", "optimizer.momentum"),
    (["train", "--model", "resnet9"], "resnet9", "resnet8"),
    (["train", "--model", "ResNet18"], "ResNet18", "resnet18"),
    (["train", "--data", "digit"], "digit", "digits"),
    (["train", "--data", "cifar-10"], "cifar-10", "cifar10"),
    (["train", "--regularizer", "targetdrp"], "targetdrp", "targetdrop"),
    (["train", "--set", "regularizer.name=target_drop"], "target_drop", "targetdrop"),
    (["train", "--sites", "stgae1"], "stgae1", "stage1"),
    (["train", "--sites", "stage1,stage2.blok1"], "stage2.blok1", "stage2.block1"),
    (["train", "--device", "cdua"], "cdua", "cuda"),
    (["train", "--precision", "bf61"], "bf61", "bf16"),
    (["train", "--set", "attention=gpa"], "gpa", "gap"),
    (["train", "--set", "schedule.name=cosin"], "cosin", "cosine"),
]


@pytest.mark.parametrize(("arguments", "wrong", "right"), MISSPELT, ids=[wrong for _, wrong, _ in MISSPELT])
def test_a_misspelt_name_is_refused_with_the_nearest_valid_one(cli, place, arguments, wrong, right):
    message = complain(cli, place, *arguments)
    assert wrong in message
    assert right in message.replace(wrong, "", 1)


OUT_OF_RANGE = [
    (["--set", "gamma=-0.1"], ["drop_ratio", "between 0 and 1", "-0.1"]),
    (["--set", "gamma=1.1"], ["drop_ratio", "between 0 and 1", "1.1"]),
    (["--set", "gamma=.nan"], ["drop_ratio", "nan"]),
    (["--set", "k=4"], ["block_size", "odd", "4"]),
    (["--set", "k=0"], ["block_size", "odd and at least 1", "0"]),
    (["--set", "k=-3"], ["block_size", "odd and at least 1", "-3"]),
    (["--set", "k=2.5"], ["block_size", "whole number", "2.5"]),
    (["--set", "k=true"], ["block_size", "true"]),
    (["--set", "rho=0.1"], ["target_fraction", "drop_ratio", "0.15", "0.1"]),
    (["--set", "gamma=0.5", "--set", "target_channel_fraction=0.4"], ["target_fraction", "0.5", "0.4"]),
    (["--set", "rho=1.1"], ["target_fraction", "1.1"]),
    (["--set", "reduction=0"], ["reduction", "at least 1", "0"]),
    (["--epochs", "0"], ["epochs", "at least 1", "0"]),
    (["--epochs", "two"], ["epochs", "integer"]),
    (["--max-steps", "0"], ["max_steps", "at least 1", "0"]),
    (["--lr", "-1"], ["lr", "greater than 0", "-1"]),
    (["--lr", "0"], ["lr", "greater than 0", "0"]),
    (["--lr", "nan"], ["lr", "finite", "nan"]),
    (["--lr", "inf"], ["lr", "finite", "inf"]),
    (["--batch-size", "0"], ["batch_size", "at least 1", "0"]),
    (["--batch-size", "1438"], ["batch_size", "at most 1437", "1438"]),
    (["--train-fraction", "0.1", "--batch-size", "143"], ["batch_size", "at most 142", "143"]),
    (["--train-fraction", "0"], ["train_fraction", "greater than 0", "0"]),
    (["--train-fraction", "1.5"], ["train_fraction", "at most 1", "1.5"]),
    (["--seed", "-1"], ["seed", "at least 0", "-1"]),
    (["--threads", "0"], ["threads", "between 1 and 1024", "0"]),
    (["--sites", ""], ["sites"]),
    (["--sites", "stage1,stage1.block1"], ["stage1", "same output"]),
    (["--set", "optimizer.momentum=1"], ["momentum", "less than 1", "1"]),
    (["--device", "cuda"], ["cuda", "--device cpu"]),
    (["--device", "cuda:1"], ["cuda", "--device cpu"]),
    (["--precision", "fp16"], ["fp16", "bf16"]),
]


@pytest.mark.parametrize(("arguments", "words"), OUT_OF_RANGE, ids=[" ".join(given) for given, _ in OUT_OF_RANGE])
def test_a_value_out_of_range_is_refused_with_field_rule_and_value(cli, place, arguments, words):
    message = complain(cli, place, "train", *arguments)
    assert [word for word in words if word not in message] == []


MALFORMED = [
    (["train", "--epochs"], ["--epochs", "argument"]),
    (["train", "--set", "block_size"], ["--set", "KEY=VALUE", "block_size"]),
    (["train", "--set", "=3"], ["--set", "KEY=VALUE"]),
    (["train", "--set", "k=[1"], ["--set k", "YAML"]),
    (["train", "--set", "name=none"], ["name", "data.name", "regularizer.name"]),
    (["train", "--set", "training=3"], ["training"]),
    (["train", "--regularizer", "none", "--set", "gamma=0.3"], ["gamma"]),
    (["train", "a.yaml", "b.yaml"], ["b.yaml"]),
    (["list", "targetdropp"], ["targetdropp", "targetdrop"]),
    (["train", "--set", "block_size="], ["--set", "block_size=", "null for no value"]),
    (["train", "--device", "gpu"], ["cuda is a GPU of NVIDIA or AMD, got 'gpu'"]),
    (["train", "--regularizer", "mine.py"], ["mine.py:NAME"]),
    (["ablate", "--seeds", "0"], ["at least one seed, got 0"]),
    (["train", "--amp"], ["--amp", "--precision bf16"]),
    (["train", "--workers", "3"], ["--workers", "num_workers", "--jobs"]),
    (["ablate", "--optimizer", "adam"], ["--optimizer", "--set optimizer.name=NAME"]),
    (["train", "--wandb"], ["--wandb", "--log wandb"]),
    (["train", "--log", "wandp"], ["unknown --log 'wandp'", "did you mean wandb?"]),
    (["train", "--log", ""], ["unknown --log ''", "tensorboard, wandb, mlflow"]),
    (["ablate", "--log", "tensorboard", "--log", "mflow"], ["unknown --log 'mflow'", "did you mean mlflow?"]),
    (["train", "--val-split=0.1"], ["--val-split", "--set data.valid_fraction=F"]),
    (["train", "--block-size", "3"], ["--set block_size=VALUE"]),
    (["train", "--batch_size", "8"], ["use --batch-size"]),
]


@pytest.mark.parametrize(("arguments", "words"), MALFORMED, ids=[" ".join(given) for given, _ in MALFORMED])
def test_a_malformed_command_is_refused(cli, place, arguments, words):
    message = complain(cli, place, *arguments)
    assert [word for word in words if word not in message] == []


BAD_YAML = {
    "nothing in it": ("", ["empty"]),
    "only a comment": ("# epochs: 3\n", ["empty"]),
    "a list": ("- epochs\n", ["list"]),
    "a word": ("epochs\n", ["str"]),
    "no YAML": ("training: {epochs: 3\n", ["not YAML"]),
    "a tab": ("training:\n\tepochs: 3\n", ["not YAML"]),
    "two documents": ("seed: 1\n---\nseed: 2\n", ["not YAML"]),
    "a Python object": ("seed: !!python/object/apply:os.getpid []\n", ["not YAML"]),
    "a binary": (b"\xff\xfe\x00\x01", ["cannot be read"]),
    "text for a number": ("training: {epochs: many}\n", ["training.epochs", "whole number", "many"]),
    "a truth for a number": ("optimizer: {lr: true}\n", ["optimizer.lr", "true"]),
    "a table for a number": ("seed: {a: 1}\n", ["seed", "whole number"]),
    "a number for a table": ("training: 3\n", ["training", "table"]),
    "a list for a table": ("regularizer: [none]\n", ["regularizer", "table"]),
    "a number for a name": ("model: {name: 8}\n", ["model.name", "text", "8"]),
    "a number for a key": ("3: 4\n", ["3"]),
    "an unknown key": ("training: {epocs: 3}\n", ["training.epocs", "training.epochs"]),
    "an unknown section": ("trainin: {epochs: 3}\n", ["trainin", "training"]),
    "a flag's name": ("epochs: 3\n", ["epochs", "training.epochs"]),
    "an unknown method": ("regularizer: {name: targetdrp}\n", ["targetdrp", "targetdrop"]),
    "a knob of another method": ("regularizer: {name: none, block_size: 3}\n", ["regularizer.block_size"]),
    "an even k": ("regularizer: {block_size: 6}\n", ["block_size", "odd", "6"]),
}


@pytest.mark.parametrize(("content", "words"), BAD_YAML.values(), ids=BAD_YAML)
def test_a_config_file_that_is_wrong_is_refused_by_name(cli, place, content, words):
    (place / "run.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    message = complain(cli, place, "train", "run.yaml")
    if "unknown regularizer" not in message:
        assert "run.yaml" in message
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize("name", ["missing.yaml", "empty folder", "file/run.yaml", ""])
def test_a_config_file_that_cannot_be_read_is_refused_by_name(cli, place, name):
    message = complain(cli, place, "train", name)
    assert name in message
    assert "config file" in message


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads every file")
def test_a_config_file_without_permission_is_refused_by_name(cli, place):
    (place / "run.yaml").write_text("seed: 1\n")
    (place / "run.yaml").chmod(0)
    assert "run.yaml" in complain(cli, place, "train", "run.yaml")


DATA_ROOTS = {
    "missing": ["missing"],
    "empty folder": ["empty folder", "train"],
    "file": ["file", "folder"],
    "no test": ["no test", "test"],
    "one class": ["one class", "two classes"],
    "no images": ["no images"],
    "broken image": [os.path.join("broken image", "test", "b", "1.png"), "decoded"],
}


@pytest.mark.parametrize(("root", "words"), DATA_ROOTS.items(), ids=DATA_ROOTS)
def test_an_image_folder_that_is_wrong_is_refused_and_named(cli, place, root, words, tmp_path_factory):
    on = ("--data", "folder", "--data-root", root, "--cache", tmp_path_factory.mktemp("decoded"))
    message = complain(cli, place, "train", *on, "--batch-size", "2")
    assert [word for word in words if word not in message] == []


def test_a_broken_image_that_streaming_meets_in_mid_run_is_named_and_the_repaired_run_ends(cli, place):
    command = ("train", "--data", "folder", "--data-root", "broken image", "--batch-size", "2", "--epochs", "1")
    command = (*command, "--set", "resident_mib=0", "--set", "num_workers=1", "--out", "run")
    done = cli(*command)
    assert done.code == 2
    assert done.err.startswith("tdbench: ")
    assert len(done.err.splitlines()) == 1
    assert os.path.join("broken image", "test", "b", "1.png") in done.err
    (place / "broken image" / "test" / "b" / "1.png").unlink()
    assert cli(*command).code == 0


@pytest.mark.parametrize("command", ["train", "list"])
@pytest.mark.parametrize("out", ["file", "file/below", "file/far/below"])
def test_an_output_folder_that_is_a_file_or_under_one_is_refused(cli, place, command, out):
    assert "file" in complain(cli, place, command, "--out", out)


@pytest.mark.parametrize("fresh", ["--resume", "--fresh"])
@pytest.mark.parametrize("out", ["file", "file/below"])
def test_the_message_says_that_the_output_folder_is_a_file(cli, place, out, fresh):
    message = complain(cli, place, "train", "--out", out, fresh)
    assert "must be a folder" in message
    assert "use --fresh" not in message


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no place that even root cannot write to")
@pytest.mark.parametrize("command", ["train", "list"])
def test_an_output_folder_that_cannot_be_made_is_refused(cli, place, command):
    assert "/proc/nowhere" in complain(cli, place, command, "--out", "/proc/nowhere")


@pytest.mark.parametrize("command", ["train", "ablate", "audit", "show", "list"])
def test_an_output_folder_without_a_name_is_refused(cli, place, command):
    message = complain(cli, place, command, "--out", "")
    assert message == "tdbench: --out must name a folder, got '' (. is the working folder)\n"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
@pytest.mark.parametrize("out", ["locked", "locked/below"])
@pytest.mark.parametrize("command", ["train", "list"])
def test_an_output_folder_that_cannot_be_written_is_refused(cli, place, command, out):
    (place / "locked").mkdir(mode=0o555)
    assert "locked" in complain(cli, place, command, "--out", out)


def test_bad_input_leaves_the_output_folder_unmade(cli, place, tmp_path_factory):
    complain(cli, place, "train", "--sites", "stage9", "--out", "deep/run")
    on = ("--data", "folder", "--data-root", "broken image", "--cache", tmp_path_factory.mktemp("decoded"))
    complain(cli, place, "train", *on, "--out", "deep/run")


def test_bad_input_leaves_an_earlier_run_as_it_was_even_with_fresh(cli, place):
    assert cli("train", *cli.tiny, "--out", "run", "--quiet").code == 0
    for wrong in (["--epochs", "0"], ["--batch-size", "5000"], ["--sites", "stage9"], ["--device", "cuda"]):
        complain(cli, place, "train", *cli.tiny, "--out", "run", "--fresh", *wrong)


def test_several_mistakes_come_in_one_message(cli, place):
    message = complain(cli, place, "train", "--epochs", "0", "--lr", "-1")
    assert "training.epochs" in message
    assert "optimizer.lr" in message


def test_quiet_and_json_keep_stdout_free_of_errors(cli, place):
    complain(cli, place, "train", "--epochs", "0", "--quiet")
    complain(cli, place, "train", "--epochs", "0", "--json")


def test_debug_shows_the_traceback(cli, place):
    process = cli.start("train", "missing.yaml", env=cli.environment(TDBENCH_DEBUG="1"))
    done = cli.finish(process)
    assert done.code != 0
    assert "Traceback (most recent call last)" in done.err
    assert "config file missing.yaml does not exist" in done.err


def test_debug_lets_errors_through_to_a_debugger(cli, place, monkeypatch):
    monkeypatch.setenv("TDBENCH_DEBUG", "1")
    with pytest.raises(ConfigError, match="at least 1"):
        main(["train", "--epochs", "0"])


def test_a_process_ends_with_exit_code_2_and_no_traceback(cli, place):
    done = cli.finish(cli.start("train", "missing.yaml"))
    assert (done.code, done.out) == (2, "")
    assert done.err == "tdbench: config file missing.yaml does not exist\n"


def test_no_command_shows_the_help(cli, place):
    done = cli.finish(cli.start_python(str(Path(sys.executable).with_name("tdbench"))))
    assert done.code == 2
    assert "train" in done.out + done.err
