"""Golden texts: the wording below is typed from the specification, not taken from the product."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest

from messages.render import Brand, Renderer, Unrenderable, missing
from messages.sms import segments
from messages.template import FIELDS, WORDING
from messages.way_back import WayBack
from orders.fact import Person

KEY = b"0123456789abcdef"
NOON = 1_795_435_200_000  # 2026-11-23 12:00 UTC
DAY = 86_400_000
PERSON = Person(name="Ada", email="ada@example.invalid", phone="+15005550006", push_token="token-1", locale="en_GB", zone="Europe/Berlin")
FIELD_VALUES = {
    "customer_name": "Ada",
    "order_number": "1001",
    "tracking_page": "https://shop.example/o/1001",
    "carrier": "NorthPost",
    "tracking_number": "NP123",
    "tracking_link": "https://northpost.example/NP123",
    "short_link": "https://lz.example/t/k3J9",
    "product_name": "Desk Lamp",
    "status_text": "Out for Delivery",
    "retry_link": "https://shop.example/pay/1001",
    "feedback_link": "https://shop.example/f/1001",
    "amount": "123456",
    "currency": "EUR",
    "expected_at": str(NOON + 3_600_000),
}

GOLDEN = [
    # S-062
    (
        "order_placed",
        "email",
        (
            "Hi Ada, thank you for your order! Your order #1001 has been successfully placed and is awaiting payment confirmation. "
            "We'll send another update once your payment is processed."
        ),
    ),
    # S-063
    (
        "payment_confirmed",
        "email",
        (
            "Great news, Ada! Your payment for order #1001 has been confirmed. Your items are now being prepared for shipment. "
            "You can track your order status here: https://shop.example/o/1001."
        ),
    ),
    # S-064
    (
        "shipped",
        "email",
        (
            "Your order #1001 is on its way, Ada! It was shipped today via NorthPost with tracking number NP123. "
            "You can follow its journey here: https://northpost.example/NP123. We hope you enjoy your new Desk Lamp."
        ),
    ),
    # S-065
    (
        "delivered",
        "email",
        (
            "Good news, Ada! Your order #1001 has been successfully delivered. We hope you love your purchase! "
            "If you have any questions, please reply to this email. Share your experience with #YourBrand."
        ),
    ),
    # S-069
    ("shipped", "sms", "Your Lumi Zone order #1001 has shipped! Track it here: https://lz.example/t/k3J9."),
    # S-070
    (
        "delivery_reminder",
        "sms",
        "Heads up! Your Lumi Zone order #1001 is expected to be delivered today. Get ready to receive your items!",
    ),
    # S-071
    ("out_for_delivery", "push", "Order #1001 Update: Your package is now Out for Delivery!"),
    # S-072
    ("delivered", "push", "Delivered! Your Lumi Zone order #1001 has arrived. Enjoy!"),
]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(Brand(), WayBack([KEY]))


def said(
    renderer: Renderer,
    template: str,
    channel: str,
    *,
    person: Person = PERSON,
    milestone_at: int = NOON,
    as_of: int = NOON,
    variant: bool = False,
    **fields: str | None,
) -> dict[str, Any]:
    given = {name: value for name, value in (FIELD_VALUES | fields).items() if value is not None}
    rendered = renderer.render(
        template,
        channel,
        given,
        person,
        customer="lumi:c1",
        effect="AAAAbbbbCCCCdddd",
        order="lumi:1001",
        milestone_at=milestone_at,
        as_of=as_of,
        variant=variant,
    )
    body: dict[str, Any] = msgspec.json.decode(rendered.body)
    return body


def words(body: dict[str, Any], channel: str) -> str:
    text: str = body["body"] if channel == "push" else body["text"]
    return text.removesuffix("\n")


class Visible(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags, self.links = "", list[str](), list[str]()
        self._hidden = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._hidden += tag in ("style", "script", "title")
        self.links += [value or "" for name, value in attrs if name == "href"]

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("style", "script", "title")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data


@pytest.mark.parametrize(("template", "channel", "wording"), GOLDEN, ids=[f"{t}-{c}" for t, c, _ in GOLDEN])
def test_the_eight_texts_are_word_for_word(renderer: Renderer, template: str, channel: str, wording: str) -> None:
    body = said(renderer, template, channel)
    assert words(body, channel) == wording
    if channel == "email":
        assert wording in Visible(body["html"]).text


# --- by state: the published words where they are true, and only there
PLACED = "Hi Ada, thank you for your order! Your order #1001 has been successfully placed"
CONFIRMED = "Great news, Ada! Your payment for order #1001 has been confirmed."
STATUS = "You can track your order status here: https://shop.example/o/1001."
BY_NUMBER = "via NorthPost with tracking number NP123. You can"
JOURNEY = "its journey here: https://northpost.example/NP123."
QUESTIONS = "If you have any questions, please reply to this email."
ENJOY = "We hope you enjoy your new Desk Lamp."
PART = {"part": "yes", "part_name": "Desk Lamp"}
VARIANTS: list[tuple[str, str, dict[str, str], str]] = [
    ("order_placed", "email", {"state": "paid"}, f"{PLACED} and your payment is confirmed."),
    (
        *("order_placed", "email", {"state": "paid", "ships": "yes"}),
        f"{PLACED} and your payment is confirmed. We'll send another update once your order is on its way.",
    ),
    ("order_placed", "email", {"state": "part_paid"}, f"{PLACED}. We'll send another update once your payment is processed."),
    ("order_placed", "email", {"state": "free", "ships": "yes"}, f"{PLACED}. We'll send another update once your order is on its way."),
    ("order_placed", "email", {"state": "free"}, f"{PLACED}."),
    ("order_placed", "email", {"state": "shipped"}, f"{PLACED} and is on its way."),
    ("order_placed", "email", {"state": "part_shipped"}, f"{PLACED} and part of it is on its way."),
    ("order_placed", "email", {"state": "delivered"}, f"{PLACED} and has been delivered."),
    ("order_placed", "email", {"state": "cancelled"}, f"{PLACED} and has since been cancelled."),
    ("order_placed", "email", {"state": "placed"}, f"{PLACED}."),
    *(
        ("payment_confirmed", "email", {"state": state}, f"{CONFIRMED} {STATUS}")
        for state in ("shipped", "held", "backordered", "incomplete", "undecided", "cancelled", "refunded", "fetched")
    ),
    (
        *("shipped", "email", {"state": "delivered"}),
        f"Your order #1001 has been delivered, Ada! It was shipped today {BY_NUMBER} see {JOURNEY} {ENJOY}",
    ),
    ("shipped", "email", {"state": "troubled"}, f"Your order #1001 has shipped, Ada! It was shipped today {BY_NUMBER} see {JOURNEY}"),
    (
        *("shipped", "email", PART),
        f"Part of your order #1001 is on its way, Ada! It was shipped today {BY_NUMBER} follow {JOURNEY} {ENJOY}",
    ),
    (
        *("shipped", "email", PART | {"state": "delivered"}),
        f"Part of your order #1001 has been delivered, Ada! It was shipped today {BY_NUMBER} see {JOURNEY} {ENJOY}",
    ),
    (
        *("cancelled", "email", {"state": "refunded"}),
        f"Hi Ada, your order #1001 has been cancelled, and your payment has been refunded. {QUESTIONS}",
    ),
    (
        *("delay", "email", {"state": "shipped"}),
        f"Hi Ada, we're sorry, but your order #1001 is taking longer than we promised. We are on it. {STATUS}",
    ),
    ("shipped", "sms", PART, "Part of your Lumi Zone order #1001 (Desk Lamp) has shipped! Track it here: https://lz.example/t/k3J9."),
    (
        *("delivery_reminder", "sms", PART),
        "Heads up! Part of your Lumi Zone order #1001 (Desk Lamp) is expected to be delivered today. Get ready to receive your items!",
    ),
    ("out_for_delivery", "push", {"state": "past"}, "Order #1001 Update: Your package was Out for Delivery today."),
    ("out_for_delivery", "push", PART, "Order #1001 Update: Your package (Desk Lamp) is now Out for Delivery!"),
    (
        *("payment_confirmed", "push", {"state": "past", "status_text": "Payment Confirmed"}),
        "Order #1001 Update: Your order was Payment Confirmed today.",
    ),
]


@pytest.mark.parametrize(("template", "channel", "state", "wording"), VARIANTS)
def test_where_the_published_words_are_not_true_others_are_said(
    renderer: Renderer, template: str, channel: str, state: dict[str, str], wording: str
) -> None:
    body = said(renderer, template, channel, **state)
    assert words(body, channel) == wording
    assert "  " not in wording
    if channel == "email":
        page = Visible(body["html"]).text
        assert wording in page
        if template == "shipped":
            assert ("n its way" in body["subject"] + page) == (not state.get("state"))
            assert body["subject"].startswith("Part of your" if "part" in state else "Your")


def test_every_field_that_chooses_words_has_a_row_in_the_table_and_without_any_the_words_are_the_published_ones(renderer: Renderer) -> None:
    tried = {(template, channel, name) for template, channel, state, _ in VARIANTS for name in state}
    noun = {"push": "out_for_delivery"}  # one row for all that are worded alike
    for (template, channel), wording in WORDING.items():
        for name in wording.knows:
            assert name == "tracking_number" or (noun.get(channel, template), channel, name) in tried
    for template, channel, golden in GOLDEN:
        blank: dict[str, str | None] = dict.fromkeys(set(WORDING[template, channel].knows) - set(WORDING[template, channel].needs))
        assert words(said(renderer, template, channel, **blank), channel) == golden
        for row in VARIANTS:
            assert row[:2] != (template, channel) or row[3] != golden


def test_a_push_of_another_day_that_is_over_says_when_it_was(renderer: Renderer) -> None:
    late = said(renderer, "out_for_delivery", "push", state="past", milestone_at=NOON - 2 * DAY)
    assert words(late, "push") == "Order #1001 Update: Your package was Out for Delivery on 21 November."


@pytest.mark.parametrize("template", ["shipped", "delivery_reminder"])
def test_an_sms_about_a_part_says_which_in_as_many_segments_as_it_would_need_without(renderer: Renderer, template: str) -> None:
    long = "Solstice Wool Blanket, Fjord Ceramic Vase and Harbour Linen Curtain"
    for name, number, found in (
        ("Desk Lamp", "NP123", "(Desk Lamp)"),
        (long, "NP123", "(NP123)"),
        ("Lamp \u0151", "NP123", "(NP123)"),  # that letter alone would make three segments of it
        (long, "9" * 90, "#1001 "),
        ("", "", "#1001 "),
    ):
        fields = PART | {"part_name": name, "tracking_number": number}
        text = said(renderer, template, "sms", short_link="https://track.lumi.example/t/lumi:1001.0123456789abcdef", **fields)["text"]
        assert "Part of your" in text
        assert found in text
        assert ("(" in text) == ("(" in found)
        assert segments(text)[::2] == ("gsm7", 1)
    forced = said(renderer, "shipped", "sms", **PART, order_number="9" * 150)["text"]  # needs two in any case
    assert "(Desk Lamp)" in forced
    assert segments(forced).parts == 2


@pytest.mark.parametrize(
    ("code", "name"), [("ups", "UPS"), ("UPS", "UPS"), ("fedex", "FedEx"), ("usps", "USPS"), ("NorthPost", "NorthPost")]
)
def test_a_carrier_is_called_as_it_writes_itself(renderer: Renderer, code: str, name: str) -> None:
    assert f" via {name} with" in words(said(renderer, "shipped", "email", carrier=code), "email")


def test_what_chooses_words_is_no_less_escaped_than_other_fields(renderer: Renderer) -> None:
    with pytest.raises(Unrenderable, match="bad_field"):
        said(renderer, "shipped", "sms", part="yes", part_name="x" * 2_001)
    assert "{{ 7*7 }}" in said(renderer, "shipped", "sms", part="yes", part_name="{{ 7*7 }}")["text"]


def test_brand_and_hashtag_come_from_configuration() -> None:
    other = Renderer(Brand(name="Nord & Co", hashtag="#nordlife"), WayBack([KEY]))
    assert words(said(other, "shipped", "sms"), "sms").startswith("Your Nord & Co order #1001 has shipped!")
    assert words(said(other, "delivered", "email"), "email").endswith("Share your experience with #nordlife.")


@pytest.mark.parametrize(("template", "channel"), sorted(FIELDS))
def test_every_text_renders_with_its_declared_fields_and_no_braces_are_left(renderer: Renderer, template: str, channel: str) -> None:
    given: dict[str, str | None] = dict.fromkeys(FIELD_VALUES)
    given |= {name: FIELD_VALUES[name] for name in FIELDS[template, channel]}
    body = said(renderer, template, channel, **given)
    assert "{{" not in msgspec.json.encode(body).decode()
    assert "{%" not in words(body, channel)
    assert "  " not in words(body, channel)


@pytest.mark.parametrize(("template", "channel"), sorted(FIELDS))
@pytest.mark.parametrize("blank", [None, "", "  "])
def test_every_template_lacking_any_of_its_fields_never_renders(renderer: Renderer, template: str, channel: str, blank: str | None) -> None:
    for name in FIELDS[template, channel]:
        with pytest.raises(Unrenderable) as caught:
            said(renderer, template, channel, **{name: blank})
        assert (caught.value.reason, caught.value.field) == ("template_missing_field", name)


def test_a_text_shown_days_later_gives_the_date_instead_of_today(renderer: Renderer) -> None:
    late = {"milestone_at": NOON - 2 * DAY, "as_of": NOON}
    assert "It was shipped on 21 November via NorthPost with" in words(said(renderer, "shipped", "email", **late), "email")
    assert words(said(renderer, "delivered", "push", **late), "push") == (
        "Delivered! Your Lumi Zone order #1001 has arrived on 21 November. Enjoy!"
    )
    assert words(said(renderer, "out_for_delivery", "push", **late), "push") == (
        "Order #1001 Update: Your package has been Out for Delivery since 21 November."
    )


def test_today_is_the_recipients_today(renderer: Renderer) -> None:
    evening = NOON + 10 * 3_600_000 + 1_800_000  # 22:30 UTC, 23:30 in Berlin, 07:30 the next day in Tokyo
    next_morning = evening + 2 * 3_600_000  # 00:30 UTC, 01:30 in Berlin, 09:30 in Tokyo
    berlin, tokyo = PERSON, msgspec.structs.replace(PERSON, zone="Asia/Tokyo")
    times = {"milestone_at": evening, "as_of": next_morning}
    assert "shipped on 23 November via" in words(said(renderer, "shipped", "email", person=berlin, **times), "email")
    assert "shipped today via" in words(said(renderer, "shipped", "email", person=tokyo, **times), "email")


def test_an_unknown_zone_counts_days_in_the_brands(renderer: Renderer) -> None:
    lost = msgspec.structs.replace(PERSON, zone="Mars/Olympus_Mons")
    assert "shipped today via" in words(said(renderer, "shipped", "email", person=lost), "email")


def test_a_date_in_another_year_names_the_year(renderer: Renderer) -> None:
    body = said(renderer, "delivered", "push", milestone_at=NOON - 360 * DAY)
    assert "has arrived on 28 November 2025. Enjoy!" in body["body"]


def test_dates_and_money_follow_the_readers_locale(renderer: Renderer) -> None:
    american = msgspec.structs.replace(PERSON, locale="en-US")
    german = msgspec.structs.replace(PERSON, locale="de-DE")
    broken = msgspec.structs.replace(PERSON, locale="en-!!")
    late = {"milestone_at": NOON - 2 * DAY}
    assert "on November 21 via" in words(said(renderer, "shipped", "email", person=american, **late), "email")
    for reader in (german, broken):  # no German words yet: an English date in an English sentence
        assert "on 21 November via" in words(said(renderer, "shipped", "email", person=reader, **late), "email")
    assert "refund of €1,234.56 for" in words(said(renderer, "refunded", "email"), "email")
    assert "refund of ¥123,456 for" in words(said(renderer, "refunded", "email", currency="JPY", person=american), "email")
    for currency, exact in (("KWD", "123.456"), ("IQD", "123.456"), ("CLF", "12.3456"), ("ISK", "123,456")):
        assert exact in words(said(renderer, "refunded", "email", currency=currency), "email")


def test_money_that_is_no_money_is_not_sent(renderer: Renderer) -> None:
    for bad in ({"amount": "12.3"}, {"amount": "NaN"}, {"amount": "1" * 30}, {"currency": "XXQ"}, {"currency": "eur"}):
        with pytest.raises(Unrenderable, match="bad_field"):
            said(renderer, "refunded", "email", **bad)


def test_a_reminder_for_another_day_says_which_and_one_for_yesterday_is_not_sent(renderer: Renderer) -> None:
    tomorrow = said(renderer, "delivery_reminder", "sms", expected_at=str(NOON + DAY))
    assert "is expected to be delivered on 24 November. Get ready" in tomorrow["text"]
    with pytest.raises(Unrenderable, match="outdated"):
        said(renderer, "delivery_reminder", "sms", expected_at=str(NOON - DAY))


@pytest.mark.parametrize("when", ["soon", "9" * 15, "9" * 16, "-" + "9" * 15, "1.5", "", "١"])
def test_a_time_that_is_no_time_is_not_sent(renderer: Renderer, when: str) -> None:
    with pytest.raises(Unrenderable, match="expected_at"):
        said(renderer, "delivery_reminder", "sms", expected_at=when)


def test_the_shipping_mail_can_do_without_a_tracking_number_only_as_a_variant(renderer: Renderer) -> None:
    lacking: dict[str, Any] = {"tracking_number": None, "tracking_link": None}
    with pytest.raises(Unrenderable, match="template_missing_field"):
        said(renderer, "shipped", "email", **lacking)
    assert words(said(renderer, "shipped", "email", variant=True, **lacking), "email") == (
        "Your order #1001 is on its way, Ada! It was shipped today via NorthPost. We hope you enjoy your new Desk Lamp."
    )
    assert "with tracking number NP123" in words(said(renderer, "shipped", "email", variant=True), "email")
    with pytest.raises(Unrenderable, match="carrier"):
        said(renderer, "shipped", "email", variant=True, carrier="")


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "{{ 7*7 }}", "{% for x in y %}", '"><img src=x onerror=y>', "A&B"])
def test_hostile_names_are_escaped_in_html_and_literal_elsewhere(renderer: Renderer, name: str) -> None:
    body = said(renderer, "order_placed", "email", customer_name=name)
    page = Visible(body["html"])
    assert body["text"].startswith(f"Hi {name}, thank you")
    assert f"Hi {name}, thank you" in page.text
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "{{" not in body["html"]
    assert "{%" not in body["html"]
    sms = said(renderer, "payment_failed", "sms", order_number=name)
    assert f"order #{name} could" in sms["text"]


@pytest.mark.parametrize(
    "link", ["javascript:alert(1)", "data:text/html,x", "https://a b", 'https://x"onclick=y', "ftp://x/y", "/relative"]
)
def test_a_link_is_a_web_address_or_nothing_is_sent(renderer: Renderer, link: str) -> None:
    with pytest.raises(Unrenderable) as caught:
        said(renderer, "payment_confirmed", "email", tracking_page=link)
    assert (caught.value.reason, caught.value.field) == ("bad_field", "tracking_page")


def test_links_can_be_followed(renderer: Renderer) -> None:
    page = Visible(said(renderer, "payment_confirmed", "email", tracking_page="https://shop.example/o?a=1&b=2")["html"])
    assert page.links == ["https://shop.example/o?a=1&b=2"]


@pytest.mark.parametrize("evil", ["a\r\nBcc: x@example.invalid", "a\nb", "a\x00b", "a\u2028b"])
def test_line_breaks_are_refused_where_headers_are_made(renderer: Renderer, evil: str) -> None:
    for broken in (
        lambda: said(renderer, "order_placed", "email", order_number=evil),
        lambda: said(renderer, "order_placed", "email", person=msgspec.structs.replace(PERSON, email=f"{evil}@example.invalid")),
        lambda: said(renderer, "shipped", "sms", person=msgspec.structs.replace(PERSON, phone=evil)),
        lambda: said(renderer, "delivered", "push", person=msgspec.structs.replace(PERSON, push_token=evil)),
        lambda: Renderer(Brand(sender=evil), WayBack([KEY])),
        lambda: Renderer(Brand(reply_to=evil), WayBack([KEY])),
    ):
        with pytest.raises(Unrenderable, match="header_injection"):
            broken()


def test_an_address_is_one_address(renderer: Renderer) -> None:
    for email in ("a@b@c", "nobody", "a@b, c@d", "A <a@b>"):
        with pytest.raises(Unrenderable, match="bad_field"):
            said(renderer, "order_placed", "email", person=msgspec.structs.replace(PERSON, email=email))
    for channel in ("email", "sms"):
        with pytest.raises(Unrenderable, match="no_contact"):
            said(renderer, "shipped", channel, person=Person())


def test_errors_never_quote_what_they_are_about(renderer: Renderer) -> None:
    for fields in ({"tracking_page": "SECRET-1"}, {"order_number": "SECRET\n2"}):
        with pytest.raises(Unrenderable) as caught:
            said(renderer, "payment_confirmed", "email", **fields)
        assert "SECRET" not in str(caught.value)


def test_an_unknown_template_is_said_to_be_one(renderer: Renderer) -> None:
    with pytest.raises(Unrenderable, match="unknown_template"):
        said(renderer, "order_placed", "fax")
    with pytest.raises(Unrenderable, match="unknown_template"):
        missing("no_such", "email", {})


def test_the_same_request_gives_the_same_bytes(renderer: Renderer) -> None:
    again = Renderer(Brand(), WayBack([KEY]))
    for template, channel in FIELDS:
        assert said(renderer, template, channel) == said(again, template, channel)


def test_a_message_carries_its_way_back(renderer: Renderer) -> None:
    way_back = WayBack([b"another-key-of-16", KEY])  # rotated: the old key still reads
    mail = said(renderer, "order_placed", "email")
    message_id = mail["headers"]["Message-ID"]
    assert message_id.startswith("<AAAAbbbbCCCCdddd.")
    assert message_id.endswith("@lumizone.example>")
    assert mail["reply_to"] == "Lumi Zone <care@lumizone.example>"
    for token in (
        message_id[1:].partition("@")[0],
        said(renderer, "shipped", "sms")["way_back"],
        said(renderer, "delivered", "push")["data"]["way_back"],
    ):
        assert way_back.read(token) == ("lumi:c1", "AAAAbbbbCCCCdddd")


@pytest.mark.parametrize("forged", ["", ".", "..", "a.b.c", "ä.b.c", "AAAAbbbbCCCCdddd.bHVtaTpjMQ.AAAAAAAAAAAAAAAAAAAAAA", "\ud800.a.b"])
def test_a_way_back_that_we_did_not_sign_leads_nowhere(forged: str) -> None:
    assert WayBack([KEY]).read(forged) is None


def test_a_way_back_needs_a_key_worth_the_name() -> None:
    for keys in ([], [b"short"]):
        with pytest.raises(ValueError, match="16 bytes"):
            WayBack(keys)


def test_the_mail_fetches_nothing_from_elsewhere(renderer: Renderer) -> None:
    html = said(renderer, "order_placed", "email")["html"]
    assert Visible(html).links == []
    assert "@import" not in html
    assert "src=" not in html


def test_no_sms_text_needs_more_than_one_segment_with_ordinary_fields(renderer: Renderer) -> None:
    for template, channel in WORDING:
        if channel == "sms":
            text = said(renderer, template, channel)["text"]
            assert segments(text).encoding == "gsm7"
            assert segments(text).parts == 1, text


@pytest.mark.parametrize(
    ("text", "encoding", "units", "parts"),
    [
        ("", "gsm7", 0, 1),
        ("a" * 160, "gsm7", 160, 1),
        ("a" * 161, "gsm7", 161, 2),
        ("a" * 306, "gsm7", 306, 2),
        ("a" * 307, "gsm7", 307, 3),
        ("€" * 80, "gsm7", 160, 1),
        ("€" * 81, "gsm7", 162, 2),
        ("a" * 152 + "€" + "a" * 152, "gsm7", 306, 3),  # the euro does not fit at the end of the first
        ("ы" * 70, "ucs2", 70, 1),
        ("ы" * 71, "ucs2", 71, 2),
        ("😀" * 35, "ucs2", 70, 1),
        ("😀" * 67, "ucs2", 134, 3),  # 33 pairs a segment: none is split
        ("`", "ucs2", 1, 1),
    ],
)
def test_segments_are_counted_as_carriers_do(text: str, encoding: str, units: int, parts: int) -> None:
    assert segments(text) == (encoding, units, parts)
