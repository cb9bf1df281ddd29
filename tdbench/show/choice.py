"""Which methods are shown, and where: one run per method, all of one network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tdbench.config import RunConfig, load_config
from tdbench.config.loading import build_config, read_yaml, refuse_unused
from tdbench.config.settings import settings_of
from tdbench.errors import ConfigError
from tdbench.regularizers.registry import find_method

COMPARED = ("targetdrop", "dropblock", "spatial_dropout")


def shown_runs(path: Path | None, methods: Sequence[str] | None, given: Mapping[str, Any]) -> list[RunConfig]:
    """Return a run per method; they differ by their regularizer only, and each takes the settings that apply to it.

    Args:
        path: A run's configuration, or None.
        methods: Names; None: the configuration's own method and those of COMPARED.
        given: Settings as flags and `--set` take them; `sites` is the one site that is shown.

    Raises:
        ConfigError: A setting or a method is unknown or out of range.
    """
    settings = dict(given)
    site = settings.pop("sites", None)
    if site is not None and "," in site:
        raise ConfigError(f"--sites must name the one site that is shown, got {site!r}")
    own = load_config(path).regularizer.name
    names = list(dict.fromkeys((own, *COMPARED) if methods is None else methods))
    shares_site = any(find_method(name).placement == "feature_map" for name in names)
    runs = []
    for name, overrides in settings_of(names, settings).items():
        # A method with another placement, such as cutout, keeps its own site beside methods shown at this one.
        stays = shares_site and find_method(name).placement != "feature_map"
        if site is not None and not stays:
            overrides["regularizer.sites"] = site
        elif stays and name != own:
            overrides["regularizer.sites"] = None
        try:
            base = read_yaml(path) if path is not None else {}
            runs.append(build_config(base, {"regularizer.name": name, **overrides}, path))
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    refuse_unused(runs)
    return runs
