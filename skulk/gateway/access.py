"""Who may call which route: scopes by path, keys from the fleet's access, and the guards of a gateway without keys.

Pure functions of the request's head and the view's `Access`, which is read anew for every request because keys
come and go with commits. A path that no rule names needs the `read` scope: a new route cannot be left open by
forgetting it here.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from skulk.core.domain import Access, AccessKey, Scope
from skulk.core.errors import REQ_NO_KEY, REQ_ORIGIN, REQ_SCOPE, RequestError

HEALTH_PATHS = ("/livez", "/readyz", "/healthz", "/health")
WEBHOOK_PATH = "/hooks/v1/git"
"""Open to everybody, because a forge has no key: every delivery is authenticated by its own signature."""
KEY_CHARS_MAX = 512
"""A key is about 50 characters; hashing more than this is work for nobody's good."""


def scope_of(method: str, path: str, *, verbose: bool = False) -> Scope | None:
    """The scope that a route needs; None: open to everybody."""
    if path in HEALTH_PATHS:
        return Scope.READ if verbose else None
    if (method, path) == ("POST", WEBHOOK_PATH):
        return None
    if path.startswith("/v1/") or path == "/models" or path.startswith("/models/"):
        return Scope.INFERENCE
    if path.startswith("/fleet/") and method not in ("GET", "HEAD"):
        return Scope.ADMIN
    return Scope.READ


def check_access(access: Access, needed: Scope | None, headers: Mapping[str, str], *, loopback: bool) -> str:
    """The name of the caller's key when it may go on, empty for a caller without one. `headers` has lower-case names.

    Raises RequestError 401 (no valid key), 403 (lacks the scope, or nobody may) or 421 (foreign host name).
    """
    if needed is None:
        return ""
    if access.keys:
        key = _key(access, headers)
        if needed not in key.scopes and Scope.ADMIN not in key.scopes:
            raise _refused(f"this key lacks the scope {needed.value}", REQ_SCOPE.fix)
        return key.name
    if loopback:
        _check_local(headers)
        return ""
    if not access.anonymous:
        raise _refused("this gateway has no keys and listens beyond loopback", "add keys to Fleet.spec.access")
    if needed is Scope.ADMIN:
        raise _refused("changing anything needs a key; anonymous callers may only use and read", REQ_SCOPE.fix)
    _check_same_origin(headers)
    return ""


def _key(access: Access, headers: Mapping[str, str]) -> AccessKey:
    kind, _, key = headers.get("authorization", "").partition(" ")
    key = key.strip()
    if kind.lower() != "bearer" or not 0 < len(key) <= KEY_CHARS_MAX:
        raise _no_key("no API key was sent")
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    found: AccessKey | None = None
    for known in access.keys:
        # All keys are compared, so that the time tells nothing about which one came close.
        if hmac.compare_digest(digest, known.sha256.lower()):
            found = known
    if found is None:
        raise _no_key("the API key is not valid")
    return found


def _check_local(headers: Mapping[str, str]) -> None:
    """Without keys a web page in the user's browser must not become a caller.

    A page whose name was re-bound to 127.0.0.1 sends its own name as Host; a page that posts across origins sends
    its Origin. Programs send neither.
    """
    host = headers.get("host", "")
    if not is_loopback(_name(host)):
        raise RequestError(
            REQ_ORIGIN,
            f"this gateway has no keys and answers only to loopback names, not to Host {host[:100]!r}",
            status=421,
            kind="permission_error",
        )
    origin = headers.get("origin")
    if origin is not None and not is_loopback(_name(origin.partition("://")[2])):
        raise _cross_origin(origin)
    if origin is None and headers.get("sec-fetch-site") == "cross-site":
        raise _cross_origin("of another site")


def _check_same_origin(headers: Mapping[str, str]) -> None:
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower():
        raise _cross_origin(origin)


# Every request asks for the same few names. Some are a stranger's, 64 KiB at most: not many are kept.
@functools.lru_cache(16)
def is_loopback(name: str) -> bool:
    """`localhost`, a name below it, or a loopback address (IPv6 without brackets)."""
    name = name.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """The host of `host[:port]`; empty when it is no host."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _no_key(message: str) -> RequestError:
    return RequestError(REQ_NO_KEY, f"{message}: send Authorization: Bearer KEY", status=401)


def _refused(message: str, fix: str) -> RequestError:
    return RequestError(REQ_SCOPE, message, status=403, kind="permission_error", fix=fix)


def _cross_origin(origin: str) -> RequestError:
    return RequestError(
        REQ_ORIGIN,
        f"a page {origin[:100]!r} may not call a gateway without keys",
        status=403,
        kind="permission_error",
    )
