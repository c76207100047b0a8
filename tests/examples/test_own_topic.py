from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

import settings
from connectors.canonical import read
from orders.fact import decode_fact
from orders.merge import merge
from orders.state import Order
from orders.status import Status
from orders.view import view

FOLDER = Path(__file__).parents[2] / "examples" / "own-topic"
NOW = 1_795_464_000_000


@pytest.fixture
def produce() -> ModuleType:
    spec = importlib.util.spec_from_file_location("produce", FOLDER / "produce.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_the_example_writes_is_read_and_ends_delivered(produce: ModuleType) -> None:
    order = Order("lumi:10000")
    for fact in produce.life(10_000, NOW):
        (routed,) = read(json.dumps(fact).encode())
        assert (routed.topic, routed.key) == ("facts", order.id)
        order = merge(order, decode_fact(routed.value))
    result = view(order)
    assert result.status is Status.DELIVERED
    assert result.paid_in_full
    assert result.address_missing == ()
    assert result.contradictions == ()


def test_the_examples_stock_is_what_its_orders_ask_for(produce: ModuleType) -> None:
    level = produce.stock(NOW)
    (routed,) = read(json.dumps(level).encode())
    line = produce.life(10_000, NOW)[0]["lines"][0]
    assert (routed.topic, routed.key) == ("stock", f"{line['sku']}@{line['location']}")


def test_the_examples_configuration_is_one() -> None:
    loaded = settings.load(FOLDER / "orderflow.yaml")
    assert [(source.name, source.topic) for source in loaded.sources] == [("my-shop", "shop-orders")]
    assert loaded.channels.email.mode == "observe"


def test_the_fact_shown_in_the_readme_is_one() -> None:
    shown = (FOLDER / "README.md").read_text().split("```json")[1].split("```")[0]
    assert read(shown.encode().replace(b"\n", b" "))[0].key == "lumi:10000"
