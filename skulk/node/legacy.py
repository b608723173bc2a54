"""What an earlier system left on this machine: old variables, its models, its configuration file.

Said once at the start of the daemon. Its models are read and never written.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import structlog

from skulk.core.legacy import OLD_FILE, OLD_MODEL_DIRS, OldVariable
from skulk.node.config import VERB_VARIABLES, NodeConfig

_log = structlog.get_logger(component="daemon")


def warn(variables: Iterable[OldVariable], config_path: Path) -> None:
    """One line for each old name. Those that only verbs read were named on stderr already."""
    for old in variables:
        if old.instead not in VERB_VARIABLES:
            _log.warning("legacy_variable", name=old.name, instead=old.instead, reason=str(old))
    beside, here = config_path.with_name(OLD_FILE), Path(OLD_FILE)
    # Often the same place: the daemon is started beside its node.toml.
    for file in (beside,) if not _there(here) or (_there(beside) and beside.samefile(here)) else (beside, here):
        if _there(file):
            _log.warning("legacy_file", path=str(file), reason="it has no effect: manifests say what runs now")


def with_old_models(config: NodeConfig, home: Path | None = None) -> NodeConfig:
    """`config` with the earlier system's models as its last roots, if there are any; each is named in a warning."""
    try:
        base = Path.home() if home is None else home
    except RuntimeError:  # neither HOME nor an entry for this account
        return config
    found = [base / name for name in OLD_MODEL_DIRS if _there(base / name) and base / name not in config.model_roots]
    for path in found:
        _log.warning("legacy_models", path=str(path), reason="it is read, and never written: name it in modelRoots")
    return config.model_copy(update={"model_roots": (*config.model_roots, *found)}) if found else config


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a home that this account may not look into
        return False
