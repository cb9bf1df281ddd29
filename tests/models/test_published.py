"""Published weights, from files that stand where the libraries would put what they download."""

import urllib.error

import pytest
import torch
import torchvision

from tdbench.errors import ConfigError
from tdbench.models.published import Input, build_published, published_input

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return the folder of torch.hub's files; nothing can be downloaded."""

    def refuse(*arguments, **more):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def publish(hub, name):
    """Put weights of a network where torchvision expects them; return their state."""
    state = torchvision.models.get_model(name, weights=None).state_dict()
    url = torchvision.models.get_model_weights(name).DEFAULT.url
    torch.save(state, hub / url.rpartition("/")[2])
    return state


def test_torchvision_s_weights_are_loaded_but_for_the_head(hub):
    state = publish(hub, "squeezenet1_1")
    network, begun = build_published("torchvision:squeezenet1_1", num_classes=7, in_channels=3)
    assert begun.drawn == ("classifier.1.weight", "classifier.1.bias")
    assert "published as squeezenet1_1-b8a52dc0.pth" in str(begun)
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key]) != (key in begun.drawn)


def test_with_the_published_classes_and_its_own_transforms_it_is_torchvision_s_network(hub):
    publish(hub, "squeezenet1_1")
    ours, begun = build_published("torchvision:squeezenet1_1", num_classes=1000, in_channels=3)
    theirs = torchvision.models.squeezenet1_1(weights="DEFAULT")
    x = torch.randn(2, 3, 64, 64)
    assert begun.drawn == ()
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.slow
def test_auxiliary_classifiers_are_left_out_and_the_input_is_transformed_as_torchvision_does(hub):
    publish(hub, "googlenet")
    ours, begun = build_published("torchvision:googlenet", num_classes=1000, in_channels=3)
    theirs = torchvision.models.googlenet(weights="DEFAULT")
    x = torch.randn(2, 3, 64, 64)
    assert begun.drawn == ()
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("torchvision:resnet18", Input(224, *IMAGENET)),
        ("torchvision:efficientnet_b3", Input(300, *IMAGENET)),
        ("torchvision:vit_h_14", Input(518, *IMAGENET)),
    ],
)
def test_what_they_were_made_with_is_torchvision_s_own(name, expected):
    assert published_input(name) == expected


def test_weights_that_are_not_here_and_cannot_be_downloaded_are_one_message(hub):
    with pytest.raises(ConfigError) as caught:
        build_published("torchvision:squeezenet1_1", 7, 3)
    words = str(caught.value)
    assert "the published weights of torchvision:squeezenet1_1 cannot be had: they are not at" in words
    assert str(hub / "squeezenet1_1-b8a52dc0.pth") in words
    assert "cannot be downloaded from https://" in words
    assert "no network" in words


def test_a_damaged_file_is_told_by_its_name(hub):
    (hub / "squeezenet1_1-b8a52dc0.pth").write_bytes(b"half of it")
    with pytest.raises(ConfigError, match=r"squeezenet1_1-b8a52dc0.pth is damaged"):
        build_published("torchvision:squeezenet1_1", 7, 3)


SMALL = "mobilenetv3_small_050"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return Hugging Face's cache, from which alone it may take files."""
    hub = pytest.importorskip("timm.models._hub")
    if not hub.has_hf_hub():
        pytest.skip("this timm is too old for this huggingface_hub")
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_timm_s_weights_are_loaded_but_for_the_head(cache):
    import timm
    from safetensors.torch import save_file

    made_with = timm.get_pretrained_cfg(SMALL)
    place = cache / f"models--{made_with.hf_hub_id.replace('/', '--')}"
    (place / "snapshots" / "abc").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    state = timm.create_model(SMALL).state_dict()
    save_file(state, place / "snapshots" / "abc" / "model.safetensors")

    network, begun = build_published(f"timm:{SMALL}", num_classes=7, in_channels=1)
    assert begun.drawn == ("classifier.weight", "classifier.bias")
    ours = network.state_dict()
    torch.testing.assert_close(ours["conv_stem.weight"], state["conv_stem.weight"].sum(1, keepdim=True))
    others = [key for key in ours if key not in (*begun.drawn, "conv_stem.weight")]
    assert all(torch.equal(ours[key], state[key]) for key in others)
    assert published_input(f"timm:{SMALL}") == Input(224, *IMAGENET)


def test_timm_s_weights_that_cannot_be_had_are_one_message(cache):
    with pytest.raises(ConfigError, match=rf"weights of timm:{SMALL} cannot be had: they are not in Hugging Face's"):
        build_published(f"timm:{SMALL}", 7, 3)


def test_a_network_without_published_weights_is_refused_and_others_are_named():
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=r"timm publishes no weights for resnetv2_50t; .*false"):
        published_input("timm:resnetv2_50t")
