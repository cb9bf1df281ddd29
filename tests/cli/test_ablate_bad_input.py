"""What `tdbench ablate` refuses before anything is trained, in one message."""

import pytest


def in_the_lab(*row):
    """Return what takes the server of the lab, which imports torch; one such row is not slow."""
    return pytest.param(*row, marks=pytest.mark.slow)


TWO = ("ablate", "--param", "block_size", "--values", "3,5", "--seeds", "2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--param", "blok_size"], "did you mean block_size?"),
        (
            ["--param", "block_size", "--values", "1,2,4"],
            "block_size 4: regularizer.block_size must be odd and at least 1, got 4",
        ),
        (["--param", "model", "--values", "resnet9"], "unknown model 'resnet9'; did you mean resnet8"),
        (["--param", "sites", "--values", "stage1,stage9"], "unknown site 'stage9'; did you mean stage"),
        (["--param", "k", "--seeds", "0"], "seeds must be at least one seed"),
        (["--param", "k", "--seeds", "3..2"], "--seeds must be FIRST..LAST, such as 3..20: at least 3 seeds"),
        (["--param", "k", "--seeds", "1..5"], "--seeds must be FIRST..LAST, such as 3..20: at least 3 seeds"),
        (["--param", "k", "--seeds", "3.."], "--seeds must be FIRST..LAST, such as 3..20, or how many"),
        (["--param", "k", "--smallest", "-0.3"], "smallest must be"),
        (["--param", "k", "--metric", "test_los"], "did you mean test_loss?"),
        (["--param", "k", "--baseline", "off", "--seeds", "3..5"], "needs a baseline to decide against"),
        in_the_lab(
            ["--param", "k", "--data", "cifar10", "--set", "data.resample=true"],
            "data.resample must be false for cifar10",
        ),
        (
            ["--param", "k", "--seeds", "a"],
            "--seeds must be FIRST..LAST, such as 3..20, or how many, such as 5, or which",
        ),
        (["--param", "k=3", "--values", "5"], "leave --values out"),
        in_the_lab(
            ["--param", "k=3,65"], "block_size must be at most 32 for maps at stage1 (32×32), stage2 (16×16), got 65"
        ),
        (["--param", "k", "--baseline", "33"], "unknown baseline '33'"),
        (
            ["--param", "k", "--executor", "slrm"],
            "unknown --executor 'slrm'; did you mean slurm? (known: local, ray, slurm)",
        ),
        (["--param", "k", "--slurm", "time=5"], "--slurm goes with --executor slurm"),
        (
            ["--param", "k", "--executor", "slurm", "--slurm", "tim=5"],
            "unknown --slurm option 'tim'; did you mean time",
        ),
        (["--param", "k", "--log", "wandp"], "unknown --log 'wandp'; did you mean wandb?"),
        (["--param", "k", "--device", "cuda"], "no CUDA GPU here"),
        (["--param", "k", "--gpus", "0", "--device", "cpu"], "--gpus must be left out for --device cpu, got 0"),
        in_the_lab(["--data", "folder", "--data-root", "/nonexistent", "--param", "k"], "/nonexistent"),
        (["--set", "seed=3"], "--seeds says which seeds run"),
        (
            ["--executor", "ray", "--ray-address", "auto", "--gpus", "0"],
            "--gpus must be left out with --ray-address",
        ),
        (["--ray-address", "auto"], "--ray-address goes with --executor ray"),
        in_the_lab(["--param", "k", "--match", "dropped=99"], "regularizer.match must be between"),
        in_the_lab(["--param", "augment.crop_padding=64,4"], "augment.crop_padding must be at most 32"),
        in_the_lab(["--param", "augment.cutout=64,4"], "augment.cutout must be at most 32, the images' side, got 64"),
        (["missing.yaml"], "config file missing.yaml does not exist"),
    ],
)
def test_bad_input_is_one_message_before_anything_is_trained(cli, tmp_path, arguments, message):
    outcome = cli("ablate", *arguments, "--out", tmp_path / "out")
    assert outcome.code == 2, outcome.out
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert not list((tmp_path / "out").glob("trials/*/result.json"))


@pytest.mark.parametrize("nothing", [("--param", "k", "--values", ""), ("--param", "k=")])
def test_values_that_an_empty_variable_gives_are_not_the_defaults(cli, nothing):
    refused = cli("ablate", *nothing, "--dry-run")
    assert (refused.code, refused.out) == (2, "")
    assert "got nothing; leave it out for the default" in refused.err


@pytest.mark.slow
def test_a_ray_that_is_not_there_is_one_message(cli, tmp_path):
    pytest.importorskip("ray")
    outcome = cli(*TWO, *cli.tiny, "--executor", "ray", "--ray-address", "127.0.0.1:1", "--out", tmp_path)
    assert outcome.code == 2
    assert "--ray-address 127.0.0.1:1: no Ray can be reached there" in outcome.err


@pytest.mark.slow
def test_a_dry_run_without_the_data_still_shows_the_plan(cli, tmp_path):
    planned = cli(
        *TWO, "--data", "folder", "--data-root", tmp_path / "nothing", "--out", tmp_path / "sweep", "--dry-run"
    )
    assert planned.code == 0
    assert "the time that is left is unknown" in planned.err
    assert "6 to run, an unknown time left" in planned.out
