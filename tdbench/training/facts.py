"""The facts of a run, a line each, for display."""

from collections import Counter

from tdbench.config import RunConfig
from tdbench.config.networks import find_network
from tdbench.data.sources import LoadedData
from tdbench.models.insertion import Insertion
from tdbench.regularizers.config import RegularizerConfig
from tdbench.training.graph import reason_against, rises_live
from tdbench.training.hardware import Hardware
from tdbench.training.setup import Setup
from tdbench.user_code import short_name


def facts_of(setup: Setup, insertion: Insertion, num_processes: int = 1) -> dict[str, str]:
    config, hardware, data = setup.config, setup.hardware, setup.data
    network = f"{short_name(config.model.name)} ({find_network(config.model.name).title})"
    shape, batch_size = "×".join(map(str, data.image_shape)), config.training.batch_size
    begun = {} if setup.begun is None else {"weights": str(setup.begun)}
    return {
        "model": f"{network}, {setup.num_parameters():,} parameters",
        **begun,
        "data": f"{short_name(config.data.name)}, {len(data.train):,} train and {tested(data)} test images, {shape}, "
        f"{data.num_classes} classes{split(data)}{left_out(data)}{taken(config, data)}",
        "regularizer": describe_regularizer(config.regularizer),
        "sites": ", ".join(f"{site} {'×'.join(map(str, size))}" for site, size in insertion.shapes.items()),
        "device": hardware.name(),
        "precision": f"{hardware.precision}, {config.hardware.memory_format}"
        + (", compiled" if hardware.compile else "")
        + recording(config, hardware, num_processes, rises_live(insertion)),
        "threads": str(hardware.threads),
    } | ({"processes": f"{num_processes}, which share every batch of {batch_size}"} if num_processes > 1 else {})


def recording(config: RunConfig, hardware: Hardware, num_processes: int, can_rise: bool = False) -> str:
    """Return whether the steps on a GPU run as CUDA graphs, and why not, in words."""
    if hardware.device.type != "cuda" or config.hardware.graph == "never":
        return ""
    reason = reason_against(config, hardware, num_processes, can_rise)
    return ", each step a CUDA graph" if reason is None else f", no CUDA graph ({reason})"


def tested(data: LoadedData) -> str:
    """Return the number of test images, in words where they are not to be seen."""
    return f"{len(data.test):,}" if len(data.test) else "no"


def split(data: LoadedData) -> str:
    """Return how many images are held out for validation, in words; nothing where none are."""
    return "" if data.valid is None else f", {len(data.valid):,} more held out for validation"


def left_out(data: LoadedData) -> str:
    """Return which files beside the images of a folder do not count, in words; nothing where all do."""
    counts = Counter(data.train.left_out) + Counter(data.test.left_out)
    return f"; left out: {', '.join(f'{count} {why}' for why, count in counts.items())}" if counts else ""


def taken(config: RunConfig, data: LoadedData) -> str:
    """Return how the images are made ready for the network, in words; nothing where that is their own matter."""
    model = config.model
    if not (model.pretrained or model.input_mean or model.input_size):
        return ""
    mean, std = (" ".join(f"{value:.3g}" for value in values) for values in (data.mean, data.std))
    return f"; resized to {'×'.join(map(str, data.input_shape[1:]))}, mean {mean}, deviation {std}"


def describe_regularizer(regularizer: RegularizerConfig) -> str:
    """Return the method and its knobs in a line, with what its strength was solved for."""
    knobs = {knob: str(value) for knob, value in regularizer.knobs().items() if value is not None}
    if regularizer.match is not None:
        knobs[str(regularizer.strength_knob)] += f" (solved for {regularizer.match:g} % dropped)"
    if regularizer.schedule != "constant":
        knobs["schedule"] = regularizer.schedule
    return ", ".join([short_name(regularizer.name), *(f"{knob} {value}" for knob, value in knobs.items())])
