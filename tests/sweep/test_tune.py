"""A search: what it chooses from, that it goes on as if nothing had stopped it, what it hands to the confirmation."""

import csv
import random
import sys
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest

from tdbench.errors import ConfigError, DataError, FolderError, TdbenchError
from tdbench.store.assignment import Ended, Log
from tdbench.store.loggers import LOGGERS, Package
from tdbench.store.loggers.recording import group_of
from tdbench.store.progress import SweepObserver
from tdbench.store.rows import RunResult, TrialState
from tdbench.sweep import lab
from tdbench.sweep.execution import Execution
from tdbench.sweep.runner import Tables
from tdbench.sweep.tune import command, outlook
from tdbench.sweep.tune.asked import asked_of, plan_tune, seconds_of
from tdbench.sweep.tune.command import finish, open_search, specs
from tdbench.sweep.tune.confirming import baseline_of, check_design, chosen, confirmation, kept
from tdbench.sweep.tune.folder import JOURNAL, TuneFolder
from tdbench.sweep.tune.outlook import look_ahead
from tdbench.sweep.tune.report import promise_row
from tdbench.sweep.tune.study import Question, suggest
from tests.sweep.test_runner import TINY

BASE = {**TINY, "regularizer": {"name": "targetdrop"}}
PARAM = {"drop_ratio": "0.05..0.6", "block_size": [1, 3, 5, 7]}


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setattr(lab, "ask", lab.call)


def plan_of(**asked):
    return plan_tune(asked_of({"base": BASE, "param": PARAM, "trials": 8, **asked}))


def true_difference(regularizer):
    """A method that helps most near a drop ratio of 0.4, whatever its block size."""
    return 0.0 if regularizer["name"] == "none" else 20 * abs(regularizer["drop_ratio"] - 0.4) - 3


class Searching:
    """Gives each trial the held-out error of its settings and seed, without training; stops after so many trials."""

    def __init__(self, folder, num_slots=1, stop_after=None, fails=lambda config: None):
        self.folder, self.num_free, self.stop_after, self.fails = folder, num_slots, stop_after, fails
        self.submitted, self._over = [], []

    def submit(self, assignment):
        self.num_free -= 1
        self.submitted.append(assignment)
        config = assignment.config
        reason = self.fails(config)
        status = TrialState.FAILED if reason else TrialState.DONE
        error_pct = None
        if not reason:
            error_pct = 30 + config["seed"] + true_difference(config["regularizer"])
            error_pct += 100 * abs(config["optimizer"]["lr"] - 0.1)
        run = self.folder.trial(assignment.digest)
        run.path.mkdir(parents=True, exist_ok=True)
        if not reason:
            run.write_result(RunResult(status, assignment.digest, config["seed"], valid_error_pct=error_pct))
        self._over.append(Ended(assignment.digest, status, reason))

    def wait(self, timeout_s):
        self.num_free += len(self._over)
        over, self._over = self._over, []
        return over

    def stop(self):
        pass

    def close(self):
        pass

    def wants_to_stop(self):
        return self.stop_after is not None and len(self.submitted) >= self.stop_after


def run(plan, path, **options):
    path.mkdir(parents=True, exist_ok=True)
    search = open_search(plan, path)
    search.folder.write_asked(plan)
    executor = Searching(search.folder, **options)
    search.run(executor, search.first(), SweepObserver(), executor.wants_to_stop)
    search.write_candidates()
    return search, executor


def table(search):
    with open(search.folder / "candidates.csv") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab, "ask", lab.call)
        search, executor = run(plan_of(), tmp_path_factory.mktemp("undisturbed"))
    return search, executor.submitted


