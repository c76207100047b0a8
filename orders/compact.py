"""Facts as the state keeps them: the same kinds, as short msgpack arrays without the order ID and without personal data.

On the wire a fact is JSON that people read; in a state there are millions of them. Each kind has a twin: a subclass with
the same attributes whose array form takes a third of the bytes. The numbers are written in every stored state: append
only, never reuse one. A twin's `order` is empty (the state knows it) and its `person` is None: who it was stands apart
under `who`, the hash of what was said of them, so that personal data can be sealed or erased without touching the fact.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Union, cast

import msgspec

from orders import fact as facts
from orders.fact import Address, Fact, Line, Person, Quantity


class CompactAddress(Address, frozen=True, array_like=True, gc=False):
    pass


class CompactPerson(Person, frozen=True, array_like=True, gc=False):
    address: CompactAddress = CompactAddress()


class CompactLine(Line, frozen=True, array_like=True, gc=False):
    pass


class CompactQuantity(Quantity, frozen=True, array_like=True, gc=False):
    pass


def _line(x: Line) -> CompactLine:
    return CompactLine(line=x.line, sku=x.sku, quantity=x.quantity, price=x.price, title=x.title, location=x.location)


def _quantity(x: Quantity) -> CompactQuantity:
    return CompactQuantity(line=x.line, quantity=x.quantity)


def compact_person(x: Person) -> CompactPerson:
    a = x.address
    address = CompactAddress(lines=a.lines, city=a.city, region=a.region, postcode=a.postcode, country=a.country)
    return CompactPerson(name=x.name, email=x.email, phone=x.phone, push_token=x.push_token, locale=x.locale, zone=x.zone, address=address)


def whole_person(x: Person) -> Person:
    """The person as it travels: JSON with names, not the state's short arrays."""
    a = x.address
    address = Address(lines=a.lines, city=a.city, region=a.region, postcode=a.postcode, country=a.country)
    return Person(name=x.name, email=x.email, phone=x.phone, push_token=x.push_token, locale=x.locale, zone=x.zone, address=address)


NUMBERS: dict[type[Fact], int] = {
    facts.OrderPlaced: 1,
    facts.AddressCorrected: 2,
    facts.PaymentAuthorized: 3,
    facts.PaymentCaptured: 4,
    facts.PaymentFailed: 5,
    facts.PaymentRefunded: 6,
    facts.OrderPaid: 7,
    facts.PaymentDisputed: 8,
    facts.DisputeClosed: 9,
    facts.CancelRequested: 10,
    facts.LinesCancelled: 11,
    facts.StockReserved: 12,
    facts.StockShort: 13,
    facts.StockReleased: 14,
    facts.ItemsPicked: 15,
    facts.ParcelPacked: 16,
    facts.ParcelScanned: 17,
    facts.HoldPlaced: 18,
    facts.HoldReleased: 19,
    facts.ReviewDecided: 20,
    facts.ReturnReceived: 21,
    facts.MessageReported: 22,
    facts.FactRetracted: 23,
    facts.FactParked: 24,
    facts.FactUnparked: 25,
    facts.NoteAdded: 26,
    facts.FeedbackGiven: 27,
    facts.EffectSettled: 28,
    facts.ResendRequested: 29,
    facts.RiskReported: 30,
    facts.StockScarce: 31,
}

_CONVERT: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "tuple[Line, ...]": (tuple[CompactLine, ...], _line),
    "tuple[Quantity, ...]": (tuple[CompactQuantity, ...], _quantity),
}


def _twin(kind: type[Fact], number: int) -> tuple[type[Fact], Callable[[Fact], Fact]]:
    """The compact subclass of one kind, and the function that makes one from a fact as it came."""
    fields: list[Any] = []
    nested: list[tuple[int, Callable[[Any], Any]]] = []
    measured: list[int] = []  # fields of floats by name
    order_at = kind.__struct_fields__.index("order")
    person_at = -1
    for index, field in enumerate(msgspec.structs.fields(kind)):
        annotation = kind.__annotations__.get(field.name, "")
        type_, convert = _CONVERT.get(annotation, (field.type, None))
        if convert is not None:
            nested.append((index, convert))
        if annotation == "dict[str, float]":
            measured.append(index)
        default: Any = field.default
        if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        elif default is msgspec.NODEFAULT:
            default = None
        if field.name == "person":
            person_at, type_, default = index, None, None
        fields.append((field.name, type_, default))
    if person_at >= 0:
        fields.append(("who", str, ""))
    made = cast(
        type[Fact],
        msgspec.defstruct(
            kind.__name__, fields, bases=(kind,), module=__name__, array_like=True, tag=number, frozen=True, gc=False, kw_only=False
        ),
    )
    wanted = kind.__struct_fields__ + (("who",) if person_at >= 0 else ())
    if made.__struct_fields__ != wanted:
        raise TypeError(f"{kind.__name__}: the compact form lays its fields out differently: {made.__struct_fields__}")
    make: Callable[..., Fact] = made
    astuple = msgspec.structs.astuple

    if not nested and not measured and person_at < 0:

        def flat(fact: Fact) -> Fact:
            values = list(astuple(fact))
            values[order_at] = ""
            return make(*values)

        return made, flat

    def deep(fact: Fact) -> Fact:
        values = list(astuple(fact))
        values[order_at] = ""
        for index, convert in nested:
            if values[index]:
                values[index] = tuple([convert(x) for x in values[index]])
        for index in measured:
            if values[index]:  # -0.0 equals 0.0 and has other bytes
                values[index] = {name: value + 0.0 for name, value in values[index].items()}
        if person_at >= 0:
            person = values[person_at]
            values[person_at] = None
            values.append(who(person) if person is not None else "")
        return make(*values)

    return made, deep


TWINS: dict[type[Fact], type[Fact]] = {}
_PACK: dict[type[Fact], Callable[[Fact], Fact]] = {}
for _kind, _number in NUMBERS.items():
    TWINS[_kind], _PACK[_kind] = _twin(_kind, _number)

encode_compact = msgspec.msgpack.Encoder().encode
AnyCompact: Any = Union[tuple(TWINS.values())]  # noqa: UP007 - built at run time


def who(person: Person) -> str:
    """What stands in a fact for a person: a short hash over all that was said of them, unique within one order."""
    return blake2b(encode_compact(compact_person(person)), digest_size=6).hexdigest()


def compact(fact: Fact) -> Fact:
    """The twin of a fact as it came; a twin stays as it is."""
    pack = _PACK.get(type(fact))
    return fact if pack is None else pack(fact)


def whole(fact: Fact, order: str, person: Person | None = None) -> Fact:
    """The fact as it came, from its twin: for showing, exporting and re-folding."""
    kind = cast(type[Fact], type(fact).__mro__[1])
    values = {name: getattr(fact, name) for name in kind.__struct_fields__}
    values["order"] = order
    if person is not None:
        values["person"] = whole_person(person)
    return msgspec.convert(values, kind, from_attributes=True)
