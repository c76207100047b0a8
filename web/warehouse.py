"""The warehouse's pages and their twin for scanners' machines: what to pick, pack and hand over, pick lists, labels, stock."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from litestar import MediaType, Request, Response, get, post
from litestar.params import PathParameter, QueryParameter
from litestar.response import Redirect
from litestar.types import ControllerRouterHandler

from connectors.delivery import DECODING, stumbled
from orders.fact import Quantity
from orders.plan import stopped
from orders.policy import Policy
from orders.view import Parcel, View
from orders.warehouse import STAGES, TO_PICK, Box, Job, box, jobs, packed_as, waits
from web.acts import Acts
from web.api import OrderId
from web.barcode import bars
from web.clerk import WHY, Clerk
from web.floor import Floor, Queue, Shelves
from web.identity import actor, form, needs
from web.pages import Pages
from web.problem import Refusal

SHOWN, PRINTED, SHELVES = 50, 20, 50
NOT_KEPT = {"cache-control": "no-store"}
TITLES = {"to_pick": "To pick", "to_pack": "To pack", "packed": "Packed", "missing": "Not found", "stopped": "Stopped"}
NOTHING = {
    "to_pick": "Nothing is to be picked here now.",
    "to_pack": "Everything that was picked is in a parcel.",
    "packed": "No parcel waits for its carrier.",
    "missing": "Nothing is missing.",
    "stopped": "No order was stopped on its way through the warehouse.",
}
KINDS = ((b"\x89PNG", "image/png"), (b"GIF8", "image/gif"), (b"%PDF", "application/pdf"), (b"^XA", "text/plain"))
Location = Annotated[str, QueryParameter(max_length=255)]
Stage = Annotated[str, QueryParameter(pattern=f"^({'|'.join(STAGES)})$")]
Many = Annotated[int, QueryParameter(ge=1, le=200)]
Search = Annotated[str, QueryParameter(max_length=64)]
PageNumber = Annotated[int, QueryParameter(ge=1, le=10_000)]
ParcelName = Annotated[str, PathParameter(max_length=255)]
Asked = Request[Any, Any, Any]
T = TypeVar("T")


# --- labels
class Labels(Protocol):
    async def read(self, name: str) -> bytes | None: ...


class FolderLabels:
    """Labels as files of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def read(self, name: str) -> bytes | None:
        """None when there is no such file."""

        def read() -> bytes | None:
            try:
                return (self._folder / Path(name).name).read_bytes()
            except OSError:
                return None

        return await asyncio.to_thread(read)


def kind_of(label: bytes) -> str:
    """Media type of a label, by its first bytes."""
    return next((media for magic, media in KINDS if label.lstrip()[:8].startswith(magic)), "application/octet-stream")


def label_of(parcel: Parcel) -> str:
    """The file of its label; "" without one."""
    return str(getattr(parcel, "label", ""))


class Warehouse(NamedTuple):
    floor: Floor
    labels: Labels
    policy: Policy


# --- what machines send
class Picked(msgspec.Struct, forbid_unknown_fields=True):
    location: str = ""  # empty: the default one
    short: list[Quantity] = []  # what was not found


class Packed(msgspec.Struct, forbid_unknown_fields=True):
    parcel: str  # `next_parcel` of the job
    location: str = ""
    lines: list[Quantity] | None = None  # left out: all that is in no parcel yet


class HandedOver(msgspec.Struct, forbid_unknown_fields=True):
    parcel: str


class Standing(msgspec.Struct, frozen=True):
    """What is still to be done for one order."""

    order: str
    jobs: tuple[Job, ...]


class Total(NamedTuple):
    """Of one SKU over a whole pick list."""

    sku: str
    title: str
    quantity: int
    orders: int


def totals(these: Sequence[Job]) -> list[Total]:
    quantities: Counter[str] = Counter()
    orders: Counter[str] = Counter()
    titles: dict[str, str] = {}
    for job in these:
        for task in job.tasks:
            quantities[task.sku] += task.quantity
            titles.setdefault(task.sku, task.title)
        orders.update({task.sku for task in job.tasks})
    return [Total(sku, titles[sku], quantity, orders[sku]) for sku, quantity in sorted(quantities.items())]


def barcode(text: str) -> dict[str, Any] | None:
    """What the template draws; None for an ID that no barcode can say."""
    try:
        path, width = bars(text)
    except ValueError:
        return None
    return {"path": path, "width": width}


