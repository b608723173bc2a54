"""Where a node's manifests come from, by its node.toml: a git remote with its mirror, or a directory."""

from __future__ import annotations

from skulk.adapters.directory import DirectorySource
from skulk.adapters.git import GitRepo
from skulk.core.ports import Repo
from skulk.node.config import NodeConfig


def repository(config: NodeConfig) -> Repo:
    """The port over what is kept in the state directory; nothing is fetched before `head`."""
    source = config.source
    if source.directory is not None:
        return DirectorySource(source.directory, keep_dir=config.state_dir / "source")
    assert source.url is not None, "node.toml is validated"
    return GitRepo(
        source.url,
        source.branch,
        config.state_dir / "mirror.git",
        source.path,
        allowed_signers=source.allowed_signers,
        gpg_home=source.gpg_home,
        timeout_seconds=source.timeout_seconds,
    )
