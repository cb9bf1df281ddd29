"""Insert a regularizer into any network, at named sites, without changing its code or its state_dict keys.

A site is the output of a module that the network declares or that a trace finds. `insertion` says how a layer gets
there.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from tdbench.config import load_config
from tdbench.errors import ConfigError, nearest, unknown
from tdbench.models.insertion import CHILD, Insertion
from tdbench.models.tracing import INPUT, feature_shapes, input_module, output_module, traced_sites
from tdbench.regularizers.base import Regularizer
from tdbench.regularizers.config import RegularizerConfig
from tdbench.regularizers.user import as_layer, configured


def insert(
    model: nn.Module,
    regularizer: str | RegularizerConfig | type[RegularizerConfig] | type[nn.Module] | nn.Module,
    sites: str | Sequence[str] | None = None,
    *,
    image_shape: tuple[int, int, int] | None = None,
    num_steps: int | None = None,
    **knobs: Any,
) -> Insertion:
    """Insert a regularizer into a network, in place, and count what it drops.

    Args:
        model: Any network; insert before torch.compile or DDP wrap it.
        regularizer: A method's name, or your own layer or configuration class, with its knobs as keyword arguments; or
            a configuration; or a module such as `nn.Dropout2d(0.1)`, of which every site gets a copy.
        sites: Names or patterns (`stage1.*`) of the network's sites, or of its modules where it declares none.
            `input` is the network's input. None: the method's own place (see RegularizerConfig.groups), which is among
            the sites that the network declares or a trace finds (see traced_sites), the input, or each residual branch.
        image_shape: (C, H, W) of the images, for one forward that finds the channels at each site. None: the
            channels of the first convolution, and the first side of 32, 64, 224 that the network accepts.
        num_steps: The optimizer steps of the training, over which a linear `schedule` rises from now on with each
            `step()` of what is returned. None: the strength is full, unless `set_progress` changes it.
        **knobs: The method's knobs. One called `channels` is given C of the feature map.

    Returns:
        The inserted layers by site, with their schedule and the share that they drop; they can be removed again.

    Raises:
        ConfigError: A site, a method or a knob is unknown or unsuitable, or `model` is not an nn.Module, or wrapped.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model must be an nn.Module, got {type(model).__name__}")
    if isinstance(sites, str):
        sites = re.split("[,+]", sites)
    if sites is not None and not sites:
        raise ConfigError("sites must name at least one site, got none")
    if num_steps is not None and (isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1):
        raise ConfigError(f"num_steps must be a whole number of at least 1, got {num_steps!r}")
    if isinstance(regularizer, str):
        overrides = {"regularizer": regularizer} | {f"regularizer.{key}": value for key, value in knobs.items()}
        regularizer = load_config(overrides=overrides).regularizer
    else:
        regularizer = configured(regularizer, knobs)
    check_unwrapped(model, [])
    named = sites if sites is not None else regularizer.sites
    hosts = hosts_of(model, regularizer, named, image_shape)
    shapes = feature_shapes(model, hosts, image_shape)
    insertion = Insertion(regularizer, hosts, build_layers(regularizer, shapes), shapes, named is not None, num_steps)
    insertion.meter(next((one.device for one in model.parameters()), torch.device("cpu")))
    return insertion


def hosts_of(
    model: nn.Module,
    regularizer: RegularizerConfig,
    named: Sequence[str] | None,
    image_shape: tuple[int, int, int] | None,
) -> dict[str, nn.Module]:
    """Return site name to the module whose output, or for the input whose argument, it is; see `insert`.

    Raises:
        ConfigError: A site is unknown or unsuitable.
    """
    wanted = named
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
        if hasattr(host, CHILD):
            raise ConfigError(f"site {name!r} holds a regularizer already; remove() it first")
        if host in by_host:
            raise ConfigError(f"sites {by_host[host]!r} and {name!r} are the same output; choose one of them")
        by_host[host] = name
    return hosts


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
    return declared or {name: name for name, _ in model.named_modules() if name and CHILD not in name}


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
