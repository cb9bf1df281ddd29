"""A sequential sweep in its folder: who is run when, and that no interruption, failure or number of jobs changes it."""

import random

import pytest

from tdbench.errors import ConfigError, FolderError
from tdbench.store.folders import SweepFolder
from tdbench.store.progress import SweepObserver
from tdbench.store.rows import Decision, RunResult, TrialState
from tdbench.sweep.ablate import open_sweep
from tdbench.sweep.experiment import Experiment, experiment_of
from tdbench.sweep.findings import Findings
from tdbench.sweep.plan import make_plan
from tdbench.sweep.runner import Sweep
from tests.sweep.test_runner import TINY, Pretending

EFFECTS = {3: 0.1, 5: 4.0, 9: -3.0}  # of block_size on the error, beside a scatter of 1


def plan_of(seeds="3..8", **knobs):
    return make_plan(
        Experiment.model_validate({"base": TINY, "sweep": {"block_size": list(EFFECTS)}, "seeds": seeds, **knobs})
    )


class Scattering(Pretending):
    """Gives each trial the error of its seed and value, the same whenever it runs; stops after so many trials."""

    def __init__(self, folder, num_slots=2, stop_after=None, fails=()):
        super().__init__(folder, num_slots=num_slots)
        self.stop_after, self.fails = stop_after, fails

    def submit(self, assignment):
        self.num_free -= 1
        self.submitted.append(assignment)
        regularizer, seed = assignment.config["regularizer"], assignment.config["seed"]
        size = regularizer.get("block_size", 0)
        status = TrialState.FAILED if (size, seed) in self.fails else TrialState.DONE
        figures = {}
        if status is TrialState.DONE:
            error_pct = 20 + seed + EFFECTS.get(size, 0) + random.Random(f"{size} {seed}").gauss()
            figures = {"test_error_pct": error_pct, "dropped_pct": 0.5}
        trial = self.folder.trial(assignment.digest)
        trial.path.mkdir(parents=True, exist_ok=True)
        trial.write_result(RunResult(status, assignment.digest, seed, **figures))
        from tdbench.store.assignment import Ended

        self._over.append(Ended(assignment.digest, status, None))

    @property
    def wants_to_stop(self):
        return self.stop_after is not None and len(self.submitted) >= self.stop_after


def run(plan, folder, observer=None, **options):
    folder.path.mkdir(parents=True, exist_ok=True)
    sweep, executor = Sweep(plan, folder), Scattering(folder, **options)
    sweep.run(executor, sweep.missing(), observer or SweepObserver(), lambda: executor.wants_to_stop)
    sweep.write_tables(sweep.tables())
    return sweep, executor


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = SweepFolder(tmp_path_factory.mktemp("undisturbed"))
    return run(plan_of(), folder)[0]


def outcome(sweep):
    return sweep.tables().summary, (sweep.folder / "trials.csv").read_text()


def test_decided_values_get_no_more_seeds_and_the_rows_are_those_that_ran(undisturbed):
    rows = {row.values["block_size"]: row for row in undisturbed.tables().summary}
    assert rows[5].decision is Decision.HURTS
    assert rows[9].decision is Decision.HELPS
    assert rows[3].decision is Decision.UNDECIDED
    assert rows["none"].n == rows[3].n == 8 > max(rows[5].n, rows[9].n) >= 3
    assert not undisturbed.missing()
    assert not undisturbed.unfinished()
    lines = (undisturbed.folder / "trials.csv").read_text().splitlines()
    assert len(lines) == 1 + sum(row.n for row in rows.values())
    assert rows[3].design == "3..8"


@pytest.mark.slow
def test_a_sweep_that_is_stopped_at_random_moments_ends_with_the_same_runs_and_decisions(undisturbed, tmp_path):
    chance = random.Random(0)
    for number in range(10):
        folder, runs = SweepFolder(tmp_path / str(number)), []
        while True:
            sweep, executor = run(plan_of(), folder, stop_after=chance.randint(1, 6))
            runs += [assignment.digest for assignment in executor.submitted]
            if not sweep.missing():
                break
        assert outcome(sweep) == outcome(undisturbed)
        assert len(runs) == len(set(runs)) == len(undisturbed.asked_for())


@pytest.mark.parametrize("num_slots", [1, 3, 16])
def test_the_number_of_jobs_changes_nothing(undisturbed, tmp_path, num_slots):
    sweep, _ = run(plan_of(), SweepFolder(tmp_path), num_slots=num_slots)
    assert outcome(sweep) == outcome(undisturbed)


def test_looks_are_told_with_the_trials_that_follow(tmp_path):
    class Listening(SweepObserver):
        heard = ()

        def went_on(self, num_trials):
            self.heard = (*self.heard, num_trials)

    observer = Listening()
    sweep, _ = run(plan_of(), SweepFolder(tmp_path), observer)
    assert len(observer.heard) == 5
    assert 12 + sum(observer.heard) == len(sweep.asked_for())


def test_a_failed_trial_leaves_its_pair_out_and_holds_nothing_up(tmp_path):
    sweep, _ = run(plan_of(), SweepFolder(tmp_path), fails={(3, 1)})
    row = next(row for row in sweep.tables().summary if row.values["block_size"] == 3)
    assert (row.decision, row.n) == (Decision.UNDECIDED, 7)
    assert [result.status for result in sweep.unfinished().values()] == ["failed"]
    assert sweep.missing() == []
    assert len(sweep.missing(retry_failed=True)) == 1


