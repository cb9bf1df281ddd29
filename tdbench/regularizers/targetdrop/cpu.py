"""TargetDrop on a CPU as one pass forward and one backward, in C++: `cpu.cpp`.

The plain form reads the map three times and writes it once, and on a CPU its dozens of small tensors cost as much
again. This one works on a sample while it is in the cache, in both memory formats; where the layer follows a ReLU, it
applies that in the same pass, so that the ReLU's output is never written. The samples are split among threads, so a
batch smaller than their number leaves some idle. The autograd functions are written in torch's older style, since
binding arguments in the newer one takes longer than all the rest of their Python.

torch.compile gets operators of their own, which have the shapes of their results and their gradients registered, so
that they stay in its graph as they are. In an eager call these would take the time of a small map once more.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import get_args

import torch
from torch import Tensor
from torch.library import Library, register_autograd, register_fake

from tdbench.regularizers.masking import is_followed, memory_format_of
from tdbench.regularizers.targetdrop import Rescale
from tdbench.regularizers.targetdrop import _cpu as cpp
from tdbench.regularizers.targetdrop.fused import CPU_DTYPES

RESCALES = get_args(Rescale)

if cpp.VERSION != 1:
    raise ImportError("the C++ of TargetDrop was built from another version; install tdbench again")


def target_drop(
    x: Tensor,
    scores: Tensor | None,
    weights: tuple[Tensor, Tensor] | None,
    num_targets: int | Tensor,
    radius: int,
    rescale: str,
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """Return `x` (N, C, H, W), or relu(x), with its target regions dropped, and the number of units dropped.

    Args:
        x: fp32 or bf16, contiguous or channels_last; the result is likewise.
        scores: Attention (N, C); of equal ones the lowest channel wins, and NaN is +inf. None: they are computed.
        weights: W1 (hidden, C) and W2 (C, hidden) of the attention; None: the scores are the channel means.
        num_targets, radius, rescale: K, or an integer tensor of it (0-dim); (k - 1) / 2; a `Rescale`.
        relu: `x` is the map before its ReLU.
    """
    attention = [None if tensor is None else in_fp32(tensor) for tensor in (scores, *(weights or (None, None)))]
    apply = _operators.forward_in_graph if is_followed() else _Forward.apply
    targets = (num_targets, 1) if isinstance(num_targets, Tensor) else (None, num_targets)
    out, _, _, num_dropped = apply(x, *attention, *targets, radius, rescale, relu)
    return out, num_dropped


class _Forward(torch.autograd.Function):
    """The dropped map, the windows' centres, λ, and the number of units dropped."""

    @staticmethod
    def forward(ctx, *inputs):
        results = _operators.forward(*inputs)
        _keep_of_forward(ctx, inputs, results)
        return results

    @staticmethod
    def backward(ctx, grad, *_):
        return _gradient(ctx, grad, _Backward.apply), *(None,) * 8


class _Backward(torch.autograd.Function):
    """The gradient, dropped like the map; linear and its own adjoint. With `relu`, `mask` is the dropped relu(x)."""

    @staticmethod
    def forward(ctx, *inputs):
        _keep_of_backward(ctx, inputs, None)
        return _operators.backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        return _gradient(ctx, grad, _Backward.apply), *(None,) * 4


def _keep_of_forward(ctx, inputs, output):
    x, *_, radius, _, relu = inputs
    out, *others = output
    ctx.mark_non_differentiable(*others)
    ctx.set_materialize_grads(False)
    centres, scale, _ = others
    _keep(ctx, x, out if relu else centres, scale, radius, relu)


def _keep_of_backward(ctx, inputs, output):
    _keep(ctx, *inputs)


def _keep(ctx, x, mask, scale, radius, relu):
    ctx.memory_format, ctx.radius, ctx.relu = memory_format_of(x), radius, relu
    ctx.save_for_backward(mask, scale)


def _gradient(ctx, grad, backward):
    grad = grad.contiguous(memory_format=ctx.memory_format)
    return backward(grad, *ctx.saved_tensors, ctx.radius, ctx.relu)


