"""The sections of a run's configuration, but for the regularizer's: what each key is, and what it may be."""

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import field_validator, model_validator

from tdbench.config.data_sets import RESIZED, find_data_set, full_name
from tdbench.config.networks import PUBLISHED, find_network
from tdbench.errors import OutOfRange
from tdbench.knobs import Section, knob
from tdbench.user_code import absolute, expanded, short_name


class DataConfig(Section):
    """Which images, and how many of them."""

    name: str = knob("digits", "data set, or the user's own: file.py:make_data")
    root: Path = knob(Path("data"), "folder of the data sets' files", identity=False)
    train_fraction: float = knob(
        1.0,
        "share of the training images used, balanced over classes",
        gt=0,
        le=1,
        rule="0 < F <= 1",
        sweep=(0.1, 0.25, 0.5, 1.0),
    )
    image_size: int = knob(
        32,
        "side in pixels of the square that is cropped from the middle of each image that is resized",
        ge=8,
        le=4096,
        needs={"name": RESIZED},
    )
    resident_mib: int = knob(
        4096,
        "training sets up to this size are held on the device (two copies for flips); larger ones are streamed",
        ge=0,
        identity=False,
    )
    num_workers: int = knob(2, "threads that decode the images of a folder", ge=0, le=256, identity=False)
    valid_fraction: float = knob(
        0.0,
        "share of the training images held out, balanced over classes, for valid_error_pct",
        ge=0,
        lt=1,
        rule="0 <= F < 1",
    )
    split_seed: int = knob(0, "chooses the images that are held out, the same whatever the seed of a run", ge=0)
    resample: bool = knob(False, "draw training and test images anew from all of them with each seed")
    test: bool = knob(True, "judge a run by the test images too; false: they are not read, only those held out")

    resize_size: int | None = knob(
        None,
        "shorter side in pixels to which each image is resized before that (torchvision's presets: 256 for 224); null: "
        "image_size",
        ge=8,
        le=8192,
        needs={"name": RESIZED},
    )
    skip_broken: bool = knob(
        False, "leave out the images of a folder that cannot be decoded, and say how many", needs={"name": ("folder",)}
    )
    cache: Path | None = knob(
        None,
        "folder for what is decoded once for all runs; null: .tdbench under data.root",
        identity=False,
        needs={"name": ("folder",)},
    )

    @field_validator("root", "cache")
    @classmethod
    def _same_from_everywhere(cls, value: Path | None) -> Path | None:
        return None if value is None else Path(os.path.abspath(expanded(value)))

    @field_validator("name")
    @classmethod
    def _is_known(cls, value: str) -> str:
        find_data_set(value)
        return full_name(value)

    @model_validator(mode="after")
    def _something_judges(self) -> "DataConfig":
        if not self.test and self.valid_fraction == 0:
            raise ValueError("data.test must be true where no images are held out (data.valid_fraction 0), got false")
        if not self.test and self.resample:
            raise ValueError("data.test must be true where data.resample draws test images anew among all, got false")
        return self

    @model_validator(mode="after")
    def _crop_fits(self) -> "DataConfig":
        if self.resize_size is not None and self.resize_size < self.image_size:
            raise ValueError(
                f"data.resize_size must be at least data.image_size, {self.image_size}, got {self.resize_size}"
            )
        return self


class AugmentConfig(Section):
    """Random changes to the training images, drawn for each of them; those of mixup and cutmix for each batch."""

    crop_padding: int | None = knob(
        None,
        "zero-padding in pixels before a random crop; null: an eighth of the side, none with random_resized_crop",
        ge=0,
    )
    flip: bool | None = knob(None, "random horizontal flips; null: where a mirrored image keeps its class")
    cutout: int = knob(
        0,
        "side in pixels of the hole that Cutout cuts into each training image, beside any regularizer; 0: none",
        ge=0,
        sweep=(0, 8, 16),
        source="paper: 16 on CIFAR-10, 8 on CIFAR-100, 20 on SVHN",
    )
    random_resized_crop: float | None = knob(
        None,
        "each image is cut to a random part of its area, at least this one, and resized to its size; null: whole",
        gt=0,
        le=1,
        sweep=(0.08, 0.35),
    )
    randaugment: int = knob(
        0, "magnitude of RandAugment's two operations on each image, of 30; 0: none", ge=0, le=30, sweep=(0, 5, 9)
    )
    trivial_augment: bool = knob(False, "TrivialAugment: on each image one operation of a random magnitude")
    color_jitter: float = knob(
        0.0,
        "brightness, contrast and saturation of each image change by up to this share",
        ge=0,
        le=1,
        sweep=(0.0, 0.4),
    )
    random_erasing: float = knob(
        0.0, "probability of each image to lose a random rectangle", ge=0, le=1, sweep=(0.0, 0.25)
    )
    mixup: float = knob(
        0.0, "alpha of MixUp: each batch is blended with itself, shifted by one; 0: not", ge=0, sweep=(0.0, 0.2, 1.0)
    )
    cutmix: float = knob(
        0.0,
        "alpha of CutMix: a rectangle of each batch is from itself, shifted by one; with mixup one of both, drawn for "
        "each batch; 0: not",
        ge=0,
        sweep=(0.0, 1.0),
    )

    @property
    def uses_torchvision(self) -> bool:
        """Whether any of it is torchvision's."""
        ours = {"crop_padding", "flip", "cutout"}
        return any(value for key, value in self.model_dump(exclude=ours).items())

    @model_validator(mode="after")
    def _one_policy_alone(self) -> "AugmentConfig":
        if self.trivial_augment and self.randaugment:
            raise ValueError("augment.trivial_augment must be false beside augment.randaugment, got true")
        return self


