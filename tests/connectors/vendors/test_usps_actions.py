"""What we ask of USPS is what its own description takes, or is refused by name; what USPS answers has one meaning each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.base import Answer, Done, Reason, Refused, Secret, TryLater, Unknown
from connectors.delivery import Unreadable
from connectors.http import Reply, Request
from connectors.parcel import Unset, image
from connectors.usps import PAYMENT, VENDOR, complaint, key
from connectors.vendor import Account, Ask, Origin
from orders.fact import Address, Person
from tests.connectors.described import Described
from tests.connectors.people import people, texts
from tests.connectors.published import published

AT = 1_795_464_000_000  # 2026-11-23, 20:00 UTC
SAMPLE = Path(__file__).parents[2] / "samples" / "actions" / "usps.json"
META = '{"trackingNumber":"9400100000000000000017","postage":8.4}'
PARTS = {  # several parts instead of one document
    "as described, with what is wrong in it": (
        "--b7\r\nContent-Type: application/json\r\nContent-Disposition: Content-Disposition: form-data; name=labelMetadata\r\n\r\n"
        f"{META}\r\n--b7\r\nContent-Type: application/pdf\r\nContent-Encoding: gzip\r\nContent-Transfer-Encoding: binary\r\n\r\n"
        "JVBERi0xLjQ=\r\n--b7\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename=receipt.pdf\r\n\r\n"
        "UkVDRUlQVA==\r\n--b7--\r\n"
    ),
    "in another order": f"--b7\nContent-Type: application/pdf\n\nJVBERi0xLjQ=\n--b7\nContent-Type: application/json\n\n{META}\n--b7--",
}
HALF = {
    "cut": f"--b7\r\nContent-Type: application/json\r\n\r\n{META}\r\n--b7\r\nContent-Type: application/pdf\r\n\r\nJVBERi0x",
    "no number": "--b7\r\nA: b\r\n\r\n{}\r\n--b7\r\nContent-Type: application/pdf\r\n\r\nJVBERi0xLjQ=\r\n--b7--",
    "no picture": f"--b7\r\nA: b\r\n\r\n{META}\r\n--b7\r\nContent-Type: application/pdf\r\n\r\n\r\n--b7--",
    "no parts": "not what was asked for",
}
TEXTS: list[dict[str, Any]] = [
    *(
        {"action": "carrier.label", "status": 200, "text": t, "gives": ["done", "USPS 9400100000000000000017"], "keep": "%PDF-1.4"}
        for t in PARTS.values()
    ),
    *({"action": "carrier.label", "status": 200, "text": text, "gives": ["unknown", "dropped"]} for text in HALF.values()),
    {"action": "address.check", "status": 200, "text": "[]", "gives": ["try_later", "provider_error"]},
    {"action": "address.check", "status": 404, "text": "nginx", "gives": ["try_later", "configuration"]},
]
CASES: list[dict[str, Any]] = [*json.loads(SAMPLE.read_text())["replies"], *TEXTS]
HOME = Address(lines=("1 Dock Road",), city="Reno", region="NV", postcode="89501", country="US")
SAN_JUAN = Address(lines=("1 Calle Sol",), city="San Juan", postcode="00901", country="PR")
ORIGIN = Origin(name="Lumi Warehouse", phone="+17755550100", address=HOME)
ACCOUNT = Account(
    source="usps-lumi",
    shop="lumi",
    credentials={"client_id": Secret("id-of-ours"), "client_secret": Secret("s3cret")},
    options={"crid": "11111111", "mid": "222222222", "manifest_mid": "333333333", "account_number": "4444444444"},
    origin=ORIGIN,
)
ANN = Person(
    name="Ann Marie Example",
    phone="+14155550101",
    email="ann@example.com",
    address=Address(lines=("500 Oak Street", "Apt 7"), city="San Francisco", region="California", postcode="94107-1234", country="US"),
)
PARCEL = "9400100000000000000017"
PAID = ("X-Payment-Authorization-Token", "a token")


def ask(event: str, **data: Any) -> Ask:
    return Ask(event, "Zk3_-abcDEF12345", "lumi:1001", msgspec.Raw(msgspec.json.encode(data)), AT)


def a_label(to: Person = ANN, **more: Any) -> Ask:
    lines = [{"line": "1", "quantity": 2}]
    return ask("carrier.label", **{"number": "#1001", "parcel": "P1", "service": "standard", "lines": lines, "to": to, **more})


ASKS = {
    "carrier.label": a_label(),
    "carrier.void": ask("carrier.void", parcel="P1", tracking=PARCEL, carrier="USPS", label="abc"),
    "address.check": ask("address.check", to=ANN),
}


def render(asked: Ask, account: Account = ACCOUNT) -> Request:
    return VENDOR.actions[asked.event].render(account, asked)


def rendered(asked: Ask, account: Account) -> Request | Unreadable | Unset:
    try:
        return render(asked, account)
    except (Unreadable, Unset) as error:
        return error


def look(asked: Ask) -> Request:
    action = VENDOR.actions[asked.event]
    assert action.look is not None
    return action.look(ACCOUNT, asked)


def body(request: Request) -> Any:
    return json.loads(request.body)


def living(**more: Any) -> Person:
    return msgspec.structs.replace(ANN, address=msgspec.structs.replace(ANN.address, **more))


def sending(**more: Any) -> Account:
    return msgspec.structs.replace(ACCOUNT, **more)


# --- USPS's own descriptions, mended where a real account needs more
def reprintable(description: dict[str, Any]) -> None:
    """Version 3.9.8 reprints by tracking number only. Production also takes the key of the label's request, without a number."""
    operation = description["paths"].pop("/label-reprint/{trackingNumber}")
    operation["post"]["parameters"] = [p for p in operation["post"]["parameters"] if not p.get("$ref", "").endswith("/TrackingNumber")]
    description["paths"]["/label-reprint"] = operation


