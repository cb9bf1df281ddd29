"""Sweeps of a script or a function of the user's own: what is filled in and read, and that nothing outlives it."""

import contextlib
import csv
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tdbench
from tdbench.errors import ConfigError, FolderError
from tdbench.store.assignment import Assignment
from tdbench.store.rows import TrialState
from tdbench.sweep.asked import plan_sweep
from tdbench.sweep.own.code import source_digest
from tdbench.sweep.own.script import filled, places_in, read_of, words_of
from tdbench.sweep.own.work import run_assignment
from tdbench.sweep.slots import Slots

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="there are no process groups")
SCRIPT = """\
import json, random, sys, time
value, seed, out = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
def noise(*what):
    return random.Random(repr(what)).gauss(0, 1)
error = 20 + 2 * noise(seed) - 10 * value + 0.5 * noise(seed, value)
print(f"epoch 1: error={error + 5}")
print(f"epoch 2: error={error}")
json.dump({"test": {"error": error}, "note": "text", "flag": True}, open(out + "/result.json", "w"))
with open(out + "/log.csv", "w") as file:
    file.write(f"epoch,error\\n1,{error + 5}\\n2,{error}\\n")
"""
OWN = {"command": f"{sys.executable} train.py {{p}} {{seed}} {{out}}", "read": ["out/result.json:test.error"]}
PARAM = {"p": [0.0, 0.1, 0.3]}


@pytest.fixture(autouse=True)
def _script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(SCRIPT)


def plan_of(param=None, baseline="p=0.0", seeds=None, metric=None, settings=None, **own):
    return plan_sweep(
        None, PARAM if param is None else param, (), seeds, baseline, settings or {}, metric, own={**OWN, **own}
    )


def run_one(tmp_path, number=0, **own):
    """Run a trial in this process, and return how it ended and its folder."""
    plan = plan_of(**own)
    digest = [*plan.trials][number]
    folder = tmp_path / "trial"
    return run_assignment(Assignment(digest, plan.trials[digest].dump(), folder)), folder


def ablate(out, **options):
    return tdbench.ablate(None, PARAM, baseline="p=0.0", out=out, **OWN, **options)


