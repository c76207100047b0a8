"""The registry names every channel once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from connectors.base import Secret, SettingsError
from connectors.registry import ABILITIES, CHANNELS, VENDORS, connect
from connectors.vendor import Vendor


def test_every_channel_of_the_product_has_a_connector() -> None:
    assert set(CHANNELS) == set(ABILITIES) == {"email", "sms", "push", "webhook", "systems"}
    assert ABILITIES == {"email": "neither", "sms": "lookup", "push": "neither", "webhook": "keyed", "systems": "neither"}


def test_an_unknown_channel_is_named_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"'fax'.*email, sms"):
        connect("fax", {})


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret("hidden")
    assert "hidden" not in f"{secret!r} {secret} {secret!s:>9} {[secret]} { {'password': secret} }"
    assert secret.reveal() == "hidden"
    assert secret == Secret("hidden")
    assert secret != Secret("other")
    with pytest.raises(TypeError):
        hash(secret)


@pytest.mark.parametrize("vendor", VENDORS.values(), ids=list(VENDORS))
def test_the_page_on_connectors_names_all_that_a_vendor_does_and_is_asked(vendor: Vendor) -> None:
    page = (Path(__file__).parents[2] / "docs" / "connectors.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{vendor.name}` |")]
    assert {*vendor.actions, *vendor.questions} == {name for name in re.findall(r"`([^`]*)`", row)[1:] if name != "t=,v1="}
