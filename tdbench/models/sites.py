"""Put a regularizer into any network, at named sites, without touching its code or its state_dict keys.

A site is the output of a module. The layer rides as a child of that module, so that `to`, `train`, `eval`,
`parameters` and DDP see it, and a forward hook passes the output through it; its state is kept out of the network's
state_dict, so that checkpoints with and without a regularizer are the same.
"""

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from tdbench.config import RegularizerConfig, load_config
from tdbench.errors import ConfigError, unknown
from tdbench.regularizers.base import DropMeter, Regularizer

_CHILD = "tdbench_regularizer"


class Insertion:
    """The layers that `insert` put into a network.

    Attributes:
        layers: Site name to layer, in the network's order.
        shapes: Site name to the (C, H, W) of its feature map, for the image shape that was probed.
    """

    def __init__(self, hosts: dict[str, nn.Module], layers: dict[str, Regularizer], shapes: dict[str, Any]) -> None:
        self.layers, self.shapes = layers, shapes
        self._hosts = hosts
        self._handles: list[Any] = []
        for name, host in hosts.items():
            host.add_module(_CHILD, layers[name])
            self._handles += [
                host.register_forward_hook(_regularize),
                host.register_state_dict_post_hook(_hide_state),
                host.register_load_state_dict_post_hook(_expect_no_state),
            ]

    def remove(self) -> None:
        """Take the layers out again; the network is as it was."""
        for handle in self._handles:
            handle.remove()
        for host in self._hosts.values():
            del host._modules[_CHILD]
        self._handles, self._hosts = [], {}

    def meter(self, device: torch.device) -> None:
        """Begin to count, on the device that the network runs on, the units that each layer drops in training."""
        for layer in self.layers.values():
            layer.meter = DropMeter(device)

    def read_meter(self, reset: bool = False) -> dict[str, tuple[int, int]]:
        """Return site name to (dropped units, units) since `meter` or the last reset; waits for the device."""
        return {name: layer.meter.read(reset) for name, layer in self.layers.items() if layer.meter is not None}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return the state of each layer, by site."""
        return {name: dict(layer.state_dict()) for name, layer in self.layers.items()}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Load what `state_dict` returned for the same sites and method."""
        for name, layer in self.layers.items():
            layer.load_state_dict(state[name])


def insert(
    model: nn.Module,
    regularizer: str | RegularizerConfig,
    sites: Sequence[str] | None = None,
    *,
    image_shape: tuple[int, int, int] | None = None,
    **knobs: Any,
) -> Insertion:
    """Put a regularizer into a network, in place.

    Args:
        model: Any network; insert before torch.compile or DDP wrap it.
        regularizer: A method's name, with its knobs as further arguments, or its configuration.
        sites: Names or patterns (`stage1.*`) of the network's sites, or of its modules where it declares none.
            None: the first two sites of the network.
        image_shape: (C, H, W) of the images, for a trial forward that finds the channels at each site. None: the
            channels of the first convolution, and the first side of 32, 64, 224 that the network accepts.
        **knobs: The method's knobs.

    Returns:
        The layers, by site, and the way to take them out again.

    Raises:
        ConfigError: A site, a method or a knob is unknown or unsuitable.
    """
    if isinstance(regularizer, str):
        overrides = {"regularizer": regularizer} | {f"regularizer.{key}": value for key, value in knobs.items()}
        regularizer = load_config(overrides=overrides).regularizer
    paths = find_sites(model, sites if sites is not None else regularizer.sites)
    hosts = {name: output_module(model.get_submodule(path)) for name, path in paths.items()}
    by_host: dict[nn.Module, str] = {}
    for name, host in hosts.items():
        if hasattr(host, _CHILD):
            raise ConfigError(f"site {name!r} holds a regularizer already; remove() it first")
        if host in by_host:
            raise ConfigError(f"sites {by_host[host]!r} and {name!r} are the same output; choose one of them")
        by_host[host] = name
    shapes = feature_shapes(model, hosts, image_shape)
    return Insertion(hosts, {name: regularizer.build(shapes[name][0]) for name in hosts}, shapes)


def known_sites(model: nn.Module) -> dict[str, str]:
    """Return site name to module path: what the network declares, else each of its modules."""
    declared = getattr(model, "regularizer_sites", None)
    return declared or {name: name for name, _ in model.named_modules() if name}


def find_sites(model: nn.Module, wanted: Iterable[str] | None) -> dict[str, str]:
    """Return site name to module path for names and patterns, in the network's order.

    Raises:
        ConfigError: A name or pattern matches nothing; the nearest site is named, and all of them.
    """
    known = known_sites(model)
    if wanted is None:
        tops = [name for name in known if "." not in name]
        return {name: known[name] for name in tops[:2]}
    chosen: set[str] = set()
    for pattern in wanted:
        matches = {name for name in known if fnmatchcase(name, pattern)}
        if not matches:
            raise ConfigError(unknown("site", pattern, known))
        chosen |= matches
    return {name: path for name, path in known.items() if name in chosen}


def output_module(module: nn.Module) -> nn.Module:
    """Return the module that makes the output of `module`: the last one of a Sequential, at any depth.

    A Sequential calls whatever children it has, so that a regularizer must not become one of them.
    """
    while isinstance(module, nn.Sequential) and len(module) > 0:
        module = module[-1]
    return module


def feature_shapes(
    model: nn.Module, hosts: dict[str, nn.Module], image_shape: tuple[int, int, int] | None
) -> dict[str, tuple[int, int, int]]:
    """Return the (C, H, W) that each module puts out, from one forward in evaluation mode.

    Raises:
        ConfigError: A module is not called, or its output is no feature map, or no image shape is accepted.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            shapes[name] = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()

        return hook

    handles = [host.register_forward_hook(note(name)) for name, host in hosts.items()]
    try:
        with evaluating(model), torch.no_grad():
            _forward_once(model, image_shape)
    finally:
        for handle in handles:
            handle.remove()
    found: dict[str, tuple[int, int, int]] = {}
    for name in hosts:
        shape = shapes.get(name, ())
        if len(shape) != 3:
            raise ConfigError(f"site {name!r} must put out a feature map (N, C, H, W), got {('N', *shape)}")
        found[name] = (shape[0], shape[1], shape[2])
    return found


@contextmanager
def evaluating(model: nn.Module) -> Any:
    """Put every module into evaluation mode for a while, and each back into its own."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _forward_once(model: nn.Module, image_shape: tuple[int, int, int] | None) -> None:
    """Pass one blank image through the network."""
    like = next(model.parameters(), torch.empty(0))
    if image_shape is not None:
        model(like.new_zeros(1, *image_shape))
        return
    in_channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
    failure: Exception | None = None
    for side in (32, 64, 224):
        try:
            model(like.new_zeros(1, in_channels, side, side))
            return
        except RuntimeError as error:
            failure = error
    raise ConfigError(f"the network refuses images of 32, 64 and 224 pixels; give image_shape ({failure})")


def _regularize(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return module.get_submodule(_CHILD)(output)


def _hide_state(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}{_CHILD}.")]:
        del state[key]


def _expect_no_state(module: nn.Module, incompatible: Any) -> None:
    incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if f"{_CHILD}." not in key]
