"""A regularizer goes into any network at named sites, leaves no trace in its state_dict, and comes out again."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from tdbench import TargetDrop2d, insert
from tdbench.errors import ConfigError
from tdbench.models.build import build
from tdbench.models.sites import find_sites


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build("resnet8", num_classes=10, in_channels=1)


def images(n=4):
    return torch.randn(n, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_default_is_the_output_of_the_first_two_groups(network):
    assert insert(network, "targetdrop").shapes == {"stage1": (16, 32, 32), "stage2": (32, 16, 16)}


def test_sites_can_be_groups_blocks_and_first_convolutions():
    network = build("resnet14", num_classes=10)
    assert list(find_sites(network, ["stage1"])) == ["stage1"]
    assert list(find_sites(network, ["stage2.block?"])) == ["stage2.block1", "stage2.block2"]
    assert len(find_sites(network, ["*.conv1"])) == 6


def test_state_dict_keys_are_unchanged_and_old_checkpoints_load(network):
    old = copy.deepcopy(network.state_dict())
    insert(network, "targetdrop", ["stage1", "stage2", "stage3.block1.conv1"])
    assert list(network.state_dict()) == list(old)
    network.load_state_dict(old)
    build("resnet8", num_classes=10, in_channels=1).load_state_dict(network.state_dict())


def test_a_missing_weight_of_the_network_is_still_an_error(network):
    insert(network, "targetdrop")
    state = network.state_dict()
    del state["classifier.weight"]
    with pytest.raises(RuntimeError, match=r"classifier\.weight"):
        network.load_state_dict(state)


def test_the_layer_drops_in_training_and_is_absent_in_evaluation(network):
    before = network.eval()(images())
    insertion = insert(network, "targetdrop")
    insertion.meter(torch.device("cpu"))
    assert torch.equal(network.eval()(images()), before)
    assert insertion.read_meter() == {"stage1": (0, 0), "stage2": (0, 0)}
    network.train()(images())
    for name, (dropped, units) in insertion.read_meter(reset=True).items():
        channels, height, width = insertion.shapes[name]
        assert units == 4 * channels * height * width
        assert 0 < dropped <= 4 * int(0.15 * channels) * 25
    assert insertion.read_meter()["stage1"] == (0, 0)


def test_the_output_of_a_group_is_what_is_regularized(network):
    insertion = insert(network, "targetdrop", ["stage1"], drop_ratio=1.0, block_size=99)
    network.train()
    stage1 = network.stage1(network.stem(images()))
    assert torch.equal(stage1, torch.zeros_like(stage1))
    insertion.remove()
    assert network.stage1(network.stem(images())).any()


def test_a_relu_whose_forward_somebody_has_replaced_is_regularized_all_the_same():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 30 * 30, 2))
    network[1].forward = lambda x: x.clamp(min=0)
    insertion = insert(network, "targetdrop", ["1"], image_shape=(3, 32, 32))
    insertion.meter(torch.device("cpu"))
    network.train()(torch.randn(2, 3, 32, 32))
    assert insertion.read_meter()["1"][0] > 0


def test_removal_leaves_the_network_as_it_was(network):
    modules, hooks = list(network.named_modules()), [len(m._forward_hooks) for m in network.modules()]
    types = [type(module) for module in network.modules()]
    insert(network, "targetdrop", ["stage1", "stage2.block1.conv1", "stage2.block1.branch"]).remove()
    assert list(network.named_modules()) == modules
    assert [type(module) for module in network.modules()] == types
    assert [len(m._forward_hooks) for m in network.modules()] == hooks


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_4", "vgg11_bn", "densenet_bc_100_12", "se_resnet18"])
def test_where_a_relu_comes_before_a_stage_site_the_layer_gets_what_goes_into_it(name):
    network = build(name, num_classes=10, in_channels=1)
    insertion, seen = insert(network, "none"), []
    for layer in insertion.layers.values():
        layer.after_relu = lambda x: seen.append(x) or x.relu()
    network.train()(images(2))
    assert len(seen) == len(insertion.layers) == 2
    assert all((x < 0).any() for x in seen)


def test_a_relu_that_works_in_place_has_its_output_regularized():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True))
    layer = insert(model, "targetdrop", ["1"], block_size=3).layers["1"]
    x = torch.randn(2, 3, 8, 8)
    out = model(x)
    assert torch.equal(out, layer(model[0](x).relu()))
    assert out.min() == 0


def test_what_takes_the_layers_place_at_a_relu_gets_its_output():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    insert(model, "targetdrop", ["1"])
    model[1].tdbench_regularizer = nn.Identity()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(model(x), model[0](x).relu())


def test_trained_attention_reaches_the_optimizer_and_the_fixed_one_does_not(network):
    count = len(list(network.parameters()))
    insert(network, "targetdrop", ["stage1"], attention="se").remove()
    assert len(list(network.parameters())) == count
    insert(network, "targetdrop", ["stage1"], attention="se_ste")
    assert len(list(network.parameters())) == count + 2
    network.train()(images()).sum().backward()
    layer = next(m for m in network.modules() if isinstance(m, TargetDrop2d))
    assert layer.fc1.grad.abs().sum() > 0


def test_the_state_of_the_layers_travels_apart(network):
    insertion = insert(network, "targetdrop")
    buffer = io.BytesIO()
    torch.save(insertion.state_dict(), buffer)
    other = insert(build("resnet8", num_classes=10, in_channels=1), "targetdrop")
    assert not torch.equal(other.layers["stage1"].fc1, insertion.layers["stage1"].fc1)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other.layers["stage1"].fc1, insertion.layers["stage1"].fc1)


def test_what_stands_at_a_site_is_told_even_where_another_layer_took_its_place(network):
    insertion = insert(network, "dropout", ["stage1", "stage3"])
    assert insertion.installed() == insertion.layers
    network.stage3.block1.relu.tdbench_regularizer = other = nn.Identity()
    assert insertion.installed() == {"stage1": insertion.layers["stage1"], "stage3": other}
    insertion.remove()
    assert insertion.installed() == {"stage1": None, "stage3": None}


def test_modes_and_batch_statistics_survive_the_insertion(network):
    network.train()
    network.stage2.eval()
    modes = {name: module.training for name, module in network.named_modules()}
    statistics = copy.deepcopy(network.stem[1].running_mean)
    insert(network, "targetdrop")
    assert {name: module.training for name, module in network.named_modules() if name in modes} == modes
    assert torch.equal(network.stem[1].running_mean, statistics)


def test_a_network_with_a_regularizer_can_be_copied_and_pickled(network):
    insert(network, "targetdrop")
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        layer = next(m for m in twin.modules() if isinstance(m, TargetDrop2d))
        twin.train()
        layer.drop_ratio, layer.block_size = 1.0, 99
        assert not twin.stage1(twin.stem(images())).any()
        assert network.stage1(network.stem(images())).any()


def test_any_module_takes_a_regularizer_even_a_bare_sequential():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()))
    keys, out = list(model.state_dict()), model(torch.ones(2, 3, 8, 8))
    insertion = insert(model, "targetdrop", ["1"], block_size=3)
    assert insertion.shapes["1"][0] == 8
    assert list(model.state_dict()) == keys
    assert not torch.equal(model(torch.ones(2, 3, 8, 8)), out)
    assert torch.equal(model.eval()(torch.ones(2, 3, 8, 8)), out)


@pytest.mark.slow
def test_a_compiled_network_equals_the_eager_one(network):
    insertion = insert(network, "targetdrop")
    insertion.meter(torch.device("cpu"))
    eager = copy.deepcopy(network).train()(images())
    compiled = torch.compile(network, fullgraph=True).train()(images())
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4)
    assert insertion.read_meter()["stage1"][0] > 0


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        (["stage9"], "unknown site 'stage9'; did you mean stage"),
        (["stage1", "stage1.block1"], "are the same output; choose one"),
        (["stage4*"], r"unknown site 'stage4\*'"),
    ],
)
def test_a_site_that_is_not_there_or_there_twice_is_refused(network, sites, message):
    with pytest.raises(ConfigError, match=message):
        insert(network, "targetdrop", sites)


def test_a_second_regularizer_at_one_site_is_refused(network):
    insert(network, "targetdrop", ["stage1"])
    with pytest.raises(ConfigError, match="holds a regularizer already"):
        insert(network, "none", ["stage1"])


def test_a_site_that_is_no_feature_map_is_refused():
    with pytest.raises(ConfigError, match="must put out a feature map"):
        insert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), "targetdrop", ["1"])


@pytest.mark.parametrize(("sites", "k", "refused"), [(["stage1", "stage2"], 17, False), (["stage2"], 17, True)])
def test_a_block_larger_than_every_map_is_refused_and_one_larger_than_some_is_not(network, sites, k, refused):
    insertion = insert(network, "targetdrop", sites, block_size=k)
    if refused:
        with pytest.raises(ConfigError, match=r"block_size must be at most 16 for maps at stage2 \(16×16\), got 17"):
            insertion.check_blocks()
    else:
        insertion.check_blocks()


def test_sites_may_be_written_as_the_flag_has_them_and_none_at_all_are_refused(network):
    insertion = insert(network, "dropout", "stage1,stage3")
    assert list(insertion.layers) == ["stage1", "stage3"]
    insertion.remove()
    with pytest.raises(ConfigError, match="sites must name at least one site"):
        insert(network, "dropout", [])
    with pytest.raises(ConfigError, match=r"model must be an nn.Module, got int"):
        insert(42, "dropout")


class Nhwc(nn.Module):
    """A stage that puts out (N, H, W, C), as transformers do; its channels may be as many as its columns."""

    def __init__(self, channels, pools=False):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 4, 4)
        self.stage, self.head = nn.Identity(), nn.LazyLinear(3)
        self.pools = pools

    def forward(self, x):
        x = self.stage(self.stem(x).permute(0, 2, 3, 1))
        return self.head(x.mean((1, 2)) if self.pools else x.flatten(1))


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("channels", [24, 8, 16])
def test_a_site_with_its_channels_last_is_refused_however_many_they_are(channels, side):
    network = Nhwc(channels, pools=True)
    with pytest.raises(ConfigError, match="with the channels last"):
        insert(network, "spatial_dropout", ["stage"], image_shape=(1, side, side))
    assert list(insert(network, "spatial_dropout", ["stem"], image_shape=(1, side, side)).layers) == ["stem"]


def test_a_network_for_one_size_of_image_is_believed_where_the_shape_leaves_a_doubt():
    network = Nhwc(8)
    network(torch.zeros(1, 1, 32, 32))  # the head takes its size
    assert list(insert(network, "dropout", ["stage"], image_shape=(1, 32, 32)).layers) == ["stage"]


def test_a_container_that_calls_each_of_its_modules_is_refused():
    class Concatenated(nn.ModuleDict):
        def forward(self, x):
            for layer in self.values():
                x = torch.cat([x, layer(x)], dim=1)
            return x

    block = Concatenated({"one": nn.Conv2d(1, 4, 3, padding=1), "two": nn.Conv2d(5, 4, 3, padding=1)})
    model = nn.Sequential(nn.Sequential(block), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 10))
    with pytest.raises(ConfigError, match=r"site '0' is a Concatenated that goes through its modules"):
        insert(model, "dropout", ["0"], image_shape=(1, 8, 8))


@pytest.mark.parametrize("method", ["targetdrop", "dropblock"])
def test_a_module_that_is_called_several_times_is_refused(method):
    relu = nn.ReLU()
    network = nn.Sequential(nn.Conv2d(1, 4, 3), relu, nn.Conv2d(4, 4, 3), relu)
    with pytest.raises(ConfigError, match=r"site '1' is called 2 times in a forward"):
        insert(network, method, ["1"], image_shape=(1, 16, 16))


class Attends(nn.Module):
    """Attention between all positions, with weights (N, heads, L, L) that look like a map."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 4, 4)
        self.attention = nn.Module()
        self.attention.softmax, self.attention.drop = nn.Softmax(-1), nn.Dropout(0.1)

    def forward(self, x):
        x = self.stem(x).flatten(2)
        weights = self.attention.drop(self.attention.softmax(x[:, None].transpose(-1, -2) @ x[:, None]))
        return (weights[:, 0] @ x.transpose(1, 2)).mean(1)


