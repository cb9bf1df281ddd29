"""The images of a run as its network takes them: their size and normalisation, where these are not the images' own."""

from dataclasses import replace
from fnmatch import fnmatchcase

from tdbench.config import DataConfig, RunConfig
from tdbench.config.data_sets import RESIZED
from tdbench.config.sections import ModelConfig
from tdbench.data.sources import LoadedData
from tdbench.errors import ConfigError
from tdbench.models.published import Input, published_input
from tdbench.user_code import short_name


def input_of(model: ModelConfig) -> Input:
    """Return what a network takes: as it is configured, or else as its published weights were made.

    Raises:
        ConfigError: There are no published weights.
    """
    published = published_input(model.name) if model.pretrained else Input()
    return Input(
        model.input_size or published.size, model.input_mean or published.mean, model.input_std or published.std
    )


def images_for(config: RunConfig) -> DataConfig:
    """Return which images are to be loaded: those of any size in the one that the network takes, where none is named.

    Raises:
        ConfigError: There are no published weights.
    """
    size, data = input_of(config.model).size, config.data
    is_any = any(fnmatchcase(data.name, pattern) for pattern in RESIZED)
    return data.model_copy(update={"image_size": size}) if size and is_any and not names_size(data) else data


def names_size(data: DataConfig) -> bool:
    """Return whether a configuration says to which size images are resized and cropped."""
    return data.resize_size is not None or data.image_size != DataConfig.model_fields["image_size"].default


def check_size(config: DataConfig, data: LoadedData) -> None:
    """Check that images have the size that is named: the pixels that a user's function returns stay as they are.

    Raises:
        ConfigError: They have another.
    """
    if names_size(config) and data.image_shape[1:] != (config.image_size,) * 2:
        shape = "×".join(map(str, data.image_shape[1:]))
        raise ConfigError(
            f"data.image_size and data.resize_size must be left out where {short_name(config.name)} returns pixels, "
            f"here {shape}, got {config.image_size} and {config.resize_size or 'null'}; model.input_size resizes them"
        )


def as_taken(model: ModelConfig, data: LoadedData) -> LoadedData:
    """Return images with the size and the normalisation that a network takes.

    Published ones of three colours become their mean for grey images; for other numbers of channels the images' own
    stay.

    Raises:
        ConfigError: The normalisation is for another number of channels, or there are no published weights.
    """
    size, mean, std = input_of(model)
    num_channels = data.image_shape[0]
    if model.input_mean is not None and len(model.input_mean) != num_channels:
        raise ConfigError(
            f"model.input_mean must have a value for each of the {num_channels} channels of the images, got "
            f"{len(model.input_mean)}"
        )
    if mean is not None and std is not None and model.input_mean is None and num_channels != len(mean):
        mean, std = (None, None) if num_channels != 1 else ((sum(mean) / len(mean),), (sum(std) / len(std),))
    if mean is not None and std is not None:
        data = replace(data, mean=mean, std=std)
    return replace(data, input_size=size)
