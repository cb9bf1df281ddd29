"""Insert a regularizer into any network, at named sites, without changing its code or its state_dict keys.

A site is the output of a module that the network declares or that a trace finds. The layer becomes a child of that
module, so that `to`, `train`, `eval`, `parameters` and DDP reach it, and a forward hook passes the output through it;
its state is kept out of the network's state_dict, so that checkpoints have the same keys with and without a
regularizer. Where the module is a ReLU, the layer gets the feature map before it instead, so that a method can fuse the
two.
"""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from tdbench.config import load_config
from tdbench.errors import ConfigError, nearest, unknown
from tdbench.models.tracing import INPUT, feature_shapes, input_module, output_module, traced_sites
from tdbench.regularizers.base import DropMeter, Regularizer
from tdbench.regularizers.config import RegularizerConfig
from tdbench.regularizers.user import as_layer, configured

_CHILD = "tdbench_regularizer"


class RegularizedReLU(nn.ReLU):
    """A ReLU that is a site: it passes its input to its layer's `after_relu`, so that a method may fuse the two.

    The module's class is replaced in place, as torch.nn.utils.parametrize does, so that copies and pickles of the
    network work.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the regularized relu(input)."""
        layer = self.get_submodule(_CHILD)
        return layer.after_relu(input) if isinstance(layer, Regularizer) else layer(super().forward(input))


class Insertion:
    """The layers that `insert` put into a network.

    Attributes:
        regularizer: The method and its knobs, as configured.
        layers: Site name to layer, in the network's order.
        shapes: Site name to the (C, H, W) of its feature map, for the image shape that was probed.
        is_placed: The sites were named, and are not the method's own place.
    """

    def __init__(
        self,
        regularizer: RegularizerConfig,
        hosts: dict[str, nn.Module],
        layers: dict[str, Regularizer],
        shapes: dict[str, tuple[int, int, int]],
        is_placed: bool = True,
    ) -> None:
        self.regularizer, self.layers, self.shapes, self.is_placed = regularizer, layers, shapes, is_placed
        self._hosts = hosts
        self._handles: list[Any] = []
        for name, host in hosts.items():
            host.add_module(_CHILD, layers[name])
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

    def remove(self) -> None:
        """Remove the layers and restore the network."""
        for handle in self._handles:
            handle.remove()
        for host in self._hosts.values():
            del host._modules[_CHILD]
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
        return {name: getattr(self._hosts.get(name), _CHILD, None) for name in self.layers}

    def __repr__(self) -> str:
        sites = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in self.shapes.items())
        return f"Insertion({self.regularizer.name} at {sites})"

    def set_progress(self, progress: float) -> None:
        """Set the layers' strength for the share of the training steps that is done, in [0, 1]."""
        for layer in self.layers.values():
            layer.strength = self.regularizer.strength_at(progress)

    def meter(self, device: torch.device) -> None:
        """Start counting, on the device of the network, the units that each layer drops in training."""
        for layer in self.layers.values():
            layer.meter = DropMeter(device)

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


def insert(
    model: nn.Module,
    regularizer: str | RegularizerConfig | type[RegularizerConfig] | type[nn.Module] | nn.Module,
    sites: str | Sequence[str] | None = None,
    *,
    image_shape: tuple[int, int, int] | None = None,
    **knobs: Any,
) -> Insertion:
    """Insert a regularizer into a network, in place.

    Args:
        model: Any network; insert before torch.compile or DDP wrap it.
        regularizer: A method's name, or your own layer or configuration class, with its knobs as keyword arguments; or
            a configuration; or a module such as `nn.Dropout2d(0.1)`, of which every site gets a copy.
        sites: Names or patterns (`stage1.*`) of the network's sites, or of its modules where it declares none.
            `input` is the network's input. None: the method's own place (see RegularizerConfig.groups), which is among
            the sites that the network declares or a trace finds (see traced_sites), the input, or each residual branch.
        image_shape: (C, H, W) of the images, for one forward that finds the channels at each site. None: the
            channels of the first convolution, and the first side of 32, 64, 224 that the network accepts.
        **knobs: The method's knobs. One called `channels` is given C of the feature map.

    Returns:
        The inserted layers by site, which can be removed again.

    Raises:
        ConfigError: A site, a method or a knob is unknown or unsuitable, or `model` is not an nn.Module, or wrapped.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model must be an nn.Module, got {type(model).__name__}")
    if isinstance(sites, str):
        sites = re.split("[,+]", sites)
    if sites is not None and not sites:
        raise ConfigError("sites must name at least one site, got none")
    if isinstance(regularizer, str):
        overrides = {"regularizer": regularizer} | {f"regularizer.{key}": value for key, value in knobs.items()}
        regularizer = load_config(overrides=overrides).regularizer
    else:
        regularizer = configured(regularizer, knobs)
    check_unwrapped(model, [])
    wanted = named = sites if sites is not None else regularizer.sites
    if named is None and regularizer.placement != "feature_map":
        wanted = [INPUT] if regularizer.placement == "input" else branches(model, regularizer.name)
    paths = find_sites(model, wanted, image_shape, regularizer.groups)
    hosts = {
        name: input_module(model) if name == INPUT else output_module(model.get_submodule(path))
        for name, path in paths.items()
    }
    check_unwrapped(model, paths.values())
    check_containers(hosts)
    by_host: dict[nn.Module, str] = {}
    for name, host in hosts.items():
        if hasattr(host, _CHILD):
            raise ConfigError(f"site {name!r} holds a regularizer already; remove() it first")
        if host in by_host:
            raise ConfigError(f"sites {by_host[host]!r} and {name!r} are the same output; choose one of them")
        by_host[host] = name
    shapes = feature_shapes(model, hosts, image_shape)
    return Insertion(regularizer, hosts, build_layers(regularizer, shapes), shapes, named is not None)


def check_containers(hosts: dict[str, nn.Module]) -> None:
    """Raise ConfigError if a site is a container whose forward goes through its modules, the layer among them."""
    for name, host in hosts.items():
        if isinstance(host, (nn.ModuleDict, nn.ModuleList)):
            raise ConfigError(
                f"site {name!r} is a {type(host).__name__} that goes through its modules, and would call the layer as "
                "one of them; name a module within it, or the one after it"
            )


def branches(model: nn.Module, method: str) -> list[str]:
    """Return the network's residual branches before their sums.

    Raises:
        ConfigError: It declares none.
    """
    found = [name for name in known_sites(model) if name.endswith(".branch")]
    if not found:
        raise ConfigError(
            f"{method} drops residual branches, and {type(model).__name__} declares none (sites such as "
            "stage1.block1.branch); name the modules that put them out with --sites, or take another network"
        )
    return found


def check_unwrapped(model: nn.Module, paths: Iterable[str]) -> None:
    """Check that no module on the way to a site is compiled, scripted or distributed, which would pass the layers by.

    Raises:
        ConfigError: One is.
    """
    wrappers = (torch.jit.ScriptModule, nn.parallel.DistributedDataParallel)
    ways = {".".join(path.split(".")[:depth]) for path in paths for depth in range(path.count(".") + 2)}
    for module in map(model.get_submodule, sorted(ways | {""})):
        # torch has no public way to ask whether a module is compiled; a canary watches these.
        is_compiled = "_orig_mod" in module._modules or module._compiled_call_impl is not None
        if isinstance(module, wrappers) or is_compiled:
            raise ConfigError(
                f"model must be given to insert before torch.compile, torch.jit or DistributedDataParallel get it, got "
                f"a {type(module).__name__} that one of them has changed"
            )


def build_layers(regularizer: RegularizerConfig, shapes: dict[str, tuple[int, int, int]]) -> dict[str, Regularizer]:
    """Return a new layer for each site from its (C, H, W); the sites are in the network's order."""
    return {
        name: as_layer(regularizer.build(shape[0], depth=number / len(shapes)))
        for number, (name, shape) in enumerate(shapes.items(), 1)
    }


