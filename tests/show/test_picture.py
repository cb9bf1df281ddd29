"""The picture has the panels that it should, marks exactly what was dropped, and is the same each time."""

import io
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib import rc_context
from matplotlib.patches import PathPatch
from PIL import Image

from tdbench import load_config
from tdbench.regularizers.registry import method_names
from tdbench.show.gallery import Gallery, collect
from tdbench.show.picture import draw_gallery, outline, render


def configs_of(*methods, **overrides):
    return [load_config(overrides={"regularizer": method, "batch_size": 16, **overrides}) for method in methods]


@pytest.fixture(scope="module")
def gallery():
    """Return one with all kinds of columns; its class activations are made up."""
    methods = [*configs_of("targetdrop", "cutout", "drop_path"), *configs_of("attentiondrop", p=1)]
    gallery = collect(methods, 2)
    heat = torch.linspace(0, 1, 128).view(2, 8, 8)
    return Gallery(**{**vars(gallery), "activation": heat, "predicted": ["7", "x" * 40], "weights": "runs/a"})


@pytest.fixture(scope="module")
def figure(gallery):
    return draw_gallery(gallery)


@pytest.fixture(scope="module")
def files(gallery):
    return render(gallery)


def panels(gallery):
    """Return the name of every panel with its drops, sample and channel; None where nothing is marked."""
    names = {}
    for sample in range(len(gallery.images)):
        names[f"input, image {sample}"] = names[f"Grad-CAM, image {sample}"] = None
        for drops in gallery.on_image():
            names[f"{drops.method}, image {sample}"] = (drops, sample, 0)
        for site, here in gallery.by_site().items():
            for rank, channel in enumerate(gallery.ranking(site).channels[sample].tolist()[: gallery.num_maps()], 1):
                names[f"{site}, image {sample}, rank {rank}"] = None
                for drops in here:
                    names[f"{drops.method}, image {sample}, rank {rank}"] = (drops, sample, channel)
    return names


def axes_of(figure):
    return {axes.get_label(): axes for axes in figure.axes}


def test_there_is_a_panel_for_each_image_map_and_method_and_a_bar_for_each_scale(gallery, figure):
    bars = {"activation at stage1", "activation at stage3.block1.branch", "Grad-CAM / its maximum"}
    assert set(axes_of(figure)) == set(panels(gallery)) | bars
    assert len(figure.axes) == len(panels(gallery)) + len(bars)


def test_exactly_the_dropped_and_the_damped_units_are_marked(gallery, figure):
    num_marked = 0
    for name, marked in panels(gallery).items():
        axes = axes_of(figure)[name]
        patches = [patch for patch in axes.patches if isinstance(patch, PathPatch)]
        height, width = axes.images[0].get_array().shape[:2]
        centres = [(column, row) for row in range(height) for column in range(width)]
        shown = [patch.get_path().contains_points(centres).reshape(height, width) for patch in patches]
        expected = []
        if marked is not None:
            drops, *unit = marked
            expected = [mask[*unit].numpy() for mask in (drops.dropped, drops.damped) if mask[*unit].any()]
        assert len(shown) == len(expected), name
        assert all(np.array_equal(one, other) for one, other in zip(shown, expected, strict=True)), name
        num_marked += len(shown)
    assert num_marked > 4


def test_panels_show_the_images_and_maps_themselves(gallery, figure):
    axes = axes_of(figure)
    assert np.allclose(axes["input, image 1"].images[0].get_array(), gallery.images[1, 0])
    drops = gallery.by_site()["stage1"][0]
    channel = gallery.ranking("stage1").channels[1, 0]
    for name in ("stage1, image 1, rank 1", "targetdrop, image 1, rank 1"):
        assert np.array_equal(axes[name].images[0].get_array(), drops.maps[1, channel])


