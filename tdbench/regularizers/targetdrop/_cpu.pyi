# The C++ of cpu.cpp, which is built where pip finds a compiler with OpenMP. Tensors are passed as the addresses of
# their first units, 0 for none; sizes is (N, C, H, W).

from collections.abc import Sequence

VERSION: int

def forward(
    sizes: Sequence[int],
    is_bfloat16: bool,
    channels_last: bool,
    relu: bool,
    num_targets: int,
    radius: int,
    hidden: int,
    rescale: int,
    num_threads: int,
    x: int,
    scores: int,
    fc1: int,
    fc2: int,
    out: int,
    centres: int,
    scale: int,
    num_dropped: int,
) -> None: ...
def backward(
    sizes: Sequence[int],
    is_bfloat16: bool,
    channels_last: bool,
    radius: int,
    num_threads: int,
    grad: int,
    centres: int,
    relu_out: int,
    scale: int,
    result: int,
) -> None: ...
