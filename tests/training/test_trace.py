"""A trace holds ten steps after the warm-up, and changes nothing else."""

import json
from pathlib import Path

import pytest
import torch

from tdbench.cli import main
from tdbench.store.folders import RunFolder
from tdbench.store.rows import EpochRow, columns
from tdbench.training.trace import NUM_STEPS, STEPS_NEEDED

TINY = ("train", "--train-fraction", "0.1", "--batch-size", "8", "--quiet", "--max-steps")
TIMINGS = {"train_img_per_s", "epoch_s", "peak_mem_mib"}


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


def events(path: Path) -> list[dict]:
    return json.loads(path.read_text())["traceEvents"]


def figures(folder: str) -> list[dict]:
    rows = torch.load(Path(folder) / "checkpoint.pt", weights_only=True)["state"]["rows"]
    return [{name: row[name] for name in columns(EpochRow) if name not in TIMINGS} for row in rows]


def test_a_trace_holds_ten_steps_after_the_warm_up_and_the_run_is_the_same():
    assert main([*TINY, str(STEPS_NEEDED), "--device", "cpu", "--out", "plain"]) == 0
    command = (*TINY, str(STEPS_NEEDED), "--device", "cpu", "--torch-profile", "trace", "--out", "traced")
    assert main(command) == 0
    names = [event["name"] for event in events(Path("trace/trace.json")) if event.get("cat") == "user_annotation"]
    steps = sorted({int(name.partition("#")[2]) for name in names if name.startswith("ProfilerStep#")})
    assert steps == list(range(STEPS_NEEDED - NUM_STEPS, STEPS_NEEDED))
    operators = {event["name"] for event in events(Path("trace/trace.json"))}
    assert {"aten::conv2d", "aten::cross_entropy_loss"} <= operators
    assert [path.name for path in Path("trace").iterdir()] == ["trace.json"]
    assert figures("traced") == figures("plain")


def test_a_run_too_short_for_a_trace_is_refused_and_nothing_is_trained(capsys):
    assert main([*TINY, str(STEPS_NEEDED - 1), "--torch-profile", "trace", "--out", "run"]) == 2
    message = capsys.readouterr().err
    assert f"--torch-profile needs a run of at least {STEPS_NEEDED} steps" in message
    assert f"this one has {STEPS_NEEDED - 1} to do" in message
    assert RunFolder(Path("run")).files() == []
    assert not Path("trace").exists()


def test_a_trace_that_cannot_be_written_is_refused_before_the_training(capsys):
    Path("file").write_text("")
    assert main([*TINY, "20", "--torch-profile", "file/trace", "--out", "run"]) == 2
    assert "--torch-profile file/trace must be a folder" in capsys.readouterr().err
    assert RunFolder(Path("run")).files() == []


def test_a_run_that_ends_while_it_is_traced_leaves_no_profiler_running(monkeypatch):
    from tdbench.training.run import Run

    train_step = Run.train_step

    def step_and_fail(run: Run, *arguments: object) -> None:
        train_step(run, *arguments)
        if run.step == STEPS_NEEDED - 3:
            raise MemoryError("none is left")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "train_step", step_and_fail)
        assert main([*TINY, "20", "--torch-profile", "trace", "--out", "run"]) == 1
    assert main([*TINY, "20", "--torch-profile", "other", "--out", "run"]) == 0
    assert Path("other/trace.json").exists()


@pytest.mark.gpu
def test_a_trace_of_a_gpu_holds_its_kernels():
    assert main([*TINY, "20", "--device", "cuda", "--torch-profile", "trace", "--out", "run"]) == 0
    assert any(event.get("cat") == "kernel" for event in events(Path("trace/trace.json")))
