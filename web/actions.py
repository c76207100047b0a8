"""What people and machines do with one order: as JSON at `/v1/orders/{id}/actions`, and as forms on the order's page.

An action is a fact like any other, appended by whoever may do it, with a reason, and written into the audit before. Who does it again
under the same `Idempotency-Key` (forms carry one) has done it once: the key names the fact.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import blake2b
from typing import Annotated, Any, TypeAlias

import msgspec
from litestar import MediaType, Request, Response, post
from litestar.params import PathParameter
from litestar.types import ControllerRouterHandler
from msgspec import Meta

from orders.fact import (
    AddressCorrected,
    AnyFact,
    CancelRequested,
    EffectSettled,
    HoldPlaced,
    HoldReleased,
    NoteAdded,
    Person,
    ResendRequested,
    ReviewDecided,
    encode_fact,
)
from orders.view import DECLINE_HOLD, REVIEW_HOLD
from web.acts import STAFF, Acts
from web.admission import admit, unknown_field
from web.api import find_order
from web.audit import Audit
from web.gateway import KEY_CHARS, Answer, Memory
from web.identity import Actor, actor, form, must
from web.pages import Pages
from web.problem import Refusal, encode_json, new_trace_id
from web.reader import OrderDetail, Reader
from web.words import DONE, order_url, warning

BODY_BYTES = 64 * 1024
REMEMBERED = 1_000  # answers by Idempotency-Key
OrderId = Annotated[str, PathParameter()]
Reason = Annotated[str, Meta(min_length=3, max_length=500, description="why; kept with the order")]
EffectId = Annotated[str, Meta(min_length=1, max_length=64)]


class Act(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="action"):
    """What is to be done with an order."""


class Cancel(Act, frozen=True, tag="cancel"):
    """What has not left is undone: stock, label, payment. What has physically left wins."""

    reason: Reason


class Hold(Act, frozen=True, tag="hold"):
    """Nothing is picked, labelled or refunded until somebody releases it."""

    reason: Reason


class Release(Act, frozen=True, tag="release"):
    """Releases these holds; without any named, those in force now."""

    reason: Reason
    holds: Annotated[tuple[EffectId, ...], Meta(max_length=50)] = ()
    confirm: bool = False


class Approve(Act, frozen=True, tag="approve"):
    reason: Reason
    confirm: bool = False


class Decline(Act, frozen=True, tag="decline"):
    """Cancels the order; no later score takes that back."""

    reason: Reason


class Note(Act, frozen=True, tag="note"):
    text: Annotated[str, Meta(min_length=1, max_length=2000)]


class Settle(Act, frozen=True, tag="settle"):
    """Says what became of a call of which nobody could tell."""

    reason: Reason
    effect: EffectId
    happened: bool


class Resend(Act, frozen=True, tag="resend"):
    """Says a message once more, as a new one with a key of its own."""

    reason: Reason
    effect: EffectId


class CorrectAddress(Act, frozen=True, tag="correct_address"):
    """What is not given of the person stays as it is known."""

    reason: Reason
    person: Person


AnyAct: TypeAlias = Cancel | Hold | Release | Approve | Decline | Note | Settle | Resend | CorrectAddress
ROLES: dict[type[Act], str] = {  # who may
    Cancel: "operator",
    Hold: "operator",
    Resend: "operator",
    Settle: "operator",
    CorrectAddress: "operator",
    Approve: "reviewer",
    Decline: "reviewer",
    Release: "reviewer",
    Note: "",  # everybody who does anything at all
}


class Again(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which message is to be said once more, and why."""

    effect: EffectId
    reason: Reason


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """It is in the log; the order shows it a moment later."""

    order: str
    action: str
    object: str  # names what was done; the same for a repetition
    trace_id: str


_decode_act = msgspec.json.Decoder(AnyAct).decode
_decode_again = msgspec.json.Decoder(Again).decode
_decode_any = msgspec.json.Decoder().decode
_AT = re.compile(r" - at `\$\.?([^`]*)`$")
_LENGTH = re.compile(r"of length ([<>]=) (\d+)")
_NAMED = re.compile(r"(required|unknown) field `([^`]*)`")