def warehouse_routes(warehouse: Warehouse, pages: Pages, acts: Acts) -> list[ControllerRouterHandler]:
    floor, labels, policy = warehouse
    desk = Clerk(floor, acts)
    clerk = [needs("warehouse")]

    def page(template: str, request: Asked, status: int = 200, **context: Any) -> Response[str]:
        who = actor(request)
        html = pages.render(template, actor=who, clerk=who.may("warehouse"), now=acts.clock.now(), titles=TITLES, **context)
        return Response(html, status_code=status, media_type=MediaType.HTML, headers=NOT_KEPT)

    async def one(request: Asked, order_id: str, refused: Refusal | None = None) -> Response[str]:
        """One order as a clerk who scanned it needs to see it."""
        order, v = await desk.find(order_id)
        its = jobs(order, policy, v)
        stop = "" if any(job.stage != "stopped" for job in its) or v.all_shipped else _why(v)
        parcels = [(box(v, parcel), waits(parcel)) for parcel in v.parcels.values() if parcel.packed_at or parcel.shipped_at]
        return page(
            "job.html", request, refused.status if refused else 200, page="warehouse", v=v, jobs=its, parcels=parcels, stop=stop,
            refused=refused.message if refused else "", stage="", barcode=barcode(order_id),
        )  # fmt: skip

    @get("/warehouse", media_type=MediaType.HTML, guards=clerk)
    async def overview(request: Asked, location: Location = "", stage: Stage = TO_PICK) -> Response[str]:
        counts = await floor.counts()
        location = location or next((place for place in (policy.default_location, *counts) if place in counts), policy.default_location)
        queue = await floor.queue(stage, location, SHOWN)
        here = counts.get(location, {})
        places = sorted({policy.default_location, location, *counts})
        return page(
            "warehouse.html", request, page="warehouse", queue=queue, stage=stage, location=location, here=here, places=places,
            nothing=NOTHING[stage], stages=STAGES, whys=WHY, counts=counts,
        )  # fmt: skip

    @get("/warehouse/pick-list", media_type=MediaType.HTML, guards=clerk)
    async def pick_list(request: Asked, location: Location = "", limit: Many = PRINTED) -> Response[str]:
        queue = await floor.queue(TO_PICK, location or policy.default_location, limit)
        codes = {job.order: barcode(job.order) for job in queue.jobs}
        return page("pick_list.html", request, page="warehouse", queue=queue, totals=totals(queue.jobs), codes=codes, limit=limit)

    @get("/warehouse/find", guards=clerk)
    async def find(request: Asked) -> Redirect:
        return Redirect("/warehouse/orders/" + quote(request.query_params.get("id", "").strip(), safe=""), status_code=303)

    @get("/warehouse/orders/{order_id:str}", media_type=MediaType.HTML, guards=clerk)
    async def order(request: Asked, order_id: OrderId) -> Response[str]:
        return await one(request, order_id)

    @post("/warehouse/orders/{order_id:str}/{act:str}", media_type=MediaType.HTML, guards=clerk)
    async def told(request: Asked, order_id: OrderId, act: Annotated[str, PathParameter()]) -> Response[str] | Redirect:
        fields = await form(request)
        try:
            await _told(desk, order_id, act, fields, actor(request).name)
        except Refusal as refusal:
            if refusal.status not in (409, 422):
                raise
            return await one(request, order_id, refusal)
        if fields.get("stage") in STAGES:  # told in a list: back to it
            return Redirect("/warehouse?" + urlencode({"location": fields.get("location", ""), "stage": fields["stage"]}), status_code=303)
        return Redirect("/warehouse/orders/" + quote(order_id, safe=""), status_code=303)

    @get("/warehouse/label/{order_id:str}/{parcel:str}", media_type=MediaType.HTML, guards=clerk)
    async def label(request: Asked, order_id: OrderId, parcel: ParcelName) -> Response[str]:
        its, name = await packed_box(order_id, parcel)
        order, v = await desk.find(order_id)
        file = await labels.read(name) if name else None
        why = "" if v.all_shipped else _why(v)
        return page(
            "label.html", request, page="warehouse", v=v, box=its, called=packed_as(order, its.parcel), kind=kind_of(file) if file else "",
            barcode=barcode(order_id), stop=why,
        )  # fmt: skip

    @get("/warehouse/label/{order_id:str}/{parcel:str}/file", guards=clerk)
    async def label_file(order_id: OrderId, parcel: ParcelName) -> Response[bytes]:
        _, name = await packed_box(order_id, parcel)
        file = await labels.read(name) if name else None
        if file is None:
            raise Refusal(404, "not_found", "There is no label of this parcel: write one by hand on its label page")
        return Response(file, media_type=kind_of(file), headers=NOT_KEPT)

    async def packed_box(order_id: str, parcel: str) -> tuple[Box, str]:
        """The parcel, and the name of its label's file if it has one."""
        order, v = await desk.find(order_id)
        called = packed_as(order, parcel)
        its = next((p for p in v.parcels.values() if parcel == p.id or (called and packed_as(order, p.id) == called)), None)
        if its is None:
            raise Refusal(404, "not_found", "No parcel of this order has this name", field="parcel")
        return box(v, its), label_of(its)

    @get("/v1/warehouse", guards=clerk)
    async def listed(location: Location = "", stage: Stage = TO_PICK, limit: Many = SHOWN) -> Queue:
        return await floor.queue(stage, location or policy.default_location, limit)

    @post("/v1/warehouse/{target:str}", status_code=200, guards=clerk)
    async def reported(request: Asked, target: Annotated[str, PathParameter()]) -> Standing:
        order_id, _, act = target.rpartition(":")
        body, by = await request.body(), actor(request).name
        if act == "picked":
            picked = _read(body, Picked)
            await desk.picked(order_id, picked.location or policy.default_location, picked.short, by)
        elif act == "packed":
            packed = _read(body, Packed)
            await desk.packed(order_id, packed.parcel, packed.location or policy.default_location, packed.lines, by)
        elif act == "handed_over":
            await desk.handed_over(order_id, _read(body, HandedOver).parcel, by)
        else:
            raise Refusal(404, "not_found", "An order is :picked, :packed or :handed_over")
        found, v = await desk.find(order_id)
        return Standing(order_id, tuple(jobs(found, policy, v)))

    @get("/stock", media_type=MediaType.HTML)
    async def stock(
        request: Asked, q: Search = "", number: Annotated[int, QueryParameter(name="page", ge=1, le=10_000)] = 1
    ) -> Response[str]:
        shelves = await floor.shelves(q.strip(), (number - 1) * SHELVES, SHELVES)
        last = max(1, -(-shelves.total // SHELVES))
        return page("stock.html", request, page="stock", shelves=shelves, q=q, number=number, last=last, default=policy.default_location)

    @post("/stock/count", guards=clerk)
    async def count(request: Asked) -> Redirect:
        fields = await form(request)
        on_hand = _whole(fields.get("on_hand", ""), "on_hand")
        sku, location = fields.get("sku", "").strip(), fields.get("location", "").strip()
        await desk.counted(sku, location, on_hand, actor(request).name, fields.get("reason", "").strip())
        return Redirect("/stock?" + urlencode({"q": sku}), status_code=303)

    @get("/v1/stock")
    async def levels(q: Search = "", start: Annotated[int, QueryParameter(ge=0, le=1_000_000)] = 0, limit: Many = SHELVES) -> Shelves:
        return await floor.shelves(q.strip(), start, limit)

    return [overview, pick_list, find, order, told, label, label_file, listed, reported, stock, count, levels]


async def _told(desk: Clerk, order_id: str, act: str, fields: Mapping[str, str], by: str) -> None:
    location = fields.get("location", "")
    if act == "picked":
        short = _quantities(fields, "wanted")
        found = dict(_quantities(fields, "found"))
        lacks = [Quantity(line=line, quantity=most - found[line]) for line, most in short if line in found]
        for q in lacks:
            if q.quantity < 0:
                raise Refusal(
                    422, "invalid", "More was found than was asked for: say how many of the order's items you have", field="found"
                )
        await desk.picked(order_id, location, [q for q in lacks if q.quantity], by)
    elif act == "packed":
        inside = [Quantity(line=line, quantity=quantity) for line, quantity in _quantities(fields, "inside")]
        await desk.packed(order_id, fields.get("parcel", ""), location, inside or None, by)
    elif act == "handed-over":
        await desk.handed_over(order_id, fields.get("parcel", ""), by)
    elif act == "labelled":
        await desk.labelled(order_id, fields.get("parcel", ""), fields.get("carrier", ""), fields.get("tracking", ""), by)
    else:
        raise Refusal(404, "not_found", "Nothing is here")


def _why(v: View) -> str:
    why = "cancelled" if v.cancelled else stopped(v)
    return WHY[why] if why else ""


def _quantities(fields: Mapping[str, str], name: str) -> list[tuple[str, int]]:
    """The fields "name:line" of a form."""
    prefix = f"{name}:"
    return [(field[len(prefix) :], _whole(text, field)) for field, text in fields.items() if field.startswith(prefix)]


def _whole(text: str, field: str) -> int:
    text = text.strip()
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise Refusal(422, "invalid", "Say a whole number, 0 or more", field=field)
    return int(text)


def _read(body: bytes, kind: type[T]) -> T:
    """Raises Refusal: 400 what is not JSON, 422 what it does not say in our words."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except DECODING as error:
        found = stumbled(error)
        if found.reason == "schema":
            raise Refusal(422, "invalid", "A field is missing, unknown or of another type", field=found.detail.removeprefix("$.")) from None
        raise Refusal(400, "malformed", "The body is not JSON") from None
