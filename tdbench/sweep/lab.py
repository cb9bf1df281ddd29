"""The door to the lab: what has to know torch runs in processes that are forked from a server which has imported it.

Here nothing of it is imported; what runs there is named as text, `module:function`. The server is started early, so
that its imports overlap with the planning of a sweep.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from tdbench.config import RunConfig
from tdbench.errors import TdbenchError, line_of
from tdbench.regularizers.config import declared
from tdbench.regularizers.registry import StandIn, declare
from tdbench.user_code import is_user_code

PRELOADED = "tdbench.sweep.worker"


def context() -> BaseContext:
    """Return the way to start the lab's processes: forked from a server that has imported what they need."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([PRELOADED])
    return found


def start() -> None:
    """Let the server begin its imports, and return at once."""
    if context().get_start_method() == "forkserver":
        with main_module_hidden():
            forkserver.ensure_running()


def call(target: str, *arguments: Any) -> Any:
    """Return what `module:function` returns; it is imported here, in the process that runs it."""
    module, _, function = target.partition(":")
    return getattr(import_module(module), function)(*arguments)


def ask(target: str, *arguments: Any) -> Any:
    """Return what `module:function` returns in a process of the lab, or raise what it raises: plain data, both ways.

    Raises:
        TdbenchError: The function raises it, or its process was killed.
    """
    process, link = start_process(f"{__name__}:answer", target, *arguments)
    try:
        value, error = link.recv()
    except EOFError:
        raise TdbenchError("the process that looks at the sweep's trials was killed; is the memory full?") from None
    finally:  # an interruption too: nobody waits for the answer any more
        process.kill()
        process.join()
        link.close()
    if error is not None:
        raise error
    return value


def answer(target: str, *arguments: Any) -> None:
    """Send what `module:function` returns, or raises, over the line that is the last argument.

    What the user's code prints meanwhile is kept out of what the command prints.
    """
    *arguments, link = arguments  # type: ignore[assignment]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        said: tuple[Any, BaseException | None] = call(target, *arguments), None
    except (Exception, SystemExit) as error:
        said = None, error
    try:
        pickle.loads(pickle.dumps(said))  # an exception of the user's may be packed, and not unpacked
    except Exception as error:
        said = None, TdbenchError(line_of(said[1] or error))
    link.send(said)


def start_process(target: str, *arguments: Any) -> tuple[BaseProcess, Connection]:
    """Start `module:function` as a process of the lab, and return it with a line to it.

    The function is given the arguments and its own end of the line.
    """
    link, theirs = context().Pipe()
    process = context().Process(target=_main, args=(target, *arguments, theirs))  # type: ignore[attr-defined]
    with main_module_hidden():
        process.start()
    theirs.close()
    return process, link


def _main(target: str, *arguments: Any) -> None:
    """Be a process of the lab: `module:function` is its main function, and Ctrl-C, which reaches all, the driver's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch_parent()
    call(target, *arguments)


def watch_parent() -> None:
    """End this process when the one that drives the sweep is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a process of the lab is a child"

    def die_with_it() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=die_with_it, daemon=True).start()


def declare_user_methods(names: Iterable[Any]) -> None:
    """Let this process know the user's methods among some names without importing their files.

    Raises:
        ConfigError: A file does not import, or does not hold a layer of that name.
    """
    theirs = sorted({name for name in names if isinstance(name, str) and is_user_code(name)})
    if theirs:
        for name, declaration in ask("tdbench.training.ahead:declarations", theirs).items():
            declare(name, declared(declaration, StandIn))


def understood(configs: Sequence[RunConfig]) -> list[RunConfig]:
    """Return configurations as the user's methods themselves read them: their validators may refuse and change values.

    Raises:
        ConfigError: A value is refused.
    """
    trees = {id(one): one.regularizer.model_dump(mode="json") for one in configs if is_stand_in(one)}
    if not trees:
        return list(configs)
    read = dict(zip(trees, ask("tdbench.training.ahead:read_methods", list(trees.values())), strict=True))
    return [
        one.model_copy(update={"regularizer": type(one.regularizer).model_validate(read[id(one)])})
        if id(one) in read
        else one
        for one in configs
    ]


def is_stand_in(config: RunConfig) -> bool:
    return isinstance(config.regularizer, StandIn)


@contextmanager
def main_module_hidden() -> Iterator[None]:
    """Keep multiprocessing from importing the caller's main script again in each process: the lab needs none of it.

    It reads `__main__.__file__` and `__main__.__spec__` for that, and has no switch.
    """
    main = sys.modules["__main__"]
    saved: dict[str, Any] = {name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)}
    try:
        for name in saved:
            setattr(main, name, None)
        yield
    finally:
        vars(main).update(saved)
