"""The git source: a remote branch as a `Repo`, by the git program and a bare mirror."""

from skulk.adapters.git.repo import GitRepo

__all__ = ["GitRepo"]
