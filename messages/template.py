"""The texts, and which fields each of them needs.

A request names a template and a channel and carries its fields as strings; `FIELDS` says which. A field that is
absent or blank never sends. Times are milliseconds as decimal strings, `amount` is minor units of `currency`.

Wording is Jinja, one sentence source for text and HTML. What a wording may use beside its fields: `brand`, `hashtag`,
`today` (the milestone is of the recipient's today) and `date` (the milestone's local date), `expected_today` and
`expected` (the same of the field `expected_at`), `money` (amount and currency, formatted).

The published words stand wherever they are true. Where they are not, a field that the wording `knows` says what is:
`state` (how far the order or parcel really is), `ships` (its shipping will be told), `part` (a parcel that is not the whole
order) and `part_name` (what tells it from the others). `orders.plan` says which; without them the published words are meant.
"""

from __future__ import annotations

import msgspec

EMAIL, SMS, PUSH = "email", "sms", "push"
CHANNELS = (EMAIL, SMS, PUSH)


class Wording(msgspec.Struct, frozen=True):
    """What one template says on one channel."""

    body: str
    needs: tuple[str, ...]
    subject: str = ""  # e-mail's subject, push's title
    heading: str = ""  # e-mail only: the line above the text
    variant: str = ""  # body when the fields in `may_lack` did not come in time
    may_lack: tuple[str, ...] = ()  # fields worth waiting for, and dispensable in the end
    knows: tuple[str, ...] = ()  # fields that choose between words: "" where they say nothing
    briefer: tuple[str, ...] = ()  # SMS only: bodies to fall back on, in order, where one would need another segment


def _update(noun: str) -> Wording:
    """S-071, and its sister for what is not about a package yet."""
    return Wording(
        subject="{{ brand }}",
        body=(
            "Order #{{ order_number }} Update: Your " + noun + "{% if part_name %} ({{ part_name }}){% endif %}"
            "{% if state %} was {{ status_text }} {% if today %}today{% else %}on {{ date }}{% endif %}."
            "{% elif today %} is now {{ status_text }}!{% else %} has been {{ status_text }} since {{ date }}.{% endif %}"
        ),
        needs=("order_number", "status_text"),
        knows=("state", "part_name"),
    )


_PACKAGE = _update("package")
_ORDER = _update("order")

_YOUR = "{% if part %}Part of your{% else %}Your{% endif %}"
_SHIPPED = (
    _YOUR + " order #{{ order_number }} "
    "{% if not state %}is on its way{% elif state == 'delivered' %}has been delivered{% else %}has shipped{% endif %}"
)
_SHIPPED_HEAD = _SHIPPED + ", {{ customer_name }}! It was shipped {% if today %}today{% else %}on {{ date }}{% endif %} via {{ carrier }}"
_SHIPPED_TAIL = "{% if state != 'troubled' %} We hope you enjoy your new {{ product_name }}.{% endif %}"


def _of_a_parcel(text: str) -> tuple[str, ...]:
    """An SMS about a parcel. A part of an order says which: by its name, else by its number, else not at all."""
    names = ("{% if part_name %} ({{ part_name }}){% endif %}", "{% if tracking_number %} ({{ tracking_number }}){% endif %}", "")
    return tuple(text.replace("<part>", "{% if part %}" + name + "{% endif %}" if name else "") for name in names)


_SHIPPED_SMS = _of_a_parcel(_YOUR + " {{ brand }} order #{{ order_number }}<part> has shipped! Track it here: {{ short_link }}.")
_REMINDER_SMS = _of_a_parcel(
    "Heads up! " + _YOUR + " {{ brand }} order #{{ order_number }}<part> is expected to be delivered"
    " {% if expected_today %}today{% else %}on {{ expected }}{% endif %}. Get ready to receive your items!"
)
_OF_A_PARCEL = ("part", "part_name", "tracking_number")

