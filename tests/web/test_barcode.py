"""Code 128: known vectors, and a reader of its own that gives the text back."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.barcode import LONGEST, QUIET, SET_B, SET_C, START_B, START_C, WIDTHS, bars, code128

texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=LONGEST)


def read(path: str) -> str:
    """From bars to text, as a scanner does."""
    found = [(int(x), int(w)) for x, w in re.findall(r"M(\d+) 0h(\d+)v1h-\d+z", path)]
    assert found[0][0] == QUIET
    edges = [edge for x, width in found for edge in (x, x + width)]
    runs = "".join(str(b - a) for a, b in itertools.pairwise(edges))
    symbols = [WIDTHS.index(runs[i : i + 6]) for i in range(0, len(runs) - 7, 6)]
    assert runs[-7:] == "2331112"
    *symbols, check = symbols
    assert check == sum(s * max(1, i) for i, s in enumerate(symbols)) % 103
    text, pairs = "", symbols[0] == START_C
    assert symbols[0] in (START_B, START_C)
    for symbol in symbols[1:]:
        if symbol == (SET_B if pairs else SET_C) and symbol in (99, 100):
            pairs = not pairs
        else:
            text += f"{symbol:02d}" if pairs else chr(symbol + 32)
    return text


@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        ("PJJ123C", [104, 48, 42, 42, 17, 18, 19, 35, 55, 106]),  # the worked example of most descriptions, with start B
        ("Wikipedia", [104, 55, 73, 75, 73, 80, 69, 68, 73, 65, 88, 106]),
        ("1234", [105, 12, 34, 82, 106]),
        ("12", [105, 12, 14, 106]),
    ],
)
def test_known_vectors(text: str, symbols: list[int]) -> None:
    assert code128(text) == symbols


def test_the_table_is_sound() -> None:
    assert len(set(WIDTHS)) == len(WIDTHS) == 107
    assert all(sum(map(int, w)) == 11 and sum(map(int, w[::2])) % 2 == 0 for w in WIDTHS[:-1])


@given(texts | st.from_regex(r"[a-z]{1,8}:[0-9]{1,20}", fullmatch=True))
def test_a_scanner_reads_what_was_written(text: str) -> None:
    path, width = bars(text)
    assert read(path) == text
    assert width == 2 * QUIET + 11 * (len(code128(text)) - 1) + 13


@given(st.text(min_size=1, max_size=200).filter(lambda text: len(text) > LONGEST or not (text.isascii() and text.isprintable())))
def test_what_no_barcode_can_say_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ASCII"):
        code128(text)
