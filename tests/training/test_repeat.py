"""The repeated step: any batch size, always the same images, every schedule at its full strength."""

import pytest
import torch

from tdbench import load_config
from tdbench.training.repeat import MOST_DISTINCT, RepeatedStep


def step_of(**flags):
    return RepeatedStep(load_config(overrides={"train_fraction": 0.1, "threads": 1, **flags}))


@pytest.mark.parametrize("batch_size", [1, 32, 200, 2 * MOST_DISTINCT])
def test_the_batch_has_any_size_whatever_the_data_set_s(batch_size):
    step = step_of(batch_size=batch_size)
    assert step.run.batches.num_images < 200
    assert step.images.shape == (batch_size, 1, 32, 32)
    assert step.labels.shape == (batch_size,)
    assert len({image.sum().item() for image in step.images}) > min(batch_size, 100) // 2


def test_the_images_come_in_the_run_s_memory_format_and_with_their_labels():
    step = step_of(batch_size=20)
    assert step.images.is_contiguous(memory_format=torch.channels_last)
    singles = [next(step.run.batches.epoch(1, number, number + 1)) for number in range(20)]
    assert torch.equal(step.images, torch.cat([image for image, _ in singles]))
    assert torch.equal(step.labels, torch.cat([label for _, label in singles]))


def test_a_rising_schedule_stands_at_its_full_strength():
    step = step_of(regularizer="dropblock", batch_size=8)
    assert load_config(overrides={"regularizer": "dropblock"}).regularizer.schedule == "linear"
    step()
    assert all(layer.strength == 1 for layer in step.run.insertion.layers.values())
    assert sum(dropped for dropped, _ in step.run.insertion.read_meter().values()) > 0


def test_steps_go_on_past_the_end_of_the_run_with_weights_that_hardly_move():
    step = step_of(regularizer="none", batch_size=8, max_steps=2)
    before = [weight.detach().clone() for weight in step.run.model.parameters()]
    for _ in range(5):
        step()
    for weight, old in zip(step.run.model.parameters(), before, strict=True):
        torch.testing.assert_close(weight, old, rtol=1e-3, atol=1e-3)
    assert step.run.losses[0].isfinite()


def test_a_step_holds_its_weights_gradients_and_momentum_and_the_batch():
    step = step_of(regularizer="none", batch_size=8)
    weights = sum(weight.nbytes for weight in step.run.model.parameters())
    buffers = sum(buffer.nbytes for buffer in step.run.model.buffers())
    batch = step.images.nbytes + step.labels.nbytes
    assert step.held_bytes() == 2 * weights + buffers + batch  # momentum is there from the start
    step()
    assert step.held_bytes() == 3 * weights + buffers + batch


def test_a_run_that_mixes_its_images_has_a_step_of_unmixed_ones():
    step = step_of(batch_size=4, **{"augment.mixup": 0.2, "augment.cutmix": 1.0})
    step()
    assert step.labels.shape == (4,)


class Full:
    """A recording for which memory does not suffice."""

    def __init__(self, learn):
        self.learn, self.error = learn, torch.OutOfMemoryError("none is left")

    def __call__(self, images, labels):
        return self.learn(images, labels)


def test_a_step_that_memory_does_not_suffice_to_record_is_not_timed_as_one_that_was():
    step = step_of(batch_size=4)
    step.run.graph = Full(step.run.learn)
    with pytest.raises(torch.OutOfMemoryError, match="none is left"):
        step()
    step.eager()
    step()
    assert step.run.graph is None
