"""A shell is told names, keys and values, without torch, in words as it splits them."""

import json
import os
import shutil
import stat
import subprocess
import sys

import pytest

from tdbench.cli.completion import listed, rejoined
from tdbench.config import AugmentConfig
from tdbench.config.data_sets import DATA_SETS
from tdbench.config.networks import NETWORKS
from tdbench.regularizers.registry import method_names
from tdbench.sweep.ready import ready_experiments

READY = {f"ablations/{path.name}" for path in ready_experiments()}
# What is typed, its last word unfinished, and what bash is to put in the place of that word, or of its end.
TYPED = {
    "tr": {"train"},
    "train --regularizer ": set(method_names()),
    "show --regularizer dropout,dropb": {"dropout,dropblock"},
    "train --model se_": {name for name in NETWORKS if name.startswith("se_")},
    "train --data ": set(DATA_SETS),
    "ablate ablations/meth": {name for name in READY if name.startswith("ablations/meth")},
    "train --precision b": {"bf16"},
    "ablate --log wandb,": {"wandb,tensorboard", "wandb,mlflow"},
    "ablate --metric test_l": {"test_loss"},
    "ablate --executor l": {"local"},
    "tune --sampler ": {"tpe", "gp", "random"},
    "list kno": {"knobs"},
    "train --set block": {"block_size=", *(f"block_size={size}" for size in (1, 3, 5, 7, 9))},
    "train --set block_size=": {"1", "3", "5", "7", "9"},
    "train --set=block_size=": {"1", "3", "5", "7", "9"},
    "train --set schedule.name=c": {"cosine", "constant"},
    "train --set nest": {"nesterov=", "nesterov=true", "nesterov=false"},
    "train --set sched": {"schedule=", "schedule.name="},
    "train --regularizer dropblock --set ga": set(),
    "train --regularizer corrdrop --set block_s": {"block_size=", *(f"block_size={size}" for size in (1, 3, 5, 7))},
    "train --regularizer none --set block": set(),
    "train mine.yaml --set attenti": {
        "attention=",
        *(f"attention={kind}" for kind in ("gap", "random", "se", "se_ste")),
    },
    "train --regularizer mine.py:MyDrop --set ramp=": {"0.25", "0.5", "1.0"},
    "ablate --param regula": {"regularizer=", *(f"regularizer={name}" for name in method_names())},
    "ablate --param block_size=1,5,": {"1,5,3", "1,5,7", "1,5,9"},
    "ablate --param augment.": {f"augment.{name}" for name in AugmentConfig.model_fields},
    "train --set augment.ra": {"augment.random_resized_crop=", "augment.randaugment=", "augment.random_erasing="},
    "train --set data.skip_b": {"data.skip_broken=", "data.skip_broken=true", "data.skip_broken=false"},
    "train --set training.batch_size=": {"32", "64", "128"},
    "train --set optimizer.name=": {"sgd", "adamw", "adam", "rmsprop"},
    "train --set nowhere.": set(),
    "ablate --executor slurm --slurm ti": {"time="},
    "tune --slurm gpus=1,cluster=": {"slurm", "local", "debug"},
    "ablate --slurm gpus=1,g": set(),
    "train --out ": set(),
}


def split_as_bash_does(line):
    """Return the words, cut at = and : as COMP_WORDBREAKS has it."""
    words = [""]
    for one in f"tdbench {line}":
        if one == " ":
            words.append("")
        elif one in "=:":
            words += [one] if words[-1] else []
            words[-1] = one
            words.append("")
        else:
            words[-1] += one
    if words[-1] == "" and words[-2] in "=:":
        words.pop()
    return words


def answers(lines, asked, surroundings_of):
    """Return what the command line answers to each line, in one process, which imports no torch."""
    code = """
import io, json, os, sys
from contextlib import redirect_stdout
from tdbench.cli import main
found = []
for surroundings in json.loads(sys.argv[1]):
    os.environ.update(surroundings)
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            main([])
    except SystemExit as stop:
        assert stop.code == 0, stop.code
    found.append(said.getvalue())
assert not {"torch", "numpy", "pandas"} & set(sys.modules)
print(json.dumps(found))
"""
    every = [{"_TDBENCH_COMPLETE": asked, **surroundings_of(line)} for line in lines]
    done = subprocess.run([sys.executable, "-c", code, json.dumps(every)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_bash_is_told_the_ends_of_words_and_no_torch_is_loaded():
    def surroundings(line):
        words = split_as_bash_does(line)
        return {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}

    told = answers(TYPED, "complete_bash", surroundings)
    assert {line: set(text.split()) for line, text in zip(TYPED, told, strict=True)} == TYPED


def test_zsh_is_told_whole_words():
    lines = ["train --set block_size=", "train --regularizer dropb", "train --out "]
    told = answers(lines, "complete_zsh", lambda line: {"_TYPER_COMPLETE_ARGS": f"tdbench {line}"})
    assert '"block_size=3"' in told[0]
    assert '"dropblock"' in told[1]
    assert told[2].strip() == "_files"


@pytest.mark.parametrize(
    ("given", "current", "words", "place", "fixed"),
    [
        (["tdbench", "tr"], 1, ["tdbench", "tr"], 1, ""),
        (["tdbench", "train"], 2, ["tdbench", "train", ""], 2, ""),
        (["t", "--set", "k", "="], 3, ["t", "--set", "k="], 2, "k="),
        (["t", "--set", "k", "=", "3"], 4, ["t", "--set", "k=3"], 2, "k="),
        (["t", "--set", "=", "k", "=", "3"], 5, ["t", "--set=k=3"], 1, "k="),
        (["t", "--values", "1", ":", "9", ":"], 5, ["t", "--values", "1:9:"], 2, "1:9:"),
        (["t", "--set", "k", "=", "3", "--da"], 5, ["t", "--set", "k=3", "--da"], 3, ""),
        (["t", "--da", "--set", "k", "=", "3"], 1, ["t", "--da", "--set", "k=3"], 1, ""),
    ],
)
def test_words_that_bash_has_split_are_put_together(given, current, words, place, fixed):
    assert rejoined(given, current) == (words, place, fixed)


def test_of_several_names_the_last_is_completed_and_none_given_twice():
    assert listed(lambda: ["a", "ab", "b"])("b,a") == ["b,a", "b,ab"]
    assert listed(lambda: ["a", "ab", "b"])("a,b,") == ["a,b,ab"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_with_the_script_that_is_installed(tmp_path):
    command = tmp_path / "tdbench"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tdbench "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    script = """
tdbench --install-completion bash > /dev/null && source "$HOME/.bashrc"
COMP_WORDS=(tdbench train --set attention =) COMP_CWORD=4
_tdbench_completion tdbench
printf '%s\n' "${COMPREPLY[@]}"
"""
    surroundings = {**os.environ, "HOME": str(tmp_path), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    surroundings["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, env=surroundings)
    assert "gap" in done.stdout.split(), done.stderr
    assert not any(word.startswith("attention") for word in done.stdout.split())
