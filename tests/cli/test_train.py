"""`tdbench train` from the command to the run folder: what it prints, what it leaves, what repeats."""

import itertools
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from tdbench.cli import terminal
from tdbench.config import load_config
from tdbench.store.folders import RunFolder
from tdbench.training import loop
from tdbench.training.run import Progress, Run

FILES = {"predictions.npz", "config.yaml", "environment.json", "metrics.csv", "result.json", "checkpoint.pt"}
COLUMNS = (
    "epoch,lr,train_loss,train_error_pct,test_loss,test_error_pct,dropped_pct,train_img_per_s,epoch_s,peak_mem_mib,"
    "test_error_pct_ema"
)
FIELDS = (
    "status,digest,seed,epochs,test_error_pct,best_test_error_pct,train_error_pct,dropped_pct,train_img_per_s,wall_s,"
    "peak_mem_mib,error,test_loss,ece_pct,brier,test_error_pct_bn,valid_error_pct,test_error_pct_ema"
)
TWO_EPOCHS = ("--train-fraction", "0.1", "--batch-size", "32", "--epochs", "2")
ONE_STEP = ("--train-fraction", "0.1", "--batch-size", "32", "--max-steps", "1")


@pytest.fixture(scope="module")
def finished(cli, tmp_path_factory):
    """Train with no option but a tiny size; return what it came to and its folder."""
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        done = cli("train", *cli.tiny)
    (folder,) = (place / "runs").iterdir()
    return done, folder


def test_train_ends_with_exit_code_0_and_says_nothing_on_stderr(finished):
    done, _ = finished
    assert (done.code, done.err) == (0, "")


def test_a_run_leaves_exactly_the_files_of_a_run_folder(finished):
    _, folder = finished
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == FILES
    assert {path.name for path in folder.iterdir()} - FILES <= {".lock"}


def test_metrics_have_a_row_per_epoch_and_the_promised_columns(cli, finished):
    _, folder = finished
    lines = (folder / "metrics.csv").read_text().split("\n")
    assert lines[0] == COLUMNS
    assert lines[-1] == ""
    (row,) = cli.rows(folder)
    assert row["epoch"] == "1"
    assert 0 < float(row["lr"]) <= 0.1
    assert 0 < float(row["train_loss"]) < 10
    assert 0 < float(row["test_loss"]) < 100
    for column in ("train_error_pct", "test_error_pct", "dropped_pct"):
        assert 0 <= float(row[column]) <= 100
    assert float(row["train_img_per_s"]) > 0
    assert float(row["epoch_s"]) > 0
    assert 50 < float(row["peak_mem_mib"]) < 100_000


def test_result_has_exactly_the_promised_fields_in_sensible_ranges(cli, finished):
    _, folder = finished
    result = cli.result(folder)
    assert ",".join(result) == FIELDS
    assert (result["status"], result["seed"], result["epochs"], result["error"]) == ("done", 0, 1, None)
    assert re.fullmatch(r"[0-9a-f]{12}", result["digest"])
    assert 0 < result["train_img_per_s"] < 1e7
    assert 0 < result["wall_s"] < 300
    assert 50 < result["peak_mem_mib"] < 100_000


def test_errors_are_shares_of_whole_images_in_per_cent(cli, finished):
    _, folder = finished
    result, (row,) = cli.result(folder), cli.rows(folder)
    for figure, num_images in (("test_error_pct", 360), ("best_test_error_pct", 360), ("train_error_pct", 96)):
        num_wrong = result[figure] * num_images / 100
        assert 0 <= num_wrong <= num_images
        assert num_wrong == pytest.approx(round(num_wrong), abs=1e-9)
    assert float(row["test_error_pct"]) == result["test_error_pct"] == result["best_test_error_pct"]
    assert float(row["train_error_pct"]) == result["train_error_pct"]


def test_environment_holds_versions_device_threads_and_command(finished):
    _, folder = finished
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["python"] == sys.version.split()[0]
    assert {"tdbench", "git_commit", "cpu_flags"} <= environment.keys()
    assert (environment["device"], environment["threads"]) == ("cpu", 1)
    assert isinstance(environment["command"], list)
    assert {"torchvision", "scikit-learn"} <= environment["packages"].keys()


def test_the_checkpoint_loads_with_weights_only(finished):
    _, folder = finished
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert checkpoint["state"]["step"] == 3


def test_the_config_file_is_complete_and_names_the_same_run(cli, finished):
    _, folder = finished
    config = load_config(folder / "config.yaml")
    assert yaml.safe_load((folder / "config.yaml").read_text()) == config.dump()
    assert config.digest() == cli.result(folder)["digest"]