def test_each_knob_is_searched_in_what_is_named_or_in_what_it_declares():
    plan = plan_of(param={"drop_ratio": "0.05..0.6", "block_size": "1,3,5", "lr": None, "epochs": "1..3"})
    assert [str(one) for one in plan.subjects[0].ranges] == [
        "drop_ratio=0.05..0.6",
        "block_size=1,3,5",
        "lr=0.03..0.3:log",
        "epochs=1..3",
    ]
    (whole,) = plan_of(param={"drop_ratio": "0..1"}).subjects[0].ranges
    assert not whole.is_whole, "a share is no whole number, however its ends are written"
    assert plan_of(param={"epochs": "1..3"}).subjects[0].size == 3


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ({"drop_ratio": "0.6..0.05"}, "LOW below HIGH"),
        ({"drop_ratio": "0.05..1.5"}, "must be between 0 and 1, got 1.5"),
        ({"block_size": "1..7"}, "must be odd and at least 1, got 2"),
        ({"drop_ratio": "0..0.5:log"}, "must be above 0"),
        ({"drop_ratio": "0.1..0.3..0.5"}, "LOW..HIGH, LOW..HIGH:log or A,B,C"),
        ({"block_size": "3"}, "two values at least"),
        ({"block_size": []}, "a value or more"),
        ({"drop_rat": "0..1"}, "did you mean drop_ratio"),
        ({"seed": "1..3"}, "--search-seeds"),
        ({"threads": "1..3"}, "no result"),
        ({"regularizer": "dropout,dropblock"}, "search each by itself"),
        ({"drop_ratio": "0.1..0.3", "gamma": "0.1..0.3"}, "once"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_runs(param, words):
    with pytest.raises(ConfigError, match=words.replace("..", r"\.\.")):
        plan_of(param=param)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"sampler": "tp"}, "--sampler must be .* did you mean tpe"),
        ({"budget": "4x"}, "--budget must be a time"),
        ({"confirm_seeds": "20..5"}, "--confirm-seeds must be"),
        ({"trials": 0}, "--trials"),
        ({"base": {**BASE, "data": {"valid_fraction": 0}}}, "valid_fraction must be above 0"),
        ({"base": {**BASE, "regularizer": {"name": "none"}}}, "must be a method"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(asked, words):
    with pytest.raises(ConfigError, match=words):
        plan_of(**asked)


def test_a_knob_that_is_given_twice_is_refused():
    with pytest.raises(ConfigError, match="once"):
        specs(["drop_ratio=0.1..0.3", "drop_ratio=0.1..0.5"])


def test_a_budget_is_a_time():
    assert [seconds_of(text) for text in ("90s", "1h30m", "0.5h", None)] == [90, 5400, 1800, None]


def test_no_run_of_a_search_may_see_the_test_images(undisturbed):
    search, submitted = undisturbed
    data = [one.config["data"] for one in submitted]
    assert all(one["test"] is False and one["valid_fraction"] == 0.2 for one in data)
    sweep = confirmation(search)
    assert all(trial.data.test and trial.data.valid_fraction == 0.2 for trial in sweep.plan.trials.values())
    assert {trial.seed for trial in sweep.plan.trials.values()}.isdisjoint(one.config["seed"] for one in submitted)


def test_candidates_are_judged_by_their_paired_difference_to_the_baseline(undisturbed):
    rows = {row["candidate"]: row for row in table(undisturbed[0])}
    assert list(rows) == ["baseline", "default", *map(str, range(1, 8))], "eight candidates, the default among them"
    for name, row in rows.items():
        if name != "baseline":
            truth = true_difference({"name": "targetdrop", "drop_ratio": float(row["drop_ratio"])})
            assert float(row["delta_vs_baseline"]) == pytest.approx(truth)
            assert row["n"] == "2"
    assert float(rows["default"]["drop_ratio"]) == 0.15
    assert len({row["drop_ratio"] for row in rows.values()}) > 5


def test_the_best_and_the_default_are_confirmed_with_what_was_promised(undisturbed):
    search, _ = undisturbed
    default, best = chosen(search)
    values = [search.value_of(one) for one in search.candidates[1:]]
    assert default.name == "default"
    assert search.value_of(best) == min(values)
    assert [(one.arm, one.promised) for one in kept(search, ())] == [
        ("default", pytest.approx(2.0)),
        (f"candidate {best.name}", pytest.approx(min(values))),
    ]
    arms = confirmation(search).plan.experiment.arms
    assert list(arms) == ["none", "default", f"candidate {best.name}"]


def test_a_promise_has_the_t_interval_of_its_own_seeds(undisturbed, monkeypatch):
    search, _ = undisturbed
    monkeypatch.setattr(search, "differences", lambda one, baseline: [-1.0, -2.0])
    default, _ = kept(search, ())
    assert (default.promised, default.low, default.high) == pytest.approx(
        (-1.5, -1.5 - 12.7062 / 2, -1.5 + 12.7062 / 2)
    )
    row = promise_row(default)
    assert (row["arm"], row["promised"], row["promised_n"]) == ("default", -1.5, 2)
    assert "kept" not in row, "there is no confirmation yet"


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.slow
def test_a_search_that_is_stopped_anywhere_chooses_what_it_would_have_chosen(sampler, tmp_path):
    whole, executor = run(plan_of(sampler=sampler), tmp_path / "whole")
    rng, path, num_runs = random.Random(0), tmp_path / "stopped", 0
    for _ in range(100):
        search, stopped = run(plan_of(sampler=sampler), path, stop_after=rng.randint(1, 3))
        num_runs += len(stopped.submitted)
        if search.is_over():
            break
        journal = path / JOURNAL
        if rng.random() < 0.5 and journal.exists():  # killed while it wrote
            journal.write_bytes(journal.read_bytes() + b'{"op_code": 5, "worker')
    assert table(search) == table(whole)
    assert num_runs == len(executor.submitted), "no run is done twice"


@pytest.mark.slow
def test_more_candidates_are_added_to_those_that_there_are(undisturbed, tmp_path):
    run(plan_of(trials=3), tmp_path)
    search, executor = run(plan_of(), tmp_path)
    assert table(search) == table(undisturbed[0])
    assert len(executor.submitted) == 2 * 5


def test_a_failed_candidate_is_told_and_the_search_goes_on(tmp_path):
    def fails(config):
        return "out of memory" if config["regularizer"].get("block_size") == 7 else None

    search, _ = run(plan_of(trials=10), tmp_path, fails=fails)
    rows = table(search)
    failed = [row for row in rows if row["status"] == "failed"]
    assert failed
    assert all(row["block_size"] == "7" and row["error"] == "out of memory" for row in failed)
    assert len(rows) == 11
    assert search.is_over()
    assert all(one.values["regularizer.block_size"] != 7 for one in chosen(search))


def test_without_the_baseline_there_is_no_search_and_the_next_call_tries_it_again(tmp_path):
    def fails(config):
        return "no memory" if config["regularizer"]["name"] == "none" else None

    with pytest.raises(TdbenchError, match="baseline's run failed: no memory"):
        run(plan_of(), tmp_path, fails=fails)
    search, _ = run(plan_of(), tmp_path)
    assert search.is_over()


def test_a_search_of_the_default_alone_runs_it_and_the_baseline(tmp_path):
    plan = plan_of(trials=1, param={"block_size": [1, 3]})  # which the default, 5, is not among
    assert not open_search(plan, tmp_path).is_over()
    search, _ = run(plan, tmp_path)
    assert [(row["candidate"], row["status"]) for row in table(search)] == [("baseline", "done"), ("default", "done")]
    assert search.is_over()


def test_a_search_ends_where_everything_has_been_tried(tmp_path):
    search, executor = run(plan_of(param={"block_size": [1, 3, 5]}, trials=50), tmp_path)
    assert len(executor.submitted) == 2 * (1 + 3), "the baseline and three values, with two seeds each"
    assert search.is_over()


def test_a_budget_ends_a_search_and_counts_all_calls(tmp_path, monkeypatch):
    def spent_s(self):  # a minute for each candidate that has run
        return 60.0 * (len(self.done()) // 2 - 1)

    monkeypatch.setattr("tdbench.sweep.tune.search.Search.spent_s", spent_s)
    search, _ = run(plan_of(budget="3m"), tmp_path)
    assert search.num_over() == 3
    assert open_search(plan_of(budget="3m"), tmp_path).is_over()
    search, _ = run(plan_of(budget="5m"), tmp_path)
    assert search.num_over() == 5


def test_the_time_of_a_search_is_that_of_its_calls_without_the_pauses(tmp_path, monkeypatch):
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr("tdbench.sweep.tune.search.time", SimpleNamespace(monotonic=lambda: now.s))
    search, _ = run(plan_of(trials=3), tmp_path)
    now.s += 50
    search.keep_tables()
    now.s += 10**6  # killed, and begun again days later
    again, _ = run(plan_of(trials=6), tmp_path)
    now.s += 7
    assert again.spent_s() == pytest.approx(57)


def test_images_that_are_drawn_anew_cannot_be_searched_on():
    with pytest.raises(ConfigError, match=r"data\.resample must be false"):
        plan_of(base={**BASE, "data": {"train_fraction": 0.1, "resample": True}})


def test_a_knob_that_is_solved_cannot_be_searched():
    with pytest.raises(ConfigError, match="--match solves it"):
        plan_of(base={**BASE, "regularizer": {"name": "targetdrop", "match": 1.0}})


def test_failed_candidates_are_run_again_where_that_is_asked(tmp_path):
    def fails(config):
        return "no memory" if config["regularizer"].get("block_size") == 7 else None

    run(plan_of(trials=10), tmp_path, fails=fails)
    search = open_search(plan_of(trials=10), tmp_path)
    assert search.is_over()
    assert not search.is_over(retry_failed=True)
    executor = Searching(search.folder)
    search.run(executor, search.first(retry_failed=True), SweepObserver())
    assert {one.config["regularizer"]["block_size"] for one in executor.submitted} == {7}
    assert not any(map(search.has_failed, search.candidates))


def test_what_was_confirmed_before_stays_among_what_was_promised(tmp_path):
    search, _ = run(plan_of(trials=2), tmp_path)
    sweep = confirmation(search)
    sweep.folder.path.mkdir()
    sweep.folder.write_sweep(sweep.plan.tree())
    search, _ = run(plan_of(trials=12), tmp_path)
    (_, best) = chosen(search)
    assert best.name != "1"
    assert [one.arm for one in kept(search, ())] == ["default", f"candidate {best.name}", "candidate 1"]
    with pytest.raises(ConfigError, match=r"--confirm-seeds must stay 5\.\.20"):
        check_design(plan_of(confirm_seeds="3..9"), search.folder)
    check_design(plan_of(), search.folder)


def test_candidates_that_did_the_same_are_confirmed_once(tmp_path):
    search, _ = run(plan_of(trials=6, confirm=3), tmp_path)
    default, first, second, third = chosen(search)
    for seed in search.plan.seeds:  # as where two ratios make one number of channels
        search.records[second.trials[seed]] = replace(search.records[first.trials[seed]])
    again = chosen(search)
    assert again[:2] == [default, first]
    assert second not in again
    assert third in again
    assert len(again) == 4


def test_reading_a_search_writes_nothing(tmp_path):
    run(plan_of(trials=3), tmp_path)
    journal = tmp_path / JOURNAL
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 5, "wor')  # another process is writing
    before = journal.read_bytes()
    assert len(open_search(plan_of(trials=3), tmp_path).candidates) == 4
    assert journal.read_bytes() == before


def test_the_default_is_tried_where_it_is_not_in_the_range_too(tmp_path):
    search, _ = run(plan_of(param={"drop_ratio": "0.3..0.6"}, trials=3), tmp_path)
    rows = {row["candidate"]: row for row in table(search)}
    assert list(rows) == ["baseline", "default", "0", "1"], "three candidates, the default among them"
    assert float(rows["default"]["drop_ratio"]) == 0.15


@pytest.mark.slow
def test_a_baseline_that_is_tuned_is_what_the_confirmation_compares_with(tmp_path):
    def run_both():
        return run(plan_of(tune_baseline={"lr": "0.02..0.3:log"}, base=TINY_LR, trials=6), tmp_path)[0]

    search = run_both()
    best = baseline_of(search)
    assert best.subject is search.plan.subjects[1]
    assert abs(best.values["optimizer.lr"] - 0.1) < abs(0.25 - 0.1)
    sweep = confirmation(search)
    assert sweep.plan.experiment.arms["none"] == {"regularizer.name": "none", **best.values}
    (promise, *_) = kept(search, ())
    assert promise.promised == pytest.approx(search.value_of(chosen(search)[0]) - search.value_of(best))


TINY_LR = {**BASE, "optimizer": {"lr": 0.25}}


def test_another_search_in_the_folder_is_refused_and_told(tmp_path):
    run(plan_of(trials=2), tmp_path)
    for other, words in (
        ({"param": {"drop_ratio": "0.05..0.5"}}, "searched targetdrop"),
        ({"base": {**BASE, "optimizer": {"lr": 0.2}}}, "optimizer.lr is 0.1 there and 0.2 here"),
        ({"sampler": "random"}, "sampler is tpe there and random here"),
        ({"search_seeds": 3}, "search_seeds is 2 there and 3 here"),
    ):
        with pytest.raises(FolderError, match=words):
            open_search(plan_of(**other), tmp_path)


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(FolderError, match="holds a run"):
        open_search(plan_of(), tmp_path)


def test_a_journal_of_another_study_gives_this_search_nothing(tmp_path):
    question = Question(tmp_path / JOURNAL, "another", plan_of().subjects[0].ranges, {}, "random", 1)
    suggest(question, [], 3)
    with pytest.raises(FolderError, match=r"holds a journal\.log without tune\.yaml"):
        open_search(plan_of(), tmp_path)


@pytest.mark.slow
def test_what_is_written_says_that_it_claims_nothing(undisturbed):
    search, _ = undisturbed
    finish(search)
    text = (search.folder / "tune.md").read_text()
    assert "these figures choose, they claim nothing" in text
    assert "n = 2 runs each" in text
    with open(search.folder / "importance.csv") as file:
        rows = {row["param"]: float(row["importance"]) for row in csv.DictReader(file)}
    assert rows["drop_ratio"] > rows["block_size"]
    assert sum(rows.values()) == pytest.approx(1)
    assert {"history.png", "history.svg", "importance.png"} <= {path.name for path in search.folder.path.iterdir()}


def test_optuna_that_is_missing_is_named_with_its_extra(monkeypatch):
    from tdbench.sweep.tune import command

    monkeypatch.setattr(command, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "tdbench\[tune\]"'):
        command.plan_search(None, (), (), {}, {})


def test_a_search_in_a_new_folder_holds_nothing(tmp_path):
    assert TuneFolder(tmp_path).read_asked() is None


class Group:
    """A logger that keeps nothing but that it was asked."""

    heard: ClassVar[list[str]] = []

    def start_sweep(self, sweep):
        self.heard.append(sweep.id)

    def end_sweep(self, sweep, summary):
        self.heard.append(f"{len(summary)} verdicts of {', '.join(sweep.keys)}")


def test_a_search_is_a_group_of_loggers_to_which_its_confirmation_belongs(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tdbench.store.loggers.groups", SimpleNamespace(Group=Group))
    monkeypatch.setitem(LOGGERS, "group", Package("groups:Group", "1", ("pip",)))
    monkeypatch.setattr(command, "check_trials", lambda configs, slots: None)
    monkeypatch.setattr(command, "slots_for", lambda search, execution: None)
    search = open_search(plan_of(trials=2), tmp_path)
    executor = Searching(search.folder)
    monkeypatch.setattr(Execution, "executor_in", lambda execution, slots: executor)
    execution, groups = Execution(log="group"), []
    command.run_search(search, execution, watch=lambda search, slots: nullcontext(SweepObserver()))
    command.confirm_found(search, execution, lambda sweep: groups.append(sweep.group) or Tables((), (), []))
    assert groups == [group_of(tmp_path)]
    assert {assignment.log for assignment in executor.submitted} == {Log(("group",), groups[0])}
    assert Group.heard == [groups[0], "0 verdicts of drop_ratio, block_size"]


@pytest.fixture
def _a_second_each(monkeypatch):
    monkeypatch.setattr(outlook, "check_trials", lambda *arguments: None)
    monkeypatch.setattr(outlook, "times_left_s", lambda waiting, finished, slots: tuple(map(len, waiting)))


def contents_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.usefixtures("_a_second_each")
@pytest.mark.parametrize(
    ("param", "stop_after"), [(PARAM, None), ({"block_size": [1, 3]}, 1), ({"block_size": [3, 5]}, 5)]
)
def test_an_outlook_counts_the_runs_that_the_search_then_takes(tmp_path, param, stop_after):
    plan = plan_of(param=param)
    if stop_after is not None:
        run(plan, tmp_path, stop_after=stop_after)
    before = contents_of(tmp_path)
    told = look_ahead(open_search(plan, tmp_path), Execution())
    assert contents_of(tmp_path) == before
    search, executor = run(plan, tmp_path)
    own = [tuple(one.values.items()) for one in search.candidates if one.subject is not None]
    assert (told.search_runs, told.search_s, told.seeds) == (len(executor.submitted), told.search_runs, (0, 1))
    assert len(set(own)) <= told.candidates <= len(own), "some may be chosen again, which takes no run"
    over = look_ahead(search, Execution())
    assert (over.candidates, over.candidates_left, over.search_runs) == (len(own), 0, 0)


@pytest.mark.usefixtures("_a_second_each")
def test_an_outlook_bounds_the_confirmation_and_keeps_to_the_budget(tmp_path):
    new = look_ahead(open_search(plan_of(confirm=2, confirm_seeds="3..10", budget="5s"), tmp_path), Execution())
    assert (new.confirmed, new.confirm_seeds) == (3, tuple(range(2, 12)))
    assert (new.confirm_runs, new.confirm_runs_at_most) == (4 * 3, 4 * 10)
    assert (new.search_runs, new.search_s) == (18, 5)
    assert (new.confirm_s, new.confirm_at_most_s) == (12, 40)
    without = look_ahead(open_search(plan_of(confirm=0), tmp_path), Execution())
    assert (without.confirmed, without.confirm_seeds, without.confirm_runs_at_most) == (0, (), 0)
    few = look_ahead(open_search(plan_of(param={"block_size": [3, 5]}, confirm=4), tmp_path), Execution())
    assert few.confirmed == 2, "the default, which is one of both, and the other one"
    search, _ = run(plan_of(confirm=1, confirm_seeds="3..10"), tmp_path)
    sweep = confirmation(search)
    known = look_ahead(search, Execution())
    assert (known.confirmed, known.confirm_runs, known.confirm_runs_at_most) == (2, len(sweep.missing()), 30)
    sweep.folder.path.mkdir()
    sweep.folder.write_sweep(sweep.plan.tree())
    more = look_ahead(open_search(plan_of(confirm=1, confirm_seeds="3..10", trials=9), tmp_path), Execution())
    assert (more.candidates_left, more.confirmed) == (1, 3), "what was begun stays beside a new best one"
    assert (more.confirm_runs, more.confirm_runs_at_most) == (9, 40)


def test_an_outlook_stands_without_the_images(tmp_path, monkeypatch):
    def no_images(*arguments):
        raise DataError("there are no images")

    monkeypatch.setattr(outlook, "check_trials", no_images)
    told = look_ahead(open_search(plan_of(), tmp_path), Execution())
    assert (told.search_runs, told.search_s, told.confirm_at_most_s) == (18, None, None)
    assert told.why_unknown == "there are no images"
