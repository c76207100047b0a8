from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec
import pytest

from messages.customer import Customer, Message, merge
from messages.policy import DAY_MS, HOUR_MS, RULES, Choice, Policy, Quiet, decide, quiet_until
from messages.template import WORDING
from orders.fact import Person
from orders.request import ConsentReported, MessageRequested, ProfileReported

NOW = 1_795_435_200_000  # 2026-11-23 12:00 UTC
PERSON = Person(email="ada@example.invalid", phone="+15005550006", push_token="t", zone="Europe/Berlin")
FIELDS = {"customer_name": "Ada", "order_number": "1", "short_link": "https://l.example/t/1", "status_text": "Shipped"}
FULL = FIELDS | {
    "carrier": "NorthPost",
    "product_name": "Lamp",
    "tracking_number": "N1",
    "tracking_link": "https://n.example/1",
}


def at(zone: str, *when: int) -> int:
    return int(datetime(*when, tzinfo=ZoneInfo(zone)).timestamp() * 1000)  # type: ignore[arg-type,misc]


def request(**changed: object) -> MessageRequested:
    asked = MessageRequested(
        at=NOW,
        effect="e1",
        order="lumi:1",
        customer="lumi:c",
        template="order_placed",
        channel="email",
        kind="transactional",
        fields=FULL,
        person=PERSON,
        milestone_at=NOW,
        expires=NOW + 2 * DAY_MS,
    )
    return msgspec.structs.replace(asked, **changed)


def consent(channel: str, granted: bool, kind: str = "*", at: int = NOW) -> ConsentReported:
    return ConsentReported(at=at, customer="lumi:c", channel=channel, granted=granted, kind=kind)


def chosen(*records: object, policy: Policy | None = None, now: int = NOW, **changed: object) -> Choice:
    customer = Customer()
    for record in (request(**changed), *records):
        merge(customer, record)  # type: ignore[arg-type]
    message: Message = customer.messages["e1"]
    return decide(message, customer, policy or Policy(), now)


def test_an_ordinary_message_goes_at_once_on_its_channel_and_no_rule_has_a_word() -> None:
    assert chosen() == Choice(("email",))


def test_too_old_is_expired_whoever_set_the_limit() -> None:
    for choice in (
        chosen(now=NOW + 2 * DAY_MS),
        chosen(now=NOW + 31 * DAY_MS, expires=NOW + 365 * DAY_MS),
        chosen(now=NOW, milestone_at=NOW - 31 * DAY_MS),
    ):
        assert (choice.word, choice.reason, choice.rules) == ("expired", "too_late", ("not_expired",))
    assert chosen(now=NOW + 2 * DAY_MS - 1).word == ""


def test_a_channel_without_words_or_without_contact_is_no_choice() -> None:
    assert chosen(channel="sms").reason == "unknown_template"
    assert chosen(channel="sms").word == "render_error"
    assert chosen(template="shipped", channel="sms", person=Person(email="a@example.invalid")).reason == "no_contact"


def test_contact_is_completed_from_the_profile() -> None:
    profile = ProfileReported(at=NOW, customer="lumi:c", system="shop", person=PERSON)
    assert chosen(profile, person=Person()).channels == ("email",)
    assert chosen(person=Person()).word == "suppressed"


@pytest.mark.parametrize(("channel", "kind"), [("email", "*"), ("email", "transactional"), ("*", "transactional"), ("*", "*")])
def test_an_opt_out_suppresses_however_wide_it_is(channel: str, kind: str) -> None:
    choice = chosen(consent(channel, False, kind), consent("email", True, "transactional" if kind == "*" else "*"))
    assert (choice.word, choice.reason, choice.rules) == ("suppressed", "preference", ("has_consent",))


def test_an_opt_out_of_something_else_does_not() -> None:
    assert chosen(consent("sms", False), consent("email", False, "feedback")).word == ""