def test_train_prints_what_runs_where_the_result_and_where_the_files_are(cli, finished):
    done, folder = finished
    facts = dict(re.findall(r"^(\w+) {2,}(.+)$", done.out, re.MULTILINE))
    assert "resnet8" in facts["model"]
    assert "75,002 parameters" in facts["model"]
    assert "digits, 142 train and 360 test" in facts["data"]
    assert "targetdrop" in facts["regularizer"]
    assert "stage1" in facts["sites"]
    assert "stage2" in facts["sites"]
    assert "cpu" in facts["device"]
    assert re.fullmatch(r"(fp32|bf16), channels_last", facts["precision"])
    assert facts["threads"] == "1"
    assert f"{cli.result(folder)['test_error_pct']:.2f} %" in done.out
    assert str(folder.relative_to(folder.parents[1])) in done.out
    assert [name for name in FILES if name not in done.out] == []


def test_targetdrop_drops_and_none_drops_exactly_nothing(cli, finished, tmp_path):
    _, folder = finished
    assert 0 < cli.result(folder)["dropped_pct"] < 15
    assert 0 < float(cli.rows(folder)[0]["dropped_pct"]) < 15
    assert cli("train", *cli.tiny, "--regularizer", "none", "--out", "none").code == 0
    assert cli.result(tmp_path / "none")["dropped_pct"] == 0
    assert float(cli.rows(tmp_path / "none")[0]["dropped_pct"]) == 0


@pytest.mark.slow
def test_train_without_an_argument_ends_at_no_more_than_2_5_per_cent_test_error(cli, tmp_path):
    done = cli.finish(cli.start("train"))  # one thread: two wait for each other where another test has a core
    assert (done.code, done.err) == (0, "")
    (folder,) = (tmp_path / "runs").iterdir()
    assert cli.result(folder)["test_error_pct"] <= 2.5
    assert len(cli.rows(folder)) == 20


def test_quiet_prints_exactly_one_line(cli):
    done = cli("train", *cli.tiny, "--quiet", "--out", "run")
    assert (done.code, done.err) == (0, "")
    assert len(done.out.splitlines()) == 1
    assert "test error" in done.out
    assert "run" in done.out


def test_json_prints_the_result_and_nothing_else(cli, tmp_path):
    done = cli("train", *cli.tiny, "--json", "--out", "run")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == cli.result(tmp_path / "run")
    assert json.loads(cli("train", *cli.tiny, "--json", "--out", "run").out) == cli.result(tmp_path / "run")


@pytest.fixture(scope="module")
def repeated(cli, finished, tmp_path_factory):
    """Repeat a run from its config file in another process; return what it came to and its folder."""
    folder = tmp_path_factory.mktemp("repeated") / "run"
    return cli.finish(cli.start("train", finished[1] / "config.yaml", "--out", folder)), folder


def test_another_process_repeats_a_run_bit_for_bit(cli, finished, repeated):
    done, folder = repeated
    assert (done.code, done.err) == (0, "")
    assert cli.outcome(folder) == cli.outcome(finished[1])


def test_without_a_terminal_a_process_prints_plain_lines(repeated):
    done, _ = repeated
    assert [sign for sign in done.out if ord(sign) < 32 and sign != "\n"] == []
    assert "test error" in done.out


def test_a_run_keeps_its_command_line(finished, repeated):
    _, folder = repeated
    command = json.loads((folder / "environment.json").read_text())["command"]
    assert command[1:] == ["train", str(finished[1] / "config.yaml"), "--out", str(folder)]


def progress_lines(out: str) -> list[str]:
    return [line for line in out.splitlines() if re.search(r"step \d+/\d+", line)]


def test_without_a_terminal_a_progress_line_comes_at_most_every_few_seconds(cli, monkeypatch):
    class Clock:  # a second passes whenever somebody looks
        monotonic = itertools.count().__next__

    monkeypatch.setattr(terminal, "time", Clock)
    monkeypatch.setattr(loop, "LOOK_EVERY_S", 0)
    done = cli("train", "--train-fraction", "0.3", "--batch-size", "8", "--max-steps", "40", "--out", "run")
    lines = progress_lines(done.out)
    assert 2 <= len(lines) <= 40 / 3
    for line in lines:
        assert re.search(r"epoch 1/1 .*loss \d.* error \d.* images/s .*left", line)


