"""What survives: faults at every write, at random moments, in every file, and in what a user may type.

    python benchmarks/faults.py --out benchmarks/results/faults.csv

Each attempt does one thing to a command and then gives the same command again until it is done. It is `same` where
the run or the sweep then ends with the very figures, weights and tables of one that nothing happened to; `refused`
where the command names the damage in a line, and `--fresh`, where it names that, or `--retry-failed` leads to the same;
or else `FAULT`. Of typed input, `same` means that it was taken. A row per attempt, for typed input per kind.
"""

import contextlib
import csv
import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import tdbench.training.loop  # noqa: F401  so that each fork has it
from tdbench.cli import main
from tdbench.config import known_keys, load_config
from tdbench.errors import TdbenchError
from tdbench.regularizers.registry import find_method, method_names
from tdbench.store import files
from tdbench.store.reading import read_run, read_sweep
from tdbench.sweep.experiment import read_experiment
from tdbench.sweep.values import parse_seeds, parse_values
from tdbench.training.checkpoint import seal_of

TINY = ["--train-fraction", "0.1", "--batch-size", "32", "--threads", "1"]
SAVED = ["--set", "checkpoint_every_s=0"]  # after each epoch
TRAIN = ["train", *TINY, *SAVED, "--epochs", "3", "--quiet", "--out", "run"]
SWEEP = ["ablate", "--param", "block_size=3,5", "--seeds", "2", *TINY, *SAVED, "--epochs", "2"]
SWEEP += ["--quiet", "--out", "sweep"]
TIMINGS = {"train_img_per_s", "epoch_s", "wall_s", "peak_mem_mib", "data_wait_pct"}
LONGEST_S, LONGEST_LINE = 120.0, 1200
MOST_CALLS = 6


@dataclass
class Attempt:
    """One row."""

    kind: str
    case: str
    outcome: str
    detail: str = ""
    seconds: float = 0.0
    attempts: int = 1


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    told: str