def test_the_latest_word_counts_and_in_doubt_the_opt_out() -> None:
    assert chosen(consent("email", False, at=NOW), consent("email", True, at=NOW + 1)).word == ""
    assert chosen(consent("email", True, at=NOW + 1), consent("email", False, at=NOW)).word == ""
    for both in ((True, False), (False, True)):
        assert chosen(*(consent("email", granted) for granted in both)).word == "suppressed"


def test_a_request_without_a_channel_takes_the_first_that_is_possible() -> None:
    asked = {"template": "shipped", "channel": ""}
    assert chosen(**asked).channels == ("email",)
    assert chosen(consent("email", False), **asked).channels == ("push",)
    assert chosen(consent("email", False), consent("push", False), **asked).channels == ("sms",)
    assert chosen(person=Person(phone="+15005550006"), **asked).channels == ("sms",)
    assert chosen(consent("*", False), **asked).word == "suppressed"
    assert chosen(policy=Policy(order=("sms", "email")), **asked).channels == ("sms",)


def test_an_opt_out_can_only_move_a_mandatory_class() -> None:
    policy = Policy(mandatory=frozenset({"transactional"}))
    asked = {"template": "shipped", "channel": "sms", "policy": policy}
    assert chosen(**asked).channels == ("sms",)  # type: ignore[arg-type]
    assert chosen(consent("sms", False), **asked).channels == ("email",)  # type: ignore[arg-type]
    out = chosen(consent("*", False), **asked)  # type: ignore[arg-type]
    assert (out.word, out.channels) == ("", ("sms",))


def test_a_missing_field_is_a_render_error_not_a_message() -> None:
    choice = chosen(fields={"order_number": "1"})
    assert (choice.word, choice.reason, choice.rules) == ("render_error", "template_missing_field", ("has_fields",))


def test_the_shipping_mail_waits_for_its_tracking_number_and_then_does_without() -> None:
    lacking = {name: value for name, value in FULL.items() if not name.startswith("tracking")}
    policy = Policy()
    waiting = chosen(template="shipped", fields=lacking)
    assert (waiting.earliest, waiting.rules) == (NOW + policy.wait_for_fields, ("has_fields",))
    assert chosen(template="shipped", fields=lacking, now=waiting.earliest) == Choice(("email",))
    assert chosen(template="shipped", fields=FULL) == Choice(("email",))
    assert chosen(template="shipped", fields=lacking | {"carrier": ""}).word == "render_error"


def test_nothing_is_said_before_its_time() -> None:
    choice = chosen(not_before=NOW + HOUR_MS)
    assert (choice.earliest, choice.rules) == (NOW + HOUR_MS, ("not_before",))


def test_half_past_eleven_in_the_evening_is_held_to_eight_in_the_morning_once() -> None:
    late = at("Europe/Berlin", 2026, 11, 23, 23, 30)
    morning = at("Europe/Berlin", 2026, 11, 24, 8, 0)
    asked = {"template": "shipped", "channel": "sms"}
    held = chosen(now=late, **asked)  # type: ignore[arg-type]
    assert (held.earliest, held.rules) == (morning, ("quiet_hours",))
    assert chosen(now=morning, **asked).earliest == 0  # type: ignore[arg-type]
    assert chosen(now=late, kind="alert", **asked).earliest == 0  # type: ignore[arg-type]
    assert chosen(now=late).earliest == 0  # an e-mail wakes nobody


def test_waiting_may_lead_into_the_quiet_hours() -> None:
    start = at("Europe/Berlin", 2026, 11, 23, 23, 0)
    held = chosen(template="shipped", channel="sms", now=NOW, not_before=start, expires=NOW + 9 * DAY_MS)
    assert held.earliest == at("Europe/Berlin", 2026, 11, 24, 8, 0)
    assert held.rules == ("not_before", "quiet_hours")


NIGHT = Quiet(22 * 60, 8 * 60)


