"""`tdbench profile` from the command to the profile folder: what it prints, what it leaves, what it refuses."""

import csv
import json
import re
import time
from pathlib import Path

import pytest
import torch

from tdbench.config import HardwareConfig
from tdbench.config.settings import configs_of
from tdbench.data.sources import load_data
from tdbench.errors import ConfigError
from tdbench.profiling import measuring
from tdbench.profiling.folder import default_folder
from tdbench.profiling.measuring import Profile, measure_batch_sizes
from tdbench.profiling.profile import prepare
from tdbench.regularizers.registry import method_names
from tdbench.regularizers.spatial_dropout.layer import SpatialDropout
from tdbench.training import setup
from tdbench.training.hardware import resolve
from tdbench.training.repeat import RepeatedStep

LOADED = []  # what the profile of `finished` read
LAYER_COLUMNS = (
    "method,shape,dtype,memory_format,device,forward_ms,backward_ms,total_ms,p20_ms,p80_ms,floor_ratio,gb_per_s,"
    "peak_mem_mib,launches,host_syncs"
)
STEP_COLUMNS = "method,model,batch_size,precision,compile,device,step_ms,train_img_per_s,overhead_pct,peak_mem_mib"
TINY = ("--batch-size", "8", "--seconds", "0.02", "--threads", "1", "--set", "data.train_fraction=0.1")
QUICK = (*TINY, "--precision", "fp32", "--shape", "4x8x8x8")


@pytest.fixture(autouse=True)
def _quick_machine(monkeypatch):
    monkeypatch.setattr(measuring, "MACHINE_SECONDS", 0.01)


