"""What we ask of UPS is what its own description takes, or is refused by name; what UPS answers has one meaning each."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.base import Answer, Done, Reason, Refused, Secret, TryLater, Unknown
from connectors.delivery import Unreadable
from connectors.http import Reply, Request
from connectors.parcel import Unset
from connectors.ups import VENDOR, complaint, reference
from connectors.vendor import Account, Ask, Origin
from orders.fact import Address, Person
from tests.connectors.described import Described
from tests.connectors.people import people
from tests.connectors.published import published

SAMPLE = Path(__file__).parents[2] / "samples" / "actions" / "ups.json"
TEXTS: list[dict[str, Any]] = [  # what is no JSON, or not what was asked for
    {"action": "carrier.label", "status": 200, "text": '{"ShipmentResponse":{"Shipm', "gives": ["unknown", "dropped"]},
    {"action": "carrier.label", "status": 404, "text": "not here", "gives": ["try_later", "configuration"]},
    {"action": "carrier.label", "status": 503, "text": "<html>", "gives": ["unknown", "gateway"]},
    {"action": "carrier.void", "status": 200, "text": "{}", "gives": ["try_later", "provider_error"]},
    {"action": "address.check", "status": 200, "text": "[]", "gives": ["try_later", "provider_error"]},
]
CASES: list[dict[str, Any]] = [*json.loads(SAMPLE.read_text())["replies"], *TEXTS]
HOME = Address(lines=("1 Dock Road",), city="Reno", region="NV", postcode="89501", country="US")
ORIGIN = Origin(name="Lumi Warehouse", phone="+17755550100", address=HOME)
ACCOUNT = Account(
    source="ups-lumi",
    shop="lumi",
    credentials={"client_id": Secret("id-of-ours"), "client_secret": Secret("s3cret")},
    options={"shipper_number": "a1b2c3"},
    origin=ORIGIN,
)
ANN = Person(
    name="Ann Example",
    phone="+14155550101",
    email="ann@example.com",
    address=Address(lines=("500 Oak Street", "Apt 7"), city="San Francisco", region="California", postcode="94107-1234", country="US"),
)
BERLIN = Address(lines=("Lindenstraße 9",), city="Berlin", postcode="10969", country="DE")
PUERTO_RICO = Address(lines=("1 Calle Sol",), city="San Juan", region="PR", postcode="00901", country="US")
TORONTO = Address(lines=("1 King St",), city="Toronto", region="Ontario", postcode="m5h 1a1", country="CA")
PARIS = Address(lines=("1 rue de la Paix",), city="Paris", postcode="75002", country="FR")
TOKYO = Address(lines=("1-1 Chiyoda",), city="Tokyo", postcode="100-0001", country="JP")
PARCEL = "1Z999AA10123456784"
OTHER = "1Z999AA10123456793"


def ask(event: str, **data: Any) -> Ask:
    return Ask(event, "Zk3_-abcDEF12345", "lumi:1001", msgspec.Raw(msgspec.json.encode(data)))


def a_label(to: Person = ANN, event: str = "carrier.label", **more: Any) -> Ask:
    lines = [{"line": "1", "quantity": 2}]
    return ask(event, **{"number": "#1001", "parcel": "P1", "service": "standard", "lines": lines, "to": to, **more})


ASKS = {
    "carrier.label": a_label(),
    "carrier.void": ask("carrier.void", parcel="P1", tracking=PARCEL, carrier="UPS", label="abc"),
    "carrier.rate": a_label(event="carrier.rate"),
    "address.check": ask("address.check", to=ANN),
    "tracking.subscribe": ask("tracking.subscribe", trackings=[PARCEL, OTHER]),
}


def render(asked: Ask, account: Account = ACCOUNT) -> Request:
    return VENDOR.actions[asked.event].render(account, asked)


def rendered(asked: Ask, account: Account) -> Request | Unreadable | Unset:
    try:
        return render(asked, account)
    except (Unreadable, Unset) as error:
        return error


def look(asked: Ask, account: Account = ACCOUNT) -> Request:
    action = VENDOR.actions[asked.event]
    assert action.look is not None
    return action.look(account, asked)


def body(request: Request) -> Any:
    return json.loads(request.body)


def living(address: Address, **more: Any) -> Person:
    return msgspec.structs.replace(ANN, address=address, **more)


def sending(**more: Any) -> Account:
    return msgspec.structs.replace(ACCOUNT, **more)


# --- UPS's own descriptions, mended where they contradict themselves
def recoverable(description: dict[str, Any]) -> None:
    """Label Recovery "requires" the numbers of Roadie shipments, which others have not, and takes formats of four letters only, among
    which it lists GIF and ZPL."""
    schemas = description["components"]["schemas"]
    schemas["LabelRecoveryRequest"]["required"].remove("TrackingNumbers")
    named = schemas["LabelRecoveryRequest_LabelSpecification"]["properties"]["LabelImageFormat"]["$ref"].rsplit("/", 1)[1]
    schemas[named]["properties"]["Code"]["minLength"] = 3


def rateable(description: dict[str, Any]) -> None:
    """Rating says that a service's code has three characters; its list, its examples and the Shipping API have two."""
    description["components"]["schemas"]["Shipment_Service"]["properties"]["Code"]["minLength"] = 2