def test_a_short_run_without_a_terminal_prints_no_progress_line_within_the_first_seconds(cli):
    done = cli("train", *cli.tiny, "--out", "run")
    assert len(progress_lines(done.out)) <= cli.result(Path("run"))["wall_s"] / 2


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are Unix")
def test_on_a_terminal_a_bar_is_drawn_and_taken_away_and_a_table_closes(cli):
    import fcntl
    import pty
    import termios

    controller, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    command = ("train", "--train-fraction", "0.4", "--batch-size", "8", "--epochs", "2", "--out", "run")
    environment = cli.environment(TERM="xterm-256color")
    process = cli.start(*command, stdin=end, stdout=end, stderr=end, env=environment)
    os.close(end)
    screen = b""
    try:
        while portion := os.read(controller, 65536):
            screen += portion
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(controller)
    assert process.wait(timeout=60) == 0
    text = screen.decode()
    assert "\x1b[" in text
    assert "━━━" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert re.search(r"epoch [12]/2 ━.* loss \d.* error \d.* [\d,]+ images/s .* left", plain)
    assert plain.index("resnet8") < plain.index("━━━") < plain.index("┌──") < plain.index("files in run")


def test_the_bar_shows_throughput_and_time_left_on_a_terminal_of_80_columns():
    with Path("screen").open("w+", encoding="utf-8") as screen:
        console = Console(file=screen, force_terminal=True, width=80, color_system=None)
        live = terminal.LiveObserver(lambda: None, console)
        live.started({}, 150, 440)
        live.progressed(Progress(7, 20, 160, 440, 64, 0.283, 8.9, 12.5, 1234.0))
        live.stop()
        screen.seek(0)
        text = screen.read()
    assert "epoch 7/20" in text
    assert re.search(r"test (error )?12\.50 %", text)
    assert "1,234 images/s" in text
    assert re.search(r"(\d+:\d\d|--:--) left", text)


def test_two_seeds_give_different_figures_and_one_seed_the_same(cli, tmp_path):
    for folder, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert cli("train", *TWO_EPOCHS, "--seed", seed, "--out", folder).code == 0
    same, other = cli.outcome(tmp_path / "b"), cli.outcome(tmp_path / "c")
    assert cli.outcome(tmp_path / "a") == same
    assert same[1]["digest"] != other[1]["digest"]
    assert same[0][0]["train_loss"] != other[0][0]["train_loss"]


