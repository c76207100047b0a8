"""A recorded delivery is read however a tool has kept it; what cannot be read is told with what to do next."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import run
from connectors import delivery
from connectors.delivery import Unreadable, recorded

SAMPLES = Path(__file__).parents[1] / "samples" / "vendors"
ORDER = json.loads((SAMPLES / "shopify" / "orders.create.json").read_text())
REFUSED = b'{"response":{"errors":[{"code":"250003","message":"Invalid Access License number"}]}}'

KEPT: dict[str, Callable[[dict[str, Any], dict[str, str]], Any]] = {
    "as it is": lambda body, headers: {"headers": headers, "body": body},
    "with what else a tool knows of it": lambda body, headers: {
        "method": "POST",
        "path": "/",
        "headers": headers,
        "body": body,
        "ip": None,
    },
    "names in capitals": lambda body, headers: {"headers": {name.title(): value for name, value in headers.items()}, "body": body},
    "numbers and nothing among the headers": lambda body, headers: {
        "headers": {**headers, "content-length": 12, "x-none": None},
        "body": body,
    },
    "nothing said of its topic": lambda body, headers: {"topic": None, "answer": None, "headers": headers, "body": body},
    "several values of a header": lambda body, headers: {"headers": {**{n: [v] for n, v in headers.items()}}, "body": body},
    "headers as pairs": lambda body, headers: {"headers": list(headers.items()), "body": body},
    "the body as it was signed": lambda body, headers: {"headers": headers, "body": json.dumps(body)},
    "the topic beside it": lambda body, headers: {"topic": headers["x-shopify-topic"], "body": body},
    "a page of the documentation": lambda body, headers: {"name": headers["x-shopify-topic"], "pii": ["customer"], "response": body},
}


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(tmp_path)

    def read(vendor: str, raw: bytes, *more: str) -> tuple[int, str, str]:
        (tmp_path / "recorded").write_bytes(raw)
        code = run.command(["connector", "read", vendor, "recorded", *more])
        return (code, *capfd.readouterr())

    return read


@pytest.mark.parametrize("how", KEPT)
@pytest.mark.parametrize(
    "packed",
    [bytes, gzip.compress, lambda raw: b"\xef\xbb\xbf" + raw, lambda raw: raw.decode().encode("utf-16")],
    ids=["plain", "gzip", "marked", "utf-16"],
)
def test_the_same_delivery_is_read_however_it_was_kept(how: str, packed: Callable[[bytes], bytes], read: Any) -> None:
    expected = read("shopify", json.dumps(ORDER).encode())
    assert expected[0] == 0 and expected[1].count("\n") >= 1
    assert read("shopify", packed(json.dumps(KEPT[how](ORDER["body"], ORDER["headers"])).encode())) == expected


def test_a_body_alone_needs_its_topic(read: Any) -> None:
    bare = json.dumps(ORDER["body"]).encode()
    code, out, err = read("shopify", bare)
    assert (code, out) == (2, "") and "x-shopify-topic" in err and "--topic" in err and "--answer (" in err
    assert read("shopify", bare, "--topic", "orders/create") == read("shopify", json.dumps(ORDER).encode())


def test_a_recording_whose_headers_are_none_names_them(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = read("shopify", json.dumps({"headers": "none", "body": {}}).encode())
    assert code == 2 and "$.headers" in err
    for damaged in (gzip.compress(b"{}")[:-9], b"\x1f\x8bnone"):
        code, _, err = read("shopify", damaged)
        assert code == 2 and "compressed" in err
    monkeypatch.setattr(delivery, "UNPACKED_MAX", 1000)
    code, _, err = read("shopify", gzip.compress(b" " * 2000))
    assert code == 2 and "too_large" in err


@pytest.mark.parametrize(("vendor", "kind"), [("shopify", "nonsense"), ("stripe", "nonsense"), ("usps", "tracing")])
def test_an_answer_that_the_vendor_does_not_give_is_said_with_those_it_gives(vendor: str, kind: str, read: Any) -> None:
    code, out, err = read(vendor, b"{}", "--answer", kind)
    assert (code, out) == (2, "") and kind in err
    assert {"shopify": "order", "stripe": "payment_intent", "usps": "tracking"}[vendor] in err


def test_of_who_pushes_nothing_it_is_an_answer(read: Any) -> None:
    code, _, err = read("usps", b'{"trackingNumber":"9400"}')
    assert code == 2 and "tracking" in err and "--answer" in err


@pytest.mark.parametrize("more", [(), ("--answer", "tracking")], ids=str)
def test_a_vendors_error_is_said_in_our_words_whatever_it_was_taken_for(more: tuple[str, ...], read: Any) -> None:
    code, out, _ = read("ups", REFUSED, *more)
    assert code == 0 and out.startswith("refused by ups: UPS refuses our credentials")


@given(
    st.binary(max_size=60)
    | st.dictionaries(st.sampled_from(["body", "headers", "topic", "x"]), st.integers() | st.text()).map(
        lambda found: json.dumps(found).encode()
    )
)
def test_whatever_a_file_holds_is_a_recording_a_body_or_unreadable(raw: bytes) -> None:
    with contextlib.suppress(Unreadable):
        recorded(raw)
