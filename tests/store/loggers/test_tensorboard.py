"""TensorBoard: scalars by epoch, hyperparameters, and the verdicts as text, as its own reader finds them."""

import pytest

from tdbench.store.loggers.recording import SweepLog
from tdbench.store.rows import TrialState

accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
)


def read(folder):
    return accumulator.EventAccumulator(str(folder / "tensorboard")).Reload()


def test_each_epoch_is_a_step_and_the_settings_are_hyperparameters(record, tmp_path):
    from tensorboard.plugins.hparams.metadata import parse_experiment_plugin_data, parse_session_start_info_plugin_data

    assert record(tmp_path, "tensorboard") == []
    kept = read(tmp_path)
    assert [(one.step, one.value) for one in kept.Scalars("test_error_pct")] == [(1, 39), (2, 38)]
    contents = kept.PluginTagToContent("hparams")
    values = parse_session_start_info_plugin_data(contents["_hparams_/session_start_info"]).hparams
    assert values["optimizer.lr"].number_value == 0.1
    assert values["optimizer.nesterov"].bool_value is True
    assert values["model.name"].string_value == "resnet8"
    assert values["regularizer.sites"].string_value == "null"
    experiment = parse_experiment_plugin_data(contents["_hparams_/experiment"])
    assert {one.name for one in experiment.hparam_infos} == set(values)


def test_a_resumed_run_adds_to_its_curves_and_one_that_starts_over_replaces_them(record, tmp_path):
    for epochs, steps in (((1, 2), [1, 2]), ((3, 4), [1, 2, 3, 4]), ((1, 2), [1, 2])):
        assert record(tmp_path, "tensorboard", epochs=epochs) == []
        assert [one.step for one in read(tmp_path).Scalars("train_loss")] == steps


def test_epochs_beyond_the_checkpoint_of_a_killed_run_are_not_shown_twice(record, tmp_path):
    assert record(tmp_path, "tensorboard", epochs=(1, 2, 3), status=TrialState.KILLED) == []
    assert record(tmp_path, "tensorboard", epochs=(2, 3, 4)) == []
    assert [one.step for one in read(tmp_path).Scalars("train_loss")] == [1, 2, 3, 4]


def test_the_verdicts_are_a_table_of_text(record_sweep, tmp_path):
    _, notes = record_sweep(tmp_path, "tensorboard")
    assert notes == []
    with SweepLog(["tensorboard"], tmp_path, ["block_size"], note=notes.append):
        """It ends without verdicts, and leaves those that there are."""
    (event,) = read(tmp_path).Tensors("summary/text_summary")
    head, _, first, second = event.tensor_proto.string_val[0].decode().split("\n")
    assert head.startswith("| block_size | n |")
    assert first.startswith("| 3 | 3 |")
    assert "| helps |" in first
    assert "| no detectable difference |" in second
