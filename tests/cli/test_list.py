"""`tdbench list`: what there is to choose from."""

import csv
import json

import pytest

from tdbench.cli.list import lines_of
from tdbench.config.data_sets import DATA_SETS
from tdbench.config.networks import NETWORKS
from tdbench.regularizers.registry import find_method, method_names


@pytest.fixture(scope="module")
def listed(cli):
    done = cli("list", "--json")
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


def test_list_shows_every_method_network_and_data_set(listed):
    assert [row["method"] for row in listed["methods"]] == method_names()
    assert [row["model"] for row in listed["models"]] == list(NETWORKS)
    assert [row["data"] for row in listed["data"]] == list(DATA_SETS)


def test_list_shows_the_networks_and_data_sets_of_the_issue(listed):
    networks = {f"resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110, 18, 34)}
    assert networks <= {row["model"] for row in listed["models"]}
    data_sets = {"digits", "fashion_mnist", "cifar10", "cifar100", "svhn", "stl10", "folder"}
    assert data_sets <= {row["data"] for row in listed["data"]}


@pytest.mark.parametrize("method", method_names())
def test_list_shows_every_knob_of_a_method_with_its_default(listed, method):
    shared = {row["key"].removeprefix("regularizer."): row["default"] for row in listed["settings"]}
    own = {row["knob"]: row["default"] for row in listed["knobs"] if row["method"] == method}
    knobs = {name: shared[name] for name in ("sites", "schedule", "ramp", "match")} | own
    fields = {name: field for name, field in find_method(method).model_fields.items() if name != "name"}
    assert knobs == {name: "null" if field.default is None else str(field.default) for name, field in fields.items()}


@pytest.mark.parametrize("column", ["default", "range", "meaning", "source of the default"])
def test_list_gives_range_default_and_source_of_each_knob_of_targetdrop(listed, column):
    knobs = [row for row in listed["knobs"] if row["method"] == "targetdrop" and row["knob"] != "sites"]
    assert len(knobs) >= 6
    assert [row["knob"] for row in knobs if not row[column]] == []


@pytest.mark.parametrize("column", ["range", "source of the default"])
def test_list_gives_range_and_source_of_every_knob_it_lists(listed, column):
    assert [(row["method"], row["knob"]) for row in listed["knobs"] if not row[column]] == []


def test_list_names_the_aliases_of_the_swept_knobs(listed):
    aliases = {row["knob"]: row["also"].split() for row in listed["knobs"] if row["method"] == "targetdrop"}
    assert {"gamma", "γ"} <= set(aliases["drop_ratio"])
    assert "k" in aliases["block_size"]
    assert "target_channel_fraction" in aliases["target_fraction"]


def test_list_prints_tables_free_of_control_characters(cli, listed):
    done = cli("list")
    assert (done.code, done.err) == (0, "")
    assert not set(done.out) & {"\x1b", "\r"}
    names = [row[key] for table, key in (("methods", "method"), ("models", "model"), ("data", "data"))
             for row in listed[table]]  # fmt: skip
    assert [name for name in [*names, *(row["knob"] for row in listed["knobs"])] if name not in done.out] == []


def test_list_quiet_prints_one_line(cli):
    done = cli("list", "--quiet")
    assert done.code == 0
    assert len(done.out.splitlines()) == 1


def test_list_out_writes_each_table_as_csv(cli, listed, tmp_path):
    assert cli("list", "--quiet", "--out", "deep/tables").code == 0
    for name, rows in listed.items():
        with (tmp_path / "deep" / "tables" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            assert list(csv.DictReader(file)) == [{key: str(value) for key, value in row.items()} for row in rows]
    assert sorted(path.name for path in (tmp_path / "deep" / "tables").iterdir()) == sorted(f"{x}.csv" for x in listed)


@pytest.mark.slow
def test_list_ends_quietly_when_its_reader_has_had_enough(cli):
    process = cli.start("list")
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    assert process.stderr.read() == ""


def test_list_shows_one_table_or_one_method_alone(cli, listed):
    for name, rows in listed.items():
        assert json.loads(cli("list", name, "--json").out) == {name: rows}
    (name, rows), = json.loads(cli("list", "dropblock", "--json").out).items()  # fmt: skip
    assert name == "knobs"
    assert [row["knob"] for row in rows] == ["sites", "schedule", "ramp", "match", "p", "block_size"]


def test_list_shows_a_method_of_the_user_s(cli, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\nprint('hello')\nclass Mine(nn.Module):\n"
        "    def __init__(self, p: float = 0.3, wide: bool = True):\n        super().__init__()\n"
    )
    done = cli("list", "mine.py:Mine", "--json")
    rows = {row["knob"]: row["default"] for row in json.loads(done.out)["knobs"]}
    assert (rows["p"], rows["wide"]) == ("0.3", "True")


@pytest.mark.parametrize("width", [80, 120])
def test_list_has_a_line_per_row_on_a_terminal(listed, width):
    for name, rows in listed.items():
        lines = list(lines_of(name, rows, width, whole=False, sources=False))
        assert len(lines) == len(rows) + (len({row["method"] for row in rows}) if name == "knobs" else 0)
        assert max(map(len, lines)) <= width


def test_list_folds_whole_texts_and_shows_sources_where_they_are_asked_for(listed):
    lines = list(lines_of("knobs", listed["knobs"], 80, whole=True, sources=True))
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    for row in listed["knobs"]:
        assert " ".join(row["meaning"].split()) in text
        assert f"default: {row['source of the default']}" in text
    assert "default: " not in " ".join(lines_of("knobs", listed["knobs"], 80, whole=True, sources=False))
