"""Which connector serves a channel, and which vendors there are: one line each. Contract suites, Sender and gateway find them here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from connectors import shopify, stripe, ups, usps, wms
from connectors.base import Connector, SettingsError
from connectors.fcm import Fcm
from connectors.smtp import Smtp
from connectors.systems import Systems
from connectors.twilio import Twilio
from connectors.vendor import Vendor
from connectors.webhook import Webhook

CHANNELS: dict[str, type[Smtp] | type[Twilio] | type[Fcm] | type[Webhook] | type[Systems]] = {
    "email": Smtp,
    "sms": Twilio,
    "push": Fcm,
    "webhook": Webhook,
    "systems": Systems,
}

ABILITIES: dict[str, Literal["keyed", "lookup", "neither"]] = {name: kind.ability.kind for name, kind in CHANNELS.items()}


VENDORS: dict[str, Vendor] = {vendor.name: vendor for vendor in (m.VENDOR for m in (shopify, stripe, wms, ups, usps))}


def connect(channel: str, settings: dict[str, Any]) -> Connector:
    """The connector of a channel, not yet started. Raises SettingsError naming channel and field."""
    make: Callable[[dict[str, Any]], Connector] | None = CHANNELS.get(channel)
    if make is None:
        raise SettingsError(f"unknown channel {channel!r}; known: {', '.join(CHANNELS)}")
    return make(settings)