def table(folder, name):
    with (folder / f"profile_{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(cli, tmp_path_factory):
    """Profile two methods at the network's own sites; return what it came to and its folder."""
    place = tmp_path_factory.mktemp("profiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(measuring, "MACHINE_SECONDS", 0.01)
        patch.setattr(setup, "load_data", lambda *given: LOADED.append(given) or load_data(*given))
        done = cli("profile", "--regularizer", "targetdrop,spatial_dropout", *TINY, "--precision", "fp32")
    (folder,) = (place / "runs").iterdir()
    return done, folder


def test_the_data_are_read_once_whatever_the_number_of_methods(finished):
    assert len(LOADED) == 1


def test_profile_ends_with_exit_code_0_and_says_nothing_on_stderr(finished):
    done, _ = finished
    assert (done.code, done.err) == (0, "")


def test_a_profile_leaves_exactly_the_files_of_a_profile_folder(finished):
    _, folder = finished
    assert folder.name == "profile-resnet8-targetdrop-spatial_dropout-batch8-fp32-cpu-train_fraction0.1-threads1"
    names = {path.name for path in folder.iterdir()}
    assert names == {"profile_layer.csv", "profile_step.csv", "profile.md", "environment.json"}


def test_the_columns_are_the_promised_ones_and_what_is_more_stands_after_them(finished):
    _, folder = finished
    for name, columns in (("layer", LAYER_COLUMNS), ("step", STEP_COLUMNS)):
        header = (folder / f"profile_{name}.csv").read_text().split("\n")[0]
        assert header.startswith(columns + ",")
    assert header.endswith(",n,status")
    header = (folder / "profile_layer.csv").read_text().split("\n")[0]
    assert header.endswith(
        ",n,status,floor_ratio_ci95_low,floor_ratio_ci95_high,plain_total_ms,plain_floor_ratio,host_ms"
    )
    for row in table(folder, "layer"):
        low, ratio, high = (float(row[f"floor_ratio{end}"]) for end in ("_ci95_low", "", "_ci95_high"))
        assert low <= ratio <= high
        if row["plain_total_ms"]:  # a CPU with glibc
            assert float(row["plain_total_ms"]) > 0
            assert "freed memory kept" in (folder / "profile.md").read_text()


def test_the_layer_s_table_has_the_floor_and_each_method_at_the_shapes_of_the_network_s_sites(finished):
    _, folder = finished
    rows = table(folder, "layer")
    assert [(row["shape"], row["method"]) for row in rows] == [
        (shape, method)
        for shape in ("8x16x32x32", "8x32x16x16")
        for method in ("floor", "targetdrop", "spatial_dropout")
    ]
    for row in rows:
        assert (row["dtype"], row["memory_format"], row["status"]) == ("float32", "channels_last", "ok")
        assert row["device"].startswith("cpu")
        assert 0 < float(row["p20_ms"]) <= float(row["total_ms"]) <= float(row["p80_ms"])
        assert 0 < float(row["floor_ratio"]) < 1000
        assert 0 < float(row["gb_per_s"]) < 10_000
        assert int(row["launches"]) >= 2
        assert int(row["graph_breaks"]) == 0
    assert all(float(row["floor_ratio"]) == 1 for row in rows if row["method"] == "floor")


def test_the_step_s_table_has_the_baseline_and_each_method_with_its_interval(finished):
    _, folder = finished
    rows = table(folder, "step")
    assert [row["method"] for row in rows] == ["none", "targetdrop", "spatial_dropout"]
    for row in rows:
        assert (row["model"], row["batch_size"], row["precision"], row["compile"]) == ("resnet8", "8", "fp32", "False")
        assert float(row["train_img_per_s"]) == pytest.approx(8e3 / float(row["step_ms"]), rel=1e-3)
        assert float(row["overhead_ci95_low"]) <= float(row["overhead_pct"]) <= float(row["overhead_ci95_high"])
        assert 1 < float(row["peak_mem_mib"]) < 1000
        assert int(row["n"]) >= 6


def test_the_summary_is_for_people_and_the_environment_for_a_repetition(finished):
    done, folder = finished
    text = (folder / "profile.md").read_text(encoding="utf-8")
    for wanted in ("| targetdrop", "## The training step", "8×16×32×32", "95 % interval", "copy bandwidth"):
        assert wanted in text
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    assert environment["machine"]["copy_gb_per_s"] > 0
    assert environment["machine"]["limit"] in text
    assert environment["machine"]["limit"] in done.out
    assert environment["torch"] == torch.__version__


def test_what_is_printed_ends_with_one_line_that_names_the_folder(finished):
    done, folder = finished
    assert "×" in done.out
    assert "spatial_dropout" in done.out
    assert "\x1b" not in done.out
    assert done.out.splitlines()[-1].endswith(f"runs/{folder.name}")


def test_json_prints_only_the_rows_and_the_machine(cli, tmp_path):
    done = cli("profile", "--regularizer", "none", *QUICK, "--json", "--out", tmp_path / "out")
    found = json.loads(done.out)
    assert (done.code, set(found)) == (0, {"layer", "step", "machine", "left_out"})
    assert [row["method"] for row in found["layer"]] == ["floor", "none"]
    assert found["layer"][0]["shape"] == "4x8x8x8"
    assert found["machine"]["step_gflop"] > 0


@pytest.mark.slow
def test_quiet_prints_one_line_and_a_method_out_of_memory_is_a_cell_and_not_the_end(cli, tmp_path, monkeypatch):
    def drop(self, x):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(SpatialDropout, "drop", drop)
    out = tmp_path / "out"
    done = cli("profile", "--regularizer", "spatial_dropout,targetdrop", *QUICK, "--quiet", "--out", out)
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    for name in ("layer", "step"):
        statuses = {row["method"]: row["status"] for row in table(out, name)}
        assert statuses.pop("spatial_dropout") == "OOM"
        assert set(statuses.values()) == {"ok"}
    assert "OOM" in (out / "profile.md").read_text(encoding="utf-8")


def interrupt(*arguments, **options):
    raise KeyboardInterrupt


def test_an_interrupted_profile_keeps_the_table_that_is_done_and_no_older_one(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "profile_steps", interrupt)
    (tmp_path / "profile_step.csv").write_text("of an earlier profile\n")
    done = cli("profile", "--regularizer", "none", *QUICK, "--quiet", "--out", tmp_path)
    assert (done.code, done.err) == (130, "tdbench: interrupted\n")
    assert [row["method"] for row in table(tmp_path, "layer")] == ["floor", "none"]
    assert not (tmp_path / "profile_step.csv").exists()


def test_a_profile_interrupted_before_its_first_table_leaves_an_older_one_alone(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "profile_layers", interrupt)
    (tmp_path / "profile_step.csv").write_text("of an earlier profile\n")
    assert cli("profile", *QUICK, "--quiet", "--out", tmp_path).code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["profile_step.csv"]


@pytest.mark.slow
def test_find_batch_size_doubles_until_memory_ends_and_says_which_size_fits(cli, tmp_path, monkeypatch):
    class Limited(RepeatedStep):
        def __call__(self):
            if len(self.images) > 20:
                raise torch.OutOfMemoryError("CUDA out of memory")
            super().__call__()

    monkeypatch.setattr(measuring, "RepeatedStep", Limited)
    out = tmp_path / "out"
    done = cli("profile", "--find-batch-size", *TINY, "--out", out)
    assert done.code == 0
    assert "targetdrop 16" in done.out.splitlines()[-1]
    assert [(row["batch_size"], row["status"]) for row in table(out, "step")] == [
        ("8", "ok"),
        ("16", "ok"),
        ("32", "OOM"),
    ]
    assert not (out / "profile_layer.csv").exists()


def test_a_search_that_is_out_of_time_gives_the_largest_batch_so_far_and_says_so(cli, tmp_path, monkeypatch):
    class Slow(RepeatedStep):
        def __call__(self):
            time.sleep(0.01 * len(self.images))
            super().__call__()

    monkeypatch.setattr(measuring, "RepeatedStep", Slow)
    out = tmp_path / "out"
    done = cli("profile", "--find-batch-size", "--search-seconds", "0.1", *TINY, "--out", out)
    assert done.code == 0
    assert "targetdrop 8 (stopped for time; --search-seconds gives more)" in done.out.splitlines()[-1]
    assert [(row["batch_size"], row["status"]) for row in table(out, "step")] == [("8", "ok"), ("16", "out of time")]


@pytest.mark.slow
def test_the_bar_of_a_search_moves_with_the_time(monkeypatch):
    class Full(RepeatedStep):
        def __call__(self):
            if len(self.images) > 20:
                raise torch.OutOfMemoryError("CUDA out of memory")
            super().__call__()

    monkeypatch.setattr(measuring, "RepeatedStep", Full)
    profile = prepare(None, {"batch_size": 8, "threads": 1, "train_fraction": 0.1}, ["none", "dropout"], [])
    shares = []
    measure_batch_sizes(profile, 0.02, 60, lambda share, what: shares.append(share))
    first = shares[: len(shares) // 2]
    assert first == sorted(set(first)), "each report is further than the one before"
    assert 0 == first[0] < first[-1] < 0.5 <= shares[len(first)] < shares[-1] <= 1


def name_of_folder(regularizer=None, shapes=(), find_batch_size=False, **overrides):
    methods = regularizer or ["targetdrop"]
    hardware = resolve(HardwareConfig(device="cpu", precision="fp32"))
    profile = Profile(configs_of(None, ["none", *methods], overrides), methods, {}, list(shapes), hardware)
    return default_folder(profile, regularizer, list(shapes), find_batch_size).name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "profile-resnet8-batch64-fp32-cpu"),
        ({"data": "digits", "compile": False, "memory_format": "channels_last"}, "profile-resnet8-batch64-fp32-cpu"),
        ({"find_batch_size": True}, "profile-resnet8-batch64-fp32-cpu-largest-batch"),
        ({"regularizer": ["dropout", "none"]}, "profile-resnet8-dropout-none-batch64-fp32-cpu"),
        ({"shapes": [(4, 8, 8, 8)]}, "profile-resnet8-4x8x8x8-batch64-fp32-cpu"),
        ({"data": "cifar10"}, "profile-resnet8-batch64-fp32-cpu-cifar10"),
        ({"data": "folder", "data_root": "pictures/cats"}, "profile-resnet8-batch64-fp32-cpu-folder-cats"),
        ({"sites": "stage1,stage3"}, "profile-resnet8-batch64-fp32-cpu-stage1-stage3"),
        ({"compile": True}, "profile-resnet8-batch64-fp32-cpu-compile"),
        ({"memory_format": "contiguous"}, "profile-resnet8-batch64-fp32-cpu-contiguous"),
        ({"block_size": 3}, "profile-resnet8-batch64-fp32-cpu-block_size3"),
        ({"model": "far/away/net.py:make"}, "profile-net.py-make-batch64-fp32-cpu"),
    ],
)
def test_what_is_given_is_in_the_name_of_the_folder_so_that_no_table_replaces_another(given, name):
    assert name_of_folder(**given) == name


