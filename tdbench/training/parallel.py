"""One run in several processes, as torchrun starts them: what they exchange, and how they stop together.

Each process has the whole network and takes its share of every batch; DistributedDataParallel averages the gradients.
Only process 0 prints and writes. A single process has the same interface, which then does nothing. Messages between
processes go from host to host through gloo, so that no GPU waits for them; only gradients and buffers use NCCL.
"""

import atexit
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tdbench.errors import ConfigError, TdbenchError
from tdbench.user_code import reason_of

if TYPE_CHECKING:  # at run time only several processes import torch; a single one reports errors without it
    import torch
    from torch import nn

T = TypeVar("T")

MOST_STEPS = 64  # between two messages about stopping
LONGEST_WAIT_S = 0.1  # between them, to be aimed at: how soon a signal is obeyed

_PATIENCE = timedelta(seconds=5)
_TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class Processes:
    """The processes of one run; this base class is a single process.

    Attributes:
        rank: The number of this process, from 0.
        local_rank: Its number on its machine, and that of its GPU; None: a single process, on the configured one.
        count: Number of processes.
    """

    rank = 0
    local_rank: int | None = None
    count = 1

    def first(self, do: Callable[[], T]) -> T:
        """Run `do` in process 0 only, and return its result, or raise its error, in every process."""
        return do()

    def together(self, do: Callable[[], T]) -> T:
        """Run `do` in every process, and return this one's result once all are done; raise in all what any raises."""
        return do()

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return, for each flag, whether it is set in any process."""
        return flags

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in order of rank."""
        return [value]

    def distribute(
        self, model: "nn.Module", device: "torch.device", find_unused: bool, unify_each_step: bool
    ) -> "nn.Module":
        """Return the network with its gradients averaged over the processes, and the weights of process 0.

        Args:
            model: The network, on its device.
            device: The device of this process.
            find_unused: Whether a step may leave some weights unused.
            unify_each_step: Whether a step may depend on the network's buffers, which each process changes by itself.
        """
        return model

    def unify_buffers(self, model: "nn.Module") -> None:
        """Broadcast the network's buffers from process 0, such as the running statistics of batch norm."""

    def first_failure(self, error: BaseException) -> "Failure":
        """Record why this process fails; return what the first process that failed recorded."""
        return Failure(self.rank, exit_code_of(error), reason_of(error))


ALONE = Processes()