def rows_of(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_a_command_is_split_as_a_shell_would_and_run_without_one():
    words = words_of("python train.py --name 'a b' --drop {p} --json '{{\"k\": {p}}}' {out}/x $HOME")
    assert places_in(words) == ["p", "out"]
    assert filled(words, {"p": 0.1, "out": "/o"})[2:] == [
        "--name",
        "a b",
        "--drop",
        "0.1",
        "--json",
        '{"k": 0.1}',
        "/o/x",
        "$HOME",
    ]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"command": "python train.py {p} {sed}"}, r"nothing fills \{sed\}; did you mean seed"),
        ({"command": "python train.py {p}"}, r"must have \{seed\}"),
        ({"command": "python train.py {seed}"}, r"--param p would change nothing"),
        ({"command": "python 'train.py {p} {seed}"}, "cannot be split"),
        ({"command": " "}, "got nothing"),
        ({"read": []}, "--read must say"),
        ({"read": ["../result.json:error"]}, "below the trial's folder"),
        ({"read": ["/tmp/result.json:error"]}, "below the trial's folder"),
        ({"read": ["out/result.txt:error"]}, r"must be \.json or \.csv"),
        ({"read": ["stdout:acc="]}, "one group, the figure, got 0"),
        ({"read": ["stdout:acc=("]}, "no regular expression"),
        ({"read": ["error"]}, "must be FILE"),
        ({"read": ["out/a.json:error", "out/b.json:error"]}, "different names"),
        ({"metric": "errors"}, "did you mean error"),
        ({"baseline": None}, "--baseline must say which value"),
        ({"baseline": "0.5"}, "unknown baseline '0.5'"),
        ({"param": {"p": None}}, "needs --values"),
        ({"param": {}}, "--param must name what is filled"),
        ({"settings": {"epochs": 3}}, "epochs must go into your own script"),
        ({"seeds": "3..2"}, "--seeds"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_runs(changed, words):
    with pytest.raises(ConfigError, match=words):
        plan_of(**changed)


def test_a_program_that_is_not_there_is_told_before_the_first_trial():
    with pytest.raises(ConfigError, match="no program 'pyton'"):
        plan_of(command="pyton train.py {p} {seed}").check([], Slots([{}], 1, 0.0))


@pytest.mark.parametrize(
    ("read", "name"),
    [
        ("out/result.json:test.error", "error"),
        ("out/log.csv:error", "error"),
        ("stdout:error=(.*)", "error"),
        (r"stdout:epoch \d+: error=(?P<last_error>.*)", "last_error"),
        ("stdout:=(.*)$", "value"),
    ],
)
def test_a_figure_is_read_where_the_script_leaves_it(tmp_path, read, name):
    ended, folder = run_one(tmp_path, read=[read])
    assert ended.status is TrialState.DONE, ended.reason
    truth = json.loads((folder / "out" / "result.json").read_text())["test"]["error"]
    assert read_of(read).name == name
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    assert metrics == {name: pytest.approx(truth)}


@pytest.mark.parametrize(
    ("read", "words"),
    [
        ("out/result.json:missing", "out/result.json has no missing"),
        ("out/result.json:note", "must be a finite number, got 'text'"),
        ("out/result.json:flag", "must be a finite number, got 'True'"),
        ("out/result.json:test", "must be a finite number"),
        ("out/other.json:error", "left no out/other.json"),
        ("out/log.csv:errors", "out/log.csv has no errors"),
        ("stdout:accuracy=(.*)", "nothing that the script printed matches"),
        ("stdout:(epoch) 2", "must be a finite number, got 'epoch'"),
    ],
)
def test_a_figure_that_is_not_there_fails_the_trial_in_a_line(tmp_path, read, words):
    ended, _ = run_one(tmp_path, read=[read])
    assert ended.status is TrialState.FAILED
    assert words in ended.reason
    assert "\n" not in ended.reason


def test_a_script_that_fails_is_told_with_the_end_of_its_log(tmp_path):
    Path("train.py").write_text("import sys\nprint('working')\nsys.exit('no such layer')\n")
    ended, folder = run_one(tmp_path)
    assert (ended.status, ended.reason) == (TrialState.FAILED, "exit code 1: no such layer")
    assert (folder / "log.txt").read_text() == "no such layer\n"
    assert (folder / "stdout.txt").read_text() == "working\n"
    assert not (folder / "result.json").exists()


@POSIX
def test_a_script_that_dies_by_a_signal_has_failed_and_says_by_which(tmp_path):
    Path("train.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    ended, _ = run_one(tmp_path)
    assert ended.status is TrialState.FAILED, "else a look would wait for it, and with it all other values"
    assert "SIGKILL" in ended.reason


@pytest.mark.slow
def test_values_are_compared_seed_by_seed_and_the_tables_name_the_metric(tmp_path):
    sweep = ablate(tmp_path / "sweep")
    rows = rows_of(tmp_path / "sweep" / "summary.csv")
    assert [row["p"] for row in rows] == ["0.0", "0.1", "0.3"]
    assert [row["verdict"] for row in rows] == ["baseline", *["helps"] * 2]
    assert {row["metric"] for row in rows} == {"error"}
    trials = {(row["p"], row["seed"]): float(row["metric.error"]) for row in rows_of(tmp_path / "sweep" / "trials.csv")}
    n = int(rows[2]["n"])
    differences = [trials["0.3", str(seed)] - trials["0.0", str(seed)] for seed in range(n)]
    assert float(rows[2]["delta_vs_baseline"]) == pytest.approx(sum(differences) / n)
    assert float(rows[2]["metric_mean"]) == pytest.approx(sum(trials["0.3", str(seed)] for seed in range(n)) / n)
    text = (sweep.path / "summary.md").read_text()
    assert "initial weights" not in text
    assert "Test error" not in text
    assert (sweep.path / "plot.png").exists()


@pytest.mark.slow
def test_more_is_better_where_that_is_said(tmp_path):
    sweep = ablate(tmp_path / "sweep", higher_is_better=True)
    assert set(sweep.summary["verdict"]) == {"baseline", "hurts"}


@pytest.mark.slow
def test_jobs_change_no_decision_and_a_second_call_runs_nothing(tmp_path):
    one, two = (ablate(tmp_path / f"jobs{jobs}", jobs=jobs) for jobs in (1, 3))
    names = ["p", "n", "delta_vs_baseline", "verdict"]
    assert one.summary[names].equals(two.summary[names])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "jobs1" / "trials").rglob("*")}
    ablate(tmp_path / "jobs1")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "jobs1" / "trials").rglob("*")} == before


