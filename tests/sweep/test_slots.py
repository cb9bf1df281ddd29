"""What may run where: the GPUs of `--gpus` are those that a sweep's checks see, and a Ray of this machine's own."""

import os

import pytest

from tdbench import load_config
from tdbench.errors import TdbenchError
from tdbench.sweep import lab, preflight, ray_executor, worker
from tdbench.sweep.slots import Slots

SLOTS = Slots([{"CUDA_VISIBLE_DEVICES": gpu} for gpu in ("2", "3", "2", "3")], 1, 0.5)


def test_a_question_is_answered_in_the_surroundings_that_it_is_given():
    assert lab.ask("os:getenv", "CUDA_VISIBLE_DEVICES", environment={"CUDA_VISIBLE_DEVICES": "2"}) == "2"


def test_trials_are_checked_and_measured_on_a_gpu_that_they_may_use(monkeypatch):
    def ask(target, trees, environment):
        asked.append((target, environment))
        return [8.0] * len(trees)

    asked = []
    monkeypatch.setattr(preflight.lab, "ask", ask)
    waiting = [load_config({"seed": seed}) for seed in range(8)]
    preflight.check_trials(waiting, SLOTS)
    assert preflight.times_left_s((waiting, waiting[:4]), [], SLOTS) == (16.0, 8.0)
    assert asked == [
        ("tdbench.training.ahead:check", {"CUDA_VISIBLE_DEVICES": "2"}),
        ("tdbench.training.ahead:estimated_s", {"CUDA_VISIBLE_DEVICES": "2"}),
    ]


@pytest.mark.parametrize(("address", "seen"), [(None, "2,3"), ("auto", "all")])
def test_a_ray_of_this_machine_s_own_has_the_gpus_that_were_named(monkeypatch, address, seen):
    class Line:
        def poll(self, timeout_s=0.0):
            return False

        def send(self, said):
            raise said

    def start_process(target, *arguments):
        assert target == "tdbench.sweep.worker:drive_ray"
        given.extend(arguments)
        return None, Line()

    def no_ray(*needs):
        raise TdbenchError(os.environ["CUDA_VISIBLE_DEVICES"])

    given = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "all")
    monkeypatch.setattr(ray_executor.lab, "start_process", start_process)
    monkeypatch.setattr(worker, "RayTasks", no_ray)
    ray_executor.RayExecutor(SLOTS, address)
    with pytest.raises(TdbenchError, match=f"^{seen}$"):
        worker.drive_ray(*given, Line())
