"""What is shown: which images, which maps in which order, and the figures beside them."""

import pytest
import torch

from tdbench import load_config
from tdbench.data.sources import load_data
from tdbench.errors import ConfigError
from tdbench.show.gallery import ROW_COLUMNS, alternating_classes, collect
from tdbench.training.train import train
from tdbench.training.trained import open_run

TINY = {"batch_size": 16, "precision": "fp32"}


def configs_of(*methods, **overrides):
    return [load_config(overrides={"regularizer": method, **TINY, **overrides}) for method in methods]


@pytest.fixture(scope="module")
def gallery():
    return collect(configs_of("dropblock", "targetdrop", "cutout", "drop_path"), 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    settings = {"train_fraction": 0.1, "max_steps": 4, "attention": "se_ste"}
    train(load_config(overrides={**TINY, **settings}), folder)
    return open_run(folder)


def test_images_take_turns_through_the_classes():
    labels = torch.tensor([2, 0, 0, 1, 2, 0, 1])
    assert alternating_classes(labels).tolist() == [1, 3, 0, 2, 6, 4, 5]


def test_the_images_are_those_of_the_data_set_unchanged(gallery):
    data = load_data(gallery.config.data, seed=0)
    assert gallery.classes == ["0", "1", "2"]
    assert torch.equal((gallery.images * 255).round().byte(), data.test.images[gallery.numbers])


def test_all_methods_at_a_site_see_the_same_maps(gallery):
    dropblock, targetdrop = gallery.by_site()["stage2"]
    assert torch.equal(dropblock.maps, targetdrop.maps)


def test_an_attention_ranks_before_the_means_of_the_maps(gallery):
    ranking = gallery.ranking("stage2")
    (targetdrop,) = [drops for drops in gallery.drops if drops.method == "targetdrop"]
    assert ranking.ranked_by == "targetdrop's attention, initial weights"
    assert torch.equal(ranking.scores[:, 0], targetdrop.scores.amax(dim=1))
    (branch,) = gallery.by_site()["stage3.block1.branch"]
    means = branch.maps.mean(dim=(2, 3))
    assert gallery.ranking(branch.site).ranked_by == "the mean of each map"
    assert torch.equal(gallery.ranking(branch.site).channels[:, 0], means.argmax(dim=1))


def test_a_hole_in_the_image_needs_no_maps(gallery):
    assert [drops.method for drops in gallery.on_image()] == ["cutout"]
    assert list(gallery.by_site()) == ["stage2", "stage3.block1.branch"]


@pytest.mark.parametrize(("methods", "num_maps"), [(["none"], 4), (["none", "dropout", "spatial_dropout"], 3)])
def test_as_many_maps_are_shown_as_fit_side_by_side(methods, num_maps):
    assert collect(configs_of(*methods), 1).num_maps() == num_maps


def test_a_row_per_image_method_and_map(gallery):
    rows, num_maps = gallery.rows(), gallery.num_maps()
    assert all(tuple(row) == ROW_COLUMNS for row in rows)
    assert len(rows) == 3 * (3 * num_maps + 1)
    for row in rows:
        (drops,) = [drops for drops in gallery.drops if drops.method == row["method"]]
        sample = gallery.numbers.index(row["image"])
        if row["method"] == "cutout":
            dropped = drops.dropped[sample]
        else:
            assert row["channel"] == gallery.ranking(row["site"]).channels[sample, row["rank"] - 1]
            dropped = drops.dropped[sample, row["channel"]]
        assert row["map_dropped_pct"] == pytest.approx(100 * dropped.sum().item() / dropped.numel())
        assert row["dropped_pct"] == drops.dropped_pct


def test_what_a_picture_would_leave_unexplained_is_noted():
    gallery = collect([*configs_of("none", "targetdrop", "dropout"), *configs_of("dropblock", p=0)], 2)
    scores = gallery.drops[1].scores.copy_(torch.rand(2, 16))
    assert gallery.notes() == ["dropblock dropped nothing: it is off, or by chance (another --seed draws again)"]
    scores[1] = 0.0
    assert f"alike in image {gallery.numbers[1]};" in gallery.notes()[1]


def test_one_seed_gives_one_gallery_and_another_gives_another():
    one, same, other = (collect(configs_of("dropout", seed=seed), 2).drops[0] for seed in (0, 0, 1))
    assert torch.equal(one.maps, same.maps)
    assert torch.equal(one.gain, same.gain)
    assert not torch.equal(one.maps, other.maps)
    assert not torch.equal(one.gain, other.gain)


def test_a_trained_network_is_the_one_of_the_checkpoint(trained):
    configs = configs_of("targetdrop", attention="se_ste")
    gallery = collect(configs, 2, trained)
    assert gallery.activation.shape == (2, 8, 8)
    assert len(gallery.predicted) == 2
    assert (
        gallery.weights
        == f"{trained.path}, epoch 1, step 4, test error {trained.state['rows'][0]['test_error_pct']:.2f} %"
    )
    assert gallery.ranking("stage1").ranked_by == "targetdrop's attention, weights of the run"
    assert not torch.equal(gallery.drops[0].maps, collect(configs, 2).drops[0].maps)


def test_an_attention_that_was_not_trained_there_is_named_so(trained):
    configs = [load_config(overrides={**TINY, "sites": "stage3", "attention": "se_ste"})]
    assert "initial weights" in collect(configs, 1, trained).ranking("stage3").ranked_by


@pytest.mark.parametrize(
    ("overrides", "words"),
    [({"model": "resnet14"}, ["model.name", "resnet8", "resnet14"]), ({"data": "cifar10"}, ["data.name", "digits"])],
)
def test_a_run_of_another_network_or_data_set_is_refused_before_anything_is_read(trained, overrides, words):
    with pytest.raises(ConfigError) as error:
        collect(configs_of("targetdrop", **overrides), 2, trained)
    assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize("num_images", [0, -1, 33])
def test_a_number_of_images_that_no_picture_holds_is_refused(num_images):
    with pytest.raises(ConfigError, match=f"between 1 and 32, got {num_images}"):
        collect(configs_of("none"), num_images)
