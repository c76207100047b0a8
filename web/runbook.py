"""Runbooks as pages: of Markdown just what ours use. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import groupby
from typing import NamedTuple

from markupsafe import Markup, escape

_LIST = re.compile(r"(-|\d+\.) +")
_SPAN = re.compile(r"`([^`]+)`|\*([^*]+)\*|\[([^\]]+)\]\(([^)]+)\)")


class Block(NamedTuple):
    kind: str  # "h2" | "h3" | "ul" | "ol" | "p"
    lines: list[Markup]


def blocks(text: str, known: Collection[str]) -> list[Block]:
    """Everything is escaped; a link to another runbook, by the names that are `known`, stays one, any other becomes its words."""
    lines = [line.strip() for line in text.splitlines()]
    found = []
    for kind, its in groupby(lines, _kind):
        if kind:
            said = [_spans(_LIST.sub("", line, count=1) if kind in ("ul", "ol") else line.lstrip("# "), known) for line in its]
            found.append(Block(kind, said))
    return found


def _kind(line: str) -> str:
    if not line:
        return ""
    if line.startswith("#"):
        return "h2" if line.startswith("# ") else "h3"
    if its := _LIST.match(line):
        return "ul" if its[1] == "-" else "ol"
    return "p"


def _spans(line: str, known: Collection[str]) -> Markup:
    parts, at = [], 0
    for its in _SPAN.finditer(line):
        parts.append(escape(line[at : its.start()]))
        code, strong, words, target = its.groups()
        name = (target or "").removesuffix(".md")
        if code:
            parts.append(Markup("<code>{}</code>").format(code))
        elif strong:
            parts.append(Markup("<i>{}</i>").format(strong))
        elif name in known:
            parts.append(Markup('<a href="/runbooks/{}">{}</a>').format(name, words))
        else:
            parts.append(escape(words))
        at = its.end()
    return Markup("").join([*parts, escape(line[at:])])