def alertable(description: dict[str, Any]) -> None:
    """Track Alert names the version as a parameter of the path and has it in the server's address."""
    description["servers"] = [{"url": "https://onlinetools.ups.com/api/track/v2"}]
    operation = description["paths"]["/subscription/{type}/package"]["post"]
    operation["parameters"] = [p for p in operation["parameters"] if p.get("name") != "version"]


def tokens(description: dict[str, Any]) -> None:
    """The servers end with a slash, and the path begins with one."""
    operation = description["paths"]["/security/v1/oauth/token"]["post"]
    operation["servers"] = [{"url": "https://onlinetools.ups.com"}]


SHIPPING = Described("ups", "Shipping.yaml", recoverable)
RATING = Described("ups", "Rating.yaml", rateable)
ADDRESSES = Described("ups", "AddressValidation-Ready.yaml")
TRACKING = Described("ups", "Tracking.json")
ALERTS = Described("ups", "UPSTrackAlert.json", alertable)
TOKENS = Described("ups", "OAuthClientCredentials.yaml", tokens)
DESCRIBED = {
    "carrier.label": SHIPPING,
    "carrier.void": SHIPPING,
    "carrier.rate": RATING,
    "address.check": ADDRESSES,
    "tracking.subscribe": ALERTS,
}


@pytest.mark.parametrize("asked", ASKS.values(), ids=list(ASKS))
def test_a_request_is_what_ups_describes(asked: Ask) -> None:
    assert DESCRIBED[asked.event].faults(render(asked)) == ""


def test_so_are_the_look_up_the_question_and_the_login() -> None:
    assert SHIPPING.faults(look(ASKS["carrier.label"])) == ""
    assert SHIPPING.faults(look(ASKS["carrier.label"], sending(options={**ACCOUNT.options, "label_format": "ZPL"}))) == ""
    assert TRACKING.faults(VENDOR.questions["tracking"].render(ACCOUNT, PARCEL, "")) == ""
    assert VENDOR.login is not None and VENDOR.login.render is not None
    assert TOKENS.faults(VENDOR.login.render(ACCOUNT)) == ""


def test_the_description_does_refuse_what_it_does_not_describe() -> None:
    whole = body(render(ASKS["carrier.label"]))
    del whole["ShipmentRequest"]["Shipment"]["Service"]
    assert "Service" in SHIPPING.faults(msgspec.structs.replace(render(ASKS["carrier.label"]), body=json.dumps(whole).encode()))
    assert SHIPPING.faults(Request("GET", "https://onlinetools.ups.com/api/shipments/v2409/ship")) != ""


FIELDS = {
    *("$.data.to.name", "$.data.to.phone", "$.data.to.address.lines", "$.data.to.address.city", "$.data.to.address.region"),
    *("$.data.to.address.postcode", "$.data.to.address.country", "$.data.value"),
}