def _forward(x, scores, fc1, fc2, live_targets, num_targets, radius, rescale, relu):
    num_samples, num_channels = x.shape[:2]
    hidden = 0 if fc1 is None else len(fc1)
    num_targets = num_targets if live_targets is None else int(live_targets)
    if not 1 <= num_targets <= num_channels:
        raise ValueError(f"num_targets must be between 1 and C = {num_channels}, got {num_targets}")
    check_shapes(
        ("scores", scores, (num_samples, num_channels)),
        ("W1", fc1, (hidden, num_channels)),
        ("W2", fc2, (num_channels, hidden)),
    )
    results = _empty_results(x)
    knobs = num_targets, radius, hidden, RESCALES.index(rescale), torch.get_num_threads()
    cpp.forward(*form_of(x), relu, *knobs, *map(address_of, (x, scores, fc1, fc2, *results)))
    return results


def _empty_results(x):
    """Return the dropped map, the windows' centres (-1: none), λ and the number of units dropped, to be written."""
    per_channel = x.new_empty(x.shape[:2], dtype=torch.int32), x.new_empty(x.shape[:2], dtype=torch.float32)
    return torch.empty_like(x), *per_channel, x.new_empty((), dtype=torch.int64)


def _backward(grad, mask, scale, radius, relu):
    check_shapes(("mask", mask, grad.shape if relu else grad.shape[:2]), ("scale", scale, grad.shape[:2]))
    result = torch.empty_like(grad)
    addresses = map(address_of, (grad, None if relu else mask, mask if relu else None, scale, result))
    cpp.backward(*form_of(grad), radius, torch.get_num_threads(), *addresses)
    return result


def in_fp32(tensor: Tensor) -> Tensor:
    """Return a tensor as contiguous fp32; itself where it is that, since even a no-op conversion costs time."""
    return tensor if tensor.dtype == torch.float32 and tensor.is_contiguous() else tensor.float().contiguous()


def check_shapes(*operands: tuple[str, Tensor | None, tuple[int, ...]]) -> None:
    """Raise ValueError for the first (name, tensor, shape) whose tensor has another shape."""
    for name, tensor, shape in operands:
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} must be {tuple(shape)}, got {tuple(tensor.shape)}")


def form_of(x: Tensor) -> tuple[torch.Size, bool, bool]:
    """Return the sizes of a feature map, whether it is bf16, and whether it is channels_last.

    Raises:
        ValueError: It is neither bf16 nor fp32, or in another memory format.
    """
    if x.dtype not in CPU_DTYPES or not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
        raise ValueError(f"x must be fp32 or bf16, contiguous or channels_last, got {x.dtype}, strides {x.stride()}")
    return x.shape, x.dtype == torch.bfloat16, not x.is_contiguous()


def address_of(tensor: Tensor | None) -> int:
    """Return the address of the first unit of a tensor; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


# Registered as operators, so that profilers and dispatch modes see them; and again with their gradients, for compilers.
_library = Library("tdbench_cpu", "DEF")
_operators = torch.ops.tdbench_cpu
for _kind in ("", "_in_graph"):
    _library.define(
        f"forward{_kind}(Tensor x, Tensor? scores, Tensor? fc1, Tensor? fc2, Tensor? live_targets,"
        " SymInt num_targets, SymInt radius, str rescale, bool relu) -> (Tensor, Tensor, Tensor, Tensor)"
    )
    _library.define(f"backward{_kind}(Tensor grad, Tensor mask, Tensor scale, SymInt radius, bool relu) -> Tensor")
    _library.impl(f"forward{_kind}", _forward, "CPU")
    _library.impl(f"backward{_kind}", _backward, "CPU")
register_fake("tdbench_cpu::forward_in_graph", lambda x, *_: _empty_results(x), lib=_library)
register_fake("tdbench_cpu::backward_in_graph", lambda grad, *_: torch.empty_like(grad), lib=_library)
register_autograd(
    "tdbench_cpu::forward_in_graph",
    lambda ctx, grad, *_: (_gradient(ctx, grad, _operators.backward_in_graph), *(None,) * 8),
    setup_context=_keep_of_forward,
    lib=_library,
)
register_autograd(
    "tdbench_cpu::backward_in_graph",
    lambda ctx, grad: (_gradient(ctx, grad, _operators.backward_in_graph), *(None,) * 4),
    setup_context=_keep_of_backward,
    lib=_library,
)
