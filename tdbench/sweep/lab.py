"""The door to the lab: what has to know torch runs in processes that are forked from a server which has imported it.

Here nothing of it is imported; what runs there is named as text, `module:function`. The server is started early, so
that its imports overlap with the planning of a sweep.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from tdbench.config import RunConfig
from tdbench.errors import ConfigError, TdbenchError, line_of, notes_in_one_line
from tdbench.regularizers.config import declared
from tdbench.regularizers.registry import StandIn, declare, forget_declared
from tdbench.store.progress import tell, telling
from tdbench.user_code import is_user_code

STOPPING = {signal.SIGTERM, signal.SIGHUP} if hasattr(signal, "pthread_sigmask") else set()
LONGEST_TEMPDIR, SHORT_PLACES = 70, ("/tmp", "/var/tmp", "/dev/shm")
PRELOADED, OWN = "tdbench.sweep.worker", "tdbench.sweep.own.work"


_preloaded = [PRELOADED]


@dataclass(frozen=True)
class Told:
    """How far a process of the lab is with what it makes ready."""

    share: float
    what: str


def without_torch() -> None:
    """Let the server, unless it runs already, import no torch: the processes to come run a user's own script."""
    _preloaded[:] = [OWN]


def context() -> BaseContext:
    """Return the way to start the lab's processes: forked from a server that has imported what they need."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([*_preloaded])
    return found


def start() -> None:
    """Let the server begin its imports, and return at once.

    Raises:
        TdbenchError: There is no folder for its sockets.
    """
    if context().get_start_method() == "forkserver":
        make_place_for_sockets()
        with main_module_hidden(), signals_blocked():
            forkserver.ensure_running()


def make_place_for_sockets() -> None:
    """Let multiprocessing, and Ray, put their sockets where the path is short enough, whatever TMPDIR says.

    The path of a socket may have about a hundred characters.

    Raises:
        TdbenchError: There is no such place.
    """
    if len(os.fsencode(tempfile.gettempdir())) <= LONGEST_TEMPDIR:
        return
    place = next((place for place in SHORT_PLACES if os.access(place, os.W_OK | os.X_OK)), None)
    if place is None:
        raise TdbenchError(f"TMPDIR is too long for sockets ({tempfile.gettempdir()}); set it to a shorter path")
    os.environ.setdefault("RAY_TMPDIR", place)
    before, tempfile.tempdir = tempfile.tempdir, place
    try:
        util.get_temp_dir()  # makes one for the life of this process
    finally:
        tempfile.tempdir = before


def call(target: str, *arguments: Any) -> Any:
    """Return what `module:function` returns; it is imported here, in the process that runs it."""
    module, _, function = target.partition(":")
    return getattr(import_module(module), function)(*arguments)


def ask(target: str, *arguments: Any, environment: Mapping[str, str] | None = None) -> Any:
    """Return what `module:function` returns in a process of the lab, or raise what it raises: plain data, both ways.

    Args:
        target: The function.
        *arguments: What it is given.
        environment: Variables of its process, such as the GPU that it sees.

    Raises:
        TdbenchError: The function raises it, or its process was killed.
    """
    process, link = start_process(f"{__name__}:answer", dict(environment or {}), target, *arguments)
    try:
        while isinstance(heard := link.recv(), Told):
            tell(heard.share, heard.what)
    except EOFError:
        raise TdbenchError("the process that looks at the sweep's trials was killed; is the memory full?") from None
    finally:  # an interruption too: nobody waits for the answer any more
        process.kill()
        process.join()
        link.close()
    value, error = heard
    if error is not None:
        raise error
    return value


def answer(environment: dict[str, str], target: str, *arguments: Any) -> None:
    """Send how far `module:function` is, and then what it returns, or raises, over the line that is the last argument.

    What the user's code prints meanwhile is kept out of what the command prints. An exception of a class that only this
    process may know is sent in words.
    """
    *arguments, link = arguments  # type: ignore[assignment]
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    value = error = None
    try:
        with notes_in_one_line(), telling(lambda share, what: link.send(Told(share, what))):
            value = call(target, *arguments)
    except BaseException as raised:  # the user's code may raise anything
        is_known = isinstance(raised, Exception) and type(raised).__module__ in ("builtins", TdbenchError.__module__)
        error = raised if is_known else TdbenchError(line_of(raised))
        if os.environ.get("TDBENCH_DEBUG") == "1":
            error.add_note("".join(traceback.format_exception(raised)))
    link.send((value, error))


def start_process(target: str, *arguments: Any) -> tuple[BaseProcess, Connection]:
    """Start `module:function` as a process of the lab, and return it with a line to it.

    The function is given the arguments and its own end of the line.
    """
    link, theirs = context().Pipe()
    process = context().Process(target=_main, args=(target, *arguments, theirs))  # type: ignore[attr-defined]
    start()
    with main_module_hidden(), signals_blocked():
        process.start()
    theirs.close()
    return process, link


def _main(target: str, *arguments: Any) -> None:
    """Be a process of the lab: `module:function` is its main function, and the driver heeds what stops a sweep."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    own = os.getpid()

    def leave_to_driver(number: int, frame: Any) -> None:
        if os.getpid() != own:  # a process that the user's code has forked ends as it otherwise would
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in STOPPING:
        signal.signal(number, leave_to_driver)
    if STOPPING:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    watch_parent()
    call(target, *arguments)


