"""An experiment: what a sweep varies, over which seeds, against which baseline; from flags or from a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError, ValidationInfo, field_validator, model_validator

from tdbench.config import Given
from tdbench.config.loading import explain, file_given, read_yaml, tree_of
from tdbench.errors import ConfigError, OutOfRange
from tdbench.knobs import Section, knob
from tdbench.store.files import as_text
from tdbench.store.rows import MORE_IS_BETTER, TEST_ERROR
from tdbench.sweep.own.script import read_of
from tdbench.sweep.ready import found_file
from tdbench.sweep.values import FEWEST_SEEDS, MOST_TRIALS, parse_design, parse_params, parse_seeds

DEFAULT_DESIGN = "3..10"
UNCOMPARED_SEEDS = 3  # where there is nothing to decide


class Experiment(Section):
    """A sweep over values of keys, a grid if there are several, or over arms: named sets of settings."""

    title: str = knob("", "what the experiment asks, in a line")
    base: dict[str, Any] = knob({}, "configuration that the trials share: a tree of keys, complete or partial")
    settings: dict[str, Any] = knob({}, "knobs of methods that differ: key -> value, for every method that has the key")
    sweep: dict[str, tuple[Any, ...]] = knob({}, "key -> values; null: the values declared beside the knob")
    arms: dict[str, dict[str, Any]] = knob({}, "name -> settings, in place of a grid")
    command: str = knob(
        "", "a script of your own as the trials, with {KEY}, {seed} and {out} in it, in place of a base"
    )
    function: str = knob("", "a function of your own as the trials, by its name")
    read: tuple[str, ...] = knob((), "where the script leaves its figures: FILE.json:KEY, or stdout:REGEX")
    higher_is_better: bool | None = knob(None, "of a metric of your own: more of it is better")
    seeds: tuple[int, ...] = knob((), "FIRST..LAST: each value gets seeds until it is decided; or how many; or which")
    first_look: int | None = knob(None, "seeds of the first look, where values get seeds until they are decided")
    looks: tuple[int, ...] = knob((), "seeds at which this sweep was looked at before it was given others")
    smallest: float | None = knob(
        None, "smallest difference that matters, in per cent points: one within it is an equivalence", gt=0
    )
    baseline: str = knob("none", "none: the same without a regularizer; a swept value or an arm; off")
    metric: str = knob(
        TEST_ERROR, "what the verdicts are about, of the fields of result.json; declared before the sweep begins"
    )
    published: dict[str, float] = knob({}, "arm or value -> published test error in per cent")
    published_source: str = knob("", "where the published figures stand")

    @field_validator("sweep", mode="before")
    @classmethod
    def _default_values(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: () if values is None else values for key, values in value.items()}
        return value

    @field_validator("arms", "published", mode="before")
    @classmethod
    def _named_by_text(cls, value: Any) -> Any:
        """Take an arm, or a published value, that YAML reads as a number."""
        if not isinstance(value, Mapping):
            return value
        named = {as_text(key): item for key, item in value.items()}
        if len(named) < len(value):
            raise OutOfRange("a table in which every name stands once", [*value])
        return named

    @model_validator(mode="before")
    @classmethod
    def _sequential(cls, tree: Any) -> Any:
        """Take a design in place of seeds."""
        if not isinstance(tree, Mapping):
            return tree
        tree = named_metric(tree)
        is_compared = tree.get("baseline", "none") not in ("off", False)
        seeds = tree.get("seeds")
        if seeds is None:
            seeds = DEFAULT_DESIGN if is_compared else UNCOMPARED_SEEDS
        try:
            first, last = parse_design(seeds) if isinstance(seeds, str) else (None, None)
        except ValueError:  # told below, where the key is known
            first = last = None
        if first is None or last is None:
            return {**tree, "seeds": seeds}
        if not is_compared:
            raise ValueError(f"seeds {seeds} needs a baseline to decide against; without one say how many seeds")
        return {**tree, "seeds": tuple(range(last)), "first_look": first}

    @field_validator("read", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        plain = getattr(value, "tolist", lambda: value)()  # of NumPy
        if isinstance(plain, int) and not isinstance(plain, bool):
            if plain < 1:
                raise OutOfRange("at least one seed", plain)
            if plain > MOST_TRIALS:
                raise OutOfRange(f"at most {MOST_TRIALS:,} seeds", plain)
            return tuple(range(plain))
        if isinstance(plain, str):
            parse_design(plain)
        if not isinstance(plain, Sequence):
            raise OutOfRange("FIRST..LAST, such as 3..20, or how many, or a list of seeds", value)
        if len(plain) > MOST_TRIALS:
            raise OutOfRange(f"at most {MOST_TRIALS:,} seeds", len(plain))
        return [getattr(item, "item", lambda item=item: item)() for item in plain]

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) < len(value) or min(value) < 0:
            raise OutOfRange("at least one seed, each once and none below 0", list(value))
        return value

    @field_validator("baseline", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        if value is False:  # what YAML makes of `off`
            return "off"
        return "none" if value is None else str(value) if isinstance(value, (int, float)) else value

    @property
    def design(self) -> str:
        """How seeds are looked at: `fixed`, or the first and the last look of a sequential design."""
        return "fixed" if self.first_look is None else f"{self.first_look}..{len(self.seeds)}"

    @property
    def is_own(self) -> bool:
        """Whether the trials are a script or a function of the user's."""
        return bool(self.command or self.function)

    @property
    def more_is_better(self) -> bool:
        """Whether more of the metric is better."""
        if self.higher_is_better is not None:
            return self.higher_is_better
        return MORE_IS_BETTER.get(self.metric, False)

    @field_validator("metric")
    @classmethod
    def _is_known(cls, value: str, info: ValidationInfo) -> str:
        if value not in MORE_IS_BETTER and not (info.data.get("command") or info.data.get("function")):
            raise OutOfRange(f"one of {', '.join(MORE_IS_BETTER)}", value, known=tuple(MORE_IS_BETTER))
        return value

    @field_validator("first_look")
    @classmethod
    def _within(cls, value: int | None, info: ValidationInfo) -> int | None:
        num_seeds = len(info.data.get("seeds", ()))
        if value is not None and num_seeds and not FEWEST_SEEDS <= value <= num_seeds:
            raise OutOfRange(f"from {FEWEST_SEEDS} to the number of seeds, {num_seeds}", value)
        return value

    @model_validator(mode="after")
    def _something_varies(self) -> "Experiment":
        if self.first_look is not None and self.baseline == "off":
            raise ValueError(f"seeds {self.design} needs a baseline to decide against; without one say how many seeds")
        if bool(self.sweep) == bool(self.arms):
            raise ValueError("an experiment must have either sweep (key -> values) or arms (name -> settings)")
        return self


