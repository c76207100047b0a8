"""Published vectors pass, every single changed bit fails, two secrets count at once, and a verdict never depends on parsing."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.base import Secret
from connectors.signature import BodyHmac, Scheme, Sent, SharedSecret, StandardWebhooks, StripeSignature, Verdict
from connectors.webhook import sign, signing_key
from tests.connectors.published import published

NOW = 1_700_000_000_000
SECONDS = str(NOW // 1000)
BODY = b'{"id": 820982911946154508, "total": "398.00"}'
OURS, OTHER = Secret("whsec_" + b64encode(b"ours, thirty-two bytes of a key.").decode()), Secret("whsec_" + b64encode(b"x" * 32).decode())


def digest(secret: Secret, signed: bytes) -> bytes:
    return hmac.new(secret.reveal().encode(), signed, hashlib.sha256).digest()


def shopify(secret: Secret) -> dict[str, str]:
    return {"x-shopify-hmac-sha256": b64encode(digest(secret, BODY)).decode()}


def easypost(secret: Secret) -> dict[str, str]:
    return {"x-hmac-signature": "hmac-sha256-hex=" + digest(secret, BODY).hex()}


def stripe(secret: Secret, seconds: str = SECONDS) -> dict[str, str]:
    return {"stripe-signature": f"t={seconds},v1={digest(secret, f'{seconds}.'.encode() + BODY).hex()}"}


def standard(secret: Secret, seconds: str = SECONDS) -> dict[str, str]:
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": seconds,
        "webhook-signature": sign(signing_key(secret), "msg_1", seconds, BODY),
    }


SCHEMES: dict[str, tuple[Scheme, Callable[[Secret], dict[str, str]]]] = {
    "shopify": (BodyHmac("x-shopify-hmac-sha256"), shopify),
    "easypost": (BodyHmac("x-hmac-signature", "hex", "hmac-sha256-hex="), easypost),
    "stripe": (StripeSignature(), stripe),
    "standard": (StandardWebhooks(), standard),
}
each = pytest.mark.parametrize(("scheme", "headers"), SCHEMES.values(), ids=SCHEMES)


@each
def test_what_was_signed_with_any_of_the_active_secrets_is_good(scheme: Scheme, headers: Callable[[Secret], dict[str, str]]) -> None:
    for secrets in ([OURS], [OURS, OTHER], [OTHER, OURS]):
        assert scheme.check(Sent(headers(OURS), BODY), secrets, NOW) is Verdict.GOOD
    assert scheme.check(Sent(headers(OURS), BODY), [OTHER], NOW) is Verdict.WRONG
    assert scheme.check(Sent(headers(OURS), BODY), [], NOW) is Verdict.WRONG


@each
def test_every_single_changed_bit_fails(scheme: Scheme, headers: Callable[[Secret], dict[str, str]]) -> None:
    """Of body, signature and time. Some changed bits make a header that nobody could send; those fail too."""
    good = headers(OURS)
    for place in range(len(BODY) * 8):
        body = bytearray(BODY)
        body[place // 8] ^= 1 << place % 8
        assert scheme.check(Sent(good, bytes(body)), [OURS], NOW) is Verdict.WRONG
    for name, value in good.items():
        for place in range(len(value) * 8):
            changed = bytearray(value.encode())
            changed[place // 8] ^= 1 << place % 8
            found = scheme.check(Sent({**good, name: changed.decode("latin-1")}, BODY), [OURS], NOW)
            assert found in (Verdict.WRONG, Verdict.MALFORMED), (name, place)


@each
def test_each_header_is_needed(scheme: Scheme, headers: Callable[[Secret], dict[str, str]]) -> None:
    good = headers(OURS)
    for name in good:
        for left in ({k: v for k, v in good.items() if k != name}, {**good, name: ""}):
            assert scheme.check(Sent(left, BODY), [OURS], NOW) is Verdict.MISSING


@pytest.mark.parametrize(("scheme", "headers"), [(StripeSignature(), stripe), (StandardWebhooks(), standard)], ids=["stripe", "standard"])
def test_a_good_signature_is_good_for_five_minutes(scheme: Scheme, headers: Callable[[Secret, str], dict[str, str]]) -> None:
    for seconds, verdict in ((0, Verdict.GOOD), (300, Verdict.GOOD), (301, Verdict.STALE), (-300, Verdict.GOOD), (-301, Verdict.STALE)):
        its = headers(OURS, str(NOW // 1000 - seconds))
        assert scheme.check(Sent(its, BODY), [OURS], NOW) is verdict, seconds


def test_stripe_signs_with_both_secrets_while_one_is_exchanged_and_its_old_version_counts_for_nothing() -> None:
    ours, other = (stripe(s)["stripe-signature"].partition(",v1=")[2] for s in (OURS, OTHER))
    scheme = StripeSignature()
    assert scheme.check(Sent({"stripe-signature": f"t={SECONDS},v1={other},v1={ours},v0=x"}, BODY), [OURS], NOW) is Verdict.GOOD
    assert scheme.check(Sent({"stripe-signature": f"t={SECONDS},v0={ours}"}, BODY), [OURS], NOW) is Verdict.MALFORMED
    assert scheme.check(Sent({"stripe-signature": f"t=1,t={SECONDS},v1={ours}"}, BODY), [OURS], NOW) is Verdict.MALFORMED


def test_a_shared_word_is_compared_whole_and_an_empty_one_opens_nothing() -> None:
    scheme = SharedSecret("credential")
    assert scheme.check(Sent({"credential": OURS.reveal()}, BODY), [OTHER, OURS], NOW) is Verdict.GOOD
    assert scheme.check(Sent({"credential": OURS.reveal()[:-1]}, BODY), [OURS], NOW) is Verdict.WRONG
    assert scheme.check(Sent({"credential": ""}, BODY), [Secret("")], NOW) is Verdict.MISSING
    assert scheme.check(Sent({"credential": "x"}, BODY), [Secret("")], NOW) is Verdict.WRONG


@given(st.dictionaries(st.sampled_from([*shopify(OURS), *stripe(OURS), *standard(OURS), "credential"]), st.text(max_size=80)), st.binary())
def test_no_header_makes_a_check_fail_in_another_way(headers: dict[str, str], body: bytes) -> None:
    for scheme in (*(scheme for scheme, _ in SCHEMES.values()), SharedSecret("credential")):
        assert scheme.check(Sent(headers, body), [OURS], NOW) is not Verdict.GOOD


# --- what vendors have published
def vectors(*place: str) -> Any:
    return json.loads(published(*place))


def test_shopifys_vectors() -> None:
    for case in vectors("shopify", "vectors", "x-shopify-hmac-sha256.json")["cases"]:
        sent = Sent({"x-shopify-hmac-sha256": case["header"]}, case["body"].encode())
        found = BodyHmac("x-shopify-hmac-sha256").check(sent, [Secret(case["secret"])], NOW)
        assert (found is Verdict.GOOD) == (case["expect"] == "accept")


def test_stripes_vectors() -> None:
    case = vectors("stripe", "vectors", "stripe-signature.json")
    body, secrets = published("stripe", "vectors", case["body_file"]), [Secret(case["secret"])]
    signed_at = case["timestamp"] * 1000
    scheme = StripeSignature()
    assert scheme.check(Sent({"stripe-signature": case["header"]}, body), secrets, signed_at) is Verdict.GOOD
    assert scheme.check(Sent({"stripe-signature": case["header"]}, body), secrets, NOW) is Verdict.STALE
    for header in case["must_reject"]:
        assert scheme.check(Sent({"stripe-signature": header}, body), secrets, signed_at) is Verdict.MALFORMED


def test_the_vectors_of_standard_webhooks() -> None:
    for case in vectors("custom-store", "vectors", "standard-webhooks.json")["cases"]:
        headers = {name: str(case[name]) for name in case if name.startswith("webhook-")}
        sent = Sent(headers, case["body"].encode())
        assert StandardWebhooks().check(sent, [Secret(case["secret"])], case["webhook-timestamp"] * 1000) is Verdict.GOOD
