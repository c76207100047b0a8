"""What `run.py init` asks, and the configuration that follows from the answers.

A vendor's own words (where to paste a URL, where its secret is found) stand in its declaration: `connectors.vendor.Guide`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from connectors.registry import VENDORS
from connectors.vendor import Vendor
from settings import Account, Settings

KINDS = {"shop": "Which shop do you sell with?", "payments": "Which payment gateway?", "warehouse": "Which warehouse system?"}
NONE = "none"
HOST = "https://YOUR-HOST"  # until somebody says what it is
SHOP = "lumi"


class Choice(NamedTuple):
    shop: str  # slug
    public: str  # where vendors reach us: https://..., no slash at the end
    vendors: tuple[Vendor, ...]
    there: tuple[Account, ...] = ()  # accounts that are configured already


def of_kind(kind: str) -> list[str]:
    return [vendor.name for vendor in VENDORS.values() if vendor.kind == kind]


def source(choice: Choice, vendor: Vendor) -> str:
    return f"{vendor.name}-{choice.shop}"


def variable(vendor: Vendor, name: str = "webhook_secret") -> str:
    """The environment variable that holds a secret of an account."""
    return f"{vendor.name}_{name}".upper()


def configuration(choice: Choice) -> str:
    """A commented `orderflow.yaml`. Secrets are named, never written; everything starts in `observe`."""
    return "\n".join([*_head(choice), *accounts(choice)]) + "\n"


def _head(choice: Choice) -> Iterator[str]:
    yield "# orderflow. Every setting has a default; docs/configuration.md lists them all. Secrets are never written here, only"
    yield "# where they are: {env: NAME} or {file: path}. Everything starts in `observe`: decided, recorded and shown, nothing leaves."
    yield f'shop: "{choice.shop}"'
    yield "data: data"
    yield "log: embedded          # or kafka://host:9092"
    yield "store: embedded        # or redis://host:6379"
    yield "brand:"
    yield "  name: Lumi Zone      # as your customers know you"
    yield '  hashtag: "#YourBrand"'
    yield f"  tracking_base: {choice.public}   # links in messages lead to {choice.public}/track/..."
    yield "channels:"
    yield "  email:"
    yield "    mode: observe      # `run.py go-live email` changes it"
    yield "    host: 127.0.0.1"
    yield "    port: 25"
    yield "    # username: orders"
    yield "    # password: {env: SMTP_PASSWORD}"


def accounts(choice: Choice) -> Iterator[str]:
    """The lines of `accounts:`, commented."""
    if not choice.vendors:
        yield "# accounts: none yet. `run.py connector list` names the vendors; POST /v1/facts takes facts of any system."
        return
    gateway = any(vendor.kind == "payments" for vendor in (*choice.vendors, *(VENDORS[its.vendor] for its in choice.there)))
    yield "accounts:"
    for vendor in choice.vendors:
        yield f"  - name: {source(choice, vendor)}"
        yield f"    vendor: {vendor.name}"
        if vendor.guide.signed_with:
            yield f"    secrets: [{{env: {variable(vendor)}}}]   # {vendor.guide.signed_with}"
        if vendor.kind == "shop" and gateway:
            yield "    reports_payments: false   # the payment gateway is connected itself: nothing counts twice"
        if vendor.guide.credentials:
            yield f"    # for what we ask of {vendor.guide.title}; leave it out while you only listen:"
            yield "    # credentials:"
            for name, where in vendor.guide.credentials.items():
                yield f"    #   {name}: {{env: {variable(vendor, name)}}}   # {where}"


def next_steps(choice: Choice) -> Iterator[str]:
    """Which URL goes where, which secrets are to be set, and what comes then."""
    for vendor in choice.vendors:
        guide = vendor.guide
        if vendor.scheme is None:
            yield f"\n{guide.title} pushes nothing: it is asked once its credentials are there."
            continue
        yield f"\n{guide.title}: webhooks to {choice.public}/v1/ingest/{source(choice, vendor)}"
        yield f"  set up at:  {guide.where}"
        yield f"  topics:     {', '.join(guide.subscribe or sorted(vendor.topics))}"
        yield f"  secret:     export {variable(vendor)}=...   ({guide.signed_with})"
    if choice.vendors and choice.public == HOST:
        yield f"\n{HOST} is where the vendors reach this gateway (port 8080): a reverse proxy or a tunnel with TLS in front of it."


def beside(settings: Settings, shop: str, public: str, names: Sequence[str]) -> Choice:
    """Further systems for a configuration that is there: what nobody says is as it says."""
    known = "" if settings.brand.tracking_base == Settings().brand.tracking_base else settings.brand.tracking_base
    its = tuple(account for account in settings.accounts if account.vendor in VENDORS)
    return Choice(shop or settings.shop, public.rstrip("/") or known or HOST, chosen(names), its)


def changes(choice: Choice) -> Iterator[str]:
    """What of the accounts that are there has to be changed beside the new ones."""
    if any(vendor.kind == "payments" for vendor in choice.vendors):
        for account in choice.there:
            if VENDORS[account.vendor].kind == "shop" and account.reports_payments:
                yield f"\nand of {account.name}, or its payments count twice:\n    reports_payments: false\n"


def chosen(names: Sequence[str]) -> tuple[Vendor, ...]:
    return tuple(VENDORS[name] for name in names)
