"""Which deliveries are genuine, fresh and new: every way of signing, and every way to get it wrong."""

import base64

import pytest
from forges import SECRET, forgejo, gitea, github, gitlab, push, standard
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.webhooks import (
    DELIVERY_CHARACTERS_MAX,
    SIGNATURES_MAX,
    TIMESTAMP_TOLERANCE_SECONDS,
    Outcome,
    Provider,
    Verdict,
    is_signed,
    judge_delivery,
    signing_key,
)

NOW = 1_700_000_000.0
TOKEN = "whsec_" + base64.b64encode(bytes(range(32))).decode()


def now_standard(body, **options):
    return standard(body, at=NOW, **options)


SIGNED_BY = {
    Provider.GITHUB: github,
    Provider.GITEA: gitea,
    Provider.FORGEJO: forgejo,
    Provider.GITLAB: gitlab,
    Provider.STANDARD: now_standard,
}


def judged(headers, body, *, secret=SECRET, now=NOW, seen=()):
    lower = {name.lower(): value for name, value in headers.items()}
    return judge_delivery(lower, body, secret.encode(), now=now, seen=seen)


@pytest.mark.parametrize("provider", SIGNED_BY)
def test_a_delivery_is_recognised_by_its_signature(provider):
    body = push()
    verdict = judged(SIGNED_BY[provider](body), body)
    assert (verdict.outcome, verdict.provider, verdict.delivery) == (Outcome.POKE, provider, "d-1")


@pytest.mark.parametrize("provider", SIGNED_BY)
def test_another_secret_or_another_body_is_forged(provider):
    body = push()
    verdict = judged(SIGNED_BY[provider](body, secret="another-horse-battery-staple"), body)
    assert (verdict.outcome, verdict.provider, verdict.remember) == (Outcome.FORGED, provider, ())
    if provider is not Provider.GITLAB:
        assert judged(SIGNED_BY[provider](body), body + b" ").outcome is Outcome.FORGED


@pytest.mark.parametrize("provider", SIGNED_BY)
def test_the_same_delivery_again_is_seen(provider):
    body = push()
    headers = SIGNED_BY[provider](body)
    first = judged(headers, body)
    assert first.remember
    again = judged(headers, body, seen=first.remember)
    assert (again.outcome, again.provider) == (Outcome.SEEN, provider)
    other = push()
    assert judged(SIGNED_BY[provider](other, delivery="d-2"), other, seen=first.remember).outcome is Outcome.POKE


@pytest.mark.parametrize("provider", [Provider.GITHUB, Provider.GITEA, Provider.FORGEJO])
def test_a_recorded_delivery_is_seen_under_a_new_id_and_as_another_forge(provider):
    body = push()
    seen = judged(SIGNED_BY[provider](body), body).remember
    for sign in (github, gitea, forgejo):
        assert judged(sign(body, delivery="d-2"), body, seen=seen).outcome is Outcome.SEEN


def test_a_body_hmac_without_an_id_is_known_by_its_signature():
    body = push()
    headers = {"X-Hub-Signature-256": github(body)["X-Hub-Signature-256"]}
    first = judged(headers, body)
    assert (first.outcome, first.delivery) == (Outcome.POKE, "")
    assert judged(headers, body, seen=first.remember).outcome is Outcome.SEEN


def test_an_older_gitlab_without_a_key_per_delivery_is_known_by_event_and_body():
    first, second = push(), push()
    headers = gitlab(first) | {"Idempotency-Key": ""}
    seen = judged(headers, first).remember
    assert judged(headers, first, seen=seen).outcome is Outcome.SEEN
    assert judged(headers, second, seen=seen).outcome is Outcome.POKE


def test_the_ping_of_github_is_told_from_a_push_only_when_it_is_signed():
    body = b'{"zen": "Keep it logically awesome."}'
    assert judged(github(body, event="ping"), body).outcome is Outcome.PING
    assert judged({"X-GitHub-Event": "ping", "X-GitHub-Delivery": "d"}, body).outcome is Outcome.UNSIGNED


def test_without_a_signature_nothing_is_genuine():
    assert judged({}, push()) == Verdict(Outcome.UNSIGNED)
    assert not is_signed({"authorization": "Bearer x", "x-hub-signature": "sha1=00"})
    for header in ("x-hub-signature-256", "x-gitea-signature", "x-gitlab-token", "webhook-signature"):
        assert not is_signed({header: ""})
        assert judged({header: ""}, b"").outcome is Outcome.UNSIGNED
        assert judged({header: "x"}, b"").outcome is Outcome.FORGED


def test_the_signature_of_github_needs_its_prefix_and_may_be_in_capitals():
    body = push()
    good = github(body)["X-Hub-Signature-256"]
    assert judged({"X-Hub-Signature-256": good.upper()}, body).outcome is Outcome.POKE
    assert judged({"X-Hub-Signature-256": good.removeprefix("sha256=")}, body).outcome is Outcome.FORGED
    assert judged({"X-Hub-Signature-256": good.replace("sha256", "sha1")}, body).outcome is Outcome.FORGED