def understood(body: bytes, decode: Callable[[bytes], Any] = _decode_act) -> Any:
    """The action that a body asks for. Raises Refusal (422) naming the field that is wrong, never what stands in it."""
    try:
        act = decode(body)
        raw = _decode_any(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Refusal(422, "malformed", "the body is not JSON") from None
    unknown = unknown_field({name: value for name, value in raw.items() if name != "action"}, act)
    if unknown:
        raise Refusal(422, "unknown_field", "there is no such field", field=unknown)
    said = "text" if isinstance(act, Note) else "reason"
    if len(getattr(act, said).strip()) < (1 if said == "text" else 3):
        raise Refusal(422, "invalid", "say it in words", field=said)
    return act


def _invalid(why: str) -> Refusal:
    at = _AT.search(why)
    path = at.group(1) if at else ""
    what = why[: at.start()] if at else why
    named = _NAMED.search(what)
    if named:
        field = f"{path}.{named.group(2)}" if path else named.group(2)
        if named.group(1) == "required":
            return Refusal(422, "invalid", "the field is required", field=field)
        return Refusal(422, "unknown_field", "there is no such field", field=field if len(field) <= 64 and field.isprintable() else "?")
    if path == "action":
        return Refusal(422, "unknown_action", f"known are: {', '.join(sorted(DONE))}", field="action")
    if length := _LENGTH.search(what):
        what = f"at least {length[2]} characters" if length[1] == ">=" else f"at most {length[2]} characters"
    return Refusal(422, "invalid", what if not what.startswith("Invalid") else "not one of the known values", field=path)


def may(who: Actor, act: Act) -> None:
    """Raises Refusal (403) that names the role which is needed."""
    role = ROLES[type(act)]
    if role:
        must(who, role)
    elif not who.acts:
        raise Refusal(403, "forbidden", "This needs a role other than viewer")


class Meant(msgspec.Struct, frozen=True):
    """What an action means for one order: the facts that it is, and the audit's words."""

    facts: tuple[AnyFact, ...]
    after: str
    reason: str = ""


def meant(act: Act, order: OrderDetail, object: str, at: int, by: str) -> Meant:
    """Raises Refusal: 409 where the order does not let it be done (or only after a warning), 422 for what it does not have. Pure."""
    its: dict[str, Any] = {"order": order.id, "system": STAFF, "object": object, "at": at}
    why = "" if isinstance(act, Note) else act.reason.strip()  # type: ignore[attr-defined]
    match act:
        case Cancel():
            return Meant((CancelRequested(**its, reason=why, by=by),), "cancellation asked for", why)
        case Hold():
            return Meant((HoldPlaced(**its, reason=why, by=by),), f"hold {object}", why)
        case Release():
            holds = _released(act, order)
            return Meant((HoldReleased(**its, holds=holds, by=by, reason=why),), f"released {', '.join(holds)}", why)
        case Approve() | Decline():
            approve = isinstance(act, Approve)
            if isinstance(act, Approve):
                _warned(act.confirm, order)
            return Meant((ReviewDecided(**its, approve=approve, by=by, reason=why),), "approved" if approve else "declined", why)
        case Note():
            return Meant((NoteAdded(**its, text=act.text.strip(), by=by),), "note added")
        case Settle():
            if act.effect not in {doubt.effect for doubt in order.doubts}:
                raise Refusal(422, "invalid", "no call of this order with this ID is in doubt", field="effect", order_id=order.id)
            settled = EffectSettled(**its, effect=act.effect, happened=act.happened, by=by, reason=why)
            return Meant((settled,), f"effect {act.effect} {'happened' if act.happened else 'did not happen'}", why)
        case Resend():
            _repeatable(act.effect, order)
            return Meant((ResendRequested(**its, effect=act.effect, by=by, reason=why),), f"message {act.effect} once more", why)
        case CorrectAddress():
            person, changed = _corrected(act.person, order)
            said = NoteAdded(**its, text=f"Address corrected: {why}", by=by)
            return Meant((AddressCorrected(**its, person=person), said), f"changed {', '.join(changed)}", why)
    raise TypeError(type(act).__name__)


def _released(act: Release, order: OrderDetail) -> tuple[str, ...]:
    """The holds to be released. What nobody has scored is let go for good: a score that comes later finds it released."""
    _warned(act.confirm, order)
    holds = act.holds or order.hold_ids
    if order.decision is None:
        holds = tuple(dict.fromkeys((*holds, REVIEW_HOLD, DECLINE_HOLD)))
    if not holds:
        raise Refusal(409, "not_held", "This order is not on hold: there is nothing to release", order_id=order.id)
    return holds


def _warned(confirm: bool, order: OrderDetail) -> None:
    if not confirm and (why := warning(order)):
        raise Refusal(409, "confirm", f"{why}. Confirm that you want this all the same", field="confirm", order_id=order.id)


def _repeatable(effect: str, order: OrderDetail) -> None:
    message = next((message for message in order.messages if message.effect == effect), None)
    if message is None:
        raise Refusal(422, "invalid", "no message of this order has this ID", field="effect", order_id=order.id)
    if not message.repeatable:
        why = "it was only observed, never sent" if message.outcome == "observed" else "it is still on its way"
        raise Refusal(409, "not_repeatable", f"This message cannot be said once more: {why}", field="effect", order_id=order.id)


def _corrected(given: Person, order: OrderDetail) -> tuple[Person, list[str]]:
    """The person as known, with what is given, and the names of what changed."""
    known = order.person or Person()
    values = {name: getattr(given, name) for name in given.__struct_fields__ if getattr(given, name) != getattr(Person(), name)}
    changed = [name for name, value in values.items() if value != getattr(known, name)]
    if not changed:
        raise Refusal(422, "invalid", "nothing in it is different from what is known", field="person", order_id=order.id)
    return msgspec.structs.replace(known, **values), changed


class Actions:
    """Does it: role, order, audit, fact."""

    def __init__(self, reader: Reader, acts: Acts, audit: Audit) -> None:
        self._reader, self._acts, self._audit = reader, acts, audit

    async def do(self, request: Request[Any, Any, Any], order_id: str, act: Act, key: str = "") -> str:
        """The `object` of what was done. Raises Refusal."""
        who = actor(request)
        may(who, act)
        order = await find_order(self._reader, order_id)
        now = self._acts.clock.now()
        object = blake2b(f"{who.name}\x1f{key}".encode(), digest_size=8).hexdigest() if key else self._acts.object()
        its = meant(act, order, object, now, who.name)
        for fact in its.facts:
            admit(encode_fact(fact), now)  # nothing is let in that a lane would park
        before = ", ".join((order.status, *order.flags, *(f"hold {hold}" for hold in order.hold_ids)))
        await self._audit(request, f"order.{_tag(act)}", order.id, before=before, after=its.after, reason=its.reason, id=object)
        await self._acts.tell(*its.facts)
        return object


def _tag(act: Act) -> str:
    return str(act.__struct_config__.tag)


def action_routes(actions: Actions, pages: Pages, reader: Reader) -> list[ControllerRouterHandler]:
    memory = Memory(REMEMBERED)

    async def answered(request: Request[Any, Any, Any], order_id: str, body: bytes, act: Act) -> Response[bytes]:
        trace_id = new_trace_id()
        raw_key = request.headers.get("idempotency-key")

        async def take_in() -> Answer:
            object = await actions.do(request, order_id, act, raw_key or "")
            return Answer(202, encode_json(Done(order=order_id, action=_tag(act), object=object, trace_id=trace_id)))

        if raw_key is None:
            answer = await take_in()
        else:
            digest = blake2b(f"{request.url.path}\x1f".encode() + body, digest_size=16).digest()
            may(actor(request), act)
            answer, _ = await memory.once(raw_key, digest, take_in, trace_id, of=actor(request).name)
        return Response(answer.body, status_code=answer.status, media_type=MediaType.JSON, headers={"cache-control": "no-store"})

    @post("/v1/orders/{order_id:str}/actions", request_max_body_size=BODY_BYTES)
    async def act_on(request: Request[Any, Any, Any], order_id: OrderId) -> Response[bytes]:
        body = await _json(request)
        return await answered(request, order_id, body, understood(body))

    @post("/v1/orders/{order_id:str}/notifications:resend", request_max_body_size=BODY_BYTES)
    async def resend(request: Request[Any, Any, Any], order_id: OrderId) -> Response[bytes]:
        body = await _json(request)
        again: Again = understood(body, _decode_again)
        return await answered(request, order_id, body, Resend(effect=again.effect, reason=again.reason))

    @post("/orders/{order_id:str}/actions", request_max_body_size=BODY_BYTES)
    async def by_form(request: Request[Any, Any, Any], order_id: OrderId) -> Response[str]:
        fields = await form(request)
        try:
            act = understood(encode_json(_of_form(fields)))
            await actions.do(request, order_id, act, fields.get("once", "")[:KEY_CHARS])
        except Refusal as refusal:
            if refusal.status in (403, 404, 503):
                raise
            order = await find_order(reader, order_id)
            said = f"{refusal.message} ({refusal.field})" if refusal.field not in ("", "confirm") else refusal.message
            html = pages.order(order, actor(request), problem=said, typed=fields)
            return Response(html, status_code=refusal.status, media_type=MediaType.HTML)
        where = f"{order_url(order_id)}?done={_tag(act)}"
        return Response("", status_code=303, media_type=MediaType.HTML, headers={"location": where})

    return [act_on, resend, by_form]


async def _json(request: Request[Any, Any, Any]) -> bytes:
    """The body of what no form of another site can send. Raises Refusal (415)."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "not_json", "expected content-type: application/json")
    return await request.body()


def _of_form(fields: dict[str, str]) -> dict[str, Any]:
    """What a form of the order's page says, as the API would be told."""
    act: dict[str, Any] = {name: fields[name] for name in ("action", "reason", "text", "effect") if name in fields}
    if "confirm" in fields:
        act["confirm"] = True
    if "happened" in fields:
        act["happened"] = fields["happened"] == "yes"
    if "holds" in fields:
        act["holds"] = [hold.strip() for hold in fields["holds"].splitlines() if hold.strip()]
    if fields.get("action") == "correct_address":
        address: dict[str, Any] = {name: fields.get(name, "").strip() for name in ("city", "region", "postcode", "country")}
        address["lines"] = [line.strip() for line in fields.get("lines", "").splitlines() if line.strip()]
        act["person"] = {"address": address}
    return act
