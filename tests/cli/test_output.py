"""The work goes on where its words cannot be written, and stdout is the command's own."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

TALKS = """
print("imported")
from torch import nn

class Talks(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(num_classes))

    def forward(self, x):
        print("called")
        return self.layers(x)

def make(num_classes, in_channels):
    print("made")
    import torch
    net = Talks(num_classes, in_channels)
    net(torch.zeros(1, in_channels, 32, 32))
    return net
"""


@pytest.mark.parametrize("command", ["train", "audit"])
def test_what_the_user_s_code_prints_is_not_in_the_json(cli, tmp_path, command):
    (tmp_path / "talks.py").write_text(TALKS)
    done = cli(command, "--model", "talks.py:make", "--sites", "layers.1", *cli.tiny, "--json")
    assert done.code in (0, 1), done.err
    assert json.loads(done.out)
    for said in ("made", "called"):
        assert said in done.err


def shell(cli, redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = " ".join([sys.executable, "-m", "tdbench", *arguments, redirection])
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=cli.environment(), timeout=300)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    "redirection",
    [
        "> /dev/full",
        ">&- 2>&- <&-",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("2> /dev/full", ">&-", "2>&-", "| true")),
    ],
)
def test_a_run_goes_on_without_its_words(cli, tmp_path, redirection):
    done = shell(cli, redirection, "train", *cli.tiny, "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for _ in range(100):  # behind a pipe, the shell may be done before the run is
        if (tmp_path / "run" / "result.json").exists():
            break
        time.sleep(0.3)
    assert cli.result(tmp_path / "run")["status"] == "done"


@pytest.mark.slow
def test_a_sweep_goes_on_without_stderr(cli, tmp_path):
    command = ("ablate", "--param", "block_size=3", "--seeds", "1", *cli.tiny, "--jobs", "1", "--out", "sweep")
    done = shell(cli, "2>&-", *command)
    assert done.returncode == 0
    assert "failed" not in (tmp_path / "sweep" / "trials.csv").read_text()