LABELS = Described("usps", "domestic-labels.yaml", reprintable)
ADDRESSES = Described("usps", "addresses.yaml")
TRACKING = Described("usps", "tracking-3.2.6.yaml")
DESCRIBED = {"carrier.label": LABELS, "carrier.void": LABELS, "address.check": ADDRESSES}


@pytest.mark.parametrize("asked", ASKS.values(), ids=list(ASKS))
def test_a_request_is_what_usps_describes(asked: Ask) -> None:
    headers = PAYMENT.headers(ACCOUNT, "a token") if VENDOR.actions[asked.event].login else ()
    assert DESCRIBED[asked.event].faults(render(asked), *headers) == ""


def test_so_are_the_look_up_and_the_question() -> None:
    assert LABELS.faults(look(ASKS["carrier.label"]), PAID) == ""
    assert TRACKING.faults(VENDOR.questions["tracking"].render(ACCOUNT, PARCEL, "")) == ""


def test_the_description_does_refuse_what_it_does_not_describe() -> None:
    assert "X-Payment-Authorization-Token" in LABELS.faults(render(ASKS["carrier.label"]))
    whole = body(render(ASKS["carrier.label"]))
    whole["toAddress"]["state"] = "XX"
    assert "XX" in LABELS.faults(msgspec.structs.replace(render(ASKS["carrier.label"]), body=json.dumps(whole).encode()), PAID)


FIELDS = {
    *("$.data.to.name", "$.data.to.address.lines", "$.data.to.address.city", "$.data.to.address.region"),
    *("$.data.to.address.postcode", "$.data.to.address.country"),
}


@settings(max_examples=70, deadline=None)
@given(to=people([HOME, ANN.address, SAN_JUAN]), service=st.sampled_from(["standard", "express", "?"]), number=texts)
def test_any_person_makes_a_valid_request_or_is_refused_by_the_name_of_a_field(to: Person, service: str, number: str) -> None:
    for asked, headers in ((a_label(to, service=service, number=number), (PAID,)), (ask("address.check", to=to), ())):
        made = rendered(asked, ACCOUNT)
        if isinstance(made, Request):
            assert DESCRIBED[asked.event].faults(made, *headers) == ""
        else:
            assert isinstance(made, Unreadable) and made.detail in FIELDS and made.reason in ("schema", "bounds")


