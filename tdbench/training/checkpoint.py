"""Checkpoints: everything a resume needs, written whole or not at all, loaded with `weights_only=True`."""

import hashlib
import io
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy
import torch
from torch.nn.parameter import is_lazy

from tdbench.errors import ConfigError, Damaged, FolderError, line_of
from tdbench.store.files import open_file, write_atomically
from tdbench.store.rows import EpochRow
from tdbench.training.average import tensors_of
from tdbench.training.run import Run

FORMAT, UNSEALED = "tdbench checkpoint 3", "tdbench checkpoint 2"  # of release 0.2.0


def save_checkpoint(path: Path, digest: str, state: dict[str, Any]) -> None:
    """Write the state of the run `digest`, sealed: a file of which one bit has changed is refused.

    Raises:
        FolderError: It cannot be written; an earlier checkpoint is untouched.
        ConfigError: It holds something of the user's code that could not be loaded again.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "digest": digest, "sha256": seal_of(state), "state": state}, buffer)
    buffer.seek(0)
    if foreign := torch.serialization.get_unsafe_globals_in_checkpoint(buffer):
        raise ConfigError(
            "the run cannot be saved: what your code keeps in an optimizer, a network or a layer holds "
            f"{', '.join(sorted(foreign))}; a checkpoint takes tensors, numbers of Python's, text, lists, sets and "
            "dictionaries of these"
        )
    write_atomically(path, buffer.getbuffer())


def seal_of(state: Any) -> str:
    """Return the SHA-256 of a state: of the bytes of its tensors, and of all else as Python writes it."""
    seen = hashlib.sha256()

    def look(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            if is_lazy(value):  # of a module that was never called
                seen.update(str(value.dtype).encode())
                return
            seen.update(f"{value.dtype} {tuple(value.shape)}".encode())
            dense = value.detach().cpu().resolve_conj().resolve_neg()
            dense = dense if dense.layout is torch.strided else dense.to_dense()
            seen.update(dense.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, (set, frozenset)):  # whose order is another in another process
            look(sorted(value, key=repr))
        elif isinstance(value, dict):
            seen.update(f"{{{len(value)}".encode())
            for key, item in value.items():
                look(key)
                look(item)
        elif isinstance(value, (list, tuple)):
            seen.update(f"[{len(value)}".encode())
            for item in value:
                look(item)
        else:
            seen.update(repr(value).encode())

    look(state)
    return seen.hexdigest()


def load_checkpoint(
    path: Path, digest: str, hint: str = "use --fresh to start over, or another --out"
) -> dict[str, Any] | None:
    """Return the state of the run `digest` on the CPU, or None where there is no checkpoint.

    Args:
        path: The file.
        digest: Of the run's configuration.
        hint: What the user can do where the file is of no use.

    Raises:
        Damaged: The file is cut short, or not as it was written.
        FolderError: It is no checkpoint of tdbench's, or of another run.
    """
    try:
        with open_file(path) as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # torch.load raises half a dozen kinds, pickle's own among them
        raise Damaged(f"{path} is cut short or damaged ({line_of(error)[:120]}); {hint}") from error
    if not isinstance(content, dict) or content.get("format") not in (FORMAT, UNSEALED):
        raise FolderError(f"{path} is no checkpoint of this version of tdbench; {hint}")
    if content.get("digest") != digest:
        raise FolderError(f"{path} belongs to another run (digest {content.get('digest')}, not {digest}); {hint}")
    state = content.get("state")
    if not isinstance(state, dict) or (content["format"] == FORMAT and content.get("sha256") != seal_of(state)):
        raise Damaged(f"{path} is damaged: it does not hold what was written (SHA-256); {hint}")
    return state


def state_of(run: Run) -> dict[str, Any]:
    """Return everything that a resume needs, as tensors and plain types; what is each process's own in a list."""
    device = run.hardware.device
    run.hardware.synchronize()
    run.clock.collect()
    own = {
        "dropped": {name: layer.meter.counts.cpu() for name, layer in run.insertion.layers.items() if layer.meter},
        "random": torch.get_rng_state(),
        "random_python": random.getstate(),  # for the user's own code
        "random_numpy": numpy_state(),
        "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "losses": run.losses.cpu(),
        "num_hits": int(run.num_hits),
    }
    return {
        "processes": run.processes.gather(own),
        "model": run.model.state_dict(),
        "regularizer": run.insertion.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "average": tensors_of(run.average),
        "scaler": run.scaler.state_dict(),
        "hardware": {"device": device.type, "precision": run.hardware.precision, "threads": run.hardware.threads},
        "rows": [asdict(row) for row in run.rows],
        "step": run.step,
        "total_dropped": run.total_dropped,
        "steps_s": torch.tensor(run.clock.steps_s),
        "waits_s": torch.tensor(run.clock.waits_s),
        "wall_s": run.wall_s,
        "epoch_s": run.epoch_s,
    }


