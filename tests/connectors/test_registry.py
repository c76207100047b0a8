"""The registry names every channel once."""

from __future__ import annotations

import pytest

from connectors.base import Secret, SettingsError
from connectors.registry import ABILITIES, CHANNELS, connect


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
