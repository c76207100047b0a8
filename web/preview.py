"""How a message that was only observed would have read: consent, time and words by the functions that would have sent it. Pure."""

from __future__ import annotations

import msgspec

from messages.customer import Customer, merge
from messages.policy import Policy as Rules
from messages.policy import decide, reach, spares
from messages.render import Renderer, Unrenderable
from orders.effect import effect_id
from orders.plan import MESSAGE_CHANNELS, message
from orders.policy import Policy
from orders.state import Order, parts
from orders.view import view


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """Personal data."""

    order: str
    number: str
    template: str
    channel: str
    word: str = ""  # "": it would have been sent; else "suppressed" | "expired" | "render_error"
    reason: str = ""
    rules: tuple[str, ...] = ()  # that had a say, in order
    at: int = 0  # when it would have left, ms
    to: str = ""
    subject: str = ""
    text: str = ""


def preview(order: Order, customer: Customer, channel: str, policy: Policy, renderer: Renderer) -> Preview | None:
    """The last message of this order that was only observed on this channel; None where there is none."""
    closed = [(at, name) for name, at in order.closed.items() if MESSAGE_CHANNELS.get(parts(name)[0]) == channel]
    v = view(order)
    for _, name in sorted(closed, reverse=True):
        action, milestone, instance = parts(name)
        if v.placed is None or f"{action} {milestone}" not in policy.cells:
            continue
        id = effect_id(order.id, milestone, instance, action)
        request = message(name, id, v, order, policy, order.closed[name])
        asked = Customer(customer.profile, dict(customer.consents))
        merge(asked, request)
        wanted = asked.messages[id]
        assert wanted.content is not None
        rules = Rules(zone=renderer.brand.zone)
        choice = decide(wanted, asked, rules, request.milestone_at)
        at = max(choice.earliest, request.milestone_at)
        found = Preview(
            order=order.id,
            number=v.placed.number,
            template=wanted.template,
            channel=channel,
            word=choice.word,
            reason=choice.reason,
            rules=choice.rules,
            at=at,
        )
        if choice.word:
            return found
        try:
            rendered = renderer.render(
                wanted.template,
                choice.channels[0],
                wanted.content.fields,
                reach(asked, wanted.content),
                customer=v.placed.customer,
                effect=id,
                order=order.id,
                milestone_at=request.milestone_at,
                as_of=at,
                variant=spares(wanted.content, rules, at),
            )
        except Unrenderable as error:
            return msgspec.structs.replace(found, word="render_error", reason=error.reason)
        said = msgspec.json.decode(rendered.body, type=dict[str, str | dict[str, str]])
        return msgspec.structs.replace(
            found,
            to=str(said.get("to") or "the customer's phone"),
            subject=str(said.get("subject") or said.get("title") or ""),
            text=str(said.get("text") or said.get("body") or ""),
        )
    return None