def watch_parent() -> None:
    """End this process when the one that drives the sweep is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a process of the lab is a child"

    def die_with_it() -> None:
        parent.join()
        if leads_group(os.getpid()):  # and what it has started ends with it
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=die_with_it, daemon=True).start()


def leads_group(number: int) -> bool:
    """Return whether a process leads a group of its own."""
    try:
        return hasattr(os, "getpgid") and os.getpgid(number) == number
    except OSError:
        return False


@contextmanager
def stand_ins() -> Iterator[None]:
    """Let what stands in for a user's method end with what it was declared for."""
    try:
        yield
    finally:
        forget_declared()


def declare_user_methods(names: Iterable[Any], before: Callable[[], None] = lambda: None) -> None:
    """Let this process know the user's methods among some names without importing their files.

    Args:
        names: What may be names of methods.
        before: Called before the lab is asked, if it is.

    Raises:
        ConfigError: A file does not import, or does not hold a layer of that name.
    """
    theirs = sorted({name for name in names if isinstance(name, str) and is_user_code(name)})
    if theirs:
        before()
        for name, declaration in ask("tdbench.training.ahead:declarations", theirs).items():
            declare(name, declared(declaration, StandIn))


def understood(configs: Sequence[RunConfig]) -> list[RunConfig | ConfigError]:
    """Return each configuration as the user's method itself reads it, or why the method refuses it.

    A stand-in takes any value; the method's types, ranges and validators are applied here.
    """
    theirs = [one for one in configs if isinstance(one.regularizer, StandIn)]
    if not theirs:
        return list(configs)
    trees = [one.regularizer.model_dump(mode="json", exclude_unset=True) for one in theirs]
    answers = iter(ask("tdbench.training.ahead:read_methods", trees))
    read: list[RunConfig | ConfigError] = []
    for one in configs:
        told = next(answers) if isinstance(one.regularizer, StandIn) else one
        if isinstance(told, dict):
            told = one.model_copy(update={"regularizer": type(one.regularizer).model_validate(told)})
        read.append(told)
    return read


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Let a process that is started meanwhile begin deaf to STOPPING, and the server stay so.

    A scheduler sends them to every process of a job. The driver heeds them and tells its trials to save and stop, for
    which they, and the server that knows whether they live, have to go on.
    """
    if STOPPING:
        resource_tracker.ensure_running()  # the server starts it otherwise, which lets SIGTERM through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING) if STOPPING else None
    try:
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
