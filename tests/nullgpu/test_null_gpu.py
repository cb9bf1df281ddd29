"""The checks that need a GPU's host code and no GPU, run in a process that has one that is not there."""

from pathlib import Path

import pytest

from tests import nullgpu

CHECKS = Path(__file__).with_name("checks.py")


@pytest.mark.skipif(nullgpu.reason_against() is not None, reason=str(nullgpu.reason_against()))
@pytest.mark.slow
@pytest.mark.parametrize("marks", ["gpu and not slow", "gpu and slow"])
def test_all_that_the_host_does_with_a_gpu_is_as_it_should_be(marks):
    # Longer tracebacks would show tensors, whose values mean nothing.
    options = ("-n", "0", "-q", "-m", marks, "-p", "no:cacheprovider", "--tb=short")
    done = nullgpu.run("-m", "pytest", *options, str(CHECKS))
    assert done.returncode == 0, done.stdout + done.stderr
