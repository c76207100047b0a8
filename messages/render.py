"""From a request to the bytes a channel sends. Pure: the same request, brand and time give the same bytes.

The bytes are canonical JSON (sorted keys). E-mail: `to from reply_to subject text html headers`; SMS: `to text way_back`;
push: `token title body data`. `way_back` (in e-mail the left half of Message-ID) is signed by `way_back.WayBack`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import format_datetime
from hashlib import blake2b
from zoneinfo import ZoneInfo

import msgspec
from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_skeleton
from babel.numbers import format_currency
from jinja2 import StrictUndefined, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup, escape
from mjml import mjml2html

from messages.layout import LAYOUT
from messages.sms import Segments, segments
from messages.template import CARRIERS, EMAIL, LINKS, SMS, WORDING, Wording
from messages.way_back import WayBack
from orders import money
from orders.fact import Person

MAX_FIELD = 2_000  # characters; a longer one is no name, number or link
_LINK = re.compile(r"https?://[^\s<>\"'\\{}]+\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]")
_canonical = msgspec.json.Encoder(order="sorted").encode


class Brand(msgspec.Struct, frozen=True, kw_only=True):
    """How the shop calls itself, and where its messages come from."""

    name: str = "Lumi Zone"
    hashtag: str = "#YourBrand"
    sender: str = "Lumi Zone <orders@lumizone.example>"
    reply_to: str = "Lumi Zone <care@lumizone.example>"
    domain: str = "lumizone.example"  # right half of Message-IDs
    locale: str = "en_GB"  # for who has none we have words for
    zone: str = "UTC"  # for who has none, or one that does not exist


class Unrenderable(Exception):
    """`reason` is of a closed list, `field` names the culprit; neither holds a value of it.

    Reasons: unknown_template, template_missing_field, bad_field, header_injection, no_contact, outdated.
    """

    def __init__(self, reason: str, field: str = "") -> None:
        super().__init__(f"{reason}: {field}" if field else reason)
        self.reason, self.field = reason, field


class Rendered(msgspec.Struct, frozen=True):
    body: bytes
    segments: Segments | None = None  # SMS only


def missing(template: str, channel: str, fields: Mapping[str, str], *, variant: bool = False) -> tuple[str, ...]:
    """Which fields keep this template from being sent; with `variant` those that it can do without do not count.

    Raises Unrenderable for a template that has no words for the channel.
    """
    wording = _wording(template, channel)
    spared = wording.may_lack if variant else ()
    return tuple(name for name in wording.needs if name not in spared and not fields.get(name, "").strip())


def can_wait_for(template: str, channel: str) -> frozenset[str]:
    """The fields worth waiting for, and dispensable in the end."""
    return frozenset(_wording(template, channel).may_lack)


def body_hash(body: bytes) -> str:
    return blake2b(body, digest_size=16).hexdigest()


def zone_of(name: str, default: str = "UTC") -> ZoneInfo:
    """The zone of that name, else the default one, else UTC: an unknown zone is no reason not to write."""
    for candidate in (name, default):
        if candidate:
            try:
                return ZoneInfo(candidate)
            except (KeyError, ValueError, OSError):
                continue
    return ZoneInfo("UTC")


class Renderer:
    """Compiles all wordings and the layout once (some 100 ms); `render` is pure and takes 0.1 to 0.3 ms."""

    def __init__(self, brand: Brand, way_back: WayBack) -> None:
        for name in ("name", "sender", "reply_to", "domain"):
            _one_line(getattr(brand, name), name)
        self.brand = brand
        self._way_back = way_back
        plain = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, auto_reload=False, cache_size=0)
        html = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=True, auto_reload=False, cache_size=0)
        self._layout = html.from_string(mjml2html(LAYOUT))
        self._plain = {text: plain.from_string(text) for text in _texts()}
        self._html = {text: html.from_string(text) for text in _texts()}

    def render(
        self,
        template: str,
        channel: str,
        fields: Mapping[str, str],
        person: Person,
        *,
        customer: str,
        effect: str,
        order: str,
        milestone_at: int,
        as_of: int,
        variant: bool = False,
    ) -> Rendered:
        """The words as they are true at `as_of` (ms). Raises Unrenderable; half a message is never returned."""
        wording = _wording(template, channel)
        lacking = missing(template, channel, fields, variant=variant)
        if lacking:
            raise Unrenderable("template_missing_field", lacking[0])
        text = wording.variant if variant and missing(template, channel, fields) else wording.body
        known = {name: value for name in (*wording.needs, *wording.knows) if (value := fields.get(name, "").strip())}
        for name, value in known.items():
            if len(value) > MAX_FIELD or (name in LINKS and not _LINK.match(value)):
                raise Unrenderable("bad_field", name)
        if "carrier" in known:
            known["carrier"] = CARRIERS.get(known["carrier"].casefold(), known["carrier"])
        words = dict.fromkeys(wording.knows, "") | known | self._derived(wording, known, person, milestone_at, as_of)
        token = self._way_back.token(customer, effect)
        try:
            if channel == EMAIL:
                return Rendered(self._email(wording, text, words, person, token, as_of))
            if channel == SMS:
                said, size = self._brief(wording, text, words)
                body = _canonical({"to": _address(person.phone, "phone"), "text": said, "way_back": token})
                return Rendered(body, size)
            data = {"effect": effect, "order": order, "template": template, "way_back": token}
            push = {
                "token": _address(person.push_token, "push_token"),
                "title": _one_line(self._plain[wording.subject].render(words), "title"),
                "body": self._plain[text].render(words),
                "data": data,
            }
            return Rendered(_canonical(push))
        except UndefinedError:
            raise Unrenderable("template_missing_field") from None

    def _brief(self, wording: Wording, text: str, words: dict[str, str]) -> tuple[str, Segments]:
        """The first of an SMS's bodies that needs no more segments than the briefest."""
        said = self._plain[text].render(words)
        size = segments(said)
        if size.parts == 1 or not wording.briefer:
            return said, size
        bodies = [said, *(self._plain[briefer].render(words) for briefer in wording.briefer)]
        sizes = [segments(body) for body in bodies]
        return next((body, size) for body, size in zip(bodies, sizes, strict=True) if size.parts <= sizes[-1].parts)

    def _email(self, wording: Wording, text: str, words: dict[str, str], person: Person, token: str, as_of: int) -> bytes:
        subject = _one_line(self._plain[wording.subject].render(words), "subject")
        marked = {name: _mark(name, value) for name, value in words.items()}
        html = self._layout.render(
            subject=_brace_free(subject),
            heading=self._html[wording.heading].render(marked),
            brand=marked["brand"],
            order_number=marked["order_number"],
            body=Markup(self._html[text].render(marked)),  # noqa: S704 rendered with autoescape a moment ago
        )
        to = _address(person.email, "email")
        if to.count("@") != 1 or any(c in to for c in " <>,;"):
            raise Unrenderable("bad_field", "email")
        return _canonical(
            {
                "to": to,
                "from": self.brand.sender,
                "reply_to": self.brand.reply_to,
                "subject": subject,
                "text": self._plain[text].render(words) + "\n",
                "html": html,
                "headers": {
                    "Message-ID": f"<{token}@{self.brand.domain}>",
                    "Date": format_datetime(datetime.fromtimestamp(as_of // 1000, UTC)),
                    "Auto-Submitted": "auto-generated",
                },
            }
        )

    def _derived(self, wording: Wording, known: dict[str, str], person: Person, milestone_at: int, as_of: int) -> dict[str, str]:
        """What a wording says of times and money; dates only where one is said, since writing them is not cheap."""
        zone = zone_of(person.zone, self.brand.zone)
        now = _moment(as_of, zone, "as_of")
        happened = _moment(min(milestone_at, as_of), zone, "milestone_at")
        words = {"brand": self.brand.name, "hashtag": self.brand.hashtag, "today": "yes"}
        if happened.date() != now.date():
            words |= {"today": "", "date": _date(happened, now, self._locale(person.locale))}
        if "expected_at" in wording.needs:
            expected = _moment(_whole(known["expected_at"], "expected_at"), zone, "expected_at")
            if expected.date() < now.date():
                raise Unrenderable("outdated", "expected_at")
            words["expected_today"] = "yes"
            if expected.date() != now.date():
                words |= {"expected_today": "", "expected": _date(expected, now, self._locale(person.locale))}
        if "amount" in wording.needs:
            words["money"] = _money(_whole(known["amount"], "amount"), known["currency"], self._locale(person.locale))
        return words

    def _locale(self, tag: str) -> Locale:
        """The reader's own way to write dates and money where we have words in that language, else the brand's."""
        if tag.replace("_", "-").partition("-")[0].lower() == "en":
            try:
                return Locale.parse(tag.replace("-", "_"))
            except (ValueError, UnknownLocaleError):
                pass
        return Locale.parse(self.brand.locale)


def _wording(template: str, channel: str) -> Wording:
    try:
        return WORDING[template, channel]
    except KeyError:
        raise Unrenderable("unknown_template", "template") from None


def _texts() -> set[str]:
    return {text for w in WORDING.values() for text in (w.body, w.variant, w.subject, w.heading, *w.briefer) if text}


def _brace_free(text: str) -> Markup:
    """Escaped for HTML, and for whatever mail client thinks it may run templates."""
    return Markup(str(escape(text)).replace("{", "&#123;").replace("}", "&#125;"))  # noqa: S704 escaped right here


def _mark(name: str, value: str) -> Markup:
    if name in LINKS:
        link = _brace_free(value)
        return Markup('<a href="{0}" style="color:#0b57d0">{0}</a>').format(link)
    return _brace_free(value)


def _one_line(text: str, field: str) -> str:
    if _CONTROL.search(text):
        raise Unrenderable("header_injection", field)
    return text


def _address(value: str, field: str) -> str:
    if not value:
        raise Unrenderable("no_contact", field)
    return _one_line(value, field)


def _whole(value: str, field: str) -> int:
    if not re.fullmatch(r"-?\d{1,15}", value, re.ASCII):
        raise Unrenderable("bad_field", field)
    return int(value)


def _moment(at: int, zone: ZoneInfo, field: str) -> datetime:
    try:
        return datetime.fromtimestamp(at / 1000, zone)
    except (ValueError, OverflowError, OSError):
        raise Unrenderable("bad_field", field) from None


def _date(day: datetime, now: datetime, locale: Locale) -> str:
    if day.year == now.year:
        return str(format_skeleton("MMMMd", day, locale=locale))
    return str(format_date(day, "long", locale=locale))


def _money(minor: int, currency: str, locale: Locale) -> str:
    if not money.known(currency):
        raise Unrenderable("bad_field", "currency")
    amount = Decimal(money.decimal(minor, currency))
    return str(format_currency(amount, currency, locale=locale, decimal_quantization=False))