def test_the_weights_of_an_attention_are_no_site():
    assert list(find_sites(Attends(), None, (1, 32, 32))) == ["stem"]
    with pytest.raises(ConfigError, match="a softmax puts out weights"):
        insert(Attends(), "dropout", ["attention.softmax"], image_shape=(1, 32, 32))


def test_a_map_that_is_not_one_for_each_image_is_refused():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.window = nn.Conv2d(1, 4, 3)

        def forward(self, x):
            return self.window(x.reshape(4 * len(x), 1, 16, 16)).mean((1, 2, 3)).view(len(x), 4)

    with pytest.raises(ConfigError, match="its first dimension is not that of the images"):
        insert(Windows(), "dropout", ["window"], image_shape=(1, 32, 32))


WRAPPED = {
    "compiled": torch.compile,
    "compiled in place": lambda network: network.compile() or network,
    "a part compiled": lambda network: network.stage1.compile() or network,
    "scripted": lambda network: torch.jit.trace(network.eval(), torch.zeros(1, 1, 32, 32)),
    "in another": lambda network: nn.Sequential(torch.compile(network)),
}


@pytest.mark.slow  # it imports torch's compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_a_network_that_is_compiled_already_is_refused(network, wrap):
    """Also a canary: torch has no public way to ask for `Module.compile`."""
    with pytest.raises(ConfigError, match=r"before torch\.compile, torch\.jit or DistributedDataParallel"):
        insert(wrap(network), "dropout", None, image_shape=(1, 32, 32))


