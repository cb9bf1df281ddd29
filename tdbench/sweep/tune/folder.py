"""The folder of a search: its files, by name, and whether it is this search's."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from tdbench.config.contents import as_far_as_known, changes, differing, shortened
from tdbench.config.tree import foreign_method, named_as_here
from tdbench.errors import FolderError, TdbenchError
from tdbench.store.files import read_file, read_tree, to_yaml, write_atomically
from tdbench.store.folders import CONFIG, CONTENTS, SWEEP, TRIALS, TUNE, RunFolder, read_contents, write_contents
from tdbench.sweep.tune.asked import TunePlan, asked_of, plan_tune

JOURNAL, TUNE_TEXT = "journal.log", "tune.md"
SPENT = ".spent_s"


class TuneFolder:
    """One search on disk: `trials/<digest>/` are run folders, and `journal.log` is Optuna's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def trial(self, digest: str) -> RunFolder:
        """Return the run folder of a trial."""
        return RunFolder(self.path / TRIALS / digest)

    def read_asked(self) -> dict[str, Any] | None:
        """Return the tree in `tune.yaml`, or None where there is none."""
        return read_tree(self / TUNE)

    def write_asked(self, plan: TunePlan) -> None:
        """Write what is searched, and what its settings mean."""
        tree = {name: value for name, value in plan.asked.model_dump(mode="json").items() if value not in (None, {})}
        write_atomically(self / TUNE, to_yaml(tree).encode())
        write_contents(self / CONTENTS, plan.contents)

    def read_spent_s(self) -> float:
        """Return the seconds that earlier calls have searched for."""
        with suppress(OSError, ValueError):
            return float(read_file(self / SPENT))
        return 0.0

    def write_spent_s(self, seconds: float) -> None:
        """Write how long all calls have searched for, to this moment."""
        write_atomically(self / SPENT, f"{seconds:.1f}\n".encode())

    def read_contents(self) -> dict[str, dict[str, str]] | None:
        """Return what the settings meant, or None where that is not known."""
        return read_contents(self / CONTENTS)


def check_same(plan: TunePlan, folder: TuneFolder) -> None:
    """Check that the folder is new, or holds this search with as many or other candidates.

    Raises:
        FolderError: It holds another search, or something else.
    """
    tree = folder.read_asked()
    if tree is None:
        for name, what in ((CONFIG, "a run"), (SWEEP, "a sweep"), (JOURNAL, f"a {JOURNAL} without {TUNE}")):
            if (folder / name).exists():
                raise FolderError(f"{folder.path} holds {what}, no search; take another --out")
        return
    try:
        held = asked_of(tree)
        base_there = named_as_here(held.base, plan.base)
        if foreign := foreign_method(base_there, plan.base):
            raise FolderError(f"{folder.path} holds another search: {foreign}; take another --out")
        there = plan_tune(held.model_copy(update={"base": base_there})).settings()
    except FolderError:
        raise
    except TdbenchError as error:
        raise FolderError(f"{folder / TUNE} is damaged, or of another release; take another --out") from error
    if different := differing(plan.settings(), there):
        raise FolderError(f"{folder.path} holds another search: {shortened(different)}; take another --out")
    before = folder.read_contents()
    now = as_far_as_known(plan.contents, before)
    if before is not None and (folder / JOURNAL).exists() and (changed := changes(before, now)):
        raise FolderError(
            f"{folder.path} holds a search on other data or of other code: {shortened(changed)}; take another --out"
        )
