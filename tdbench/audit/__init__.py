"""Is the regularizer doing what its configuration says, at each site?

The package is callable: `tdbench.audit(...)` is `tdbench.audit.audit(...)`.
"""

import sys
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tdbench.audit.network import Audit
    from tdbench.config import Given
    from tdbench.models.insertion import Insertion

__all__ = ["audit"]


def audit(
    config: "nn.Module | Given" = None,
    insertion: "Insertion | None" = None,
    batches: "Iterable[tuple[Tensor, Tensor]] | None" = None,
    *,
    num_batches: int = 8,
    num_draws: int = 4,
    seed: int | None = None,
    trust: bool = False,
    **settings: Any,
) -> "Audit":
    """Check a regularizer against its configuration: that of a run, as `tdbench audit` does, or of your own network.

    Args:
        config: A run's configuration, or None: a YAML file, a tree of keys, or a configuration. Or a
            network, with `insertion` and `batches`.
        insertion: What `tdbench.insert` returned for the network.
        batches: Images (N, C, H, W) with labels (N,), on the network's device.
        num_batches: How many batches are used, at least two: the confidence interval of a share is over batches.
        num_draws: Masks drawn for each batch and site.
        seed: Of the run, or of the layers' random numbers (None: 0).
        trust: Let code run that a YAML file names and the settings do not.
        **settings: Keys of the run as flags and `--set` take them: `regularizer="dropblock"`, `sites="stage3"`.

    Raises:
        TdbenchError: A key or value is wrong, there are fewer than two batches, or the network, the data or a site is
            not available.
        TypeError: The arguments are neither those of a run nor those of a network.
    """
    from torch import nn

    if isinstance(config, nn.Module):
        from tdbench.audit.network import audit_network

        if insertion is None or batches is None:
            raise TypeError("audit of a network needs what tdbench.insert returned, and batches")
        if settings:
            raise TypeError(f"audit of a network takes no settings of a run, got {', '.join(settings)}")
        return audit_network(config, insertion, batches, num_batches=num_batches, num_draws=num_draws, seed=seed or 0)
    if insertion is not None or batches is not None:
        raise TypeError("insertion and batches go with a network, not with a run")
    from tdbench.audit.command import audit_run
    from tdbench.config.trust import trusting

    given = settings if seed is None else {"seed": seed, **settings}
    with trusting(given, trust):
        return audit_run(config, given, num_batches=num_batches, num_draws=num_draws)


class _CallableModule(ModuleType):
    """A callable module, since package and function share the name `tdbench.audit`."""

    def __call__(self, *arguments: Any, **settings: Any) -> "Audit":
        return audit(*arguments, **settings)


sys.modules[__name__].__class__ = _CallableModule
