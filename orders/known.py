"""Whether a state holds already what a record says: what is known is not told again. Pure, and never wrong towards "known"."""

from __future__ import annotations

from orders import stock as stocks
from orders.compact import compact
from orders.fact import Fact, decode_fact
from orders.merge import absorb, key_hash
from orders.reference import Link, Reference, fact_id, orders_at
from orders.request import FactWaiting, ReferenceLinked, StockLevelReported
from orders.state import Key, Order, contradictory, rank, sane
from orders.stock import Level, Stock


def knows(order: Order | None, fact: Fact) -> bool:
    """Nothing that is derived from the order would change by the fact: it is there, or a greater variant is, or one that says the same."""
    if order is None:
        return False
    key: Key = (type(fact).__name__, fact.system, fact.object)
    if order.remnant is not None and key_hash(key) in order.remnant.covered:
        return True
    variants = order.facts.get(key)
    if variants is None:
        return False
    small = compact(fact)
    if rank(small) <= rank(variants[0]):
        return True
    winner = variants[0]
    said = sane(winner), winner.authority, winner.version
    return said == (sane(small), small.authority, small.version) and not contradictory((winner, small))


def knows_link(reference: Reference | None, link: ReferenceLinked) -> bool:
    known = reference.links.get(link.order) if reference is not None else None
    if known is None:
        return False
    return (known.since, known.until) == (link.since, link.until) or Link(link.at, link.since, link.until) <= known


def waits_for(reference: Reference | None, waiting: FactWaiting) -> str | bool:
    """The order that the fact goes to, to be looked at next; else whether the fact waits, or was parked, here already."""
    if reference is None:
        return False
    name, fact = fact_id(bytes(waiting.fact)), decode_fact(waiting.fact)
    orders = orders_at(reference, fact.at)
    if len(orders) == 1:
        return orders[0]
    if name in reference.settled or name in reference.waiting:
        return True
    here = Order("")
    for each in reference.waiting.values():
        if each.fact:
            absorb(here, decode_fact(each.fact))
    return knows(here, fact)


def knows_level(stock: Stock | None, level: StockLevelReported) -> bool:
    """What lies there by our count is what the warehouse counts, or the warehouse has counted again since."""
    if stock is None or stock.level is None:
        return False
    told = Level(level.version, level.at, level.on_hand, level.system)
    return told <= stock.level or stocks.on_hand(stock) == level.on_hand
