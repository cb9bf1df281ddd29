"""BatchNorm's running statistics as they are without the regularizer: re-estimated after training, and put back.

A layer that drops and rescales shifts the mean or the variance of what a BatchNorm behind it averages while it trains;
in evaluation the layer is off, and the averages are wrong (Li, Chen, Hu & Yang, "Understanding the Disharmony between
Dropout and Batch Normalization by Variance Shift", CVPR 2019, arXiv 1801.05134). Statistics that are estimated anew on
training images, with the layer off and the trained weights, tell this share of a difference from the method's own.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tdbench.training.parallel import Processes


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the network's BatchNorms that evaluate with running statistics."""
    return [one for one in model.modules() if isinstance(one, _BatchNorm) and one.running_mean is not None]


@contextmanager
def averaging(model: nn.Module) -> Iterator[list[_BatchNorm]]:
    """Let the BatchNorms average the batches that come, each with the same weight; everything else is in evaluation.

    Yields the BatchNorms. Afterwards each is as it was, its running statistics too, and the network in evaluation.
    """
    model.train()
    norms = [one for one in batch_norms(model) if one.training]  # one that a network keeps in evaluation stays as it is
    before = [(one.momentum, [buffer.clone() for buffer in one.buffers()]) for one in norms]
    model.eval()
    try:
        for one in norms:
            one.train()
            one.momentum = None  # the mean over all batches, in place of one that forgets
            if one.num_batches_tracked is not None:
                one.num_batches_tracked.zero_()  # so that the first batch replaces what is there
        yield norms
    finally:
        with torch.no_grad():
            for one, (momentum, buffers) in zip(norms, before, strict=True):
                one.eval()
                one.momentum = momentum
                for buffer, value in zip(one.buffers(), buffers, strict=True):
                    buffer.copy_(value)


@contextmanager
def re_estimated(model: nn.Module, passes: Iterable[object], processes: Processes) -> Iterator[None]:
    """Have the network in evaluation, with the statistics of the batches that pass it as `passes` is gone through.

    Several processes unify theirs. Afterwards everything is as it was.
    """
    with averaging(model) as norms:
        for _ in passes:
            pass
        statistics = [buffer for one in norms for buffer in (one.running_mean, one.running_var) if buffer is not None]
        shares = processes.gather([one.cpu() for one in statistics])
        for own, *of_all in zip(statistics, *shares, strict=True):
            own.copy_(torch.stack(of_all).mean(0))
        for one in norms:
            one.eval()
        yield
