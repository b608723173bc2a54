"""Is this HTTP request a genuine, fresh, new hint of our git forge that something was pushed?

A pure verdict over headers, raw body, secret, time and what was seen before. The body is hashed and never parsed:
a genuine delivery only makes the node look at its source, and what it finds there is judged as always.

How the forges sign:

* GitHub `X-Hub-Signature-256: sha256=HEX`, Gitea `X-Gitea-Signature: HEX`, Forgejo `X-Forgejo-Signature: HEX`:
  HMAC-SHA256 of the body. Nothing else is covered, so neither the delivery id nor the event can be relied on.
* Standard Webhooks (https://www.standardwebhooks.com), which GitLab's signing tokens follow: `webhook-signature:
  v1,BASE64 …`, HMAC-SHA256 of `ID.TIMESTAMP.BODY`. A key written `whsec_BASE64` is decoded first.
* GitLab's older secret token: `X-Gitlab-Token` is the secret itself.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

# Clocks of forge and node may differ, and forges retry: Standard Webhooks advises five minutes, either way.
TIMESTAMP_TOLERANCE_SECONDS = 300
# A sender that changes its key signs with the old and the new one; more is no honest sender.
SIGNATURES_MAX = 8
# Delivery ids are uuids; what is kept and logged of longer ones is bounded.
DELIVERY_CHARACTERS_MAX = 128

_KEY_PREFIX = b"whsec_"


class Provider(StrEnum):
    """Whose way of signing was used."""

    GITHUB = "github"
    GITEA = "gitea"
    FORGEJO = "forgejo"
    GITLAB = "gitlab"
    STANDARD = "standard"


class Outcome(StrEnum):
    POKE = "poke"
    """Genuine and new: look at the source."""
    PING = "ping"
    """Genuine, and only asks whether somebody is there."""
    SEEN = "seen"
    """Genuine, and here before: a retry or a replay."""
    UNSIGNED = "unsigned"
    """No signature of any kind that is known."""
    FORGED = "forged"
    """Signed with something else than our secret."""
    STALE = "stale"
    """Signed with our secret, at another time than now."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`delivery` is printable and short, for logs; of a refused delivery it is just what the sender claimed.
    `remember` holds what has to be in `seen` from now on; empty when the delivery was not genuine."""

    outcome: Outcome
    provider: Provider | None = None
    delivery: str = ""
    remember: tuple[str, ...] = ()


def is_signed(headers: Mapping[str, str]) -> bool:
    """Worth reading the body of: it carries some signature. `headers` has lower-case names."""
    return any(headers.get(header) for _, header, _ in _SCHEMES)


def signing_key(secret: bytes) -> bytes:
    """The key of Standard Webhooks in `secret`. Raises ValueError for `whsec_` followed by no base64."""
    if not secret.startswith(_KEY_PREFIX):
        return secret
    try:
        key = base64.b64decode(secret.removeprefix(_KEY_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError(f"what follows whsec_ is no base64: {error}") from None
    if not key:
        raise ValueError("nothing follows whsec_")
    return key


def judge_delivery(
    headers: Mapping[str, str], body: bytes, secret: bytes, *, now: float, seen: Collection[str]
) -> Verdict:
    """`headers` has lower-case names and values decoded as Latin-1; `now` is seconds of the epoch.

    A forge may sign in several ways at once, for receivers of other forges; one that holds is enough, because an
    attacker would choose the weakest one anyway.
    """
    first_failure: Verdict | None = None
    for provider, header, check in _SCHEMES:
        given = headers.get(header)
        if not given:
            continue
        verdict = check(_Delivery(provider, given, headers, body, secret, now))
        if verdict.outcome is Outcome.POKE:
            return _settled(verdict, headers, seen)
        first_failure = first_failure or verdict
    return first_failure or Verdict(Outcome.UNSIGNED)


def _settled(verdict: Verdict, headers: Mapping[str, str], seen: Collection[str]) -> Verdict:
    outcome = Outcome.POKE
    if any(mark in seen for mark in verdict.remember):
        outcome = Outcome.SEEN
    elif headers.get("x-github-event") == "ping":
        outcome = Outcome.PING
    return Verdict(outcome, verdict.provider, verdict.delivery, verdict.remember)


@dataclass(frozen=True, slots=True)
class _Delivery:
    provider: Provider
    given: str
    headers: Mapping[str, str]
    body: bytes
    secret: bytes
    now: float

    def id(self, *names: str) -> str:
        """The first of these headers that says something, made printable and short."""
        told = next((value for name in names if (value := self.headers.get(name))), "")
        return "".join(char for char in told[:DELIVERY_CHARACTERS_MAX] if "!" <= char <= "~")

    def failed(self, outcome: Outcome, delivery: str) -> Verdict:
        return Verdict(outcome, self.provider, delivery)

    def genuine(self, delivery: str, *marks: str) -> Verdict:
        return Verdict(Outcome.POKE, self.provider, delivery, marks)


def _body_hmac(delivery: _Delivery) -> Verdict:
    """GitHub, Gitea, Forgejo."""
    name = delivery.id(f"x-{delivery.provider.value}-delivery", "x-gitea-delivery", "x-github-delivery")
    signature = hmac.new(delivery.secret, delivery.body, hashlib.sha256).hexdigest()
    given = delivery.given.strip().lower()
    if delivery.provider is Provider.GITHUB:
        if not given.startswith("sha256="):
            return delivery.failed(Outcome.FORGED, name)
        given = given.removeprefix("sha256=")
    if not _equal(given, signature.encode("ascii")):
        return delivery.failed(Outcome.FORGED, name)
    # The id alone would not do: whoever recorded a delivery can send it again under any id.
    marks = [f"body:{signature}"]
    if name:
        marks.append(f"id:{name}")
    return delivery.genuine(name, *marks)


def _standard(delivery: _Delivery) -> Verdict:
    name = delivery.id("webhook-id")
    given, stamp = delivery.headers.get("webhook-id", ""), delivery.headers.get("webhook-timestamp", "").strip()
    try:
        key = signing_key(delivery.secret)
    except ValueError:
        return delivery.failed(Outcome.FORGED, name)
    signed = f"{given}.{stamp}.".encode("latin-1", "replace") + delivery.body
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
    versions = [part.partition(",") for part in delivery.given.split()[:SIGNATURES_MAX]]
    good = [_equal(signature, wanted) for version, _, signature in versions if version == "v1"]
    if not given or not any(good):
        return delivery.failed(Outcome.FORGED, name)
    whole = stamp.isascii() and stamp.isdigit() and len(stamp) <= len("9999999999")
    if not whole or abs(delivery.now - int(stamp)) > TIMESTAMP_TOLERANCE_SECONDS:
        return delivery.failed(Outcome.STALE, name)
    # Of the id as it was signed, not as it is shown: two long ones may begin alike.
    return delivery.genuine(name, f"standard:{_digest(given.encode('latin-1', 'replace'))}")


def _token(delivery: _Delivery) -> Verdict:
    """GitLab's secret token: who can record a delivery has the secret, so this only tells retries from news."""
    name = delivery.id("idempotency-key", "x-gitlab-event-uuid")
    if not _equal(delivery.given, delivery.secret):
        return delivery.failed(Outcome.FORGED, name)
    retried = delivery.id("idempotency-key")
    if retried:
        return delivery.genuine(name, f"id:{retried}")
    # Older GitLabs: one uuid for a chain of events, so the body has to tell them apart.
    return delivery.genuine(name, f"gitlab:{_digest(name.encode() + b' ' + delivery.body)}")


def _equal(given: str, wanted: bytes) -> bool:
    return hmac.compare_digest(given.encode("latin-1", "replace"), wanted)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# The strongest first, and forges that imitate others before those that they imitate.
_SCHEMES: tuple[tuple[Provider, str, Callable[[_Delivery], Verdict]], ...] = (
    (Provider.STANDARD, "webhook-signature", _standard),
    (Provider.FORGEJO, "x-forgejo-signature", _body_hmac),
    (Provider.GITEA, "x-gitea-signature", _body_hmac),
    (Provider.GITHUB, "x-hub-signature-256", _body_hmac),
    (Provider.GITLAB, "x-gitlab-token", _token),
)
