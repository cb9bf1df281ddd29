"""`tdbench show`: a picture in its files, the figures on the terminal, and what is refused."""

import csv
import json

import pytest
from PIL import Image

from tdbench.show.choice import shown_runs

SMALL = ("--images", "1", "--set", "batch_size=8")


@pytest.fixture(scope="module")
def run(cli, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert cli("train", *cli.tiny, "--quiet", "--out", folder).code == 0
    return folder


@pytest.fixture
def shown(cli, tmp_path):
    """Call the command for its JSON."""

    def call(*arguments):
        done = cli("show", "--json", *SMALL, *arguments)
        assert (done.code, done.err) == (0, "")
        return json.loads(done.out)

    return call


def complain(cli, tmp_path, *arguments):
    before = cli.snapshot(tmp_path)
    done = cli("show", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("tdbench: ")
    assert cli.snapshot(tmp_path) == before
    return done.err


def test_without_arguments_three_methods_are_drawn_for_four_images_of_digits(cli, tmp_path):
    done = cli("show")
    assert (done.code, done.err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "show").iterdir()) == ["show.csv", "show.png", "show.svg"]
    with Image.open(tmp_path / "show" / "show.png") as image:
        assert image.width == 2400
        assert len(image.convert("RGB").getcolors(2**24)) > 100
    assert (tmp_path / "show" / "show.svg").read_text(encoding="utf-8").startswith("<?xml")
    with (tmp_path / "show" / "show.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows[:12:3]] == ["0", "1", "2", "3"]
    for method in ("targetdrop", "dropblock", "spatial_dropout"):
        (share,) = {float(row["dropped_pct"]) for row in rows if row["method"] == method}
        (line,) = [line for line in done.out.splitlines() if line.split()[0] == method]
        assert line.split() == [method, "stage1", f"{share:.3g}", "%"]
    assert "untrained network" in done.out
    assert "files in show: show.png show.svg show.csv" in done.out


def test_the_same_command_writes_the_same_bytes_and_another_seed_others(cli, tmp_path):
    def files(seed, out):
        assert cli("show", "--quiet", *SMALL, "--regularizer", "dropout", "--seed", seed, "--out", out).code == 0
        return [path.read_bytes() for path in sorted((tmp_path / out).iterdir())]

    first, again, other = files("0", "first"), files("0", "deep/again"), files("1", "other")
    assert first == again
    assert all(one != another for one, another in zip(first, other, strict=True))


def test_json_holds_what_was_drawn(shown, tmp_path):
    result = shown("--sites", "stage2", "--regularizer", "targetdrop,dropout", "--out", "x")
    assert [site["site"] for site in result["sites"]] == ["stage2"]
    assert result["sites"][0]["map"] == [32, 16, 16]
    assert "targetdrop" in result["sites"][0]["ranked_by"]
    assert [image["class"] for image in result["images"]] == ["0"]
    assert [method["method"] for method in result["methods"]] == ["targetdrop", "dropout"]
    assert [row["rank"] for row in result["maps"]] == [1, 2, 3, 4, 1, 2, 3, 4]
    scores = [row["score"] for row in result["maps"][:4]]
    assert scores == sorted(scores, reverse=True)
    assert all((tmp_path / file).is_file() for file in result["files"])


def test_quiet_prints_one_line(cli):
    done = cli("show", "--quiet", *SMALL, "--regularizer", "cutout")
    assert done.code == 0
    assert done.out.count("\n") == 1
    assert "cutout drops" in done.out


def test_a_setting_goes_to_the_methods_that_have_it():
    configs = shown_runs(None, None, {"seed": 3, "gamma": 0.5, "p": 0.3, "training.batch_size": 8})
    assert [config.regularizer.name for config in configs] == ["targetdrop", "dropblock", "spatial_dropout"]
    assert [config.regularizer.knobs().get("p") for config in configs] == [None, 0.3, 0.3]
    assert configs[0].regularizer.drop_ratio == 0.5
    assert {(config.seed, config.training.batch_size) for config in configs} == {(3, 8)}


@pytest.mark.parametrize(
    ("methods", "given", "sites"),
    [
        ("dropout,cutout,drop_path", {}, [None, None, None]),
        ("dropout,cutout,drop_path", {"sites": "stage2"}, [("stage2",), None, None]),
        ("drop_path", {"sites": "stage1.block1.branch"}, [("stage1.block1.branch",)]),
        ("cutout,drop_path", {"sites": "input"}, [("input",), ("input",)]),
    ],
)
def test_a_method_that_belongs_elsewhere_stays_there_beside_others(methods, given, sites):
    assert [config.regularizer.sites for config in shown_runs(None, methods.split(","), given)] == sites


def test_a_configuration_brings_its_method_and_its_sites(tmp_path):
    (tmp_path / "config.yaml").write_text("regularizer: {name: cutout, size: 4, sites: [stage2, stage3]}")
    configs = shown_runs(tmp_path / "config.yaml", None, {})
    assert [config.regularizer.name for config in configs] == ["cutout", "targetdrop", "dropblock", "spatial_dropout"]
    assert {config.regularizer.sites for config in configs} == {("stage2", "stage3")}
    assert configs[0].regularizer.size == 4


def test_a_run_brings_its_weights_and_class_activations(shown, run, tmp_path):
    result = shown("--run", str(run), "--regularizer", "targetdrop")
    assert result["weights"].startswith(f"{run}, epoch 1, step 3, test error ")
    assert result["images"][0]["predicted"] in {str(digit) for digit in range(10)}
    assert "Grad-CAM" in (tmp_path / "show" / "show.svg").read_text(encoding="utf-8")


def test_an_unfinished_run_can_be_looked_at(shown, run, tmp_path):
    (tmp_path / "part").mkdir()
    for name in ("config.yaml", "checkpoint.pt"):
        (tmp_path / "part" / name).write_bytes((run / name).read_bytes())
    assert shown("--run", "part", "--regularizer", "none")["weights"].startswith("part, ")


REFUSED = [
    (["--regularizer", "targetdrp"], ["'targetdrp'", "did you mean targetdrop"]),
    (["--regularizer", "dropout,"], ["--regularizer", "empty", "'dropout,'"]),
    (["--sites", "stgae1"], ["'stgae1'", "did you mean stage1"]),
    (["--sites", "stage1,stage2"], ["--sites", "one site", "stage1,stage2"]),
    (["--images", "0"], ["--images", "between 1 and 32", "0"]),
    (["--images", "33"], ["--images", "between 1 and 32", "33"]),
    (["--images", "few"], ["--images", "integer"]),
    (["--seed", "-1"], ["seed", "at least 0", "-1"]),
    (["--set", "k=4"], ["targetdrop: ", "block_size", "odd", "4"]),
    (["--set", "bloc_size=3"], ["bloc_size", "block_size"]),
    (["--set", "keep=0.5"], ["keep", "weighted_channel_dropout"]),
    (["--set", "regularizer=dropout"], ["--regularizer", "--set regularizer"]),
    (["--model", "resnet9"], ["resnet9", "resnet8"]),
    (["--run", "nowhere"], ["nowhere", "lacks config.yaml and checkpoint.pt"]),
    (["--out", "file", "--regularizer", "cutout", *SMALL], ["--out file", "folder"]),
    (["missing.yaml"], ["missing.yaml", "does not exist"]),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=[" ".join(given) for given, _ in REFUSED])
def test_bad_input_is_refused_in_one_message_and_nothing_is_written(cli, tmp_path, arguments, words):
    (tmp_path / "file").write_text("not a folder\n")
    message = complain(cli, tmp_path, *arguments)
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "resnet14"], ["model.name", "resnet8", "resnet14"]),
        (["--data", "fashion_mnist"], ["data.name", "digits", "fashion_mnist"]),
        (["config.yaml"], ["not both"]),
    ],
)
def test_a_run_is_not_shown_as_something_else(cli, tmp_path, run, arguments, words):
    message = complain(cli, tmp_path, "--run", run, *arguments)
    assert [word for word in words if word not in message] == []


