"""Outputs of a network's modules in one forward with a blank image, in evaluation mode: shapes and sites."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tdbench.errors import ConfigError, line_of
from tdbench.user_code import reason_of

INPUT = "input"  # the site of the network's input
_WEIGHTS = "parametrizations"


class Call(NamedTuple):
    """One call of a module; sides are (0, 0) for anything but a (N, C, H, W) tensor."""

    order: int  # of the return
    path: str
    module: nn.Module
    input_sides: tuple[int, int]
    sides: tuple[int, int]
    output: Any
    version: int  # of the output: it grows with each in-place change


def traced_sites(model: nn.Module, image_shape: tuple[int, int, int] | None = None) -> dict[str, str]:
    """Find the sites of a network that declares none.

    They are the last modules to return a feature map (N, C, H, W) at each resolution (H, W), in the order of the
    forward. Where several return the same tensor, the outermost one is taken: `layer1`, not `layer1.1.relu`. A module
    inside a block that changes the resolution (`layer2.0.bn1`) counts only where its resolution has no other. Excluded
    are modules that are called more than once, since a regularizer would act at each call; adaptive pooling, which
    belongs to the head; what lies beside a softmax in an attention; maps of one pixel; and maps without the image's
    proportions, whose channels come last.

    Args:
        model: Any network.
        image_shape: (C, H, W) of the images, as in `insert`.

    Returns:
        Site name to module path; here the two are the same.

    Raises:
        ConfigError: The network accepts no image shape.
    """
    calls, image_sides = trace_calls(model, image_shape)
    num_calls = Counter(call.module for call in calls)
    attentions = {call.path.rpartition(".")[0] for call in calls if is_attention(call.module) and call.sides != (0, 0)}
    maps = [
        call
        for call in calls
        if not any(call.path.startswith(f"{attention}.") for attention in attentions)
        and num_calls[call.module] == num_calls[output_module(call.module)] == 1
        and not isinstance(call.module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)
        and is_scaled(call.sides, image_sides)
    ]
    leaving = leaving_blocks(calls, maps)
    sites: list[Call] = []
    for sides in {call.sides for call in maps}:
        same_size = [call for call in maps if call.sides == sides]
        whole = [
            call
            for call in same_size
            if not any(is_inside(call, block) and block.input_sides == sides for block in leaving)
        ]
        last = (whole or same_size)[-1]
        same_tensor = [call for call in same_size if call.output is last.output and call.version == last.version]
        sites.append(min(same_tensor, key=lambda call: call.path.count(".")))
    return {call.path: call.path for call in sorted(sites, key=lambda call: call.order)}


def trace_calls(model: nn.Module, image_shape: tuple[int, int, int] | None) -> tuple[list[Call], tuple[int, int]]:
    """Return the calls of all modules but the network itself, in the order of return, and (H, W) of the image."""
    calls: list[Call] = []
    image_sides = (0, 0)

    def begin(module: nn.Module, args: Any) -> None:
        nonlocal image_sides
        calls.clear()  # left from a refused image shape
        image_sides = sides_of(args[0])

    def note(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            version = output._version if isinstance(output, Tensor) else 0
            input_sides = sides_of(args[0]) if args else (0, 0)
            calls.append(Call(len(calls), path, module, input_sides, sides_of(output), output, version))

        return hook

    # What is under `parametrizations`, of torch.nn.utils.parametrize, puts out weights.
    parts = {path: module for path, module in model.named_modules() if path and _WEIGHTS not in path.split(".")}
    handles = [module.register_forward_hook(note(path)) for path, module in parts.items()]
    handles.append(model.register_forward_pre_hook(begin))
    try:
        with evaluating(model), torch.no_grad():
            forward_once(model, image_shape)
    finally:
        for handle in handles:
            handle.remove()
    return calls, image_sides


def sides_of(value: Any) -> tuple[int, int]:
    """Return (H, W) of (N, C, H, W), and (0, 0) for anything else."""
    return (value.shape[2], value.shape[3]) if isinstance(value, Tensor) and value.dim() == 4 else (0, 0)


def is_scaled(sides: tuple[int, int], image_sides: tuple[int, int]) -> bool:
    """Return whether a map has more than one pixel and the image's proportions; a side may be rounded by a pixel."""
    off_by = abs(sides[0] * image_sides[1] - sides[1] * image_sides[0])
    return sides[0] * sides[1] > 1 and off_by <= max(image_sides)


def is_attention(module: nn.Module) -> bool:
    """Return whether a module makes weights, as attention has them between positions."""
    return isinstance(module, nn.Softmax)


def leaving_blocks(calls: list[Call], maps: list[Call]) -> list[Call]:
    """Return the blocks that change the resolution, with no third one inside; a Sequential is not a block."""
    return [
        block
        for block in calls
        if not isinstance(block.module, nn.Sequential)
        and block.sides != block.input_sides
        and (0, 0) not in (block.sides, block.input_sides)
        and {call.sides for call in maps if is_inside(call, block)} <= {block.sides, block.input_sides}
    ]


def is_inside(call: Call, block: Call) -> bool:
    """Return whether a call is that of a submodule of `block`'s module."""
    return call.path.startswith(f"{block.path}.")


def input_module(module: nn.Module) -> nn.Module:
    """Return the module that takes the input of `module` first: the first one of a Sequential, at any depth."""
    while isinstance(module, nn.Sequential) and len(module) > 0:
        module = module[0]
    return module