def test_every_failed_trial_is_retried_and_one_that_fails_again_holds_no_other_up(tmp_path):
    folder = SweepFolder(tmp_path)
    run(plan_of(), folder, fails={(3, 0), (3, 5)})
    sweep, executor = Sweep(plan_of(), folder), Scattering(folder, fails={(3, 0)})
    assert len(sweep.missing(retry_failed=True)) == 2
    sweep.run(executor, sweep.missing(retry_failed=True), SweepObserver())
    assert [result.seed for result in sweep.unfinished().values()] == [0]
    assert len(executor.submitted) == 2


def test_a_sweep_with_nothing_to_compare_runs_a_few_seeds(tmp_path):
    base = {**TINY, "regularizer": {"name": "none"}}
    plan = make_plan(Experiment.model_validate({"base": base, "sweep": {"optimizer.lr": [0.1, 0.2]}, "seeds": "3..8"}))
    assert len(plan.trials) == 6
    assert plan.experiment.design == "fixed"


def test_without_a_baseline_a_file_of_no_seeds_has_three_and_with_one_a_design():
    from tdbench.sweep.experiment import from_flags

    file = experiment_of({"sweep": {"block_size": [3]}})
    assert from_flags(file, {}, (), (), None, "off").seeds == (0, 1, 2)
    uncompared = experiment_of({"sweep": {"block_size": [3]}, "baseline": "off"})
    assert from_flags(uncompared, {}, (), (), None, "none").design == "3..10"
    with pytest.raises(ConfigError, match="needs a baseline"):
        experiment_of({"sweep": {"block_size": [3]}, "baseline": "off", "seeds": [0, 1, 2, 3], "first_look": 3})


def test_the_validation_error_as_metric_needs_images_that_are_held_out():
    with pytest.raises(ConfigError, match=r"valid_error_pct needs images that are held out: --set data.valid_fraction"):
        plan_of(metric="valid_error_pct")
    plan_of(metric="valid_error_pct", base={**TINY, "data": {"train_fraction": 0.1, "valid_fraction": 0.2}})


def test_a_fresh_start_takes_nothing_of_what_was_there(undisturbed, tmp_path):
    folder = SweepFolder(tmp_path)
    run(plan_of(), folder)
    sweep = Sweep(plan_of(), folder)
    first = sweep.missing(fresh=True)
    assert len(first) == 12
    executor = Scattering(folder)
    sweep.run(executor, first, SweepObserver(), fresh=True)
    assert len(executor.submitted) == len(undisturbed.asked_for())


def test_a_finished_sweep_needs_no_statistics_to_say_so(tmp_path, monkeypatch):
    run(plan_of(), SweepFolder(tmp_path))
    monkeypatch.setattr(Findings, "_evidence", None)
    sweep = Sweep(plan_of(), SweepFolder(tmp_path))
    assert sweep.missing() == []
    assert sweep.tables().summary


@pytest.mark.parametrize("change", [{"seeds": "3..9"}, {"seeds": "4..8"}, {"seeds": 8}, {"smallest": 0.5}])
def test_a_design_is_not_changed_afterwards(tmp_path, change):
    plan = plan_of()
    folder = SweepFolder(tmp_path)
    folder.write_sweep(plan.tree())
    assert plan.tree()["seeds"] == "3..8"
    open_sweep(plan, tmp_path)
    with pytest.raises(FolderError, match=r"holds another sweep: (design|smallest) is .* there and .* here"):
        open_sweep(plan_of(**change), tmp_path)


def test_more_fixed_seeds_after_a_look_are_told_in_verdict_and_table(tmp_path):
    folder = SweepFolder(tmp_path)

    def look(num_seeds):
        sweep = open_sweep(plan_of(num_seeds), tmp_path)
        folder.write_sweep(sweep.plan.tree())
        executor = Scattering(folder)
        sweep.run(executor, sweep.missing(), SweepObserver())
        sweep.write_tables(sweep.tables())
        return {row.values["block_size"]: row for row in sweep.tables().summary}

    assert look(3)[5].looks == ""
    rows = look(5)
    assert rows[5].verdict == "hurts (looked at n = 3 and 5: not corrected for that)"
    assert (rows[5].looks, rows["none"].verdict) == ("3", "baseline")
    assert look(5)[5].verdict == rows[5].verdict  # the same again is no other look
    assert look(6)[5].looks == "3 5"


def test_a_sweep_of_other_seeds_is_written_as_it_is(tmp_path):
    tree = plan_of([20, 21, 22, 23], first_look=3).tree()
    assert experiment_of(tree).seeds == (20, 21, 22, 23)
    assert (tree["first_look"], experiment_of(tree).design) == (3, "3..4")


@pytest.mark.parametrize(("seeds", "first_look"), [(5, 6), (5, 1), ([1, 2, 3], 4)])
def test_a_first_look_without_its_seeds_is_refused(seeds, first_look):
    with pytest.raises(ConfigError, match="first_look must be"):
        experiment_of({"sweep": {"block_size": [3]}, "seeds": seeds, "first_look": first_look})