def test_a_script_that_has_changed_is_another_sweep(tmp_path):
    ablate(tmp_path / "sweep")
    Path("train.py").write_text(SCRIPT.replace("20 +", "30 +"))
    with pytest.raises(FolderError, match=r"of other code: .*train\.py is"):
        ablate(tmp_path / "sweep")


@pytest.mark.slow
def test_a_file_that_names_a_command_is_not_run_unless_it_is_trusted(tmp_path):
    Path("own.yaml").write_text(json.dumps({**OWN, "sweep": PARAM, "baseline": "p=0.0"}))
    with pytest.raises(ConfigError, match="names a command"):
        tdbench.ablate("own.yaml", out=tmp_path / "sweep")
    assert len(tdbench.ablate("own.yaml", out=tmp_path / "sweep", trust=True).summary) == 3


def test_a_value_whose_runs_fail_holds_up_no_other(tmp_path):
    Path("train.py").write_text(SCRIPT + "\nimport os, signal\nif value == 0.1: os.kill(os.getpid(), signal.SIGSEGV)\n")
    sweep = ablate(tmp_path / "sweep")
    assert list(sweep.summary["verdict"])[2] == "helps"
    failed = sweep.trials[sweep.trials["status"] == "failed"]
    assert set(failed["p"]) == {0.1}
    assert all("SIGSEGV" in error for error in failed["error"])


def test_values_reach_a_script_as_they_are_written(tmp_path):
    Path("train.py").write_text("import sys\nprint(f'value={1 + int(sys.argv[2])} {sys.argv[1]!r}')\n")
    plan = plan_of(["p=007,1e-4,0.10,'x,y'"], baseline="p=007", read=[r"stdout:value=(\d+)"])
    assert [one.values["p"] for one in plan.trials.values()][:4] == ["007", "1e-4", "0.10", "x,y"]
    assert [point.values["p"] for point in plan.points] == [7, 1e-4, 0.1, "x,y"]
    with pytest.raises(ConfigError, match=r"two of 0, 0\.0 are one value"):
        plan_of(["p=0,0.0"])


@pytest.mark.parametrize("name", ["0", "0.0", "p=0", "p=0.0"])
def test_a_baseline_is_a_number_however_it_is_written(name):
    plan = plan_of(["p=0:1:0.5"], baseline=name)
    assert plan.points[0].values == {"p": 0.0}


def test_a_module_that_has_changed_is_another_sweep(tmp_path):
    command = {"command": OWN["command"].replace("train.py", "-m train")}
    before = plan_of(**command).contents()
    assert list(before["command"]) == ["train.py"]
    Path("train.py").write_text(SCRIPT.replace("20 +", "30 +"))
    assert plan_of(**command).contents() != before


def test_what_a_function_refers_to_is_part_of_it():
    def made(factor, scale=1):
        return lambda values, seed, out: factor * scale * values["p"] * FACTORS["a"]

    assert source_digest(made(1)) == source_digest(made(1))
    assert source_digest(made(1)) != source_digest(made(1000))
    before = source_digest(made(1))
    FACTORS["a"] = 2
    assert source_digest(made(1)) != before
    FACTORS["a"] = 1
    assert source_digest(functools.partial(fake_training, out=1)) != source_digest(
        functools.partial(fake_training, out=2)
    )