@settings(max_examples=70, deadline=None)
@given(
    to=people([HOME, BERLIN, PUERTO_RICO, TORONTO, PARIS, TOKYO]),
    home=st.sampled_from([HOME, BERLIN]),
    service=st.sampled_from(["standard", "express", "?"]),
    value=st.integers(0, 10**12),
)
def test_any_person_makes_a_valid_request_or_is_refused_by_the_name_of_a_field(to: Person, home: Address, service: str, value: int) -> None:
    account = sending(origin=msgspec.structs.replace(ORIGIN, address=home))
    for event, described in (("carrier.label", SHIPPING), ("carrier.rate", RATING)):
        made = rendered(a_label(to, event, service=service, value=value, currency="USD"), account)
        if isinstance(made, Request):
            assert described.faults(made) == ""
        else:
            assert isinstance(made, Unreadable) and made.detail in FIELDS and made.reason in ("schema", "bounds")


@settings(max_examples=60, deadline=None)
@given(weight=st.integers(-5, 80_000), size=st.tuples(*[st.integers(-5, 3_000)] * 3), home=st.sampled_from([HOME, BERLIN]))
def test_any_parcel_is_measured_as_ups_takes_it_or_refused(weight: int, size: tuple[int, int, int], home: Address) -> None:
    account = sending(origin=msgspec.structs.replace(ORIGIN, weight_g=weight, size_mm=size, address=home))
    request = rendered(a_label(living(home)), account)
    if not isinstance(request, Request):
        assert request.detail in ("account.origin.weight_g", "account.origin.size_mm")
        return
    assert SHIPPING.faults(request) == ""
    package = body(request)["ShipmentRequest"]["Shipment"]["Package"][0]
    long, middle, short = (int(package["Dimensions"][side]) for side in ("Length", "Width", "Height"))
    assert long >= middle >= short >= 1
    assert float(package["PackageWeight"]["Weight"]) > 0 and len(package["PackageWeight"]["Weight"]) <= 5


def test_what_the_order_s_parcel_weighs_counts_before_what_the_account_says() -> None:
    made = rendered(a_label(living(HOME), weight_g=1_000), sending(origin=msgspec.structs.replace(ORIGIN, weight_g=0)))
    assert isinstance(made, Request)
    assert body(made)["ShipmentRequest"]["Shipment"]["Package"][0]["PackageWeight"]["Weight"] == "2.3"
    heavy = rendered(a_label(living(HOME), weight_g=68_039), sending())
    assert isinstance(heavy, Unreadable) and (heavy.reason, heavy.detail) == ("bounds", "$.data.weight_g")


# --- what stands in a request
def test_a_label_within_the_us_is_found_by_the_reference_on_its_package() -> None:
    shipment = body(render(ASKS["carrier.label"]))["ShipmentRequest"]["Shipment"]
    (package,) = shipment["Package"]
    assert package["ReferenceNumber"][0] == {"Code": "TN", "Value": reference(ASKS["carrier.label"])}
    assert package["ReferenceNumber"][1]["Value"] == "#1001"
    assert "ReferenceNumber" not in shipment
    assert shipment["ShipTo"]["Address"] == {
        "AddressLine": ["500 Oak Street", "Apt 7"],
        "City": "San Francisco",
        "CountryCode": "US",
        "StateProvinceCode": "CA",
        "PostalCode": "941071234",
    }
    assert shipment["ShipTo"]["Phone"] == {"Number": "4155550101"}
    values = body(look(ASKS["carrier.label"]))["LabelRecoveryRequest"]["ReferenceValues"]
    assert values == {"ReferenceNumber": {"Value": reference(ASKS["carrier.label"])}, "ShipperNumber": "A1B2C3"}


def test_a_reference_is_letters_and_digits_and_belongs_to_one_effect() -> None:
    made = {reference(msgspec.structs.replace(ASKS["carrier.label"], id=name)) for name in ("a", "A", "b", "_", "-", "")}
    assert len(made) == 6
    assert all(len(one) == 24 and one.isalnum() and one.isupper() | one.isdigit() for one in made)


