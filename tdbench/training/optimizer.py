"""torch's optimizer, without what it does for torch.compile's sake."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def _bare(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of torch.optim.SGD as it was written, out of its wrappers.

    Its first call through them imports torch._dynamo, and sympy and torch._inductor with it, which takes as long as to
    import torch, and 143 MiB. They are there for optimizers that are compiled, and a network that is compiled has no
    need of them either. Where a torch has no wrappers, this returns what it is given.
    """
    return inspect.unwrap(method)


class SGD(torch.optim.SGD):
    """Stochastic gradient descent; see torch.optim.SGD."""

    add_param_group = _bare(torch.optim.SGD.add_param_group)
    zero_grad = _bare(torch.optim.SGD.zero_grad)
    state_dict = _bare(torch.optim.SGD.state_dict)
    load_state_dict = _bare(torch.optim.SGD.load_state_dict)
    step = torch.no_grad()(_bare(torch.optim.SGD.step))

    rate: Tensor | None = None  # the learning rate on a GPU, where a recorded step reads it; None: a number serves

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next step."""
        for group in self.param_groups:
            group["lr"] = rate if self.rate is None else self.rate
        if self.rate is not None:
            self.rate.fill_(rate)


def make_optimizer(weights: Iterable[nn.Parameter], options: dict[str, Any], device: torch.device) -> SGD:
    """Return the optimizer of a run, in torch's fused form where the device has one.

    Args:
        weights: What is trained, on its device.
        options: `lr`, `momentum`, `nesterov`, `weight_decay`.
        device: Where the weights are.
    """
    optimizer = SGD(weights, **options, fused=device.type in ("cpu", "cuda"))
    if device.type == "cuda":
        optimizer.rate = torch.tensor(options["lr"], dtype=torch.float32, device=device)
    if options["momentum"]:  # fused SGD fails where one weight's first gradient comes later than another's
        for group in optimizer.param_groups:
            for weight in group["params"]:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimizer
