"""The user's own networks and methods, `file.py:NAME`, in every command that takes a name."""

import pytest
import torch

from tdbench import load_config
from tdbench.audit.network import audit_network as audit
from tdbench.config import RunConfig
from tdbench.errors import ConfigError, TdbenchError
from tdbench.models.build import build
from tdbench.models.sites import insert
from tdbench.regularizers.base import DropMeter
from tdbench.regularizers.registry import find_method
from tdbench.training.matching import solve_match
from tdbench.training.run import Run
from tdbench.user_code import absolute, load_object, short_name

CODE = """
import neighbour
import torch
from torch import nn
import tdbench
from tdbench.user_code import short_name

class MapDrop(nn.Module):
    def __init__(self, channels, p: float = 0.25, *, wide: bool = True, generator: torch.Generator | None = None):
        super().__init__()
        self.channels, self.p = channels, p
    def forward(self, x):
        return nn.functional.dropout2d(x, self.p, self.training)

class Rising(tdbench.Regularizer):
    def __init__(self, p=0.5):
        super().__init__()
        self.p = p
    def drop(self, x):
        keep = torch.rand_like(x) >= self.p * self.strength
        return x * keep, (~keep).sum()

class Fails(nn.Module):
    def __init__(self, p: float = 0.1):
        raise ValueError("no good\\nat all")

class Wrong(nn.Module):
    def forward(self, x):
        return x[:1]

class Clashing(nn.Module):
    def __init__(self, sites=3):
        super().__init__()

def make_model(num_classes, in_channels, width=4):
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)
    )

def anything(**options):
    return make_model(**options)

def no_model(): return 3
def raises(num_classes): raise RuntimeError("out of luck")
number = 5
"""


@pytest.fixture
def code(tmp_path):
    (tmp_path / "neighbour.py").write_text("")
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path / "mine.py"


@pytest.mark.parametrize("factory", ["make_model", "anything"])
def test_a_network_of_the_users_is_built_for_the_data(code, factory):
    assert build(f"{code}:{factory}", 7, 2)(torch.zeros(1, 2, 8, 8)).shape == (1, 7)


@pytest.mark.parametrize(
    ("body", "got"),
    [("nn.Flatten(), nn.Linear(1024, 5)", r"\(1, 5\)"), ("nn.Conv2d(1, 10, 3)", r"\(1, 10, 30, 30\)")],
)
def test_a_network_of_the_users_that_does_not_fit_the_classes_is_refused_before_training(tmp_path, body, got):
    (tmp_path / "small.py").write_text(f"from torch import nn\n\ndef small():\n    return nn.Sequential({body})\n")
    config = load_config(overrides={"model": f"{tmp_path}/small.py:small", "regularizer": "none"})
    with pytest.raises(
        ConfigError, match=rf"small.py:small must put out a score for each of the 10 classes.*got {got}"
    ):
        Run(config)


def test_the_knobs_of_a_method_of_the_users_are_its_constructors_parameters(code):
    config = load_config(overrides={"regularizer": f"{code}:MapDrop", "p": 0.5}).regularizer
    assert config.knobs() == {"p": 0.5, "wide": True}
    layer = config.build(8)
    assert (layer.module.channels, layer.module.p) == (8, 0.5)
    for overrides, message in (({"p": "much"}, "p must be a number"), ({"q": 1}, "unknown key 'q'")):
        with pytest.raises(ConfigError, match=message):
            load_config(overrides={"regularizer": f"{code}:MapDrop", **overrides})


def test_a_module_of_the_users_acts_as_it_does_and_its_share_is_estimated_on_units_that_were_not_zero(code):
    layer = find_method(f"{code}:MapDrop")(name=f"{code}:MapDrop", p=0.5).build(64)
    layer.meter = DropMeter(torch.device("cpu"))
    x = torch.randn(32, 64, 4, 4).relu()
    assert torch.equal(layer.eval()(x), x)
    torch.manual_seed(0)
    out = layer.train()(x)
    torch.manual_seed(0)
    assert torch.equal(out, torch.nn.functional.dropout2d(x, 0.5))
    dropped, units = layer.meter.read()
    assert units == x.numel()
    # 2048 maps with p = 0.5: a standard deviation of 0.011, a little more since maps differ in how much is not zero
    assert dropped / units == pytest.approx(0.5, abs=0.05)


