"""Signs webhook deliveries as the forges do. Written from their documentation, not from our own code."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json

SECRET = "correct-horse-battery-staple"
_NUMBERS = itertools.count(1)


def push(after: str = "b" * 40) -> bytes:
    return json.dumps({"ref": "refs/heads/main", "after": after, "number": next(_NUMBERS)}).encode()


def hexed(secret: str, body: bytes) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def github(body: bytes, *, secret: str = SECRET, delivery: str = "d-1", event: str = "push") -> dict[str, str]:
    return {
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature": "sha1=" + hmac.new(secret.encode(), body, hashlib.sha1).hexdigest(),
        "X-Hub-Signature-256": f"sha256={hexed(secret, body)}",
        "User-Agent": "GitHub-Hookshot/044aadd",
    }


def gitea(body: bytes, *, secret: str = SECRET, delivery: str = "d-1") -> dict[str, str]:
    """Gitea also signs in the way of GitHub."""
    names = {"X-Gitea-Event": "push", "X-Gitea-Delivery": delivery, "X-Gitea-Signature": hexed(secret, body)}
    return github(body, secret=secret, delivery=delivery) | names


def forgejo(body: bytes, *, secret: str = SECRET, delivery: str = "d-1") -> dict[str, str]:
    """Forgejo also signs in the ways of Gitea and GitHub."""
    names = {"X-Forgejo-Event": "push", "X-Forgejo-Delivery": delivery, "X-Forgejo-Signature": hexed(secret, body)}
    return gitea(body, secret=secret, delivery=delivery) | names


def gitlab(body: bytes, *, secret: str = SECRET, delivery: str = "d-1") -> dict[str, str]:
    return {
        "X-Gitlab-Event": "Push Hook",
        "X-Gitlab-Event-UUID": "e-1",
        "Idempotency-Key": delivery,
        "X-Gitlab-Token": secret,
    }


def standard(
    body: bytes, *, secret: str = SECRET, delivery: str = "d-1", at: float, others: tuple[str, ...] = ()
) -> dict[str, str]:
    key = base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()
    signed = f"{delivery}.{int(at)}.".encode() + body
    ours = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": delivery,
        "webhook-timestamp": str(int(at)),
        "webhook-signature": " ".join([*others, ours]),
    }
