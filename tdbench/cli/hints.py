"""What is meant by an option that does not exist: a word of other tools, or a key that `--set` takes."""

from contextlib import suppress

NO_SPLIT = (
    "--set data.valid_fraction=F holds out training images for valid_error_pct; the test set is evaluated in any case"
)
WORDS = {
    "amp": "--precision bf16, or fp16",
    "fp16": "--precision fp16",
    "bf16": "--precision bf16",
    "gpu": "--device cuda",
    "cuda": "--device cuda",
    "cpu": "--device cpu",
    "workers": "--set num_workers=N for threads that decode images; ablate --jobs N for trials at once",
    "dataset": "--data",
    "data-dir": "--data-root",
    "arch": "--model",
    "net": "--model",
    "network": "--model",
    "method": "--regularizer",
    "dropout": "--regularizer dropout",
    "learning-rate": "--lr",
    "bs": "--batch-size",
    "wd": "--set weight_decay=F",
    "optimizer": "--set optimizer.name=NAME: sgd, adamw, adam, rmsprop or another class of torch.optim",
    "scheduler": "--set schedule.name=NAME: cosine, milestones, constant or a class of torch.optim.lr_scheduler",
    "ema": "--set optimizer.ema_decay=F",
    "clip-grad": "--set optimizer.clip_norm=F",
    "val-split": NO_SPLIT,
    "val": NO_SPLIT,
    "wandb": "--log wandb",
    "mlflow": "--log mlflow",
    "tensorboard": "--log tensorboard",
    "logger": "--log wandb, mlflow or tensorboard",
    "output": "--out",
    "output-dir": "--out",
    "save-dir": "--out",
    "name": "--out",
    "overwrite": "--fresh",
    "force": "--fresh",
    "continue": "the same command goes on where it stopped",
    "checkpoint": "the same command goes on where it stopped",
    "pretrained": "networks start from fresh weights",
    "iterations": "--max-steps",
    "steps": "--max-steps",
    "verbose": "TDBENCH_DEBUG=1 shows where an error comes from",
    "debug": "TDBENCH_DEBUG=1 shows where an error comes from",
}
ALSO = {
    "num-workers": "workers",
    "validation-split": "val-split",
    "optim": "optimizer",
    "opt": "optimizer",
    "model-ema": "ema",
    "reg": "method",
    "drop": "dropout",
    "lr-scheduler": "scheduler",
    "half": "amp",
    "mixed-precision": "amp",
}


def meant_by(option: str) -> str | None:
    """Return in words what is meant by an option such as `--amp`; None where nobody knows."""
    word = option.lstrip("-").partition("=")[0].replace("_", "-")
    word = ALSO.get(word, word)
    if word in WORDS:
        return f"use {WORDS[word]}" if WORDS[word].startswith("--") else WORDS[word]
    from tdbench.config import FLAGS, resolve_key
    from tdbench.errors import ConfigError
    from tdbench.regularizers.registry import find_method, method_names

    for method in ("targetdrop", *method_names()):
        with suppress(ConfigError):
            key = resolve_key(word, find_method(method))
            flag = next((flag for flag, meant in FLAGS.items() if meant == key), None)
            return f"use --{flag.replace('_', '-')}" if flag else f"use --set {key.removeprefix('regularizer.')}=VALUE"
    return None