def test_a_damaged_checkpoint_is_refused(cli, tmp_path, run):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    (tmp_path / "part" / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes()[:1000])
    message = complain(cli, tmp_path, "--run", "part")
    assert "cut short or damaged" in message
    assert "--fresh" not in message


def test_more_images_than_there_are_is_refused_and_the_default_takes_what_there_is(
    cli, shown, tmp_path, tmp_path_factory
):
    for part in ("train", "test"):
        for label, colour in (("a", (200, 0, 0)), ("b", (0, 90, 200))):
            folder = tmp_path / "images" / part / label
            folder.mkdir(parents=True)
            Image.linear_gradient("L").convert("RGB").rotate(len(label)).resize((32, 32)).save(folder / "0.png")
            Image.new("RGB", (32, 32), colour).save(folder / "1.png")
        (tmp_path / "images" / part / "b" / "1.png").unlink()
    folder = ("--data", "folder", "--data-root", "images", "--regularizer", "dropout,cutout", "--set", "batch_size=2")
    folder += ("--cache", tmp_path_factory.mktemp("decoded"))
    message = complain(cli, tmp_path, *folder, "--images", "4")
    assert "--images must be at most 3, the number of test images, got 4" in message
    done = cli("show", "--json", *folder)
    assert [image["class"] for image in json.loads(done.out)["images"]] == ["a", "b", "a"]
