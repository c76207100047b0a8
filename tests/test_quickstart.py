"""The quickstart for Shopify says what is true: its configuration is one, its topics are read, its proxy passes what is open."""

from __future__ import annotations

import re
from pathlib import Path

import settings
import wire
from connectors.shopify import VENDOR
from web.door import LINKED, PAYING, SIGNED

PAGE = (Path(__file__).parents[1] / "docs" / "quickstart-shopify.md").read_text()


def test_its_configuration_is_one(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "orderflow.yaml"
    file.write_text(block)
    read = settings.load(file)
    (inlet,) = wire.inlets(read, {"SHOPIFY_WEBHOOK_SECRET": "s"})
    assert (inlet.vendor, inlet.source) == (VENDOR, "shopify-lumi")
    file.write_text(block.replace("    # reports_payments", "    reports_payments"))
    ((_, account),) = wire.accounts(settings.load(file))
    assert not account.reports_payments


def test_every_topic_it_names_is_read() -> None:
    named = set(re.findall(r"`([a-z_]+/[a-z_]+)`", PAGE.partition("## 6.")[2].partition("## 7.")[0]))
    assert len(named) > 10 and named <= VENDOR.topics.keys()


def test_its_proxy_passes_what_customers_and_vendors_need_and_nothing_else() -> None:
    (paths,) = re.findall(r"@open path (.*)", PAGE)
    assert {path.rstrip("*") for path in paths.split()} == {SIGNED, PAYING, *LINKED}