WORDING: dict[tuple[str, str], Wording] = {
    # S-062
    ("order_placed", EMAIL): Wording(
        subject="Your {{ brand }} order #{{ order_number }}",
        heading="Thank you for your order",
        body=(
            "Hi {{ customer_name }}, thank you for your order! Your order #{{ order_number }} has been successfully placed"
            "{% if not state %} and is awaiting payment confirmation.{% elif state == 'paid' %} and your payment is confirmed."
            "{% elif state == 'shipped' %} and is on its way.{% elif state == 'part_shipped' %} and part of it is on its way."
            "{% elif state == 'delivered' %} and has been delivered.{% elif state == 'cancelled' %} and has since been cancelled."
            "{% else %}.{% endif %}"
            "{% if state in ('', 'part_paid') %} We'll send another update once your payment is processed."
            "{% elif ships %} We'll send another update once your order is on its way.{% endif %}"
        ),
        needs=("customer_name", "order_number"),
        knows=("state", "ships"),
    ),
    # S-063
    ("payment_confirmed", EMAIL): Wording(
        subject="Payment confirmed for order #{{ order_number }}",
        heading="Payment confirmed",
        body=(
            "Great news, {{ customer_name }}! Your payment for order #{{ order_number }} has been confirmed."
            "{% if not state %} Your items are now being prepared for shipment.{% endif %}"
            " You can track your order status here: {{ tracking_page }}."
        ),
        needs=("customer_name", "order_number", "tracking_page"),
        knows=("state",),
    ),
    # S-064
    ("shipped", EMAIL): Wording(
        subject=_SHIPPED,
        heading="{% if not state %}On its way{% elif state == 'delivered' %}Delivered{% else %}Shipped{% endif %}",
        body=_SHIPPED_HEAD + " with tracking number {{ tracking_number }}."
        " You can {% if not state %}follow{% else %}see{% endif %} its journey here: {{ tracking_link }}." + _SHIPPED_TAIL,
        variant=_SHIPPED_HEAD + "." + _SHIPPED_TAIL,
        needs=("order_number", "customer_name", "carrier", "tracking_number", "tracking_link", "product_name"),
        may_lack=("tracking_number", "tracking_link"),
        knows=("state", "part"),
    ),
    # S-065
    ("delivered", EMAIL): Wording(
        subject="Your order #{{ order_number }} has been delivered",
        heading="Delivered",
        body=(
            "Good news, {{ customer_name }}! Your order #{{ order_number }} has been successfully delivered."
            " We hope you love your purchase! If you have any questions, please reply to this email."
            " Share your experience with {{ hashtag }}."
        ),
        needs=("customer_name", "order_number"),
    ),
    # S-066
    ("payment_failed", EMAIL): Wording(
        subject="We couldn't process the payment for order #{{ order_number }}",
        heading="Your payment did not go through",
        body=(
            "Hi {{ customer_name }}, we're sorry, but your payment for order #{{ order_number }} could not be processed."
            " You can try again here: {{ retry_link }}."
            " If you have any questions, please reply to this email."
        ),
        needs=("customer_name", "order_number", "retry_link"),
    ),
    # S-067
    ("feedback", EMAIL): Wording(
        subject="How was your {{ brand }} order #{{ order_number }}?",
        heading="How did we do?",
        body=(
            "Hi {{ customer_name }}, we hope you are enjoying your new {{ product_name }}! How was your experience with order"
            " #{{ order_number }}? Tell us here: {{ feedback_link }}. It takes less than a minute, and it helps us do better."
        ),
        needs=("customer_name", "order_number", "product_name", "feedback_link"),
    ),
    ("cancelled", EMAIL): Wording(
        subject="Your order #{{ order_number }} has been cancelled",
        heading="Order cancelled",
        body=(
            "Hi {{ customer_name }}, your order #{{ order_number }} has been cancelled"
            "{% if state %}, and your payment has been refunded."
            "{% else %}. If you have already paid, we will send your money back.{% endif %}"
            " If you have any questions, please reply to this email."
        ),
        needs=("customer_name", "order_number"),
        knows=("state",),
    ),
    ("refunded", EMAIL): Wording(
        subject="Your refund for order #{{ order_number }}",
        heading="Your refund",
        body=(
            "Hi {{ customer_name }}, your refund of {{ money }} for order #{{ order_number }} has been issued."
            " Depending on your bank it may take a few days to show up."
            " If you have any questions, please reply to this email."
        ),
        needs=("customer_name", "order_number", "amount", "currency"),
    ),
    ("backordered", EMAIL): Wording(
        subject="An update on your order #{{ order_number }}",
        heading="We are waiting for stock",
        body=(
            "Hi {{ customer_name }}, thank you for your patience! We are waiting for new stock of your {{ product_name }}"
            " from order #{{ order_number }}, and we'll send another update as soon as it is here."
            " You can track your order status here: {{ tracking_page }}."
        ),
        needs=("customer_name", "order_number", "product_name", "tracking_page"),
    ),
    ("delay", EMAIL): Wording(
        subject="Your order #{{ order_number }} is taking longer than planned",
        heading="A little later than planned",
        body=(
            "Hi {{ customer_name }}, we're sorry, but your order #{{ order_number }} is taking longer than we promised."
            " We are on it{% if not state %}, and we'll send another update as soon as it moves{% endif %}."
            " You can track your order status here: {{ tracking_page }}."
        ),
        needs=("customer_name", "order_number", "tracking_page"),
        knows=("state",),
    ),
    ("address_incomplete", EMAIL): Wording(
        subject="We need your full address for order #{{ order_number }}",
        heading="We need your address",
        body=(
            "Hi {{ customer_name }}, we'd love to ship your order #{{ order_number }}, but the delivery address is incomplete."
            " Please complete it here: {{ tracking_page }}, or simply reply to this email."
        ),
        needs=("customer_name", "order_number", "tracking_page"),
    ),
    # S-069
    ("shipped", SMS): Wording(
        body=_SHIPPED_SMS[0],
        briefer=_SHIPPED_SMS[1:],
        needs=("order_number", "short_link"),
        knows=_OF_A_PARCEL,
    ),
    # S-070
    ("delivery_reminder", SMS): Wording(
        body=_REMINDER_SMS[0],
        briefer=_REMINDER_SMS[1:],
        needs=("order_number", "expected_at"),
        knows=_OF_A_PARCEL,
    ),
    ("payment_failed", SMS): Wording(
        body="Your payment for {{ brand }} order #{{ order_number }} could not be processed. Try again here: {{ retry_link }}.",
        needs=("order_number", "retry_link"),
    ),
    ("delay", SMS): Wording(
        body="Sorry! Your {{ brand }} order #{{ order_number }} is taking longer than planned. Track it here: {{ short_link }}.",
        needs=("order_number", "short_link"),
    ),
    # S-071
    ("order_placed", PUSH): _ORDER,
    ("payment_confirmed", PUSH): _ORDER,
    ("in_progress", PUSH): _ORDER,
    ("shipped", PUSH): _PACKAGE,
    ("out_for_delivery", PUSH): _PACKAGE,
    ("cancelled", PUSH): _ORDER,
    ("refunded", PUSH): _ORDER,
    ("backordered", PUSH): _ORDER,
    ("delay", PUSH): _ORDER,
    # S-072
    ("delivered", PUSH): Wording(
        subject="{{ brand }}",
        body=("Delivered! Your {{ brand }} order #{{ order_number }} has arrived{% if not today %} on {{ date }}{% endif %}. Enjoy!"),
        needs=("order_number",),
    ),
}

FIELDS: dict[tuple[str, str], tuple[str, ...]] = {key: wording.needs for key, wording in WORDING.items()}
LINKS = frozenset({"tracking_page", "tracking_link", "short_link", "retry_link", "feedback_link"})
TIMES = frozenset({"expected_at"})
# Carriers as they write themselves, by their names in systems; any other is called as it came.
CARRIERS = {"ups": "UPS", "usps": "USPS", "fedex": "FedEx", "dhl": "DHL", "dpd": "DPD", "gls": "GLS", "tnt": "TNT"}
