"""Lightning's own Trainer: the schedule rises with its optimizer steps, also when resumed; the share is logged."""

import copy
import logging
import runpy
import sys
import warnings

import pytest
import torch
from torch import nn

import tdbench
from tdbench.errors import ConfigError

lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
callbacks = pytest.importorskip("tdbench.integrations.lightning")


class Classifier(lightning.LightningModule):
    """A network of one convolution, which notes the strength of its regularizer at each batch."""

    def __init__(self, method="spatial_dropout", **knobs):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
        self.insertion = tdbench.insert(self.net, method, "1", image_shape=(1, 8, 8), **knobs)
        self.strengths = []

    def training_step(self, batch, index):
        self.strengths.append(self.insertion.layers["1"].strength)
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.fixture
def fit(tmp_path):
    """Return what trains a module on six batches an epoch, and returns the Trainer."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    def fitted(module, resume=None, **options):
        images, labels = torch.rand(24, 1, 8, 8), torch.randint(2, (24,))
        batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=4)
        callback = callbacks.RegularizerCallback(module.insertion)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = lightning.Trainer(callbacks=[callback], default_root_dir=tmp_path, **quiet, **options)
            trainer.fit(module, batches, ckpt_path=resume)
        return trainer

    return fitted


def test_the_schedule_rises_with_the_optimizer_steps_and_the_share_is_logged(fit):
    module = Classifier(p=0.5, schedule="linear", ramp=0.5)
    trainer = fit(module, max_epochs=2, accumulate_grad_batches=2)
    assert module.strengths == [min(1, step / 3) for step in (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)]
    assert 0 < float(trainer.callback_metrics["dropped_pct"]) < 100


def test_all_that_is_dropped_is_a_hundred_per_cent(fit):
    trainer = fit(Classifier(p=1.0, schedule="constant"), max_steps=2)
    assert float(trainer.callback_metrics["dropped_pct"]) == 100


def test_a_resumed_training_goes_on_with_the_schedule_where_it_was(fit, tmp_path):
    fit(Classifier(schedule="linear"), max_epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    module = Classifier(schedule="linear")
    fit(module, resume=tmp_path / "last.ckpt", max_epochs=2)
    assert module.strengths == [step / 12 for step in range(6, 12)]


def test_a_resumed_training_has_the_weights_of_the_layers_again(fit, tmp_path):
    saved = Classifier("targetdrop", attention="se_ste")
    fit(saved, max_epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    resumed = Classifier("targetdrop", attention="se_ste")
    fit(resumed, resume=tmp_path / "last.ckpt", max_epochs=1)  # whose steps are all done
    assert torch.equal(resumed.insertion.layers["1"].fc1, saved.insertion.layers["1"].fc1)
    with pytest.raises(ConfigError, match="the checkpoint must be of the same regularizer as Insertion"):
        fit(Classifier("spatial_dropout"), resume=tmp_path / "last.ckpt", max_epochs=2)


def test_each_of_two_callbacks_has_its_own_layers_in_the_checkpoint(tmp_path):
    first, second = Classifier("targetdrop", attention="se"), Classifier("targetdrop", attention="se")
    every = [callbacks.RegularizerCallback(module.insertion) for module in (first, second)]
    trainer = lightning.Trainer(callbacks=every, logger=False, accelerator="cpu", default_root_dir=tmp_path)
    checkpoint, weights = {}, [module.insertion.layers["1"].fc1.clone() for module in (first, second)]
    for one in every:
        one.on_save_checkpoint(trainer, None, checkpoint)
    checkpoint = copy.deepcopy(checkpoint)
    for module in (first, second):
        module.insertion.layers["1"].fc1.zero_()
    for one in reversed(every):
        one.on_load_checkpoint(trainer, None, checkpoint)
    assert torch.equal(first.insertion.layers["1"].fc1, weights[0])
    assert torch.equal(second.insertion.layers["1"].fc1, weights[1])
    every[0].on_load_checkpoint(trainer, None, {})  # of a training without it


def test_the_network_itself_is_no_insertion():
    with pytest.raises(ConfigError, match=r"insertion must be what tdbench.insert returned, got Sequential"):
        callbacks.RegularizerCallback(Classifier().net)


def load_without(monkeypatch, *missing):
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    return runpy.run_path(callbacks.__file__)


def test_the_older_name_of_the_package_will_do_and_none_at_all_is_told(monkeypatch):
    older = pytest.importorskip("pytorch_lightning", reason="pytorch_lightning is not installed")
    assert load_without(monkeypatch, "lightning.pytorch")["Callback"] is older.Callback
    with pytest.raises(ConfigError, match="needs lightning, which is not installed: pip install lightning"):
        load_without(monkeypatch, "pytorch_lightning")


def test_a_linear_schedule_needs_an_end(fit):
    with pytest.raises(ConfigError, match="max_epochs or max_steps must be given"):
        fit(Classifier(schedule="linear"), max_epochs=-1)
