"""Facts as a stranger would post them."""

from __future__ import annotations

import json
from typing import Any

from tests.web.fake_reader import NOW


def captured(**changed: Any) -> dict[str, Any]:
    return {
        "type": "PaymentCaptured", "order": "lumi:1001", "system": "stripe:lumi", "object": "pi_1",
        "at": NOW - 5000, "amount": 4990, "currency": "EUR", **changed,
    }  # fmt: skip


def placed(**changed: Any) -> dict[str, Any]:
    return {
        "type": "OrderPlaced", "order": "lumi:1001", "system": "shop", "object": "1001", "at": NOW - 9000, "number": "1001",
        "customer": "lumi:c1", "currency": "EUR", "total": 4990, "lines": [{"line": "1", "sku": "LAMP", "quantity": 1, "price": 4990}],
        "person": {"name": "Ana", "email": "ana@example.invalid", "address": {"lines": ["Rua 1"], "city": "Porto", "country": "PT"}},
        **changed,
    }  # fmt: skip


def body(fact: dict[str, Any]) -> bytes:
    return json.dumps(fact).encode()
