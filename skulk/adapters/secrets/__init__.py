"""The fleet's secrets: encrypted with age in the repository, decrypted by operators and on the nodes they are for.

Plaintext is in memory, on an operator's machine in a private file while an editor has it, and on a node in the file
that its program reads. It is never logged and stands in no message.
"""

from __future__ import annotations

from skulk.adapters.secrets.age import (
    Identity,
    Opened,
    default_age_key,
    default_identities,
    load_identity,
    make_identity,
    seal,
    unseal,
)
from skulk.adapters.secrets.editing import edited
from skulk.adapters.secrets.files import read_bounded, write_whole
from skulk.adapters.secrets.folder import SecretsFolder
from skulk.adapters.secrets.install import Installation, install

__all__ = [
    "Identity",
    "Installation",
    "Opened",
    "SecretsFolder",
    "default_age_key",
    "default_identities",
    "edited",
    "install",
    "load_identity",
    "make_identity",
    "read_bounded",
    "seal",
    "unseal",
    "write_whole",
]
