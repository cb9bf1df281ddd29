"""Hugging Face's own Trainer: the schedule rises with its optimizer steps, and the share stands beside the loss."""

import pytest
import torch
from torch import nn

import tdbench
from tdbench.errors import ConfigError

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")
callbacks = pytest.importorskip("tdbench.integrations.transformers")


class Classifier(nn.Module):
    """A network of one convolution, which notes the strength of its regularizer at each batch."""

    def __init__(self, method="spatial_dropout", **knobs):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
        self.insertion = tdbench.insert(self.net, method, "1", image_shape=(1, 8, 8), **knobs)
        self.strengths = []

    def forward(self, pixel_values, labels):
        if self.training:
            self.strengths.append(self.insertion.layers["1"].strength)
        logits = self.net(pixel_values)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Reporting(transformers.TrainerCallback):
    """Keeps what it is told to report."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


def train(module, place, is_first=True, resume=None, **changes):
    images = [{"pixel_values": torch.rand(1, 8, 8), "labels": number % 2} for number in range(24)]
    asked = {
        "output_dir": str(place),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "logging_steps": 3,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    }
    arguments = transformers.TrainingArguments(**asked | changes)
    reporting, callback = Reporting(), callbacks.RegularizerCallback(module.insertion)
    own = [reporting] if is_first else [reporting, callback]
    trainer = transformers.Trainer(module, arguments, train_dataset=images, eval_dataset=images[:4], callbacks=own)
    if is_first:
        callback.add_to(trainer)
    trainer.train(resume_from_checkpoint=resume)
    trainer.evaluate()
    return trainer.state.log_history, reporting.logs


def test_the_schedule_rises_with_the_optimizer_steps_and_reporters_see_the_share(tmp_path):
    module = Classifier(p=0.5, schedule="linear", ramp=0.5)
    history, reported = train(module, tmp_path)
    assert module.strengths == [min(1, step / 3) for step in (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)]
    early, late = (row["dropped_pct"] for row in history if "loss" in row)
    assert 0 < early < late < 100
    assert [row["dropped_pct"] for row in reported if "loss" in row] == [early, late]
    assert all("dropped_pct" not in row for row in history if "loss" not in row)  # of an evaluation


def test_as_one_of_the_callbacks_it_adds_the_share_to_the_history(tmp_path):
    history, _ = train(Classifier(p=1.0, schedule="constant"), tmp_path, is_first=False)
    assert [row["dropped_pct"] for row in history if "loss" in row] == [100, 100]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "is_first"), [("epoch", False), ("steps", True), ("best", True)])
def test_a_resumed_training_has_the_weights_of_the_layers_again(how, is_first, tmp_path):
    kept = {"save_strategy": how, "save_steps": 3, "num_train_epochs": 1}
    if how == "best":
        kept |= {"eval_strategy": "epoch", "metric_for_best_model": "loss"}
    saved, resumed = (Classifier("targetdrop", attention="se") for _ in range(2))
    train(saved, tmp_path, is_first, **kept)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    train(resumed, tmp_path / "more", is_first, resume=str(checkpoint), **kept)  # whose steps are all done
    assert torch.equal(resumed.insertion.layers["1"].fc1, saved.insertion.layers["1"].fc1)
    with pytest.raises(ConfigError, match="the checkpoint must be of the same regularizer as Insertion"):
        train(Classifier(), tmp_path / "other", is_first, resume=str(checkpoint), **kept)


def test_the_network_itself_is_no_insertion():
    with pytest.raises(ConfigError, match=r"insertion must be what tdbench.insert returned, got Sequential"):
        callbacks.RegularizerCallback(Classifier().net)