def restore(run: Run, state: dict[str, Any]) -> None:
    """Put a run where `state_of` found one of the same configuration.

    Raises:
        FolderError: It was begun on another kind of device, in another precision, or by more or fewer processes; or the
            state is not one that this run can have been in.
    """
    try:
        _restore(run, state)
        check_position(run)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise Damaged(
            f"the checkpoint does not fit the run ({line_of(error)[:120]}); use --fresh to start over, or another --out"
        ) from error


def check_position(run: Run) -> None:
    """Check that a run may be where it is.

    Raises:
        ValueError: Its steps, its epochs and their rows do not fit together.
    """
    begun = len(run.rows) * run.steps_per_epoch
    epochs = [row.epoch for row in run.rows]
    if not begun <= run.step <= min(begun + run.steps_per_epoch, run.num_steps) and run.step != run.num_steps:
        raise ValueError(f"step {run.step} of {run.num_steps} after {len(run.rows)} epochs")
    if epochs != list(range(1, len(epochs) + 1)):
        raise ValueError(f"rows of the epochs {epochs}")


def _restore(run: Run, state: dict[str, Any]) -> None:
    before, device, num_before = state["hardware"], run.hardware.device.type, len(state["processes"])
    if num_before != run.processes.count:
        raise FolderError(
            f"the run was begun in {num_before} process(es) and would go on in {run.processes.count}, which gives "
            f"other figures; go on with {num_before} (torchrun --nproc-per-node {num_before}), or use --fresh"
        )
    if (before["device"], before["precision"]) != (device, run.hardware.precision):
        raise FolderError(
            f"the run was begun on {before['device']} in {before['precision']} and would go on on {device} in "
            f"{run.hardware.precision}, which gives other figures; go on where it was begun, or use --fresh"
        )
    run.keep_threads(before["threads"])
    own = state["processes"][run.processes.rank]
    run.model.load_state_dict(state["model"])
    run.insertion.load_state_dict(state["regularizer"])
    for name, layer in run.insertion.layers.items():
        if layer.meter is not None:
            layer.meter.counts.copy_(own["dropped"][name])
    load_optimizer(run.optimizer, state["optimizer"])
    for own_tensor, saved in zip(tensors_of(run.average), state.get("average", []), strict=True):
        own_tensor.copy_(saved)
    run.scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(own["random"])
    if "random_python" in own:
        random.setstate(own["random_python"])
        restore_numpy(own["random_numpy"])
    if own["random_cuda"] is not None:
        torch.cuda.set_rng_state(own["random_cuda"], run.hardware.device)
    run.losses.copy_(own["losses"])
    run.num_hits.fill_(own["num_hits"])
    run.rows, run.step, run.total_dropped = rows_of(state), state["step"], state["total_dropped"]
    run.clock.steps_s, run.clock.waits_s = state["steps_s"].tolist(), state["waits_s"].tolist()
    run.wall_s, run.epoch_s = state["wall_s"], state["epoch_s"]


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state; how torch computes its step stays as this run has it, with a CUDA graph or without."""
    for group, own in zip(state["param_groups"], optimizer.param_groups, strict=True):
        group |= {key: own[key] for key in ("capturable", "foreach", "fused") if key in own}
    optimizer.load_state_dict(state)


def numpy_state() -> tuple[Any, ...]:
    """Return the state of NumPy's global generator in types that a checkpoint may hold."""
    name, keys, *rest = numpy.random.get_state(legacy=True)  # noqa: NPY002
    return (str(name), torch.from_numpy(numpy.asarray(keys, dtype=numpy.int64)), *rest)


def restore_numpy(state: tuple[Any, ...]) -> None:
    """Put NumPy's global generator back into a state that `numpy_state` returned."""
    name, keys, *rest = state
    numpy.random.set_state((name, keys.numpy().astype(numpy.uint32), *rest))  # noqa: NPY002


def rows_of(state: dict[str, Any]) -> list[EpochRow]:
    """Return the rows of the finished epochs in a run's state."""
    return [EpochRow(**row) for row in state["rows"]]
