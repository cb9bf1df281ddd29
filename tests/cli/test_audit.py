"""`tdbench audit`: healthy methods pass, faults that a configuration plants are found, bad input is refused."""

import csv
import json

import pytest

from tdbench.regularizers.registry import method_names

SMALL = ("--batch-size", "8", "--threads", "1")


@pytest.mark.parametrize("method", [pytest.param(name, marks=pytest.mark.slow) for name in method_names()])
def test_every_method_is_healthy_in_its_default_settings(cli, method):
    done = cli("audit", "--regularizer", method, *SMALL)
    assert (done.code, done.err) == (0, "")
    assert "fault:" not in done.out
    assert done.out.splitlines()[-1].startswith(f"{method} does what its configuration says: 0 faults")


def test_without_arguments_it_audits_targetdrop_on_digits(cli):
    done = cli("audit")
    assert (done.code, done.err) == (0, "")
    for words in ("resnet8", "digits", "stage1  16×32×32  5×5", "n = 8 batches of 64 images",
                  "the attention weights receive no gradient and stay at their initial values"):  # fmt: skip
        assert words in done.out
    assert not set(done.out) & {"\x1b", "\r"}


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--set", "gamma=0"], "nothing was dropped: the layer is off at stage1, stage2"),
        (
            ["--model", "torchvision:resnet18", "--sites", "layer2", "--set", "k=7"],
            "block 7 covers the whole 4×4 map at layer2",
        ),
        (["--regularizer", "dropblock", "--sites", "stage3", "--set", "k=9"], "block 9 covers the whole 8×8 map"),
        (["--regularizer", "dropout", "--set", "p=0"], "nothing was dropped: the layer is off at stage1, stage2"),
    ],
)
def test_a_fault_that_the_configuration_plants_is_found(cli, arguments, fault):
    done = cli("audit", *arguments, *SMALL)
    assert (done.code, done.err) == (1, "")
    assert f"fault: {fault}" in done.out
    assert "does not do what its configuration says" in done.out.splitlines()[-1]


def test_a_site_that_the_model_lacks_is_refused_with_all_it_has(cli, tmp_path):
    done = cli("audit", "--sites", "stgae1", "--out", "never")
    assert (done.code, done.out) == (2, "")
    assert "unknown site 'stgae1'; did you mean stage1?" in done.err
    assert all(site in done.err for site in ("stage2.block1.conv1", "stage3.block1.branch", "input"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_output_that_is_no_folder_is_refused(cli, tmp_path):
    (tmp_path / "file").write_text("mine")
    done = cli("audit", "--out", "file")
    assert (done.code, done.out) == (2, "")
    assert "--out file must be a folder" in done.err
    assert (tmp_path / "file").read_text() == "mine"


def test_out_and_json_hold_the_same_figures(cli, tmp_path):
    done = cli("audit", "--set", "gamma=0", "--json", "--out", "deep/folder", *SMALL)
    assert (done.code, done.err) == (1, "")
    printed = json.loads(done.out)
    with (tmp_path / "deep" / "folder" / "audit.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [
        {key: "" if value is None else str(value) for key, value in row.items()} for row in printed["sites"]
    ] == rows
    assert list(rows[0]) == [
        "site", "map", "block_size", "effective_block", "nominal_pct", "dropped_pct", "ci95_low", "ci95_high", "n",
        "output_scale", "eval_identity", "gradient", "random", "calls_train", "calls_eval", "faults", "notes",
        "mean_ratio", "var_ratio", "batch_norm", "bn_mean_ratio", "bn_var_ratio",
    ]  # fmt: skip
    assert printed["findings"][0] == {
        "level": "fault", "text": "nothing was dropped: the layer is off", "sites": ["stage1", "stage2"]
    }  # fmt: skip
    assert rows[0]["faults"] == "nothing was dropped: the layer is off"


def test_quiet_prints_one_line(cli):
    done = cli("audit", "--quiet", "--regularizer", "none", *SMALL)
    assert done.code == 0
    assert done.out == "none does what its configuration says: 0 faults, 1 note at 2 sites\n"


@pytest.mark.slow
def test_a_seed_gives_one_table(cli):
    tables = [
        cli("audit", "--regularizer", "dropout", "--sites", "stage3", "--seed", seed, "--json", *SMALL).out
        for seed in ("3", "3", "4")
    ]
    assert tables[0] == tables[1] != tables[2]


def test_the_config_of_a_run_is_audited_in_fp32_and_uncompiled(cli, tmp_path):
    (tmp_path / "run.yaml").write_text(
        "regularizer: {name: spatial_dropout, p: 0.2}\nhardware: {precision: bf16, compile: true}\n"
    )
    done = cli("audit", "run.yaml", "--json", *SMALL)
    assert done.code == 0
    (site, _) = json.loads(done.out)["sites"]
    assert (site["nominal_pct"], site["output_scale"]) == (20, pytest.approx(1.25, rel=1e-6))


@pytest.mark.slow
def test_a_training_set_of_fewer_batches_than_it_takes_is_seen_again(cli):
    done = cli("audit", "--set", "train_fraction=0.01", "--json", *SMALL)
    assert done.code == 0
    assert json.loads(done.out)["sites"][0]["n"] == 8
