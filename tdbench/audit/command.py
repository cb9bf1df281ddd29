"""`audit` of a run's configuration: the network is built and measured on a few real batches; nothing is trained."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from tdbench.audit.network import Audit, audit_network
from tdbench.config import Given, RunConfig, load_config
from tdbench.data.batches import TrainBatches
from tdbench.training.facts import facts_of
from tdbench.training.matching import solve_match
from tdbench.training.setup import Setup


def audit_run(
    config: Given = None, settings: Mapping[str, Any] | None = None, *, num_batches: int = 8, num_draws: int = 4
) -> Audit:
    """Check the regularizer of a run against its configuration, in fp32 and at full strength.

    Args:
        config: A run's configuration, or None: a YAML file, a tree of keys, or a configuration.
        settings: Keys as flags and `--set` take them, each with a value.
        num_batches, num_draws: See `audit_network`.

    Raises:
        TdbenchError: A key or value is wrong, or the network, the data or a site is not available.
    """
    # A half-precision type would round a scale of 1.001 to 1.
    given = {**(settings or {}), "hardware.precision": "fp32", "hardware.compile": False}
    setup = Setup(solve_match(load_config(config, given)))
    insertion = setup.insert()
    batches = first_batches(setup.train_batches(), num_batches)
    found = audit_network(
        setup.model, insertion, batches, num_batches=num_batches, num_draws=num_draws, seed=setup.config.seed
    )
    return found.with_facts(facts_of(setup, insertion), setup.config.training.batch_size)


def audit_rows(trees: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the rows of `audit.csv` of some runs, as plain data: what a sweep asks.

    Raises:
        TdbenchError: A network or its data are not available.
    """
    return [audit_run(RunConfig.model_validate(tree)).rows() for tree in trees]


def first_batches(batches: TrainBatches, num_batches: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the first training batches, of as many epochs as needed."""
    epoch, left = 1, num_batches
    while left > 0:
        num = min(left, len(batches))
        yield from batches.epoch(epoch, 0, num)
        epoch, left = epoch + 1, left - num
