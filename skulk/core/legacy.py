"""Names that an earlier system used for what this one has: variables with another prefix, places of models. Pure.

Everything that is honoured is named in a warning, with what to write instead; what has no counterpart is named too, so
that nobody waits for its effect.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

PREFIX, OLD_PREFIX = "SKULK_", "EXO_"
OLD_FILE = "exo.yaml"
"""The old cluster configuration. It says nothing that can be taken over: manifests say it now."""
# Below the home directory; the second is where Linux puts data of applications.
OLD_MODEL_DIRS = (".exo/models", ".local/share/exo/models")


@dataclass(frozen=True, slots=True)
class OldVariable:
    """A variable of the old prefix, and what became of it."""

    name: str
    instead: str | None
    """Its new name, None when it has no counterpart."""
    honoured: bool
    """False also when the new name is set, which wins."""

    def __str__(self) -> str:
        if self.instead is None:
            return f"{self.name} has no effect: there is nothing of that name any more"
        if not self.honoured:
            return f"{self.name} has no effect, because {self.instead} is set: remove it"
        return f"{self.name} is an old name, use {self.instead}"


def new_names(environment: Mapping[str, str], known: Collection[str]) -> tuple[dict[str, str], tuple[OldVariable, ...]]:
    """`environment` with the new names of old variables added, and every old variable in it.

    `known` are the new names that mean something. A new name that is set wins over its old one.
    """
    new, found = dict(environment), []
    for name in sorted(name for name in environment if name.startswith(OLD_PREFIX)):
        instead = PREFIX + name.removeprefix(OLD_PREFIX)
        if instead not in known:
            found.append(OldVariable(name, None, honoured=False))
            continue
        honoured = instead not in environment
        if honoured:
            new[instead] = environment[name]
        found.append(OldVariable(name, instead, honoured))
    return new, tuple(found)
