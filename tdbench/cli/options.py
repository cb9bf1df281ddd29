"""The flags that commands share, and how they become overrides of the configuration."""

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from tdbench.cli import completion
from tdbench.cli.output import stdout_for_ourselves
from tdbench.errors import ConfigError
from tdbench.user_code import is_user_code

_RUN = "The run"
_MACHINE = "The machine"
_OUTPUT = "Output"

ConfigFile = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG.yaml]", help="A run's configuration; flags override it.")
]
Experiment = Annotated[
    Path | None,
    typer.Argument(
        metavar="[EXPERIMENT.yaml]",
        help="An experiment, such as ablations/block_size.yaml, or a run.",
        autocompletion=completion.experiments,
    ),
]
TuneFile = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG.yaml]", help="A run's configuration, or another search's tune.yaml.")
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="digits, fashion_mnist, cifar10, cifar100, svhn, stl10, folder, medmnist:..., hf:..., FILE.py:make_data",
        rich_help_panel=_RUN,
        autocompletion=completion.among(completion.data_sets),
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where the data set lies, or is downloaded to.", rich_help_panel=_RUN),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Where images are kept decoded.  [default: under --data-root]", rich_help_panel=_RUN
    ),
]
TrainFraction = Annotated[
    float | None,
    typer.Option(metavar="F", help="Share of the training images, balanced over classes.", rich_help_panel=_RUN),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Network: resnet8, resnet18, ..., FILE.py:make_model",
        rich_help_panel=_RUN,
        autocompletion=completion.among(completion.models),
    ),
]
Regularizer = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Method: targetdrop, none, ..., FILE.py:MyDrop; show and profile take A,B",
        rich_help_panel=_RUN,
        autocompletion=completion.listed(completion.methods),
    ),
]
Sites = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Where the method is put: stage1,stage2 or stage1.*", rich_help_panel=_RUN),
]
Match = Annotated[
    str | None,
    typer.Option(
        metavar="dropped=F", help="Solve the method's strength so that it drops F % of the units.", rich_help_panel=_RUN
    ),
]
Epochs = Annotated[int | None, typer.Option(metavar="N", help="Passes over the training images.", rich_help_panel=_RUN)]
MaxSteps = Annotated[
    int | None, typer.Option(metavar="N", help="Stop after so many optimizer steps.", rich_help_panel=_RUN)
]
BatchSize = Annotated[int | None, typer.Option(metavar="N", help="Images per optimizer step.", rich_help_panel=_RUN)]
EvalEvery = Annotated[
    int | None, typer.Option(metavar="N", help="Evaluate each so many epochs, and the last.", rich_help_panel=_RUN)
]
LearningRate = Annotated[
    float | None, typer.Option("--lr", metavar="F", help="Peak learning rate.", rich_help_panel=_RUN)
]
Seed = Annotated[
    int | None, typer.Option(metavar="N", help="Seed of weights, data order and method.", rich_help_panel=_RUN)
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any other field, such as block_size=3; repeatable.",
        rich_help_panel=_RUN,
        autocompletion=completion.setting,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="auto, cpu, cuda, cuda:N or mps.",
        rich_help_panel=_MACHINE,
        autocompletion=completion.among(lambda: ("auto", "cpu", "cuda", "mps")),
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="auto, fp32, bf16 or fp16.",
        rich_help_panel=_MACHINE,
        autocompletion=completion.among(completion.precisions),
    ),
]
Compile = Annotated[
    bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile.", rich_help_panel=_MACHINE)
]
Threads = Annotated[int | None, typer.Option(metavar="N", help="CPU threads.", rich_help_panel=_MACHINE)]
Deterministic = Annotated[
    bool | None,
    typer.Option("--deterministic/--no-deterministic", help="Deterministic kernels.", rich_help_panel=_MACHINE),
]


Trust = Annotated[
    bool | None,
    typer.Option(
        "--trust", help="Run code that a configuration file names and the command does not.", rich_help_panel=_MACHINE
    ),
]


def parse_out(text: str) -> Path:
    """Return the folder of `--out`.

    Raises:
        ConfigError: It is empty, which a Path would take for the working folder.
    """
    if not text:
        raise ConfigError("--out must name a folder, got '' (. is the working folder)")
    return Path(text)