@pytest.mark.parametrize(
    ("zone", "when", "until"),
    [
        ("Europe/Berlin", (2026, 3, 28, 23, 30), (2026, 3, 29, 8, 0)),  # the night is an hour shorter
        ("Europe/Berlin", (2026, 10, 24, 23, 30), (2026, 10, 25, 8, 0)),  # and an hour longer
        ("America/New_York", (2026, 11, 1, 0, 59), (2026, 11, 1, 8, 0)),
        ("Asia/Kolkata", (2026, 11, 23, 23, 30), (2026, 11, 24, 8, 0)),
        ("Australia/Lord_Howe", (2026, 4, 4, 23, 30), (2026, 4, 5, 8, 0)),  # half an hour
        ("Europe/Berlin", (2026, 11, 24, 7, 59), (2026, 11, 24, 8, 0)),
        ("Europe/Berlin", (2026, 11, 24, 8, 0), (2026, 11, 24, 8, 0)),
        ("Europe/Berlin", (2026, 11, 24, 21, 59), (2026, 11, 24, 21, 59)),
        ("Europe/Berlin", (2026, 11, 24, 22, 0), (2026, 11, 25, 8, 0)),
        ("Europe/Berlin", (2026, 12, 31, 23, 30), (2027, 1, 1, 8, 0)),
    ],
)
def test_quiet_hours_are_local(zone: str, when: tuple[int, ...], until: tuple[int, ...]) -> None:
    assert quiet_until(at(zone, *when), zone, NIGHT) == at(zone, *until)


def test_a_quiet_time_within_one_day_and_one_of_no_length() -> None:
    siesta = Quiet(13 * 60, 15 * 60)
    assert quiet_until(at("UTC", 2026, 1, 1, 14, 0), "UTC", siesta) == at("UTC", 2026, 1, 1, 15, 0)
    assert quiet_until(at("UTC", 2026, 1, 1, 15, 0), "UTC", siesta) == at("UTC", 2026, 1, 1, 15, 0)
    assert quiet_until(at("UTC", 2026, 1, 1, 8, 0), "UTC", Quiet(480, 480)) == at("UTC", 2026, 1, 1, 8, 0)


def test_an_end_that_the_clock_change_skips_is_the_next_there_is() -> None:
    # 02:30 does not exist in Berlin on 29 March 2026
    assert quiet_until(at("Europe/Berlin", 2026, 3, 29, 1, 0), "Europe/Berlin", Quiet(0, 150)) == at("UTC", 2026, 3, 29, 1, 30)


@pytest.mark.parametrize("zone", ["", "Nowhere/Land", "../../etc/passwd", "\x00", "Europe"])
def test_an_unknown_zone_is_the_shops(zone: str) -> None:
    late = at("Asia/Tokyo", 2026, 11, 23, 23, 30)
    assert quiet_until(late, zone, NIGHT, "Asia/Tokyo") == at("Asia/Tokyo", 2026, 11, 24, 8, 0)
    assert quiet_until(late, zone, NIGHT, "also wrong") == late  # 14:30 UTC


def test_rules_come_in_their_order_and_the_first_to_end_it_has_the_last_word() -> None:
    names = [rule.__name__ for rule in RULES]
    assert names.index("not_expired") < names.index("has_consent") < names.index("default_channel") < names.index("quiet_hours")
    choice = chosen(consent("email", False), now=NOW + 3 * DAY_MS, fields={})
    assert choice.rules == ("not_expired",)


def test_no_template_ever_goes_out_with_a_field_missing() -> None:
    for (template, channel), wording in WORDING.items():
        for lacking in wording.needs:
            fields = dict.fromkeys(wording.needs, "x")
            fields.pop(lacking)
            choice = chosen(template=template, channel=channel, fields=fields)
            assert choice.word == "render_error" or (lacking in wording.may_lack and choice.earliest > NOW)
