"""An exponential moving average of a network's weights, kept beside them and evaluated as well.

The running statistics of its BatchNorms are averaged with the same decay, since those of the trained weights are not
those of their average; after the first step both are what the step left.
"""

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def averaged(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """Return a copy of a network that averages what it is told of the other; None where there is no decay."""
    if decay is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def tensors_of(average: AveragedModel | None) -> list[Tensor]:
    """Return all that an average consists of, the layers of a regularizer included, which its state_dict hides."""
    return [] if average is None else [*(one.detach() for one in average.parameters()), *average.buffers()]