Out = Annotated[
    Path | None,
    typer.Option(parser=parse_out, metavar="DIR", help="Folder of the results.", rich_help_panel=_OUTPUT),
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh/--resume", help="Start over, or go on where the folder stopped.", rich_help_panel=_OUTPUT),
]
TorchProfile = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Write a Chrome trace of ten training steps there.", rich_help_panel=_OUTPUT),
]
Log = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A,B",
        help="Log there too: wandb, mlflow, tensorboard. One that fails costs a note.",
        rich_help_panel=_OUTPUT,
        autocompletion=completion.listed(completion.loggers),
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the closing line.", rich_help_panel=_OUTPUT)]
Json = Annotated[bool, typer.Option("--json", help="Print only the result, as JSON.", rich_help_panel=_OUTPUT)]


# The flags that make a run's configuration, in the order in which --help shows them. Every command takes them all.
RUN_FLAGS: dict[str, Any] = {
    "data": Data,
    "data_root": DataRoot,
    "cache": Cache,
    "train_fraction": TrainFraction,
    "model": Model,
    "regularizer": Regularizer,
    "sites": Sites,
    "match": Match,
    "epochs": Epochs,
    "max_steps": MaxSteps,
    "batch_size": BatchSize,
    "eval_every": EvalEvery,
    "lr": LearningRate,
    "seed": Seed,
    "assignments": Set,
    "device": Device,
    "precision": Precision,
    "compile": Compile,
    "threads": Threads,
    "deterministic": Deterministic,
    "trust": Trust,
}


def with_run_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of a run; they reach it as one argument, `given`: keys with their values.

    The command's own parameters come after them in --help.
    """
    own = inspect.signature(command, eval_str=True).parameters
    flags = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in RUN_FLAGS.items()
    ]
    positional = [own[name] for name in own if name == "config"]
    rest = [own[name].replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in own if name not in ("config", "given")]

    @wraps(command)
    def wrapped(config: Path | None = None, **arguments: Any) -> None:
        from tdbench.cli.preparing import preparation_shown
        from tdbench.config.contents import one_look
        from tdbench.config.trust import trusting

        flags = {name: arguments.pop(name) for name in RUN_FLAGS}
        trust, given = bool(flags.pop("trust")), overrides(flags)
        silent = arguments.get("quiet") or arguments.get("json")
        with stdout_for_ourselves(), one_look(), trusting([given, arguments], trust), preparation_shown(bool(silent)):
            command(config=config, given=given, **arguments)

    wrapped.__signature__ = inspect.Signature([*positional, *flags, *rest])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {one.name: one.annotation for one in (*positional, *flags, *rest)}
    del wrapped.__wrapped__
    return wrapped


def overrides(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the flags that were given, and `--set` on top of them, as overrides of the configuration.

    Raises:
        ConfigError: An assignment is not KEY=VALUE, or its value is not YAML.
    """
    from yaml import YAMLError

    from tdbench.config import FLAGS, parse_yaml

    assignments = flags.pop("assignments") or ()
    given = {key: value for key, value in flags.items() if value is not None}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip() or not text.strip():
            raise ConfigError(f"--set must be KEY=VALUE, with null for no value, got {assignment!r}")
        try:
            given[FLAGS.get(key.strip(), key.strip())] = parse_yaml(text)  # which a flag does not hide
        except (YAMLError, ValueError, RecursionError):
            raise ConfigError(f"--set {key.strip()} must be a YAML value, got {text!r}") from None
    return given


def methods_in(given: dict[str, Any]) -> list[str] | None:
    """Take the methods of `--regularizer A,B` out of what was given, each once; None where it was not given.

    Raises:
        ConfigError: It names none, or an empty one.
    """
    text = given.pop("regularizer", None)
    if text is None:
        return None
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if not all(names):
        raise ConfigError(f"--regularizer must name at least one method, and none that is empty, got {text!r}")
    return names


def names_user_method(given: dict[str, Any], methods: Sequence[str] | None = None) -> bool:
    """Return whether a method of the user's is among those given, whose knobs are known only where torch is loaded."""
    names = [given.get("regularizer"), given.get("regularizer.name"), *(methods or ())]
    return any(isinstance(name, str) and is_user_code(name) for name in names)