@pytest.mark.parametrize("seed", [0, 7])
def test_runs_of_one_seed_start_from_identical_weights_and_see_identical_batches_whatever_the_method(seed):
    tiny = {"train_fraction": 0.2, "batch_size": 16, "seed": seed}
    plain, dropping = (Run(load_config(None, {**tiny, "regularizer": name})) for name in ("none", "targetdrop"))
    weights = plain.model.state_dict()
    assert weights.keys() == dropping.model.state_dict().keys()
    assert all(torch.equal(weight, dropping.model.state_dict()[name]) for name, weight in weights.items())
    assert plain.steps_per_epoch == dropping.steps_per_epoch > 10
    for epoch in (1, 2):
        pairs = zip(
            plain.batches.epoch(epoch, 0, plain.steps_per_epoch),
            dropping.batches.epoch(epoch, 0, plain.steps_per_epoch),
            strict=True,
        )
        assert all(torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("options", [(), ("--precision", "fp32"), ("--precision", "bf16"), ("--deterministic",)])
def test_the_config_file_of_a_run_repeats_it_bit_for_bit(cli, tmp_path, options):
    assert cli("train", *TWO_EPOCHS, "--seed", "3", *options, "--out", "first").code == 0
    assert cli("train", "first/config.yaml", "--out", "again").code == 0
    assert cli.figures(tmp_path / "first") == cli.figures(tmp_path / "again")
    assert cli.outcome(tmp_path / "first") == cli.outcome(tmp_path / "again")
    assert (tmp_path / "first" / "config.yaml").read_bytes() == (tmp_path / "again" / "config.yaml").read_bytes()
    weights, again = (torch.load(tmp_path / name / "checkpoint.pt")["state"]["model"] for name in ("first", "again"))
    assert all(torch.equal(weight, again[name]) for name, weight in weights.items())


def test_flags_beat_the_config_file_and_set_beats_flags(cli, tmp_path):
    (tmp_path / "run.yaml").write_text(
        "seed: 5\noptimizer: {lr: 0.01, momentum: 0.5}\nregularizer: {block_size: 7, drop_ratio: 0.4}\n"
        "data: {train_fraction: 0.1}\ntraining: {batch_size: 32, max_steps: 1}\n"
    )
    flags = ("--lr", "0.02", "--seed", "6", "--sites", "stage3")
    sets = ("--set", "seed=7", "--set", "block_size=3", "--set", "optimizer.nesterov=false")
    assert cli("train", "run.yaml", *sets, *flags, "--out", "run").code == 0
    tree = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (tree["seed"], cli.result(tmp_path / "run")["seed"]) == (7, 7)
    given = {"lr": 0.02, "momentum": 0.5, "nesterov": False}
    assert tree["optimizer"] == load_config().optimizer.model_dump() | given
    assert (tree["regularizer"]["block_size"], tree["regularizer"]["drop_ratio"]) == (3, 0.4)
    assert tree["regularizer"]["sites"] == ["stage3"]
    assert tree["model"]["name"] == "resnet8"


@pytest.mark.parametrize(
    ("assignment", "knob", "value"),
    [
        ("gamma=0.3", "drop_ratio", 0.3),
        ("γ=0.3", "drop_ratio", 0.3),
        ("k=3", "block_size", 3),
        ("regularizer.k=3", "block_size", 3),
        ("block-size=3", "block_size", 3),
        ("regularizer.block_size=3", "block_size", 3),
        ("target_channel_fraction=0.5", "target_fraction", 0.5),
        ("rho=1", "target_fraction", 1.0),
    ],
)
def test_a_knob_is_set_by_its_name_or_an_alias(cli, tmp_path, assignment, knob, value):
    assert cli("train", *ONE_STEP, "--set", assignment, "--out", "run").code == 0
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["regularizer"][knob] == value


def test_a_config_file_for_targetdrop_runs_with_regularizer_none(cli, finished, tmp_path):
    _, folder = finished
    done = cli("train", folder / "config.yaml", "--regularizer", "none", "--out", "none")
    assert (done.code, done.err) == (0, "")
    section = yaml.safe_load((tmp_path / "none" / "config.yaml").read_text())["regularizer"]
    assert (section["name"], section["sites"]) == ("none", None)
    assert "block_size" not in section


def test_evaluation_comes_every_so_many_epochs_and_after_the_last(cli, tmp_path):
    few = ("--train-fraction", "0.05", "--batch-size", "32", "--epochs", "5", "--set", "eval_every=2")
    assert cli("train", *few, "--out", "run").code == 0
    rows = cli.rows(tmp_path / "run")
    assert [row["epoch"] for row in rows if row["test_error_pct"]] == ["2", "4", "5"]
    assert [row["epoch"] for row in rows if row["test_loss"]] == ["2", "4", "5"]
    result = cli.result(tmp_path / "run")
    assert result["test_error_pct"] == float(rows[-1]["test_error_pct"])
    assert result["best_test_error_pct"] == min(float(row["test_error_pct"]) for row in rows if row["test_error_pct"])


@pytest.mark.parametrize("options", [(), ("--set", "resident_mib=0", "--set", "num_workers=1")])
def test_a_folder_of_images_trains_from_memory_and_streamed(cli, tmp_path, options):
    for part, label, i in itertools.product(("train", "test"), ("ant", "bee"), range(6)):
        (tmp_path / "pictures" / part / label).mkdir(parents=True, exist_ok=True)
        colour = (200, 20 * i, 0) if label == "ant" else (0, 20 * i, 200)
        Image.new("RGB", (40, 36), colour).save(tmp_path / "pictures" / part / label / f"{i}.png")
    few = ("--data", "folder", "--data-root", "pictures", "--batch-size", "4", "--epochs", "2")
    done = cli("train", *few, *options, "--out", "run")
    assert (done.code, done.err) == (0, "")
    assert "12 train and 12 test images, 3×32×32, 2 classes" in done.out


@pytest.mark.slow
def test_a_compiled_run_ends(cli, tmp_path):
    done = cli.finish(cli.start("train", *cli.tiny, "--compile", "--json", "--out", "run"))
    assert done.code == 0, done.err
    assert json.loads(done.out)["dropped_pct"] > 0


@pytest.fixture(scope="module")
def diverged(cli, tmp_path_factory):
    """Return a run whose loss becomes NaN at its second step, and its folder."""
    folder = tmp_path_factory.mktemp("diverged") / "run"
    return cli("train", *cli.tiny, "--lr", "1e30", "--out", folder), folder


def test_a_run_whose_loss_is_no_number_ends_as_diverged_with_exit_code_1_and_its_step(cli, diverged):
    done, folder = diverged
    assert (done.code, done.err) == (1, "")
    result = cli.result(folder)
    assert ",".join(result) == FIELDS
    assert result["status"] == "diverged"
    assert re.search(r"loss became (nan|-?inf) at step 2\b", result["error"])
    assert result["error"] in done.out
    assert result["test_error_pct"] is None
    assert (folder / "metrics.csv").read_text().startswith(COLUMNS)


def test_a_diverged_run_says_so_again_with_exit_code_1_and_is_left_alone(cli, diverged):
    _, folder = diverged
    before = cli.snapshot(folder)
    for option in ((), ("--quiet",), ("--json",)):
        done = cli("train", *cli.tiny, "--lr", "1e30", *option, "--out", folder)
        assert (done.code, done.err) == (1, "")
        assert "diverged" in done.out
        assert "at step 2" in done.out
    assert cli.snapshot(folder) == before


def test_a_diverged_run_lists_the_files_that_it_left(diverged):
    done, folder = diverged
    listed = re.search(r"^files in .*: (.+)$", done.out, re.MULTILINE)[1].split()
    assert [name for name in listed if not (folder / name).exists()] == []


def test_a_diverged_run_prints_no_figure_that_it_has_not(diverged):
    done, _ = diverged
    assert "nan images/s" not in done.out


def test_a_run_whose_last_step_ruins_the_weights_ends_as_diverged(cli, tmp_path):
    done = cli("train", *ONE_STEP, "--lr", "1e30", "--out", "run")
    result = cli.result(tmp_path / "run")
    assert (done.code, result["status"]) == (1, "diverged")
    assert re.search(r"loss became (nan|inf).* step 1\b", result["error"])


def test_a_run_killed_between_a_ruined_last_epoch_and_its_result_ends_as_diverged(cli, tmp_path, monkeypatch):
    def die(folder: RunFolder, result: dict) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_result", die)
        assert cli("train", *ONE_STEP, "--lr", "1e30", "--out", "run").code == 130
    assert cli("train", *ONE_STEP, "--lr", "1e30", "--out", "run").code == 1
    assert cli.result(tmp_path / "run")["status"] == "diverged"


WITHOUT_TORCH = """
import sys
from tdbench.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "torchvision", "numpy", "sklearn", "pandas"} & set(sys.modules)
sys.exit(f"exit code {code}, imported {heavy}" if code or heavy else 0)
"""


@pytest.mark.parametrize("arguments", [("--help",), ("train", "--help"), ("list", "-h")], ids=" ".join)
def test_help_answers_without_importing_torch(cli, arguments):
    done = cli.finish(cli.start_python("-c", WITHOUT_TORCH, *arguments))
    assert (done.code, done.err) == (0, "")
    assert "Usage: tdbench" in done.out


def test_help_of_train_shows_every_shared_flag(cli):
    done = cli("train", "--help")
    flags = (
        "--data --data-root --train-fraction --model --regularizer --sites --epochs --max-steps --batch-size --lr "
        "--seed --device --precision --compile --no-compile --threads --deterministic --resume --fresh --set --out "
        "--quiet --json --help"
    )
    assert done.code == 0
    assert [flag for flag in flags.split() if not re.search(rf"{flag}\b", done.out)] == []


def cpu_seconds(*command: str) -> float:
    import resource

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
    return spent() - before


@pytest.mark.slow
def test_help_takes_at_most_a_fifth_of_the_time_of_importing_torch():
    importing = min(cpu_seconds("-c", "import torch") for _ in range(3))
    assert min(cpu_seconds("-m", "tdbench", "--help") for _ in range(5)) <= importing / 5


def test_a_run_that_misses_the_share_it_was_solved_for_says_so(cli):
    flags = (*cli.tiny, "--match", "dropped=2", "--quiet")
    missed = cli("train", "--regularizer", "focused_dropout", *flags, "--out", "few")  # one step in sixty takes part
    assert missed.code == 0
    assert "were dropped, not the 2 % that were asked for" in missed.err
    met = cli("train", "--regularizer", "dropout", *flags, "--out", "many")
    assert (met.code, met.err) == (0, "")


def test_a_block_larger_than_every_map_is_refused_before_anything_is_written(cli, tmp_path):
    refused = cli("train", *cli.tiny, "--set", "block_size=65", "--out", "run")
    assert refused.code == 2
    assert "block_size must be at most 32 for maps at stage1 (32×32), stage2 (16×16), got 65" in refused.err
    assert not (tmp_path / "run").exists()
