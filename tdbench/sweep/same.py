"""Whether a folder holds the sweep that is asked for, and what it adds to it."""

from dataclasses import replace
from typing import TypeVar

from tdbench.config.contents import as_far_as_known, changes, differing, shortened
from tdbench.errors import FolderError, TdbenchError
from tdbench.store.folders import CONFIG, SUMMARY_TABLE, SUMMARY_TEXT, SWEEP, TRIALS, TRIALS_TABLE, TUNE, SweepFolder
from tdbench.sweep.experiment import Experiment
from tdbench.sweep.points import Plan

P = TypeVar("P", bound=Plan)


def same_sweep(plan: P, folder: SweepFolder, *, fresh: bool = False) -> P:
    """Return the plan with what a folder adds to it: new seeds of a fixed design are another look, and are told.

    The folder is new, or has this sweep with these or other values and fixed seeds. A `fresh` start may be on other
    data, or of other code.

    Raises:
        FolderError: It holds another sweep, or something else.
    """
    tree = folder.read_sweep()
    if tree is None:
        for name, what in ((CONFIG, "a run"), (TUNE, "a search")):
            if (folder / name).exists():
                raise FolderError(f"{folder.path} holds {what}, no sweep; take another --out")
        if strange := [name for name in (TRIALS_TABLE, SUMMARY_TABLE, SUMMARY_TEXT) if (folder / name).exists()]:
            raise FolderError(f"{folder.path} holds {' '.join(strange)} of something else; take another --out")
        above = folder.path.resolve().parents
        if len(above) > 1 and above[0].name == TRIALS and (above[1] / SWEEP).exists():
            raise FolderError(f"{folder.path} lies among the trials of the sweep {above[1]}; take another --out")
        return plan
    try:
        held = Experiment.model_validate(tree)
        there = plan.settings_there(held)
    except FolderError as error:
        raise FolderError(f"{folder.path} holds another sweep: {error}; take another --out") from error
    except (ValueError, TdbenchError) as error:
        raise FolderError(f"{folder / SWEEP} is damaged, or of another release; take another --out") from error
    here = plan.settings()
    for name in held.arms.keys() & plan.experiment.arms.keys():
        here[f"arm {name}"], there[f"arm {name}"] = plan.experiment.arms[name], held.arms[name]
    if different := differing(here, there):
        raise FolderError(f"{folder.path} holds another sweep: {shortened(different)}; take another --out")
    before = folder.read_contents()
    now = as_far_as_known(plan.contents(), before)
    if before is not None and not fresh and folder.has_trained() and (changed := changes(before, now)):
        raise FolderError(
            f"{folder.path} holds a sweep on other data or of other code: {shortened(changed)}; take another --out"
        )
    looks, seen, seeds = held.looks, folder.most_seeds_seen(), plan.experiment.seeds
    is_other = plan.experiment.first_look is None and set(held.seeds) != set(seeds)
    if is_other and seen > 1 and seen not in (*looks, len(seeds)):
        looks = (*looks, seen)
    return replace(plan, experiment=plan.experiment.model_copy(update={"looks": looks}))