def in_a_fork(arguments: list[str], fault: Callable[[], None] = lambda: None) -> Ended:
    """Give a command in a child that has torch imported already, with a fault in it."""
    with tempfile.TemporaryFile() as told:
        pid = os.fork()
        if pid == 0:
            os.dup2(told.fileno(), 1)
            os.dup2(told.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            fault()
            code = main(arguments)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        end = time.monotonic() + LONGEST_S
        while (waited := os.waitpid(pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return Ended(-1, "hangs")
            time.sleep(0.002)
        told.seek(0)
        return Ended(os.waitstatus_to_exitcode(waited[1]), told.read().decode(errors="replace"))


def as_process(arguments: list[str], kill: Callable[[subprocess.Popen[bytes]], None] = lambda process: None) -> Ended:
    """Give a command as a process of its own, which a fault may meet from outside."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tdbench", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    kill(process)
    try:
        told, _ = process.communicate(timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return Ended(-1, "hangs")
    return Ended(process.returncode, told.decode(errors="replace"))


Give = Callable[[list[str]], Ended]


# What a command came to


def figures(place: Path, command: list[str]) -> Any:
    """Return all that a command leaves but timings: figures to the last digit, weights, tables."""
    if command[0] == "train":
        return run_figures(place / "run")
    sweep = read_sweep(place / "sweep")
    tables = [table.drop(columns=[*TIMINGS & set(table.columns)]).to_csv() for table in (sweep.summary, sweep.trials)]
    return [*tables, *(run_figures(path) for path in sorted((place / "sweep" / "trials").iterdir()))]


def run_figures(folder: Path) -> Any:
    """Return the figures and the weights of a finished run."""
    run = read_run(folder)
    assert run.result is not None, f"{folder} is not finished"
    result = {key: value for key, value in run.result.to_tree().items() if key not in TIMINGS}
    state = torch.load(folder / "checkpoint.pt", weights_only=True)["state"]
    weights = seal_of([state["model"], state["regularizer"], state["optimizer"]])
    return result, run.metrics.drop(columns=[*TIMINGS & set(run.metrics.columns)]).to_csv(), weights


def judged(give: Give, command: list[str], place: Path, expected: Any, first: Ended | None = None) -> tuple[str, str]:
    """Give a command until it is done; return the outcome, and what it said last."""
    ended = first
    for _ in range(MOST_CALLS):
        if ended is None or ended.code != 2:
            ended = give(command)
        if ended.code == 0:
            same = figures(place, command) == expected
            return ("same", "") if same else ("FAULT", "other figures")
        if ended.code == 2:
            if not is_one_message(ended.told):
                return "FAULT", ended.told[-300:]
            if "--fresh" not in ended.told or give([*command, "--fresh"]).code != 0:
                return "refused", ended.told.strip()[-200:]
            same = figures(place, command) == expected
            return ("refused" if same else "FAULT"), ended.told.strip()[-200:]
        if "--retry-failed" in command and is_one_message(ended.told):
            return "refused", ended.told.strip()[-200:]
        if ended.code == 1 and command[0] == "ablate" and "failed: " in ended.told:  # a trial, with its reason
            outcome, detail = judged(give, [*command, "--retry-failed"], place, expected)
            return ("refused" if outcome == "same" else outcome), detail or ended.told.strip()[-200:]
        if "defect" in ended.told or "Traceback" in ended.told or ended.told == "hangs":
            return "FAULT", ended.told[-300:]
    return "FAULT", f"not done after {MOST_CALLS} calls: {ended.told[-200:] if ended else ''}"


def is_one_message(told: str) -> bool:
    """Return whether a command told a clear line: no traceback, no defect, not too long."""
    lines = [line for line in told.strip().splitlines() if not line.startswith(("loading ", "checking "))]
    return (
        0 < len(lines) <= 3 and max(map(len, lines)) <= LONGEST_LINE and not {"Traceback", "defect"} & set(told.split())
    )


# Faults at each write


def at_write(number: int, happen: Callable[[], None]) -> Callable[[], None]:
    """Return what lets something happen at the so-manieth step of writing: opened, written, renamed, flushed."""

    def install() -> None:
        count = iter(range(10**9))

        def hooked(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                if next(count) == number:
                    happen()
                return function(*arguments)

            return call

        files.open_new = hooked(files.open_new)
        files.os.fsync = hooked(os.fsync)
        files.Path.replace = hooked(Path.replace)
        files._sync_folder = hooked(files._sync_folder)

    return install


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail_with(number: int) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


AT_WRITES = {"killed": kill_me, "ENOSPC": fail_with(errno.ENOSPC), "EIO": fail_with(errno.EIO)}


def faults_at_writes(expected: Any, most: int) -> Iterator[Attempt]:
    """Let each step of each write of a run fail, or the process die there."""
    for name, happen in AT_WRITES.items():
        for number in range(most):
            with place() as here:
                first = in_a_fork(TRAIN, at_write(number, happen))
                if first.code == 0:
                    break  # there are no more writes
                went_on = Ended(1, first.told) if name != "killed" else first
                yield attempt(f"{name} at a write", str(number), judged, in_a_fork, TRAIN, here, expected, went_on)


# Kills at random moments


def kill_later(after_s: float, number: int, whom: str) -> Callable[[subprocess.Popen[bytes]], None]:
    """Return what sends a signal to a process, to one of those that it has started, or to all of them."""

    def kill(process: subprocess.Popen[bytes]) -> None:
        time.sleep(after_s)
        found = {"driver": [process.pid], "all": [process.pid, *descendants(process.pid)]}.get(whom)
        if found is None:
            found = descendants(process.pid)[-1:]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    return kill


def descendants(pid: int) -> list[int]:
    """Return the processes that one has started, directly or not."""
    with contextlib.suppress(OSError):
        children = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [*children, *(below for child in children for below in descendants(child))]
    return []


def kills_at_random(draw: random.Random, expected: dict[str, Any], num: int) -> Iterator[Attempt]:
    """Stop runs and sweeps, or parts of them, at moments that nobody chose."""
    for _ in range(num):
        command, longest_s = draw.choice([(TRAIN, 9.0), (SWEEP, 14.0)])
        number = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
        whom = draw.choice(["driver", "all", "one"] if command is SWEEP else ["driver"])
        after_s = draw.uniform(0.2, longest_s)
        with place() as here:
            first = as_process(command, kill_later(after_s, number, whom))
            case = f"{command[0]} {signal.Signals(number).name} to {whom} after {after_s:.2f} s"
            yield attempt(
                "signal at a random moment",
                case,
                judged,
                as_process,
                command,
                here,
                expected[command[0]],
                first,
            )


# Damage in files


def damaged_files(draw: random.Random, expected: dict[str, Any], num: int, finished: Path) -> Iterator[Attempt]:
    """Flip a bit, cut a file short or empty it, in a run that is stopped or over and in a sweep that is over."""
    kinds = {
        "a flipped bit": lambda content: flipped(content, draw.randrange(8 * len(content))),
        "cut short": lambda content: content[: draw.randrange(len(content))],
        "bytes exchanged": lambda content: (
            bytes(draw.sample(list(content[:4000]), len(content[:4000]))) + content[4000:]
        ),
    }
    for _ in range(num):
        which = draw.choice(["stopped", "over", "sweep"])
        command = SWEEP if which == "sweep" else TRAIN
        with place() as here:
            shutil.copytree(finished / which, here / ("sweep" if which == "sweep" else "run"))
            paths = [path for path in sorted(here.rglob("*")) if path.is_file() and path.stat().st_size > 0]
            path, kind = draw.choice(paths), draw.choice(list(kinds))
            path.write_bytes(kinds[kind](path.read_bytes()))
            give = in_a_fork if command is TRAIN else as_process
            case = (
                f"{kind} in {path.name} of a run that is {which}"
                if command is TRAIN
                else f"{kind} in {path.name} of a sweep"
            )
            yield attempt("damage in a file", case, judged_damage, give, command, here, expected[command[0]])


def judged_damage(give: Give, command: list[str], here: Path, expected: Any) -> tuple[str, str]:
    """Judge a command on a damaged folder; what only tells of a run and does not make it may stay damaged."""
    ended = give(command)
    if ended.code != 0:
        return judged(give, command, here, expected, ended)
    with contextlib.suppress(Exception):
        if figures(here, command) == expected:
            return "same", ""
    ended = give([*command, "--fresh"])  # a table or a note beside the run was hit, and is written anew
    if ended.code == 0 and figures(here, command) == expected:
        return "same", "after --fresh"
    return ("refused" if is_one_message(ended.told) else "FAULT"), ended.told[-200:]


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# What a user may type

NASTY = (
    *(
        "",
        " ",
        "null",
        "~",
        "true",
        "off",
        "nan",
        ".inf",
        "-0",
        "-1",
        "0",
        "1",
        "3",
        "1e9",
        "1e999",
        "010",
        "0x1F",
        "1:30",
    ),
    *(
        "2001-01-01",
        "[",
        "]",
        "[]",
        "{}",
        "{a: 1}",
        "[1, [2]]",
        "*x",
        "&x 1",
        "!!python/object:x",
        "!t 1",
        "'",
        '"',
        "\t",
    ),
    *(
        "\0",
        "\x1b[31m",
        "[/b]",
        "ü",
        "漢",
        "\ud800",
        "a" * 3000,
        "9" * 400,
        "1" + "0" * 30,
        "none",
        "targetdrop",
        "stage1",
    ),
    *(
        "0.1,0.2",
        "1:5:2",
        "5:1:1",
        "::",
        "1:2",
        "0:1:1e-300",
        "1,,2",
        "file.py:X",
        "x.py",
        "%s",
        "{0}",
        "$HOME",
        "../..",
    ),
)


def word(draw: random.Random) -> str:
    """Return something that a user, or a cat, may type."""
    text = draw.choice(NASTY)
    if draw.random() < 0.3:
        text = text[: draw.randrange(len(text) + 1)] + draw.choice(NASTY) + text[draw.randrange(len(text) + 1) :]
    return text


def typed_setting(draw: random.Random, here: Path) -> None:
    method = draw.choice(method_names())
    keys = [*known_keys(find_method(method)), "gamma", "k", "lr", "block_sise", "", "data", "a.b.c"]
    key = draw.choice(keys)
    if draw.random() < 0.2:
        key = key[: draw.randrange(len(key) + 1)] + draw.choice("._-=x\0") + key
    load_config(overrides={"regularizer": method, key: parsed(word(draw))})


def typed_tree(draw: random.Random, here: Path) -> None:
    load_config(tree(draw, [*known_keys(find_method("targetdrop"))]))


def typed_file(draw: random.Random, here: Path) -> None:
    content = json.dumps(tree(draw, [*known_keys(find_method("dropblock"))]), ensure_ascii=True)
    for _ in range(draw.randrange(4)):
        at = draw.randrange(len(content) + 1)
        content = content[:at] + draw.choice(NASTY) + content[at + draw.randrange(5) :]
    (here / "x.yaml").write_bytes(content.encode(errors="surrogatepass"))
    load_config(here / "x.yaml")


def typed_experiment(draw: random.Random, here: Path) -> None:
    whole = {
        "sweep": {draw.choice(["block_size", "lr", word(draw)]): draw.choice([[3, 5], None, parsed(word(draw))])},
        "seeds": parsed(word(draw)),
        "baseline": parsed(word(draw)),
        "base": tree(draw, ["training.epochs", "model.name"]),
        "arms": draw.choice([{}, None, {word(draw): {"lr": 0.1}}]),
    }
    chosen = {key: value for key, value in whole.items() if draw.random() < 0.6}
    (here / "x.yaml").write_bytes(json.dumps(chosen, default=str).encode(errors="surrogatepass"))
    read_experiment(here / "x.yaml")


def typed_values(draw: random.Random, here: Path) -> None:
    parse_values(",".join(word(draw) for _ in range(draw.randrange(1, 4))))


def typed_seeds(draw: random.Random, here: Path) -> None:
    parse_seeds(",".join(word(draw) for _ in range(draw.randrange(1, 4))))


def typed_command(draw: random.Random, here: Path) -> None:
    """Give a whole command that ends before anything is loaded."""
    option = draw.choice(
        ["--set", "--lr", "--epochs", "--sites", "--match", "--device", "--data-root", "--regularizer", word(draw)]
    )
    with contextlib.redirect_stderr(io.StringIO()) as told, contextlib.redirect_stdout(io.StringIO()):
        code = main(["train", option, word(draw).replace("\0", ""), "--set", "blok_size=3"])  # which is always refused
    if code != 2 or not is_one_message(told.getvalue()):
        raise AssertionError(f"exit code {code}: {told.getvalue()[-200:]}")
    raise TdbenchError("refused")


def tree(draw: random.Random, keys: list[str]) -> dict[str, Any]:
    """Return a nested configuration, some of it wrong."""
    found: dict[str, Any] = {}
    for key in draw.sample(keys, draw.randrange(1, min(4, len(keys) + 1))):
        section, _, last = key.partition(".")
        value = parsed(word(draw))
        if last and isinstance(found.setdefault(section, {}), dict):
            found[section][last] = value
        else:
            found[section] = value
    return found


def parsed(text: str) -> Any:
    from tdbench.config import parse_yaml

    with contextlib.suppress(Exception):
        return parse_yaml(text)
    return text


TYPED = (typed_setting, typed_tree, typed_file, typed_experiment, typed_values, typed_seeds, typed_command)


def typed_input(draw: random.Random, num: int) -> Iterator[Attempt]:
    """Type many things; each is taken, or refused in a clear message, within two seconds."""
    for kind in TYPED:
        num_commands = num // (20 * len(TYPED))  # slower than the others by so much
        share = num_commands if kind is typed_command else -(-(num - num_commands) // (len(TYPED) - 1))
        outcomes, begun, faults = Counter[str](), time.perf_counter(), list[str]()
        with place() as here:
            for _ in range(share):
                before = draw.getstate()
                outcome, detail = typed_once(kind, draw, here)
                outcomes[outcome] += 1
                if outcome == "FAULT" and len(faults) < 3:
                    faults.append(f"{detail} (state {hash(before) & 0xFFFF})")
        for outcome, count in outcomes.items():
            detail = "; ".join(faults) if outcome == "FAULT" else ""
            yield Attempt("typed input", kind.__name__, outcome, detail, time.perf_counter() - begun, count)


def typed_once(kind: Callable[[random.Random, Path], None], draw: random.Random, here: Path) -> tuple[str, str]:
    begun = time.perf_counter()
    try:
        kind(draw, here)
    except TdbenchError as error:
        lines = str(error).splitlines()
        if not lines or len(lines) > 12:
            return "FAULT", f"{len(lines)} lines"
        return ("refused", "") if time.perf_counter() - begun < 2 else ("FAULT", f"slow: {lines[0][:100]}")
    except Exception as error:  # what this looks for
        return "FAULT", f"{type(error).__name__}: {str(error)[:100]}"
    return ("same", "") if time.perf_counter() - begun < 2 else ("FAULT", "slow")


# Whatever way it is run


def ways(expected: dict[str, Any], jobs: tuple[int, ...], with_ray: bool) -> Iterator[Attempt]:
    """Run a sweep with other numbers of trials at once, and on Ray: the same bits."""
    options = [["--jobs", str(number)] for number in jobs] + ([["--executor", "ray"]] if with_ray else [])
    for option in options:
        with place() as here:
            command = [*SWEEP, *option]
            yield attempt("another way", " ".join(option), judged, as_process, command, here, expected["ablate"])


def flat(num_steps: int, num_trials: int) -> Iterator[Attempt]:
    """Look at memory, descriptors and processes over many steps, and over many trials."""
    with place():
        long = [
            "train",
            *TINY,
            "--max-steps",
            str(num_steps),
            "--set",
            "training.eval_every=1000",
            "--quiet",
            "--out",
            "run",
        ]
        yield attempt("flat", f"{num_steps} steps", judged_flat, long)
    with place():
        many = [
            "ablate",
            "--param",
            "lr=0.1",
            "--seeds",
            str(num_trials),
            "--baseline",
            "off",
            *TINY,
            "--max-steps",
            "1",
        ]
        yield attempt("flat", f"{num_trials} trials", judged_flat, [*many, "--quiet", "--out", "sweep"])


def judged_flat(command: list[str]) -> tuple[str, str]:
    """Run a command; compare what it holds in its second quarter and shortly before it writes its tables."""
    process = subprocess.Popen([sys.executable, "-m", "tdbench", *command], stdout=-3, stderr=subprocess.PIPE)
    seen: list[tuple[int, int, int]] = []
    while process.poll() is None:
        with contextlib.suppress(OSError, IndexError, ValueError):
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            seen.append((pages // 256, len(os.listdir(f"/proc/{process.pid}/fd")), len(descendants(process.pid))))
        time.sleep(0.05)
    if process.returncode != 0 or len(seen) < 20:
        return "FAULT", f"exit code {process.returncode}, {len(seen)} looks"
    part = len(seen) // 20
    early, late = seen[5 * part : 12 * part], seen[14 * part : 17 * part]  # the first look at the tables is early
    before, after = ([max(column) for column in zip(*rows, strict=True)] for rows in (early, late))
    words = [f"{name} {a} -> {b}" for name, a, b in zip(("MiB", "files", "processes"), before, after, strict=True)]
    grown = [b > a * 1.05 + 8 for a, b in zip(before, after, strict=True)]
    return ("FAULT" if any(grown) else "same"), ", ".join(words)


# The campaign


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """Go to an empty folder for as long as this lasts."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)


def attempt(kind: str, case: str, judge: Callable[..., tuple[str, str]], *arguments: Any) -> Attempt:
    begun = time.perf_counter()
    try:
        outcome, detail = judge(*arguments)
    except Exception as error:  # files that the command should have left
        outcome, detail = "FAULT", f"{type(error).__name__}: {error}"
    return Attempt(kind, case, outcome, " ".join(detail.split()), time.perf_counter() - begun)


def campaign(
    seed: int,
    writes: int,
    kills: int,
    damages: int,
    typed: int,
    jobs: tuple[int, ...],
    ray: bool,
    steps: int,
    trials: int,
) -> Iterator[Attempt]:
    """Yield all attempts; each number says how many of a kind."""
    draw = random.Random(seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        finished = Path(name)
        with place() as here:
            assert in_a_fork(TRAIN).code == 0
            expected = {"train": figures(here, TRAIN)}
            shutil.copytree("run", finished / "over")
            if kills or damages or jobs or ray:
                assert as_process(SWEEP).code == 0
                expected["ablate"] = figures(here, SWEEP)
                shutil.copytree("sweep", finished / "sweep")
        with place():
            in_a_fork(TRAIN, at_write(30, kill_me))  # in the second epoch
            shutil.copytree("run", finished / "stopped")
        yield from faults_at_writes(expected["train"], writes)
        yield from damaged_files(draw, expected, damages, finished)
        yield from typed_input(draw, typed)
        yield from kills_at_random(draw, expected, kills)
        yield from ways(expected, jobs, ray)
        if steps or trials:
            yield from flat(steps, trials)


def run(
    out: Annotated[Path, typer.Option(help="Where the rows go.")],
    seed: int = 0,
    writes: int = 1000,
    kills: int = 100,
    damages: int = 300,
    typed: int = 100_000,
    jobs: str = "1,2,4",
    ray: bool = True,
    steps: int = 2000,
    trials: int = 200,
) -> None:
    numbers = tuple(int(one) for one in jobs.split(",") if one)
    rows: list[Attempt] = []
    with out.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(asdict(Attempt("", "", ""))), lineterminator="\n")
        table.writeheader()
        for row in campaign(seed, writes, kills, damages, typed, numbers, ray, steps, trials):
            rows.append(row)
            table.writerow(asdict(row) | {"seconds": f"{row.seconds:.2f}"})
            file.flush()
            if row.outcome == "FAULT":
                print(f"FAULT: {row.kind}: {row.case}: {row.detail}")
    for kind in dict.fromkeys(row.kind for row in rows):
        counts = Counter[str]()
        for row in rows:
            if row.kind == kind:
                counts[row.outcome] += row.attempts
        print(f"{kind}: {sum(counts.values()):,} tried, {', '.join(f'{n:,} {o}' for o, n in counts.items())}")
    raise typer.Exit(any(row.outcome == "FAULT" for row in rows))


if __name__ == "__main__":
    typer.run(run)