def test_a_label_abroad_has_its_reference_at_the_shipment_and_says_what_is_inside() -> None:
    shipment = body(render(a_label(living(BERLIN))))["ShipmentRequest"]["Shipment"]
    assert shipment["ReferenceNumber"][0]["Value"] == reference(ASKS["carrier.label"])
    assert "ReferenceNumber" not in shipment["Package"][0]
    assert shipment["Description"] == "Merchandise"
    assert shipment["Service"]["Code"] == "08"
    assert "InvoiceLineTotal" not in shipment
    with pytest.raises(Unreadable, match=r"schema: \$\.data\.to\.phone"):
        render(a_label(living(BERLIN, phone="")))


@pytest.mark.parametrize(
    ("start", "end", "standard", "express"),
    [
        (HOME, HOME, "03", "01"),
        (HOME, PUERTO_RICO, "03", "01"),
        (HOME, TORONTO, "11", "65"),
        (TORONTO, TORONTO, "11", "01"),
        (TORONTO, HOME, "08", "65"),
        (HOME, BERLIN, "08", "65"),
        (BERLIN, BERLIN, "11", "65"),
        (BERLIN, PARIS, "11", "65"),
        (BERLIN, HOME, "08", "65"),
        (TOKYO, TOKYO, "11", "65"),
    ],
)
def test_which_service_follows_from_where_a_parcel_starts_and_ends(start: Address, end: Address, standard: str, express: str) -> None:
    account = sending(origin=msgspec.structs.replace(ORIGIN, address=start))
    for service, code in (("standard", standard), ("express", express)):
        request = render(a_label(living(end), service=service, value=4_200, currency="USD"), account)
        assert body(request)["ShipmentRequest"]["Shipment"]["Service"]["Code"] == code
        assert SHIPPING.faults(request) == ""


def test_an_account_may_choose_other_services_and_another_format() -> None:
    account = sending(options={**ACCOUNT.options, "express": "02", "standard_abroad": "65", "label_format": "zpl"})
    request = body(render(a_label(service="express"), account))["ShipmentRequest"]
    assert request["Shipment"]["Service"]["Code"] == "02"
    assert request["LabelSpecification"]["LabelImageFormat"]["Code"] == "ZPL"
    assert body(render(a_label(living(BERLIN)), account))["ShipmentRequest"]["Shipment"]["Service"]["Code"] == "65"
    assert "LabelStockSize" in body(look(ASKS["carrier.label"], account))["LabelRecoveryRequest"]["LabelSpecification"]
    assert "LabelStockSize" not in body(look(ASKS["carrier.label"]))["LabelRecoveryRequest"]["LabelSpecification"]


def test_the_value_of_a_parcel_to_canada_is_exact() -> None:
    def worth(value: int, currency: str) -> Any:
        shipment = body(render(a_label(living(TORONTO), value=value, currency=currency)))["ShipmentRequest"]["Shipment"]
        return shipment["InvoiceLineTotal"]

    assert worth(4_205, "USD") == {"CurrencyCode": "USD", "MonetaryValue": "42.05"}
    assert worth(4_205, "JPY") == {"CurrencyCode": "JPY", "MonetaryValue": "4205"}
    for value, currency, field in ((99, "USD", r"\$\.data\.value"), (10**11, "USD", r"\$\.data\.value"), (1, "", r"\$\.data\.currency")):
        with pytest.raises(Unreadable, match=field):
            worth(value, currency)


def test_measures_are_those_of_where_the_parcel_starts_and_rounded_up() -> None:
    def measured(home: Address) -> Any:
        origin = msgspec.structs.replace(ORIGIN, address=home, weight_g=1_001, size_mm=(100, 301, 200))
        package = body(render(a_label(living(home)), sending(origin=origin)))["ShipmentRequest"]["Shipment"]["Package"][0]
        size = package["Dimensions"]
        mass = package["PackageWeight"]
        return (
            [size["Length"], size["Width"], size["Height"], size["UnitOfMeasurement"]["Code"]],
            [mass["Weight"], mass["UnitOfMeasurement"]["Code"]],
        )

    assert measured(HOME) == (["12", "8", "4", "IN"], ["2.3", "LBS"])  # 2.207 pounds
    assert measured(BERLIN) == (["31", "20", "10", "CM"], ["1.1", "KGS"])


