"""Feature maps with everything in them, and what it means that two forms of the layer give the same."""

import torch
from torch import Tensor

from tests.oracles.targetdrop import draw_values

FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def feature_map(shape, device="cpu", memory_format="nchw", dtype=torch.float32, kinds=None, seed=0) -> Tensor:
    """Return a feature map whose planes are of these kinds in turn, so that one launch sees them all."""
    kinds = kinds or ("normal", "ties", "nan", "infinite")
    x = torch.empty(shape, dtype=torch.float64)
    for number, kind in enumerate(kinds):
        planes = x.flatten(0, 1)[number :: len(kinds)]
        planes.copy_(draw_values(kind, tuple(planes.shape), seed))
    return x.to(device, dtype).contiguous(memory_format=FORMATS[memory_format])


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """The masks are equal, and in fp32 every bit; half types may differ where λ, or the product, was rounded."""
    assert actual.stride() == expected.stride() or actual.numel() == 0
    assert torch.equal(actual == 0, expected == 0)
    rtol = 0.0 if actual.dtype == torch.float32 else 2 * torch.finfo(actual.dtype).eps
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=0, equal_nan=True)


def exact_map(*args) -> Tensor:
    """Return small integers, some of them NaN: their means are exact, so no rounding decides between two channels."""
    return torch.cat([feature_map((1, 12, 6, 5), *args, kinds=[kind]) for kind in ("ties", "nan")])