@pytest.mark.slow
def test_what_a_function_is_does_not_depend_on_the_process_or_on_which_objects_are_equal():
    script = (
        "import functools\nfrom tdbench.sweep.own.code import source_digest\n"
        "NAMES, OTHER = {'alpha', 'beta', 'gamma'}, [object()]\n"
        "def trial(values, seed, out, *more): return [one for one in NAMES if one in {'a', 'b', 'c'}], OTHER\n"
        "print(source_digest(functools.partial(trial, float('1.5'), float('1.5'))))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(tdbench.__file__).parents[1])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(told) == 1
    x = 1.5
    assert source_digest(functools.partial(min, x, x)) == source_digest(functools.partial(min, x, float("1.5")))
    assert source_digest(lambda: lambda: 1) != source_digest(lambda: lambda: 2)


FACTORS = {"a": 1}


def test_a_script_that_is_edited_while_it_runs_does_not_count(tmp_path):
    Path("train.py").write_text(SCRIPT + "\nopen('train.py', 'a').write('# edited')\n")
    ended, folder = run_one(tmp_path)
    assert ended.status is TrialState.KILLED
    assert "train.py has changed since the sweep was planned" in ended.reason
    assert not (folder / "result.json").exists()
    again, _ = run_one(tmp_path)
    assert again.status is TrialState.KILLED


@pytest.mark.parametrize("fresh", [False, True])
def test_a_figure_of_an_earlier_attempt_does_not_count(tmp_path, fresh):
    _, folder = run_one(tmp_path)
    (folder / "out" / "weights").write_text("kept where the trial goes on")
    Path("train.py").write_text("print('nothing is written')\n")
    plan = plan_of()
    digest = next(iter(plan.trials))
    ended = run_assignment(Assignment(digest, plan.trials[digest].dump(), folder, fresh=fresh))
    assert ended.status is TrialState.FAILED
    assert "left no out/result.json" in ended.reason
    assert (folder / "out" / "weights").exists() is not fresh


def test_a_link_does_not_lead_out_of_the_trial(tmp_path):
    (tmp_path / "elsewhere.json").write_text('{"error": 1.0}')
    Path("train.py").write_text(
        f"import os, sys\nos.symlink({str(tmp_path / 'elsewhere.json')!r}, sys.argv[3] + '/r.json')\n"
    )
    ended, _ = run_one(tmp_path, read=["out/r.json:error"])
    assert ended.status is TrialState.FAILED
    assert "leads out of the trial's folder" in ended.reason


@pytest.mark.slow
def test_a_script_that_failed_is_mended_and_run_in_the_same_folder(tmp_path):
    Path("train.py").write_text("raise SystemExit(1)\n")
    assert set(ablate(tmp_path / "sweep", seeds=1).trials["status"]) == {"failed"}
    Path("train.py").write_text(SCRIPT)
    assert set(ablate(tmp_path / "sweep", seeds=1).trials["status"]) == {"done"}


def test_files_that_the_values_name_are_part_of_the_trial_and_what_a_trial_writes_is_not(tmp_path):
    for name in ("a", "b"):
        Path(f"{name}.yaml").write_text("lr: 1\n")
    own = {"command": OWN["command"] + " --config={p}.yaml log.txt", "param": {"p": ["a", "b"]}, "baseline": "a"}
    before = plan_of(**own)
    Path("log.txt").write_text("written by a trial")
    assert [*plan_of(**own).trials] == [*before.trials]
    Path("b.yaml").write_text("lr: 2\n")
    after = plan_of(**own)
    assert after.contents() == before.contents()
    same = [one.values["p"] for digest, one in after.trials.items() if digest in before.trials]
    assert set(same) == {"a"}


def test_what_is_read_is_part_of_the_trial():
    assert set(plan_of().trials).isdisjoint(plan_of(read=["out/log.csv:error"]).trials)


@POSIX
def test_scripts_share_the_threads_unless_the_user_has_said_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    Path("train.py").write_text("import os\nprint('threads=' + os.environ['OMP_NUM_THREADS'])\n")
    own = {"read": ["stdout:threads=(.*)"]}
    plan = plan_of(**own).with_threads(3)
    digest = next(iter(plan.trials))
    for told, number in ((None, 3), ("7", 7)):
        if told:
            monkeypatch.setenv("OMP_NUM_THREADS", told)
        run_assignment(Assignment(digest, plan.trials[digest].dump(), tmp_path / "trial"))
        assert json.loads((tmp_path / "trial" / "result.json").read_text())["metrics"] == {"threads": number}


@POSIX
def test_an_experiment_in_a_pipe_is_read_once(tmp_path):
    command = [sys.executable, "-m", "tdbench", "ablate", "/dev/stdin", "--trust", "--dry-run", "-q", "--out", "sweep"]
    text = json.dumps({**OWN, "sweep": PARAM, "baseline": "p=0.0", "seeds": 2})
    told = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout[:30]) == (0, "6 different trials, 0 done, 6 ")


