"""An exponential moving average of a network's weights, kept beside them and evaluated as well.

The running statistics of its BatchNorms are averaged with the same decay, since those of the trained weights are not
those of their average; after the first step both are what the step left.
"""

from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class Average(AveragedModel):
    """A copy of a network that averages what it is told of the other: two or three launches on a GPU, and no waiting.

    torch's own update asks the host for the count of steps, and averages whole numbers one tensor at a time.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self._decay = decay
        ours, theirs = ([*chain(one.parameters(), one.buffers())] for one in (self.module, model))
        pairs = list(zip(ours, theirs, strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point() or pair[0].is_complex()]
        self._copied = [pair for pair in pairs if not (pair[0].is_floating_point() or pair[0].is_complex())]

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the network's weights as they are now in; whole numbers, such as counts of batches, are copied."""
        is_first = self.n_averaged == 0
        for pairs, is_copied in ((self._averaged, is_first), (self._copied, True)):
            if pairs:
                ours, theirs = map(list, zip(*pairs, strict=True))
                if is_copied:
                    torch._foreach_copy_(ours, theirs)
                else:
                    torch._foreach_lerp_(ours, theirs, 1 - self._decay)
        self.n_averaged += 1


def averaged(model: nn.Module, decay: float | None) -> Average | None:
    """Return a copy of a network that averages what it is told of the other; None where there is no decay."""
    return None if decay is None else Average(model, decay)


def tensors_of(average: Average | None) -> list[Tensor]:
    """Return all that an average consists of, the layers of a regularizer included, which its state_dict hides."""
    return [] if average is None else [*(one.detach() for one in average.parameters()), *average.buffers()]
