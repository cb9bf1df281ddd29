"""The user's own networks and methods, `file.py:NAME`, in every command that takes a name."""

import pytest
import torch

import tdbench
from tdbench import load_config
from tdbench.audit.network import audit_network as audit
from tdbench.config import RunConfig
from tdbench.errors import ConfigError, RunFailed, TdbenchError
from tdbench.models.build import build
from tdbench.models.sites import insert
from tdbench.regularizers.base import DropMeter
from tdbench.regularizers.registry import find_method
from tdbench.training.matching import solve_match
from tdbench.training.run import Run
from tdbench.training.setup import Setup
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
    with pytest.raises(ConfigError, match=r"Fails cannot be built: ValueError: no good \(mine\.py, line 25\)$"):
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


NETWORKS = """
import random, sys
import numpy, torch
from torch import nn

class Base(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(in_channels, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
        self.num_steps = 0
    def forward(self, x):
        self.num_steps += self.training
        return self.head(self.stage(x))

class Raises(Base):
    def forward(self, x):
        out = super().forward(x)
        if self.num_steps == 3:
            raise ValueError("step three\\nand more")  # line 20
        return out

class Exits(Base):
    def forward(self, x):
        return super().forward(x) if self.num_steps < 2 else sys.exit(3)  # line 25

class Inside(Base):
    def forward(self, x):
        return super().forward(x[:, :, :, :1].expand(-1, 3, -1, -1) if self.num_steps == 2 else x)

class Backward(torch.autograd.Function):
    forward = staticmethod(lambda ctx, x: x * 1)
    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("no way back")  # line 35

class NoWayBack(Base):
    def forward(self, x):
        return Backward.apply(super().forward(x))

class Never(Base):
    def forward(self, x):
        raise ValueError("not today\\nnor tomorrow")

class Several(Base):
    def forward(self, x):
        out = super().forward(x)
        return (out, out) if self.training else out

class Table(Base):
    def forward(self, x):
        out = super().forward(x)
        return {"scores": out} if self.training else out

class Lazy(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.stage = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(num_classes))
    def forward(self, x):
        return self.head(self.stage(x))

class Listed(Base):
    regularizer_sites = ["stage"]

class Astray(Base):
    regularizer_sites = {"a": "stages"}

class InAWord(Base):
    regularizer_sites = "stage"

class Drawn(Base):
    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels)
        nn.init.constant_(self.head[2].bias, random.random() + numpy.random.rand())
"""


@pytest.fixture
def networks(tmp_path):
    (tmp_path / "nets.py").write_text(NETWORKS)
    return tmp_path / "nets.py"


def train_in(networks, name, **more):
    keys = {"train_fraction": 0.1, "batch_size": 32, "max_steps": 5, "threads": 1, "regularizer": "dropout"}
    with torch.random.fork_rng():
        return tdbench.train({**keys, **more}, networks.parent / name, model=f"{networks}:{name}")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Raises", "ValueError: step three (nets.py, line 20)"),
        ("Exits", "SystemExit: 3 (nets.py, line 25)"),
        ("Inside", "but got 3 channels instead (nets.py, line "),
        ("NoWayBack", "RuntimeError: no way back (nets.py, line 35)"),
    ],
)
def test_what_the_user_s_code_raises_is_told_with_its_file_and_line(networks, name, words):
    with pytest.raises(RunFailed) as failed:
        train_in(networks, name)
    assert words in str(failed.value)
    assert words in tdbench.read_run(networks.parent / name).result.error


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Never", "the network fails on images of 1×32×32: ValueError: not today (nets.py, line "),
        ("Several", "must put out its scores alone in training too, got tuple of 2"),
        ("Table", "must put out its scores alone in training too, got dict of 1"),
        ("Astray", "Astray.regularizer_sites names 'stages', which is no module; did you mean stage?"),
        ("InAWord", "must be a table of site name to module path, or a list of paths, got 'stage'"),
    ],
)
def test_what_cannot_be_trained_is_refused_before(networks, name, words):
    with pytest.raises(ConfigError) as refused:
        train_in(networks, name)
    assert words in str(refused.value)
    assert not (networks.parent / name).exists()


@pytest.mark.parametrize("name", ["Lazy", "Listed"])
def test_lazy_modules_and_listed_sites_work(networks, name):
    assert train_in(networks, name).dropped_pct == pytest.approx(10, abs=1)


def test_a_network_that_python_and_numpy_draw_is_the_same_for_the_same_seed(networks):
    first, second = (train_in(networks, "Drawn", seed=3).digest for _ in range(2))
    biases = []
    for seed in (3, 3, 4):
        config = load_config({"model": f"{networks}:Drawn", "seed": seed, "train_fraction": 0.1, "threads": 1})
        with torch.random.fork_rng():
            biases.append(float(Setup(config).model.head[2].bias[0]))
    assert first == second
    assert biases[0] == biases[1] != biases[2]


def test_the_input_may_be_given_by_its_name(networks):
    network = load_object(f"{networks}:Base")(10, 1).train()
    sites = insert(network, "cutout", None, image_shape=(1, 32, 32), size=8)
    sites.meter(torch.device("cpu"))
    network(x=torch.ones(2, 1, 32, 32))
    assert sites.read_meter()["input"][1] == 2 * 32 * 32
