"""A regularizer in a network: how its layers get to their sites, follow their schedule, are counted, and leave again.

A layer becomes a child of the module whose output is the site, so that `to`, `train`, `eval`, `parameters` and DDP
reach it, and a forward hook passes the output through it; its state is kept out of the network's state_dict, so that
checkpoints have the same keys with and without a regularizer. Where the module is a ReLU, the layer gets the feature
map before it instead, so that a method can fuse the two.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from tdbench.errors import ConfigError, line_of
from tdbench.models.tracing import INPUT
from tdbench.regularizers.base import DropMeter, Regularizer
from tdbench.regularizers.config import RegularizerConfig

CHILD = "tdbench_regularizer"


class RegularizedReLU(nn.ReLU):
    """A ReLU that is a site: it passes its input to its layer's `after_relu`, so that a method may fuse the two.

    The module's class is replaced in place, as torch.nn.utils.parametrize does, so that copies and pickles of the
    network work.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the regularized relu(input)."""
        layer = self.get_submodule(CHILD)
        return layer.after_relu(input) if isinstance(layer, Regularizer) else layer(super().forward(input))


class Insertion:
    """The layers that `insert` put into a network.

    Attributes:
        regularizer: The method and its knobs, as configured.
        layers: Site name to layer, in the network's order.
        shapes: Site name to the (C, H, W) of its feature map, for the image shape that was probed.
        is_placed: The sites were named, and are not the method's own place.
        num_steps: The optimizer steps of the training, where `insert` was told; see `step`.
    """

    def __init__(
        self,
        regularizer: RegularizerConfig,
        hosts: dict[str, nn.Module],
        layers: dict[str, Regularizer],
        shapes: dict[str, tuple[int, int, int]],
        is_placed: bool = True,
        num_steps: int | None = None,
    ) -> None:
        self.regularizer, self.layers, self.shapes, self.is_placed = regularizer, layers, shapes, is_placed
        self.num_steps, self._num_done = num_steps, 0
        self._hosts = hosts
        self._handles: list[Any] = []
        for name, host in hosts.items():
            host.add_module(CHILD, layers[name])
            self._handles += [
                host.register_state_dict_post_hook(_hide_state),
                host.register_load_state_dict_post_hook(_expect_no_state),
            ]
            if name == INPUT:
                self._handles.append(host.register_forward_pre_hook(_regularize_input, with_kwargs=True))
            elif type(host) is nn.ReLU and not host.inplace and "forward" not in vars(host):
                # A forward hook could not save the ReLU's own pass.
                host.__class__ = RegularizedReLU
            else:
                self._handles.append(host.register_forward_hook(_regularize))
        if num_steps is not None:
            self.set_progress(0.0)

    def remove(self) -> None:
        """Remove the layers and restore the network."""
        for handle in self._handles:
            handle.remove()
        for host in self._hosts.values():
            del host._modules[CHILD]
            if type(host) is RegularizedReLU:
                host.__class__ = nn.ReLU  # type: ignore[assignment]
        self._handles, self._hosts = [], {}

    def check_blocks(self) -> None:
        """Raise ConfigError where the method's blocks are larger than the feature map at every site."""
        sides = {name: max(self.shapes[name][1:]) for name in self.layers if name != INPUT}
        blocks = {name: self.layers[name].block() for name in sides}
        if sides and all((block or 0) > sides[name] for name, block in blocks.items()):
            where = ", ".join(f"{name} ({self.shapes[name][1]}×{self.shapes[name][2]})" for name in sides)
            largest = max(sides.values())
            raise ConfigError(f"block_size must be at most {largest} for maps at {where}, got {max(blocks.values())}")  # type: ignore[type-var]

    def installed(self) -> dict[str, nn.Module | None]:
        """Return the module now at each site: the inserted layer or its replacement; None where it was removed."""
        return {name: getattr(self._hosts.get(name), CHILD, None) for name in self.layers}

    def __repr__(self) -> str:
        sites = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in self.shapes.items())
        return f"Insertion({self.regularizer.name} at {sites})"

    def set_progress(self, progress: float) -> None:
        """Set the layers' strength for the share of the training steps that is done, in [0, 1]; beyond 1 it is as at 1.

        Raises:
            ConfigError: It is less than 0, or NaN.
        """
        if not progress >= 0:
            raise ConfigError(f"progress must be at least 0, got {progress}")
        strength = self.regularizer.strength_at(progress)
        for layer in self.layers.values():
            if isinstance(layer, Regularizer):
                layer.set_strength(strength)

    def step(self, done: int | None = None) -> None:
        """Let the schedule advance by an optimizer step; to be called after each of them.

        Args:
            done: The steps that are done, where a training goes on from a checkpoint; None: one more.

        Raises:
            ConfigError: The schedule is linear, and `insert` was not told over how many steps; `done` is no number.
        """
        if done is not None and not (isinstance(done, int) and done >= 0):
            raise ConfigError(f"done must be a whole number of at least 0, got {done!r}")
        if self.num_steps is None:
            if self.regularizer.schedule != "constant":
                raise ConfigError(
                    f"num_steps must be given to insert for step(), since the schedule of {self.regularizer.name} is "
                    f"{self.regularizer.schedule}, got None; or give schedule='constant'"
                )
            return
        self._num_done = self._num_done + 1 if done is None else done
        self.set_progress(self._num_done / self.num_steps)

    def dropped_pct(self) -> float | None:
        """Return the share of units dropped in training since the last call, in per cent; synchronises with the device.

        It is that of this process, over all sites. None: no feature map has passed since.
        """
        counts = self.read_meter(reset=True).values()
        num_units = sum(units for _, units in counts)
        return 100 * sum(dropped for dropped, _ in counts) / num_units if num_units else None

    def meter(self, device: torch.device | None) -> None:
        """Count anew, on the network's device, the units that each layer drops in training; None: count no more."""
        for layer in self.layers.values():
            layer.meter = None if device is None else DropMeter(device)

    def read_meter(self, reset: bool = False) -> dict[str, tuple[int, int]]:
        """Return site name to (dropped units, units) since `meter` or the last reset; synchronises with the device."""
        return {name: layer.meter.read(reset) for name, layer in self.layers.items() if layer.meter is not None}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return the state of each layer, by site."""
        return {name: dict(layer.state_dict()) for name, layer in self.layers.items()}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Load what `state_dict` returned for the same sites and method."""
        for name, layer in self.layers.items():
            layer.load_state_dict(state[name])

    def restore(self, state: dict[str, dict[str, Any]]) -> None:
        """Load the state of the layers from the checkpoint of another loop, where JSON may have made lists of it.

        Raises:
            ConfigError: It is of other sites, or of another method's layers.
        """
        tensors = {site: {key: torch.as_tensor(one) for key, one in layer.items()} for site, layer in state.items()}
        try:
            self.load_state_dict(tensors)
        except (KeyError, RuntimeError) as error:
            why = line_of(error, with_type=False)
            raise ConfigError(f"the checkpoint must be of the same regularizer as {self!r}: {why}") from None


def insertion_of(given: Any) -> Insertion:
    """Return what `tdbench.insert` has returned.

    Raises:
        ConfigError: It is something else, such as the network itself.
    """
    if not isinstance(given, Insertion):
        raise ConfigError(f"insertion must be what tdbench.insert returned, got {type(given).__name__}")
    return given


def _regularize(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return module.get_submodule(CHILD)(output)


def _regularize_input(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    layer = module.get_submodule(CHILD)
    if args:
        return (layer(args[0]), *args[1:]), kwargs
    named = [name for name in inspect.signature(module.forward).parameters if name in kwargs]
    if not named:
        raise TypeError(
            f"{type(module).__name__} must be given its images, which a regularizer acts on, to its forward"
        )
    return args, kwargs | {named[0]: layer(kwargs[named[0]])}


def _hide_state(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}{CHILD}.")]:
        del state[key]


def _expect_no_state(module: nn.Module, incompatible: Any) -> None:
    incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if f"{CHILD}." not in key]
