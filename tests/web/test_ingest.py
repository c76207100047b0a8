"""A vendor's webhook at the gateway: believed by its signature, durable before it is answered, taken once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.base import Secret
from connectors.delivery import Delivery, Ignored, Record, Unreadable, decode_delivery, recorded
from connectors.signature import BodyHmac, StripeSignature
from connectors.vendor import Account, Envelope, Topic, Vendor, order_id, reader
from metrics import Metrics
from orders.fact import NoteAdded
from streams.clock import VirtualClock
from tests.connectors.vendors.test_contract import of, places, put, samples
from tests.web.fake_reader import NOW, FakeReader, ListLog
from web.app import WebServer, make_app
from web.gateway import Limits
from web.health import Health
from web.identity import only
from web.ingest import Ingest, Inlet

OLD, NEW = "the-old-secret", "the-new-secret"


class Said(msgspec.Struct):
    order: int
    text: str


def note(account: Account, body: Said, at: int) -> Iterable[Record]:
    yield NoteAdded(order=order_id(account, body.order), system=account.source, object="1", at=at, text=body.text, by="toy")


def envelope(headers: Mapping[str, str], body: bytes) -> Envelope:
    topic = headers.get("x-toy-topic", "")
    if not topic:
        raise Unreadable("schema", "x-toy-topic")
    return Envelope(topic, headers.get("x-toy-id", ""))


TOY = Vendor(
    name="toy",
    kind="shop",
    scheme=BodyHmac("x-toy-signature"),
    envelope=envelope,
    topics={"note": Topic(Said, note)},
    ignored={"weather": "no order depends on it"},
)
ACCOUNT = Account(source="toy-lumi", shop="lumi")
TIMED = msgspec.structs.replace(TOY, scheme=StripeSignature())
INLETS = [
    Inlet(source="toy-lumi", vendor=TOY, secrets=[Secret(OLD), Secret(NEW)]),
    Inlet(source="toy-other", vendor=TOY, secrets=[Secret("of-the-other-shop")]),
    Inlet(source="toy-slow", vendor=TOY, secrets=[Secret(NEW)], rate=1.0),
    Inlet(source="toy-timed", vendor=TIMED, secrets=[Secret(NEW)]),
]
BODY = json.dumps({"order": 9007199254740993, "text": "gift"}).encode()


def signed(body: bytes = BODY, secret: str = NEW, topic: str = "note", id: str = "d-1") -> dict[str, str]:
    signature = b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()
    return {"x-toy-signature": signature, "x-toy-topic": topic, "x-toy-id": id, "authorization": "Bearer of-somebody"}


@dataclass
class Site:
    client: httpx.AsyncClient
    log: ListLog
    metrics: Metrics
    clock: VirtualClock

    async def post(self, body: bytes = BODY, source: str = "toy-lumi", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()} or signed(body)
        return await self.client.post(f"/v1/ingest/{source}", content=body, headers=named)

    def deliveries(self) -> list[Delivery]:
        return [decode_delivery(value) for _, _, value in self.log.records]

    def counted(self) -> dict[str, float]:
        found = {}
        for family in self.metrics.registry.collect():
            for sample in family.samples:
                if sample.name.endswith("ingest_events_total") and sample.value:
                    found[sample.labels["outcome"]] = found.get(sample.labels["outcome"], 0.0) + sample.value
        return found


@pytest.fixture
def limits() -> Limits:
    """Small in what they hold, patient in time: a test on a busy machine is no slow sender."""
    return Limits(delivery_bytes=4096, logged_bytes=2048, drain_bytes=16384, read_s=60.0, append_s=60.0)


@pytest.fixture
async def site(tmp_path: Path, limits: Limits) -> AsyncIterator[Site]:
    log, metrics, clock = ListLog(), Metrics(), VirtualClock(NOW)
    health = Health(metrics)
    reader: Any = FakeReader()
    sink: Any = log
    app = make_app(
        sink=sink,
        reader=reader,
        clock=clock,
        metrics=metrics,
        health=health,
        people=only("machines-only"),
        inlets=INLETS,
        bodies=tmp_path,
        limits=limits,
    )
    server = WebServer(app, "127.0.0.1", 0, guarded=True)
    await server.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=10) as client:
        yield Site(client, log, metrics, clock)
    await server.close()


async def test_a_signed_delivery_is_in_the_log_with_its_raw_bytes_when_it_is_answered(site: Site) -> None:
    answer = await site.post()
    assert (answer.status_code, answer.json()["outcome"]) == (202, "accepted")
    (delivery,) = site.deliveries()
    assert (delivery.source, delivery.delivery, delivery.topic, delivery.body) == ("toy-lumi", "d-1", "note", BODY)
    assert "authorization" not in delivery.headers and delivery.headers["x-toy-id"] == "d-1"
    (routed,) = reader(TOY, ACCOUNT, Path())(delivery)
    assert (routed.topic, routed.key) == ("facts", "lumi:9007199254740993"), "64-bit IDs are exact"


async def test_no_token_is_asked_of_a_vendor_nor_is_it_to_know_our_loopback_name(site: Site) -> None:
    answer = await site.client.post("/v1/ingest/toy-lumi", content=BODY, headers={**signed(), "host": "hooks.shop.example"})
    assert answer.status_code == 202
    assert (await site.client.post("/v1/facts", content=b"{}")).status_code == 401


@pytest.mark.parametrize("source", ["toy-nobody", "", "toy-lumi/more", "../facts"])
async def test_an_unknown_source_is_404(site: Site, source: str) -> None:
    assert (await site.post(source=source)).status_code in (404, 401)
    assert site.log.records == []


async def test_every_changed_bit_of_body_or_signature_is_refused_and_nothing_is_kept(site: Site) -> None:
    headers = signed()
    for place in range(0, len(BODY), 5):
        changed = bytearray(BODY)
        changed[place] ^= 1
        assert (await site.post(bytes(changed), **headers)).status_code == 401
    for wrong in ({}, {"x-toy-signature": ""}, {"x-toy-signature": signed(secret="of-the-other-shop")["x-toy-signature"]}):
        answer = await site.post(**{**signed(), **wrong} if wrong else {"x-toy-topic": "note"})
        assert answer.json()["code"] == "bad_signature" and "secret" in answer.json()["message"]
    assert site.log.records == []
    assert set(site.counted()) == {"bad_signature"}


async def test_both_secrets_are_good_while_one_is_exchanged_and_another_accounts_secret_is_not(site: Site) -> None:
    assert [(await site.post(**signed(secret=secret, id=secret))).status_code for secret in (OLD, NEW)] == [202, 202]
    assert (await site.post(source="toy-other", **signed())).status_code == 401


async def test_an_old_signature_is_refused_where_the_scheme_has_a_time(site: Site) -> None:
    def timed(at: int) -> dict[str, str]:
        digest = hmac.new(NEW.encode(), f"{at}.".encode() + BODY, hashlib.sha256).hexdigest()
        return {"stripe-signature": f"t={at},v1={digest}", "x-toy-topic": "note", "x-toy-id": str(at)}

    now = site.clock.now() // 1000
    answers = [(await site.post(source="toy-timed", **timed(now + late))).status_code for late in (0, -299, -301, 301)]
    assert answers == [202, 202, 401, 401]


async def test_a_delivery_told_a_hundred_times_at_once_is_appended_once_and_each_is_told_so_after_it_is_durable(site: Site) -> None:
    site.log.gate = asyncio.Event()
    copies = [asyncio.create_task(site.post()) for _ in range(100)]
    await asyncio.sleep(0.2)
    assert not any(copy.done() for copy in copies), "nobody is promised anything before the log has it"
    site.log.gate.set()
    answers = [await copy for copy in copies]
    assert {answer.status_code for answer in answers} == {202}
    assert len(site.log.records) == 1
    assert sorted(answer.json()["outcome"] for answer in answers) == ["accepted"] + ["duplicate"] * 99


async def test_when_the_log_is_down_nothing_is_promised_and_the_same_delivery_is_taken_later(site: Site) -> None:
    site.log.down = True
    answer = await site.post()
    assert (answer.status_code, answer.json()["code"]) == (503, "log_down") and int(answer.headers["retry-after"]) > 0
    site.log.down = False
    assert (await site.post()).json()["outcome"] == "accepted"
    assert len(site.log.records) == 1


async def test_the_same_delivery_id_with_another_body_is_not_lost(site: Site) -> None:
    other = BODY.replace(b"gift", b"gone")
    assert [(await site.post(body, **signed(body))).json()["outcome"] for body in (BODY, other)] == ["accepted", "accepted"]


async def test_what_is_signed_and_cannot_be_read_is_taken_in_for_a_person_to_see(site: Site) -> None:
    for body in (b"{", b'{"order": "x"}', b"[" * 500):
        answer = await site.post(body, **signed(body, id=str(len(body))))
        assert answer.status_code == 202, "a run of refusals would cost the subscription"
    headers = {name: value for name, value in signed().items() if name != "x-toy-topic"}
    assert (await site.post(**headers)).status_code == 202
    for delivery, reason in zip(site.deliveries(), ("malformed", "schema", "malformed", "schema"), strict=True):
        with pytest.raises(Unreadable) as found:
            reader(TOY, ACCOUNT, Path())(delivery)
        assert found.value.reason == reason


@pytest.mark.parametrize("topic", ["weather", "unheard-of"])
async def test_a_topic_that_holds_nothing_for_us_is_answered_counted_and_not_kept(site: Site, topic: str) -> None:
    answer = await site.post(**signed(topic=topic))
    assert (answer.status_code, answer.json()["outcome"]) == (202, "ignored")
    assert site.log.records == [] and site.counted() == {"ignored": 1.0}
    with pytest.raises(Ignored, match=r"no order depends|no topic 'unheard-of'"):
        TOY.read(ACCOUNT, topic, BODY, 1)


async def test_a_source_that_brings_too_much_is_told_when_to_come_again(site: Site) -> None:
    answers = [await site.post(source="toy-slow", **signed(id=str(n))) for n in range(6)]
    assert [a.status_code for a in answers].count(429) >= 3
    assert all("retry-after" in a.headers for a in answers if a.status_code == 429)
    assert (await site.post(id="another-source")).status_code in (202, 401), "others are not held up"


async def test_a_body_too_large_is_refused(site: Site) -> None:
    big = b'"' + b"x" * 5000 + b'"'
    assert (await site.post(big, **signed(big))).status_code == 413
    assert site.counted() == {"too_large": 1.0} and site.log.records == []


class TestASlowSender:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(read_s=0.5)

    async def test_a_body_that_drips_is_refused(self, site: Site) -> None:
        async def dripping() -> AsyncIterator[bytes]:
            for byte in BODY:
                yield bytes([byte])
                await asyncio.sleep(0.05)

        with contextlib.suppress(httpx.TransportError):  # it is cut off while it still sends
            await site.client.post("/v1/ingest/toy-lumi", content=dripping(), headers=signed())
        assert site.counted() == {"too_slow": 1.0} and site.log.records == []


async def test_a_body_too_large_for_the_log_lies_beside_it_and_is_read_from_there(site: Site, tmp_path: Path) -> None:
    body = json.dumps({"order": 1, "text": "x" * 3000}).encode()
    assert (await site.post(body, **signed(body))).status_code == 202
    (delivery,) = site.deliveries()
    assert delivery.body == b"" and (tmp_path / delivery.beside).read_bytes() == body
    (routed,) = reader(TOY, ACCOUNT, tmp_path)(delivery)
    assert routed.key == "lumi:1"
    (tmp_path / delivery.beside).write_bytes(b"changed")
    for folder in (tmp_path, tmp_path / "elsewhere"):
        with pytest.raises(Unreadable, match="missing_body"):
            reader(TOY, ACCOUNT, folder)(delivery)


async def test_only_post_is_understood(site: Site) -> None:
    assert (await site.client.get("/v1/ingest/toy-lumi")).status_code == 405


JSON = st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=8).map(lambda value: json.dumps(value).encode())
HEADER = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    body=st.binary(max_size=300) | JSON,
    topic=HEADER,
    id=HEADER,
    sign=st.booleans(),
)
def test_whatever_comes_is_answered_in_words(body: bytes, topic: str, id: str, sign: bool) -> None:
    headers = signed(body, topic=topic, id=id)
    if not sign:
        headers.pop("x-toy-signature")
    status, taken = called(INLETS, "toy-lumi", headers, body)
    assert status == (202 if sign else 401)
    if sign and taken:
        with contextlib.suppress(Unreadable, Ignored):
            reader(TOY, ACCOUNT, Path())(taken[0])


PUSHED = [sample for sample in samples() if of(sample).scheme is not None and not recorded(sample.read_bytes())[3]]
VENDORS_SIGNED_AS_TOY = [
    Inlet(source=vendor.name, vendor=msgspec.structs.replace(vendor, scheme=TOY.scheme), secrets=[Secret(NEW)])
    for vendor in {of(sample).name: of(sample) for sample in PUSHED}.values()
]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_vendors_body_that_is_signed_and_damaged_is_taken_in_for_intake_to_park(data: st.DataObject) -> None:
    sample = data.draw(st.sampled_from(PUSHED))
    whole = json.loads(sample.read_text())
    place = data.draw(st.sampled_from(list(places(whole["body"]))))
    value = data.draw(st.sampled_from([None, "", "\ud800", "\0", "9" * 4000, -1, 2**70, 1.5, True, [], {}, [None]]) | st.text(max_size=9))
    body = json.dumps(put(whole["body"], place, value)).encode()
    headers = {**recorded(sample.read_bytes())[1], **signed(body)}
    assert called(VENDORS_SIGNED_AS_TOY, of(sample).name, headers, body)[0] == 202


def called(inlets: Sequence[Inlet], source: str, headers: Mapping[str, str], body: bytes) -> tuple[int, list[Delivery]]:
    """Without a socket: the status, and what is in the log."""

    async def once() -> tuple[int, list[Delivery]]:
        log, answers = ListLog(), []
        sink: Any = log
        ingest = Ingest(inlets, sink, Path("nowhere"), VirtualClock(NOW), Metrics(), Limits())
        scope: Any = {
            "type": "http",
            "method": "POST",
            "path": f"/v1/ingest/{source}",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            answers.append(message)

        await ingest(scope, receive, send)
        return answers[0]["status"], [decode_delivery(value) for _, _, value in log.records]

    return asyncio.run(once())
