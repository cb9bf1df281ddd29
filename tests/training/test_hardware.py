"""What `auto` comes to, and what is refused because the machine lacks it."""

import pytest
import torch

from tdbench.config import HardwareConfig
from tdbench.errors import DeviceError
from tdbench.training import hardware as precision
from tdbench.training.hardware import resolve

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu sse2 avx512f avx512_bf16", "bf16"), ("amx_bf16", "bf16"), ("fpu sse2 avx512f", "fp32"), ("", "fp32")],
)
def test_a_cpu_computes_in_bf16_only_where_it_has_the_instructions(monkeypatch, flags, expected):
    monkeypatch.setattr(precision, "cpu_flags", flags.split)
    assert resolve(HardwareConfig(device="cpu")).precision == expected


def test_a_requested_precision_is_kept(monkeypatch):
    monkeypatch.setattr(precision, "cpu_flags", lambda: ["avx512_bf16"])
    assert resolve(HardwareConfig(device="cpu", precision="fp32")).precision == "fp32"


def test_autocast_is_on_in_bf16_and_off_in_fp32():
    x = torch.ones(2, 2)
    with resolve(HardwareConfig(device="cpu", precision="bf16")).autocast():
        assert (x @ x).dtype == torch.bfloat16
    with resolve(HardwareConfig(device="cpu", precision="fp32")).autocast():
        assert (x @ x).dtype == torch.float32


@no_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_a_missing_gpu_is_one_line_with_the_way_out(device):
    with pytest.raises(DeviceError, match="--device cpu"):
        resolve(HardwareConfig(device=device))


@no_cuda
def test_auto_falls_back_to_what_there_is():
    assert resolve(HardwareConfig()).device.type in ("cpu", "mps")


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(DeviceError, match="fp16 needs a GPU"):
        resolve(HardwareConfig(device="cpu", precision="fp16"))


def test_peak_memory_is_of_the_order_of_a_process_with_torch():
    assert 50 < resolve(HardwareConfig(device="cpu")).peak_mem_mib() < 100_000


@pytest.mark.gpu
def test_a_gpu_computes_in_bf16_where_it_can():
    hardware = resolve(HardwareConfig(device="cuda"))
    assert hardware.device == torch.device("cuda", 0)
    assert hardware.precision == ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32")
