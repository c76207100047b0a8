"""What a model may look at, declared once: the same `features` for training, evaluation and serving.

A row holds plain numbers in natural units; networks and rules scale them themselves (`Feature.scale`), so that computing a
row costs the hot path about two microseconds and a change of scaling needs no other layout. Left out on purpose: whatever a
head is asked to foresee (disputes, refunds, shortages, deliveries), and personal data.

`SCHEMA_HASH` names this layout. An artefact trained on another one is refused (`model.artefact`).
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from orders.money import EXPONENTS

if TYPE_CHECKING:
    import pyarrow as pa

    from orders.view import View

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Feature(msgspec.Struct, frozen=True):
    """One column. Values outside the bounds are clipped by whoever scores; `rises` only where it is documented."""

    name: str
    meaning: str
    unit: str
    low: float
    high: float
    scale: str = "linear"  # "linear" | "log": how a model reads it, log(1 + value)
    rises: bool = False  # the fraud score never falls when this alone grows (docs/model-card.md)


FEATURES: tuple[Feature, ...] = (
    Feature("total_minor", "order total; scales the expected loss, no model input", "minor units", 0, 1e12, "log"),
    Feature("value", "order total", "major units", 0, 1e7, "log"),
    Feature("lines", "order lines", "lines", 0, 200, "log"),
    Feature("pieces", "pieces over all lines", "pieces", 0, 10_000, "log"),
    Feature("express", "express service", "0 or 1", 0, 1),
    Feature("vip", "customer tier is VIP", "0 or 1", 0, 1),
    Feature("prepaid", "needs no payment fact", "0 or 1", 0, 1),
    Feature("hour", "hour of placement", "hour, UTC", 0, 23),
    Feature("weekday", "day of placement, 0 is Thursday", "day, UTC", 0, 6),
    Feature("promise_days", "time promised for delivery; 0: none", "days", 0, 120, "log"),
    Feature("avs_mismatch", "billing address not confirmed (AVS)", "0 to 1", 0, 1, rises=True),
    Feature("cvc_mismatch", "card code not confirmed (CVC)", "0 to 1", 0, 1, rises=True),
    Feature("ship_bill_mismatch", "shipping differs from billing address", "0 to 1", 0, 1, rises=True),
    Feature("velocity", "orders or cards tried by this customer, card or device in a day", "count", 0, 50, "log", rises=True),
    Feature("ip_far", "address of the connection is far from the shipping address", "0 to 1", 0, 1, rises=True),
    Feature("disposable_email", "e-mail domain known for throw-away addresses", "0 to 1", 0, 1, rises=True),
    Feature("new_device", "device not seen with this customer before", "0 to 1", 0, 1, rises=True),
    Feature("payment_failures", "payments that failed", "count", 0, 20, "log", rises=True),
    Feature("paid_share", "captured part of the total", "share", 0, 2),
    Feature("parcels", "parcels known", "count", 0, 50, "log"),
    Feature("handed_over", "a carrier has it", "0 or 1", 0, 1),
    Feature("handover_share", "part of the promised time used up at hand-over; 0: no hand-over or no promise", "share", 0, 5),
    Feature("eta_share", "carrier's estimate as part of the promised time; 0: none", "share", 0, 5),
    Feature("trouble", "scans that report an exception or a failed attempt", "count", 0, 20, "log"),
)  # fmt: skip

# column -> the code when it decides, and that in words. What is not here is never a reason: it would tell a person nothing.
_REASONS = {
    "value": ("order_value", "the value of the order"),
    "lines": ("many_lines", "the number of different items"),
    "pieces": ("many_pieces", "the number of pieces"),
    "express": ("express", "express service"),
    "promise_days": ("promised_time", "the time promised for delivery"),
    "avs_mismatch": ("avs_mismatch", "the billing address was not confirmed (AVS)"),
    "cvc_mismatch": ("cvc_mismatch", "the card's security code was not confirmed (CVC)"),
    "ship_bill_mismatch": ("ship_bill_mismatch", "the shipping address differs from the billing address"),
    "velocity": ("velocity", "many orders or attempts in a short time"),
    "ip_far": ("ip_far", "ordered from far away"),
    "disposable_email": ("disposable_email", "a throw-away e-mail address"),
    "new_device": ("new_device", "a device not seen with this customer before"),
    "payment_failures": ("payment_failures", "failed payments"),
    "paid_share": ("payment_state", "the state of the payment"),
    "handover_share": ("late_handover", "how late the carrier got it"),
    "eta_share": ("carrier_eta", "the carrier's estimate"),
    "trouble": ("delivery_trouble", "trouble on the way"),
}

WIDTH = len(FEATURES)
NAMES = tuple(feature.name for feature in FEATURES)
REASON_OF = tuple(_REASONS.get(name, ("", ""))[0] for name in NAMES)  # by column
REASONS = tuple(code for code, _ in _REASONS.values())
WORDS = dict(_REASONS.values())
SIGNALS = ("avs_mismatch", "cvc_mismatch", "ship_bill_mismatch", "velocity", "ip_far", "disposable_email", "new_device")
NO_SIGNALS = (0.0,) * len(SIGNALS)
SCHEMA_HASH = sha256(
    repr([(feature.name, feature.unit, feature.low, feature.high, feature.scale, feature.rises) for feature in FEATURES]).encode()
).hexdigest()[:16]

_MAJOR = {currency: 10.0**-exponent for currency, exponent in EXPONENTS.items()}


def features(view: View) -> tuple[float, ...]:
    """The row of a placed order (`view.placed` is not None), as it is known now. Called once per scored order: about 2 µs."""
    placed = view.placed
    assert placed is not None
    total = view.total
    at = placed.at
    promise = placed.promised - at if placed.promised > at else 0
    pieces = parcels = trouble = eta = 0
    for line in view.lines:
        pieces += line.quantity
    for parcel in view.parcels.values():
        parcels += 1
        trouble += parcel.trouble
        if parcel.eta_until > eta:
            eta = parcel.eta_until
    shipped = view.shipped_at
    signals = view.signals
    return (
        total,
        total * _MAJOR.get(view.currency, 0.01),
        len(view.lines),
        pieces,
        placed.service == "express",
        placed.tier == "vip",
        placed.prepaid,
        at % DAY_MS // HOUR_MS,
        at // DAY_MS % 7,
        promise / DAY_MS,
        *([signals.get(name, 0.0) for name in SIGNALS] if signals else NO_SIGNALS),
        view.failures,
        view.paid / total if total > 0 else 0.0,
        parcels,
        shipped > 0,
        (shipped - at) / promise if promise and shipped else 0.0,
        (eta - at) / promise if promise and eta else 0.0,
        trouble,
    )


_LOW = np.array([feature.low for feature in FEATURES], np.float32)
_HIGH = np.array([feature.high for feature in FEATURES], np.float32)
_LOG = np.array([feature.scale == "log" for feature in FEATURES])


def natural(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows within their bounds; what is not a number counts as the lower one."""
    return np.clip(np.where(np.isnan(rows), _LOW, rows), _LOW, _HIGH)


def scaled(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows as models read them: within bounds, log(1 + value) where declared."""
    rows = natural(rows)
    rows[:, _LOG] = np.log1p(rows[:, _LOG])
    return rows


def arrow_schema() -> pa.Schema:
    """The layout for files of rows, with meanings and units beside the columns."""
    import pyarrow as pa

    fields = [pa.field(f.name, pa.float32(), nullable=False, metadata={"meaning": f.meaning, "unit": f.unit}) for f in FEATURES]
    return pa.schema(fields, metadata={"schema_hash": SCHEMA_HASH})
