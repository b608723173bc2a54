"""Where the source is: checks URL, branch and path before git ever sees them, and keeps secrets out of text.

A password in an http(s) URL is taken out of it and handed to git by a credential helper that lives in the
environment: it appears in no process list, no message and not in the mirror. Contacts nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

from skulk.adapters.git.command import PROTOCOLS
from skulk.core.errors import CFG_INVALID, InvalidInput

_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_HELPER_SYNTAX = re.compile(r"^[A-Za-z0-9][A-Za-z0-9+.-]*::")
_SCP_LIKE = re.compile(
    r"^(?:[A-Za-z0-9._][A-Za-z0-9._-]*@)?(?P<host>[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.%]+\]):(?P<path>.+)$"
)

# What git forbids in a ref name (git-check-ref-format), plus a leading dash, which would read as an option.
_BAD_BRANCH = re.compile(r"^[-/]|//|\.\.|@\{|[\x00-\x20\x7f~^:?*\[\\]|(^|/)\.|\.lock(/|$)|[./]$|^@$")

_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<userinfo>[^/\s'\"<>]*)@")
_SECRET_QUERY = re.compile(r"(?P<key>[?&][^=&\s]*(?:token|key|secret|password|auth)[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE)

_HELPER = (
    '!f() { test "$1" = get && printf "username=%s\\npassword=%s\\n" "$SKULK_GIT_USERNAME" "$SKULK_GIT_PASSWORD"; }; f'
)


@dataclass(frozen=True, slots=True)
class Location:
    """A checked remote. `url` is what git gets: without a password. `label` is what people see."""

    url: str = field(repr=False)
    label: str
    settings: tuple[str, ...] = ()
    secrets: dict[str, str] = field(default_factory=dict, repr=False)


def redact(text: str) -> str:
    """Replace credentials in URLs by `***`. The user of an ssh URL stays: it is no secret."""

    def hide(match: re.Match[str]) -> str:
        scheme, userinfo = match["scheme"], match["userinfo"]
        if scheme.lower().endswith("ssh://"):
            return f"{scheme}{userinfo.partition(':')[0]}@"
        return f"{scheme}***@"

    return _SECRET_QUERY.sub(r"\g<key>***", _USERINFO.sub(hide, text))


def locate(url: str) -> Location:
    """Check a remote's URL. Raises InvalidInput CFG_INVALID for what git could misread or must not run."""
    if not url or url.startswith("-") or _CONTROL.search(url):
        raise _invalid("url", redact(url), "is empty, starts with '-' or contains blanks or control characters")
    if _HELPER_SYNTAX.match(url):
        raise _invalid("url", redact(url), "names a remote helper (`helper::…`), which would run a program")
    if "://" in url:
        return _from_url(url)
    if url.startswith("/"):
        return Location(url=url, label=url)
    match = _SCP_LIKE.match(url)
    if match is None or match["path"].startswith("-"):
        raise _invalid("url", url, "is neither a URL, nor user@host:path, nor an absolute path")
    return Location(url=url, label=url)


def _from_url(url: str) -> Location:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _invalid("url", redact(url), f"is no URL ({error})") from None
    if parts.scheme not in PROTOCOLS:
        raise _invalid("url", redact(url), f"has a scheme other than {', '.join(PROTOCOLS)}")
    if host.startswith("-") or (parts.username or "").startswith("-"):
        raise _invalid("url", redact(url), "has a host or user that starts with '-'")
    if not host and parts.scheme != "file":
        raise _invalid("url", redact(url), "has no host")
    if parts.scheme not in ("http", "https") or parts.password is None:
        return Location(url=url, label=redact(url))
    netloc = f"[{host}]" if ":" in host else host
    if port is not None:
        netloc += f":{port}"
    # Only for this host: a redirect elsewhere must not be answered with the password.
    scope = f"{parts.scheme}://{netloc}"
    return Location(
        url=urlunsplit((parts.scheme, netloc, parts.path, parts.query, parts.fragment)),
        label=redact(url),
        settings=("credential.helper=", f"credential.{scope}.helper={_HELPER}"),
        secrets={
            "SKULK_GIT_USERNAME": unquote(parts.username or ""),
            "SKULK_GIT_PASSWORD": unquote(parts.password),
        },
    )


def check_branch(branch: str) -> str:
    """Return the branch. Raises InvalidInput CFG_INVALID when git would not take it as a branch name."""
    if not branch or _BAD_BRANCH.search(branch):
        raise _invalid("branch", branch, "is no valid branch name")
    return branch


def check_path(path: str) -> str:
    """Return the path inside the repository, normalised (`""` is its root).

    Raises InvalidInput CFG_INVALID when it is absolute or leaves the repository.
    """
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or any(ord(c) < 0x20 for c in path):
        raise _invalid("path", path, "must be relative, without '..' and control characters")
    return "" if pure == PurePosixPath() else str(pure)


def _invalid(key: str, value: str, why: str) -> InvalidInput:
    return InvalidInput(CFG_INVALID, f"source.{key} {value!r} {why}", fix=f"correct source.{key} in node.toml")
