"""The command line: the only room that knows Typer and Rich. Each command imports what it needs when it runs."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from tdbench.cli.ablate import ablate_command
from tdbench.cli.audit import audit_command
from tdbench.cli.commands import Commands
from tdbench.cli.compare import compare_command
from tdbench.cli.completion import words_whole
from tdbench.cli.hints import meant_by
from tdbench.cli.list import list_command
from tdbench.cli.output import lasting_streams
from tdbench.cli.profile import profile_command
from tdbench.cli.report import report_command
from tdbench.cli.show import show_command
from tdbench.cli.train import train_command
from tdbench.cli.tune import tune_command
from tdbench.errors import TdbenchError, clipped, line_of, notes_in_one_line, plain
from tdbench.user_code import reason_of

app = typer.Typer(
    name="tdbench",
    cls=Commands,
    help="Does this CNN regularizer help here, at which settings, with what certainty, and at what cost?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train_command)
app.command("ablate")(ablate_command)
app.command("tune")(tune_command)
app.command("compare")(compare_command)
app.command("report")(report_command)
app.command("audit")(audit_command)
app.command("show")(show_command)
app.command("profile")(profile_command)
app.command("list")(list_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from tdbench import __version__

        typer.echo(f"tdbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; an error is one message on stderr.

    A process that torchrun has started for a run of several ends here, see `training.parallel.end`.
    """
    from tdbench.training.parallel import end, has_joined

    try:
        with lasting_streams(), notes_in_one_line():
            code = _run(arguments)
        return end(code)
    except SystemExit as stop:
        if isinstance(stop.code, int):
            end(stop.code)
        raise
    except BaseException:  # with TDBENCH_DEBUG=1
        if has_joined():
            traceback.print_exc()
            end(1)
        raise


def _run(arguments: Sequence[str] | None) -> int:
    try:
        with words_whole():
            code = app(args=arguments, prog_name="tdbench", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", 130)
    except TdbenchError as error:
        if os.environ.get("TDBENCH_DEBUG") == "1":
            raise
        return _complain(str(error), error.exit_code)
    except Exception as error:
        message = getattr(error, "format_message", None)  # click's usage errors; Typer may bring its own click
        if message is None:
            if os.environ.get("TDBENCH_DEBUG") == "1":
                raise
            reason = reason_of(error)  # which names the user's own file and line, where it was that
            hint = " (a defect of tdbench; TDBENCH_DEBUG=1 shows where)" if reason == line_of(error) else ""
            return _complain(f"{reason}{hint}", 1)
        if type(error).__name__ == "NoSuchOption":
            context = getattr(error, "ctx", None)
            command = context.command_path if context is not None else "tdbench"
            option = str(getattr(error, "option_name", ""))
            if meant := meant_by(option):
                return _complain(f"No such option: {option}; {meant}", 2)
            return _complain(f"{message()} ({command} --help lists what there is)", 2)
        return _complain(message(), getattr(error, "exit_code", 2)) if message() else 2
    if code == 130:  # what Typer makes of a KeyboardInterrupt
        return _complain("interrupted", 130)
    return code if isinstance(code, int) else 0


def _complain(message: str, code: int) -> int:
    print(plain(clipped(f"tdbench: {message}")), file=sys.stderr)
    return code