@pytest.mark.parametrize(
    ("asked", "account", "field"),
    [
        (a_label(msgspec.structs.replace(ANN, name=" ")), ACCOUNT, "$.data.to.name"),
        (a_label(living(msgspec.structs.replace(HOME, lines=()))), ACCOUNT, "$.data.to.address.lines"),
        (a_label(living(msgspec.structs.replace(HOME, lines=("x" * 36,)))), ACCOUNT, "$.data.to.address.lines"),
        (a_label(living(msgspec.structs.replace(HOME, city=""))), ACCOUNT, "$.data.to.address.city"),
        (a_label(living(msgspec.structs.replace(HOME, region=""))), ACCOUNT, "$.data.to.address.region"),
        (a_label(living(msgspec.structs.replace(HOME, region="Atlantis"))), ACCOUNT, "$.data.to.address.region"),
        (a_label(living(msgspec.structs.replace(HOME, postcode="9410"))), ACCOUNT, "$.data.to.address.postcode"),
        (a_label(living(msgspec.structs.replace(HOME, country=""))), ACCOUNT, "$.data.to.address.country"),
        (a_label(), sending(origin=msgspec.structs.replace(ORIGIN, weight_g=68_039)), "account.origin.weight_g"),
        (a_label(), sending(origin=msgspec.structs.replace(ORIGIN, size_mm=(2_744, 10, 10))), "account.origin.size_mm"),
        (a_label(), sending(origin=msgspec.structs.replace(ORIGIN, size_mm=(1_000, 900, 800))), "account.origin.size_mm"),
        (a_label(), sending(options={}), "account.options.shipper_number"),
        (a_label(), sending(options={"shipper_number": "12345"}), "account.options.shipper_number"),
        (a_label(), sending(origin=Origin()), "account.origin.address.country"),
        (a_label(), sending(options={**ACCOUNT.options, "label_format": "PDF"}), "account.options.label_format"),
        (a_label(), sending(options={**ACCOUNT.options, "standard": "ground"}), "account.options.standard"),
        (ask("carrier.label", number="1", parcel="P1"), ACCOUNT, "$.data.to"),
        (ask("carrier.label", number="1", parcel="P1", to=None), ACCOUNT, "$.data.to"),
        (ask("carrier.void", parcel="P1", tracking=""), ACCOUNT, "$.data.tracking"),
        (ask("carrier.void", parcel="P1", tracking="9400100000000000000017"), ACCOUNT, "$.data.tracking"),
        (ask("address.check", to=living(BERLIN)), ACCOUNT, "$.data.to.address.country"),
        (ask("tracking.subscribe", trackings=[]), ACCOUNT, "$.data.trackings"),
        (ask("tracking.subscribe", trackings=[PARCEL] * 101), ACCOUNT, "$.data.trackings"),
        (ask("tracking.subscribe", trackings=[PARCEL, "string"]), ACCOUNT, "$.data.trackings[1]"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(asked: Ask, account: Account, field: str) -> None:
    with pytest.raises(Unset if field.startswith("account.") else Unreadable) as met:
        render(asked, account)
    assert met.value.detail == field


def test_a_subscription_takes_a_hundred_and_is_renewed_before_it_ends() -> None:
    assert ALERTS.faults(render(ask("tracking.subscribe", trackings=[PARCEL] * 100))) == ""
    day = 86_400_000
    assert 0 < VENDOR.actions["tracking.subscribe"].ability.life_s * 1000 < 14 * day


# --- secrets and people
@pytest.mark.parametrize("asked", ASKS.values(), ids=list(ASKS))
def test_a_request_carries_no_credentials_and_shows_nobody(asked: Ask) -> None:
    request = render(asked)
    whole = f"{request.url}{request.headers}".encode() + request.body
    assert b"s3cret" not in whole and b"id-of-ours" not in whole and "Authorization" not in dict(request.headers)
    assert "Ann" not in repr(request) and "Oak" not in repr(request) and PARCEL not in repr(request)
    assert render(asked) == request


def test_a_token_is_asked_for_with_both_credentials_and_sent_as_bearer() -> None:
    login = VENDOR.login
    assert login is not None and login.render is not None and login.token is not None
    request = login.render(ACCOUNT)
    assert request is not None
    assert b64decode(dict(request.headers)["Authorization"].removeprefix("Basic ")) == b"id-of-ours:s3cret"
    assert request.body == b"grant_type=client_credentials"
    assert "s3cret" not in repr(request) and "s3cret" not in repr(ACCOUNT)
    assert login.token(Reply(200, {}, b'{"access_token":"abc","expires_in":"14399"}')) == ("abc", 14_399.0)
    assert login.headers(ACCOUNT, "abc") == (("Authorization", "Bearer abc"),)
    with pytest.raises(Unset, match=r"account\.credentials\.client_secret"):
        login.render(sending(credentials={"client_id": Secret("a")}))


def test_an_account_may_name_another_address_of_the_api() -> None:
    account = sending(url="https://wwwcie.ups.com")
    assert render(ASKS["carrier.label"], account).url == "https://wwwcie.ups.com/api/shipments/v2409/ship"
    assert VENDOR.questions["tracking"].render(account, PARCEL, "").url.startswith("https://wwwcie.ups.com/api/track/v1/details/1Z")


def test_a_question_is_one_page_about_one_parcel() -> None:
    question = VENDOR.questions["tracking"]
    assert question.next(Reply(200)) == ""
    assert question.answer in VENDOR.answers
    with pytest.raises(Unreadable, match="tracking"):
        question.render(ACCOUNT, "../../oauth", "")


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
    wanted = means(case)
    assert answer(case["action"], case.get("lookup", False), Reply(case["status"], {}, raw(case), case.get("retry_after_s"))) == wanted


def test_every_action_has_replies() -> None:
    assert {case["action"] for case in CASES} == set(VENDOR.actions) == set(ASKS)


@pytest.mark.parametrize("event", ASKS)
@given(
    status=st.integers(100, 599),
    given_=st.one_of(st.binary(max_size=80), st.sampled_from([*map(raw, CASES), b"[" * 9_999])),
    cut=st.integers(0, 500),
)
def test_any_reply_has_a_meaning_and_only_a_success_is_one(event: str, status: int, given_: bytes, cut: int) -> None:
    reply = Reply(status, {}, given_[:cut])
    for found in (False, True) if event == "carrier.label" else (False,):
        said = answer(event, found, reply)
        assert isinstance(said, Done | TryLater | Refused | Unknown)
        if isinstance(said, Done) and event == "carrier.label":
            assert status == 200 and said == Done(f"UPS {PARCEL}", b"GIF89a")
        if isinstance(said, TryLater) and said.reason is Reason.NOT_FOUND:
            assert found and status == 400 and b"9801031" in given_


def test_what_may_have_been_bought_is_in_doubt_until_it_is_looked_up() -> None:
    action = VENDOR.actions["carrier.label"]
    assert action.ability.kind == "lookup" and action.look and action.found
    for status in (200, 302, 408, 500, 502, 503, 504):
        assert isinstance(answer("carrier.label", False, Reply(status, {}, b"<html>")), Unknown)


def test_error_codes_are_said_in_words() -> None:
    for code in ("9801031", "9801040", "190117", "190102", "120100"):
        assert f"(code {code})" in complaint(json.dumps({"errors": [{"code": code}]}).encode())


# --- what has been published
@pytest.mark.parametrize(
    ("file", "tracking"),
    [("ups-ShipmentResponseJSON.json", "1ZXXXXXXXXXXXXXXXX"), ("ups-ShipmentResponseWithInvoice.json", "1Z0FH3446831744085")],
)
def test_published_labels_are_read(file: str, tracking: str) -> None:
    found = answer("carrier.label", False, Reply(200, {}, published("ups", "samples", "shipment", file)))
    assert isinstance(found, Done)
    assert found.reference == f"UPS {tracking}"
    assert found.keep.startswith(b"\x89PNG")


def test_the_published_void_is_read() -> None:
    found = published("ups", "samples", "shipment", "ups-ShipmentCancelResponseJSON.json")
    assert answer("carrier.void", False, Reply(200, {}, found)) == Done(f"UPS {PARCEL}")