def known_sites(model: nn.Module) -> dict[str, str]:
    """Return site name to module path: what the network declares, else each of its modules.

    Raises:
        ConfigError: What it declares is no table or list of its modules' paths.
    """
    declared = getattr(model, "regularizer_sites", None)
    if declared is not None:
        what = f"{type(model).__name__}.regularizer_sites"
        if isinstance(declared, str) or not isinstance(declared, (Mapping, Sequence)):
            raise ConfigError(
                f"{what} must be a table of site name to module path, or a list of paths, got {declared!r}"
            )
        pairs = declared.items() if isinstance(declared, Mapping) else [(path, path) for path in declared]
        paths = {path for path, _ in model.named_modules(remove_duplicate=False)}
        if wrong := [path for _, path in pairs if not isinstance(path, str) or path not in paths]:
            raise ConfigError(f"{what} names {wrong[0]!r}, which is no module{nearest(str(wrong[0]), paths)}")
        declared = dict(pairs)
    return declared or {name: name for name, _ in model.named_modules() if name and _CHILD not in name}


def find_sites(
    model: nn.Module,
    wanted: Iterable[str] | None,
    image_shape: tuple[int, int, int] | None = None,
    groups: str = "first_two",
) -> dict[str, str]:
    """Return site name to module path for names and patterns, in the network's order; for None, the outputs of groups.

    Raises:
        ConfigError: A name or pattern matches nothing (the message gives the nearest site and all others), or a trace
            finds no site.
    """
    known, declares = known_sites(model), bool(getattr(model, "regularizer_sites", None))
    if wanted is None:
        sites = known if declares else traced_sites(model, image_shape)
        if not sites:
            raise ConfigError("the network puts out no feature map that a trace can find; name a module as the site")
        tops = [name for name in sites if "." not in name or not declares]
        chosen = {"first_two": tops[:2], "last_two": tops[-2:], "last_but_one": tops[-2:-1] or tops}[groups]
        return {name: sites[name] for name in chosen}
    known = {INPUT: ""} | known
    found: set[str] = set()
    for pattern in wanted:
        # Patterns match feature maps only; the input must be named.
        matches = {name for name in known if name == pattern or (name != INPUT and fnmatchcase(name, pattern))}
        if not matches and declares:
            raise ConfigError(unknown("site", pattern, known))
        if not matches:
            traced = ", ".join(traced_sites(model, image_shape))
            hint = f"found by a trace: {traced}; the path of any other module will do"
            raise ConfigError(f"unknown site {pattern!r}{nearest(pattern, known)} ({hint})")
        found |= matches
    return {name: path for name, path in known.items() if name in found}


def _regularize(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return module.get_submodule(_CHILD)(output)


def _regularize_input(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    layer = module.get_submodule(_CHILD)
    if args:
        return (layer(args[0]), *args[1:]), kwargs
    named = [name for name in inspect.signature(module.forward).parameters if name in kwargs]
    if not named:
        raise TypeError(
            f"{type(module).__name__} must be given its images, which a regularizer acts on, to its forward"
        )
    return args, kwargs | {named[0]: layer(kwargs[named[0]])}


def _hide_state(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}{_CHILD}.")]:
        del state[key]


def _expect_no_state(module: nn.Module, incompatible: Any) -> None:
    incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if f"{_CHILD}." not in key]
