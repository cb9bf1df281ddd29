"""Is the regularizer doing what its configuration says, at each site?

What the configuration claims is taken from a layer fresh from it; what is true is measured on whatever stands at the
site, in training and in evaluation mode, on real batches. The checks hold one against the other.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tdbench.audit.checks import Finding, findings
from tdbench.audit.measure import observe
from tdbench.audit.site import Site, claims_of
from tdbench.models.sites import Insertion, build_layers

__all__ = ["Audit", "Finding", "Site", "audit"]


@dataclass(frozen=True)
class Audit:
    """The figures of each site, and what they come to in words."""

    sites: tuple[Site, ...]
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> list[Finding]:
        """The findings that say that the regularizer is not doing what its configuration says."""
        return [finding for finding in self.findings if finding.level == "fault"]

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of `audit.csv`: the figures of each site, its faults and its notes."""
        return [
            site.row()
            | {
                f"{level}s": "; ".join(
                    finding.text for finding in self.findings if finding.level == level and site.name in finding.sites
                )
                for level in ("fault", "note")
            }
            for site in self.sites
        ]


def audit(
    model: nn.Module,
    insertion: Insertion,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    num_draws: int = 4,
    seed: int = 0,
) -> Audit:
    """Hold the regularizer in a network against its configuration.

    A copy of the network is audited; the network, and torch's random numbers, stay as they are. Schedules are judged at
    full strength.

    Args:
        model: The network that `insert` put the regularizer into, on any device.
        insertion: What `insert` returned.
        batches: At least two batches of images (N, C, H, W) and labels (N,), on the network's device. The interval of
            a share is over them.
        num_draws: Masks drawn for each batch and site.
        seed: Of the layers' random numbers.

    Raises:
        ValueError: There are fewer than two batches.
    """
    batches = list(batches)
    if len(batches) < 2:
        raise ValueError(f"batches must be at least 2, for the interval of a share, got {len(batches)}")
    model, insertion = copy.deepcopy((model, insertion))
    device = batches[0][0].device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        claimed = build_layers(insertion.regularizer, insertion.shapes)
        observed = observe(model, insertion, batches, num_draws)
    sites = []
    for name, seen in observed.items():
        first = seen.calls_train[0] if seen.calls_train else None
        channels, height, width = first.x.shape[1:] if first else insertion.shapes[name]
        shape = (int(channels), int(height), int(width))
        sites.append(
            Site(
                name=name,
                shape=shape,
                claims=claims_of(insertion.regularizer, claimed[name], shape),
                calls_train=len(seen.calls_train),
                calls_eval=len(seen.calls_eval),
                is_training=first.is_training if first else None,
                eval_identity=all(call.is_identity for call in seen.calls_eval) if seen.calls_eval else None,
                gradient=seen.gradient(),
                mask=seen.mask(),
            )
        )
    return Audit(tuple(sites), findings(sites))
