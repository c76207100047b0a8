"""What holds for every vendor: its samples give their golden records, and no body makes it fail in another way than in words.

A sample lies in `tests/samples/vendors/<vendor>/<name>.json`, what it gives beside it in `<name>.golden.json`: records,
`{"ignored": why}` or `{"unreadable": [reason, field]}`. Samples are written by hand from the vendors' specifications; what vendors
have published is read where it lies, by each vendor's own tests.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.canonical import read as read_canonical
from connectors.delivery import Ignored, Unreadable, recorded, routed
from connectors.registry import VENDORS
from connectors.vendor import ANSWER, Account, Vendor, understood
from metrics import PARKED
from orders.bounds import violation
from orders.fact import Fact, decode_fact
from orders.request import FactWaiting

SAMPLES = Path(__file__).parents[2] / "samples" / "vendors"
AT = 1_795_464_000_000


def account(vendor: Vendor) -> Account:
    return Account(source=f"{vendor.name}-lumi", shop="lumi")


def given_by(vendor: Vendor, raw: bytes, topic: str = "", answer: str = "") -> Any:
    """As a golden file has it."""
    try:
        return json.loads(msgspec.json.encode(understood(vendor, account(vendor), raw, AT, topic, answer)))
    except Ignored as error:
        return {"ignored": str(error)}
    except Unreadable as error:
        return {"unreadable": [error.reason, error.detail]}


def golden(sample: Path) -> Path:
    return sample.with_suffix(".golden.json")


def samples() -> list[Path]:
    return [path for path in sorted(SAMPLES.glob("*/*.json")) if not path.name.endswith(".golden.json")]


def of(sample: Path) -> Vendor:
    return VENDORS[sample.parent.name]


each_sample = pytest.mark.parametrize("sample", samples(), ids=lambda path: f"{path.parent.name}/{path.stem}")
each_vendor = pytest.mark.parametrize("vendor", VENDORS.values(), ids=list(VENDORS))


@each_sample
def test_a_sample_gives_its_golden_records(sample: Path) -> None:
    assert given_by(of(sample), sample.read_bytes()) == json.loads(golden(sample).read_text())


@each_vendor
def test_every_topic_and_every_answer_has_a_sample(vendor: Vendor) -> None:
    told = set()
    for sample in samples():
        if of(sample) is vendor:
            body, headers, topic, answer = recorded(sample.read_bytes())
            with contextlib.suppress(Unreadable):  # a sample of what is no event
                told.add(ANSWER + answer if answer else topic or vendor.envelope(headers, body).topic)
    missing = ({*vendor.topics} | {ANSWER + kind for kind in vendor.answers}) - told
    assert not missing, f"{vendor.name}: no hand-written sample of {sorted(missing)}"


@each_vendor
def test_a_declaration_is_whole(vendor: Vendor) -> None:
    assert (vendor.scheme is None) == (not vendor.topics), "what pushes is signed"
    assert not vendor.topics.keys() & vendor.ignored.keys()
    assert all(why and why == why.strip() for why in vendor.ignored.values())
    assert vendor.topics or vendor.answers


@each_sample
def test_its_records_are_ones_that_our_lanes_take(sample: Path) -> None:
    try:
        found = understood(of(sample), account(of(sample)), sample.read_bytes(), AT)
    except (Ignored, Unreadable):
        return
    for record in found if isinstance(found, list) else []:
        topic, key, value = routed(record)
        assert key and not key.endswith(":")
        assert [(row.topic, row.key) for row in read_canonical(value)] == [(topic, key)]
        fact = decode_fact(record.fact) if isinstance(record, FactWaiting) else record
        if isinstance(fact, Fact):
            assert violation(fact) is None
            assert fact.system == account(of(sample)).source and fact.object and fact.v == 1
            assert bool(fact.order) != isinstance(record, FactWaiting)


@each_sample
def test_the_same_delivery_gives_the_same_records(sample: Path) -> None:
    assert given_by(of(sample), sample.read_bytes()) == given_by(of(sample), sample.read_bytes())


def reasons(vendor: Vendor, raw: bytes) -> str:
    found = given_by(vendor, raw)
    return str(found["unreadable"][0]) if isinstance(found, dict) and "unreadable" in found else ""


@each_sample
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_body_that_is_damaged_anywhere_is_read_or_refused_in_words(sample: Path, data: st.DataObject) -> None:
    whole = json.loads(sample.read_text())
    place = data.draw(st.sampled_from(list(places(whole["body"]))))
    value = data.draw(st.sampled_from([None, "", "x", -1, 0, 2**70, 1.5, True, [], {}, [None], "9" * 400, "\x00", "2026-13-45T99:99:99Z"]))
    damaged = json.dumps({**whole, "body": put(whole["body"], place, value)}).encode()
    reason = reasons(of(sample), damaged)
    assert reason == "" or PARKED(reason) == reason, "an unknown reason has no label in the metrics"


@each_sample
@settings(max_examples=5, deadline=None)
@given(raw=st.binary(max_size=200))
def test_bytes_that_are_no_body_are_refused_in_words(sample: Path, raw: bytes) -> None:
    _, headers, topic, answer = recorded(sample.read_bytes())
    vendor = of(sample)
    try:
        vendor.read(account(vendor), ANSWER + answer if answer else topic or vendor.envelope(headers, raw).topic, raw, AT)
    except (Unreadable, Ignored):
        return
    pytest.fail("that was no body")


def places(value: Any, at: tuple[Any, ...] = ()) -> Any:
    """Paths of all values inside."""
    yield at
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in children:
        yield from places(inner, (*at, name))


def put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    first, *rest = place
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[first] = put(changed[first], tuple(rest), new)
    return changed
