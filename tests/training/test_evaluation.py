"""What is said of the test images, against plain loops; and the outcome of each image in its file."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import tdbench
from tdbench import load_config
from tdbench.store.folders import RunFolder
from tdbench.training.evaluation import ece_pct, in_order, outcome_of
from tdbench.training.run import Run

TINY = {"train_fraction": 0.1, "batch_size": 16, "max_steps": 6, "threads": 1, "model": "resnet8"}


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    state = torch.get_rng_state()
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_rng_state(state)


def plainly(model, batches):
    """Return loss, error, calibration error, Brier score and the outcomes, image by image."""
    losses, hits, confidences, distances, outcomes = [], [], [], [], []
    with torch.no_grad():
        for images, labels, num_counted in batches:
            for scores, label in zip(model(images)[:num_counted].double(), labels.tolist(), strict=False):
                p = (scores - scores.max()).exp()
                p = (p / p.sum()).tolist()
                losses.append(-math.log(p[label]))
                best = p.index(max(p))
                hits.append(best == label)
                confidences.append(max(p))
                distances.append(sum((p[k] - (k == label)) ** 2 for k in range(len(p))))
                outcomes.append((label, best, p[label]))
    n, calibration = len(hits), 0.0
    for number in range(15):
        inside = [i for i in range(n) if number / 15 < confidences[i] <= (number + 1) / 15]
        if inside:
            gap = sum(hits[i] for i in inside) / len(inside) - sum(confidences[i] for i in inside) / len(inside)
            calibration += len(inside) / n * abs(gap)
    return sum(losses) / n, 100 * (n - sum(hits)) / n, 100 * calibration, sum(distances) / n, outcomes


def test_the_figures_are_those_of_a_plain_loop():
    run = Run(load_config(overrides={**TINY, "precision": "fp32"}))
    seen = run.evaluate()
    loss, error, calibration, brier, outcomes = plainly(run.model, run.test_batches)
    assert (seen.loss, seen.error_pct) == (pytest.approx(loss, rel=1e-4), error)
    assert (seen.ece_pct, seen.brier) == (pytest.approx(calibration, abs=1e-2), pytest.approx(brier, rel=1e-4))
    assert seen.predictions.label.tolist() == [label for label, _, _ in outcomes]
    assert seen.predictions.predicted.tolist() == [best for _, best, _ in outcomes]
    assert seen.predictions.probability == pytest.approx([p for _, _, p in outcomes], abs=1e-4)


def test_calibration_by_hand():
    """Of two at 0.95 one is hit, both at 0.6 are: (2 · 0.45 + 2 · 0.4) / 4."""
    confidence, hits = torch.tensor([0.95, 0.95, 0.6, 0.6]), torch.tensor([True, False, True, True])
    assert ece_pct(confidence, hits) == pytest.approx(42.5)
    assert ece_pct(torch.tensor([1.0, 0.0]), torch.tensor([True, False])) == 0


def test_a_certain_hit_has_no_distance_and_a_certain_miss_two():
    outcome = outcome_of(torch.tensor([[100.0, 0.0], [100.0, 0.0]]), torch.tensor([0, 1]))
    torch.testing.assert_close(outcome, torch.tensor([[0.0, 0, 1, 1, 0], [1, 0, 0, 1, 2]]))


def test_batches_that_processes_took_in_turn_are_put_in_order():
    shares = [[torch.tensor([number]) for number in part] for part in ([0, 3, 6], [1, 4], [2, 5])]
    assert torch.cat(list(in_order(shares))).tolist() == list(range(7))


def test_a_run_leaves_the_outcome_of_each_image_that_its_result_follows_from():
    result = tdbench.train(out="run", **TINY)
    kept = RunFolder(Path("run")).read_predictions()
    assert [one.dtype for one in kept[:3]] == [np.uint16, np.uint16, np.float16]
    assert kept.classes == tuple("0123456789")
    assert 100 * float(np.mean(kept.label != kept.predicted)) == pytest.approx(result.test_error_pct)
    assert 0 < result.brier < 2
    assert 0 <= result.ece_pct <= 100
    metrics = tdbench.read_run("run").metrics
    assert result.test_loss == metrics.test_loss.iloc[-1]


def test_a_run_that_ended_before_its_result_was_written_gets_the_same_one(monkeypatch):
    whole = tdbench.train(out="whole", **TINY)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_result", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tdbench.train(out="run", **TINY)
    Path("run/predictions.npz").unlink()
    again = tdbench.train(out="run", **TINY)
    for name in ("test_error_pct", "test_loss", "ece_pct", "brier", "test_error_pct_bn"):
        assert getattr(again, name) == getattr(whole, name)
    assert Path("run/predictions.npz").read_bytes() == Path("whole/predictions.npz").read_bytes()


def test_outcomes_of_an_earlier_release_have_no_names_of_classes():
    np.savez("predictions.npz", label=np.zeros(2), predicted=np.ones(2), probability=np.ones(2))
    assert RunFolder(Path()).read_predictions().classes == ()


def test_a_damaged_file_of_outcomes_is_none():
    folder = RunFolder(Path())
    assert folder.read_predictions() is None
    Path("predictions.npz").write_bytes(b"PK\x03\x04 no more")
    assert folder.read_predictions() is None
