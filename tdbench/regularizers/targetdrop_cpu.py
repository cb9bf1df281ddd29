"""TargetDrop on a CPU as one pass forward and one backward: the operators of `targetdrop_cpu.cpp`.

The plain form reads the map three times before it has written it once, and on a CPU its dozens of small tensors cost as
much again; this one works on a sample while it is in the cache, in both memory orders.

Where the layer follows a ReLU, forward applies it on the way, so that its output is never written; backward needs no
mask but the signs of the result, as the ReLU's own does.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
from torch import Tensor
from torch.library import Library, register_autograd, register_fake

from tdbench.regularizers import _targetdrop_cpu
from tdbench.regularizers._windows import memory_format_of

DTYPES = (torch.float32, torch.bfloat16)
RESCALES = ("channel", "layer", "none")

_library = Library("tdbench_cpu", "DEF")
_operators = torch.ops.tdbench_cpu


def target_drop(
    x: Tensor,
    scores: Tensor | None,
    weights: tuple[Tensor, Tensor] | None,
    num_dropped: int,
    radius: int,
    rescale: str,
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """Return `x` (N, C, H, W), or relu(x), with its target regions dropped, and the number of units dropped.

    Args:
        x: Of one of `DTYPES`, contiguous or channels_last; the result is likewise.
        scores: Attention (N, C); of equal ones the lowest channel wins, and NaN is +inf. None: it is computed.
        weights: W1 (hidden, C) and W2 (C, hidden) of the attention; None: it is the channel means.
        num_dropped, radius, rescale: K; (k - 1) / 2; a `Rescale`.
        relu: `x` is the map before its ReLU.
    """
    fc1, fc2 = weights or (None, None)
    attention = (None if tensor is None else tensor.detach().float().contiguous() for tensor in (scores, fc1, fc2))
    out, _, _, areas = _operators.target_drop(x, *attention, num_dropped, radius, rescale, relu)
    return out, areas.sum()


def _target_drop(x, scores, fc1, fc2, num_dropped, radius, rescale, relu):
    results = _empty_results(x)
    hidden = 0 if fc1 is None else len(fc1)
    knobs = num_dropped, radius, hidden, RESCALES.index(rescale), torch.get_num_threads()
    _targetdrop_cpu.forward(*_form(x), relu, *knobs, *map(_address, (x, scores, fc1, fc2, *results)))
    return results


def _empty_results(x):
    """Return room for the dropped map, the centres (-1: no window), λ, and the number of units of each sample."""
    centres = torch.empty(x.shape[:2], dtype=torch.int32, device=x.device)
    scale = torch.empty(x.shape[:2], dtype=torch.float32, device=x.device)
    return torch.empty_like(x), centres, scale, torch.empty(x.shape[:1], dtype=torch.int64, device=x.device)


def _drop(grad, centres, scale, radius):
    result = torch.empty_like(grad)
    addresses = map(_address, (grad, centres, None, scale, result))
    _targetdrop_cpu.backward(*_form(grad), radius, torch.get_num_threads(), *addresses)
    return result


def _relu_drop_backward(grad, out, scale):
    result = torch.empty_like(out)
    addresses = map(_address, (grad, None, out, scale, result))
    _targetdrop_cpu.backward(*_form(out), 0, torch.get_num_threads(), *addresses)
    return result


def _form(x):
    """Return the form of a map, as the kernels take it: its sizes, and whether it is bf16, and channels_last."""
    if x.dtype not in DTYPES or not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
        raise ValueError(f"x must be fp32 or bf16, contiguous or channels_last, got {x.dtype}, strides {x.stride()}")
    return x.shape, x.dtype == torch.bfloat16, not x.is_contiguous()


def _address(tensor):
    return 0 if tensor is None else tensor.data_ptr()


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, *_, ctx.radius, _, ctx.relu = inputs
    out, centres, scale, areas = output
    ctx.memory_format = memory_format_of(x)
    ctx.mark_non_differentiable(centres, scale, areas)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(out if ctx.relu else centres, scale)


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    result = None
    if grad is not None:
        mask, scale = ctx.saved_tensors
        grad = grad.contiguous(memory_format=ctx.memory_format)
        if ctx.relu:
            result = _operators.relu_drop_backward(grad, mask, scale)
        else:
            result = _operators.drop(grad, mask, scale, ctx.radius)
    return result, *(None,) * 7


# Both are linear in the gradient and their own adjoints; the signs of `out` have no slope.


def _save_drop(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, centres, scale, ctx.radius = inputs
    ctx.memory_format = memory_format_of(grad)
    ctx.save_for_backward(centres, scale)


def _drop_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    grad = grad.contiguous(memory_format=ctx.memory_format)
    return _operators.drop(grad, *ctx.saved_tensors, ctx.radius), None, None, None


def _save_relu_drop_backward(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    _, out, scale = inputs
    ctx.save_for_backward(out, scale)


def _relu_drop_backward_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    out, scale = ctx.saved_tensors
    grad = grad.contiguous(memory_format=memory_format_of(out))
    return _operators.relu_drop_backward(grad, out, scale), None, None


for _signature, _kernel, _fake, _formula, _save in (
    (
        "target_drop(Tensor x, Tensor? scores, Tensor? fc1, Tensor? fc2, int num_dropped, int radius, str rescale,"
        " bool relu) -> (Tensor, Tensor, Tensor, Tensor)",
        _target_drop,
        lambda x, *_: _empty_results(x),
        _backward,
        _save_forward,
    ),
    (
        "drop(Tensor grad, Tensor centres, Tensor scale, int radius) -> Tensor",
        _drop,
        lambda grad, *_: torch.empty_like(grad),
        _drop_backward,
        _save_drop,
    ),
    (
        "relu_drop_backward(Tensor grad, Tensor out, Tensor scale) -> Tensor",
        _relu_drop_backward,
        lambda grad, out, *_: torch.empty_like(out),
        _relu_drop_backward_backward,
        _save_relu_drop_backward,
    ),
):
    _library.define(_signature)
    _operator = "tdbench_cpu::" + _signature.partition("(")[0]
    _library.impl(_operator, _kernel, "CPU")
    register_fake(_operator, _fake, lib=_library)
    register_autograd(_operator, _formula, setup_context=_save, lib=_library)
