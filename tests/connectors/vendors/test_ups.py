"""A scan is one fact however UPS tells it, what it means follows from its type and code, and no answer of UPS's is a surprise."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.base import Secret
from connectors.delivery import Ignored, Record, Unreadable
from connectors.signature import Sent, Verdict
from connectors.ups import CODES, EVENT, TYPES, VENDOR, Status, complaint, meaning, number
from connectors.vendor import Account, understood
from orders.bounds import violation
from orders.fact import ParcelScanned, Tracking, decode_fact
from orders.request import FactWaiting
from orders.state import contradictory
from tests.connectors.published import CONTRACTS, published

AT = 1_795_464_000_000
SAMPLES = Path(__file__).parents[2] / "samples" / "vendors" / "ups"
NAMES = sorted(path.stem for path in SAMPLES.glob("*.json") if not path.name.endswith(".golden.json"))
PARCEL = "1Z999AA10123456784"
ACCOUNT = Account(source="ups-lumi", shop="lumi", authority=3)


def sample(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SAMPLES / f"{name}.json").read_text())
    return found


def read(whole: dict[str, Any]) -> list[Record] | str:
    return understood(VENDOR, ACCOUNT, json.dumps(whole).encode(), AT)


def scans(found: Iterable[Record] | str) -> list[ParcelScanned]:
    """The facts inside of what waits for a tracking number."""
    assert not isinstance(found, str), found
    facts = []
    for record in found:
        assert isinstance(record, FactWaiting)
        fact = decode_fact(record.fact)
        assert isinstance(fact, ParcelScanned)
        assert (record.kind, record.value, record.at) == ("tracking", fact.tracking, fact.at)
        facts.append(fact)
    return facts


def moved(found: Iterable[Record] | str) -> dict[str, ParcelScanned]:
    return {fact.object: fact for fact in scans(found) if not fact.eta_until}


def expected(found: Iterable[Record] | str) -> list[tuple[int, int]]:
    return [(fact.eta_from, fact.eta_until) for fact in scans(found) if fact.eta_until]


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_gives_what_its_golden_file_says(name: str) -> None:
    try:
        found: Any = understood(VENDOR, Account(source="ups-lumi", shop="lumi"), (SAMPLES / f"{name}.json").read_bytes(), AT)
    except Ignored as error:
        found = {"ignored": str(error)}
    except Unreadable as error:
        found = {"unreadable": [error.reason, error.detail]}
    assert json.loads(msgspec.json.encode(found)) == json.loads((SAMPLES / f"{name}.golden.json").read_text())


# --- one scan, one fact
def test_a_scan_is_the_same_fact_pushed_and_fetched() -> None:
    pushed, fetched = moved(read(sample("push.out_for_delivery"))), moved(read(sample("answer.tracking.moving")))
    (scan,) = pushed
    assert scan == f"{PARCEL}:20260512141519:I/OT"
    assert pushed[scan] == fetched[scan]
    assert pushed[scan] == ParcelScanned(
        order="",
        system="ups-lumi",
        object=scan,
        at=1_778_595_319_000,
        authority=3,
        parcel=PARCEL,
        tag=Tracking.OUT_FOR_DELIVERY,
        carrier="ups",
        tracking=PARCEL,
    )


def test_every_push_of_a_life_is_found_again_in_the_answer() -> None:
    life = moved(read(sample("answer.tracking.moving"))) | moved(read(sample("answer.tracking.delivered")))
    for name in ("label_created", "out_for_delivery", "delivered"):
        for object_, fact in moved(read(sample(f"push.{name}"))).items():
            assert life[object_] == fact


def test_a_changed_day_never_makes_a_scan_contradict_itself() -> None:
    before, after = scans(read(sample("answer.tracking.moving"))), scans(read(sample("answer.tracking.rescheduled")))
    known: dict[str, ParcelScanned] = {fact.object: fact for fact in before}
    both = [(known[fact.object], fact) for fact in after if fact.object in known]
    assert len(both) == 4
    assert not any(contradictory(pair) for pair in both)
    assert {fact.object for fact in before + after if fact.eta_until} == {f"{PARCEL}:eta:20260512", f"{PARCEL}:eta:20260514"}


def test_a_local_time_with_its_offset_is_the_same_scan_as_its_gmt() -> None:
    assert moved(read(sample("push.local_time"))) == moved(read(sample("push.out_for_delivery")))
    (without,) = moved(read(sample("push.local_time_without_offset")))
    assert without == f"{PARCEL}:20260512091519L:I/OT"


@pytest.mark.parametrize(
    ("told", "key"), [("74700", "20260512074700"), ("500", "20260512000500"), ("0", "20260512000000"), ("235959", "20260512235959")]
)
def test_a_time_may_have_lost_its_leading_zeros(told: str, key: str) -> None:
    pushed = sample("push.out_for_delivery")
    pushed["body"] |= {"gmtActivityTime": told, "localActivityDate": None}
    assert list(moved(read(pushed))) == [f"{PARCEL}:{key}:I/OT"]


def test_a_tracking_number_is_one_however_it_is_written() -> None:
    assert read(sample("push.small_letters_and_spaces")) == read(sample("push.out_for_delivery"))
    assert [number(text) for text in ("string", "", None, "1Z;DROP", "9" * 35, " 1z 999 ", "1234567")] == [
        "",
        "",
        "",
        "",
        "",
        "",
        "1234567",
    ]


def test_a_day_is_expected_whole_and_rescheduled_before_scheduled() -> None:
    assert expected(read(sample("push.out_for_delivery"))) == [(1_778_544_000_000, 1_778_630_399_999)]
    assert expected(read(sample("answer.tracking.rescheduled"))) == [(1_778_716_800_000, 1_778_803_199_999)]
    assert expected(read(sample("push.delivered"))) == expected(read(sample("answer.tracking.delivered"))) == []
    assert expected(read(sample("push.access_point"))) == []
    delivered = sample("answer.tracking.delivered")
    delivered["body"]["trackResponse"]["shipment"][0]["package"][0]["deliveryDate"].append({"type": "SDD", "date": "20260512"})
    assert expected(read(delivered)) == []
    for silly in ("", "string", "00000000", "19991231", "20991231", "99999999", None):
        pushed = sample("push.out_for_delivery")
        pushed["body"]["scheduledDeliveryDate"] = silly
        assert expected(read(pushed)) == [], silly
        assert len(moved(read(pushed))) == 1


# --- what a status means
@pytest.mark.parametrize(
    ("kind", "code", "tag"),
    [
        ("M", "MP", Tracking.LABEL_CREATED),
        ("MV", "OF", Tracking.UNKNOWN),
        ("U", "OT", Tracking.UNKNOWN),
        ("P", "PU", Tracking.IN_TRANSIT),
        ("I", "DP", Tracking.IN_TRANSIT),
        ("I", "OT", Tracking.OUT_FOR_DELIVERY),
        ("D", "OF", Tracking.OUT_FOR_DELIVERY),
        ("D", "FS", Tracking.DELIVERED),
        ("D", "ZP", Tracking.PICKUP),
        ("DO", "", Tracking.IN_TRANSIT),
        ("DD", "", Tracking.IN_TRANSIT),
        ("X", "DJ", Tracking.EXCEPTION),
        ("X", "SR", Tracking.IN_TRANSIT),
        ("X", "L1", Tracking.ATTEMPT_FAILED),
        ("X", "VN", Tracking.PICKUP),
        ("X", "ER", Tracking.IN_TRANSIT),
        ("I", "H8", Tracking.EXCEPTION),
        ("I", 76, Tracking.OUT_FOR_DELIVERY),
        ("RS", "OF", Tracking.RETURNED),
        ("", "OF", Tracking.OUT_FOR_DELIVERY),
        (" d ", " fs ", Tracking.DELIVERED),
        ("NA", None, Tracking.UNKNOWN),
        (None, None, Tracking.UNKNOWN),
        ("string", "string", Tracking.UNKNOWN),
    ],
)
def test_a_status_means(kind: str | None, code: str | int | None, tag: Tracking) -> None:
    assert meaning(Status(type=kind, code=code)) is tag


def test_paper_alone_never_counts_as_moved() -> None:
    paper = {meaning(Status(type=kind, code=code)) for kind in ("M", "MV", "U") for code in ["", *CODES]}
    assert paper == {Tracking.LABEL_CREATED, Tracking.UNKNOWN}
    assert all(key == key.upper() for key in (*TYPES, *CODES))


# --- what cannot be placed
def test_a_push_without_parcel_or_time_is_unreadable_and_says_where() -> None:
    for name, field in (("placeholder", "$.trackingNumber"), ("no_time", "$.gmtActivityDate"), ("no_status", "$.activityStatus")):
        with pytest.raises(Unreadable) as met:
            read(sample(f"push.{name}"))
        assert (met.value.reason, met.value.detail) == ("schema", field)


def test_an_activity_without_time_is_left_out_and_the_others_stay() -> None:
    assert list(moved(read(sample("answer.tracking.placeholders")))) == [f"{PARCEL}:20260512091519L:I/", f"{PARCEL}:20260512081500L:/"]


def test_a_nameless_package_among_several_is_nobodys() -> None:
    assert {fact.tracking for fact in scans(read(sample("answer.tracking.several_packages")))} == {PARCEL, "1Z999AA10123456793"}


def test_a_number_may_be_a_number() -> None:
    whole = sample("answer.tracking.moving")
    (shipment,) = whole["body"]["trackResponse"]["shipment"]
    shipment["package"][0]["trackingNumber"] = shipment["inquiryNumber"] = 92612999897543581074711582  # handed on by UPS to the post
    assert {fact.tracking for fact in scans(read(whole))} == {"92612999897543581074711582"}


def test_no_tracking_information_is_no_error_of_the_operators() -> None:
    with pytest.raises(Ignored, match="no tracking information of it yet"):
        read(sample("answer.tracking.none_yet"))
    assert "nothing is wrong" in str(read(sample("answer.error.not_found")))


# --- one of each, or several
def test_what_is_told_as_one_is_read_as_a_list_of_it() -> None:
    whole = sample("answer.tracking.moving")
    before = read(whole)
    (shipment,) = whole["body"]["trackResponse"]["shipment"]
    (shipment["package"],) = shipment["package"]
    (shipment["package"]["deliveryDate"],) = shipment["package"]["deliveryDate"]
    whole["body"]["trackResponse"]["shipment"] = shipment
    assert read(whole) == before
    shipment["package"]["activity"] = shipment["package"]["activity"][0]
    assert len(scans(read(whole))) == 2  # it, and the day


def test_several_events_pushed_at_once_are_those_events() -> None:
    one, other = sample("push.out_for_delivery"), sample("push.delivered")
    assert scans(read(sample("push.several"))) == scans(read(one)) + scans(read(other))
    assert read({**one, "body": [one["body"]]}) == read(one)
    alone, again, both = (
        VENDOR.envelope({}, json.dumps(body).encode()) for body in ([one["body"]], one["body"], sample("push.several")["body"])
    )
    assert alone == again != both
    assert both == VENDOR.envelope({}, json.dumps([one["body"], other["body"]]).encode())
    for body, field in (([], "$[0]"), ([one["body"], {**other["body"], "trackingNumber": "string"}], "$[1].trackingNumber")):
        with pytest.raises(Unreadable) as met:
            read({**one, "body": body})
        assert met.value.detail == field


def test_a_rescheduled_day_that_is_none_leaves_the_scheduled_one() -> None:
    whole = sample("answer.tracking.moving")
    days = whole["body"]["trackResponse"]["shipment"][0]["package"][0]["deliveryDate"]
    days.append({"type": "RDD", "date": "string"})
    assert expected(read(whole)) == [(1_778_544_000_000, 1_778_630_399_999)]


def test_warnings_are_no_complaints() -> None:
    for body in (
        {"trackResponse": {"shipment": [{"inquiryNumber": PARCEL, "warnings": [{"code": "TW0001", "message": "not found"}]}]}},
        {"ShipmentResponse": {"Response": {"Alert": [{"Code": "120900", "Description": "no negotiated rates"}]}}},
    ):
        assert complaint(json.dumps(body).encode()) == ""


# --- what else is answered
@pytest.mark.parametrize(
    ("answer", "body", "field"),
    [
        ("shipment", {"a": 1}, "$.ShipmentResponse"),
        ("label", {"VoidShipmentResponse": {}}, "$.ShipmentResponse"),
        ("label", {"ShipmentResponse": {"ShipmentResults": {}}}, "$.ShipmentResponse.ShipmentResults.PackageResults"),
        ("void", {"ShipmentResponse": {}}, "$.VoidShipmentResponse"),
        ("void", {"VoidShipmentResponse": {"SummaryResult": {"Status": {}}}}, "$.VoidShipmentResponse.SummaryResult.Status.Code"),
        ("cancel", {"a": 1}, "$.VoidShipmentResponse"),
        ("rate", {"RateResponse": {}}, "$.RateResponse.RatedShipment"),
        ("rates", {"RateResponse": {"RatedShipment": []}}, "$.RateResponse.RatedShipment"),
        ("address", {"a": 1}, "$.XAVResponse"),
        ("subscription", {"a": 1}, "$.validTrackingNumbers"),
    ],
)
def test_a_body_that_is_no_such_answer_is_unreadable_and_says_where(answer: str, body: Any, field: str) -> None:
    with pytest.raises(Unreadable) as met:
        read({"answer": answer, "body": body})
    assert (met.value.reason, met.value.detail) == ("schema", field)


# --- deliveries
def test_a_repeated_push_is_the_same_delivery_and_another_scan_is_not() -> None:
    found = [
        VENDOR.envelope({}, json.dumps(sample(f"push.{name}")["body"]).encode()) for name in ("out_for_delivery", "local_time", "delivered")
    ]
    assert found[0] == found[1] == (EVENT, f"{PARCEL}:20260512141519:I/OT")
    assert found[2] == (EVENT, f"{PARCEL}:20260512214210:D/FS")
    with pytest.raises(Unreadable):
        VENDOR.envelope({}, b"{")


def test_a_push_is_believed_by_the_word_that_we_gave() -> None:
    assert VENDOR.scheme is not None
    headers = {name.lower(): value for name, value in sample("push.delivered")["headers"].items()}
    assert VENDOR.scheme.check(Sent(headers, b""), [Secret("invented-credential")], AT) is Verdict.GOOD
    assert VENDOR.scheme.check(Sent(headers, b""), [Secret("another")], AT) is Verdict.WRONG
    assert VENDOR.scheme.check(Sent({}, b""), [Secret("invented-credential")], AT) is Verdict.MISSING


# --- complaints
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"response":{"errors":[{"code":"250003","message":"Invalid Access License number"}]}}', "check client ID and secret"),
        (b'{"response":{"errors":[{"code":250002}]}}', "check client ID and secret"),
        (b'{"response":{"errors":[{"code":"10429","message":"Too Many Requests"}]}}', "asked too often"),
        (b'{"response":{"errors":[{"code":"TW0001","message":"Tracking Information Not Found"}]}}', "asked again later"),
        (b'{"errors":[{"code":"251004"}]}', "access token"),
        (b'{"error":"invalid_client","error_description":"Client authentication failed"}', "(code invalid_client)"),
        (b'{"response":{"errors":[{"code":"A B","message":"of Ann Example"}]}}', "UPS refuses the request"),
        (b'{"response":{"errors":[{}]}}', "UPS refuses the request"),
        (b'{"response":{"errors":{"code":"TV1002"}}}', "no tracking number"),
        (b'{"response":{"errors":[{"code":"151044"}]}}', "asked again later"),
        (b'{"response":{"errors":[{"code":"111210"}]}}', "does not offer this service"),
        (b'{"response":{"errors":[{"code":"120802"}]}}', "correct the address"),
        (b'{"response":{"errors":[{"code":"120213"}]}}', "correct the address"),
        (b'{"response":{"errors":[{"code":"120120"}]}}', "account's origin"),
        (b'{"response":{"errors":[{"code":"VSS310"}]}}', "report it to the developers"),
        (b'{"error":{"code":"10401","message":"of Ann"}}', "check client ID and secret"),
        (b'{"Fault":{"detail":{"Errors":{"ErrorDetail":{"PrimaryErrorCode":{"Code":"250003","Description":"Ann"}}}}}}', "(code 250003)"),
        (b'{"Fault":{"detail":{"Errors":{"ErrorDetail":[{"PrimaryErrorCode":{"Code":151018}}]}}}}', "no tracking number"),
        (b'{"Fault":{"faultstring":"of Ann"}}', "UPS refuses the request"),
    ],
)
def test_a_refusal_is_said_in_our_words_and_quotes_nothing(body: bytes, words: str) -> None:
    said = complaint(body)
    assert words in said
    assert not {"Ann", "License", "Client authentication"} & set(said.split()) and "A B" not in said


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{}", b'{"trackResponse":{"shipment":[]}}', b'{"response":{"errors":[]}}', b"\xff"])
def test_what_is_no_refusal_is_no_complaint(body: bytes) -> None:
    assert complaint(body) == ""


# --- whatever comes
def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*at, name))


DROP = object()


def put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    first, *rest = place
    changed = dict(value) if isinstance(value, dict) else list(value)
    if new is DROP and not rest:
        del changed[first]
    else:
        changed[first] = put(changed[first], tuple(rest), new)
    return changed


@pytest.mark.parametrize("name", ["push.out_for_delivery", "push.delivered", "answer.tracking.moving", "answer.tracking.rescheduled"])
@given(data=st.data())
def test_any_field_may_be_missing_null_or_silly(name: str, data: st.DataObject) -> None:
    whole = sample(name)
    place = data.draw(st.sampled_from([place for place in places(whole["body"]) if place]))
    new = data.draw(st.sampled_from([DROP, None, "", "string", -1, 2**70, [], {}, "9" * 400, "\x00", "-99:99", "99999999"]))
    try:
        found = read({**whole, "body": put(whole["body"], place, new)})
    except (Ignored, Unreadable):
        return
    assert all(violation(fact) is None for fact in scans(found))


@pytest.mark.parametrize("name", ["push.out_for_delivery", "answer.tracking.moving"])
def test_fields_that_we_do_not_know_change_nothing(name: str) -> None:
    whole = sample(name)
    more = json.loads(json.dumps(whole["body"]), object_hook=lambda found: {"somethingNew": {"of": [1]}, **found})
    assert read({**whole, "body": more}) == read(whole)


# --- what UPS has published
def test_the_published_push_is_a_scan_and_a_day() -> None:
    found = understood(VENDOR, ACCOUNT, published("ups", "samples", "track-alert", "out-for-delivery-message.json"), AT)
    scan, day = scans(found)
    assert (scan.object, scan.tag, scan.at) == ("1Z204W4R0308071865:20240423131519:I/OT", Tracking.OUT_FOR_DELIVERY, 1_713_878_119_000)
    assert (day.object, day.tag, day.eta_from) == ("1Z204W4R0308071865:eta:20240423", Tracking.UNKNOWN, 1_713_830_400_000)


def test_the_published_answer_goes_by_the_number_that_was_asked_for() -> None:
    found = understood(VENDOR, ACCOUNT, published("ups", "samples", "tracking", "found.json"), AT, answer="tracking")
    (scan,) = scans(found)
    assert (scan.object, scan.tag, scan.at) == ("1Z023E2X0214323462:20210210071356L:X/SR", Tracking.IN_TRANSIT, 1_612_941_236_000)


def test_the_published_refusal_is_understood() -> None:
    found = understood(VENDOR, ACCOUNT, published("ups", "samples", "tracking", "auth-error.json"), AT, answer="tracking")
    assert found == "UPS refuses our credentials: check client ID and secret, and that the app at UPS may use this API (code 250003)"


def test_published_labels_hold_nothing_for_an_order() -> None:
    bought, voided = "a label was bought", "a label was voided"
    expected_of = {
        "ups-ShipmentResponseJSON.json": ("shipment", bought),
        "ups-ShipmentResponseWithInvoice.json": ("shipment", bought),
        "ups-ShipmentCancelResponseJSON.json": ("void", voided),
    }
    for name, (answer, why) in expected_of.items():
        with pytest.raises(Ignored, match=why):
            understood(VENDOR, ACCOUNT, published("ups", "samples", "shipment", name), AT, answer=answer)
    with pytest.raises(Unreadable, match=r"\$\.VoidShipmentResponse"):  # what is asked of UPS, not what it says
        understood(VENDOR, ACCOUNT, published("ups", "samples", "shipment", "ups-ShipmentCancelRequestData.json"), AT, answer="void")


@pytest.mark.skipif(not CONTRACTS.exists(), reason="../shared/contracts is not here")
def test_nothing_published_is_left_out_here() -> None:
    names = {path.relative_to(CONTRACTS / "ups" / "samples").as_posix() for path in (CONTRACTS / "ups" / "samples").rglob("*.json")}
    assert names == {
        "shipment/ups-ShipmentCancelRequestData.json",
        "shipment/ups-ShipmentCancelResponseJSON.json",
        "shipment/ups-ShipmentResponseJSON.json",
        "shipment/ups-ShipmentResponseWithInvoice.json",
        "track-alert/out-for-delivery-message.json",
        "tracking/auth-error.json",
        "tracking/found.json",
    }
