"""Compile every kernel to machine code for a GPU and trace the layer in one graph; neither needs a GPU to be there.

A program of its own, because the tests beside it import Triton with its interpreter in the compiler's place.
"""

import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tdbench import TargetDrop2d
from tdbench.regularizers.targetdrop import fused
from tdbench.regularizers.targetdrop import gpu_kernels as gpu
from tdbench.regularizers.targetdrop import layer as layer_module

HOPPER = GPUTarget("cuda", 90, 32)
POINTERS = {"means_ptr": "fp32", "scores_ptr": "fp32", "scale_ptr": "fp32", "peaks_ptr": "i32", "centres_ptr": "i32"}
POINTERS |= {"area_ptr": "i64"}


def machine_code(kernel, dtype: str, **constants) -> bytes:
    signature, values = {}, {}
    for number, name in enumerate(kernel.arg_names):
        if name.isupper():
            signature[name], values[number,] = "constexpr", constants[name]
        else:
            signature[name] = f"*{POINTERS.get(name, dtype)}" if name.endswith("_ptr") else "i32"
    return compile_kernel(ASTSource(kernel, signature, values), target=HOPPER).asm["cubin"]


def trace(layer: TargetDrop2d, x: torch.Tensor) -> list[str]:
    """Return the operators of the forward graph, which is not run."""
    operators: list[str] = []

    def note(graph, inputs):
        operators.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(lambda *args: exit_traced())

    def exit_traced():
        raise InterruptedError

    try:
        torch.compile(layer, fullgraph=True, backend=aot_autograd(fw_compiler=note))(x)
    except InterruptedError:
        return operators
    raise AssertionError("the graph was not run")


def main() -> None:
    blocks = {"BLOCK_C": 16, "BLOCK_P": 64}
    for channels_last in (False, True):
        layout = {"CHANNELS_LAST": channels_last, **blocks}
        assert machine_code(gpu.squeeze_kernel, "bf16", RELU=True, **layout)
        assert machine_code(gpu.drop_kernel, "bf16", RELU=True, WIDTH=7, **layout)
        assert machine_code(gpu.relu_backward_kernel, "fp16", **layout)
    for rescale in ("channel", "layer"):
        assert machine_code(gpu.choose_kernel, "", RESCALE=rescale, BLOCK_C=16, BLOCK_RIVALS=16)
    layer_module.fused_form = lambda x, is_deterministic: fused.by_triton
    operators = trace(TargetDrop2d(8), torch.randn(2, 8, 6, 5, requires_grad=True))
    assert sum("triton_kernel_wrapper" in operator for operator in operators) == 2, operators  # squeeze and choose


if __name__ == "__main__":
    main()
