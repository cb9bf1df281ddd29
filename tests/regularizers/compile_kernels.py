"""Compile every kernel to machine code for a GPU, which need not be there.

A program of its own, because the tests beside it import Triton with its interpreter in the compiler's place.
"""

from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tdbench.regularizers.targetdrop import gpu_kernels as gpu

HOPPER = GPUTarget("cuda", 90, 32)
POINTERS = {"means_ptr": "fp32", "scores_ptr": "fp32", "scale_ptr": "fp32", "peaks_ptr": "i32", "centres_ptr": "i32"}
POINTERS |= {"area_ptr": "i64", "largest_ptr": "fp32", "fc1_ptr": "fp32", "fc2_ptr": "fp32", "targets_ptr": "i32"}


def machine_code(kernel, dtype: str, **constants) -> bytes:
    signature, values = {}, {}
    for name in kernel.arg_names:
        if name.isupper():
            signature[name], values[name] = "constexpr", constants[name]
        else:
            signature[name] = f"*{POINTERS.get(name, dtype)}" if name.endswith("_ptr") else "i32"
    return compile_kernel(ASTSource(kernel, signature, values), target=HOPPER).asm["cubin"]


def main() -> None:
    blocks = {"BLOCK_C": 16, "BLOCK_P": 64}
    for channels_last in (False, True):
        layout = {"CHANNELS_LAST": channels_last, **blocks}
        assert machine_code(gpu.squeeze_kernel, "bf16", RELU=True, NUM_PARTS=4 if channels_last else 1, **layout)
        assert machine_code(gpu.drop_kernel, "bf16", RELU=True, WIDTH=7, **layout)
        assert machine_code(gpu.relu_backward_kernel, "fp16", **layout)
    sizes = {"BLOCK_C": 16, "BLOCK_RIVALS": 16, "BLOCK_HIDDEN": 4, "BLOCK_INPUTS": 8}
    for rescale, num_parts, excites in (
        ("channel", 1, False),
        ("layer", 4, False),
        ("none", 1, True),
        ("none", 4, True),
    ):
        found = {"NUM_PARTS": num_parts, "EXCITES": excites, "COUNTS": rescale == "channel", "LIVE": excites}
        assert machine_code(gpu.choose_kernel, "", RESCALE=rescale, **found, **sizes)


if __name__ == "__main__":
    main()