class Ballot:
    """Flags that may be raised in any process, put together every few steps: each time costs a message or two.

    All processes ask before each step, and are told the same before the same step. Alone, there is no waiting.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._most = 1 if processes.count == 1 else MOST_STEPS
        self._every = self._left = 1
        self._last = time.perf_counter()

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return, for each flag, whether it is set in any process; False where that is not asked before this step."""
        self._left -= 1
        if self._left:
            return (False,) * len(flags)
        took_s = time.perf_counter() - self._last
        *found, is_late = self._processes.any(*flags, took_s > LONGEST_WAIT_S)
        self._every = max(1, self._every // 2) if is_late else min(2 * self._every, self._most)
        self._left, self._last = self._every, time.perf_counter()
        return tuple(found)


class Failure(NamedTuple):
    """Why a run of several processes ends.

    Attributes:
        rank: The process that failed first, which tells the user.
        exit_code: The exit code of all processes.
        reason: The error's line.
    """

    rank: int
    exit_code: int
    reason: str


class _Joined(Processes):
    """Several processes, joined by torch.distributed."""

    here: "_Joined | None" = None  # what this process has joined, until its end

    def __init__(self) -> None:
        import torch
        import torch.distributed as dist

        store, self.rank, self.count = next(dist.rendezvous("env://"))
        self.local_rank = int(os.environ["LOCAL_RANK"])
        self._dist, self._store = dist, dist.PrefixStore("tdbench", store)
        _Joined.here = self  # before there are threads of gloo's, see `end`
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.count)

    def first(self, do: Callable[[], T]) -> T:
        answer: list[Any] = list(_attempt(do)) if self.rank == 0 else [None, None]
        self._dist.broadcast_object_list(answer, src=0)
        value, error = answer
        if error is not None:
            raise error
        return value

    def together(self, do: Callable[[], T]) -> T:
        value, error = _attempt(do)
        for failure in (error, *self.gather(error)):
            if failure is not None:
                raise failure
        return value  # type: ignore[return-value]

    def any(self, *flags: bool) -> tuple[bool, ...]:
        import torch

        raised = torch.tensor(flags, dtype=torch.uint8)
        self._dist.all_reduce(raised, self._dist.ReduceOp.MAX)
        return tuple(map(bool, raised.tolist()))

    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.count
        self._dist.all_gather_object(values, value)
        return values

    def distribute(
        self, model: "nn.Module", device: "torch.device", find_unused: bool, unify_each_step: bool
    ) -> "nn.Module":
        from torch.nn.parallel import DistributedDataParallel

        # Newer releases of torch give the option another name, and warn of the old one.
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        unifying: dict[str, Any] = {name: unify_each_step}
        return DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            find_unused_parameters=find_unused,
            **unifying,
            gradient_as_bucket_view=True,
        )

    def unify_buffers(self, model: "nn.Module") -> None:
        for buffer in model.buffers():
            self._dist.broadcast(buffer, src=0)

    def first_failure(self, error: BaseException) -> Failure:
        reason = "another of its processes ended without saying why" if is_loss(error) else reason_of(error)
        own = Failure(self.rank, exit_code_of(error), reason)
        try:
            told = self._store.compare_set("failure", "", json.dumps(own))
        except RuntimeError:  # the store ended with torchrun, or with process 0 before this one failed
            return own._replace(rank=0)
        return Failure(*json.loads(told))

    def has_told(self) -> None:
        """Let the others end, now that this process, if it was the first that failed, has told the user why."""
        with suppress(RuntimeError):  # the store may have ended
            self._store.set("told", "")

    def wait_until_told(self) -> None:
        """Wait for the process that failed first: torchrun ends all others as soon as one has ended."""
        with suppress(RuntimeError):
            self._store.wait(["told"], _PATIENCE)

    def leave(self) -> None:
        """Leave the process group, once all processes are ready to."""
        self.gather(None)
        self._dist.destroy_process_group()


def are_several() -> bool:
    """Return whether this process was started as one of several, by torchrun's WORLD_SIZE."""
    return os.environ.get("WORLD_SIZE", "") not in ("", "1")


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun started for this run; without torchrun, yield ALONE.

    Only the first process that fails raises its error; the others exit silently, with their exit codes.

    Raises:
        ConfigError: There are to be several processes, but torchrun's other variables are not set.
    """
    if not are_several():
        yield ALONE
        return
    missing = [name for name in _TORCHRUN if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, and {', '.join(missing)} not set; start several processes with "
            "torchrun, or unset WORLD_SIZE"
        )
    processes = _Joined()
    try:
        yield processes
    except (Exception, KeyboardInterrupt) as error:
        first = processes.first_failure(error)
        if first.rank == processes.rank or os.environ.get("TDBENCH_DEBUG") == "1":
            if is_loss(error):
                raise TdbenchError(f"the run failed: {first.reason}; the same command tries again") from error
            raise
        processes.wait_until_told()
        raise SystemExit(first.exit_code) from None
    processes.leave()


def has_joined() -> bool:
    """Return whether this process is, or was, one of several."""
    return _Joined.here is not None


def end(code: int) -> int:
    """Return the exit code of a single process; end one of several here and now, without the interpreter's teardown.

    A thread of gloo lets go of a message's tensors some time after the message has arrived, and takes the interpreter's
    lock for it. Where the interpreter is being torn down by then, the thread is ended inside a destructor, and the
    process aborts after all its work is done (pytorch/pytorch#179291 and #190489).
    """
    if _Joined.here is not None:
        atexit._run_exitfuncs()  # what libraries and the user's code have registered
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
        _Joined.here.has_told()
        os._exit(code)
    return code


def exit_code_of(error: BaseException) -> int:
    """Return the exit code for an error."""
    return 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)


def is_loss(error: BaseException) -> bool:
    """Return whether an error of torch means that another process can no longer be reached."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


def _attempt(do: Callable[[], T]) -> tuple[T | None, TdbenchError | None]:
    """Return (result, None) or (None, error), with an error that can be sent between processes."""
    try:
        return do(), None
    except TdbenchError as error:
        return None, error
    except Exception as error:
        travelling = TdbenchError(reason_of(error))
        travelling.__cause__ = error
        return None, travelling