def output_module(module: nn.Module) -> nn.Module:
    """Return the module that makes the output of `module`: the last one of a Sequential, at any depth.

    A Sequential calls all its children, so a regularizer must not become one of them.
    """
    while isinstance(module, nn.Sequential) and len(module) > 0:
        module = module[-1]
    return module


def feature_shapes(
    model: nn.Module, hosts: dict[str, nn.Module], image_shape: tuple[int, int, int] | None
) -> dict[str, tuple[int, int, int]]:
    """Return the output shape (C, H, W) of each module, or the input shape at the site `input`, from one forward.

    Raises:
        ConfigError: A module is not called, or more than once; what it puts out is not a feature map; or the network
            accepts no image shape.
    """
    passed, image = outputs_of(model, hosts, image_shape)
    found: dict[str, tuple[int, int, int]] = {}
    for name in hosts:
        outputs = passed[name]
        if len(outputs) > 1:
            raise ConfigError(
                f"site {name!r} is called {len(outputs)} times in a forward, and a layer would act each time; name a "
                "module that is called once, such as the block around it"
            )
        if is_attention(hosts[name]):
            raise ConfigError(f"site {name!r} must put out a feature map (N, C, H, W), and a softmax puts out weights")
        shape = outputs[0] if outputs else ()
        if len(shape) != 4:
            raise ConfigError(f"site {name!r} must put out a feature map (N, C, H, W), got {('N', *shape[1:])}")
        if shape[0] != image[0]:
            raise ConfigError(
                f"site {name!r} must put out a feature map (N, C, H, W), got {shape} for {image[0]} image: its first "
                "dimension is not that of the images"
            )
        found[name] = (shape[1], shape[2], shape[3])
    check_channels_first(model, hosts, found, image)
    return found


def check_channels_first(
    model: nn.Module, hosts: dict[str, nn.Module], shapes: dict[str, tuple[int, int, int]], image: tuple[int, ...]
) -> None:
    """Check that no map is (N, H, W, C), as transformers have them: there methods would take rows for channels.

    A map whose first two sides have the image's proportions may be one. It is, where its first side grows with the
    image; or, of a network that takes one size of image only, where its last two do not have the proportions.

    Raises:
        ConfigError: One is.
    """
    sides = (image[2], image[3])
    doubtful = {name for name, shape in shapes.items() if name != INPUT and is_scaled(shape[:2], sides)}
    last: set[str] = set()
    if doubtful:
        try:
            larger, _ = outputs_of(model, hosts, (image[1], 2 * image[2], 2 * image[3]))
            last = {name for name in doubtful if larger[name] and larger[name][0][1:2] != shapes[name][:1]}
        except Exception:  # whatever a network does with images that it was not made for
            last = {name for name in doubtful if not is_scaled(shapes[name][1:], sides) and max(shapes[name][1:]) > 1}
    for name in shapes:
        if name in last:
            raise ConfigError(
                f"site {name!r} must put out a feature map (N, C, H, W), got {('N', *shapes[name])} with the channels "
                "last; name a module before they are moved there, or permute them in the network"
            )


def outputs_of(
    model: nn.Module, hosts: dict[str, nn.Module], image_shape: tuple[int, int, int] | None
) -> tuple[dict[str, list[tuple[int, ...]]], tuple[int, ...]]:
    """Return the shapes of what each module puts out in a forward, or takes in at the site `input`; and the image's.

    Anything but a tensor has the shape ().
    """
    shapes: dict[str, list[tuple[int, ...]]] = {name: [] for name in hosts}
    image: tuple[int, ...] = ()

    def begin(module: nn.Module, args: Any) -> None:
        nonlocal image
        image = tuple(args[0].shape)
        for seen in shapes.values():  # left from a refused image shape
            seen.clear()

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            there = next(iter((*args, *kwargs.values()))) if name == INPUT else output
            shapes[name].append(tuple(there.shape) if isinstance(there, Tensor) else ())

        return hook

    handles = [host.register_forward_hook(note(name), with_kwargs=True) for name, host in hosts.items()]
    handles.append(model.register_forward_pre_hook(begin))
    try:
        with evaluating(model), torch.no_grad():
            forward_once(model, image_shape)
    finally:
        for handle in handles:
            handle.remove()
    return shapes, image


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch all modules to evaluation mode, and restore each module's own mode on exit."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def forward_once(model: nn.Module, image_shape: tuple[int, int, int] | None) -> Any:
    """Return the network's output for one blank image."""
    known = (one for one in model.parameters() if not is_lazy(one))
    like = next(known, torch.empty(0))
    in_channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
    shapes = [image_shape] if image_shape is not None else [(in_channels, side, side) for side in (32, 64, 224)]
    failure: Exception = ValueError("no shape was tried")
    for shape in shapes:
        try:
            return model(like.new_zeros(1, *shape))
        except (AssertionError, RuntimeError, ValueError) as error:
            failure = error
    refused = " and ".join("×".join(map(str, shape)) for shape in shapes)
    advice = "choose another network" if image_shape is not None else "give image_shape"
    reason = reason_of(failure)
    if reason != line_of(failure):  # which names the user's own line
        raise ConfigError(f"the network fails on images of {refused}: {reason}") from failure
    raise ConfigError(f"the network refuses images of {refused}; {advice} ({reason})") from failure
