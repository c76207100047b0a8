"""`/v1`: what machines read. JSON, one shape of error; `web.openapi` describes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from litestar import get
from litestar.params import PathParameter, QueryParameter
from litestar.types import ControllerRouterHandler

from web.problem import Refusal
from web.reader import Counters, Moment, OrderDetail, ParkedRow, Reader, Row

OrderId = Annotated[str, PathParameter()]
Code = Annotated[str, QueryParameter(max_length=64, pattern=r"^[a-z_]*$")]  # a status, flag or reason
Limit = Annotated[int, QueryParameter(ge=1, le=500)]


async def find_order(reader: Reader, order_id: str) -> OrderDetail:
    """Raises Refusal(404)."""
    detail = await reader.order(order_id)
    if detail is None:
        raise Refusal(404, "not_found", "No order with this ID")
    return detail


def api_routes(reader: Reader) -> list[ControllerRouterHandler]:
    @get("/v1/orders/{order_id:str}")
    async def order(order_id: OrderId) -> OrderDetail:
        return await find_order(reader, order_id)

    @get("/v1/orders/{order_id:str}/timeline")
    async def timeline(order_id: OrderId) -> Sequence[Moment]:
        return (await find_order(reader, order_id)).timeline

    @get("/v1/orders")
    async def orders(tag: Code = "", limit: Limit = 50) -> Sequence[Row]:
        return await reader.orders(tag, limit)

    @get("/v1/parked")
    async def parked(reason: Code = "", limit: Limit = 50) -> Sequence[ParkedRow]:
        return await reader.parked(reason, limit)

    @get("/v1/counters")
    async def counters() -> Counters:
        return await reader.counters()

    return [order, timeline, orders, parked, counters]