def test_a_regularizer_of_the_users_follows_the_schedule_and_a_plain_module_cannot(code):
    rising = load_config(overrides={"regularizer": f"{code}:Rising", "regularizer.schedule": "linear"}).regularizer
    layer = rising.build(3)
    layer.strength = rising.strength_at(0)
    x = torch.ones(1, 3, 4, 4)
    assert torch.equal(layer(x), x)
    with pytest.raises(ConfigError, match=r"constant, got 'linear': MapDrop is no tdbench.Regularizer"):
        load_config(overrides={"regularizer": f"{code}:MapDrop", "regularizer.schedule": "linear"})


def test_a_name_means_the_same_from_everywhere_and_a_change_of_the_file_is_another_run(code, monkeypatch):
    monkeypatch.chdir(code.parent)
    name = "mine.py:make_model"
    here = load_config(overrides={"model": name, "regularizer": "mine.py:Rising"})
    assert here.model.name == absolute(name) == f"{code}:make_model"
    assert short_name(here.model.name) == "mine.py:make_model"
    before = here.digest()
    assert RunConfig.model_validate(here.dump()).digest() == before
    code.write_text(CODE.replace("width=4", "width=5"))
    assert here.digest() != before
    assert build(name, 3, 1)[0].out_channels == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.py:make_modle", "unknown name 'make_modle'; did you mean make_model"),
        ("mine.py:no_model", "must return an nn.Module, got int"),
        ("mine.py:raises", "cannot be built: RuntimeError: out of luck"),
        ("mine.py:number", "must be a function or class that makes a network, got int"),
        ("none.py:x", "none.py cannot be read: No such file"),
        ("broken.py:x", "broken.py does not import: ZeroDivisionError: division by zero"),
    ],
)
def test_what_is_wrong_with_a_network_of_the_users_is_said_in_its_own_words(code, monkeypatch, name, message):
    monkeypatch.chdir(code.parent)
    (code.parent / "broken.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=message):
        build(name, 3, 1)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("make_model", "must be a subclass of nn.Module, got function"),
        ("Clashing", "a knob must not be called 'sites'"),
    ],
)
def test_what_is_no_method_is_refused(code, entry, message):
    with pytest.raises(ConfigError, match=message):
        load_config(overrides={"regularizer": f"{code}:{entry}"})


def test_a_method_that_fails_says_so(code):
    with pytest.raises(ConfigError, match=r"Fails cannot be built: ValueError: no good$"):
        load_config(overrides={"regularizer": f"{code}:Fails"}).regularizer.build(3)
    layer = load_config(overrides={"regularizer": f"{code}:Wrong"}).regularizer.build(3)
    with pytest.raises(TdbenchError, match=r"Wrong must return a tensor of \(2, 3, 4, 4\), got \(1, 3, 4, 4\)"):
        layer(torch.zeros(2, 3, 4, 4))


def test_a_file_that_fails_once_can_be_mended(tmp_path):
    file = tmp_path / "mended.py"
    file.write_text("raise SystemExit(3)")
    with pytest.raises(ConfigError, match="does not import: SystemExit: 3"):
        load_object(f"{file}:x")
    file.write_text("x = 1")
    assert load_object(f"{file}:x") == 1


INVERTED = """
import torch
from torch import nn

class Inverted(nn.Module):
    def __init__(self, p: float = 0.2):
        super().__init__()
        self.p = p
    def forward(self, x):
        return x * (torch.rand_like(x) >= self.p) / (1 - self.p) if self.training else x

class Off(Inverted):
    def forward(self, x):
        return x
"""


def test_an_audit_finds_no_fault_in_a_correct_module_of_the_users_and_finds_one_that_is_off(tmp_path):
    (tmp_path / "mine.py").write_text(INVERTED)
    images, labels = torch.randn(8, 1, 32, 32), torch.arange(8)
    for name, faults in (("Inverted", []), ("Off", ["nothing was dropped: the layer is off"])):
        network = build("resnet8", 10, 1)
        regularizer = load_config(overrides={"regularizer": f"{tmp_path}/mine.py:{name}"}).regularizer
        sites = insert(network, regularizer, ["stage1"], image_shape=(1, 32, 32))
        assert [fault.text for fault in audit(network, sites, [(images, labels)] * 2, num_batches=2).faults] == faults


def test_a_module_of_the_users_that_divides_by_what_it_keeps_can_be_matched(tmp_path):
    (tmp_path / "mine.py").write_text(INVERTED)
    flags = {"train_fraction": 0.1, "batch_size": 32, "max_steps": 4, "threads": 1, "match": "dropped=5"}
    flags["precision"] = "fp32"  # in bf16 their uniform numbers have 8 bits, and fewer than p of them are below p
    config = load_config(overrides={"regularizer": f"{tmp_path}/mine.py:Inverted", **flags})
    assert solve_match(config).regularizer.p == pytest.approx(0.05, rel=0.02)