def test_a_part_that_is_compiled_away_from_the_sites_is_no_obstacle(network):
    model = nn.Sequential(torch.jit.script(nn.Identity()), nn.Conv2d(1, 4, 3), nn.ReLU())
    assert list(insert(model, "dropout", ["1"], image_shape=(1, 16, 16)).layers) == ["1"]


def test_a_map_that_is_pooled_to_a_strip_has_its_channels_first():
    model = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.AdaptiveAvgPool2d((None, 1)), nn.Conv2d(32, 32, 1))
    assert list(insert(model, "dropout", ["2"], image_shape=(1, 32, 32)).layers) == ["2"]


def test_a_declared_site_may_be_another_name_of_a_module():
    class Renamed(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
            self.last = self.backbone[1]
            self.regularizer_sites = {"end": "last"}

        def forward(self, x):
            return self.backbone(x)

    assert list(insert(Renamed(), "dropout", None, image_shape=(1, 16, 16)).layers) == ["end"]


def test_of_inputs_by_name_the_first_of_forward_is_regularized():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)

        def forward(self, x, weight=None):
            return self.conv(x), weight

    model = Two().train()
    insert(model, nn.Dropout(1.0), ["input"], image_shape=(1, 16, 16))
    with torch.no_grad():
        model.conv.bias.zero_()
    out, weight = model(weight=torch.ones(3), x=torch.ones(2, 1, 16, 16))
    assert not out.any()
    assert weight.tolist() == [1, 1, 1]
