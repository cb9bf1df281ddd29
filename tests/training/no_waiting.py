"""Steps in which nothing may wait for the GPU: of which runs, and how a step is held to it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tdbench.regularizers.registry import method_names

METHODS = [name for name in method_names() if name != "drop_path"]  # which needs a network with branches
RUNS = [{"regularizer": name} for name in METHODS]
RUNS += [{"optimizer.ema_decay": 0.9}, {"optimizer.clip_norm": 1.0}, {"augment.mixup": 0.2}]

of_each_run = pytest.mark.parametrize("knobs", RUNS, ids=lambda knobs: "-".join(map(str, knobs.values())))


@contextmanager
def without_waiting() -> Iterator[None]:
    """Have torch raise where the host waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
