"""How many SMS a text is: GSM 03.38 where its alphabet suffices, else UCS-2."""

from __future__ import annotations

from typing import NamedTuple

_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENDED = frozenset("\f^{}\\[~]|€")  # an escape and a character: two septets


class Segments(NamedTuple):
    encoding: str  # "gsm7" | "ucs2"
    units: int  # septets or UTF-16 code units
    parts: int  # messages the customer's network sends and bills


def segments(text: str) -> Segments:
    """Counts as carriers do: a character is never split over two segments."""
    widths = [1 if c in _BASIC else 2 if c in _EXTENDED else 0 for c in text]
    if all(widths):
        encoding, single, several = "gsm7", 160, 153
    else:
        widths = [2 if ord(c) > 0xFFFF else 1 for c in text]
        encoding, single, several = "ucs2", 70, 67
    units = sum(widths)
    if units <= single:
        return Segments(encoding, units, 1)
    count, room = 1, several
    for width in widths:
        if width > room:
            count, room = count + 1, several
        room -= width
    return Segments(encoding, units, count)