class ModelConfig(Section):
    """The network."""

    name: str = knob(
        "resnet8", "network, or the user's own: file.py:make_model", sweep=("resnet8", "resnet14", "resnet20")
    )
    pretrained: bool = knob(
        False, "begin with the weights that torchvision or timm publish, and with their image size and normalisation"
    )
    weights: Path | None = knob(
        None, "file of weights to begin with, of safetensors or torch.save; null: they are drawn"
    )
    input_size: int | None = knob(
        None,
        "side in pixels to which each batch is resized for the network; null: as the images are, or what published "
        "weights were made with",
        ge=8,
        le=4096,
    )
    input_mean: tuple[float, ...] | None = knob(
        None,
        "of each channel, in [0, 1], by which images are normalised; null: the training images' own, or what published "
        "weights were made with",
    )
    input_std: tuple[float, ...] | None = knob(None, "deviation of each channel, likewise")

    @field_validator("name")
    @classmethod
    def _is_known(cls, value: str) -> str:
        find_network(value)
        return absolute(value)

    @field_validator("weights")
    @classmethod
    def _same_from_everywhere(cls, value: Path | None) -> Path | None:
        return None if value is None else Path(os.path.abspath(expanded(value)))

    @field_validator("input_mean")
    @classmethod
    def _is_of_scaled_images(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and not all(0 <= mean <= 1 for mean in value):
            raise OutOfRange("numbers between 0 and 1, to which images are scaled", list(value))
        return value

    @field_validator("input_std")
    @classmethod
    def _divides_scaled_images(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and not all(0 < deviation <= 1 for deviation in value):
            raise OutOfRange("numbers above 0 and up to 1, to which images are scaled", list(value))
        return value

    @model_validator(mode="after")
    def _begins_once(self) -> "ModelConfig":
        if self.pretrained and not self.name.startswith(PUBLISHED):
            raise ValueError(
                f"model.pretrained must be false for {short_name(self.name)}: only torchvision:NAME and timm:NAME have "
                "published weights; model.weights takes a file"
            )
        if self.pretrained and self.weights is not None:
            raise ValueError("model.weights must be null where model.pretrained is true; leave one out")
        num_means, num_deviations = (len(values or ()) for values in (self.input_mean, self.input_std))
        if num_means != num_deviations:
            raise ValueError(
                f"model.input_mean and model.input_std must have as many values, got {num_means} and {num_deviations}"
            )
        return self


class TrainingConfig(Section):
    """How long, and in batches of which size."""

    epochs: int = knob(20, "passes over the training images", ge=1, sweep=(5, 10, 20, 40))
    max_steps: int | None = knob(None, "stop after this many optimizer steps, the schedules scaled to it", ge=1)
    batch_size: int = knob(64, "images per optimizer step", ge=1, sweep=(32, 64, 128))
    eval_every: int = knob(1, "evaluate each so many epochs; the last one always", ge=1)
    checkpoint_every_s: float = knob(
        30.0,
        "seconds between checkpoints, which are written at the end of an epoch; 0: each epoch; one is written at the "
        "end of the run and when it is stopped in any case",
        ge=0,
        identity=False,
    )
    label_smoothing: float = knob(0.0, "label smoothing", ge=0, lt=1, sweep=(0.0, 0.05, 0.1))


class EvaluateConfig(Section):
    """What is looked at after training, beside the error of the last epoch."""

    bn_batches: int = knob(
        100,
        "training batches over which BatchNorm's statistics are re-estimated without the regularizer, for "
        "test_error_pct_bn; at most an epoch; 0: not at all",
        ge=0,
    )


class HardwareConfig(Section):
    """Where the run goes, and in which arithmetic."""

    device: str = knob("auto", "auto, cpu, cuda, cuda:N or mps", rule="auto | cpu | cuda | cuda:N | mps")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = knob("auto", "auto: bf16 where the hardware has it, else fp32")
    memory_format: Literal["channels_last", "contiguous"] = knob("channels_last", "order of a batch in memory")
    compile: bool = knob(False, "compile the network with torch.compile")
    threads: int | None = knob(None, "CPU threads; null: torch's own choice", ge=1, le=1024, identity=False)
    graph: Literal["auto", "always", "never"] = knob(
        "auto", "a CUDA graph for each training step; auto: where the step can be recorded", identity=False
    )
    deterministic: bool = knob(False, "deterministic algorithms only; slower on a GPU")

    @field_validator("device")
    @classmethod
    def _device_exists_in_torch(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
            if value.lower().startswith(("gpu", "nvidia", "rocm")):
                raise OutOfRange("auto, cpu, cuda, cuda:N or mps, of which cuda is a GPU of NVIDIA or AMD", value)
            raise OutOfRange("auto, cpu, cuda, cuda:N or mps", value, known=("auto", "cpu", "cuda", "mps"))
        return value