def test_the_name_of_a_folder_stays_short_and_differs_where_its_end_is_cut_off():
    shapes = [(size, 8, 8, 8) for size in range(1, 60)]
    names = {name_of_folder(shapes=shapes), name_of_folder(shapes=shapes[:-1])}
    assert len(names) == 2
    assert all(re.fullmatch(r"[\w.-]{120}", name) for name in names)


def test_a_search_leaves_the_tables_of_a_profile_alone(cli, tmp_path):
    (tmp_path / "profile_layer.csv").write_text("of a profile\n")
    done = cli("profile", "--find-batch-size", *TINY, "--out", tmp_path)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "holds a profile; take another folder" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["profile_layer.csv"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write")
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(cli, monkeypatch):
    monkeypatch.setattr(measuring, "profile_layers", lambda *arguments, **options: pytest.fail("measured"))
    done = cli("profile", *QUICK, "--out", "/proc/self")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "--out /proc/self must be a folder that can be written" in done.err


@pytest.mark.slow
def test_where_no_layer_fits_the_closing_line_does_not_say_that_it_was_measured_alone(cli, tmp_path):
    arguments = (*QUICK[:-1], "99999x99999x9999x999", "--regularizer", "targetdrop", "--quiet")
    done = cli("profile", *arguments, "--out", tmp_path / "out")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("measured targetdrop in a step of resnet8 (fp32)")
    assert "; OOM in 2 rows; " in done.out


USER_METHODS = """
from torch import nn

class Breaks(nn.Module):
    def forward(self, x):
        if self.training:
            raise ValueError("no such luck\\nwhatever")
        return x

class Flattens(nn.Module):
    def forward(self, x):
        return x.flatten(1) if self.training else x

class CutsOff(nn.Module):
    def forward(self, x):
        return x.detach()

class Widens(nn.Module):
    def forward(self, x):
        return x.double() if self.training else x

class Works(nn.Module):
    def forward(self, x):
        return 2 * x
"""

FAILURES = {
    "mine.py:Breaks": "ValueError: no such luck (mine.py, line 7)",
    "mine.py:Flattens": "Flattens must return a tensor of (4, 8, 8, 8), got (4, 512)",
    "mine.py:CutsOff": "RuntimeError: element 0 of tensors does not require grad and does not have a grad_fn",
    "mine.py:Widens": "RuntimeError: expected scalar type Double but found Float",
}


@pytest.mark.slow
def test_a_method_of_the_user_s_that_fails_is_named_with_its_error_and_the_others_are_measured(cli, tmp_path):
    (tmp_path / "mine.py").write_text(USER_METHODS)
    out = tmp_path / "out"
    done = cli("profile", "--regularizer", ",".join([*FAILURES, "mine.py:Works"]), *QUICK, "--quiet", "--out", out)
    assert done.code == 1
    assert done.err == f"tdbench: {'; '.join(f'{name} failed: {words}' for name, words in FAILURES.items())}\n"
    statuses = [{row["method"]: row["status"] for row in table(out, name)} for name in ("layer", "step")]
    for method in FAILURES:  # a gradient that ends there, or a wider type, is no good in one of the two only
        assert "failed" in [one[method] for one in statuses], method
    assert [one["mine.py:Works"] for one in statuses] == ["ok", "ok"]
    assert done.out.startswith("measured ")
    assert "mine.py:Works" in done.out


@pytest.mark.parametrize("arguments", [(*QUICK,), (*TINY, "--find-batch-size")])
def test_where_no_other_method_is_left_only_the_user_s_error_is_told(cli, tmp_path, arguments):
    (tmp_path / "mine.py").write_text(USER_METHODS)
    done = cli("profile", "--regularizer", "mine.py:Breaks", *arguments)
    assert (done.code, done.out) == (1, "")
    assert done.err == "tdbench: mine.py:Breaks failed: ValueError: no such luck (mine.py, line 7)\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shape", "999999999x999999999x999999999x9"), "--shape must have at most 2\\^60 elements, got '9{9}x"),
        (
            ("--shape", "4x8x8x8", "--find-batch-size"),
            "--shape is for the layer alone, which --find-batch-size does not",
        ),
        (("--search-seconds", "9"), "--search-seconds is for --find-batch-size"),
        (("--search-seconds", "0", "--find-batch-size"), "--search-seconds must be greater than 0 and finite, got 0.0"),
        (("--out", ""), "--out must name a folder, got ''"),
        (("--shape", "128x64"), "--shape must be NxCxHxW, .* such as 128x64x32x32, got '128x64'"),
        (("--shape", "4x8x8x8,0x1x1x1"), "--shape must be NxCxHxW, .*, got '0x1x1x1'"),
        (("--shape", ""), "--shape must be NxCxHxW, .*, got ''"),
        (("--regularizer", "targetdrp"), "unknown regularizer 'targetdrp'; did you mean targetdrop?"),
        (("--regularizer", "none,dropblok"), "unknown regularizer 'dropblok'; did you mean dropblock?"),
        (("--regularizer", ","), "--regularizer must name at least one method, .* got ','"),
        (("--model", "resnet9"), "unknown model 'resnet9'; did you mean resnet"),
        (("--seconds", "0"), "--seconds must be greater than 0 and finite, got 0.0"),
        (("--seconds", "nan"), "--seconds must be greater than 0 and finite, got nan"),
        (("--memory-format", "channel_last"), "hardware.memory_format must be .*; did you mean channels_last?"),
        (("--regularizer", "dropout", "--set", "block_size=3"), "unknown key 'block_size': it is a knob of"),
        (("--regularizer", "targetdrop", "--sites", "stage9"), "unknown site 'stage9'; did you mean stage"),
        (("--precision", "fp16", "--device", "cpu"), "precision fp16 needs a GPU"),
        (("--device", "cuda"), "there is no CUDA GPU here that torch can use; --device cpu runs on the CPU"),
    ],
)
def test_a_wrong_option_ends_with_exit_code_2_and_one_line_before_anything_is_measured(cli, arguments, message):
    done = cli("profile", *TINY, *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert re.search(message, done.err)


def test_a_folder_that_holds_a_run_is_refused(cli, tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    done = cli("profile", *QUICK, "--out", tmp_path)
    assert done.code == 2
    assert "holds a run; take another folder" in done.err
    assert not (tmp_path / "profile.md").exists()


def test_a_knob_reaches_the_methods_that_have_it_and_no_other():
    configs = configs_of(None, ["none", "targetdrop", "dropout"], {"block_size": 3, "batch_size": 8})
    assert list(configs) == ["none", "targetdrop", "dropout"]
    assert configs["targetdrop"].regularizer.block_size == 3
    assert {config.training.batch_size for config in configs.values()} == {8}
    with pytest.raises(ConfigError, match="unknown key 'blok_size'; did you mean block_size"):
        configs_of(None, ["targetdrop", "dropout"], {"blok_size": 3})


def test_without_a_name_all_methods_are_measured_that_the_network_has_a_place_for():
    overrides = {"model": "vgg11_bn", "threads": 1, "train_fraction": 0.1}
    profile = prepare(None, overrides, None, [])
    assert set(profile.left_out) == {"drop_path"}
    assert "drops residual branches, and" in profile.left_out["drop_path"]
    assert profile.methods == [name for name in method_names() if name != "drop_path"]
    with pytest.raises(ConfigError, match="drops residual branches"):
        prepare(None, overrides, ["drop_path"], [])