# --- Standard Webhooks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("late", "outcome"),
    [
        (0, Outcome.POKE),
        (TIMESTAMP_TOLERANCE_SECONDS, Outcome.POKE),
        (-TIMESTAMP_TOLERANCE_SECONDS, Outcome.POKE),
        (TIMESTAMP_TOLERANCE_SECONDS + 1, Outcome.STALE),
        (-TIMESTAMP_TOLERANCE_SECONDS - 1, Outcome.STALE),
    ],
)
def test_a_timestamp_holds_for_five_minutes_either_way(late, outcome):
    body = push()
    assert judged(standard(body, at=NOW), body, now=NOW + late).outcome is outcome


@pytest.mark.parametrize("change", [{"webhook-timestamp": "1700000001"}, {"webhook-id": "d-2"}, {"webhook-id": ""}])
def test_id_and_timestamp_are_covered_by_the_signature(change):
    body = push()
    assert judged(standard(body, at=NOW) | change, body).outcome is Outcome.FORGED


@pytest.mark.parametrize("stamp", ["", "soon", "-1", "1e9", "٣", "9" * 400])
def test_a_timestamp_that_is_no_number_is_stale_even_when_it_is_signed(stamp):
    import hashlib
    import hmac

    signed = f"d.{stamp}.".encode("latin-1", "replace")
    signature = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    headers = {"webhook-id": "d", "webhook-timestamp": stamp, "webhook-signature": f"v1,{signature}"}
    assert judged(headers, b"").outcome is Outcome.STALE


def test_the_signing_token_of_gitlab_is_decoded_and_one_good_signature_is_enough():
    body = push()
    headers = standard(body, at=NOW, secret=TOKEN, others=("v1,AAAA", "v1a,BBBB", "nonsense"))
    assert judged(headers, body, secret=TOKEN).outcome is Outcome.POKE
    assert signing_key(TOKEN.encode()) == bytes(range(32))
    assert judged(headers, body).outcome is Outcome.FORGED


def test_signatures_beyond_the_limit_do_not_count():
    body = push()
    headers = standard(body, at=NOW, others=("v1,AAAA",) * SIGNATURES_MAX)
    assert judged(headers, body).outcome is Outcome.FORGED


@pytest.mark.parametrize("secret", ["whsec_", "whsec_no base64!", "whsec_A"])
def test_a_broken_signing_token_is_named_and_opens_nothing(secret):
    body = push()
    with pytest.raises(ValueError, match="whsec_"):
        signing_key(secret.encode())
    headers = standard(body, at=NOW, secret="")
    assert judged(headers, body, secret=secret).outcome is Outcome.FORGED


def test_a_gitlab_with_token_and_signature_is_known_by_whichever_secret_is_ours():
    body = push()
    headers = gitlab(body, secret="the-plain-token-of-old") | standard(body, at=NOW, secret=TOKEN)
    assert judged(headers, body, secret=TOKEN).provider is Provider.STANDARD
    assert judged(headers, body, secret="the-plain-token-of-old").provider is Provider.GITLAB
    assert judged(headers, body, secret="something-else-entirely").outcome is Outcome.FORGED


# --- what strangers send ------------------------------------------------------------------------------------


def test_what_a_sender_calls_its_delivery_is_made_printable_and_short():
    body = push()
    told = judged(github(body, delivery="a\r\nb\x1b[31m\x85é " + "x" * 500), body).delivery
    assert told.isascii()
    assert told.isprintable()
    assert told.startswith("ab[31mx")
    assert len(told) <= DELIVERY_CHARACTERS_MAX


def test_two_long_ids_of_standard_webhooks_that_begin_alike_are_two_deliveries():
    body = push()
    first = judged(standard(body, at=NOW, delivery="x" * 200 + "1"), body)
    second = judged(standard(body, at=NOW, delivery="x" * 200 + "2"), body, seen=first.remember)
    assert second.outcome is Outcome.POKE


names = st.sampled_from(
    [
        *("x-hub-signature-256", "x-gitea-signature", "x-forgejo-signature", "x-gitlab-token"),
        *("webhook-id", "webhook-timestamp", "webhook-signature", "x-github-delivery", "x-github-event"),
    ]
)


@given(st.dictionaries(names, st.text(st.characters(max_codepoint=255), max_size=40)), st.binary(max_size=50))
def test_no_headers_pass_without_the_secret_and_none_break_it(headers, body):
    verdict = judge_delivery(headers, body, b"a secret that nobody has", now=NOW, seen=())
    assert verdict.outcome in (Outcome.UNSIGNED, Outcome.FORGED)
    assert verdict.remember == ()