@pytest.mark.parametrize(
    "mask", [torch.zeros(3, 4), torch.ones(3, 4), torch.eye(4), torch.tensor([[1, 0, 1], [1, 1, 0]])]
)
def test_an_outline_encloses_the_units_of_its_mask_and_no_other(mask):
    path = outline(mask.bool())
    inside = [
        [path.contains_point((x, y)) if len(path) else False for x in range(mask.shape[1])]
        for y in range(mask.shape[0])
    ]
    assert inside == mask.bool().tolist()


def test_each_heading_gives_the_method_and_its_share(gallery, files):
    texts = svg_texts(files["show.svg"])
    for drops in gallery.drops:
        assert drops.method in texts
        assert f"{drops.dropped_pct:.3g} % dropped" in texts
    assert {"input", "Grad-CAM", "dropped: set to zero", "damped: scaled down", "activation at stage1"} <= set(texts)
    assert "What each method drops at stage1, input, stage3.block1.branch of resnet8, on digits" in texts


def svg_texts(content):
    """Return the text elements; a row of panels breaks a heading into several."""
    root = ElementTree.fromstring(content)
    texts = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    return [*texts, *(f"{first} {second}" for first, second in pairwise(texts))]


def test_the_legend_names_only_marks_that_there_are(figure):
    assert legend_of(figure) == ["dropped: set to zero", "damped: scaled down"]
    assert legend_of(draw_gallery(collect(configs_of("dropblock"), 1))) == ["dropped: set to zero"]


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_caption_says_where_the_weights_come_from(gallery, figure):
    def caption(figure):
        return " ".join(text.get_text() for text in figure.texts)

    assert "resnet8, trained: runs/a." in caption(figure)
    untrained = Gallery(**{**vars(gallery), "weights": None, "activation": None, "predicted": None})
    assert "resnet8, untrained network." in caption(draw_gallery(untrained))


def test_no_panel_is_blank_in_the_png(gallery, figure, files):
    image = np.asarray(Image.open(io.BytesIO(files["show.png"])).convert("L"), dtype=float)
    assert image.shape[1] == 2400
    for name in panels(gallery):
        axes = axes_of(figure)[name]
        box, (height, width) = axes.get_position(), image.shape
        rows = slice(int((1 - box.y1) * height) + 4, int((1 - box.y0) * height) - 4)
        inside = image[rows, int(box.x0 * width) + 4 : int(box.x1 * width) - 4]
        pixels = np.asarray(axes.images[0].get_array())
        assert inside.var() > 1 or (np.ptp(pixels) < 0.1 and not axes.patches), name


def test_texts_fit_into_the_sheet(figure):
    height, width = figure.bbox.height, figure.bbox.width
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0, text.get_text()
        assert box.x1 <= width, text.get_text()
        assert 0 <= box.y0 < box.y1 <= height, text.get_text()


def test_the_same_gallery_gives_the_same_bytes_whatever_the_users_own_style(gallery, files):
    with rc_context({"svg.hashsalt": None, "font.size": 20, "image.cmap": "jet", "hatch.linewidth": 5}):
        assert render(gallery) == files


def test_colour_images_are_drawn_in_colour():
    torch.manual_seed(0)
    gallery = collect(configs_of("cutout"), 2)
    colourful = Gallery(**{**vars(gallery), "images": torch.rand(2, 3, 32, 32)})
    shown = axes_of(draw_gallery(colourful))["cutout, image 1"].images[0].get_array()
    assert np.allclose(shown, colourful.images[1].permute(1, 2, 0))


def test_all_methods_at_once_fit():
    figure = draw_gallery(collect(configs_of(*method_names()), 1))
    boxes = [axes.get_position() for axes in figure.axes]
    assert all(box.x0 >= 0 and box.x1 <= 1 and box.y0 >= 0 for box in boxes)


def test_a_name_of_a_class_or_a_method_is_no_formula(gallery):
    renamed = Gallery(**{**vars(gallery), "classes": ["$a_{$", "b"]})
    texts = svg_texts(render(renamed)["show.svg"])
    assert any("$a_{$" in text for text in texts)
