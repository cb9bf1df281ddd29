"""The GPU's part of a training step as one CUDA graph: recorded once, then launched as a whole.

A step of a small network is hundreds of kernels of a few microseconds each, and the host takes longer to launch them
than the GPU to run them. A graph takes one launch. It computes what the step computes, from the same random numbers; so
nothing in the step may wait for the GPU, or depend on what the host knows at the time.
"""

import traceback
from collections.abc import Callable

import torch
from torch import Tensor

from tdbench.config import RunConfig
from tdbench.errors import ConfigError, line_of
from tdbench.models.insertion import Insertion
from tdbench.training.hardware import Hardware
from tdbench.user_code import is_user_code

EAGER_STEPS = 4  # before it is recorded: kernels are chosen and compiled, and what is allocated once is there

Learn = Callable[[Tensor, Tensor], Tensor]  # (images, labels) -> loss; all that a step does on the device


def reason_against(config: RunConfig, hardware: Hardware, num_processes: int, can_rise: bool = False) -> str | None:
    """Return why the steps of a run cannot be recorded; None where they may be.

    Args:
        config: The run.
        hardware: What it computes on.
        num_processes: Those that train it.
        can_rise: Its layers can read a rising strength on the device.
    """
    if hardware.device.type != "cuda":
        return f"device {hardware.device.type} has no graphs"
    if num_processes > 1:
        return "several processes train the network"
    if hardware.precision == "fp16":
        return "fp16 scales its loss on the host"
    if config.regularizer.schedule != "constant" and not can_rise:
        return "the regularizer's strength rises on the host"
    if not config.optimizer.can_be_recorded and not is_user_code(config.optimizer.name):
        return f"{config.optimizer.name} computes on the host"
    if config.own_code().keys() - {"data.name"}:
        return "the user's code may decide on the host"
    return None


def rises_live(insertion: Insertion) -> bool:
    """Return whether all layers can read a rising strength on their device, as their own classes say.

    What is inherited does not count: the `drop` of a user's class may read another strength.
    """
    return all(layer.rises_live and "rises_live" in vars(type(layer)) for layer in insertion.layers.values())


def keep_strength_live(insertion: Insertion, device: torch.device, is_fixed: bool) -> None:
    """Have the layers read a rising strength on their device, where a step `is_fixed` beforehand, and both can."""
    has_double = device.type in ("cpu", "cuda")
    if is_fixed and has_double and insertion.regularizer.schedule != "constant" and rises_live(insertion):
        for layer in insertion.layers.values():
            layer.live_strength = torch.ones((), dtype=torch.float64, device=device)


def check_recorded(insertion: Insertion, device: torch.device) -> None:
    """Check that in a recording on a device no layer has read a rising strength from the host.

    Raises:
        RuntimeError: One has; it would keep the strength of this step.
    """
    rises = device.type == "cuda" and insertion.regularizer.schedule != "constant"
    is_live = rises_live(insertion) and all(layer.strength > 0 for layer in insertion.layers.values())
    if rises and not is_live and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("the regularizer's strength rises on the host for feature maps such as these")


class StepGraph:
    """Does a run's steps, the first few as they are and the others by a graph of one.

    Args:
        learn: The step; it leaves its results in the same tensors each time.
        must: What cannot be recorded is an error; otherwise such steps go on as they are.

    Attributes:
        error: By what recording failed, if it did.
        refused: The same in words.
    """

    error: Exception | None = None
    refused: str | None = None

    def __init__(self, learn: Learn, must: bool) -> None:
        self.learn, self.must = learn, must
        self._graph: torch.cuda.CUDAGraph | None = None
        self._num_eager = 0

    @property
    def outcome(self) -> str:
        """What became of the recording, in words."""
        return self.refused or ("too few steps" if self._graph is None else "recorded")

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Do one step; return its loss, in a tensor that the next step overwrites.

        Raises:
            ConfigError: The step cannot be recorded, and must be.
        """
        if self.refused is not None or self._num_eager < EAGER_STEPS:
            self._num_eager += 1
            return self.learn(images, labels)
        if self._graph is None and not self._record(images, labels):
            return self.learn(images, labels)
        if images.shape != self._images.shape:
            return self.learn(images, labels)
        self._images.copy_(images)
        self._labels.copy_(labels)
        assert self._graph is not None
        self._graph.replay()
        return self._loss

    def _record(self, images: Tensor, labels: Tensor) -> bool:
        try:
            self._graph = self._recorded(images, labels)
        except Exception as error:  # of CUDA, of Triton's compiler, of a library
            self.error = first_of(error)
            self.refused = line_of(self.error)
            forget_locals(error)
            if self.must:
                raise ConfigError(f"hardware.graph must not be always here: {self.refused}") from error
        return self._graph is not None

    def _recorded(self, images: Tensor, labels: Tensor) -> torch.cuda.CUDAGraph:
        graph, device = torch.cuda.CUDAGraph(), images.device
        generator = torch.cuda.default_generators[device.index]
        before = generator.clone_state()
        images, labels = images.clone(), labels.clone()
        torch.cuda.synchronize(device)
        try:
            with torch.cuda.graph(graph):
                loss = self.learn(images, labels)
        except Exception:
            torch.cuda.synchronize(device)
            generator.graphsafe_set_state(before)  # it would stay as in a recording, where no number can be drawn
            raise
        self._images, self._labels, self._loss = images, labels, loss
        return graph


def first_of(error: Exception) -> Exception:
    """Return what ended a recording, where an error only tells that something did, as CUDA does at the end of one."""
    while "captur" in str(error).lower() and isinstance(error.__context__, Exception):
        error = error.__context__
    return error


def forget_locals(error: BaseException | None) -> None:
    """Let go of what an error and those before it keep of a step: its losses, and with them all its activations."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def graph_of(
    learn: Learn, config: RunConfig, hardware: Hardware, num_steps: int, num_processes: int, can_rise: bool
) -> StepGraph | None:
    """Return what records the steps of a run, or None where they run as they are.

    Args:
        learn: The step.
        config: The run.
        hardware: What it computes on.
        num_steps: Those of the whole run.
        num_processes: Those that train it.
        can_rise: Its layers can read a rising strength on the device.

    Raises:
        ConfigError: They have to be recorded, and cannot be.
    """
    wanted = config.hardware.graph
    reason = reason_against(config, hardware, num_processes, can_rise)
    if reason is None and wanted == "always" and num_steps <= EAGER_STEPS:
        reason = f"a step is recorded after {EAGER_STEPS} others, and the run has {num_steps}"
    if wanted == "always" and reason is not None:
        raise ConfigError(f"hardware.graph must not be always here: {reason}")
    return None if wanted == "never" or reason is not None else StepGraph(learn, wanted == "always")