def named_metric(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a tree that names what a script of the user's is judged by: the first figure that it leaves."""
    if "metric" in tree or not (tree.get("command") or tree.get("function")):
        return tree
    read = tree.get("read") or ()
    read = (read,) if isinstance(read, str) else read
    if isinstance(read, (list, tuple)) and read and isinstance(read[0], str):
        try:
            return {**tree, "metric": read_of(read[0]).name}
        except ConfigError:  # told where the script is planned
            return {**tree, "metric": "value"}
    return {**tree, "metric": "value"}


def read_experiment(config: Given) -> Experiment | None:
    """Return the experiment in a YAML file or a tree, or None where that is the configuration of one run.

    Raises:
        ConfigError: The file cannot be read, or is an experiment with an unknown or unsuitable key.
    """
    return experiment_in(read_given(config), file_given(config))


def read_given(config: Given) -> dict[str, Any]:
    """Return the tree in a YAML file, which may be an experiment that comes with tdbench, or the one that is given.

    Raises:
        ConfigError: The file cannot be read.
    """
    path = file_given(config)
    return tree_of(config) if path is None else read_yaml(found_file(Path(path)))


def experiment_in(tree: dict[str, Any], path: str | Path | None = None) -> Experiment | None:
    """Return the experiment in a tree, or None where that is the configuration of one run.

    Args:
        tree: A tree of keys.
        path: The file that it stood in, for messages.

    Raises:
        ConfigError: It is an experiment with an unknown or unsuitable key.
    """
    if not {"sweep", "arms"} & set(tree):
        return None
    return experiment_of(tree, "" if path is None else f"{path}: ")


def experiment_of(tree: dict[str, Any], where: str = "") -> Experiment:
    """Return the experiment in a tree.

    Raises:
        ConfigError: A key is unknown, or a value unsuitable.
    """
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        lines = [explain(one, Experiment.model_fields, lambda key: None) for one in error.errors()]
        raise ConfigError("\n".join(where + line for line in lines)) from error


def from_flags(
    experiment: Experiment | None,
    base: dict[str, Any],
    param: str | Sequence[str] | Mapping[str, Sequence[Any] | None],
    values: Sequence[str],
    seeds: int | Sequence[int] | str | None,
    baseline: str | None,
    metric: str | None = None,
    smallest: float | None = None,
    own: Mapping[str, Any] | None = None,
) -> Experiment:
    """Return an experiment put together from flags, on top of one from a file if there is one.

    Args:
        experiment: What the file held, or None.
        base: The configuration that the trials share, in place of the file's.
        param: Key to values, or `KEY` or `KEY=VALUES`, one or several; none: what the file sweeps.
        values: VALUES of each KEY, in their order, or none.
        seeds: `FIRST..LAST`, how many, or which; as text, separated by commas.
        baseline: `none`, a swept value, or `off`.
        metric: What the verdicts are about; None: what the file says.
        smallest: The smallest difference that matters; None: what the file says.
        own: The fields `command`, `function`, `read` and `higher_is_better`, those that are given.

    Raises:
        ConfigError: The flags do not fit together.
    """
    tree = {} if experiment is None else experiment.model_dump()
    if own and "read" in own:
        tree.pop("metric", None)
    tree |= {"base": base, **(own or {})}
    swept = parse_params(param, values, verbatim=bool(own))
    if swept:
        tree["sweep"], tree["arms"] = swept, {}
    if seeds is not None:
        tree["seeds"] = parse_seeds(seeds) if isinstance(seeds, str) else seeds
        tree["first_look"] = None
    if baseline is not None:
        tree["baseline"] = baseline
        if (
            experiment is not None and seeds is None
        ):  # with a baseline there is something to decide, without one nothing
            if baseline == "off" and experiment.first_look is not None:
                tree |= {"seeds": experiment.first_look, "first_look": None}
            elif baseline != "off" == experiment.baseline and experiment.seeds == tuple(range(UNCOMPARED_SEEDS)):
                tree["seeds"] = None
    if metric is not None:
        tree["metric"] = metric
    if smallest is not None:
        tree["smallest"] = smallest
    if not tree.get("sweep") and not tree.get("arms"):
        if own:
            raise ConfigError("--param must name what is filled into the command: --param p=0,0.1,0.2")
        tree["sweep"] = {"block_size": ()}
    return experiment_of(tree)
