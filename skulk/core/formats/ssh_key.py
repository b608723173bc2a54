"""Public SSH keys of type ssh-ed25519 as text: the form, the one text without comment, and the tag that age writes.

Pure. Only this type: it is the one that every sshd makes by itself and that age can encrypt to. Whether the 32 bytes
are a point on the curve is found out by whoever encrypts.
"""

from __future__ import annotations

import base64
import hashlib
import re

# RFC 8709, section 4: the length and name of the type, then the length and 32 bytes of the key. All but the key is
# fixed, so that text of this form cannot hold anything else.
_TYPE = "ssh-ed25519"
_BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAI[A-P][A-Za-z0-9+/]{42}"
SSH_KEY_PATTERN = f"^{_TYPE} {_BLOB}( [!-~]+)*$"
"""`ssh-ed25519 BASE64`, then a comment if there is one: the content of a `.pub` file."""
SSH_KEY_CHARACTERS_MAX = 300
"""80 for the key, the rest for a comment."""

TAG_BYTES = 4
"""age-encryption.org/v1, ssh-ed25519 stanza: the first bytes of SHA-256 over the public key's wire form."""


def is_ssh_key(text: str) -> bool:
    return len(text) <= SSH_KEY_CHARACTERS_MAX and re.fullmatch(SSH_KEY_PATTERN, text) is not None


def without_comment(key: str) -> str:
    """Type and base64 of a key that has the form: equal for equal keys."""
    return " ".join(key.split()[:2])


def comment_of(key: str) -> str:
    return " ".join(key.split()[2:])


def tag_of(key: str) -> str:
    """How a file that is encrypted to this key names it: base64 without padding."""
    digest = hashlib.sha256(base64.b64decode(key.split()[1])).digest()
    return base64.b64encode(digest[:TAG_BYTES]).decode().rstrip("=")