def test_a_runs_configuration_beside_a_command_is_refused():
    with pytest.raises(ConfigError, match="does nothing where the trials are a script"):
        plan_sweep({"training": {"epochs": 3}}, PARAM, (), None, "p=0.0", {}, own=OWN)


def fake_training(values, seed, out):
    (out / "seen.txt").write_text(str(seed))
    print("told to the log")
    noise = random.Random(repr((seed, values["p"]))).gauss(0, 0.5)
    return {"acc": 80 + random.Random(seed).gauss(0, 2) + 10 * values["p"] + noise, "loss": 1}


@pytest.mark.slow
def test_a_function_is_a_trial_too(tmp_path):
    sweep = tdbench.ablate(
        fake_training, PARAM, baseline="p=0.0", metric="acc", higher_is_better=True, out=tmp_path / "sweep"
    )
    assert list(sweep.summary["verdict"])[2] == "helps"
    trial = sweep.trials.iloc[0]
    assert trial["acc"] == pytest.approx(fake_training({"p": 0.0}, 0, tmp_path)["acc"])
    folder = tmp_path / "sweep" / "trials" / trial["trial"]
    assert (folder / "out" / "seen.txt").read_text() == "0"
    assert (folder / "log.txt").read_text() == "told to the log\n"


@pytest.mark.parametrize(
    ("returns", "words"),
    [
        ("None", "finite numbers"),
        ("{}", "must return its figures"),
        ("{'loss': 1}", "must return the metric acc, got loss"),
    ],
)
@pytest.mark.slow
def test_a_function_that_returns_no_figure_fails_in_a_line(tmp_path, returns, words):
    function = eval(f"lambda values, seed, out: {returns}")
    sweep = tdbench.ablate(function, {"p": [0, 1]}, baseline="p=0", metric="acc", seeds=2, out=tmp_path / "sweep")
    assert set(sweep.trials["status"]) == {"failed"}
    assert words in sweep.trials["error"].iloc[0]


def running(word):
    """Return the processes whose command line has a word in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at /proc")
@pytest.mark.parametrize("end", ["timeout", "kill", "kill the worker"])
@pytest.mark.slow
def test_nothing_that_a_script_has_started_outlives_its_trial(tmp_path, end):
    seconds = str(random.randint(10**5, 10**6))
    Path("train.py").write_text(
        f"import subprocess, sys, time\nsubprocess.Popen(['sleep', '{seconds}'])\ntime.sleep({seconds})\n"
    )
    if end == "timeout":
        sweep = ablate(tmp_path / "sweep", trial_timeout=1.0, seeds=1, jobs=3)
        assert set(sweep.trials["error"]) == {"ran past 1 s (--trial-timeout)"}
    else:
        command = ["-m", "tdbench", "ablate", "--command", OWN["command"], "--read", OWN["read"][0], "--jobs", "3"]
        driver = subprocess.Popen([sys.executable, *command, "--param", "p=0,1", "--baseline", "0", "--out", "sweep"])
        wait_for(lambda: running(seconds))
        if end == "kill the worker":  # as where memory runs out
            for child in running(seconds):
                with contextlib.suppress(OSError):
                    os.kill(os.getpgid(child), signal.SIGKILL)
            time.sleep(1)
            driver.send_signal(signal.SIGINT)
            driver.wait(60)
        else:
            driver.kill()
            driver.wait()
    wait_for(lambda: not running(seconds))


def wait_for(condition, limit_s=20.0):
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
