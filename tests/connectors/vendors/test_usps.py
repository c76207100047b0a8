"""An event is one fact however often USPS tells it, what it means follows from its code, and no answer of USPS's is a surprise."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.delivery import Ignored, Record, Unreadable
from connectors.usps import CODES, VENDOR, Event, complaint, meaning, number, when
from connectors.vendor import Account, Envelope, understood
from orders.bounds import violation
from orders.fact import ParcelScanned, Tracking, decode_fact
from orders.request import FactWaiting
from orders.state import contradictory
from tests.connectors.published import CONTRACTS, published

AT = 1_795_464_000_000
SAMPLES = Path(__file__).parents[2] / "samples" / "vendors" / "usps"
NAMES = sorted(path.stem for path in SAMPLES.glob("*.json") if not path.name.endswith(".golden.json"))
PARCEL = "9400100000000000000017"
ACCOUNT = Account(source="usps-lumi", shop="lumi", authority=3)


def sample(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SAMPLES / f"answer.{name}.json").read_text())
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


def tags(name: str) -> dict[str, Tracking]:
    return {fact.object.removeprefix(f"{PARCEL}:"): fact.tag for fact in scans(read(sample(name))) if not fact.eta_until}


def expected(name: str) -> list[str]:
    return [fact.object.removeprefix(f"{PARCEL}:") for fact in scans(read(sample(name))) if fact.eta_until]


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_gives_what_its_golden_file_says(name: str) -> None:
    try:
        found: Any = understood(VENDOR, Account(source="usps-lumi", shop="lumi"), (SAMPLES / f"{name}.json").read_bytes(), AT)
    except Ignored as error:
        found = {"ignored": str(error)}
    except Unreadable as error:
        found = {"unreadable": [error.reason, error.detail]}
    assert json.loads(msgspec.json.encode(found)) == json.loads((SAMPLES / f"{name}.golden.json").read_text())


# --- one event, one fact
def test_an_event_is_the_same_fact_at_every_asking() -> None:
    first, later = scans(read(sample("tracking.predicted"))), scans(read(sample("tracking.moving")))
    known = {fact.object: fact for fact in first}
    again = [(known[fact.object], fact) for fact in later if fact.object in known]
    assert len(again) == 2
    assert all(before == after for before, after in again)
    assert not any(contradictory(pair) for pair in again)


def test_an_event_is_a_scan_that_waits_for_its_tracking_number() -> None:
    (label,) = scans(read(sample("tracking.label")))
    assert label == ParcelScanned(
        order="",
        system="usps-lumi",
        object=f"{PARCEL}:20260509T213005Z:GX",
        at=1_778_362_205_000,
        authority=3,
        parcel=PARCEL,
        tag=Tracking.LABEL_CREATED,
        carrier="usps",
        tracking=PARCEL,
    )


def test_a_day_is_expected_whole_until_the_parcel_is_there() -> None:
    assert expected("tracking.moving") == ["eta:20260512"]
    assert expected("tracking.predicted") == expected("tracking.attempted") == ["eta:20260513"]
    assert expected("tracking.delivered") == expected("tracking.at_the_counter") == expected("tracking.returned") == []
    day = scans(read(sample("tracking.moving")))[-1]
    assert (day.tag, day.eta_from, day.eta_until) == (Tracking.UNKNOWN, 1_778_544_000_000, 1_778_630_399_999)
    for silly in ("", "tomorrow", "2026-02-31", "1999-12-31", "2100-01-01", "9:00pm"):
        whole = sample("tracking.predicted")
        whole["body"]["predictedDeliveryDate"] = silly
        assert not [fact for fact in scans(read(whole)) if fact.eta_until], silly


# --- what an event means
@pytest.mark.parametrize(
    ("code", "words", "tag"),
    [
        ("GX", "Shipping Label Created, USPS Awaiting Item", Tracking.LABEL_CREATED),
        ("82", "Departed Shipping Partner Facility, USPS Awaiting Item", Tracking.IN_TRANSIT),
        ("03", "USPS in possession of item", Tracking.IN_TRANSIT),
        ("OF", "Out for Delivery", Tracking.OUT_FOR_DELIVERY),
        ("DX", "Awaiting Delivery Scan", Tracking.UNKNOWN),
        ("01", "Delivered, In/At Mailbox", Tracking.DELIVERED),
        ("01", "Delivered, To Original Sender", Tracking.RETURNED),
        ("ZZ", "Delivered, To Original Sender", Tracking.RETURNED),
        ("ZZ", "Delivered, Returned to Sender", Tracking.RETURNED),
        ("ZZ", "Being Returned", Tracking.EXCEPTION),
        ("ZZ", "Unable to deliver item, problem with address", Tracking.EXCEPTION),
        ("ZZ", "Delivery Exception, Local Weather Delay", Tracking.EXCEPTION),
        (1, None, Tracking.DELIVERED),
        (10, None, Tracking.IN_TRANSIT),
        ("01", None, Tracking.DELIVERED),
        ("02", "Notice Left", Tracking.ATTEMPT_FAILED),
        ("16", "Available for Pickup", Tracking.PICKUP),
        ("09", "Return to Sender Processed", Tracking.EXCEPTION),
        ("29", "Other", Tracking.EXCEPTION),
        ("of", "", Tracking.OUT_FOR_DELIVERY),
        ("ZZ", "Notice Left (No Authorized Recipient Available)", Tracking.ATTEMPT_FAILED),
        ("ZZ", "In-Transit, Arriving Late", Tracking.IN_TRANSIT),
        ("ZZ", "Pre-Shipment Info Sent to USPS, USPS Awaiting Item", Tracking.LABEL_CREATED),
        ("ZZ", "Return Receipt Associated", Tracking.UNKNOWN),
        ("", "", Tracking.UNKNOWN),
        (None, None, Tracking.UNKNOWN),
    ],
)
def test_an_event_means(code: str | int | None, words: str | None, tag: Tracking) -> None:
    assert meaning(Event(event_code=code, event_type=words)) is tag


def test_an_item_that_usps_awaits_never_counts_as_moved_without_a_partner() -> None:
    paper = {code for code, tag in CODES.items() if tag is Tracking.LABEL_CREATED}
    assert paper == {"GX", "MA", "89", "TM"}


def test_the_category_of_the_whole_parcel_says_nothing_of_one_event() -> None:
    whole = sample("tracking.words_only")
    before = read(whole)
    whole["body"]["statusCategory"] = "Returned to Sender"
    assert read(whole) == before


def test_what_came_back_is_returned_and_what_goes_back_is_trouble() -> None:
    assert tags("tracking.returned") == {
        "20260520T160010Z:01": Tracking.RETURNED,
        "20260514T160010Z:09": Tracking.EXCEPTION,
        "20260512T200010Z:04": Tracking.EXCEPTION,
    }


# --- times
@pytest.mark.parametrize(
    ("gmt", "local", "offset", "key"),
    [
        ("2024-11-22T18:58:40Z", "2024-11-22T13:58:00", "-05:00", "20241122T185840Z"),
        ("2024-04-04T14:03:12.041Z", None, None, "20240404T140312Z"),
        ("2024-04-04T16:03:12+02:00", None, None, "20240404T140312Z"),
        ("2024-11-21T05:28:33Z", "2024-11-21T23:28:00", "-06:00", "20241122T052833Z"),  # GMT has the local day
        ("2024-11-22T05:28:33Z", "2024-11-21T23:28:00", "-06:00", "20241122T052833Z"),
        ("", "2024-11-21T23:28:00", "-7:00", "20241122T062800Z"),
        (None, "2024-11-21T23:28:00", "+09:30", "20241121T135800Z"),
        (None, "2024-11-21T23:28:00", "string", "20241121T232800L"),
        (None, "string", "-05:00", ""),
        ("1999-12-31T23:59:59Z", None, None, ""),
        ("2100-01-01T00:00:00Z", None, None, ""),
        ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59", "-99:99", ""),
        (None, None, None, ""),
    ],
)
def test_a_time_is_gmt_and_the_day_is_the_one_that_local_time_and_offset_mean(
    gmt: str | None, local: str | None, offset: str | None, key: str
) -> None:
    found = when(Event(gmt_timestamp=gmt, event_timestamp=local, gmt_offset=offset))
    assert (found.key if found else "") == key


def test_an_event_without_time_is_left_out_and_the_others_stay() -> None:
    assert list(tags("tracking.times")) == ["20260511T140000Z:10", "20260511T170000Z:10", "20260511T110000L:10", "20260511T120000Z:10"]


# --- what cannot be placed
def test_an_answer_without_tracking_number_is_unreadable() -> None:
    with pytest.raises(Unreadable) as met:
        read(sample("tracking.no_number"))
    assert (met.value.reason, met.value.detail) == ("schema", "$.trackingNumber")
    assert [number(text) for text in ("string", "", None, "1;2", "9" * 35)] == [""] * 5
    assert number("9400 1000 0000 0000 0000 17") == PARCEL
    assert number("ea 123 456 785 us") == "EA123456785US"
    whole = sample("tracking.label")
    assert read({**whole, "body": {**whole["body"], "trackingNumber": int(PARCEL)}}) == read(whole)


def test_a_summary_says_how_to_ask_instead() -> None:
    with pytest.raises(Ignored, match="expand=DETAIL"):
        read(sample("tracking.summary"))


def test_an_answer_with_neither_events_nor_a_summary_is_none() -> None:
    with pytest.raises(Unreadable, match=r"\$\.trackingEvents"):
        read({"answer": "tracking", "body": {"trackingNumber": PARCEL, "status": "CANCELED"}})
    with pytest.raises(Ignored, match="expand=DETAIL"):
        read({"answer": "tracking", "body": {"trackingNumber": PARCEL, "statusCategory": "Delivered"}})


# --- several parcels at once
def test_a_list_of_answers_gives_what_each_of_them_gives() -> None:
    one, other = sample("tracking.moving"), sample("tracking.delivered")
    none = {"trackingNumber": PARCEL, "error": {"code": "404", "message": "of Ann Example"}}
    summary = {"trackingNumber": PARCEL, "statusCategory": "Delivered"}
    both = {"answer": "tracking", "body": [one["body"], none, summary, other["body"]]}
    assert scans(read(both)) == scans(read(one)) + scans(read(other))
    assert "nothing is wrong" in str(read({"answer": "tracking", "body": [none]}))
    with pytest.raises(Unreadable, match=r"\$\[1\]\.trackingNumber"):
        read({"answer": "tracking", "body": [one["body"], {}]})
    with pytest.raises(Ignored):
        read({"answer": "tracking", "body": []})


def test_one_event_may_stand_alone() -> None:
    whole = sample("tracking.label")
    before = read(whole)
    (whole["body"]["trackingEvents"],) = whole["body"]["trackingEvents"]
    assert read(whole) == before


@pytest.mark.parametrize(
    "told",
    [
        {"expectedDeliveryDate": "2026-05-14"},
        {"predictedDeliveryTimeStamp": "2026-05-14T21:00:00"},
        {"guaranteedDeliveryDate": "2026-05-14"},
        {"expectedDeliveryTimeStamp": "", "deliveryDateExpectation": {"expectedDeliveryDate": "2026-05-14"}},
    ],
)
def test_a_day_is_expected_by_the_names_of_every_version(told: dict[str, Any]) -> None:
    whole = sample("tracking.label")
    whole["body"] |= told
    assert [fact.object for fact in scans(read(whole)) if fact.eta_until] == [f"{PARCEL}:eta:20260514"]


# --- what else is answered
@pytest.mark.parametrize(
    ("answer", "body", "field"),
    [
        ("shipment", {"a": 1}, "$.labelMetadata"),
        ("label", {"trackingNumber": PARCEL, "status": "CANCELED"}, "$.labelMetadata"),
        ("label", {"labelMetadata": {}}, "$.labelMetadata.trackingNumber"),
        ("label", {"labelImage": "JVBERi0xLjQ="}, "$.trackingNumber"),
        ("cancel", {"trackingNumber": PARCEL}, "$.status"),
        ("void", {"a": 1}, "$.status"),
        ("address", {"a": 1}, "$.address"),
    ],
)
def test_a_body_that_is_no_such_answer_is_unreadable_and_says_where(answer: str, body: Any, field: str) -> None:
    with pytest.raises(Unreadable) as met:
        read({"answer": answer, "body": body})
    assert (met.value.reason, met.value.detail) == ("schema", field)


def test_a_label_is_one_wherever_its_metadata_stands() -> None:
    for body in (
        {"trackingNumber": PARCEL, "postage": 8.4},
        {"trackingNumber": PARCEL, "labelImage": ""},
        {"labelMetadata": {"trackingNumber": PARCEL}},
        {"returnLabelMetadata": {"trackingNumber": PARCEL}},
    ):
        with pytest.raises(Ignored, match="a label was bought"):
            read({"answer": "label", "body": body})


def test_nothing_is_pushed() -> None:
    assert VENDOR.scheme is None and not VENDOR.topics
    assert VENDOR.envelope({}, b"anything") == Envelope("", "")
    with pytest.raises(Ignored):
        VENDOR.read(ACCOUNT, "", b"{}", AT)


# --- complaints
def refusal(code: Any, *wrong: Any) -> bytes:
    return json.dumps({"apiVersion": "/tracking/v3", "error": {"code": code, "message": "of Ann Example", "errors": [*wrong]}}).encode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (refusal("401", {"title": "invalid_oauth_scope"}), "tracking product"),
        (refusal(401), "(code 401)"),
        (refusal("403"), "mailer ID"),
        (refusal("404"), "nothing is wrong"),
        (refusal("429"), "asked too often"),
        (refusal("503"), "tried again later"),
        (refusal("400", {"code": "00000XX", "title": "Bad Request", "source": "text"}), "check the tracking number"),
        (refusal(None, {"title": "invalid_oauth_scope"}), "(code invalid_oauth_scope)"),
        (refusal("4010", {"code": "00000XX", "title": "invalid_oauth_scope"}), "(code invalid_oauth_scope)"),
        (refusal("400", {"code": "-2147219283"}), "asked again later"),
        (refusal("400", {"detail": "The city of Ann is unknown"}), "correct it at the order"),
        (refusal("", {"status": 429}), "asked too often"),
        (b'{"error":{"code":"401","errors":{"title":"invalid_oauth_scope"}}}', "tracking product"),
        (b'{"errors":[{"code":"-2147219302","message":"of Ann"}]}', "asked again later"),
        (b'{"fault":{"faultstring":"Ann","detail":{"errorcode":"policies.ratelimit.SpikeArrestViolation"}}}', "asked too often"),
        (b'{"fault":{"faultstring":"Ann","detail":{"errorcode":"keymanagement.service.invalid_access_token"}}}', "access token"),
        (b'{"fault":{"faultstring":"Ann"}}', "USPS refuses the request"),
        (b'[{"error":{"code":"429"}}]', "asked too often"),
        (refusal("A B"), "USPS refuses the request"),
        (refusal(None), "USPS refuses the request"),
        (b'{"error":"invalid_client","error_description":"Client Ann is unknown"}', "check client ID and secret"),
        (b'{"error":"something else"}', "USPS refuses the request"),
    ],
)
def test_a_refusal_is_said_in_our_words_and_quotes_nothing(body: bytes, words: str) -> None:
    said = complaint(body)
    assert words in said
    assert "Ann" not in said and "A B" not in said and "something else" not in said


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"trackingNumber":"1"}',
        b'{"error":null}',
        b'{"error":""}',
        b'{"error":7}',
        b"\xff",
        b'[{"trackingNumber":"1"},{"error":"x"}]',
    ],
)
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


@pytest.mark.parametrize("name", ["tracking.moving", "tracking.times", "tracking.delivered", "tracking.summary"])
@given(data=st.data())
def test_any_field_may_be_missing_null_or_silly(name: str, data: st.DataObject) -> None:
    whole = sample(name)
    place = data.draw(st.sampled_from([place for place in places(whole["body"]) if place]))
    new = data.draw(
        st.sampled_from([DROP, None, "", "string", -1, 2**70, [], {}, "9" * 400, "\x00", "-99:99", "9999-12-31T23:59:59-23:59"])
    )
    try:
        found = read({**whole, "body": put(whole["body"], place, new)})
    except (Ignored, Unreadable):
        return
    assert all(violation(fact) is None for fact in scans(found))


def test_fields_that_we_do_not_know_change_nothing() -> None:
    whole = sample("tracking.moving")
    more = json.loads(json.dumps(whole["body"]), object_hook=lambda found: {"somethingNew": {"of": [1]}, **found})
    assert read({**whole, "body": more}) == read(whole)


# --- what USPS has published
def test_the_published_answer_is_the_life_of_a_parcel() -> None:
    found = scans(understood(VENDOR, ACCOUNT, published("usps", "samples", "tracking", "found.json"), AT, answer="tracking"))
    assert {fact.tracking for fact in found} == {"9400109104250532908587"}
    told = [(fact.object.partition(":")[2], fact.tag) for fact in found]
    assert told == [
        ("20241122T185840Z:01", Tracking.DELIVERED),
        ("20241122T141045Z:OF", Tracking.OUT_FOR_DELIVERY),
        ("20241122T135945Z:07", Tracking.IN_TRANSIT),
        ("20241120T061331Z:A1", Tracking.IN_TRANSIT),
        ("20241120T061152Z:TL", Tracking.IN_TRANSIT),
        ("20241119T230758Z:TL", Tracking.IN_TRANSIT),
        ("20241119T171123Z:TL", Tracking.IN_TRANSIT),
        ("20241119T111641Z:T1", Tracking.IN_TRANSIT),
        ("20241118T230252Z:10", Tracking.IN_TRANSIT),
        ("20241118T220135Z:SF", Tracking.IN_TRANSIT),
        ("20241118T161031Z:03", Tracking.IN_TRANSIT),
        ("20241115T163233Z:GX", Tracking.LABEL_CREATED),
    ]
    assert found[0].at == 1_732_301_920_000


def test_the_published_refusal_is_understood() -> None:
    found = understood(VENDOR, ACCOUNT, published("usps", "samples", "tracking", "error.json"), AT, answer="tracking")
    assert found == "USPS refuses the request: its reference explains the code (code string)"


def test_published_labels_hold_nothing_for_an_order() -> None:
    for name, answer, why in (
        ("usps-ShipmentRequest.json", "shipment", "schema"),  # this and the next: what is asked of USPS, not what it says
        ("usps-ShipmentCancelRequest.json", "cancel", "schema"),
        ("usps-ShipmentCancelResponse.json", "cancel", "a label was cancelled"),
    ):
        with pytest.raises(Unreadable if why == "schema" else Ignored, match=why):
            understood(VENDOR, ACCOUNT, published("usps", "samples", "shipment", name), AT, answer=answer)


@pytest.mark.skipif(not CONTRACTS.exists(), reason="../shared/contracts is not here")
def test_nothing_published_is_left_out_here() -> None:
    names = {path.relative_to(CONTRACTS / "usps" / "samples").as_posix() for path in (CONTRACTS / "usps" / "samples").rglob("*.json")}
    assert names == {
        "shipment/usps-ShipmentCancelRequest.json",
        "shipment/usps-ShipmentCancelResponse.json",
        "shipment/usps-ShipmentRequest.json",
        "tracking/error.json",
        "tracking/found.json",
    }
