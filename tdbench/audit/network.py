"""Is the regularizer doing what its configuration says, at each site?

The configuration's claims come from a layer newly built from it; the facts are measured on the module at the site, in
training and in evaluation mode, on real batches. The checks compare the two.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from tdbench.audit.checks import Finding, Level, findings
from tdbench.audit.measure import Observed, observe
from tdbench.audit.site import Site, claims_of
from tdbench.errors import ConfigError
from tdbench.models.insertion import Insertion
from tdbench.models.sites import build_layers
from tdbench.regularizers.base import Regularizer


@dataclass(frozen=True)
class Audit:
    """The figures of each site, and the findings.

    Attributes:
        facts: What was audited, by name; empty where a network was given.
        batch_size: Images per batch; None where a network was given.
    """

    sites: tuple[Site, ...]
    findings: tuple[Finding, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    batch_size: int | None = None

    def with_facts(self, facts: Mapping[str, str], batch_size: int) -> "Audit":
        """Return a copy with the facts of a run and its batch size."""
        return replace(self, facts=facts, batch_size=batch_size)

    @property
    def faults(self) -> list[Finding]:
        """The findings of level `fault`."""
        return [finding for finding in self.findings if finding.level == "fault"]

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of `audit.csv`: each site's figures, faults, notes, and ratios to evaluation."""
        return [
            site.row() | {"faults": self._texts("fault", site), "notes": self._texts("note", site)} | site.ratios()
            for site in self.sites
        ]

    def _texts(self, level: Level, site: Site) -> str:
        here = [finding for finding in self.findings if finding.level == level and site.name in finding.sites]
        return "; ".join(finding.text for finding in here)


def audit_network(
    model: nn.Module,
    insertion: Insertion,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    num_batches: int = 8,
    num_draws: int = 4,
    seed: int = 0,
) -> Audit:
    """Check the regularizer in a network against its configuration.

    A copy of the network is audited; the network and torch's random state stay as they are. Schedules are judged at
    full strength.

    Args:
        model: The network that `insert` put the regularizer into, on any device, in fp32: a half-precision
            type would round a scale of 1.001 to 1.
        insertion: What `insert` returned.
        batches: Images (N, C, H, W) with labels (N,), on the network's device.
        num_batches: How many of them are used, at least two: the confidence interval of a share is over batches.
        num_draws: Masks drawn for each batch and site.
        seed: Of the layers' random numbers.

    Raises:
        ConfigError: There are fewer than two batches.
    """
    batches = list(islice(batches, num_batches))
    if len(batches) < 2:
        raise ConfigError(f"batches must be at least 2, for the interval of a share, got {len(batches)}")
    model, insertion = copy.deepcopy((model, insertion))
    device = batches[0][0].device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        claimed = build_layers(insertion.regularizer, insertion.shapes)
        observed = observe(model, insertion, claimed, batches, num_draws, seed)
    sites = tuple(site_of(name, seen, claimed[name], insertion, len(batches)) for name, seen in observed.items())
    return Audit(sites, findings(sites))


def site_of(name: str, seen: Observed, claimed: Regularizer, insertion: Insertion, num_batches: int) -> Site:
    """Return one site: its measured figures, and the claims of a layer newly built from the configuration."""
    channels, height, width = seen.x.shape[1:] if seen.x is not None else insertion.shapes[name]
    shape = (channels, height, width)
    return Site(
        name=name,
        shape=shape,
        claims=claims_of(insertion.regularizer, claimed, shape, insertion.is_placed),
        calls_train=len(seen.calls_train),
        calls_eval=len(seen.calls_eval),
        is_training=all(call.is_training for call in seen.calls_train) if seen.calls_train else None,
        eval_identity=all(call.is_identity for call in seen.calls_eval) if seen.calls_eval else None,
        gradient=seen.gradient(),
        mask=seen.mask(),
        num_without_call=seen.num_without_call,
        num_forwards=num_batches,
        passage=seen.passage,
    )
