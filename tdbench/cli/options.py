"""The flags that commands share, and how they become overrides of the configuration."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tdbench.errors import ConfigError

_RUN = "The run"
_MACHINE = "The machine"
_OUTPUT = "Output"

ConfigFile = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG.yaml]", help="A run's configuration; flags override it.")
]
Experiment = Annotated[
    Path | None,
    typer.Argument(metavar="[EXPERIMENT.yaml]", help="An experiment, such as ablations/block_size.yaml, or a run."),
]
Data = Annotated[
    str | None,
    typer.Option(help="digits, fashion_mnist, cifar10, cifar100, svhn, stl10, folder.", rich_help_panel=_RUN),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where the data set lies, or is downloaded to.", rich_help_panel=_RUN),
]
TrainFraction = Annotated[
    float | None,
    typer.Option(metavar="F", help="Share of the training images, balanced over classes.", rich_help_panel=_RUN),
]
Model = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Network: resnet8, resnet18, ..., FILE.py:make_model", rich_help_panel=_RUN),
]
Regularizer = Annotated[
    str | None, typer.Option(metavar="NAME", help="Method: targetdrop, none, ..., FILE.py:MyDrop", rich_help_panel=_RUN)
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
        "--set", metavar="KEY=VALUE", help="Any other field, such as block_size=3; repeatable.", rich_help_panel=_RUN
    ),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=_MACHINE)]
Precision = Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.", rich_help_panel=_MACHINE)]
Compile = Annotated[
    bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile.", rich_help_panel=_MACHINE)
]
Threads = Annotated[int | None, typer.Option(metavar="N", help="CPU threads.", rich_help_panel=_MACHINE)]
Deterministic = Annotated[
    bool | None,
    typer.Option("--deterministic/--no-deterministic", help="Deterministic kernels.", rich_help_panel=_MACHINE),
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
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the closing line.", rich_help_panel=_OUTPUT)]
Json = Annotated[bool, typer.Option("--json", help="Print only the result, as JSON.", rich_help_panel=_OUTPUT)]


def overrides(flags: dict[str, Any], assignments: list[str] | None) -> dict[str, Any]:
    """Return the flags that were given, and `--set` on top of them, as overrides of the configuration.

    Raises:
        ConfigError: An assignment is not KEY=VALUE, or its value is not YAML.
    """
    from yaml import YAMLError

    from tdbench.config import parse_yaml

    given = {key: value for key, value in flags.items() if value is not None}
    for assignment in assignments or ():
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set must be KEY=VALUE, got {assignment!r}")
        try:
            given[key.strip()] = parse_yaml(text)
        except (YAMLError, ValueError, RecursionError):
            raise ConfigError(f"--set {key.strip()} must be a YAML value, got {text!r}") from None
    return given