@settings(max_examples=60, deadline=None)
@given(weight=st.integers(-5, 40_000), size=st.tuples(*[st.integers(-5, 2_000)] * 3), service=st.sampled_from(["standard", "express"]))
def test_any_parcel_is_measured_as_usps_takes_it_or_refused(weight: int, size: tuple[int, int, int], service: str) -> None:
    account = sending(origin=msgspec.structs.replace(ORIGIN, weight_g=weight, size_mm=size))
    request = rendered(a_label(service=service), account)
    if not isinstance(request, Request):
        assert request.detail in ("account.origin.weight_g", "account.origin.size_mm")
        return
    assert LABELS.faults(request, PAID) == ""
    package = body(request)["packageDescription"]
    assert package["length"] >= package["width"] >= package["height"] > 0 and 0 < package["weight"] <= 70


def test_what_the_order_s_parcel_weighs_counts_before_what_the_account_says() -> None:
    made = rendered(a_label(weight_g=1_000), sending(origin=msgspec.structs.replace(ORIGIN, weight_g=0)))
    assert isinstance(made, Request) and body(made)["packageDescription"]["weight"] == 2.21
    heavy = rendered(a_label(weight_g=31_752), sending())
    assert isinstance(heavy, Unreadable) and (heavy.reason, heavy.detail) == ("bounds", "$.data.weight_g")


# --- what stands in a request
def test_a_label_is_asked_for_with_a_key_and_looked_up_by_it() -> None:
    request = render(ASKS["carrier.label"])
    assert (
        str(UUID(key(ASKS["carrier.label"])))
        == dict(request.headers)["X-Idempotency-Key"]
        == dict(look(ASKS["carrier.label"]).headers)["X-Idempotency-Key"]
    )
    assert key(ASKS["carrier.label"]) != key(msgspec.structs.replace(ASKS["carrier.label"], id="another"))
    asked = body(request)
    assert asked["toAddress"] == {
        "firstName": "Ann Marie",
        "lastName": "Example",
        "streetAddress": "500 Oak Street",
        "secondaryAddress": "Apt 7",
        "city": "San Francisco",
        "state": "CA",
        "ZIPCode": "94107",
        "ZIPPlus4": "1234",
        "phone": "14155550101",
        "ignoreBadAddress": False,
    }
    assert asked["imageInfo"] == {"imageType": "PDF", "labelType": "4X6LABEL", "receiptOption": "NONE"}
    assert body(look(ASKS["carrier.label"])) == {"imageInfo": {"imageType": "PDF", "labelType": "4X6LABEL"}}
    assert asked["packageDescription"] == {
        "mailClass": "USPS_GROUND_ADVANTAGE",
        "rateIndicator": "SP",
        "processingCategory": "MACHINABLE",
        "destinationEntryFacilityType": "NONE",
        "weightUOM": "lb",
        "weight": 1.11,
        "dimensionsUOM": "in",
        "length": 11.82,
        "width": 7.88,
        "height": 3.94,
        "mailingDate": "2026-11-23",
        "customerReference": [{"referenceNumber": "#1001", "printReferenceNumber": True}],
    }


def package(asked: Ask, **more: Any) -> Any:
    return body(render(asked, sending(**more)))["packageDescription"]


def test_express_and_large_parcels_have_their_rates() -> None:
    assert [package(a_label(service="express"))[name] for name in ("mailClass", "rateIndicator")] == ["PRIORITY_MAIL_EXPRESS", "PA"]
    large = msgspec.structs.replace(ORIGIN, size_mm=(310, 310, 310))
    assert package(a_label(), origin=large)["rateIndicator"] == "DR"
    assert package(a_label(service="express"), origin=large)["rateIndicator"] == "PA"
    assert package(a_label(), origin=msgspec.structs.replace(ORIGIN, size_mm=(600, 100, 100)))["processingCategory"] == "NONSTANDARD"
    assert package(a_label(), options={**ACCOUNT.options, "standard": "PRIORITY_MAIL"})["mailClass"] == "PRIORITY_MAIL"


@pytest.mark.parametrize(
    ("zone", "at", "day"),
    [
        ("", AT, "2026-11-23"),
        ("", AT + 8 * 3_600_000, "2026-11-23"),  # 04:00 UTC is the evening before in New York
        ("", AT + 10 * 3_600_000, "2026-11-24"),
        ("Pacific/Guam", AT, "2026-11-24"),
    ],
)
def test_the_mailing_date_is_the_day_of_asking(zone: str, at: int, day: str) -> None:
    options = {**ACCOUNT.options, "time_zone": zone} if zone else ACCOUNT.options
    assert package(msgspec.structs.replace(a_label(), at=at), options=options)["mailingDate"] == day


