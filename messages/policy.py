"""Whether, how and when a message is said: ordered pure rules, each narrowing the choice and naming itself.

A rule gets the choice so far and either leaves it, drops channels from it, moves its earliest time, or ends it with one
of the words `suppressed`, `expired`, `render_error`. The first that ends it has the last word.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, time, timedelta
from typing import TypeAlias

import msgspec

from messages.customer import Content, Customer, Message, consented
from messages.render import can_wait_for, missing, zone_of
from messages.template import EMAIL, PUSH, SMS, WORDING
from orders.fact import Person

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Quiet(msgspec.Struct, frozen=True):
    """Local time, as minutes after midnight; `until` before `since` means the next morning."""

    since: int = 22 * 60
    until: int = 8 * 60


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What a shop may decide about its messages; times in ms."""

    order: tuple[str, ...] = (EMAIL, PUSH, SMS)  # which channel a request without one takes: the first possible
    quiet: dict[str, Quiet] = msgspec.field(default_factory=lambda: {SMS: Quiet(), PUSH: Quiet()})  # e-mail wakes nobody
    urgent: frozenset[str] = frozenset({"alert"})  # message classes that quiet hours do not hold
    mandatory: frozenset[str] = frozenset()  # classes that an opt-out can only move to another channel
    zone: str = "UTC"  # of people whose zone is unknown
    wait_for_fields: int = 2 * HOUR_MS  # then the variant without them
    oldest: int = 30 * DAY_MS  # no message speaks of what happened longer ago, whatever its request allows
    remember: int = 40 * DAY_MS  # ended messages, longer than the topic's retention


class Choice(msgspec.Struct, frozen=True):
    channels: tuple[str, ...]  # still possible, best first
    earliest: int = 0  # ms; 0: at once
    word: str = ""  # how it ended, if it did
    reason: str = ""
    rules: tuple[str, ...] = ()  # those that changed something, in order


class Case(msgspec.Struct, frozen=True):
    """What the rules look at."""

    template: str
    content: Content
    customer: Customer
    person: Person
    policy: Policy
    now: int


Rule: TypeAlias = Callable[[Choice, Case], Choice]
_change = msgspec.structs.replace


def decide(message: Message, customer: Customer, policy: Policy, now: int) -> Choice:
    """The message must have its content. Pure; what it answers may differ later, so it is asked again at the claim."""
    assert message.content is not None
    person = reach(customer, message.content)
    asked = message.via or message.channel
    kind = message.content.kind
    if not asked:
        channels: tuple[str, ...] = policy.order
    elif kind in policy.mandatory and not message.via:
        channels = (asked, *(channel for channel in policy.order if channel != asked))
    else:
        channels = (asked,)
    case = Case(message.template, message.content, customer, person, policy, now)
    choice = Choice(channels)
    for rule in RULES:
        narrowed = rule(choice, case)
        if narrowed is not choice:
            choice = _change(narrowed, rules=(*choice.rules, rule.__name__))
            if choice.word:
                break
    return choice


def reach(customer: Customer, content: Content) -> Person:
    """Where the person can be reached: what the request says, completed from the profile."""
    if customer.profile is None:
        return content.person
    asked, known = content.person, customer.profile.person
    if all((asked.email, asked.phone, asked.push_token, asked.locale, asked.zone)):
        return asked
    return _change(
        asked,
        email=asked.email or known.email,
        phone=asked.phone or known.phone,
        push_token=asked.push_token or known.push_token,
        locale=asked.locale or known.locale,
        zone=asked.zone or known.zone,
    )


def expiry(content: Content, policy: Policy) -> int:
    return min(content.expires, content.milestone_at + policy.oldest)


def spares(content: Content, policy: Policy, at: int) -> bool:
    """Whether a text says at that time what it can say without the fields it may lack."""
    return at >= _patience(content, policy)


def _patience(content: Content, policy: Policy) -> int:
    return max(content.milestone_at, content.not_before) + policy.wait_for_fields


# --- the rules, in order
def not_expired(choice: Choice, case: Case) -> Choice:
    if case.now >= expiry(case.content, case.policy):
        return _change(choice, word="expired", reason="too_late")
    return choice


def has_words(choice: Choice, case: Case) -> Choice:
    """Channels this template says nothing on are no choice."""
    return _keep(choice, lambda channel: (case.template, channel) in WORDING, "render_error", "unknown_template")


def has_contact(choice: Choice, case: Case) -> Choice:
    person = case.person
    contact = {EMAIL: person.email, SMS: person.phone, PUSH: person.push_token}
    return _keep(choice, lambda channel: bool(contact.get(channel)), "suppressed", "no_contact")


def has_consent(choice: Choice, case: Case) -> Choice:
    """Opt-out beats everything, except that a mandatory class keeps its last channel."""
    kind = case.content.kind
    kept = _keep(choice, lambda channel: consented(case.customer, channel, kind), "suppressed", "preference")
    if kept.word and kind in case.policy.mandatory:
        return choice
    return kept


def default_channel(choice: Choice, case: Case) -> Choice:
    if len(choice.channels) == 1:
        return choice
    return _change(choice, channels=choice.channels[:1])


def has_fields(choice: Choice, case: Case) -> Choice:
    """A missing field never sends. For some it is worth waiting, and then to do without."""
    content, channel = case.content, choice.channels[0]
    lacking = missing(case.template, channel, content.fields)
    if not lacking:
        return choice
    if not can_wait_for(case.template, channel).issuperset(lacking):
        return _change(choice, word="render_error", reason="template_missing_field")
    if spares(content, case.policy, case.now):
        return choice
    return _change(choice, earliest=max(choice.earliest, _patience(content, case.policy)))


def not_before(choice: Choice, case: Case) -> Choice:
    if case.content.not_before > max(case.now, choice.earliest):
        return _change(choice, earliest=case.content.not_before)
    return choice


def quiet_hours(choice: Choice, case: Case) -> Choice:
    """Held until the quiet hours end where the person lives; urgent classes pass."""
    quiet = case.policy.quiet.get(choice.channels[0])
    if quiet is None or case.content.kind in case.policy.urgent:
        return choice
    wanted = max(choice.earliest, case.now)
    end = quiet_until(wanted, case.person.zone, quiet, case.policy.zone)
    return choice if end <= wanted else _change(choice, earliest=end)


RULES: tuple[Rule, ...] = (not_expired, has_words, has_contact, has_consent, default_channel, has_fields, not_before, quiet_hours)


def quiet_until(at: int, zone_name: str, quiet: Quiet, default_zone: str = "UTC") -> int:
    """`at` itself outside quiet hours, else their end. A wall time that a clock change skips counts as the next there is."""
    zone = zone_of(zone_name, default_zone)
    local = datetime.fromtimestamp(at / 1000, zone)
    minute = local.hour * 60 + local.minute
    day = local.date()
    if quiet.since > quiet.until:
        if quiet.until <= minute < quiet.since:
            return at
        if minute >= quiet.since:
            day += timedelta(days=1)
    elif not quiet.since <= minute < quiet.until:
        return at
    end = datetime.combine(day, time(quiet.until // 60 % 24, quiet.until % 60), zone)
    return max(at, int(end.timestamp() * 1000))


def _keep(choice: Choice, possible: Callable[[str], bool], word: str, reason: str) -> Choice:
    channels = tuple(channel for channel in choice.channels if possible(channel))
    if channels == choice.channels:
        return choice
    if channels:
        return _change(choice, channels=channels)
    return _change(choice, word=word, reason=reason)
