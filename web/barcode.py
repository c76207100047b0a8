"""Code 128, the barcode that every warehouse scanner reads, as SVG. Pure."""

from __future__ import annotations

# The widths of bar, space, bar, space, bar, space of the symbols 0 to 105, and of the stop with its last bar: ISO/IEC 15417, table 1.
TABLE = (
    "212222 222122 222221 121223 121322 131222 122213 122312 132212 221213 221312 231212 112232 122132 122231 113222 123122 "
    "123221 223211 221132 221231 213212 223112 312131 311222 321122 321221 312212 322112 322211 212123 212321 232121 111323 "
    "131123 131321 112313 132113 132311 211313 231113 231311 112133 112331 132131 113123 113321 133121 313121 211331 231131 "
    "213113 213311 213131 311123 311321 331121 312113 312311 332111 314111 221411 431111 111224 111422 121124 121421 141122 "
    "141221 112214 112412 122114 122411 142112 142211 241211 221114 413111 241112 134111 111242 121142 121241 114212 124112 "
    "124211 411212 421112 421211 212141 214121 412121 111143 111341 131141 114113 114311 411113 411311 113141 114131 311141 "
    "411131 211412 211214 211232 2331112"
)
WIDTHS = TABLE.split()
SET_C, SET_B, START_B, START_C, STOP = 99, 100, 104, 105, 106
QUIET = 10  # modules of white on both sides
LONGEST = 48  # characters: more is wider than a page


def code128(text: str) -> list[int]:
    """The symbols of `text` with check and stop: pairs of digits in set C, the rest in set B. Raises ValueError for what it cannot say."""
    if not text or len(text) > LONGEST or not all(" " <= c <= "~" for c in text):
        raise ValueError(f"a barcode holds 1 to {LONGEST} characters of ASCII")
    symbols: list[int] = []
    pairs, at = False, 0
    while at < len(text):
        run = 0
        while at + run < len(text) and text[at + run] in "0123456789":
            run += 1
        if not symbols:
            pairs = run >= 4 or run == len(text) == 2
            symbols.append(START_C if pairs else START_B)
        elif pairs and run < 2:
            pairs = False
            symbols.append(SET_B)
        elif not pairs and (run >= 6 or (run >= 4 and at + run == len(text))) and not run % 2:
            pairs = True
            symbols.append(SET_C)
        symbols.append(int(text[at : at + 2]) if pairs else ord(text[at]) - 32)
        at += 2 if pairs else 1
    check = sum(symbol * max(1, place) for place, symbol in enumerate(symbols)) % 103
    return [*symbols, check, STOP]


def bars(text: str) -> tuple[str, int]:
    """The bars as an SVG path of height 1, and the width of the whole in modules. Raises ValueError as `code128`."""
    x, path = QUIET, []
    for symbol in code128(text):
        for place, digit in enumerate(WIDTHS[symbol]):
            width = int(digit)
            if not place % 2:
                path.append(f"M{x} 0h{width}v1h-{width}z")
            x += width
    return "".join(path), x + QUIET