@pytest.mark.parametrize(
    ("asked", "account", "field"),
    [
        (a_label(msgspec.structs.replace(ANN, name="")), ACCOUNT, "$.data.to.name"),
        (a_label(living(lines=("x" * 51,))), ACCOUNT, "$.data.to.address.lines"),
        (a_label(living(lines=("a", "b", "c"))), ACCOUNT, "$.data.to.address.lines"),
        (a_label(living(city="")), ACCOUNT, "$.data.to.address.city"),
        (a_label(living(region="Atlantis")), ACCOUNT, "$.data.to.address.region"),
        (a_label(living(region="")), ACCOUNT, "$.data.to.address.region"),
        (a_label(living(region="AE")), ACCOUNT, "$.data.to.address.region"),
        (a_label(living(country="GU")), ACCOUNT, "$.data.to.address.region"),
        (a_label(living(country="CA")), ACCOUNT, "$.data.to.address.country"),
        (a_label(living(postcode="9410")), ACCOUNT, "$.data.to.address.postcode"),
        (a_label(), sending(origin=Origin()), "account.origin.name"),
        (a_label(), sending(origin=msgspec.structs.replace(ORIGIN, weight_g=31_752)), "account.origin.weight_g"),
        (a_label(), sending(origin=msgspec.structs.replace(ORIGIN, size_mm=(1_000, 600, 600))), "account.origin.size_mm"),
        (a_label(), sending(options={"label_format": "GIF"}), "account.options.label_format"),
        (a_label(), sending(options={"standard": "FASTEST"}), "account.options.standard"),
        (a_label(), sending(options={"time_zone": "Mars/Olympus"}), "account.options.time_zone"),
        (a_label(), sending(options={"time_zone": "../etc"}), "account.options.time_zone"),
        (msgspec.structs.replace(a_label(), at=0), ACCOUNT, "$.at"),
        (ask("carrier.label", number="1", parcel="P1"), ACCOUNT, "$.data.to"),
        (ask("carrier.void", parcel="P1", tracking="../label"), ACCOUNT, "$.data.tracking"),
        (ask("address.check", to=living(country="DE")), ACCOUNT, "$.data.to.address.country"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(asked: Ask, account: Account, field: str) -> None:
    with pytest.raises(Unset if field.startswith("account.") else Unreadable) as met:
        render(asked, account)
    assert met.value.detail == field


# --- secrets and people
@pytest.mark.parametrize("asked", ASKS.values(), ids=list(ASKS))
def test_a_request_carries_no_credentials_and_shows_nobody(asked: Ask) -> None:
    request = render(asked)
    whole = f"{request.url}{request.headers}".encode() + request.body
    assert b"s3cret" not in whole and b"id-of-ours" not in whole and not {"Authorization", PAID[0]} & set(dict(request.headers))
    assert "Ann" not in repr(request) and "Oak" not in repr(request) and PARCEL not in repr(request)
    assert render(asked) == request


def test_an_access_token_and_a_payment_token_are_two() -> None:
    login = VENDOR.login
    assert login is not None and login.render is not None and login.token is not None
    request = login.render(ACCOUNT)
    assert request is not None
    assert body(request) == {"client_id": "id-of-ours", "client_secret": "s3cret", "grant_type": "client_credentials"}
    assert "s3cret" not in repr(request)
    assert login.token(Reply(200, {}, b'{"access_token":"abc","expires_in":"28799"}')) == ("abc", 28_799.0)
    assert PAYMENT.render is not None and PAYMENT.token is not None
    asked = PAYMENT.render(ACCOUNT)
    assert asked is not None
    payer, owner = body(asked)["roles"]
    assert (payer["roleName"], owner["roleName"], payer["accountType"]) == ("PAYER", "LABEL_OWNER", "EPS")
    assert payer["CRID"] == owner["CRID"] == "11111111" and "accountNumber" not in owner
    assert PAYMENT.token(Reply(200, {}, b'{"paymentAuthorizationToken":"p"}')) == ("p", 28_800.0)
    assert PAYMENT.headers(ACCOUNT, "p") == (("X-Payment-Authorization-Token", "p"),)
    assert {event for event, action in VENDOR.actions.items() if action.login} == {"carrier.label", "carrier.void"}
    for raw in (b"", b"{}", b"[]", b'{"paymentAuthorizationToken":null}'):
        with pytest.raises(Unreadable, match="paymentAuthorizationToken"):
            PAYMENT.token(Reply(401, {}, raw))
    with pytest.raises(Unset, match=r"account\.options\.crid"):
        PAYMENT.render(sending(options={}))


def test_a_question_is_one_page_about_one_parcel_in_detail() -> None:
    question = VENDOR.questions["tracking"]
    assert question.render(ACCOUNT, "9400 1000 0000 0000 0000 17", "").url.endswith(f"/tracking/v3/tracking/{PARCEL}?expand=DETAIL")
    assert question.next(Reply(200)) == "" and question.answer in VENDOR.answers
    with pytest.raises(Unreadable, match="tracking"):
        question.render(ACCOUNT, "../../oauth2", "")


# --- replies
def means(case: dict[str, Any]) -> Answer:
    match case["gives"]:
        case ["done", text]:
            return Done(text, case.get("keep", "").encode())
        case ["try_later", reason, *after]:
            return TryLater(Reason(reason), after[0] if after else None)
        case ["refused", reason]:
            return Refused(Reason(reason))
    return Unknown(Reason(case["gives"][1]))


def answer(event: str, found: bool, reply: Reply) -> Answer:
    action = VENDOR.actions[event]
    read = action.found if found else action.read
    assert read is not None
    return read(ACCOUNT, ASKS[event], reply)


def raw(case: dict[str, Any]) -> bytes:
    if "text" in case:
        return str(case["text"]).encode()
    return b"" if case["body"] is None else json.dumps(case["body"]).encode()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['action']}-{case['status']}-{case['gives'][1]}")
def test_a_reply_has_one_meaning(case: dict[str, Any]) -> None:
    reply = Reply(case["status"], {}, raw(case), case.get("retry_after_s"))
    assert answer(case["action"], case.get("lookup", False), reply) == means(case)


def test_every_action_has_replies() -> None:
    assert {case["action"] for case in CASES} == set(VENDOR.actions) == set(ASKS)


@pytest.mark.parametrize("event", ASKS)
@given(
    status=st.integers(100, 599),
    given_=st.one_of(st.binary(max_size=80), st.sampled_from([*map(raw, CASES), b"[" * 9_999])),
    cut=st.integers(0, 700),
)
def test_any_reply_has_a_meaning_and_only_a_success_is_one(event: str, status: int, given_: bytes, cut: int) -> None:
    reply = Reply(status, {}, given_[:cut])
    for found in (False, True) if event == "carrier.label" else (False,):
        said = answer(event, found, reply)
        assert isinstance(said, Done | TryLater | Refused | Unknown)
        if isinstance(said, Done) and event == "carrier.label":
            assert status in (200, 201) and said == Done(f"USPS {PARCEL}", b"%PDF-1.4")
        if isinstance(said, TryLater) and said.reason is Reason.NOT_FOUND:
            assert found and status == 400 and b"160412" in given_


def test_what_may_have_been_bought_is_in_doubt_until_it_is_looked_up() -> None:
    action = VENDOR.actions["carrier.label"]
    assert action.ability.kind == "lookup" and action.look and action.found
    for status in (200, 302, 408, 500, 502, 503, 504):
        assert isinstance(answer("carrier.label", False, Reply(status, {}, b"<html>")), Unknown)


def test_error_codes_are_said_in_words() -> None:
    for code in ("160412", "160979"):
        said = complaint(json.dumps({"error": {"code": "400", "errors": [{"code": code, "detail": "of Ann"}]}}).encode())
        assert said.endswith(f"(code {code})") and "Ann" not in said


# --- what has been published
def test_the_published_cancellation_is_read() -> None:
    found = published("usps", "samples", "shipment", "usps-ShipmentCancelResponse.json")
    assert answer("carrier.void", False, Reply(200, {}, found)) == Done(f"USPS {PARCEL}")


def test_the_published_example_of_a_label_is_read() -> None:
    example = LABELS.api.spec / "components" / "examples" / "Base64EncodedImagesExample" / "value"
    whole = example.read_value()
    assert isinstance(whole, dict)
    assert answer("carrier.label", False, Reply(200, {}, json.dumps(whole).encode())) == Done(
        f"USPS {whole['trackingNumber']}", image(whole["labelImage"])
    )
